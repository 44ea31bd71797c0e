//! Property tests of [`JobStatus::parse`], also with answers that no release writes.

use proptest::{
    collection::vec,
    option,
    prelude::{Just, Strategy, any, prop_oneof},
    sample::select,
};
use redis::Value;

use super::{JobStatus, State};
use crate::{
    property::{property, text},
    queue::outcome::ended_origin,
};

fn bytes(text: impl Into<Vec<u8>>) -> Value {
    Value::BulkString(text.into())
}

/// Generates outcomes, some with times that are out of range.
fn outcome() -> impl Strategy<Value = String> {
    let ran = (any::<u32>(), any::<i64>(), any::<i64>(), any::<i64>());
    let ran = ran.prop_map(|(n, at, waited, ran)| {
        format!(r#"{{"t":"x","q":"q","n":{n},"at":{at},"w":{waited},"d":{ran}}}"#)
    });
    let canceled = (any::<u32>(), any::<i64>(), any::<i64>()).prop_map(|(attempts, ended, at)| {
        let envelope = format!(r#"{{"v":1,"task":"x","queue":"q","ttl":1,"at":{at},"payload":1}}"#);
        format!(r#"{{"attempts":{attempts},"ended":{ended},"envelope":{envelope}}}"#)
    });
    prop_oneof![ran, canceled, Just(String::new())]
}

#[test]
fn the_status_of_an_ended_job_has_its_state_owner_and_scope() {
    let scope = option::of("[a-zA-Z0-9:._-]{1,9}");
    property(
        1,
        (any::<Option<i64>>(), scope, any::<bool>(), outcome()),
        |(owner, scope, is_finished, outcome)| {
            let (state, letter) = if is_finished { (State::Finished, 'f') } else { (State::Canceled, 'c') };
            let origin = ended_origin(owner, scope.as_deref());
            let answer = vec![Value::Nil, bytes(format!("{letter}{origin}")), bytes(outcome)];
            let status = JobStatus::parse("id", answer).unwrap().unwrap();
            assert_eq!(
                (&*status.id, status.state, status.owner, status.scope.clone()),
                ("id", state, owner, scope)
            );
            assert!(serde_json::to_value(&status).is_ok());
        },
    );
}

#[test]
fn the_status_of_a_live_job_counts_its_attempts() {
    let state = select(State::ALL.to_vec());
    let count = any::<Option<u32>>;
    let extra = text("token | worker 0 1700000000000 -1 1e300 nan", 6);
    property(1, (state, count(), count(), extra), |(state, failures, crashes, extra)| {
        let number = |count: Option<u32>| count.map_or(Value::Nil, |count| Value::Int(count.into()));
        let envelope = r#"{"v":1,"task":"x","queue":"q","ttl":1,"at":1,"payload":1}"#;
        let answer = vec![
            bytes(state.as_str()),
            bytes(envelope),
            number(failures),
            number(crashes),
            Value::Nil,
            Value::Nil,
            bytes(extra),
        ];
        let status = JobStatus::parse("id", answer).unwrap().unwrap();
        let ended = u64::from(failures.unwrap_or(0)) + u64::from(crashes.unwrap_or(0));
        let attempts = ended + u64::from(state == State::Started);
        assert_eq!(u64::from(status.attempts), attempts.min(u32::MAX.into()));
        assert_eq!((status.state, &*status.task), (state, "x"));
        assert!(serde_json::to_value(&status).is_ok());
    });
}

#[test]
fn any_answer_is_a_status_or_an_error() {
    let parts = r#"{ } " : , f c12 queued started | 1 - [ ] null"#;
    let value = prop_oneof![
        Just(Value::Nil),
        any::<i64>().prop_map(Value::Int),
        text(parts, 8).prop_map(bytes),
        vec(any::<u8>(), 0..9).prop_map(Value::BulkString),
        Just(Value::Array(vec![Value::Nil])),
    ];
    property(1, vec(value, 0..9), |answer| {
        let is_empty = answer.is_empty();
        if let Ok(status) = JobStatus::parse("id", answer) {
            assert_eq!(status.is_none(), is_empty);
            assert!(status.is_none_or(|status| serde_json::to_value(&status).is_ok()));
        }
    });
}
