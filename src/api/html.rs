//! HTML pages.

use askama::Template;
use poem::{IntoResponse, Response, http::header, web::Html};

use crate::error::{Error, Result};

/// Renders a template as a response with a Content-Security-Policy.
///
/// # Errors
/// [`Error::Internal`] if the template fails.
pub(super) fn page(template: &impl Template, policy: &'static str) -> Result<Response> {
    let html = template.render().map_err(Error::internal)?;
    Ok(Html(html).with_header(header::CONTENT_SECURITY_POLICY, policy).into_response())
}
