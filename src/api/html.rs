//! Responses with HTML pages.

use askama::Template;
use poem::{IntoResponse, Response, http::header, web::Html};

use crate::error::{Error, Result};

/// Renders a template as a response. `policy` is the Content-Security-Policy of the page.
///
/// # Errors
/// [`Error::Internal`] if the template fails.
pub(super) fn page(template: &impl Template, policy: &'static str) -> Result<Response> {
    let html = template.render().map_err(Error::internal)?;
    Ok(Html(html).with_header(header::CONTENT_SECURITY_POLICY, policy).into_response())
}
