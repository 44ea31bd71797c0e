//! Properties of the parser of `REDIS_URL`.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::{collection::vec, prelude::any, sample::select};

use super::{RedisTopology, parse};
use crate::property::{property, text};

#[test]
fn percent_encoded_parts_of_a_url_are_decoded() {
    let word = "\\PC{1,8}";
    let servers = vec(("[a-z]{1,8}", 1..=u16::MAX), 1..4);
    property(1, (0..3, word, word, servers, any::<u8>()), |(kind, user, password, servers, database)| {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (scheme, servers, path, database) = match kind {
            0 => ("redis", &servers[..1], format!("/{database}"), database),
            1 => ("redis+sentinel", &servers[..], format!("/main/{database}"), database),
            _ => ("redis-cluster", &servers[..], String::new(), 0),
        };
        let places: Vec<_> = servers.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let login = format!("{}:{}", encode(&user), encode(&password));
        let found = parse(&format!("{scheme}://{login}@{}{path}", places.join(","))).unwrap();
        let settings = found.server.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some(&*user), Some(&*password)));
        assert_eq!((settings.db(), found.location()), (i64::from(database), places.join(", ")));
        assert_eq!(found.topology == RedisTopology::Single, kind == 0);
        // The Sentinels have a user and a password of their own.
        let seeds_log_in = found.seeds.iter().all(|seed| seed.redis_settings().password().is_some());
        assert_eq!(seeds_log_in, kind != 1);
    });
}

#[test]
fn no_message_repeats_a_text_that_may_be_a_password() {
    let parts = r": @ / ? # & = % %ff , [ ] h 1 \";
    let scheme = select(vec!["redis", "rediss", "redis+sentinel", "redis-cluster", "valkey", "http", ""]);
    property(1, (scheme, text(parts, 6), text(parts, 6)), |(scheme, before, after)| {
        if let Err(problem) = parse(&format!("{scheme}://{before}hunter2{after}@h")) {
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    });
}
