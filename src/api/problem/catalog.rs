//! The catalog of documented operations.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use percent_encoding::percent_decode_str;
use poem::http::{Method, Uri};
use poem_openapi::{
    OpenApi,
    registry::{MetaOperation, MetaParamIn, MetaSchema, MetaSchemaRef, Registry},
};
use serde_json::Value;

use crate::{
    api::{
        paths::documented,
        validation::{Checker, check_params},
    },
    error::{FieldError, Loc},
};

/// The query parameter that all lists have. An operation with this parameter refuses unknown and repeated query parameters.
const CURSOR_PARAM: &str = "cursor";

/// The documented operations by path.
pub struct RouteCatalog {
    /// The documented paths. The key is the path without the names of its parameters.
    paths: HashMap<String, DocumentedPath>,
    registry: Registry,
}

/// A path with its operations.
pub(super) struct DocumentedPath {
    /// The path with the names of its parameters, such as `/api/v1/jobs/{id}/status`.
    path: Arc<str>,
    operations: Vec<MetaOperation>,
}

/// A request that failed, or whose parameters are being checked.
pub struct FailedRequest<'a> {
    /// The request id that the response contains. Empty during a check of parameters.
    pub id: &'a str,
    pub method: &'a Method,
    pub uri: &'a Uri,
}

impl RouteCatalog {
    /// Creates the catalog of an API that is mounted at `prefix`.
    pub fn of<A: OpenApi>(_: &A, prefix: &str) -> Self {
        let mut registry = Registry::new();
        A::register(&mut registry);
        let mut paths = HashMap::<_, DocumentedPath>::new();
        for path in A::meta().into_iter().flat_map(|api| api.paths) {
            let named = format!("{prefix}{}", documented(&path.path));
            let documented = paths.entry(without_names(&named));
            let documented =
                documented.or_insert(DocumentedPath { path: named.into(), operations: Vec::new() });
            documented.operations.extend(path.operations);
        }
        Self { paths, registry }
    }

    /// Returns the documented path for a pattern of the router. The pattern may have other names for the parameters. `None`
    /// if the path is not documented.
    pub fn path(&self, pattern: &str) -> Option<Arc<str>> {
        self.find(pattern).map(|documented| documented.path.clone())
    }

    /// Like [`Self::path`], but returns the path with its operations.
    pub(super) fn find(&self, pattern: &str) -> Option<&DocumentedPath> {
        self.paths.get(&without_names(pattern))
    }

    /// If a request for a list has an unknown or repeated query parameter, which the parser of poem-openapi ignores, returns the
    /// errors of all its invalid parameters. Otherwise, returns an empty list. `pattern` is the pattern of the router.
    pub fn ignored_param_errors(&self, pattern: &str, request: &FailedRequest<'_>) -> Vec<FieldError> {
        let Some(documented) = self.find(pattern) else { return Vec::new() };
        let query = query(request);
        let has_ignored = |operation| {
            !unknown_params(operation, &query).is_empty() || !repeated_params(operation, &query).is_empty()
        };
        match documented.operation(request.method).is_some_and(has_ignored) {
            true => self.param_errors(documented, request),
            false => Vec::new(),
        }
    }

    /// Returns the errors of all invalid query and path parameters of the request.
    pub(super) fn param_errors(
        &self,
        documented: &DocumentedPath,
        request: &FailedRequest<'_>,
    ) -> Vec<FieldError> {
        let Some(operation) = documented.operation(request.method) else { return Vec::new() };
        let query = query(request);
        let steps = documented.path.split('/').zip(request.uri.path().split('/'));
        let path: Vec<_> = steps
            .filter_map(|(documented, value)| {
                let name = documented.strip_prefix('{')?.strip_suffix('}')?;
                // Decodes the value, as the router does for the operation.
                Some((name.to_owned(), percent_decode_str(value).decode_utf8_lossy().into_owned()))
            })
            .collect();
        let mut errors = check_params(&self.registry, &operation.params, &query, &path);
        let mut checker = Checker::new(&self.registry, "query", false);
        let no_fields = MetaSchemaRef::Inline(Box::new(MetaSchema::new("object")));
        checker.check(&no_fields, &mut Value::Object(unknown_params(operation, &query)));
        errors.extend(checker.finish());
        errors.extend(repeated_params(operation, &query).into_iter().map(|name| FieldError {
            loc: vec![Loc::key("query"), Loc::key(name)],
            msg: "Send this parameter once".into(),
            kind: "value_error",
        }));
        errors
    }
}

/// Returns the parameters in the query of a request.
fn query(request: &FailedRequest<'_>) -> Vec<(String, String)> {
    form_urlencoded::parse(request.uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

/// Returns the names of the documented query parameters of a list. `None` for an operation that is not a list.
fn list_params(operation: &MetaOperation) -> Option<BTreeSet<&str>> {
    let params = operation.params.iter().filter(|param| matches!(param.in_type, MetaParamIn::Query));
    let names: BTreeSet<_> = params.map(|param| param.name.as_str()).collect();
    Some(names).filter(|names| names.contains(CURSOR_PARAM))
}

/// Returns the undocumented parameters in the query of a request for a list, each with the value null. Empty for an operation
/// that is not a list.
fn unknown_params(operation: &MetaOperation, query: &[(String, String)]) -> serde_json::Map<String, Value> {
    let Some(known) = list_params(operation) else { return serde_json::Map::new() };
    let unknown = query.iter().filter(|(name, _)| !known.contains(name.as_str()));
    unknown.map(|(name, _)| (name.clone(), Value::Null)).collect()
}

/// Returns the documented parameters of a list that a request has more than once. Empty for an operation that is not a list.
fn repeated_params<'a>(operation: &MetaOperation, query: &'a [(String, String)]) -> BTreeSet<&'a str> {
    let Some(known) = list_params(operation) else { return BTreeSet::new() };
    let mut seen = BTreeSet::new();
    let names = query.iter().map(|(name, _)| name.as_str());
    names.filter(|name| known.contains(name) && !seen.insert(*name)).collect()
}

impl DocumentedPath {
    /// Returns the path template, such as `/api/v1/users/{id}`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn operation(&self, method: &Method) -> Option<&MetaOperation> {
        // The middleware handles HEAD like GET.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.operations.iter().find(|operation| operation.method == *method)
    }

    /// Returns the value of the header `Allow` for this path. It includes HEAD if the path has GET.
    pub(super) fn allowed(&self) -> String {
        let mut methods: BTreeSet<_> =
            self.operations.iter().map(|operation| operation.method.as_str()).collect();
        if methods.contains("GET") {
            methods.insert("HEAD");
        }
        methods.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Returns the part of the request that contains a field: `query`, `path` or `body`. For errors of services, which
    /// do not know this part.
    pub(super) fn root_of(&self, method: &Method, loc: &[Loc]) -> &'static str {
        let params = self.operation(method).map_or(&[][..], |operation| &operation.params);
        let param = params.iter().find(|param| loc.first() == Some(&Loc::Key(param.name.clone())));
        match param.map(|param| param.in_type) {
            Some(MetaParamIn::Query) => "query",
            Some(MetaParamIn::Path) => "path",
            _ => "body",
        }
    }
}

/// Removes the names of parameters from a path or a pattern of the router: `/jobs/{id}` and `/jobs/:id` become `/jobs/:`.
pub fn without_names(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    for step in pattern.split('/').skip(1) {
        text.push('/');
        text.push_str(if step.starts_with([':', '{']) { ":" } else { step });
    }
    text
}
