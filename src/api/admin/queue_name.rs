use crate::{
    error::{Error, Result},
    queue::Queues,
};

/// Checks that a name is valid for a queue. `field` is the field of the request that contains it.
///
/// # Errors
/// [`Error::Invalid`] with the reason.
pub(super) fn check_queue(field: &str, name: &str) -> Result<()> {
    Queues::check_name(name).map_err(|reason| Error::invalid(field, reason))
}
