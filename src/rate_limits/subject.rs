//! The callers and classes of requests. Each combination has a bucket of its own.

use std::{fmt, net::IpAddr};

use crate::context::client_network;

/// The caller whose limit a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    User(i64),
    ApiKey(i64),
    /// A caller who is not authenticated. Use [`Caller::network`] to create one.
    Network(Option<IpAddr>),
}

impl Caller {
    /// Returns the network of a client as a caller. All clients with an unknown address are one caller, so that they do not
    /// evade the limits.
    pub fn network(ip: Option<IpAddr>) -> Self {
        Self::Network(ip.map(client_network))
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::ApiKey(id) => write!(f, "key:{id}"),
            Self::Network(Some(network)) => write!(f, "network:{network}"),
            Self::Network(None) => f.write_str("network:unknown"),
        }
    }
}

/// A class of operations. Each has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Operations below `/auth`, `/invitations` and `/secret-scanning`, such as registration, login, links, invitations and
    /// reports of leaked keys.
    Auth,
    Read,
    Write,
    /// Operations that enqueue a job of the caller: `POST` on jobs, and imports.
    Enqueue,
}

impl Class {
    /// Returns the name in headers, Redis keys and log lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Read => "read",
            Self::Write => "write",
            Self::Enqueue => "enqueue",
        }
    }
}

/// The caller and the class of a request. Each subject has a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) caller: Caller,
    pub(super) class: Class,
}
