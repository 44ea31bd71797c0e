use crate::{
    error::{Error, Result},
    queue::Queues,
};

/// Refuses a name that no queue can have. `root` and `field` say where the name was given.
pub(super) fn check_queue(root: &str, field: &str, name: &str) -> Result<()> {
    Queues::check_name(name).map_err(|reason| Error::invalid(root, field, reason))
}
