use std::{
    io::{IsTerminal, Read, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use diesel_async::AsyncPgConnection;
use secrecy::ExposeSecret;

use crate::{
    config::{Core, DEFAULT_ADMIN_PASSWORD, Database, FirstAdmin, Hashing},
    db,
    error::Error,
    security::Passwords,
    services::{
        admin_password,
        users::{Admin, check_email, check_password, ensure_admin, normalize_email},
    },
};

/// Create an admin.
///
/// The password comes from --password-stdin, else FIRST_SUPERUSER_PASSWORD, else a prompt that does not echo it. If the
/// admin exists already, the command succeeds and changes nothing, unless --set-password is given. The default value of
/// FIRST_SUPERUSER_PASSWORD is never accepted, since it is public.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  saas create-admin --email ada@example.com\n  \
    printf %s \"$PASSWORD\" | saas create-admin --email ada@example.com --password-stdin\n  \
    saas create-admin --email ada@example.com --promote     promote an existing user\n  \
    saas create-admin --email ada@example.com --set-password  replace a lost password")]
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
    /// Set another password for the existing admin with this address, and revoke the sessions of the admin.
    #[arg(long, conflicts_with = "promote")]
    set_password: bool,
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
        let exists =
            crate::models::user::User::find_by_email(&conn, &email).await.context(NO_TABLES)?.is_some();
        if self.set_password {
            if !exists {
                bail!("no admin has the address {email}; nothing was changed");
            }
            return replace_password(&mut conn, &passwords, &email, self.new_password()?).await;
        }
        // An existing user needs no password.
        let password = if exists { None } else { Some(self.new_password()?) };
        let mut out = std::io::stdout();
        match ensure_admin(&mut conn, &passwords, &email, password, self.promote).await? {
            Admin::Created => writeln!(out, "created admin {email}")?,
            Admin::Promoted => writeln!(out, "{email} is an admin now")?,
            Admin::AlreadyThere => writeln!(out, "{email} is already an admin; nothing changed")?,
            Admin::PlainUser => bail!("{email} exists and is not an admin; add --promote to make it one"),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Reads the password and checks it.
    fn new_password(&self) -> anyhow::Result<String> {
        let password = self.password()?;
        check_password(&password)
            .map_err(|problem| anyhow::anyhow!("the password is not accepted: {problem}"))?;
        Ok(password)
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

async fn replace_password(
    conn: &mut AsyncPgConnection,
    passwords: &Passwords,
    email: &str,
    password: String,
) -> anyhow::Result<ExitCode> {
    match admin_password::replace(conn, passwords, email, password).await {
        Ok(()) => writeln!(std::io::stdout(), "{email} has a new password; all sessions were revoked")?,
        Err(Error::NotFound(_)) => bail!("{email} is not an admin; nothing was changed"),
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

const NO_TABLES: &str = "cannot read the accounts: run `saas migrate up` first";
