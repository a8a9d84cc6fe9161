//! The server as a process: started on a free port, killed, restarted on the same directory.
//!
//! Invariant: a `Server` value owns its process; dropping it kills the process, so no test leaves one behind.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::client::Sql;
use crate::wait::DEADLINE;

/// Command line and environment of a server beside its data directory.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--workers`
    pub workers: Option<usize>,
    /// `--partitions`
    pub partitions: Option<usize>,
    /// `--init`
    pub init: Option<PathBuf>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Environment variables, e.g. `TIDEMILL_FAILPOINT`.
    pub env: Vec<(String, String)>,
}

impl Options {
    /// `--workers n`
    pub fn workers(n: usize) -> Options {
        Options {
            workers: Some(n),
            ..Options::default()
        }
    }

    /// Ends the process at the `n`-th pass of the named fail point (docs/design).
    pub fn fail_point(mut self, name: &str, n: usize) -> Options {
        self.env
            .push(("TIDEMILL_FAILPOINT".into(), format!("{name}:{n}")));
        self
    }
}

/// A running server.
pub struct Server {
    child: Child,
    port: u16,
    data_dir: PathBuf,
    log: PathBuf,
    command_hint: String,
}

/// The binary under test: `TIDEMILL_BIN`, or `tidemill` in the target directory that this test runs from.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIDEMILL_BIN") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    let candidates = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("tidemill"));
    candidates
        .into_iter()
        .find(|p| p.is_file())
        .with_context(|| {
            format!(
                "no binary `tidemill` near {}: run `cargo build --release --workspace` first",
                exe.display()
            )
        })
}

impl Server {
    /// Starts a server on `data_dir` (made if missing) and waits until it is ready.
    pub fn start(data_dir: &Path, options: &Options) -> Result<Server> {
        Server::try_start(data_dir, options)?.map_err(|(status, log)| {
            anyhow!("the server ended at its start with {status}; its log:\n{log}")
        })
    }

    /// Like [`Server::start`]; a server that ends before it is ready gives its status and log in the inner error.
    pub fn try_start(
        data_dir: &Path,
        options: &Options,
    ) -> Result<Result<Server, (ExitStatus, String)>> {
        let log = data_dir.with_extension("log");
        let mut log_file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)?;
        writeln!(log_file, "--- start {options:?}")?;
        let mut command = Command::new(binary()?);
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen", "127.0.0.1:0"]);
        if let Some(n) = options.workers {
            command.args(["--workers", &n.to_string()]);
        }
        if let Some(n) = options.partitions {
            command.args(["--partitions", &n.to_string()]);
        }
        if let Some(path) = &options.init {
            command.arg("--init").arg(path);
        }
        command
            .args(&options.args)
            .envs(options.env.iter().cloned());
        command.env("RUST_BACKTRACE", "1");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file.try_clone()?);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let (lines, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = writeln!(log_file, "{line}");
                let _ = lines.send(line);
            }
        });
        let mut server = Server {
            child,
            port: 0,
            data_dir: data_dir.to_owned(),
            log,
            command_hint: String::new(),
        };
        let deadline = Instant::now() + DEADLINE;
        while server.port == 0 || server.command_hint.is_empty() {
            match ready.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => server.read_ready_line(&line),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = server.child.wait()?;
                    return Ok(Err((status, server.log_text())));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!(
                        "the server isn't ready after {DEADLINE:?}; its log:\n{}",
                        server.log_text()
                    )
                }
            }
        }
        Ok(Ok(server))
    }

    fn read_ready_line(&mut self, line: &str) {
        if let Some(rest) = line.split("listening on ").nth(1) {
            let port = rest.split(':').nth(1).unwrap_or("");
            let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
            self.port = digits.parse().unwrap_or(0);
        }
        if let Some(at) = line.find("psql ") {
            self.command_hint = line[at..].trim().to_owned();
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The psql command that it printed.
    pub fn psql_command(&self) -> &str {
        &self.command_hint
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What all its runs on this directory have printed, the end of it.
    pub fn log_text(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        const TAIL_BYTES: usize = 8_000;
        String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL_BYTES)..]).into_owned()
    }

    /// A new session.
    pub async fn connect(&self) -> Result<Sql> {
        Sql::connect(self.port).await
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        // SAFETY: kill(2) has no memory effects; the child hasn't been waited for, so the pid is ours.
        unsafe { libc::kill(self.pid() as libc::pid_t, libc::SIGTERM) };
        self.wait()
    }

    /// Waits for the process to end by itself (a fail point, SIGTERM).
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > DEADLINE {
                bail!(
                    "the server still runs after {DEADLINE:?}; its log:\n{}",
                    self.log_text()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, then a new server on the same directory.
    pub fn restart(&mut self, options: &Options) -> Result<()> {
        self.kill();
        *self = Server::start(&self.data_dir.clone(), options)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}\n---", self.log_text());
        }
    }
}
