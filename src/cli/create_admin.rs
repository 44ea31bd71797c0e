use std::{
    io::{IsTerminal, Read, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use diesel_async::AsyncPgConnection;

use crate::{
    config::{Core, Database, FirstAdmin, Hashing, PersonalOrganizations},
    db,
    email_address::{EmailAddress, EmailLookup},
    error::Error,
    models::user::User,
    security::Passwords,
    services::{
        admin_password::{self, ReplacedPassword},
        admins::{self, EnsureAdminOutcome, ensure_admin},
        users::check_password_of_user,
    },
};

/// Create an admin, promote a user, or set the password of an admin.
///
/// The password comes from --password-stdin, else a prompt that does not echo it. Only the admin with the address in
/// FIRST_SUPERUSER_EMAIL gets FIRST_SUPERUSER_PASSWORD instead of a prompt. The default password of `saas dev` is never
/// accepted, since it is public. If the admin exists already, the command succeeds and changes nothing, unless
/// --set-password is given.
///
/// --promote and --set-password change an existing account and create none. They revoke the sessions of the account, and
/// send a mail to its address. --set-password does not use FIRST_SUPERUSER_PASSWORD.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  saas create-admin --email ada@example.com\n  \
    printf %s \"$PASSWORD\" | saas create-admin --email ada@example.com --password-stdin\n  \
    saas create-admin --email ada@example.com --promote     promote an existing user\n  \
    saas create-admin --email ada@example.com --set-password  replace a lost password\n  \
    saas create-admin --email ada@example.com --set-password --disable-two-factor  replace a lost phone, too")]
