//! Properties of the parsers of sites.

use super::{Origins, base_url, host, hosts, listen_address, origins, public_url};
use crate::property::{property, text};

const PARTS: &str = r##"https http :// : 443 8443 / a.example B.example bücher [::1] 127.0.0.1 localhost , * @ ? # . [ ] " % 0.0.0.0"##;

#[test]
fn the_text_of_a_parsed_host_is_parsed_to_the_same_host() {
    property(1, text(PARTS, 4), |text| {
        if let Ok(found) = host(&text) {
            assert_eq!(host(&found.to_string()), Ok(found));
        }
        if let Ok(found) = listen_address(&text) {
            assert_eq!(listen_address(&found.to_string()), Ok(found));
        }
    });
}

#[test]
fn the_text_of_a_parsed_origin_is_parsed_to_the_same_origin() {
    property(1, text(PARTS, 6), |text| {
        for origin in origins(&text).unwrap_or_default() {
            assert!(origin.starts_with("https://") || origin.starts_with("http://"), "{origin}");
            // A host may have a comma, which separates the items of a list.
            if !origin.contains(',') {
                assert_eq!(origins(&origin), Ok(Origins::from([origin])));
            }
        }
    });
}

#[test]
fn the_url_of_the_api_has_only_scheme_host_and_port() {
    property(1, text(PARTS, 6), |text| {
        let Ok(url) = public_url(&text) else { return };
        assert!(url.path() == "/" && url.username().is_empty() && url.password().is_none(), "{url}");
        assert!(url.query().is_none() && url.fragment().is_none(), "{url}");
        assert_eq!(public_url(url.as_str()), Ok(url));
    });
}

#[test]
fn no_message_repeats_a_text_that_may_be_a_password() {
    property(1, (text(PARTS, 4), text(PARTS, 3)), |(before, after)| {
        let text = format!("{before}hunter2@{after}");
        let problems =
            [base_url(&text).err(), public_url(&text).err(), hosts(&text).err(), origins(&text).err()];
        for problem in problems.into_iter().flatten() {
            assert!(!problem.contains("hunter2"), "{text}: {problem}");
        }
    });
}
