use super::error::{ApiError, Result};
use crate::error::{Error, Loc};

/// Completes the location of an invalid field with the part of the request that it came in.
pub(in crate::api) trait InRequest<T> {
    fn in_body(self) -> Result<T>;
    fn in_query(self) -> Result<T>;
    fn in_path(self) -> Result<T>;
}

impl<T, E: Into<Error>> InRequest<T> for Result<T, E> {
    fn in_body(self) -> Result<T> {
        self.map_err(|error| within("body", error.into()))
    }

    fn in_query(self) -> Result<T> {
        self.map_err(|error| within("query", error.into()))
    }

    fn in_path(self) -> Result<T> {
        self.map_err(|error| within("path", error.into()))
    }
}

fn within(part: &str, error: Error) -> ApiError {
    match error {
        Error::Invalid(mut fields) => {
            fields.iter_mut().for_each(|field| field.loc.insert(0, Loc::Key(part.into())));
            ApiError::InvalidFields(fields)
        }
        other => ApiError::Domain(other),
    }
}
