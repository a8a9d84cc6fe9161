//! COPY … TO STDOUT and COPY … FROM STDIN, in PostgreSQL's text and binary formats and in CSV.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::Field;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tidemill_connectors::decode::column::{Column, supports};
use tidemill_planner::SqlError;
use tidemill_planner::ast::{ColumnDefault, CopyOptions, CopySource, Name};
use tidemill_planner::error::from_datafusion;
use tidemill_planner::functions::cast::{Context, cast_array};
use tidemill_planner::names::parse_query;
use tidemill_planner::query::SessionContextInfo;
use tidemill_zset::schema::SqlType;
use tidemill_zset::{CollectionId, Delta};

use super::checks::Checks;
use super::copy_binary::BinaryRows;
use super::copy_text::{RecordFormat, Records};
use super::numbering::column_of;
use super::query::Given;
use super::sequences::Currents;
use super::sql::SqlSession;
use super::{CopySink, Response};
use crate::catalog::{Detail, Object};
use crate::coordinator::reply::Underway;
use crate::coordinator::tables::{OwnKeys, WriteRequest, check_not_null};
use crate::coordinator::{Handle, Message};
use crate::numbers::Numbered;
use crate::published::Published;
use crate::reader::{ReadSet, Snapshot};

/// Rows that COPY FROM has read for a transaction, until the session takes them.
pub type Copied = Arc<Mutex<Vec<(CollectionId, Delta, Option<Numbered>)>>>;

/// The rows of a response as COPY gives them.
fn copied_out(response: Response, options: &CopyOptions) -> Result<Response, SqlError> {
    match response {
        Response::Rows {
            schema, batches, ..
        } => Ok(Response::CopyOut {
            schema,
            batches: batches.boxed(),
            options: options.clone(),
            live: false,
        }),
        _ => Err(SqlError::internal("a query gives rows")),
    }
}

impl SqlSession {
    pub(super) async fn copy_to(
        &mut self,
        source: &CopySource,
        options: &CopyOptions,
    ) -> Result<Response, SqlError> {
        let query = match source {
            CopySource::Subscribe(subscribe) => {
                let (schema, batches) = self.subscribe(subscribe, &[]).await?;
                return Ok(Response::CopyOut {
                    schema,
                    batches,
                    options: options.clone(),
                    live: true,
                });
            }
            CopySource::Change(statement) => {
                let response = self.change(statement, &Given::default()).await?;
                return copied_out(response, options);
            }
            CopySource::Query(query) => query.as_ref().clone(),
            CopySource::Relation(Name { schema, name }, columns) => {
                let quote = |s: &String| format!("\"{}\"", s.replace('"', "\"\""));
                let columns: Vec<String> = columns.iter().map(quote).collect();
                let columns = if columns.is_empty() {
                    "*".into()
                } else {
                    columns.join(", ")
                };
                let prefix = schema
                    .as_ref()
                    .map_or(String::new(), |s| format!("{}.", quote(s)));
                parse_query(&format!("SELECT {columns} FROM {prefix}{}", quote(name)))?
            }
        };
        let response = self.select(&query, None, &Given::default()).await?;
        copied_out(response, options)
    }

