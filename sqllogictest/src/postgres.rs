//! A PostgreSQL 15 of a test's own, as the judge of standard SQL.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use tidemill_tests::Sql;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A server on a socket in a directory of its own, which goes when this goes.
pub struct Postgres {
    dir: String,
}

impl Postgres {
    fn command(program: &str, args: &[&str]) -> Result<()> {
        // SAFETY: getuid has no preconditions.
        let root = unsafe { libc::getuid() } == 0;
        let path = format!("{BIN}/{program}");
        let mut command = if root {
            Command::new("runuser")
        } else {
            Command::new(&path)
        };
        if root {
            command.args(["-u", "postgres", "--", &path]);
        }
        let status = command
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "{program} {args:?}: {status}");
        Ok(())
    }

    /// A new server; `None` where PostgreSQL isn't installed.
    pub fn start() -> Result<Option<Postgres>> {
        if !Path::new(BIN).join("initdb").exists() {
            eprintln!("there is no PostgreSQL 15 in {BIN}");
            return Ok(None);
        }
        let dir = tempfile::Builder::new()
            .prefix("tidemill-pg-")
            .tempdir()?
            .keep();
        // SAFETY: getuid has no preconditions.
        if unsafe { libc::getuid() } == 0 {
            let status = Command::new("chown").arg("postgres").arg(&dir).status()?;
            ensure!(status.success(), "chown postgres");
        }
        let postgres = Postgres {
            dir: dir.display().to_string(),
        };
        let data = format!("{}/db", postgres.dir);
        Self::command(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
        )?;
        let options = format!(
            "-k {} -c listen_addresses='' -c fsync=off -c timezone=UTC",
            postgres.dir
        );
        Self::command(
            "pg_ctl",
            &[
                "-D",
                &data,
                "-w",
                "-l",
                &format!("{}/log", postgres.dir),
                "-o",
                &options,
                "start",
            ],
        )?;
        Ok(Some(postgres))
    }

    /// A session.
    pub async fn connect(&self) -> Result<Sql> {
        Sql::connect_to(
            &format!("host={} user=postgres dbname=postgres", self.dir),
            0,
        )
        .await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = Self::command(
            "pg_ctl",
            &["-D", &format!("{}/db", self.dir), "-m", "immediate", "stop"],
        );
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
