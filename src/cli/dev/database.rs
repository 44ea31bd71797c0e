//! The migrations and the first admin, which `saas dev` writes into the database before it serves.
//!
//! `saas dev` writes both into its private database without asking. An external database, which the developer has configured,
//! may be shared or in production. So `saas dev` migrates an external database only if the developer confirms or sets
//! `--migrate`, and never creates an admin with the default password in it.

use std::io::{IsTerminal, Write};

use anyhow::bail;

use crate::{
    app::App,
    cli::startup::create_first_admin,
    config::{DEFAULT_ADMIN_PASSWORD, Database},
    db::{self, migrations},
    email_address::EmailLookup,
    models::user::User,
    services::admins::{EnsureAdminOutcome, ensure_admin},
};

/// Returns whether to apply the pending migrations of an external database: `true` if the developer confirms on the terminal,
/// `false` if no migration is pending. Does not change the database.
///
/// # Errors
/// If the database cannot be reached, or has pending migrations that the developer does not confirm. Without a terminal, the
/// developer cannot confirm.
pub(super) async fn confirm_migrations(database: &Database) -> anyhow::Result<bool> {
    let conn = db::connect(database).await?;
    let pending = migrations::pending(&conn).await?;
    if pending.is_empty() {
        return Ok(false);
    }
    let what = format!("pending migrations ({})", pending.join(", "));
    let location = database.location();
    if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        write!(
            std::io::stderr(),
            "{location} has {what}.\n`saas dev` has not created it. Apply them? [y/N] "
        )?;
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).map(|_| answer)
        });
        if matches!(answer.await??.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(true);
        }
    }
    bail!(
        "{location} has {what}; nothing was changed. Apply them with `saas dev --migrate` or `saas migrate up`, or unset \
         DATABASE_URL and POSTGRES_SERVER to use a private database"
    )
}

/// Creates the admin with `FIRST_SUPERUSER_EMAIL` in the private database, unless a user has this address. Returns the text of
/// the banner about the login.
///
/// # Errors
/// If the address in `FIRST_SUPERUSER_EMAIL` is invalid, the database does not answer, or the password cannot be hashed.
pub(super) async fn create_private_admin(app: &App) -> anyhow::Result<String> {
    let settings = &app.config.auth.admin;
    let email = &settings.first_superuser_email;
    let password = settings.chosen_password().unwrap_or(DEFAULT_ADMIN_PASSWORD);
    let mut conn = app.db.get().await?;
    let personal = &app.config.organizations.personal;
    let admin = ensure_admin(&mut conn, &app.passwords, email, Some(password.to_owned()), personal).await?;
    if admin == EnsureAdminOutcome::NotAdmin {
        return Ok(format!("{email} is not an admin: run `saas create-admin --promote`"));
    }
    // The terminal does not show a password that the developer has set.
    if password != DEFAULT_ADMIN_PASSWORD {
        return Ok(format!("{email} / the value of FIRST_SUPERUSER_PASSWORD"));
    }
    let has_default_password = match admin {
        EnsureAdminOutcome::Exists => {
            let user = User::find_by_email(&conn, &EmailLookup::new(email)).await?;
            let hash = user.and_then(|user| user.hashed_password);
            app.passwords.verify(password.to_owned(), hash).await?
        }
        _ => true,
    };
    Ok(match has_default_password {
        true => format!("{email} / {password}"),
        false => format!("{email} / the password that was set for it"),
    })
}

/// Creates the first admin in an external database, as [`create_first_admin`] does. Returns the text of the banner about the
/// login.
///
/// # Errors
/// As [`create_first_admin`].
pub(super) async fn create_external_admin(app: &App) -> anyhow::Result<String> {
    Ok(match create_first_admin(app).await? {
        true => {
            let email = &app.config.auth.admin.first_superuser_email;
            format!("{email} / the value of FIRST_SUPERUSER_PASSWORD")
        }
        false => "no admin was created: run `saas create-admin --email you@example.com`".into(),
    })
}
