//! The JSON representation of API keys.

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object, types::Example};

use super::scope::Scope;
use crate::{
    api::{conditional::Volatile, respond::PageItem},
    models::api_key::ApiKey,
    services::{
        api_keys::{DEFAULT_LIFETIME_DAYS, KeyWithSecret},
        permissions::Permission,
    },
};

/// Whether a key has expired or was revoked.
#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[oai(rename_all = "lowercase", rename = "ApiKeyState")]
enum StateOut {
    Active,
    Expired,
    Revoked,
}

/// An API key, without its secret.
#[derive(Object)]
#[oai(rename = "ApiKey", example)]
pub(super) struct ApiKeyOut {
    id: i64,
    name: String,
    /// The first 8 and the last 4 characters of the key.
    hint: String,
    /// The permissions of the key. A permission is effective only while the creator of the key has it, too.
    scopes: Vec<Scope>,
    state: StateOut,
    /// Id of the user in whose name the key acts.
    created_by: i64,
    created_at: DateTime<Utc>,
    /// When the key expires; null if it is valid until it is revoked.
    #[oai(nullable)]
    expires_at: Option<DateTime<Utc>>,
    /// When the key was last rotated; null if it was never rotated.
    #[oai(nullable)]
    rotated_at: Option<DateTime<Utc>>,
    /// When the secret from before the last rotation expires or has expired; null if the key was never rotated.
    #[oai(nullable)]
    previous_expires_at: Option<DateTime<Utc>>,
    /// Time of the last request with the key, accurate to a minute; null if there was none.
    #[oai(nullable)]
    last_used_at: Option<DateTime<Utc>>,
    #[oai(nullable)]
    revoked_at: Option<DateTime<Utc>>,
}

impl Example for ApiKeyOut {
    fn example() -> Self {
        let at = |days: i64| DateTime::from_timestamp(1_767_225_600 + days * 86_400, 0);
        Self {
            id: 12,
            name: "Continuous integration".into(),
            hint: "saas_4fG…9aXk".into(),
            scopes: vec![Scope(Permission::ProductRead), Scope(Permission::ProductWrite)],
            state: StateOut::Active,
            created_by: 1,
            created_at: at(0).unwrap_or_default(),
            expires_at: at(DEFAULT_LIFETIME_DAYS.into()),
            rotated_at: None,
            previous_expires_at: None,
            last_used_at: at(1),
            revoked_at: None,
        }
    }
}

impl From<ApiKey> for ApiKeyOut {
    fn from(key: ApiKey) -> Self {
        let state = match (key.revoked_at, key.has_ended()) {
            (Some(_), _) => StateOut::Revoked,
            (None, true) => StateOut::Expired,
            (None, false) => StateOut::Active,
        };
        Self {
            id: key.id,
            scopes: Scope::parse_list(&key.scopes),
            name: key.name,
            hint: key.hint,
            state,
            created_by: key.created_by,
            created_at: key.created_at,
            expires_at: key.expires_at,
            rotated_at: key.rotated_at,
            previous_expires_at: key.previous_expires_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
        }
    }
}

impl Volatile for ApiKeyOut {
    const VOLATILE_FIELDS: &[&str] = &["last_used_at"];
}

impl PageItem for ApiKeyOut {
    const PAGE: &str = "ApiKeyPage";
    const PAGE_DESCRIPTION: &str = "A page of the API keys of an organization, the newest first.";
}

/// A key with its secret. Only the responses to the creation and to the rotation of the key contain the secret.
#[derive(Object)]
#[oai(rename = "NewApiKey", example)]
pub(super) struct NewApiKeyOut {
    key: ApiKeyOut,
    /// The key itself, to be sent as `Authorization: Bearer <secret>`. Store it now: the server keeps only its hash and its
    /// `hint`.
    secret: String,
}

impl Example for NewApiKeyOut {
    fn example() -> Self {
        Self { key: ApiKeyOut::example(), secret: "saas_4fG…9aXk (52 characters)".into() }
    }
}

impl From<KeyWithSecret> for NewApiKeyOut {
    fn from(new: KeyWithSecret) -> Self {
        Self { key: new.key.into(), secret: new.secret }
    }
}
