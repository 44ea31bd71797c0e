//! Errors as responses.

use std::sync::Arc;

use poem::{Endpoint, PathPattern, Request, Response, Result};

use crate::{
    api::{
        extract::LoggedUser,
        problem::{ApiError, FailedRequest, RouteCatalog, render},
    },
    app::App,
    context::RequestContext,
    error::Error,
    services::security_event::{Event, SecurityEvent},
};

/// Renders errors as problem details (RFC 9457), and logs those that are security events. The outer layers see only
/// responses.
pub(super) struct Problems<E> {
    pub(super) inner: E,
    pub(super) app: App,
    pub(super) catalog: Arc<RouteCatalog>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Problems<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let context = req.data::<RequestContext>().cloned().unwrap_or_default();
        let user = req.data::<LoggedUser>().cloned().unwrap_or_default();
        let (method, uri) = (req.method().clone(), req.original_uri().clone());
        let error = match self.inner.call(req).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        if let Some(event) = event(&error) {
            let context = match user.get() {
                Some((user_id, session_id)) => context.signed_in(user_id, session_id),
                None => context.clone(),
            };
            SecurityEvent::new(event).log(&self.app, &context);
        }
        let pattern = error.data::<PathPattern>().cloned();
        let id = context.response_id();
        let request = FailedRequest { id: &id, method: &method, uri: &uri };
        let mut response = render(&error, &request, &self.catalog);
        if let Some(pattern) = pattern {
            response.set_data(pattern);
        }
        Ok(response)
    }
}

/// Returns the security event of an error that any operation can fail with. The services log the other events, since they
/// know the account.
fn event(error: &poem::Error) -> Option<Event<'static>> {
    let error = match error.downcast_ref::<ApiError>()? {
        ApiError::CrossSite => return Some(Event::CrossSiteRefused),
        ApiError::Domain(error) => error,
        _ => return None,
    };
    Some(match error {
        Error::Forbidden => Event::AccessForbidden { reason: "forbidden" },
        Error::TwoFactorRequired => Event::AccessForbidden { reason: "two_factor_required" },
        Error::Inactive => Event::AccessForbidden { reason: "inactive_user" },
        Error::WrongPassword => Event::PasswordRefused,
        Error::InvalidLink => Event::LinkRefused,
        _ => return None,
    })
}