    pub(super) async fn copy_from(
        &mut self,
        table: &Name,
        columns: &[String],
        options: &CopyOptions,
    ) -> Result<Response, SqlError> {
        self.check_writable(&tidemill_planner::ast::Statement::Truncate {
            names: vec![],
            restart_identity: false,
        })?;
        let published = self.pin();
        let target = self.target(&published, table.schema.as_deref(), &table.name)?;
        let all = &target.object.columns;
        let given: Vec<usize> = if columns.is_empty() {
            (0..all.fields().len()).collect()
        } else {
            let index = |c: &String| {
                all.index_of(c).map_err(|_| {
                    SqlError::new(
                        "42703",
                        format!(
                            "column \"{c}\" of relation \"{}\" does not exist",
                            table.name
                        ),
                    )
                })
            };
            columns.iter().map(index).collect::<Result<_, _>>()?
        };
        if let Some(i) = (0..given.len()).find(|i| given[..*i].contains(&given[*i])) {
            let message = format!("column \"{}\" specified more than once", columns[i]);
            return Err(SqlError::new("42701", message));
        }
        let fields: Vec<Field> = given
            .iter()
            .map(|c| all.field(*c).as_ref().clone().with_nullable(true))
            .collect();
        if let Some(field) = fields.iter().find(|f| !supports(&SqlType::of(f))) {
            return Err(SqlError::unsupported(format!(
                "COPY FROM can't read column \"{}\"",
                field.name()
            )));
        }
        let missing = (0..all.fields().len()).filter(|c| !given.contains(c));
        let missing = missing.collect();
        let schema = tidemill_zset::delta::schema_of(fields.clone());
        let zone = self.settings.get("timezone").unwrap_or_default();
        let sink = TableSink {
            handle: self.handle.clone(),
            underway: Arc::clone(&self.underway),
            object: target.object.clone(),
            collection: target.relation.id,
            published: Arc::clone(&published),
            transaction: self.transaction.as_ref().map(|t| OfTransaction {
                copied: self.copied.clone(),
                writes: Arc::clone(&t.writes),
                reads: Arc::clone(&t.reads),
            }),
            reader: match options.binary {
                true => Reader::Binary(BinaryRows::new(fields)),
                false => Reader::Text(TextRows {
                    columns: fields.iter().map(|f| Read::new(f, &zone)).collect(),
                    zone,
                    lines: vec![],
                    names: fields
                        .iter()
                        .map(|f| (f.name().clone(), type_name(f)))
                        .collect(),
                    records: Records::new(RecordFormat::of(options)),
                    rows: 0,
                }),
            },
            given,
            missing,
            context: self.context(),
            sequences: Arc::clone(&self.sequences),
            checks: self
                .checks_of(&target.object)?
                .map(|checks| (checks, self.snapshot(&published))),
        };
        Ok(Response::CopyIn {
            schema,
            options: options.clone(),
            sink: Box::new(sink),
        })
    }

    /// Takes over what COPY FROM has read for the transaction.
    pub(super) fn take_copied(&mut self) {
        let copied = std::mem::take(&mut *self.copied.lock());
        if let Some(transaction) = &mut self.transaction {
            for (table, delta, numbered) in copied {
                transaction.add(table, delta);
                transaction.numbered.extend(numbered);
            }
        }
    }
}

/// A type's name in PostgreSQL's messages: without its parameters.
fn type_name(field: &Field) -> String {
    let name = SqlType::of(field).to_string();
    name.split('(').next().unwrap_or_default().to_string()
}

/// Reads rows of the text format or of CSV into columns.
struct TextRows {
    columns: Vec<Read>,
    /// The session's time zone.
    zone: String,
    /// Of each row, if some columns are made of texts.
    lines: Vec<u64>,
    /// Their names, and their types' names in messages.
    names: Vec<(String, String)>,
    records: Records,
    rows: u64,
}

/// A column that is read.
struct Read {
    column: Column,
    /// What it is made of the texts at the end: what the reader of files doesn't know.
    of_text: Option<SqlType>,
}

impl Read {
    fn new(field: &Field, zone: &str) -> Self {
        let ty = SqlType::of(field);
        let known = match ty {
            SqlType::Jsonb => false,
            SqlType::Timestamptz => zone == "UTC",
            _ => true,
        };
        match known {
            true => Read {
                column: Column::new(field),
                of_text: None,
            },
            false => Read {
                column: Column::new(&SqlType::Text.field(field.name(), true)),
                of_text: Some(ty),
            },
        }
    }
}

impl TextRows {
    /// The columns, at the end of the data.
    fn finish(&mut self, table: &str) -> Result<Vec<ArrayRef>, SqlError> {
        self.take(true, table)?;
        let empty = Buffer::from(Vec::<u8>::new());
        let zone = &self.zone;
        let of_text = |array: &ArrayRef, ty: &SqlType| {
            cast_array(array, &SqlType::Text, ty, Context::Explicit, zone)
        };
        let mut out = Vec::with_capacity(self.columns.len());
        for (read, (name, _)) in self.columns.iter_mut().zip(&self.names) {
            let array = read.column.finish(&empty, &empty);
            let Some(ty) = &read.of_text else {
                out.push(array);
                continue;
            };
            out.push(of_text(&array, ty).map_err(|e| {
                let fails = |row: &usize| of_text(&array.slice(*row, 1), ty).is_err();
                let row = (0..array.len()).find(fails).unwrap_or(0);
                let line = self.lines.get(row).copied().unwrap_or_default();
                from_datafusion(&e).detail(format!("COPY {table}, line {line}, column {name}"))
            })?);
        }
        Ok(out)
    }

