//! The mails that an application has captured in files.

use std::path::Path;

use mail_parser::MessageParser;

#[derive(Debug, Clone)]
pub struct CapturedMail {
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: String,
}

impl CapturedMail {
    /// Returns the token of the link in the mail: the text after `#token=`.
    #[track_caller]
    pub fn token(&self) -> String {
        let (_, after) =
            self.text.split_once("#token=").unwrap_or_else(|| panic!("no link in {}", self.text));
        after.chars().take_while(char::is_ascii_alphanumeric).collect()
    }
}

/// Returns the mails in a folder, the oldest first.
pub fn read_captured(dir: &Path) -> Vec<CapturedMail> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "eml")).collect();
    // The names are job ids, which begin with the time.
    files.sort();
    let read = |file| {
        let bytes = std::fs::read(file).unwrap();
        let mail = MessageParser::default().parse(&bytes).unwrap();
        let to = mail.to().and_then(|to| to.first()).and_then(|to| to.address()).unwrap().to_owned();
        let part = |text: Option<std::borrow::Cow<'_, str>>| text.unwrap_or_default().into_owned();
        CapturedMail {
            to,
            subject: mail.subject().unwrap_or_default().to_owned(),
            text: part(mail.body_text(0)),
            html: part(mail.body_html(0)),
        }
    };
    files.into_iter().map(read).collect()
}
