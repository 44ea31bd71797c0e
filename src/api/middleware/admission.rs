//! The checks that run before all other processing of a request.

use std::collections::HashSet;

use poem::Request;
use url::Host;

use crate::api::{
    host::{ip_host, is_local, names_one_host, requested_host},
    problem::ApiError,
    server::Refusal,
};

/// Refuses a request that hyper could not parse. Refuses a request without exactly one valid host with 400 (RFC 9112
/// section 3.2), and a request for another host with 421 (RFC 9110 section 15.5.20).
///
/// This check runs first, so that no other code answers such a request. An attacker can make the DNS name of a web page
/// resolve to this server (DNS rebinding). Browsers then treat the page and this server as one site. Only the header
/// `Host` shows the attacker's name.
///
/// # Errors
/// [`ApiError::Refused`], [`ApiError::InvalidHost`] or [`ApiError::UnknownHost`].
pub(super) fn admit(req: &Request, hosts: &HostRules) -> Result<(), ApiError> {
    if let Some(refusal) = req.data::<Refusal>() {
        return Err(ApiError::Refused(*refusal));
    }
    if !names_one_host(req) {
        return Err(ApiError::InvalidHost);
    }
    if !hosts.allow(req) {
        return Err(ApiError::UnknownHost);
    }
    Ok(())
}

/// The hosts that requests may name.
pub(in crate::api) enum HostRules {
    Any,
    /// Allows `hosts` and the IP address to which the client has connected, which health checks use. An IP address is
    /// safe, because DNS rebinding needs a name. With `local`, also allows the names of this machine.
    Only {
        hosts: HashSet<Host>,
        local: bool,
    },
}

impl HostRules {
    fn allow(&self, req: &Request) -> bool {
        let Self::Only { hosts, local } = self else { return true };
        let own = req.local_addr().as_socket_addr().map(|address| ip_host(address.ip()));
        requested_host(req).is_some_and(|host| {
            hosts.contains(&host) || (*local && is_local(&host)) || Some(&host) == own.as_ref()
        })
    }
}
