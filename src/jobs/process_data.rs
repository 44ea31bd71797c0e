use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Context, JobResult};
use crate::{
    app::App,
    queue::{EnqueueBy, Job},
};

/// Maximum total size of the keys in the result. Redis keeps the result in memory for about an hour, so a larger result belongs
/// in a table.
const MAX_KEY_BYTES: usize = 8 * 1024;

/// Counts the values of a document, and returns its first keys. An example of a job with structured arguments.
#[derive(Serialize, Deserialize)]
pub struct ProcessData {
    pub data: Map<String, Value>,
}

impl Job for ProcessData {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "process_data_task";
    // The request has at most 64 KiB. Its numbers can get longer: `1e9` becomes `1000000000.0`.
    const ENQUEUE_BY: EnqueueBy = EnqueueBy::User { max_bytes: 5 * 64 * 1024 };

    async fn run(self, _ctx: Context) -> JobResult {
        let keys = first_keys(&self.data);
        let values: usize = self.data.values().map(count_leaves).sum();
        Ok(json!({ "status": "processed", "keys": keys, "values": values }))
    }
}

/// Returns the first keys, with at most [`MAX_KEY_BYTES`] in total.
fn first_keys(data: &Map<String, Value>) -> Vec<&String> {
    let mut bytes = 0;
    let fits = |key: &&String| {
        bytes += key.len();
        bytes <= MAX_KEY_BYTES
    };
    data.keys().take_while(fits).collect()
}

/// Counts the values that are neither arrays nor objects.
fn count_leaves(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(count_leaves).sum(),
        Value::Object(fields) => fields.values().map(count_leaves).sum(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_keys_that_fit() {
        let data: Map<String, Value> = (0..100).map(|n| (format!("{n:0>200}"), Value::Null)).collect();
        assert_eq!(first_keys(&data).len(), 40);
        assert_eq!(first_keys(&data)[0].len(), 200);
    }

    #[test]
    fn nested_values_are_counted() {
        assert_eq!(count_leaves(&json!({ "a": [1, 2, { "b": null }], "c": {} })), 3);
    }
}
