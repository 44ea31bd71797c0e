//! The extractor of the caller of an operation in an organization.

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    error::ParsePathError,
    registry::{MetaParamIn, MetaSchemaRef, Registry},
    types::Type,
};

use super::{security_scheme, user::org_caller};
use crate::{
    api::paths::ORG_PARAM,
    app::App,
    context::RequestContext,
    db::OrgScope,
    error::Error,
    services::{
        actor::Actor,
        org_access::{self, OrgAccess},
        org_caller::{AcceptedCaller, Credentials},
        permissions::OrgPermission,
    },
};

/// The caller of an operation below `/orgs/{org}`, who is a member of the organization and has the permission `P` in
/// it. The extractor checks this, so the operation need not. The check uses the identity of the caller, which may be cached,
/// and runs no query of its own.
///
/// If `P` is a scope of API keys, the caller may be an API key of the organization, which acts for its creator. For such a
/// `P`, there is no [`Self::actor`]: use [`Self::context`].
///
/// The extractor reads the path parameter `org`. The argument must have the name `org`, so that the document contains
/// the parameter. The `prefix_path` of the resource must be [`ORG_PATH`](crate::api::paths::ORG_PATH).
pub struct OrgMember<P: OrgPermission> {
    caller: P::Caller,
    access: OrgAccess,
}

impl<P: OrgPermission<Caller = Actor>> OrgMember<P> {
    /// Returns the signed-in caller of an operation that needs a session.
    pub fn actor(&self) -> &Actor {
        &self.caller
    }
}

impl<P: OrgPermission> OrgMember<P> {
    /// Returns the context of the request, with the ids of the user and of the session or API key.
    pub fn context(&self) -> &RequestContext {
        self.caller.context()
    }

    /// Returns the checked membership. A service that changes something checks it again in its transaction.
    pub fn access(&self) -> &OrgAccess {
        &self.access
    }

    pub fn scope(&self) -> &OrgScope {
        self.access.scope()
    }

    pub fn org_id(&self) -> i64 {
        self.access.org_id()
    }
}

impl<'a, P: OrgPermission> ApiExtractor<'a> for OrgMember<P> {
    const TYPES: &'static [ApiExtractorType] =
        &[ApiExtractorType::Parameter, ApiExtractorType::SecurityScheme];
    const PARAM_IS_REQUIRED: bool = true;
    type ParamType = i64;
    type ParamRawType = i64;

    fn register(registry: &mut Registry) {
        security_scheme::register(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        security_scheme::names(P::Caller::ACCEPTS_KEYS)
    }

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Path)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(i64::schema_ref())
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<i64>,
    ) -> poem::Result<Self> {
        let app =
            request.data::<App>().ok_or_else(|| Error::internal("the route has no application data"))?;
        let caller = P::Caller::accept(org_caller(app, request, body).await?)?;
        let text = request.raw_path_param(ORG_PARAM);
        let text =
            text.ok_or_else(|| Error::internal("the route has no path parameter for the organization"))?;
        let org_id: i64 = text.parse().map_err(|error: std::num::ParseIntError| ParsePathError {
            name: ORG_PARAM,
            reason: error.to_string(),
        })?;
        let access = match caller.credentials() {
            Credentials::Session(identity) => org_access::check(identity, org_id, P::PERMISSION)?,
            Credentials::Key(identity) => org_access::check_key(identity, org_id, P::PERMISSION)?,
        };
        Ok(Self { caller, access })
    }
}
