//! Reports of API keys that were found in public places.

use poem_openapi::{ApiResponse, Object, OpenApi};

use super::{extract::Body, problem::Result, tag::Tag};
use crate::{app::App, context::RequestContext, services::api_key_revocation::report_leaks};

/// Operations for everyone who finds an API key, such as a secret scanner.
pub(super) struct SecretScanning(pub(super) App);

/// Texts that may be API keys.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct LeakReport {
    /// The texts that were found.
    #[oai(validator(min_items = 1, max_items = 100))]
    keys: Vec<String>,
}

#[derive(ApiResponse)]
enum LeaksReported {
    /// Each text that was a valid secret of an API key is revoked now.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = "/secret-scanning", tag = "Tag::Organizations")]
impl SecretScanning {
    /// Revokes API keys that were found in a public place.
    ///
    /// For everyone who finds a key, and for secret scanners. The form of a key is `saas_[0-9A-Za-z]{40}_[0-9A-Za-z]{6}`. Same
    /// response whether or not a text is a valid key. If a text is the secret from before the last rotation of a key, only this
    /// secret is revoked: the current secret stays valid. The creator of the key and the owner of its organization get a mail. A
    /// suspended or former member, and a user who is deactivated or scheduled for deletion, gets none.
    #[oai(path = "/revoke", method = "post", operation_id = "report_leaked_keys")]
    async fn revoke(&self, context: RequestContext, Body(body): Body<LeakReport>) -> Result<LeaksReported> {
        report_leaks(&self.0, &context, &body.keys).await?;
        Ok(LeaksReported::NoContent)
    }
}
