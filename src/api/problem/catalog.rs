use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use poem::http::{Method, Uri};
use poem_openapi::{
    OpenApi,
    registry::{MetaOperation, MetaParamIn, Registry},
};

use crate::{
    api::validation::check_params,
    error::{FieldError, Loc},
};

/// The documented operations, to tell a client what exactly was wrong with a refused request.
pub struct RouteCatalog {
    /// By path, without the names of parameters.
    paths: HashMap<String, DocumentedPath>,
    registry: Registry,
}

pub(super) struct DocumentedPath {
    /// With the names of its parameters, as in `/jobs/{id}/status`.
    path: Arc<str>,
    operations: Vec<MetaOperation>,
}

/// The request that failed.
pub struct FailedRequest<'a> {
    pub id: &'a str,
    pub method: &'a Method,
    pub uri: &'a Uri,
}

impl RouteCatalog {
    /// Reads the operations of an API that is mounted at `prefix`.
    pub fn of<A: OpenApi>(_: &A, prefix: &str) -> Self {
        let mut registry = Registry::new();
        A::register(&mut registry);
        let mut paths = HashMap::<_, DocumentedPath>::new();
        for path in A::meta().into_iter().flat_map(|api| api.paths) {
            let named = format!("{prefix}{}", path.path);
            let documented = paths.entry(without_names(&named));
            let documented =
                documented.or_insert(DocumentedPath { path: named.into(), operations: Vec::new() });
            documented.operations.extend(path.operations);
        }
        Self { paths, registry }
    }

    /// The documented path behind a pattern of the router, which names parameters differently.
    pub fn path(&self, pattern: &str) -> Option<Arc<str>> {
        self.find(pattern).map(|documented| documented.path.clone())
    }

    pub(super) fn find(&self, pattern: &str) -> Option<&DocumentedPath> {
        self.paths.get(&without_names(pattern))
    }

    /// Every invalid query or path parameter of the request.
    pub(super) fn param_errors(
        &self,
        documented: &DocumentedPath,
        request: &FailedRequest<'_>,
    ) -> Vec<FieldError> {
        let Some(operation) = documented.operation(request.method) else { return Vec::new() };
        let query: Vec<_> =
            form_urlencoded::parse(request.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let steps = documented.path.split('/').zip(request.uri.path().split('/'));
        let path: Vec<_> = steps
            .filter_map(|(documented, value)| {
                let name = documented.strip_prefix('{')?.strip_suffix('}')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect();
        check_params(&self.registry, &operation.params, &query, &path)
    }
}

impl DocumentedPath {
    fn operation(&self, method: &Method) -> Option<&MetaOperation> {
        self.operations.iter().find(|operation| operation.method == *method)
    }

    /// The methods that the path allows, as the header `Allow` lists them.
    pub(super) fn allowed(&self) -> String {
        let methods: BTreeSet<_> =
            self.operations.iter().map(|operation| operation.method.as_str()).collect();
        methods.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Where a field that the domain found invalid is in the request: `query`, `path` or else `body`.
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

/// A path or a pattern of the router without the names of its parameters.
fn without_names(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    for step in pattern.split('/').skip(1) {
        text.push('/');
        text.push_str(if step.starts_with([':', '{']) { ":" } else { step });
    }
    text
}
