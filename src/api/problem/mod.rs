//! The one place where errors become HTTP: `application/problem+json` (RFC 9457), ours and the framework's alike.

mod catalog;
mod contract;
mod error;
mod render;
mod status;

pub(super) use self::{
    catalog::{FailedRequest, RouteCatalog},
    error::{ApiError, Result},
    render::render,
};
