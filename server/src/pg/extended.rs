//! The extended protocol: Parse, Bind, Describe, Execute, Close, Flush.
//!
//! Invariant: a prepared statement's result description is fixed at Parse, that of FETCH and EXECUTE, which is of something else,
//! at Bind; a plan that would give other columns is an error, never rows that the client would misread.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use bytes::{BufMut, BytesMut};
use chrono_tz::Tz;
use tidemill_planner::SqlError;
use tidemill_planner::ast::Statement as Sql;

use super::backend::{is_binary, row_description};
use super::connection::{After, Connection, tag, violation};
use super::frontend::{Bind, Message, Target};
use super::params;
use super::portals::taken;
use super::rows::{Cursor, Form};
use super::types::{oid, type_of_oid, wire_type};
use super::wire::{Stop, run_beside};
use crate::session::{ParamValue, Prepared, Response, aborted};

/// A prepared statement.
pub struct Statement {
    prepared: Prepared,
    /// Types of parameters as the client declared them; 0: it didn't.
    declared: Vec<u32>,
    /// RowDescription with all columns in text format, ready to send.
    description: BytesMut,
}

impl Statement {
    fn new(prepared: Prepared, declared: Vec<u32>) -> Result<Statement, SqlError> {
        let mut description = BytesMut::new();
        if let Some(schema) = &prepared.columns {
            row_description(schema, &[], &mut description)?;
        }
        Ok(Statement {
            prepared,
            declared,
            description,
        })
    }
}

/// A statement with parameters.
pub struct Portal {
    statement: Arc<Statement>,
    formats: Vec<i16>,
    state: State,
}

enum State {
    Bound(Vec<ParamValue>),
    Suspended(Box<Suspended>),
    Done { rows: bool },
}

/// Rows of which the client has fetched some.
struct Suspended {
    cursor: Cursor,
    verb: &'static str,
    counted: bool,
}

impl Connection {
    /// One message of the extended protocol other than Sync.
    pub(super) async fn extended(&mut self, message: Message) -> Result<(), Stop> {
        match message {
            Message::Parse { name, sql, types } => self.parse(name, &sql, &types).await,
            Message::Bind(bind) => self.bind(bind),
            Message::Describe(Target::Statement(name)) => self.describe_statement(&name),
            Message::Describe(Target::Portal(name)) => self.describe_portal(&name),
            Message::Execute { portal, max_rows } => {
                let executed = self.execute(&portal, max_rows).await;
                // The next statement of a pipeline has its own time.
                self.guard.lift();
                executed
            }
            Message::Close(target) => {
                match target {
                    Target::Statement(name) => drop(self.statements.remove(&name)),
                    Target::Portal(name) => {
                        if self.portals.remove(&name).is_none() {
                            self.session.close_cursor(&name);
                        }
                    }
                }
                Ok(self.wire.close_complete()?)
            }
            Message::Flush => self.wire.flush(&mut self.guard).await,
            Message::Invalid(_, malformed) => Err(Stop::Failed(violation(&malformed))),
            other => Err(Stop::Failed(SqlError::internal(format!(
                "{other:?} is not a message of the extended protocol"
            )))),
        }
    }

