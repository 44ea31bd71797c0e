//! Converts errors to responses.

use std::sync::Arc;

use poem::{PathPattern, Response};

use super::Received;
use crate::{
    api::problem::{ApiError, FailedRequest, RouteCatalog, render},
    app::App,
    error::Error,
    services::security_event::{Event, SecurityEvent},
};

/// Renders errors as problem details (RFC 9457), and logs errors that are security events.
pub(super) struct Problems {
    pub(super) app: App,
    pub(super) catalog: Arc<RouteCatalog>,
}

impl Problems {
    /// Returns the response to a request that failed.
    pub(super) fn render(&self, error: &poem::Error, request: &Received) -> Response {
        let Received { context, user, method, uri, .. } = request;
        if let Some(event) = event(error) {
            let authenticated = user.get().map(|ids| ids.in_context(context));
            SecurityEvent::new(event).log(&self.app, authenticated.as_ref().unwrap_or(context));
        }
        let id = context.response_id();
        let mut response = render(error, &FailedRequest { id: &id, method, uri }, &self.catalog);
        if let Some(pattern) = error.data::<PathPattern>().cloned() {
            response.set_data(pattern);
        }
        response
    }
}

/// Returns the security event that an error by itself means; `None` for other errors. The services log the events that need
/// more facts, such as the account.
fn event(error: &poem::Error) -> Option<Event<'static>> {
    let error = match error.downcast_ref::<ApiError>()? {
        ApiError::CrossSite => return Some(Event::CrossSiteRefused),
        ApiError::UnknownHost => return Some(Event::HostRefused),
        ApiError::RateLimited { class, is_reported: true, .. } => {
            return Some(Event::RequestThrottled { rule: class.as_str() });
        }
        ApiError::Domain(error) => error,
        _ => return None,
    };
    Some(match error {
        Error::Forbidden => Event::AccessForbidden { reason: "forbidden" },
        Error::TwoFactorRequired => Event::AccessForbidden { reason: "two_factor_required" },
        Error::Inactive => Event::AccessForbidden { reason: "inactive_user" },
        Error::MemberSuspended => Event::AccessForbidden { reason: "member_suspended" },
        Error::OrgSuspended => Event::AccessForbidden { reason: "org_suspended" },
        Error::SessionRequired => Event::AccessForbidden { reason: "session_required" },
        Error::ScopeMissing(_) => Event::AccessForbidden { reason: "scope_missing" },
        Error::RoleTooHigh(_) => Event::AccessForbidden { reason: "role_too_high" },
        Error::WrongPassword => Event::PasswordRefused,
        Error::InvitationOtherAddress(_) => Event::AccessForbidden { reason: "invitation_other_address" },
        Error::InvalidLink | Error::InvitationInvalid | Error::InvitationExpired => Event::LinkRefused,
        _ => return None,
    })
}
