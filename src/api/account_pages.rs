//! The pages that links in mails open if no front end is configured (`FRONTEND_URL`).
//!
//! The token is in the fragment of the link. Browsers do not send the fragment, so access logs do not contain the token. The
//! script of a page changes something only when the user submits or declines, because some mail servers open every link in a
//! mail. Before that, only the page of an invitation sends the token, to show the invitation.

use std::sync::Arc;

use askama::Template;
use poem::{
    Endpoint, Request, Response, Route,
    endpoint::make_sync,
    get,
    http::{HeaderValue, header},
};

use super::{html::page, paths::PREFIX};

/// Content-Security-Policy of the pages.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; \
    connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
const ACCOUNT_SCRIPT: &str =
    concat!(include_str!("templates/form.js"), "\n", include_str!("templates/account.js"));
const INVITATION_SCRIPT: &str =
    concat!(include_str!("templates/form.js"), "\n", include_str!("templates/invitation.js"));

/// The form of a page. The script sends the input to the operation `/auth/<name>`.
struct Form {
    name: &'static str,
    title: &'static str,
    intro: &'static str,
    has_name: bool,
    has_password: bool,
    button: &'static str,
    /// The message that the page shows after success.
    done: &'static str,
    /// Whether the form completes a registration, so that the user signs in next.
    is_sign_up: bool,
}

/// The end of the message after a registration, if all users must have a second factor.
const SECOND_FACTOR_NOTE: &str = " Two-factor authentication is required here: set it up after you sign in.";

static FORMS: [Form; 4] = [
    Form {
        name: "verify-email",
        title: "Confirm your email address",
        intro: "Press the button to confirm that this address is yours.",
        has_name: false,
        has_password: false,
        button: "Confirm address",
        done: "Your address is confirmed. You can close this page.",
        is_sign_up: true,
    },
    Form {
        name: "confirm-email",
        title: "Confirm your new email address",
        intro: "After that, you sign in with this address, and we send mails to it.",
        has_name: false,
        has_password: false,
        button: "Use this address",
        done: "Your account uses the new address now. You can close this page.",
        is_sign_up: false,
    },
    Form {
        name: "reset-password",
        title: "Choose a new password",
        intro: "Several random words are easy to remember and hard to guess.",
        has_name: false,
        has_password: true,
        button: "Set password",
        done: "Your password was changed. You can sign in with the new one.",
        is_sign_up: false,
    },
    Form {
        name: "accept-invite",
        title: "Accept the invitation",
        intro: "Choose a password to create your account.",
        has_name: true,
        has_password: true,
        button: "Create account",
        done: "Your account is ready. You can sign in with your address and the new password.",
        is_sign_up: true,
    },
];

/// Returns the routes of the pages and their scripts, which are mounted at `/account`. `requires_second_factor` says
/// whether all users must have a second factor.
pub(super) fn routes(product: &str, requires_second_factor: bool) -> Route {
    let product: Arc<str> = product.into();
    let second_factor_note = if requires_second_factor { SECOND_FACTOR_NOTE } else { "" };
    let invitation = InvitationPage { note: second_factor_note, product: product.clone() };
    let route = Route::new()
        .at("/account.js", get(make_sync(|_| script(ACCOUNT_SCRIPT))))
        .at("/invitation.js", get(make_sync(|_| script(INVITATION_SCRIPT))))
        .at("/invitation", get(invitation));
    FORMS.iter().fold(route, |route, form| {
        let note = if form.is_sign_up { second_factor_note } else { "" };
        route.at(format!("/{}", form.name), get(FormPage { form, note, product: product.clone() }))
    })
}

fn script(text: &'static str) -> Response {
    let mut response = Response::builder().content_type("text/javascript; charset=utf-8").body(text);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The endpoint of a page with a [`Form`].
struct FormPage {
    form: &'static Form,
    /// [`SECOND_FACTOR_NOTE`], or empty.
    note: &'static str,
    product: Arc<str>,
}

#[derive(Template)]
#[template(path = "api/templates/account.html", config = "src/askama.toml")]
struct FormView<'a> {
    product: &'a str,
    form: &'a Form,
    note: &'a str,
    api: &'static str,
}