    async fn parse(&mut self, name: String, sql: &str, types: &[u32]) -> Result<(), Stop> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Stop::Failed(SqlError::new(
                "42P05",
                format!("prepared statement \"{name}\" already exists"),
            )));
        }
        let as_said = types.to_vec();
        let types = types
            .iter()
            .map(|oid| declared(*oid))
            .collect::<Result<_, _>>()?;
        let work = run_beside(sql, self.session.prepare(sql, types));
        let prepared = self.wire.run(&mut self.guard, work).await??;
        let statement = Statement::new(prepared, as_said)?;
        self.statements.insert(name, Arc::new(statement));
        self.before_parse_complete()
    }

    fn before_parse_complete(&mut self) -> Result<(), Stop> {
        for notice in self.session.take_notices() {
            self.wire.notice(&notice)?;
        }
        Ok(self.wire.parse_complete()?)
    }

    fn statement(&self, name: &str) -> Result<Arc<Statement>, SqlError> {
        self.statements.get(name).map(Arc::clone).ok_or_else(|| {
            SqlError::new(
                "26000",
                match name {
                    "" => "unnamed prepared statement does not exist".into(),
                    name => format!("prepared statement \"{name}\" does not exist"),
                },
            )
        })
    }

    fn bind(&mut self, bind: Bind) -> Result<(), Stop> {
        let statement = self.current(self.statement(&bind.statement)?)?;
        let params = bound(&statement, &bind, self.style.zone)?;
        let columns = statement.prepared.columns.as_ref();
        let columns = columns.map_or(0, |schema| schema.fields().len());
        if bind.results.len() > 1 && bind.results.len() != columns {
            return Err(Stop::Failed(SqlError::new(
                "08P01",
                format!(
                    "bind message has {} result formats but query has {columns} columns",
                    bind.results.len()
                ),
            )));
        }
        if self.session.cursor(&bind.portal).is_some() {
            return Err(Stop::Failed(taken(&bind.portal)));
        }
        let portal = Portal {
            statement,
            formats: bind.results,
            state: State::Bound(params),
        };
        self.portals.insert(bind.portal, portal)?;
        Ok(self.wire.bind_complete()?)
    }

    /// The statement with the columns that it has now, if it is one whose columns are those of something else: FETCH and EXECUTE.
    fn current(&self, statement: Arc<Statement>) -> Result<Arc<Statement>, SqlError> {
        let prepared = &statement.prepared;
        let Some(columns) = self.session.columns_now(&prepared.parsed) else {
            return Ok(statement);
        };
        if columns == prepared.columns {
            return Ok(statement);
        }
        let prepared = Prepared {
            columns,
            ..prepared.clone()
        };
        let declared = statement.declared.clone();
        Ok(Arc::new(Statement::new(prepared, declared)?))
    }

    fn describe_statement(&mut self, name: &str) -> Result<(), Stop> {
        let statement = self.statement(name)?;
        // A client is told what it said: drivers hold it for a mistake else.
        let said = statement
            .declared
            .iter()
            .copied()
            .chain(std::iter::repeat(0));
        let params = statement.prepared.params.iter().zip(said);
        let oids = params.map(|(field, said)| match said {
            0 | oid::UNKNOWN | VOID => wire_type(field).oid,
            said => said,
        });
        let oids = oids.collect();
        self.wire.parameter_description(oids)?;
        self.describe(&statement, &[])
    }

    fn describe_portal(&mut self, name: &str) -> Result<(), Stop> {
        let Some(portal) = self.portals.get(name) else {
            // Drivers ask for the columns of what DECLARE has opened.
            let schema = self.session.cursor(name).ok_or_else(|| no_portal(name))?;
            return Ok(self.wire.put(|out| row_description(&schema, &[], out))?);
        };
        let (statement, formats) = (Arc::clone(&portal.statement), portal.formats.clone());
        self.describe(&statement, &formats)
    }

    fn describe(&mut self, statement: &Statement, formats: &[i16]) -> Result<(), Stop> {
        match &statement.prepared.columns {
            None => self.wire.no_data()?,
            Some(_) if formats.iter().all(|format| *format == 0) => self.wire.put(|out| {
                out.put_slice(&statement.description);
                Ok::<(), SqlError>(())
            })?,
            Some(schema) => self.wire.put(|out| row_description(schema, formats, out))?,
        }
        Ok(())
    }

    async fn execute(&mut self, name: &str, max_rows: u32) -> Result<(), Stop> {
        let failed = self.is_failed();
        let portal = self.portals.get_mut(name).ok_or_else(|| no_portal(name))?;
        if failed && matches!(portal.state, State::Suspended(_)) {
            return Err(Stop::Failed(aborted()));
        }
        let statement = Arc::clone(&portal.statement);
        // A lone statement before its Sync commits by itself, without a transaction around it; but not one whose rows are still to be
        // read then. What RETURNING gives is there as a whole.
        let whole = matches!(
            statement.prepared.parsed.statement,
            Sql::Insert(_) | Sql::Update(_) | Sql::Delete(_)
        );
        let implicit = self.executed > 0
            || max_rows > 0 && !whole
            || !self.wire.sync_is_next(&mut self.guard).await?;
        self.executed += 1;
        self.backend.runs(&statement.prepared.parsed.sql);
        let done = State::Done {
            rows: statement.prepared.columns.is_some(),
        };
        match std::mem::replace(&mut portal.state, done) {
            State::Done { rows: true } => Ok(self.wire.complete("SELECT 0".into())?),
            State::Done { rows: false } => Err(Stop::Failed(SqlError::new(
                "55000",
                format!("portal \"{name}\" cannot be run"),
            ))),
            State::Suspended(suspended) => self.fetch(name, *suspended, max_rows).await,
            State::Bound(params) => match self.run(&statement, params, implicit).await? {
                Some(mut rows) => {
                    if max_rows > 0
                        && matches!(statement.prepared.parsed.statement, Sql::Fetch { .. })
                    {
                        // The cursor is behind all that was asked for, though the client takes it bit by bit.
                        rows.cursor.read_on(&mut self.wire, &mut self.guard).await?;
                    }
                    self.fetch(name, rows, max_rows).await
                }
                None => Ok(()),
            },
        }
    }

    /// Runs a statement; an answer without rows is sent.
    async fn run(
        &mut self,
        statement: &Statement,
        params: Vec<ParamValue>,
        implicit: bool,
    ) -> Result<Option<Suspended>, Stop> {
        let prepared = &statement.prepared;
        let response = match self.deallocated(&prepared.parsed) {
            Some(response) => response,
            None => {
                let work = self.session.execute(prepared, params, implicit);
                let work = run_beside(&prepared.parsed.sql, work);
                let response = self.wire.run(&mut self.guard, work).await??;
                self.done(After::of(&prepared.parsed));
                response
            }
        };
        self.before()?;
        let Response::Rows {
            schema,
            batches,
            verb,
            counted,
            live,
        } = response
        else {
            return self.respond_without_rows(response).await.map(|()| None);
        };
        same_columns(prepared.columns.as_deref(), &schema)?;
        self.untimed(live);
        Ok(Some(Suspended {
            cursor: Cursor::new(schema, batches, live, self.style),
            verb,
            counted,
        }))
    }

    /// FETCH, MOVE and CLOSE of what is a portal to the protocol, and not a cursor of the session. False: of something else.
    pub(super) async fn uses_portal(&mut self, sql: &Sql) -> Result<bool, Stop> {
        let (name, count) = match sql {
            Sql::Close { cursor: Some(name) } if !self.is_failed() => {
                if self.portals.remove(name).is_none() {
                    return Ok(false);
                }
                self.wire.complete("CLOSE CURSOR".into())?;
                return Ok(true);
            }
            Sql::Declare { cursor, .. } if self.portals.get(cursor).is_some() => {
                return Err(Stop::Failed(taken(cursor)));
            }
            Sql::Fetch {
                cursor,
                count,
                timeout_ms: None,
            } => (cursor, *count),
            Sql::Move { cursor, count } => (cursor, *count),
            _ => return Ok(false),
        };
        if self.is_failed() {
            return Ok(false);
        }
        let Some(portal) = self.portals.get_mut(name) else {
            return Ok(false);
        };
        let statement = Arc::clone(&portal.statement);
        let Some(schema) = &statement.prepared.columns else {
            return Ok(false);
        };
        let rows = match std::mem::replace(&mut portal.state, State::Done { rows: true }) {
            State::Done { .. } => None,
            State::Suspended(rows) => Some(*rows),
            State::Bound(params) => self.run(&statement, params, true).await?,
        };
        let fetches = matches!(sql, Sql::Fetch { .. });
        if fetches {
            self.wire.put(|out| row_description(schema, &[], out))?;
        }
        let mut done = 0;
        if let Some(mut rows) = rows {
            let cursor = &mut rows.cursor;
            let before = cursor.sent;
            let form = fetches.then(|| Form::Data(vec![]));
            let ended = match (count, &form) {
                (Some(0), _) => false,
                (count, Some(form)) => {
                    let count = count.unwrap_or(0);
                    let sent = cursor.send(&mut self.wire, &mut self.guard, form, count);
                    let ended = sent.await?;
                    done = cursor.sent - before;
                    ended
                }
                (count, None) => {
                    let count = count.unwrap_or(u64::MAX);
                    let passed = cursor.pass(&mut self.wire, &mut self.guard, count);
                    done = passed.await?;
                    done < count
                }
            };
            if let Some(portal) = self.portals.get_mut(name)
                && !ended
            {
                portal.state = State::Suspended(Box::new(rows));
            }
        }
        let verb = if fetches { "FETCH" } else { "MOVE" };
        self.wire.complete(tag(verb, true, done))?;
        Ok(true)
    }

    async fn fetch(
        &mut self,
        name: &str,
        mut suspended: Suspended,
        max_rows: u32,
    ) -> Result<(), Stop> {
        let formats = match self.portals.get_mut(name) {
            Some(portal) => std::mem::take(&mut portal.formats),
            None => Vec::new(),
        };
        let before = suspended.cursor.sent;
        let form = Form::Data(formats);
        self.guard.settle(self.is_committed(suspended.verb));
        let rows = u64::from(max_rows);
        let cursor = &mut suspended.cursor;
        let sent = cursor.send(&mut self.wire, &mut self.guard, &form, rows);
        let sent = sent.await;
        self.guard.settle(false);
        if sent? {
            let rows = suspended.cursor.sent - before;
            return Ok(self
                .wire
                .complete(tag(suspended.verb, suspended.counted, rows))?);
        }
        if let (Some(portal), Form::Data(formats)) = (self.portals.get_mut(name), form) {
            portal.formats = formats;
            portal.state = State::Suspended(Box::new(suspended));
        }
        Ok(self.wire.portal_suspended()?)
    }
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new("34000", format!("portal \"{name}\" does not exist"))
}

