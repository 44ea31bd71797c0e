//! Our own HTML pages: from a template to a response.

use askama::Template;
use poem::{Response, http::header};

use crate::error::{Error, Result};

/// A page that may do what its policy (Content-Security-Policy) allows.
pub(super) fn page(template: &impl Template, policy: &'static str) -> Result<Response> {
    let html = template.render().map_err(Error::internal)?;
    Ok(Response::builder()
        .content_type("text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, policy)
        .body(html))
}
