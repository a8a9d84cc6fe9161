//! A session factory without a database, for tests of the wire alone. Its statements:
//!
//! `rows N` · `slow` (never answers) · `live` (rows that the test feeds) · `types` (a row of every type)
//! · `echo` (its parameters) · `fail` · `notice` · `panic` · `begin` · `commit` · `insert` ·
//! `copy out [csv]` · `copy live` · `copy in` · `set zone`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{CopyOptions, Parsed, Statement};
use tidemill_server::pg::params::from_text;
use tidemill_server::session::backends::Backend;
use tidemill_server::session::{
    CopySink, Notice, ParamValue, Prepared, Response, Session, SessionFactory, TransactionStatus,
};
use tidemill_zset::schema::SqlType;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// What the test sees and feeds.
#[derive(Default)]
pub struct Shared {
    /// The next `live` or `copy live` gives these batches.
    pub live: Mutex<Option<mpsc::UnboundedReceiver<i64>>>,
    /// Streams and statements that were dropped before their end.
    pub dropped: AtomicUsize,
    /// What COPY IN brought.
    pub copied: Mutex<Vec<u8>>,
    /// Why a COPY IN failed.
    pub copy_failure: Mutex<Option<String>>,
    /// `implicit` of each execution, and `sync`.
    pub log: Mutex<Vec<String>>,
}

#[derive(Clone, Default)]
pub struct Factory(pub Arc<Shared>);

pub struct Server {
    pub port: u16,
    pub shared: Arc<Shared>,
    pub stop: watch::Sender<bool>,
    pub task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let factory = Factory::default();
        let shared = Arc::clone(&factory.0);
        let (stop, stopping) = watch::channel(false);
        let serve = tidemill_server::pg::serve(listener, Arc::new(factory), stopping);
        let task = tokio::spawn(serve);
        Server {
            port,
            shared,
            stop,
            task,
        }
    }

    pub fn config(&self) -> String {
        format!("host=127.0.0.1 port={} user=me dbname=tidemill", self.port)
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.config(), tokio_postgres::NoTls)
            .await
            .expect("connects");
        tokio::spawn(connection);
        client
    }
}

struct Mock {
    shared: Arc<Shared>,
    status: TransactionStatus,
    notices: Vec<Notice>,
    changes: Vec<(String, String)>,
}

/// Counts itself when it is dropped before its end.
struct Unfinished(Arc<Shared>, bool);

impl Unfinished {
    fn end(mut self) {
        self.1 = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn numbers(from: i64, to: i64) -> RecordBatch {
    let array: ArrayRef = Arc::new(Int64Array::from_iter_values(from..=to));
    RecordBatch::try_new(number_schema(), vec![array]).expect("one column of numbers")
}

fn number_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![SqlType::Int8.field("n", false)]))
}

