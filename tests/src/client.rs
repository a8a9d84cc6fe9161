//! Clients: sessions over the wire with results as text, and psql.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// One session.
pub struct Sql {
    client: Client,
    port: u16,
}

/// A statement's failure as the server reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlFailure {
    /// Five characters; empty when the connection broke.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// DETAIL.
    pub detail: Option<String>,
    /// HINT.
    pub hint: Option<String>,
}

impl std::fmt::Display for SqlFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " DETAIL: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " HINT: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SqlFailure {}

impl From<tokio_postgres::Error> for SqlFailure {
    fn from(error: tokio_postgres::Error) -> SqlFailure {
        match error.as_db_error() {
            Some(db) => SqlFailure {
                sqlstate: db.code().code().to_owned(),
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint: db.hint().map(str::to_owned),
            },
            None => SqlFailure {
                sqlstate: String::new(),
                message: format!("{error}: {:?}", std::error::Error::source(&error)),
                detail: None,
                hint: None,
            },
        }
    }
}

/// A row as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

impl Sql {
    /// Connects as the default user to the default database.
    pub async fn connect(port: u16) -> Result<Sql> {
        Sql::connect_to(
            &format!("host=127.0.0.1 port={port} user=tidemill dbname=tidemill"),
            port,
        )
        .await
    }

    /// Connects with a connection string; `port` is kept for [`Sql::another`].
    pub async fn connect_to(config: &str, port: u16) -> Result<Sql> {
        let (client, connection) = tokio_postgres::connect(config, NoTls)
            .await
            .with_context(|| format!("connecting with {config}"))?;
        tokio::spawn(async move {
            // Ends with an error when the server is killed; the client's next call reports it.
            let _ = connection.await;
        });
        Ok(Sql { client, port })
    }

    /// A second session on the same server.
    pub async fn another(&self) -> Result<Sql> {
        Sql::connect(self.port).await
    }

    /// The driver's client, for typed queries, COPY and cancel.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs statements by the simple protocol; rows of all of them as text.
    pub async fn try_rows(&self, sql: &str) -> Result<Vec<Row>, SqlFailure> {
        let mut rows = Vec::new();
        for message in self.client.simple_query(sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push(
                    (0..row.len())
                        .map(|i| row.get(i).map(str::to_owned))
                        .collect(),
                );
            }
        }
        Ok(rows)
    }

    /// Like [`Sql::try_rows`], with the statement in the error.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        self.try_rows(sql).await.with_context(|| sql.to_owned())
    }

    /// Runs statements, ignoring their rows.
    pub async fn run(&self, sql: &str) -> Result<()> {
        self.rows(sql).await.map(|_| ())
    }

    /// Rows as lines with `|` between the columns and `NULL` for NULL, in the order they came.
    pub async fn lines(&self, sql: &str) -> Result<Vec<String>> {
        Ok(self.rows(sql).await?.iter().map(|row| line(row)).collect())
    }

    /// The one value of the one row.
    pub async fn value(&self, sql: &str) -> Result<String> {
        let rows = self.rows(sql).await?;
        match &rows[..] {
            [row] if row.len() == 1 => Ok(row[0].clone().unwrap_or_else(|| "NULL".into())),
            _ => bail!("{sql}: one value expected, got {rows:?}"),
        }
    }

    /// The one number of the one row.
    pub async fn number(&self, sql: &str) -> Result<i64> {
        let value = self.value(sql).await?;
        value
            .parse()
            .with_context(|| format!("{sql}: {value} isn't a whole number"))
    }

    /// Runs a statement that must fail with this SQLSTATE.
    pub async fn fails(&self, sqlstate: &str, sql: &str) -> Result<SqlFailure> {
        match self.try_rows(sql).await {
            Err(failure) if failure.sqlstate == sqlstate => Ok(failure),
            Err(failure) => bail!("{sql}: SQLSTATE {sqlstate} expected, got {failure}"),
            Ok(rows) => bail!(
                "{sql}: SQLSTATE {sqlstate} expected, got {} rows",
                rows.len()
            ),
        }
    }
}

/// A row as [`Sql::lines`] gives it.
pub fn line(row: &[Option<String>]) -> String {
    row.iter()
        .map(|v| v.as_deref().unwrap_or("NULL"))
        .collect::<Vec<_>>()
        .join("|")
}

/// Runs psql with `-X`, unaligned, tuples only, stopping at the first error, on a script given by stdin.
pub fn psql(port: u16, script: &str) -> Result<Output> {
    use std::io::Write;
    let mut child = psql_command(port)
        .args(["-qAt", "-v", "ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("psql (Debian package postgresql-client)")?;
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(script.as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// psql's command line for this server; psql block-buffers into pipes, so it runs under stdbuf.
pub fn psql_command(port: u16) -> Command {
    let mut command = Command::new("stdbuf");
    command.args([
        "-oL",
        "psql",
        "-X",
        "-h",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-U",
        "tidemill",
        "tidemill",
    ]);
    command.env("PGCONNECT_TIMEOUT", "20");
    command
}
