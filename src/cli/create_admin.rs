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

/// Create an admin.
///
/// The password comes from --password-stdin, else FIRST_SUPERUSER_PASSWORD, else a prompt that does not echo it. If the
/// admin exists already, the command succeeds and changes nothing.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  saas create-admin --email ada@example.com\n  \
    printf %s \"$PASSWORD\" | saas create-admin --email ada@example.com --password-stdin\n  \
    saas create-admin --email ada@example.com --promote     promote an existing user")]
pub(super) struct Args {
    /// Email address of the admin. The default is FIRST_SUPERUSER_EMAIL.
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Make the existing user with this address an admin. The password does not change.
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
        // An existing user needs no password.
        let exists =
            crate::models::user::User::find_by_email(&conn, &email).await.context(NO_TABLES)?.is_some();
        let password = if exists { None } else { Some(self.password()?) };
        if let Some(password) = &password {
            check_password(password)
                .map_err(|problem| anyhow::anyhow!("the password is not accepted: {problem}"))?;
        }
        let mut out = std::io::stdout();
        match ensure_admin(&mut conn, &passwords, &email, password, self.promote).await? {
            Admin::Created => writeln!(out, "created admin {email}")?,
            Admin::Promoted => writeln!(out, "{email} is an admin now")?,
            Admin::AlreadyThere => writeln!(out, "{email} is already an admin; nothing changed")?,
            Admin::PlainUser => bail!("{email} exists and is not an admin; add --promote to make it one"),
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
            bail!("no password: use --password-stdin or FIRST_SUPERUSER_PASSWORD, or run this in a terminal");
        }
        let password = rpassword::prompt_password("Password: ")?;
        if rpassword::prompt_password("Again: ")? != password {
            bail!("the passwords differ; nothing was changed");
        }
        Ok(password)
    }
}

const NO_TABLES: &str = "cannot read the accounts: run `saas migrate up` first";