pub(super) struct Args {
    /// Email address of the admin. The default is FIRST_SUPERUSER_EMAIL.
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Make the existing user with this address an admin. The user must be active and must have confirmed the address, and the
    /// account must not be scheduled for deletion. The password does not change, and all sessions are revoked.
    #[arg(long)]
    promote: bool,
    /// Set another password for the existing admin with this address, revoke the sessions of the admin, and cancel a
    /// scheduled deletion of the account.
    #[arg(long, conflicts_with = "promote")]
    set_password: bool,
    /// With --set-password: also turn off two-factor authentication, for an admin who has lost the authenticator.
    #[arg(long, requires = "set_password")]
    disable_two_factor: bool,
    #[command(flatten)]
    core: Core,
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    hashing: Hashing,
    #[command(flatten)]
    admin: FirstAdmin,
    #[command(flatten)]
    personal: PersonalOrganizations,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let given = self.email.as_deref().unwrap_or(&self.admin.first_superuser_email);
        if !self.core.debug
            && let Some(problem) = self.hashing.problem()
        {
            bail!(problem);
        }
        let mut conn = db::connect(&self.database).await?;
        let passwords = Passwords::new(self.hashing.bcrypt_cost);
        let found =
            User::find_by_email(&conn, &EmailLookup::new(given)).await.context(CANNOT_READ_ACCOUNTS)?;
        let exists = found.is_some();
        let full_name = found.as_ref().and_then(|user| user.full_name.clone());
        let email = match (found, EmailAddress::parse(given)) {
            // `parse` may refuse the address of an existing user, because an earlier release has accepted more addresses.
            (Some(user), _) => user.email,
            (None, Ok(address)) => address.stored,
            (None, Err(problem)) => bail!("--email {given:?}: {problem}"),
        };
        if self.promote {
            return promote(&mut conn, &email).await;
        }
        if self.set_password {
            if !exists {
                bail!("no admin has the address {email}; nothing was changed");
            }
            let password = self.new_password(&email, full_name.as_deref())?;
            return replace_password(&mut conn, &passwords, &email, password, self.disable_two_factor).await;
        }
        // `ensure_admin` uses the password only to create a user.
        let password = if exists { None } else { Some(self.new_password(&email, None)?) };
        let source = match self.password_setting(&email) {
            Some(_) => " with the password in FIRST_SUPERUSER_PASSWORD",
            None => "",
        };
        let mut out = std::io::stdout();
        match ensure_admin(&mut conn, &passwords, &email, password, &self.personal).await? {
            EnsureAdminOutcome::Created => writeln!(out, "created admin {email}{source}")?,
            EnsureAdminOutcome::Exists => writeln!(out, "{email} is already an admin; nothing changed")?,
            EnsureAdminOutcome::NotAdmin => {
                bail!("{email} exists and is not an admin; add --promote to make it one")
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Reads the password, and checks that it is allowed for the admin with this address and name.
    fn new_password(&self, email: &str, full_name: Option<&str>) -> anyhow::Result<String> {
        let password = self.password(email)?;
        check_password_of_user(&password, email, full_name)
            .map_err(|problem| anyhow::anyhow!("the password is not accepted: {problem}"))?;
        Ok(password)
    }

    /// Reads the password from standard input, the setting or a prompt.
    fn password(&self, email: &str) -> anyhow::Result<String> {
        if self.password_stdin {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("the password cannot be read from standard input")?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        if let Some(password) = self.password_setting(email) {
            return Ok(password.to_owned());
        }
        if !std::io::stdin().is_terminal() {
            let setting = match (self.set_password, self.is_first_admin(email)) {
                (true, _) => "",
                (false, true) => ", or set FIRST_SUPERUSER_PASSWORD",
                (false, false) => {
                    ". FIRST_SUPERUSER_PASSWORD is only for the admin with the address in FIRST_SUPERUSER_EMAIL"
                }
            };
            bail!("no password: use --password-stdin, or run this in a terminal{setting}");
        }
        let password = rpassword::prompt_password("Password: ")?;
        if rpassword::prompt_password("Again: ")? != password {
            bail!("the passwords differ; nothing was changed");
        }
        Ok(password)
    }

    /// Returns `FIRST_SUPERUSER_PASSWORD` for the admin with the address in `FIRST_SUPERUSER_EMAIL`. `None` if it is not set, is
    /// the default password, or does not apply. Other admins do not get it: all admins that are created in a container with this
    /// setting would share the password.
    fn password_setting(&self, email: &str) -> Option<&str> {
        // With `--set-password`, the setting is ignored: it may still have the password that is replaced, which an attacker may
        // know.
        let applies = !self.password_stdin && !self.set_password && self.is_first_admin(email);
        self.admin.chosen_password().filter(|_| applies)
    }

    /// Returns whether the address is the one in `FIRST_SUPERUSER_EMAIL`.
    fn is_first_admin(&self, email: &str) -> bool {
        let first = EmailLookup::new(&self.admin.first_superuser_email);
        first.subject() == EmailLookup::new(email).subject()
    }
}

async fn promote(conn: &mut AsyncPgConnection, email: &str) -> anyhow::Result<ExitCode> {
    match admins::promote(conn, email).await {
        Ok(true) => writeln!(std::io::stdout(), "{email} is an admin now; all sessions were revoked")?,
        Ok(false) => writeln!(std::io::stdout(), "{email} is already an admin; nothing changed")?,
        Err(Error::NotFound(_)) => bail!(
            "no user has the address {email}; nothing was changed. To create an admin with this address, run `saas \
             create-admin --email {email}` without --promote"
        ),
        Err(Error::UserNotVerified) => bail!(
            "{email} is not confirmed, so another person may have registered it; nothing was changed. The user has to \
             open the link in the mail `Confirm your email address`, which POST /api/v1/auth/verify-email/resend sends \
             again, or reset the password by mail. Then run this command again"
        ),
        Err(Error::Inactive) => bail!("{email} is deactivated; nothing was changed. Activate the user first"),
        Err(Error::Conflict(problem)) => bail!("{email}: nothing was changed. {problem}"),
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn replace_password(
    conn: &mut AsyncPgConnection,
    passwords: &Passwords,
    email: &str,
    password: String,
    disable_two_factor: bool,
) -> anyhow::Result<ExitCode> {
    let replaced = admin_password::replace(conn, passwords, email, password, disable_two_factor).await;
    let ReplacedPassword { two_factor_disabled, deletion_canceled, is_active } = match replaced {
        Ok(replaced) => replaced,
        Err(Error::NotFound(_)) => bail!("{email} is not an admin; nothing was changed"),
        Err(error) => return Err(error.into()),
    };
    let mut out = std::io::stdout();
    writeln!(out, "{email} has a new password; all sessions were revoked")?;
    match (disable_two_factor, two_factor_disabled) {
        (true, true) => writeln!(out, "two-factor authentication was turned off")?,
        (true, false) => writeln!(out, "two-factor authentication was not on")?,
        (false, _) => {}
    }
    if deletion_canceled {
        writeln!(out, "the scheduled deletion of the account was canceled")?;
    }
    if !is_active {
        writeln!(out, "{email} is deactivated and cannot sign in until another admin activates the account")?;
    }
    Ok(ExitCode::SUCCESS)
}

const CANNOT_READ_ACCOUNTS: &str = "cannot read the accounts: run `saas migrate up` first";
