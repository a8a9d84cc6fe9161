//! A real PostgreSQL 15 for tests that compare with it: own data directory, unix socket only.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARIES: &str = "/usr/lib/postgresql/15/bin";
/// How long the server may take to start.
const START_WAIT: Duration = Duration::from_secs(60);

pub struct Postgres {
    dir: tempfile::TempDir,
    server: Child,
}

impl Postgres {
    pub fn start() -> Postgres {
        assert!(
            Path::new(BINARIES).join("postgres").exists(),
            "{BINARIES}/postgres is missing: apt-get install postgresql"
        );
        let dir = tempfile::tempdir().expect("a directory for PostgreSQL");
        let owner = owner();
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("chown to postgres");
        }
        let data = dir.path().join("data");
        let status = program("initdb", owner)
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
                "-D",
            ])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .expect("initdb runs");
        assert!(status.success(), "initdb failed");
        let server = program("postgres", owner)
            .arg("-D")
            .arg(&data)
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "timezone=UTC",
                "-k",
            ])
            .arg(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres starts");
        let postgres = Postgres { dir, server };
        let started = Instant::now();
        while !postgres.socket_dir().join(".s.PGSQL.5432").exists() {
            assert!(started.elapsed() < START_WAIT, "PostgreSQL did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        postgres
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        let config = format!(
            "host={} user=postgres dbname=postgres",
            self.dir.path().display()
        );
        let started = Instant::now();
        loop {
            match tokio_postgres::connect(&config, tokio_postgres::NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                // The socket is there a moment before the server is ready.
                Err(error) => assert!(started.elapsed() < START_WAIT, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// PostgreSQL refuses to run as root.
fn owner() -> Option<(u32, u32)> {
    // SAFETY: getuid has no preconditions.
    if unsafe { libc::getuid() } != 0 {
        return None;
    }
    // SAFETY: the name is a C string; the record is read before another call could change it.
    let entry = unsafe { libc::getpwnam(c"postgres".as_ptr()).as_ref() };
    let entry = entry.expect("there is no user postgres: apt-get install postgresql");
    Some((entry.pw_uid, entry.pw_gid))
}

fn program(name: &str, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(Path::new(BINARIES).join(name));
    command.env("LC_ALL", "C").current_dir("/");
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
}
