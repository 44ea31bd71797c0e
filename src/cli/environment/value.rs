//! The values of variables, and files with secrets.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    path::Path,
};

use clap::Arg;

/// Maximum size of the file of a secret. A larger file is probably a wrong path.
const MAX_SECRET_FILE_BYTES: u64 = 64 * 1024;

/// Removes the space around a value. From a password, which may begin or end with a space, removes only the line ends at its
/// end: a file of a secret often ends with a line end.
pub(super) fn normal_form(arg: &Arg, value: &OsStr) -> OsString {
    let names = arg.get_value_names().unwrap_or_default();
    let is_password = names.iter().any(|name| name.as_str() == "PASSWORD");
    match value.to_str().filter(|_| is_password) {
        Some(text) => text.trim_end_matches(['\r', '\n']).into(),
        None => trimmed(value),
    }
}

/// Removes the space around a value. A value that is not UTF-8 text is not changed.
pub(super) fn trimmed(value: &OsStr) -> OsString {
    value.to_str().map_or_else(|| value.to_owned(), |text| text.trim().into())
}

/// Writes a value in double quotes, as `.env` and dotenvy read it.
pub(super) fn double_quoted(value: &str) -> String {
    let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('$', "\\$").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// Parses one flag without the others. So the caller can report the invalid values of all settings together.
///
/// # Errors
/// If the value is invalid; the message is the first paragraph of clap's, in one line.
pub(super) fn check_flag(arg: &Arg, flag: &OsStr) -> Result<(), String> {
    let arg = arg.clone().env(None::<&'static str>);
    let command = clap::Command::new("saas").no_binary_name(true).arg(arg);
    let Err(error) = command.try_get_matches_from([flag]) else { return Ok(()) };
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let message = message.replace("invalid digit found in string", "write a whole number");
    Err(message.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Reads a file with one secret.
///
/// # Errors
/// If the file cannot be read, is blank, is too large or is not UTF-8 text. The message has no part of the content.
pub(super) fn read_secret(path: &Path) -> Result<OsString, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SECRET_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("which cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_SECRET_FILE_BYTES {
        return Err(format!("which has more than {MAX_SECRET_FILE_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "which is not UTF-8 text")?;
    match text.trim().is_empty() {
        true => Err("which is empty".into()),
        false => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrounding_space_is_removed_except_from_passwords() {
        let (key, password) = (Arg::new("a").value_name("KEY"), Arg::new("b").value_name("PASSWORD"));
        assert_eq!(normal_form(&key, " k \r\n".as_ref()), "k");
        assert_eq!(normal_form(&password, " p \r\n\n".as_ref()), " p ");
    }
}
