//! Directories of migrations, and their states in a database.

use std::{fs, process::Command};

use saas::db::{
    self,
    migrations::{Migrations, State},
};

use super::{
    process::{TempDir, saas},
    servers::TestDatabase,
};

/// A directory of migrations.
pub struct Folder(TempDir);

impl Folder {
    /// Creates a directory with these migrations: the name, the text of `up.sql`, and the text of `down.sql` of each.
    pub fn new(migrations: &[[&str; 3]]) -> Self {
        let folder = Self(TempDir::new());
        for [name, up, down] in migrations {
            folder.write(&format!("{name}/up.sql"), up);
            folder.write(&format!("{name}/down.sql"), down);
        }
        folder
    }

    /// Creates a directory with two migrations: `1_first`, which creates a table with two equal rows, and `2_second`
    /// with the given text of `up.sql`.
    pub fn with_second(up: &str) -> Self {
        let first = "CREATE TABLE first (id INT);\nINSERT INTO first VALUES (1), (1);";
        Self::new(&[["1_first", first, "DROP TABLE first;"], ["2_second", up, "SELECT 1;"]])
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn migrations(&self) -> Migrations {
        Migrations::in_directory(self.0.path()).unwrap()
    }

    pub fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

/// Returns the state of each migration in a database.
pub async fn states(migrations: &Migrations, database: &TestDatabase) -> Vec<State> {
    let conn = db::connect(&database.settings()).await.unwrap();
    let status = migrations.status(&conn).await.unwrap();
    status.into_iter().map(|migration| migration.state).collect()
}

/// Returns a command that runs `saas migrate` on a database.
pub fn migrate(database: &TestDatabase, args: &[&str]) -> Command {
    let mut command = saas(&[&["migrate"], args].concat());
    command.env("DATABASE_URL", &database.url);
    command
}
