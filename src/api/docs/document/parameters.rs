//! The parameters: the name and the description of the header `Idempotency-Key`.

use serde_json::Value;

use super::{Object, operations};
use crate::api::extract::IDEMPOTENCY_KEY_FORMAT;

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const IDEMPOTENCY_KEY_DESCRIPTION: &str = "\
    A key that you choose for this request, such as a UUID. Send the request again with the same key if you get no response, \
    or 409 `idempotency_key_in_use` while the first one is in progress. It then has one effect, and for 24 hours you get the \
    same response again, with the header `Idempotency-Replayed`. Fails with 422 `idempotency_key_reused` if the key was used \
    for a different request. Failures are not stored.";

/// Completes all parameters. The operations may give the argument any name.
pub(super) fn complete(spec: &mut Value) {
    for (_, operation) in operations(spec) {
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        for parameter in parameters.into_iter().flatten() {
            if parameter["schema"]["format"] != IDEMPOTENCY_KEY_FORMAT {
                continue;
            }
            parameter["name"] = IDEMPOTENCY_KEY.into();
            parameter["description"] = IDEMPOTENCY_KEY_DESCRIPTION.into();
            // Not a format that other programs know.
            if let Some(schema) = parameter["schema"].as_object_mut() {
                schema.remove("format");
            }
        }
    }
}

/// Returns whether an operation takes the header.
pub(super) fn takes_idempotency_key(operation: &Object) -> bool {
    let parameters = operation.get("parameters").and_then(Value::as_array);
    parameters.is_some_and(|all| all.iter().any(|parameter| parameter["name"] == IDEMPOTENCY_KEY))
}
