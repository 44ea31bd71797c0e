//! The conversion of errors to responses: problem details (RFC 9457) for the errors of this program and of poem.

mod catalog;
mod contract;
mod error;
mod oauth;
mod render;
mod status;

pub(super) use self::{
    catalog::{FailedRequest, RouteCatalog, without_names},
    error::{ApiError, Result},
    render::{Reason, render},
};
