//! Settings of the rate limits of requests.

use clap::{ArgAction, Args, builder::BoolishValueParser};

/// How many requests a caller may send per minute.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Rate limits of requests")]
pub struct RequestLimits {
    /// Whether the API limits the requests of each caller: a user, an API key, or a client network if the request is not
    /// authenticated. Behind a proxy, also set TRUSTED_PROXIES: otherwise all requests without
    /// authentication share the limit of one network.
    #[arg(long, env, default_value_t = true, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub rate_limits: bool,
    /// Requests to /auth, /invitations and /secret-scanning that a caller may send per minute. The limit is a token bucket of
    /// this size: all requests of a minute may come at once. Further requests are refused with 429.
    #[arg(long, env, default_value_t = 120, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit_auth_per_minute: u32,
    /// Same as RATE_LIMIT_AUTH_PER_MINUTE, for other requests with GET and HEAD. Health checks are not limited.
    #[arg(long, env, default_value_t = 1_200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit_read_per_minute: u32,
    /// Same as RATE_LIMIT_AUTH_PER_MINUTE, for the remaining POST, PUT, PATCH and DELETE requests.
    #[arg(long, env, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit_write_per_minute: u32,
    /// Same as RATE_LIMIT_AUTH_PER_MINUTE, for POST requests to jobs and imports. USER_MAX_JOBS_PER_HOUR limits the jobs too.
    #[arg(long, env, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate_limit_enqueue_per_minute: u32,
}
