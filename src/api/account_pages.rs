//! The pages that the links in mails lead to where no front end is configured.
//!
//! The token is in the fragment of the link, which browsers do not send, so it is in no log. Opening a page
//! changes nothing, since some mail servers open every link: its script sends the token when somebody asks.

use std::sync::Arc;

use askama::Template;
use poem::{
    Endpoint, Request, Response, Route,
    endpoint::make_sync,
    get,
    http::{HeaderValue, header},
};

use super::{html::page, paths::PREFIX};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; \
    form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
const SCRIPT: &str = include_str!("templates/account.js");

/// What a page asks for. It sends that to the operation of the same name.
struct Form {
    name: &'static str,
    title: &'static str,
    lead: &'static str,
    asks_name: bool,
    asks_password: bool,
    button: &'static str,
    done: &'static str,
}

static FORMS: [Form; 4] = [
    Form {
        name: "verify-email",
        title: "Confirm your email address",
        lead: "One click, and we know that this address is yours.",
        asks_name: false,
        asks_password: false,
        button: "Confirm address",
        done: "Thank you, your address is confirmed. You can close this page.",
    },
    Form {
        name: "confirm-email",
        title: "Confirm your new email address",
        lead: "From then on you sign in with this address, and mails go there.",
        asks_name: false,
        asks_password: false,
        button: "Use this address",
        done: "Your account uses the new address now. You can close this page.",
    },
    Form {
        name: "reset-password",
        title: "Choose a new password",
        lead: "A few words in a row are easy to remember and hard to guess.",
        asks_name: false,
        asks_password: true,
        button: "Set password",
        done: "Your password is changed. You can sign in with the new one.",
    },
    Form {
        name: "accept-invite",
        title: "Accept the invitation",
        lead: "Choose a password, and your account is ready.",
        asks_name: true,
        asks_password: true,
        button: "Create account",
        done: "Your account is ready. You can sign in with your address and the new password.",
    },
];

/// The pages and their script, to be mounted at `/account`.
pub(super) fn routes(product: &str) -> Route {
    let product: Arc<str> = product.into();
    let route = Route::new().at("/account.js", get(make_sync(|_| script())));
    FORMS.iter().fold(route, |route, form| {
        route.at(format!("/{}", form.name), get(FormPage { form, product: product.clone() }))
    })
}

fn script() -> Response {
    let mut response = Response::builder().content_type("text/javascript; charset=utf-8").body(SCRIPT);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

struct FormPage {
    form: &'static Form,
    product: Arc<str>,
}

#[derive(Template)]
#[template(path = "api/templates/account.html", config = "src/askama.toml")]
struct View<'a> {
    product: &'a str,
    form: &'a Form,
    api: &'static str,
}

impl Endpoint for FormPage {
    type Output = Response;

    async fn call(&self, _: Request) -> poem::Result<Response> {
        Ok(page(&View { product: &self.product, form: self.form, api: PREFIX }, POLICY)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get_page(path: &str) -> (Response, String) {
        let request = Request::builder().uri_str(path).finish();
        let mut response = routes("R&D <Labs>").call(request).await.unwrap();
        let body = response.take_body().into_string().await.unwrap();
        (response, body)
    }

    #[tokio::test]
    async fn each_page_sends_to_its_operation_and_runs_only_our_script() {
        for form in &FORMS {
            let (response, html) = get_page(&format!("/{}", form.name)).await;
            assert_eq!(response.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
            assert!(html.contains(&format!("data-endpoint=\"/api/v1/auth/{}\"", form.name)), "{html}");
            assert!(html.contains(form.title) && html.contains("R&#38;D &#60;Labs&#62;"), "{html}");
            assert_eq!(html.matches("<script").count(), 1);
            assert!(html.contains("<script src=\"/account/account.js\" defer></script>"), "{html}");
            assert_eq!(html.contains("name=\"password\""), form.asks_password);
            assert_eq!(html.contains("name=\"full_name\""), form.asks_name);
        }
    }

    #[tokio::test]
    async fn the_script_is_served_as_one() {
        let (response, text) = get_page("/account.js").await;
        assert_eq!(response.content_type(), Some("text/javascript; charset=utf-8"));
        assert_eq!(text, SCRIPT);
    }
}
