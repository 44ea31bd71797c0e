use std::{io::Write, path::Path, process::ExitCode};

use crate::db::migrations::{Migrations, lint::Finding};

/// Prints the dangerous statements of the migrations in `dir` that are newer than release 0.1.0 or, with `all`, of all
/// migrations. Returns exit code 1 if there are any.
///
/// # Errors
/// If the directory or a file cannot be read.
pub(super) fn check(dir: &Path, all: bool) -> anyhow::Result<ExitCode> {
    let report = Migrations::in_directory(dir)?.lint(all);
    let mut out = std::io::stdout();
    for Finding { migration, line, text, rule } in &report.findings {
        let file = dir.join(migration).join("up.sql");
        writeln!(out, "{}:{line}: {}\n    {text}", file.display(), rule.name)?;
        writeln!(out, "  Problem: {}.\n  Instead: {}.", rule.problem, rule.fix)?;
    }
    let (count, checked) = (report.findings.len(), report.checked);
    if count == 0 {
        writeln!(out, "checked {checked} migrations: nothing to change")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "checked {checked} migrations: {count} to change. docs/migrations.md explains the rules, and how to allow a statement"
    )?;
    Ok(ExitCode::FAILURE)
}