/// One column of each type, with its value as text.
pub fn all_types() -> Vec<(SqlType, &'static str)> {
    vec![
        (SqlType::Bool, "t"),
        (SqlType::Int2, "-7"),
        (SqlType::Int4, "70000"),
        (SqlType::Int8, "-7000000000"),
        (SqlType::Float4, "1.5"),
        (SqlType::Float8, "1e+20"),
        (SqlType::Numeric(10, 2), "-12.50"),
        (SqlType::Text, "it's"),
        (SqlType::Varchar(Some(9)), "short"),
        (SqlType::Bytea, "\\x00ff"),
        (SqlType::Date, "2024-02-29"),
        (SqlType::Time, "23:59:59.5"),
        (SqlType::Timestamp, "2024-02-29 12:00:00"),
        (SqlType::Timestamptz, "2024-02-29 12:00:00.25+00"),
        (SqlType::Interval, "1 year 2 mons 3 days 04:05:06.789"),
        (SqlType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        (SqlType::Json, "{\"a\":1}"),
        (SqlType::Jsonb, "{\"a\": 1}"),
        (SqlType::Array(Box::new(SqlType::Text)), "{a,NULL,\"b c\"}"),
    ]
}

fn types_schema() -> SchemaRef {
    let fields: Vec<Field> = all_types()
        .iter()
        .enumerate()
        .map(|(number, (sql, _))| sql.field(&format!("c{number}"), true))
        .collect();
    Arc::new(Schema::new(fields))
}

fn types_batch() -> RecordBatch {
    let schema = types_schema();
    let columns = all_types()
        .iter()
        .zip(schema.fields())
        .map(|((_, text), field)| from_text(field, text.as_bytes(), None).expect("a value as text"))
        .collect();
    RecordBatch::try_new(schema, columns).expect("columns of the schema")
}

impl Mock {
    fn rows(schema: SchemaRef, batches: Vec<RecordBatch>) -> Response {
        Response::Rows {
            schema,
            batches: stream::iter(batches.into_iter().map(Ok)).boxed(),
            verb: "SELECT",
            counted: true,
            live: false,
        }
    }

    fn live(&self) -> BoxStream<'static, Result<RecordBatch, SqlError>> {
        let receiver = self
            .shared
            .live
            .lock()
            .take()
            .expect("the test fed a live stream");
        let state = (receiver, Unfinished(Arc::clone(&self.shared), false));
        stream::unfold(state, |(mut receiver, unfinished)| async move {
            match receiver.recv().await {
                Some(n) => Some((Ok(numbers(n, n)), (receiver, unfinished))),
                None => {
                    unfinished.end();
                    None
                }
            }
        })
        .boxed()
    }

    async fn run(&mut self, sql: &str, params: Vec<ParamValue>) -> Result<Response, SqlError> {
        let words: Vec<&str> = sql.split_whitespace().collect();
        Ok(match words.as_slice() {
            [] => Response::Empty,
            ["rows", count] => {
                let count: i64 = count.parse().expect("a number");
                let starts = (1..=count).step_by(1_000);
                let batches = starts
                    .map(|from| numbers(from, count.min(from + 999)))
                    .collect();
                Self::rows(number_schema(), batches)
            }
            ["types"] => Self::rows(types_schema(), vec![types_batch()]),
            ["echo"] => {
                let text = |param: &ParamValue| match param {
                    ParamValue::Null => None,
                    ParamValue::Value(array) => Some(tidemill_server::pg::types::text_of(array, 0)),
                };
                let values: StringViewArray = params.iter().map(text).collect();
                let schema = text_schema();
                let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(values)]);
                Self::rows(schema, vec![batch.expect("one column of text")])
            }
            ["slow"] => {
                let _unfinished = Unfinished(Arc::clone(&self.shared), false);
                self.shared.log.lock().push("slow".into());
                std::future::pending::<()>().await;
                Response::Empty
            }
            ["live"] => Response::Rows {
                schema: number_schema(),
                batches: self.live(),
                verb: "SUBSCRIBE",
                counted: false,
                live: true,
            },
            ["fail"] => {
                return Err(SqlError::new("22012", "division by zero")
                    .detail("A detail.")
                    .hint("A hint.")
                    .at(3));
            }
            ["notice"] => {
                self.notices.push(Notice {
                    severity: "NOTICE",
                    sqlstate: "00000",
                    message: "be aware".into(),
                    hint: None,
                });
                Response::Tag("NOTICE".into())
            }
            ["panic"] => panic!("the mock was told to panic"),
            ["begin"] | ["START", "TRANSACTION", ..] => {
                self.status = TransactionStatus::Open;
                Response::Tag("BEGIN".into())
            }
            ["commit" | "COMMIT"] => {
                let tag = match self.status {
                    TransactionStatus::Failed => "ROLLBACK",
                    _ => "COMMIT",
                };
                self.status = TransactionStatus::Idle;
                Response::Tag(tag.into())
            }
            ["set", "zone"] => {
                self.changes
                    .push(("TimeZone".into(), "Asia/Kolkata".into()));
                Response::Tag("SET".into())
            }
            ["copy", "out", rest @ ..] => Response::CopyOut {
                schema: types_schema(),
                batches: stream::iter([Ok(types_batch())]).boxed(),
                options: CopyOptions {
                    csv: rest.contains(&"csv"),
                    header: rest.contains(&"csv"),
                    binary: rest.contains(&"binary"),
                    ..CopyOptions::default()
                },
                live: false,
            },
            ["copy", "live"] => Response::CopyOut {
                schema: number_schema(),
                batches: self.live(),
                options: CopyOptions::default(),
                live: true,
            },
            ["copy", "in"] => Response::CopyIn {
                schema: number_schema(),
                options: CopyOptions::default(),
                sink: Box::new(Sink(Arc::clone(&self.shared))),
            },
            other => Response::Tag(other[0].to_uppercase()),
        })
    }
}

