/// Expands to a path of the API as a literal: `api_path!("/jobs")` is `"/api/v1/jobs"`.
macro_rules! api_path {
    ($path:literal) => {
        concat!("/api/v1", $path)
    };
}
pub(super) use api_path;

/// The prefix of all paths of the API.
pub const PREFIX: &str = api_path!("");
