//! Our own HTML pages: from a template to a response.

use askama::Template;
use poem::{IntoResponse, Response, http::header, web::Html};

use crate::error::{Error, Result};

/// A page that may do what its policy (Content-Security-Policy) allows.
pub(super) fn page(template: &impl Template, policy: &'static str) -> Result<Response> {
    let html = template.render().map_err(Error::internal)?;
    Ok(Html(html).with_header(header::CONTENT_SECURITY_POLICY, policy).into_response())
}
