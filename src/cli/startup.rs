//! Checks and preparations before `saas serve`, `saas worker` and `saas dev` start.

use std::net::IpAddr;

use anyhow::{Context, bail};
use chrono::Utc;
use diesel_async::AsyncPgConnection;

use super::environment::Findings;
use crate::{
    app::App,
    config::{Config, Database, FirstAdmin, Http, PersonalOrganizations},
    db::{self, migrations},
    email_address::EmailAddress,
    models::{clock::DatabaseClock, user::User},
    services::{
        admin_password,
        admins::{EnsureAdminOutcome, ensure_admin},
        email_keys, personal_orgs,
        users::check_password_of_user,
    },
};

/// Advice for messages that there is no admin.
pub(super) const CREATE_ADMIN_ADVICE: &str = "run `saas create-admin --email you@example.com`";
/// Largest accepted difference between the clocks of this machine and of the database, in seconds.
const MAX_CLOCK_OFFSET_SECONDS: f64 = 2.0;

/// Refuses settings that are invalid, or unsafe in production.
///
/// # Errors
/// If a setting is refused. The message has all problems that were found.
pub(super) fn check_settings(config: &Config, http: Option<&Http>) -> anyhow::Result<()> {
    let invalid = invalid_settings(config, http);
    let unsafe_settings = config.unsafe_settings();
    let hint = match unsafe_settings.is_empty() {
        true => "",
        false => {
            "\nFor development, run `saas dev`. DEBUG turns off the checks for production, so it is no fix there."
        }
    };
    refuse(invalid.into_iter().chain(unsafe_settings).collect(), hint)
}

fn invalid_settings(config: &Config, http: Option<&Http>) -> Vec<String> {
    let mut problems = config.problems();
    problems.extend(http.map(Http::problems).unwrap_or_default());
    problems
}

/// Returns the problems for which [`check_settings`] would fail.
pub(super) fn refused_settings(config: &Config, http: Option<&Http>) -> Vec<String> {
    let mut problems = invalid_settings(config, http);
    problems.extend(config.unsafe_settings());
    problems
}

/// Refuses the settings of `saas dev` that are invalid. The settings of PostgreSQL and of Redis are each checked only if
/// they name a server, because `saas dev` starts a server otherwise.
///
/// # Errors
/// As [`check_settings`].
pub(super) fn check_dev_settings(config: &Config, http: &Http) -> anyhow::Result<()> {
    let mut problems: Vec<_> = config.logs.problem().into_iter().collect();
    if config.database.is_set() {
        problems.extend(config.database.problem());
    }
    if config.redis.is_set() {
        problems.extend(config.redis.problems());
    }
    problems.extend(config.cache_problems());
    problems.extend(config.mail.problems());
    problems.extend(http.problems());
    problems.extend(check_admin(&config.auth.admin).err().map(|error| error.to_string()));
    refuse(problems, "")
}

fn refuse(problems: Vec<String>, hint: &str) -> anyhow::Result<()> {
    match problems.is_empty() {
        true => Ok(()),
        false => bail!("refusing to start with these settings:\n  - {}{hint}", problems.join("\n  - ")),
    }
}

/// Refuses settings of the first admin with an invalid address or a password that is not allowed. Accepts a missing password
/// and the default password: [`create_first_admin`] creates no admin then.
///
/// # Errors
/// If the address or the password is invalid; the message names the setting.
pub(super) fn check_admin(settings: &FirstAdmin) -> anyhow::Result<()> {
    let email = &settings.first_superuser_email;
    let address = EmailAddress::parse(email)
        .map_err(|problem| anyhow::anyhow!("FIRST_SUPERUSER_EMAIL {email:?}: {problem}"))?;
    match settings.chosen_password() {
        None => Ok(()),
        Some(password) => check_password_of_user(password, &address.stored, None)
            .map_err(|problem| anyhow::anyhow!("FIRST_SUPERUSER_PASSWORD: {problem}")),
    }
}

/// Creates the first admin if there is no admin, and `FIRST_SUPERUSER_PASSWORD` is set and not the default. Creates none
/// if a user has the address in `FIRST_SUPERUSER_EMAIL`. Returns whether the admin was created.
///
/// # Errors
/// As [`check_admin`] and [`ensure_admin`]: if the settings are invalid, the database does not answer, or the password cannot
/// be hashed.
pub(super) async fn create_first_admin(app: &App) -> anyhow::Result<bool> {
    let settings = &app.config.auth.admin;
    let mut conn = app.db.get().await?;
    if User::any_admin(&conn).await? {
        return Ok(false);
    }
    let Some(password) = settings.chosen_password() else {
        tracing::warn!("there is no admin: {CREATE_ADMIN_ADVICE}, or set FIRST_SUPERUSER_PASSWORD");
        return Ok(false);
    };
    let email = &settings.first_superuser_email;
    check_admin(settings)?;
    let personal = &app.config.organizations.personal;
    let admin = ensure_admin(&mut conn, &app.passwords, email, Some(password.to_owned()), personal).await?;
    match admin {
        EnsureAdminOutcome::Created => tracing::info!(email, "first admin created"),
        EnsureAdminOutcome::NotAdmin => tracing::warn!(
            email,
            "there is no admin, and FIRST_SUPERUSER_EMAIL is the address of a user: make sure that the user is who you \
             expect, then run `saas create-admin --promote`"
        ),
        EnsureAdminOutcome::Exists => {}
    }
    Ok(admin == EnsureAdminOutcome::Created)
}

