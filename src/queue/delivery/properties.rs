//! Property tests of deliveries whose envelope is malformed, or names a task that the worker does not know.

use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_oneof},
    sample::Index,
};

use super::{Delivery, JobSignals, JobState, JobType, StopReason};
use crate::{
    property::{property, text},
    queue::{disposition::Disposition, envelope::ErrorRecord, outcome::Outcome},
};

#[derive(Clone)]
struct NoState;

impl JobState for NoState {}

const NO_JOBS: &[JobType<NoState>] = &[];

/// Generates well-formed and malformed envelopes.
fn envelope() -> impl Strategy<Value = Vec<u8>> {
    let parts = r#"{ } , : [ ] "v" "task" "queue" "ttl" "at" "payload" 1 2 300 -1 "x" null {"v":2} {"v":2,"task":"x"} [[[["#;
    let whole = (any::<u8>(), any::<i64>(), any::<u64>()).prop_map(|(v, at, ttl)| {
        format!(r#"{{"v":{v},"task":"x","queue":"q","ttl":{ttl},"at":{at},"payload":[]}}"#)
    });
    let changed = (whole.clone(), any::<Index>(), any::<u8>()).prop_map(|(text, at, octet)| {
        let mut octets = text.into_bytes();
        let at = at.index(octets.len());
        octets[at] = octet;
        octets
    });
    prop_oneof![
        vec(any::<u8>(), 0..40),
        text(parts, 12).prop_map(String::into_bytes),
        whole.prop_map(String::into_bytes),
        changed,
    ]
}

#[test]
fn a_job_that_cannot_be_run_fails_waits_or_is_canceled() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let inputs = (envelope(), any::<u32>(), any::<u32>(), any::<i64>(), any::<bool>());
    property(1, inputs, |(envelope, failures, crashes, fetched_at, is_canceled)| {
        let signals = JobSignals::default();
        if is_canceled {
            signals.stop(StopReason::Canceled);
        }
        let delivery = Delivery {
            id: "id".into(),
            token: "token".into(),
            queue: "queue".into(),
            envelope,
            failures,
            crashes,
            has_records: false,
            is_ahead: false,
            fetched_at,
            signals,
        };
        let completed = runtime.block_on(delivery.run(NO_JOBS, NoState));
        assert_eq!((&*completed.id, &*completed.token), ("id", "token"));
        match completed.disposition {
            Disposition::Dead { error } | Disposition::UnknownTask { error, .. } => {
                let record: ErrorRecord = serde_json::from_str(&error).unwrap();
                assert_eq!(record.at, fetched_at);
            }
            Disposition::Canceled { outcome, .. } if is_canceled => {
                let outcome: Outcome = serde_json::from_str(&outcome).unwrap();
                assert!(outcome.attempts > 0);
            }
            _ => panic!("the job has another disposition"),
        }
    });
}
