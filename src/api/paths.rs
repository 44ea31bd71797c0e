/// Expands to a path of the API as a string literal: `api_path!("/jobs")` is `"/api/v1/jobs"`.
macro_rules! api_path {
    ($path:literal) => {
        concat!("/api/v1", $path)
    };
}
pub(super) use api_path;

/// The prefix of all paths of the API.
pub const PREFIX: &str = api_path!("");

/// The name of the path parameter with the id of the organization.
pub(super) const ORG_PARAM: &str = "org";

/// The path of an organization. It is the `prefix_path` of the resources of an organization. poem-openapi converts the
/// parameters in the path of an operation (`:param0` for the router, `{id}` for the document), but not the parameters in a
/// prefix. So the router keeps the name `org`, and [`documented`] converts `:org` to `{org}`.
pub(super) const ORG_PATH: &str = "/orgs/:org";

/// Returns a path in the form of the API document: all parameters are in braces, including those in the prefix.
pub(super) fn documented(path: &str) -> String {
    let step = |step: &str| match step.strip_prefix(':') {
        Some(name) => format!("{{{name}}}"),
        None => step.to_owned(),
    };
    path.split('/').map(step).collect::<Vec<_>>().join("/")
}