/// Applies the pending migrations, then [completes the data](complete_data). Returns the names of the applied migrations.
///
/// # Errors
/// As [`migrations::up`] and [`complete_data`].
pub(super) async fn migrate(
    database: &Database,
    personal: &PersonalOrganizations,
) -> anyhow::Result<Vec<String>> {
    let applied = migrations::up(database).await?;
    complete_data(database, personal).await?;
    Ok(applied)
}

/// Adds data that existing accounts may lack after a migration: the keys of their addresses, which SQL cannot compute, and
/// their personal organizations if `PERSONAL_ORGANIZATIONS` is on.
///
/// # Errors
/// As [`db::connect`], [`email_keys::fill_missing_keys`] and [`personal_orgs::fill_missing`].
pub(super) async fn complete_data(
    database: &Database,
    personal: &PersonalOrganizations,
) -> anyhow::Result<()> {
    let mut conn = db::connect(database).await?;
    email_keys::fill_missing_keys(&conn).await.context("cannot fill the column users.email_key")?;
    if personal.personal_organizations {
        personal_orgs::fill_missing(&mut conn).await.context("cannot create the personal organizations")?;
    }
    Ok(())
}

/// Refuses to serve while an active admin has the default password. Only logs a warning if `DEBUG` is on and no other machine
/// can connect to `host`. Checks only the [`admin_password::MAX_ADMINS_AT_START`] newest passwords of admins.
///
/// # Errors
/// If one of these admins has the default password, unless only a warning is logged; the message has the fix. Also if the
/// database does not answer, or too many passwords are being hashed.
pub(super) async fn refuse_default_password(app: &App, host: IpAddr) -> anyhow::Result<()> {
    let admins = admin_password::find_default_passwords_at_start(app).await?;
    let Some(problem) = default_password_problem(&admins) else { return Ok(()) };
    if app.config.core.debug && is_loopback(host) {
        tracing::warn!("{problem}");
        return Ok(());
    }
    bail!("refusing to start: {problem}")
}

/// Returns a message about the admins with the default password, with the fix. `admins` are their addresses. `None` if
/// `admins` is empty.
pub(super) fn default_password_problem(admins: &[String]) -> Option<String> {
    let first = admins.first()?;
    Some(format!(
        "the default password, which is public, is the password of these active admins: {}. Replace it with `saas \
         create-admin --email {first} --set-password`",
        admins.join(", ")
    ))
}

/// Logs a warning if the clocks of this machine and of the database differ by more than [`MAX_CLOCK_OFFSET_SECONDS`].
///
/// # Errors
/// If the database does not answer.
pub(super) async fn warn_of_clock_difference(app: &App) -> anyhow::Result<()> {
    let conn = app.db.get().await?;
    if let Some(problem) = clock_problem(&conn).await? {
        tracing::warn!("the clock of this machine {problem}");
    }
    Ok(())
}

/// Compares the clock of this machine with that of the database. Returns the rest of a sentence about this clock, with the
/// fix; `None` if the difference is at most [`MAX_CLOCK_OFFSET_SECONDS`]. Access tokens contain times, so the clocks of all
/// replicas must agree.
///
/// # Errors
/// If the database does not answer.
pub(super) async fn clock_problem(conn: &AsyncPgConnection) -> anyhow::Result<Option<String>> {
    let offset = Utc::now() - DatabaseClock::read(conn).await?.now();
    let seconds = offset.abs().num_milliseconds() as f64 / 1e3;
    Ok((seconds > MAX_CLOCK_OFFSET_SECONDS).then(|| {
        format!(
            "differs from the database's by {seconds:.1} s: synchronize the clocks of both machines with NTP"
        )
    }))
}

/// Returns whether only this machine can connect to the address.
pub(super) fn is_loopback(host: IpAddr) -> bool {
    host.to_canonical().is_loopback()
}

/// Logs settings that work, but are unsafe in production or probably not intended.
pub(super) fn log_warnings(config: &Config, findings: &Findings) {
    for warning in config.warnings().iter().chain(&weaknesses(config, findings)) {
        tracing::warn!("{warning}");
    }
}

/// Returns warnings about settings that are unsafe in production, about secrets on the command line and about `.env`. They do
/// not stop a process.
pub(super) fn weaknesses(config: &Config, findings: &Findings) -> Vec<String> {
    let mut weaknesses = config.weaknesses();
    weaknesses.extend(findings.exposed_secrets());
    weaknesses.extend(findings.warnings.iter().cloned());
    weaknesses
}
