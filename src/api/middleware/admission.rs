//! The checks of a request that come before all others.

use std::collections::HashSet;

use poem::Request;
use url::Host;

use crate::api::{
    host::{ip_host, is_local, names_one_host, requested_host},
    problem::ApiError,
    server::Refusal,
};

/// Refuses what hyper could not parse, requests without one valid host with 400 (RFC 9112 section 3.2), and requests for
/// other hosts with 421 (RFC 9110 section 15.5.20).
///
/// It runs before anything that can answer a request. A web page can let its own name lead to this server
/// (DNS rebinding), and browsers then treat the two as one site. Only the header `Host` shows the difference.
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

/// The hosts that clients may ask for.
pub(in crate::api) enum HostRules {
    Any,
    /// These hosts, the address that the client has connected to, and with `local` the names of this machine. An
    /// address is safe, because DNS rebinding needs a name; health checks use the address.
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
