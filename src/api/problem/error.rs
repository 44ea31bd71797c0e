//! The error type of the API.

use crate::{
    api::server::Refusal,
    error::{Error, FieldError},
    rate_limits::Class,
    services::login::Challenge,
};

/// The result of an operation of the API.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// The error of a request: an error of the services, or an error of the HTTP layer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Domain(Error),
    /// The request has no token where the operation reads it: in the header `Authorization` or a cookie, and for a refresh in the
    /// body or a cookie.
    #[error("Not authenticated")]
    NotAuthenticated,
    /// The password of a sign-in is correct, but a code of the second factor is required too.
    #[error("This account has two-factor authentication: complete the sign-in with a code")]
    SecondFactorRequired(Challenge),
    /// A token request with a `grant_type` that the endpoint does not support.
    #[error("This grant type is not supported")]
    UnsupportedGrantType,
    /// A request with an unsafe method uses the cookies with tokens or asks for them, but its headers do not show that a
    /// page of a trusted origin has sent it. A request without the header `Origin` is refused too, unless it has
    /// `Sec-Fetch-Site: same-origin`.
    #[error("Cross-site request refused")]
    CrossSite,
    /// The caller has sent too many requests of a class.
    #[error("Too many requests, try again in {retry_after} seconds")]
    RateLimited {
        class: Class,
        /// Seconds until the next request is allowed.
        retry_after: u64,
        /// Whether to log the refusal as a security event.
        is_reported: bool,
    },
    /// hyper has refused the request, because it is malformed or its head is too large.
    #[error("{0}")]
    Refused(Refusal),
    /// The request has several headers `Host` or an invalid host, or it has no header `Host` although it is an HTTP/1.1
    /// request.
    #[error("The request must have exactly one header Host, with the name or the address of the server")]
    InvalidHost,
    /// The request is for a host that this server does not serve.
    #[error(
        "This server does not serve the host of the request. Its operator can add the host to ALLOWED_HOSTS"
    )]
    UnknownHost,
    /// The body has a `Content-Encoding` other than `identity`, such as gzip.
    #[error("The encoding of the request body is not supported: send the body without Content-Encoding")]
    UnsupportedEncoding,
    /// Invalid fields of the request. The location of each field begins with `body`, `query`, `path` or `header`.
    #[error("{}", Error::Invalid(.0.clone()))]
    InvalidFields(Vec<FieldError>),
    #[error("Request body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    /// The request bodies of this process have reached their memory limit.
    #[error("Too many request bodies are being read, try again in a moment")]
    TooManyBodies,
    #[error("The request body did not arrive in time")]
    BodyTimeout,
    #[error("{0}")]
    MalformedBody(String),
    /// The named header, `If-Match` or `If-None-Match`, is neither `*` nor a list of entity tags.
    #[error("The header {0} must be *, or a list of entity tags such as \"abc\"")]
    MalformedTags(&'static str),
    /// A change has the named header, a condition that the operation does not evaluate.
    #[error("This operation does not support the header {0}; send the request without it")]
    PreconditionNotSupported(&'static str),
    /// `REQUIRE_IF_MATCH` is on, and a change that supports `If-Match` does not have this header.
    #[error("This change needs the header If-Match with the ETag of the resource as you have read it")]
    PreconditionRequired,
}

/// Allows `?` for all errors that convert to [`Error`].
impl<E> From<E> for ApiError
where
    Error: From<E>,
{
    fn from(error: E) -> Self {
        Self::Domain(error.into())
    }
}

impl From<Error> for poem::Error {
    fn from(error: Error) -> Self {
        ApiError::Domain(error).into()
    }
}
