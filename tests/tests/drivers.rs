//! Drivers of other languages each run a session of their own: asyncpg, psycopg2, psycopg, SQLAlchemy, node-postgres, JDBC.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tidemill_tests::{Options, Server, run};

/// Where Debian's package libpostgresql-jdbc-java puts the driver.
const JDBC: &str = "/usr/share/java/postgresql.jar";

/// A file of this crate's directory.
fn here(path: &str) -> OsString {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).into()
}

fn env_or(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

/// Runs a session against a fresh server: it must end well and print `ok` last.
fn session(needs: &str, command: impl Fn(u16) -> Command + Send + 'static) {
    let needs = needs.to_owned();
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let mut command = command(server.port());
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output())
            .await?
            .with_context(|| format!("{needs} is needed; ./test installs it"))?;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(
            output.status.success() && out.trim().ends_with("ok"),
            "the session failed (it needs {needs}; ./test installs it):\n{out}{err}"
        );
        Ok(()) as Result<()>
    });
}

fn python(driver: &'static str, package: &str) {
    session(&format!("PyPI package {package}"), move |port| {
        let mut command = Command::new("timeout");
        command
            .arg("180")
            .arg(env_or("TIDEMILL_PYTHON", "python3"))
            .arg(here("python/drivers.py"))
            .args([&port.to_string(), driver]);
        command
    });
}

#[test]
fn asyncpg_session() {
    python("asyncpg", "asyncpg");
}

#[test]
fn psycopg2_session() {
    python("psycopg2", "psycopg2-binary");
}

#[test]
fn psycopg_driver_session() {
    python("psycopg", "psycopg[binary]");
}

#[test]
fn sqlalchemy_session() {
    python("sqlalchemy", "SQLAlchemy");
}

#[test]
fn node_session() {
    let packages = "node, and in NODE_PATH the npm packages pg, pg-cursor and pg-query-stream";
    session(packages, |port| {
        let mut command = Command::new("timeout");
        command
            .args(["180", "node"])
            .arg(here("node/session.js"))
            .arg(port.to_string())
            .env("NODE_PATH", env_or("TIDEMILL_NODE_MODULES", ""));
        command
    });
}

#[test]
fn jdbc_session() {
    let packages = "a JDK and Debian's libpostgresql-jdbc-java";
    session(packages, |port| {
        let mut command = Command::new("timeout");
        command
            .args([
                "180",
                "java",
                "-Xshare:auto",
                "-XX:TieredStopAtLevel=1",
                "-cp",
            ])
            .arg(env_or("TIDEMILL_JDBC", JDBC))
            .arg(here("java/Session.java"))
            .arg(port.to_string());
        command
    });
}
