//! The checks of the settings, which need no server.

use super::{
    Args,
    Finding::{self, Passed, Warning},
    Report,
};
use crate::{
    cli::startup::{check_admin, weaknesses},
    config::secret,
    mail::Mailer,
};

impl Args {
    /// Returns whether mails are sent by SMTP or, with `DEBUG` on, captured as files.
    pub(super) fn sends_mail(&self) -> bool {
        self.config.core.debug || self.config.mail.smtp_url.is_set()
    }

    /// Checks the settings without connecting.
    pub(super) fn check_settings(&self, report: &mut Report<'_>) {
        let mut problems = report.findings.problems.clone();
        problems.extend(self.config.logs.problem());
        problems.extend(check_admin(&self.config.auth.admin).err().map(|error| error.to_string()));
        let unsafe_settings = self.config.unsafe_settings().into_iter();
        problems.extend(unsafe_settings.filter(|problem| !report.findings.explains(problem)));
        let weaknesses = weaknesses(&self.config, report.findings);
        if problems.is_empty() && !self.config.core.debug {
            let text = match (weaknesses.is_empty(), self.sends_mail()) {
                (true, true) => "safe for production",
                (true, false) => "nothing is unsafe, but no mail is sent",
                (false, _) => "nothing stops `saas serve` and `saas worker`",
            };
            report.add("settings", Ok(Passed(text.into())));
        }
        problems.into_iter().for_each(|problem| report.add("settings", Err(anyhow::anyhow!(problem))));
        weaknesses.into_iter().for_each(|weakness| report.add("settings", Ok(Warning(weakness))));
        report.add("http", fail_if_any(self.http.problems(), || Passed("the origins are valid".into())));
        let mail = &self.config.mail;
        report.add(
            "mail",
            fail_if_any(mail.problems(), || match mail.smtp_url.is_set() {
                true => Passed("mails are sent by SMTP".into()),
                false if self.config.core.debug => {
                    Warning("no SMTP_URL: mails are captured, not sent".into())
                }
                false => Warning(
                    "no SMTP_URL: no mail is sent. Users cannot confirm an address or reset a password. Mails wait in \
                     the outbox until SMTP_URL is set, and are dropped when they are too old"
                        .into(),
                ),
            }),
        );
        report.add("links", Mailer::new(&self.config).map(|mailer| links(&mailer, mail.has_link_target())));
        report.add(
            "two-factor",
            Ok(match secret(&self.config.auth.two_factor_key) {
                Some(_) => Passed("users can turn it on".into()),
                None => Warning(
                    "no TWO_FACTOR_KEY: users cannot turn it on; `saas doctor --generate-secret` prints a key"
                        .into(),
                ),
            }),
        );
    }
}

/// Returns the finding, or an error with all problems if there are any.
fn fail_if_any(problems: Vec<String>, finding: impl FnOnce() -> Finding) -> anyhow::Result<Finding> {
    match problems.is_empty() {
        true => Ok(finding()),
        false => Err(anyhow::anyhow!(problems.join("; "))),
    }
}

fn links(mailer: &Mailer, has_target: bool) -> Finding {
    let example = mailer.link("verify-email", "...");
    match has_target {
        true => Passed(format!("links in mails look like {example}")),
        false => Warning(format!(
            "links in mails look like {example}: set PUBLIC_URL, or FRONTEND_URL if a front end has the pages"
        )),
    }
}