impl Endpoint for FormPage {
    type Output = Response;

    async fn call(&self, _: Request) -> poem::Result<Response> {
        Ok(page(&FormView { product: &self.product, form: self.form, note: self.note, api: PREFIX }, POLICY)?)
    }
}

/// The endpoint of the page of an invitation to an organization. The recipient may or may not have an account.
struct InvitationPage {
    /// [`SECOND_FACTOR_NOTE`], or empty.
    note: &'static str,
    product: Arc<str>,
}

#[derive(Template)]
#[template(path = "api/templates/invitation.html", config = "src/askama.toml")]
struct InvitationView<'a> {
    product: &'a str,
    note: &'a str,
    api: &'static str,
}

impl Endpoint for InvitationPage {
    type Output = Response;

    async fn call(&self, _: Request) -> poem::Result<Response> {
        let view = InvitationView { product: &self.product, note: self.note, api: PREFIX };
        Ok(page(&view, POLICY)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get_page(path: &str) -> (Response, String) {
        get_page_of(routes("R&D <Labs>", false), path).await
    }

    async fn get_page_of(routes: Route, path: &str) -> (Response, String) {
        let request = Request::builder().uri_str(path).finish();
        let mut response = routes.call(request).await.unwrap();
        let body = response.take_body().into_string().await.unwrap();
        (response, body)
    }

    #[tokio::test]
    async fn each_page_sends_to_its_operation_and_runs_only_its_script() {
        for form in &FORMS {
            let (response, html) = get_page(&format!("/{}", form.name)).await;
            assert_eq!(response.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
            assert!(html.contains(&format!("data-endpoint=\"/api/v1/auth/{}\"", form.name)), "{html}");
            assert!(html.contains(form.title) && html.contains("R&#38;D &#60;Labs&#62;"), "{html}");
            assert_eq!(html.matches("<script").count(), 1);
            assert!(html.contains("<script src=\"/account/account.js\" defer></script>"), "{html}");
            assert_eq!(html.contains("name=\"password\""), form.has_password);
            assert_eq!(html.contains("name=\"full_name\""), form.has_name);
        }
    }

    #[tokio::test]
    async fn a_new_user_is_told_that_a_second_factor_is_required() {
        for form in &FORMS {
            let path = format!("/{}", form.name);
            let (_, html) = get_page_of(routes("Acme", true), &path).await;
            assert_eq!(html.contains("Two-factor authentication is required"), form.is_sign_up, "{html}");
            assert!(!get_page(&path).await.1.contains("Two-factor authentication"));
        }
    }

    #[tokio::test]
    async fn the_scripts_have_the_media_type_of_javascript() {
        for (path, script) in [("/account.js", ACCOUNT_SCRIPT), ("/invitation.js", INVITATION_SCRIPT)] {
            let (response, text) = get_page(path).await;
            assert_eq!(response.content_type(), Some("text/javascript; charset=utf-8"));
            assert_eq!(text, script);
        }
    }

    #[tokio::test]
    async fn the_page_of_an_invitation_runs_only_its_script_and_labels_every_field() {
        let (response, html) = get_page("/invitation").await;
        assert_eq!(response.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        assert_eq!(html.matches("<script").count(), 1);
        assert!(html.contains("<script src=\"/account/invitation.js\" defer></script>"), "{html}");
        assert!(html.contains("data-api=\"/api/v1\"") && html.contains("R&#38;D &#60;Labs&#62;"), "{html}");
        assert!(html.contains("<noscript><p class=\"bad\">This page needs JavaScript"), "{html}");
        let (_, with_note) = get_page_of(routes("Acme", true), "/invitation").await;
        assert!(with_note.contains("Two-factor authentication is required") && !html.contains("Two-factor"));
        for field in ["full_name", "username", "password", "repeat", "code"] {
            assert!(html.contains(&format!("<label for=\"{field}\">")), "{field}");
            assert!(html.contains(&format!("aria-describedby=\"{field}-error\"")), "{field}");
            assert!(html.contains(&format!("<p id=\"{field}-error\"")), "{field}");
        }
    }
}
