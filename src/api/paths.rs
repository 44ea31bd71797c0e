/// A path of the API as a literal: `api_path!("/jobs")` is `/api/v1/jobs`.
macro_rules! api_path {
    ($path:literal) => {
        concat!("/api/v1", $path)
    };
}
pub(super) use api_path;

/// Where every path of the API begins.
pub const PREFIX: &str = api_path!("");
