/// Where every operation of the API begins.
pub const PREFIX: &str = "/api/v1";
