use crate::{
    error::{Error, Result},
    queue::Queues,
};

/// Checks that a queue may have this name. `field` is the field or parameter of the request that contains the name.
///
/// # Errors
/// [`Error::Invalid`] for `field`, with the reason.
pub(super) fn check_queue(field: &str, name: &str) -> Result<()> {
    Queues::check_name(name).map_err(|reason| Error::invalid(field, reason))
}
