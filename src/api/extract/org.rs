//! The member of an organization as the caller of an operation.

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

/// The caller of an operation below `/orgs/{org}`, who is a member of the organization and has the permission `P` there. To
/// be handed one is the check, which costs no query if the copy of the identity is recent.
///
/// If `P` is a scope, the caller may be an API key, and [`Self::actor`] does not exist: use [`Self::context`].
///
/// It reads the path parameter `org`, and documents it if the argument has that name. The `prefix_path` of the resource is
/// [`ORG_PATH`](crate::api::paths::ORG_PATH).
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
    /// Returns the context with the ids of the user, and of the session or the API key.
    pub fn context(&self) -> &RequestContext {
        self.caller.context()
    }

    /// Returns the checked membership, which a change checks again.
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
