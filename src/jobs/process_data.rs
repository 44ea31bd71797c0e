use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Context, JobResult};
use crate::{
    app::App,
    queue::{EnqueueBy, Job},
};

/// Counts the values of a document. An example of a job with structured arguments.
#[derive(Serialize, Deserialize)]
pub struct ProcessData {
    pub data: Map<String, Value>,
}

impl Job for ProcessData {
    type State = App;
    type Output = Value;
    const NAME: &'static str = "process_data_task";
    const ENQUEUE_BY: EnqueueBy = EnqueueBy::User { max_bytes: 128 * 1024 };

    async fn run(self, _ctx: Context) -> JobResult {
        let keys: Vec<_> = self.data.keys().collect();
        let values: usize = self.data.values().map(leaves).sum();
        Ok(json!({ "status": "processed", "keys": keys, "values": values }))
    }
}

/// Counts the values that are neither arrays nor objects.
fn leaves(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(leaves).sum(),
        Value::Object(fields) => fields.values().map(leaves).sum(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_values_are_counted() {
        assert_eq!(leaves(&json!({ "a": [1, 2, { "b": null }], "c": {} })), 3);
    }
}