fn text_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![SqlType::Text.field("v", true)]))
}

struct Sink(Arc<Shared>);

#[async_trait::async_trait]
impl CopySink for Sink {
    async fn data(&mut self, bytes: Bytes) -> Result<(), SqlError> {
        if bytes.starts_with(b"bad") {
            return Err(SqlError::new("22P02", "bad row"));
        }
        self.0.copied.lock().extend_from_slice(&bytes);
        Ok(())
    }
    async fn done(self: Box<Self>) -> Result<u64, SqlError> {
        Ok(self.0.copied.lock().iter().filter(|b| **b == b'\n').count() as u64)
    }
    async fn fail(self: Box<Self>, message: String) {
        *self.0.copy_failure.lock() = Some(message);
    }
}

#[async_trait::async_trait]
impl Session for Mock {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError> {
        if sql.contains("syntax error") {
            return Err(SqlError::new("42601", "syntax error at or near \"syntax\"").at(1));
        }
        let statements = sql.split(';').map(str::trim).filter(|sql| !sql.is_empty());
        Ok(statements
            .map(|sql| Parsed {
                statement: Statement::Empty,
                sql: sql.into(),
            })
            .collect())
    }

    async fn prepare(
        &mut self,
        sql: &str,
        types: Vec<Option<Field>>,
    ) -> Result<Prepared, SqlError> {
        let parsed = self.parse(sql)?.pop();
        let columns = match sql.split_whitespace().next() {
            Some("rows" | "live") => Some(number_schema()),
            Some("types") => Some(types_schema()),
            Some("echo") => Some(text_schema()),
            _ => None,
        };
        Ok(Prepared {
            parsed: Arc::new(parsed.unwrap_or(Parsed {
                statement: Statement::Empty,
                sql: String::new(),
            })),
            params: types
                .into_iter()
                .map(|t| t.unwrap_or_else(|| SqlType::Text.field("", true)))
                .collect(),
            columns,
            plan: Default::default(),
        })
    }

    async fn execute(
        &mut self,
        statement: &Prepared,
        params: Vec<ParamValue>,
        implicit: bool,
    ) -> Result<Response, SqlError> {
        self.shared
            .log
            .lock()
            .push(format!("execute implicit={implicit}"));
        self.run(&statement.parsed.sql, params).await
    }

    async fn execute_parsed(
        &mut self,
        statement: Parsed,
        implicit: bool,
    ) -> Result<Response, SqlError> {
        self.shared
            .log
            .lock()
            .push(format!("query implicit={implicit}"));
        self.run(&statement.sql, Vec::new()).await
    }

    async fn sync(&mut self) -> Result<(), SqlError> {
        self.shared.log.lock().push("sync".into());
        Ok(())
    }

    fn failed(&mut self) {
        if self.status == TransactionStatus::Open {
            self.status = TransactionStatus::Failed;
        }
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changes)
    }
}

#[async_trait::async_trait]
impl SessionFactory for Factory {
    async fn open(
        &self,
        _user: &str,
        database: &str,
        _parameters: Vec<(String, String)>,
        _backend: &Backend,
    ) -> Result<Box<dyn Session>, SqlError> {
        if database != "tidemill" {
            return Err(
                SqlError::new("3D000", format!("database \"{database}\" does not exist"))
                    .hint("The database is called \"tidemill\"."),
            );
        }
        Ok(Box::new(Mock {
            shared: Arc::clone(&self.0),
            status: TransactionStatus::Idle,
            notices: Vec::new(),
            changes: Vec::new(),
        }))
    }
}
