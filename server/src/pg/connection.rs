//! One connection's life after startup: messages in, answers out, until either side ends it.
//!
//! Invariant: each Query and each Sync is answered by exactly one ReadyForQuery; after an error in
//! the extended protocol everything up to the next Sync is skipped.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use chrono_tz::Tz;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Parsed, Statement as Sql};

use super::backend::row_description;
use super::extended::Statement;
use super::frontend::{Malformed, Message};
use super::portals::{Effect, Portals};
use super::rows::{CopyForm, Cursor, Form};
use super::types::TextStyle;
use super::wire::{Guard, Limit, Stop, Wire, beside, run_beside};
use crate::session::backends::Backend;
use crate::session::{CopySink, Response, Session, TransactionStatus};

/// A connection past its startup.
pub struct Connection {
    pub(super) wire: Wire,
    pub(super) guard: Guard,
    pub(super) session: Box<dyn Session>,
    pub(super) statements: HashMap<String, Arc<Statement>>,
    pub(super) portals: Portals,
    /// Where others see what this one is doing.
    pub(super) backend: Arc<Backend>,
    /// How `timestamptz` is shown; `None`: UTC.
    pub(super) style: TextStyle,
    /// Executes since the last Sync.
    pub(super) executed: u64,
    /// After an error in the extended protocol.
    skipping: bool,
    /// The client has been told that it is its turn, and has said nothing since.
    idle: bool,
}

impl Connection {
    /// Takes over after the greeting.
    pub fn new(
        wire: Wire,
        guard: Guard,
        session: Box<dyn Session>,
        backend: Arc<Backend>,
    ) -> Connection {
        Connection {
            wire,
            guard,
            session,
            statements: HashMap::new(),
            portals: Portals::default(),
            backend,
            style: TextStyle::default(),
            executed: 0,
            skipping: false,
            idle: true,
        }
    }

    /// Serves until the end; says why it ended.
    pub async fn serve(&mut self) -> Stop {
        match self.messages().await {
            Ok(()) => Stop::Gone,
            Err(stop) => stop,
        }
    }

