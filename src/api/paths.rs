/// Expands to a path of the API as a string literal: `api_path!("/jobs")` is `"/api/v1/jobs"`.
macro_rules! api_path {
    ($path:literal) => {
        concat!("/api/v1", $path)
    };
}
pub(super) use api_path;

/// The prefix of all paths of the API.
pub const PREFIX: &str = api_path!("");

/// The path parameter that names the organization.
pub(super) const ORG_PARAM: &str = "org";

/// The path of an organization. It is the `prefix_path` of the resources of an organization. poem-openapi does not
/// convert `:org` in a prefix to `{org}`. For each operation, it counts only the parameters after the prefix.
pub(super) const ORG_PATH: &str = "/orgs/:org";

/// Returns a path in the form of the API document: the parameters in the prefix are in braces, too.
pub(super) fn documented(path: &str) -> String {
    let step = |step: &str| match step.strip_prefix(':') {
        Some(name) => format!("{{{name}}}"),
        None => step.to_owned(),
    };
    path.split('/').map(step).collect::<Vec<_>>().join("/")
}
