//! The demo's server: this binary, as a process of its own, so that it can be killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use super::PATIENCE;

/// A running server.
pub struct Server {
    child: Option<Child>,
    address: String,
    /// Reads what the server prints, so that it never blocks on it.
    _output: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts a server on `root/data` and waits until it listens.
    pub async fn start(root: &Path) -> anyhow::Result<Server> {
        let binary: PathBuf = std::env::current_exe().context("can't find the own binary")?;
        let mut child = Command::new(binary)
            .arg("serve")
            .arg("--data-dir")
            .arg(root.join("data"))
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("can't start the server")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = timeout(PATIENCE, lines.next_line())
            .await
            .context("the server did not start in time")??;
        let Some(address) = first
            .as_deref()
            .and_then(|l| l.strip_prefix("listening on "))
        else {
            bail!("the server did not start; its messages are above");
        };
        let address = address.to_string();
        let output =
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Server {
            child: Some(child),
            address,
            _output: output,
        })
    }

    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }

    /// The psql command to connect.
    pub fn psql(&self) -> String {
        format!(
            "psql -h 127.0.0.1 -p {} -U tidemill -d tidemill",
            self.port()
        )
    }

    /// The process id, for messages.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).unwrap_or(0)
    }

    /// A connection.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let config = format!(
            "host=127.0.0.1 port={} user=tidemill dbname=tidemill",
            self.port()
        );
        let (client, connection) = tokio_postgres::connect(&config, NoTls)
            .await
            .context("can't connect to the demo's server")?;
        // It ends with an error when the server is killed, which is part of the show.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("can't kill the demo's server")?;
        }
        Ok(())
    }

    /// Lets the server live on after the demo.
    pub fn leave(mut self) {
        if let Some(child) = self.child.take() {
            // Dropping a child that is killed on drop would kill it; it is meant to stay until somebody ends it.
            std::mem::forget(child);
        }
    }
}
