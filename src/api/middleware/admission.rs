//! The checks of a request that run before CORS and the handler.

use std::collections::HashSet;

use poem::Request;
use url::Host;

use crate::api::{
    host::{ip_host, is_host_valid, is_local, requested_host},
    problem::ApiError,
    server::Refusal,
};

/// Refuses a request that hyper has refused, a request without exactly one header `Host` or with an invalid host with 400
/// (RFC 9112 section 3.2), and a request for a host that `hosts` does not allow with 421 (RFC 9110 section 15.5.20). An HTTP/1.0
/// request without a host is refused only if `hosts` is not [`HostRules::Any`].
///
/// [`HostRules::Only`] prevents DNS rebinding: an attacker makes the DNS name of a web page resolve to this server.
/// Browsers then treat the page and this server as the same origin, but the header `Host` contains the attacker's name.
/// The check of the host runs before CORS and the handler, so that neither responds to such a request.
///
/// # Errors
/// [`ApiError::Refused`], [`ApiError::InvalidHost`] or [`ApiError::UnknownHost`].
pub(super) fn admit(req: &Request, hosts: &HostRules) -> Result<(), ApiError> {
    if let Some(refusal) = req.data::<Refusal>() {
        return Err(ApiError::Refused(*refusal));
    }
    if !is_host_valid(req) {
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
    /// safe, because DNS rebinding needs a name. With `local`, also allows `localhost`, the names below it, and loopback
    /// addresses.
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