    fn take(&mut self, end: bool, table: &str) -> Result<(), SqlError> {
        let made_of_texts = self.columns.iter().any(|read| read.of_text.is_some());
        while let Some(record) = self.records.next(end)? {
            let line = record.line;
            let place = |detail: String| format!("COPY {table}, line {line}{detail}");
            if record.fields.len() != self.columns.len() {
                let message = match self.names.get(record.fields.len()) {
                    Some((name, _)) => format!("missing data for column \"{name}\""),
                    None => "extra data after last expected column".into(),
                };
                return Err(SqlError::new("22P04", message).detail(place(String::new())));
            }
            for ((column, text), (name, type_name)) in
                self.columns.iter_mut().zip(&record.fields).zip(&self.names)
            {
                if let Some(bytes) = text.as_deref().and_then(no_text) {
                    let message = format!("invalid byte sequence for encoding \"UTF8\": {bytes}");
                    return Err(
                        SqlError::new("22021", message).detail(place(format!(", column {name}")))
                    );
                }
                if let Err(e) = column.column.push(text.as_deref(), false) {
                    let shown = text.as_deref().map_or("".into(), String::from_utf8_lossy);
                    let message = e.message(type_name, text.as_deref().unwrap_or_default());
                    return Err(SqlError::new(code_of(&message), message)
                        .detail(place(format!(", column {name}: \"{shown}\""))));
                }
            }
            self.rows += 1;
            if made_of_texts {
                self.lines.push(line);
            }
        }
        Ok(())
    }
}

/// PostgreSQL's code for what is wrong with a value.
fn code_of(message: &str) -> &'static str {
    let of_time = ["date", "time", "timestamp", "interval"];
    let syntax = message.strip_prefix("invalid input syntax for type ");
    match message {
        _ if syntax.is_some_and(|ty| of_time.iter().any(|t| ty.starts_with(t))) => "22007",
        m if m.starts_with("date/time field value out of range") => "22008",
        m if m.contains("out of range") || m.starts_with("numeric field overflow") => "22003",
        m if m.starts_with("value too long") => "22001",
        m if m.starts_with("invalid hexadecimal") => "22023",
        _ => "22P02",
    }
}

/// The bytes that keep `text` from being text: no UTF-8, or a zero.
fn no_text(text: &[u8]) -> Option<String> {
    let valid = match std::str::from_utf8(text) {
        Ok(_) => text.len(),
        Err(e) => e.valid_up_to(),
    };
    let at = text[..valid].iter().position(|b| *b == 0);
    let at = at.or((valid < text.len()).then_some(valid))?;
    Some(format!("0x{:02x}", text[at]))
}

/// Reads the data of one format.
enum Reader {
    Text(TextRows),
    Binary(BinaryRows),
}

impl Reader {
    fn rows(&self) -> u64 {
        match self {
            Reader::Text(text) => text.rows,
            Reader::Binary(binary) => binary.rows,
        }
    }

    fn add(&mut self, bytes: &[u8], table: &str) -> Result<(), SqlError> {
        match self {
            Reader::Text(text) => {
                text.records.add(bytes);
                text.take(false, table)
            }
            Reader::Binary(binary) => binary.add(bytes, table),
        }
    }

    /// The columns, at the end of the data.
    fn finish(&mut self, table: &str) -> Result<Vec<ArrayRef>, SqlError> {
        match self {
            Reader::Text(text) => text.finish(table),
            Reader::Binary(binary) => binary.finish(),
        }
    }
}

/// The transaction that rows are copied in.
struct OfTransaction {
    /// Where the rows wait for it.
    copied: Copied,
    /// What it had written before.
    writes: Arc<HashMap<CollectionId, Vec<Delta>>>,
    /// Where it notes what it reads.
    reads: Arc<Mutex<ReadSet>>,
}

impl OfTransaction {
    /// Checks the keys of rows for a table, as any statement's are at its end.
    fn check(
        &self,
        published: &Published,
        table: (CollectionId, &Arc<Object>),
        rows: &Delta,
    ) -> Result<(), SqlError> {
        let own = self.writes.get(&table.0).map_or(&[][..], Vec::as_slice);
        let checked =
            OwnKeys::default().check(&published.catalog, table, &published.store, own, rows);
        if checked.is_err() {
            self.reads.lock().collections.insert(table.0);
        }
        checked
    }
}

