//! Settings of Redis for processes that serve requests or run jobs.

use clap::Args;
use secrecy::SecretString;

use super::{redis_server::Redis, value::secret};

/// The separate server for the cache, and the number of replicas that must have a job.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Redis settings")]
pub struct RedisOptions {
    /// URL of a second Redis that has only the cache, in the form of REDIS_URL. This Redis may evict keys, unlike the Redis that
    /// has the jobs. The default is REDIS_URL.
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    pub cache_redis_url: Option<SecretString>,
    /// Number of replicas of Redis that must have a job before it is accepted. If too few replicas have it within
    /// REDIS_TIMEOUT_MS, enqueuing fails with 503, but the job may still run. With 0, enqueuing does not wait for replicas.
    #[arg(long, env, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub queue_wait_replicas: u32,
}

impl RedisOptions {
    /// Returns the settings of the separate server of the cache, or `None` if the cache is on the server of `redis`.
    pub fn cache(&self, redis: &Redis) -> Option<Redis> {
        secret(&self.cache_redis_url).map(|url| redis.at("CACHE_REDIS_URL", url.into()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        redis: Redis,
        #[command(flatten)]
        options: RedisOptions,
    }

    fn cache(flags: &[&str]) -> Option<Redis> {
        let Settings { redis, options } = Settings::parse_from(["test"].iter().chain(flags));
        options.cache(&redis)
    }

    #[test]
    fn the_cache_has_a_server_of_its_own_only_if_it_is_set() {
        assert!(cache(&[]).is_none() && cache(&["--cache-redis-url= "]).is_none());
        let flags =
            ["--redis-url=redis://jobs", "--redis-key-prefix=p", "--cache-redis-url=redis://:x@values:7/2"];
        let found = cache(&flags).unwrap();
        assert_eq!((found.location().as_str(), found.redis_key_prefix.as_str()), ("values:7", "p"));
        assert_eq!(found.setting_name(), "CACHE_REDIS_URL");
        // REDIS_HOST and REDIS_PORT have no effect on the cache.
        let flags = ["--redis-host=jobs", "--redis-port=7", "--cache-redis-url=redis://values"];
        assert_eq!(cache(&flags).unwrap().location(), "values:6379");
    }

    #[test]
    fn problems_name_the_setting_of_the_cache_without_the_password() {
        for (url, problem) in [
            ("http://:hunter2@h", "CACHE_REDIS_URL cannot be read"),
            ("redis://:12/hunter2@h", "CACHE_REDIS_URL cannot be read"),
            ("redis://:hunter2@h:7?db=3", "CACHE_REDIS_URL has the parameter \"db\""),
        ] {
            let found = cache(&[&format!("--cache-redis-url={url}")]).unwrap().problems().concat();
            assert!(found.starts_with(problem) && !found.contains("hunter2"), "{url}: {found}");
        }
    }
}
