use std::{
    io::{IsTerminal, Read, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use secrecy::ExposeSecret;

use crate::{
    config::{Core, DEFAULT_ADMIN_PASSWORD, Database, FirstAdmin, Hashing},
    db,
    security::Passwords,
    services::users::{Admin, check_email, check_password, ensure_admin, normalize_email},
};

/// Make an admin.
///
/// The password comes from --password-stdin, else FIRST_SUPERUSER_PASSWORD, else a prompt that does not show it.
/// Doing it again for the same admin changes nothing and succeeds.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  saas create-admin --email ada@example.com\n  \
    printf %s \"$PASSWORD\" | saas create-admin --email ada@example.com --password-stdin\n  \
    saas create-admin --email ada@example.com --promote     lift a user who has an account")]
pub(super) struct Args {
    /// Address of the admin; FIRST_SUPERUSER_EMAIL where it is left out.
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Make the user who has this address an admin; their password stays.
    #[arg(long)]
    promote: bool,
    #[command(flatten)]
    core: Core,
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    hashing: Hashing,
    #[command(flatten)]
    admin: FirstAdmin,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let email = normalize_email(self.email.as_deref().unwrap_or(&self.admin.first_superuser_email));
        check_email(&email).map_err(|problem| anyhow::anyhow!("--email {email:?}: {problem}"))?;
        if !self.core.debug
            && let Some(problem) = self.hashing.problem()
        {
            bail!(problem);
        }
        let mut conn = db::connect(&self.database).await?;
        let passwords = Passwords::new(self.hashing.bcrypt_cost);
        // Whoever is there already needs no password.
        let known =
            crate::models::user::User::find_by_email(&conn, &email).await.context(NO_TABLES)?.is_some();
        let password = if known { None } else { Some(self.password()?) };
        if let Some(password) = &password {
            check_password(password)
                .map_err(|problem| anyhow::anyhow!("the password is refused: {problem}"))?;
        }
        let mut out = std::io::stdout();
        match ensure_admin(&mut conn, &passwords, &email, password, self.promote).await? {
            Admin::Created => writeln!(out, "created admin {email}")?,
            Admin::Promoted => writeln!(out, "{email} is an admin now")?,
            Admin::AlreadyThere => writeln!(out, "{email} is an admin already; nothing changed")?,
            Admin::PlainUser => bail!("{email} has an account that is no admin; add --promote to lift it"),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn password(&self) -> anyhow::Result<String> {
        if self.password_stdin {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("the password cannot be read from standard input")?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        let set = self.admin.first_superuser_password.expose_secret();
        if set != DEFAULT_ADMIN_PASSWORD && !set.is_empty() {
            return Ok(set.to_owned());
        }
        if !std::io::stdin().is_terminal() {
            bail!(
                "no password: give it with --password-stdin or FIRST_SUPERUSER_PASSWORD, or run this in a terminal"
            );
        }
        let password = rpassword::prompt_password("Password: ")?;
        if rpassword::prompt_password("Again: ")? != password {
            bail!("the two passwords differ; nothing was changed");
        }
        Ok(password)
    }
}

const NO_TABLES: &str = "the accounts cannot be read; has `saas migrate up` been run?";