/// Reads rows for a table.
struct TableSink {
    handle: Handle,
    underway: Arc<Underway>,
    object: Arc<Object>,
    collection: CollectionId,
    /// The version that the rows are checked against.
    published: Arc<Published>,
    transaction: Option<OfTransaction>,
    reader: Reader,
    /// Columns of the table that the data gives.
    given: Vec<usize>,
    /// The others.
    missing: Vec<usize>,
    /// What their DEFAULTs are evaluated with.
    context: SessionContextInfo,
    sequences: Arc<Currents>,
    /// The table's CHECKs, and what they are evaluated on besides the rows: nothing.
    checks: Option<(Checks, Snapshot)>,
}

impl TableSink {
    /// Values of a column that the data doesn't give.
    fn default_values(
        &self,
        column: usize,
        rows: usize,
    ) -> Result<(ArrayRef, Option<Numbered>), SqlError> {
        let field = self.object.columns.field(column);
        let defaults = match &self.object.detail {
            Detail::Table { defaults, .. } => defaults.as_slice(),
            _ => &[],
        };
        match defaults.get(column).and_then(Option::as_ref) {
            None => Ok((arrow::array::new_null_array(field.data_type(), rows), None)),
            Some(ColumnDefault::Expression(text)) => {
                let planner = &self.handle.env.planner;
                let values = planner.defaults(&self.context, text, field, rows)?;
                Ok((values, None))
            }
            Some(ColumnDefault::Numbering(numbering)) => {
                let numbers = (&*self.handle.env.numbers, &*self.sequences);
                let (values, when) = column_of(numbers, &self.object, (column, numbering), rows)?;
                Ok((values, Some(when)))
            }
        }
    }

    fn delta(&self, read: Vec<ArrayRef>) -> Result<(Delta, Option<Numbered>), SqlError> {
        let rows = self.reader.rows() as usize;
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; self.object.columns.fields().len()];
        for (array, at) in read.into_iter().zip(&self.given) {
            arrays[*at] = Some(array);
        }
        let mut numbered = None;
        for at in &self.missing {
            let (array, when) = self.default_values(*at, rows)?;
            arrays[*at] = Some(array);
            numbered = numbered.or(when);
        }
        let arrays: Vec<ArrayRef> = arrays.into_iter().flatten().collect();
        // NOT NULL is checked first: a batch with NULLs there could not be made.
        let relaxed = self
            .object
            .columns
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(true))
            .collect();
        let internal = |e: arrow::error::ArrowError| SqlError::internal(e.to_string());
        let batch = RecordBatch::try_new(tidemill_zset::delta::schema_of(relaxed), arrays)
            .map_err(internal)?;
        check_not_null(&self.object, &batch)?;
        let batch = RecordBatch::try_new(self.object.columns.clone(), batch.columns().to_vec())
            .map_err(internal)?;
        Ok((Delta::insert(batch), numbered))
    }
}

#[async_trait::async_trait]
impl CopySink for TableSink {
    async fn data(&mut self, bytes: Bytes) -> Result<(), SqlError> {
        self.reader.add(&bytes, &self.object.record.name)
    }

    async fn done(mut self: Box<Self>) -> Result<u64, SqlError> {
        let read = self.reader.finish(&self.object.record.name)?;
        let rows = self.reader.rows();
        if rows == 0 {
            return Ok(0);
        }
        let (delta, numbered) = self.delta(read)?;
        if let Some((checks, snapshot)) = &self.checks {
            checks.of(&delta.rows, snapshot).await?;
        }
        match &self.transaction {
            Some(transaction) => {
                let table = (self.collection, &self.object);
                transaction.check(&self.published, table, &delta)?;
                let copied = (self.collection, delta, numbered);
                transaction.copied.lock().push(copied);
            }
            None => {
                let writes = vec![(self.collection, delta)];
                let request = |reply| {
                    Message::Write(WriteRequest {
                        writes,
                        read_at: self.published.now(),
                        reads: Default::default(),
                        numbered: numbered.into_iter().collect(),
                        restart: vec![],
                        reply,
                    })
                };
                self.handle.change(&self.underway, request).await?;
            }
        }
        Ok(rows)
    }

    async fn fail(self: Box<Self>, message: String) {
        tracing::debug!(%message, "COPY FROM was given up");
    }
}