    /// The socket, for the last words.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    async fn messages(&mut self) -> Result<(), Stop> {
        self.changes()?;
        self.ready()?;
        loop {
            let message = self.wire.message(&mut self.guard, true).await?;
            self.start_clock(&message);
            match message {
                Message::Terminate => return Ok(()),
                Message::Query(_) if self.skipping => {}
                Message::Query(sql) => {
                    if let Err(error) = self.query(&sql).await {
                        self.failed(error)?;
                    }
                    self.end_group().await?;
                }
                Message::Invalid(b'Q', malformed) => {
                    self.failed(Stop::Failed(violation(&malformed)))?;
                    self.ready()?;
                }
                Message::Sync => {
                    self.skipping = false;
                    self.end_group().await?;
                }
                // The rest of a COPY that failed.
                Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => {}
                Message::Unknown(kind) => {
                    return Err(Stop::Fatal(SqlError::new(
                        "08P01",
                        format!("invalid frontend message type {kind}"),
                    )));
                }
                _ if self.skipping => {}
                message => {
                    if let Err(stop) = self.extended(message).await {
                        self.failed(stop)?;
                        self.skipping = true;
                    }
                }
            }
        }
    }

    /// Tells the client of a statement's error; other stops end the connection.
    fn failed(&mut self, stop: Stop) -> Result<(), Stop> {
        let Stop::Failed(error) = stop else {
            return Err(stop);
        };
        self.session.failed();
        self.notices()?;
        self.wire.error("ERROR", &error)?;
        Ok(())
    }

    /// Ends the implicit transaction of a Query or of a group up to Sync.
    async fn end_group(&mut self) -> Result<(), Stop> {
        self.executed = 0;
        let synced = self.wire.run(&mut self.guard, self.session.sync()).await;
        if let Err(stop) = synced.and_then(|result| result.map_err(Stop::from)) {
            self.failed(stop)?;
        }
        if self.session.transaction_status() == TransactionStatus::Idle {
            // Portals live as long as their transaction.
            self.portals.clear();
        }
        self.changes()?;
        self.ready()
    }

    /// The client's turn, for as long as its settings say.
    fn ready(&mut self) -> Result<(), Stop> {
        let status = self.session.transaction_status();
        let timeouts = self.session.timeouts();
        match status {
            TransactionStatus::Idle => self.guard.limit(Limit::Idle, timeouts.idle),
            _ => {
                let kind = Limit::IdleInTransaction;
                self.guard.limit(kind, timeouts.idle_in_transaction);
            }
        }
        self.idle = true;
        self.backend.waits(match status {
            TransactionStatus::Idle => "idle",
            TransactionStatus::Open => "idle in transaction",
            TransactionStatus::Failed => "idle in transaction (aborted)",
        });
        Ok(self.wire.ready(status)?)
    }

    /// A statement's time begins with its first message; in the extended protocol it ends with its Execute.
    fn start_clock(&mut self, message: &Message) {
        let statement = matches!(
            message,
            Message::Query(_) | Message::Parse { .. } | Message::Bind(_) | Message::Execute { .. }
        );
        let begins = self.idle || (statement && !self.guard.is_timed());
        self.idle = false;
        if begins {
            let time = self.session.timeouts().statement;
            self.guard.limit(Limit::Statement, time);
        }
    }

    fn notices(&mut self) -> Result<(), Stop> {
        for notice in self.session.take_notices() {
            self.wire.notice(&notice)?;
        }
        Ok(())
    }

    fn changes(&mut self) -> Result<(), Stop> {
        for (name, value) in self.session.take_parameter_changes() {
            if name.eq_ignore_ascii_case("timezone") {
                self.style.zone = Tz::from_str(&value).ok().filter(|zone| *zone != Tz::UTC);
            }
            if name.eq_ignore_ascii_case("intervalstyle") {
                self.style.iso_intervals = value == "iso_8601";
            }
            if name == "application_name" {
                self.backend.renamed(&value);
            }
            self.wire.parameter(&name, &value)?;
        }
        Ok(())
    }

    /// A simple query: all of its statements, up to the first error.
    async fn query(&mut self, sql: &str) -> Result<(), Stop> {
        self.backend.runs(sql);
        let statements = beside(sql, || self.session.parse(sql))?;
        if statements.is_empty() {
            return Ok(self.wire.empty_query()?);
        }
        let implicit = statements.len() > 1;
        for statement in statements {
            if self.uses_portal(&statement.statement).await? {
                continue;
            }
            let response = match self.deallocated(&statement) {
                Some(response) => response,
                None => {
                    let after = After::of(&statement);
                    let work = self.session.execute_parsed(statement, implicit);
                    let work = run_beside(sql, work);
                    let response = self.wire.run(&mut self.guard, work).await??;
                    self.done(after);
                    response
                }
            };
            self.respond(response).await?;
        }
        Ok(())
    }

    /// DEALLOCATE means the protocol's prepared statements too. The answer, if the session has no part in it.
    pub(super) fn deallocated(&mut self, parsed: &Parsed) -> Option<Response> {
        match &parsed.statement {
            Sql::Deallocate { name: Some(name) } if !self.is_failed() => self
                .statements
                .remove(name)
                .map(|_| Response::Tag("DEALLOCATE".into())),
            _ => None,
        }
    }

    /// The session has executed a statement that means something for what the connection has.
    pub(super) fn done(&mut self, after: After) {
        if after.forgets {
            self.statements.clear();
        }
        if let Some(effect) = after.effect {
            self.portals.apply(effect);
        }
    }

    /// The transaction has failed, and not come to its end yet.
    pub(super) fn is_failed(&self) -> bool {
        self.session.transaction_status() == TransactionStatus::Failed
    }

    /// Sends a response with its description.
    async fn respond(&mut self, response: Response) -> Result<(), Stop> {
        self.before()?;
        match response {
            Response::Rows {
                schema,
                batches,
                verb,
                counted,
                live,
            } => {
                self.wire.put(|out| row_description(&schema, &[], out))?;
                self.untimed(live);
                self.guard.settle(self.is_committed(verb));
                let mut cursor = Cursor::new(schema, batches, live, self.style);
                let form = Form::Data(Vec::new());
                let sent = cursor.send(&mut self.wire, &mut self.guard, &form, 0);
                let sent = sent.await;
                self.guard.settle(false);
                sent?;
                self.notices()?;
                Ok(self.wire.complete(tag(verb, counted, cursor.sent))?)
            }
            other => self.respond_without_rows(other).await,
        }
    }

    /// `statement_timeout` is not for streams that are meant to go on.
    pub(super) fn untimed(&mut self, live: bool) {
        if live {
            self.guard.lift();
        }
    }

    /// Whether rows tell of a change that is committed, not of one within a transaction.
    pub(super) fn is_committed(&self, verb: &str) -> bool {
        matches!(verb, "INSERT 0" | "UPDATE" | "DELETE")
            && self.session.transaction_status() == TransactionStatus::Idle
    }

    /// Notices and parameters precede a response.
    pub(super) fn before(&mut self) -> Result<(), Stop> {
        self.notices()?;
        self.changes()
    }

    /// Everything but rows, which need a description or formats.
    pub(super) async fn respond_without_rows(&mut self, response: Response) -> Result<(), Stop> {
        match response {
            Response::Empty => Ok(self.wire.empty_query()?),
            Response::Tag(tag) => Ok(self.wire.complete(tag)?),
            Response::CopyOut {
                schema,
                batches,
                options,
                live,
            } => {
                let form = CopyForm::new(&options);
                self.wire
                    .copy_out(schema.fields().len(), form.is_binary())?;
                self.wire.put(|out| form.head(&schema, out))?;
                self.untimed(live);
                let mut cursor = Cursor::new(schema, batches, live, self.style);
                let form = Form::Copy(form);
                cursor
                    .send(&mut self.wire, &mut self.guard, &form, 0)
                    .await?;
                if let Form::Copy(form) = &form {
                    self.wire.put(|out| form.tail(out))?;
                }
                self.wire.copy_done()?;
                self.notices()?;
                Ok(self.wire.complete(format!("COPY {}", cursor.sent))?)
            }
            Response::CopyIn {
                schema,
                options,
                sink,
            } => {
                self.wire.copy_in(schema.fields().len(), options.binary)?;
                let rows = self.copy_in(sink).await?;
                self.notices()?;
                Ok(self.wire.complete(format!("COPY {rows}"))?)
            }
            Response::Rows { .. } => Err(Stop::Failed(SqlError::internal(
                "rows without a description",
            ))),
        }
    }

    /// Feeds the client's COPY data to their sink; the number of rows.
    async fn copy_in(&mut self, mut sink: Box<dyn CopySink>) -> Result<u64, Stop> {
        match self.copy_data(sink.as_mut()).await {
            Ok(()) => Ok(self.wire.run(&mut self.guard, sink.done()).await??),
            Err(stop) => {
                let why = match &stop {
                    Stop::Failed(error) | Stop::Fatal(error) => error.message.clone(),
                    Stop::Gone => "the client is gone".into(),
                    Stop::Shutdown => "the server stops".into(),
                };
                sink.fail(why).await;
                Err(stop)
            }
        }
    }

    async fn copy_data(&mut self, sink: &mut dyn CopySink) -> Result<(), Stop> {
        loop {
            match self.wire.message(&mut self.guard, false).await? {
                Message::CopyData(bytes) => {
                    self.wire.run(&mut self.guard, sink.data(bytes)).await??;
                }
                Message::CopyDone => return Ok(()),
                Message::CopyFail(reason) => {
                    return Err(Stop::Failed(SqlError::new(
                        "57014",
                        format!("COPY from stdin failed: {reason}"),
                    )));
                }
                // Clients send these before they know that data are wanted.
                Message::Flush | Message::Sync => {}
                Message::Terminate => return Err(Stop::Gone),
                Message::Invalid(_, malformed) => {
                    return Err(Stop::Failed(violation(&malformed)));
                }
                _ => {
                    return Err(Stop::Failed(SqlError::new(
                        "08P01",
                        "unexpected message type during COPY from stdin",
                    )));
                }
            }
        }
    }
}

/// What is to be done once a statement is executed.
pub(super) struct After {
    /// It forgets prepared statements.
    forgets: bool,
    effect: Option<Effect>,
}

impl After {
    pub(super) fn of(parsed: &Parsed) -> After {
        let statement = &parsed.statement;
        After {
            forgets: matches!(statement, Sql::Deallocate { name: None } | Sql::Discard),
            effect: Effect::of(statement),
        }
    }
}

/// The error of a frame that can't be read.
pub(super) fn violation(malformed: &Malformed) -> SqlError {
    let code = match malformed {
        Malformed::Format => "08P01",
        Malformed::Encoding => "22021",
    };
    SqlError::new(code, malformed.to_string())
}

/// `SELECT 3`, or the verb alone.
pub(super) fn tag(verb: &str, counted: bool, rows: u64) -> String {
    match counted {
        true => format!("{verb} {rows}"),
        false => verb.to_string(),
    }
}
