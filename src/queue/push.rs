//! Puts written jobs into a queue: the one place that calls the push script.

use super::{
    enqueue_options::{EnqueueOptions, OnDuplicate, When},
    error::Result,
    script_client::ScriptClient,
    scripts,
};

/// The most that one call of the script takes, since Redis serves nobody else meanwhile.
const MAX_JOBS_PER_CALL: usize = 250;
const MAX_BYTES_PER_CALL: usize = 4 * 1024 * 1024;

/// How many of the first jobs one call takes, at least one if there are any; `sizes` has the bytes of each.
pub(super) fn batch_size(sizes: impl ExactSizeIterator<Item = usize>) -> usize {
    let (count, mut bytes) = (sizes.len(), 0);
    let fits = |size: &usize| {
        bytes += size;
        bytes <= MAX_BYTES_PER_CALL
    };
    sizes.take(MAX_JOBS_PER_CALL).take_while(fits).count().max(1).min(count)
}

/// Queues jobs, each an id and an envelope. A push whose answer was lost can be repeated, since the ids are the
/// caller's. Returns the ids that were known already, or that of the job whose unique key keeps this one out.
pub(super) async fn push(
    client: &ScriptClient,
    queue: &str,
    jobs: &[(&str, &str)],
    place: &EnqueueOptions,
) -> Result<Vec<String>> {
    let when = match place.when {
        When::Now => "0".to_owned(),
        When::In(delay) => format!("+{}", delay.as_millis()),
        When::At(at) => at.timestamp_millis().max(0).to_string(),
    };
    let unique = place.unique.as_ref();
    let window = unique.map_or(0, |unique| unique.window.as_millis() as u64);
    let keep = unique
        .map_or("", |unique| if unique.on_duplicate == OnDuplicate::KeepExisting { "first" } else { "last" });
    let mut call = client.prepare(&scripts::PUSH);
    call.arg(queue).arg(jobs.len()).arg(when).arg(u8::from(place.front));
    call.arg(place.group.as_deref().unwrap_or_default());
    call.arg(unique.map_or("", |unique| &unique.key)).arg(window).arg(keep);
    call.arg(place.after.len()).arg(if place.after_failures { "any" } else { "good" });
    for (id, _) in jobs {
        call.arg(*id);
    }
    for (_, text) in jobs {
        call.arg(*text);
    }
    call.arg(&place.after);
    client.run(&call).await
}
