use crate::{
    error::{Error, Result},
    queue::Queues,
};

/// Refuses a name that no queue can have; `field` is where it was given.
pub(super) fn check_queue(field: &str, name: &str) -> Result<()> {
    Queues::check_name(name).map_err(|reason| Error::invalid(field, reason))
}