/// `void`, which JDBC declares for what a function that it calls gives.
const VOID: u32 = 2278;

/// The field of a parameter type that the client declared; `None`: infer it.
fn declared(type_oid: u32) -> Result<Option<Field>, SqlError> {
    match type_oid {
        0 | oid::UNKNOWN | VOID => Ok(None),
        known => type_of_oid(known)
            .map(|sql| Some(sql.field("", true)))
            .ok_or_else(|| SqlError::new("42704", format!("type with oid {known} does not exist"))),
    }
}

/// The parameters of a Bind, decoded.
fn bound(
    statement: &Statement,
    bind: &Bind,
    zone: Option<Tz>,
) -> Result<Vec<ParamValue>, SqlError> {
    let prepared = &statement.prepared;
    let wanted = prepared.params.len();
    let given = bind.parameters.len();
    if given != wanted {
        return Err(SqlError::new(
            "08P01",
            format!(
                "bind message supplies {given} parameters, but prepared statement \"{}\" requires {wanted}",
                bind.statement
            ),
        ));
    }
    if bind.formats.len() > 1 && bind.formats.len() != given {
        return Err(SqlError::new(
            "08P01",
            format!(
                "bind message has {} parameter formats but {given} parameters",
                bind.formats.len()
            ),
        ));
    }
    let decode = |(number, (field, data)): (usize, (&Field, &Option<bytes::Bytes>))| {
        Ok(match data {
            None => ParamValue::Null,
            Some(data) if is_binary(&bind.formats, number) => {
                let is_oid = statement.declared.get(number) == Some(&oid::OID);
                match <[u8; 4]>::try_from(data.as_ref()) {
                    Ok(bytes) if is_oid => ParamValue::Value(params::from_oid(bytes)),
                    _ => ParamValue::Value(params::from_binary(field, data)?),
                }
            }
            Some(data) => ParamValue::Value(params::from_text(field, data, zone)?),
        })
    };
    let pairs = prepared.params.iter().zip(&bind.parameters);
    pairs.enumerate().map(decode).collect()
}

/// What was described must be what is sent.
pub fn same_columns(described: Option<&Schema>, sent: &Schema) -> Result<(), SqlError> {
    let same = described.is_some_and(|described| {
        std::ptr::eq(described, sent)
            || (described.fields().len() == sent.fields().len()
                && described.fields().iter().zip(sent.fields()).all(|(a, b)| {
                    let same = || a.name() == b.name() && wire_type(a).oid == wire_type(b).oid;
                    Arc::ptr_eq(a, b) || same()
                }))
    });
    match same {
        true => Ok(()),
        false => Err(SqlError::outdated_plan()),
    }
}
