//! Statements of the dialect. sqlparser does most of the work; statements that it doesn't know
//! (CREATE SOURCE, SUBSCRIBE, …) are parsed here with its tokens.

use std::collections::BTreeMap;

use sqlparser::ast;

use crate::error::SqlError;
pub use sqlparser::ast as syntax;
pub use sqlparser::ast::{Expr, Ident, ObjectName, Query};

/// A statement with its own text.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// What to do.
    pub statement: Statement,
    /// The statement's text, without the trailing semicolon, as the user wrote it.
    pub sql: String,
}

/// `WITH (…)` options: lower-case name → value without quotes.
pub type Options = BTreeMap<String, String>;

/// A column as declared.
#[derive(Clone, Debug)]
pub struct ColumnDef {
    /// Name after folding.
    pub name: String,
    /// Declared type.
    pub data_type: tidemill_zset::schema::SqlType,
    /// False with NOT NULL or PRIMARY KEY.
    pub nullable: bool,
    /// DEFAULT expression's text.
    pub default: Option<String>,
}

/// A CHECK of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// The condition's text.
    pub condition: String,
    /// Columns that the condition names, each once.
    pub columns: Vec<String>,
}

/// What a unique index makes of NULLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// Two of them are no duplicates.
    Distinct,
    /// Two of them are.
    NotDistinct,
}

/// A UNIQUE of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Its columns.
    pub columns: Vec<String>,
    /// What it makes of NULLs.
    pub nulls: Nulls,
}

/// A name with an optional schema, after folding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// As written; `None`: the search path.
    pub schema: Option<String>,
    /// The object's name.
    pub name: String,
}

/// Kinds of catalog objects, for DROP, ALTER, COMMENT and SHOW.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// SOURCE
    Source,
    /// TABLE
    Table,
    /// VIEW
    View,
    /// MATERIALIZED VIEW
    MaterializedView,
    /// SINK
    Sink,
    /// SCHEMA
    Schema,
    /// INDEX
    Index,
    /// COLUMN (COMMENT only)
    Column,
}

/// What SUBSCRIBE reads.
#[derive(Clone, Debug)]
pub enum SubscribeTarget {
    /// A relation.
    Relation(Name),
    /// A query in parentheses.
    Query(Box<Query>),
}

/// `SUBSCRIBE …`
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// What to follow.
    pub target: SubscribeTarget,
    /// `WITH (SNAPSHOT)`, default true.
    pub snapshot: bool,
    /// `WITH (PROGRESS)`, default false.
    pub progress: bool,
    /// `AS OF t`
    pub as_of: Option<Expr>,
    /// `UP TO t`
    pub up_to: Option<Expr>,
}

/// `COPY` options.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// CSV rather than text.
    pub csv: bool,
    /// Binary format (refused or supported by the wire layer).
    pub binary: bool,
    /// First line holds names.
    pub header: bool,
    /// Separator; default tab, for CSV comma.
    pub delimiter: Option<u8>,
    /// Text of NULL; default `\N`, for CSV empty.
    pub null: Option<String>,
}

/// What COPY … TO reads.
#[derive(Clone, Debug)]
pub enum CopySource {
    /// `COPY t (cols) TO`
    Relation(Name, Vec<String>),
    /// `COPY (query) TO`
    Query(Box<Query>),
    /// `COPY (SUBSCRIBE …) TO`
    Subscribe(Box<Subscribe>),
}

/// What a cursor reads.
#[derive(Clone, Debug)]
pub enum CursorSource {
    /// A query.
    Query(Box<Query>),
    /// A subscription.
    Subscribe(Box<Subscribe>),
}

/// What SHOW lists.
#[derive(Clone, Debug)]
pub enum Show {
    /// SHOW SOURCES | TABLES | VIEWS | MATERIALIZED VIEWS | SINKS | SCHEMAS | INDEXES
    Objects(ObjectKind),
    /// SHOW PERSISTENT IDS
    PersistentIds,
    /// SHOW COLUMNS FROM x
    Columns(Name),
    /// SHOW CREATE kind x
    Create(ObjectKind, Name),
    /// SHOW name, e.g. server_version
    Variable(String),
    /// SHOW ALL
    All,
}

/// What BEGIN and SET TRANSACTION say of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// `read committed` etc.: accepted, and served as serializable.
    pub isolation: Option<String>,
    /// READ ONLY or READ WRITE.
    pub read_only: Option<bool>,
}

/// EXPLAIN's stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainStage {
    /// DataFusion's optimised logical plan (the default).
    Logical,
    /// Our operators, state and keys.
    Dataflow,
}

/// All statements. There is one per request, so the size of the largest variant doesn't matter.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Statement {
    /// Nothing (an empty string or a lone semicolon).
    Empty,
    /// SELECT, VALUES, TABLE t, WITH …; `as_of`: SELECT … AS OF t
    Query {
        query: Box<Query>,
        as_of: Option<Expr>,
    },
    /// CREATE SOURCE
    CreateSource {
        name: Name,
        if_not_exists: bool,
        columns: Vec<ColumnDef>,
        options: Options,
    },
    /// CREATE TABLE
    CreateTable {
        name: Name,
        if_not_exists: bool,
        columns: Vec<ColumnDef>,
        primary_key: Vec<String>,
        uniques: Vec<Unique>,
        checks: Vec<Check>,
        options: Options,
    },
    /// CREATE TABLE name [(columns)] AS query [WITH [NO] DATA]
    CreateTableAs {
        name: Name,
        if_not_exists: bool,
        columns: Vec<String>,
        query: Box<Query>,
        with_data: bool,
    },
    /// CREATE VIEW
    CreateView {
        name: Name,
        or_replace: bool,
        if_not_exists: bool,
        columns: Vec<String>,
        query: Box<Query>,
    },
    /// CREATE MATERIALIZED VIEW
    CreateMaterializedView {
        name: Name,
        if_not_exists: bool,
        columns: Vec<String>,
        query: Box<Query>,
        options: Options,
    },
    /// CREATE SINK name FROM relation WITH (…)
    CreateSink {
        name: Name,
        if_not_exists: bool,
        from: Name,
        options: Options,
    },
    /// CREATE SCHEMA
    CreateSchema { name: String, if_not_exists: bool },
    /// CREATE [UNIQUE] INDEX [name] ON relation (columns) [NULLS NOT DISTINCT]
    CreateIndex {
        name: Option<String>,
        if_not_exists: bool,
        on: Name,
        columns: Vec<String>,
        unique: Option<Nulls>,
    },
    /// DROP kind names [CASCADE] [PURGE]
    Drop {
        kind: ObjectKind,
        names: Vec<Name>,
        if_exists: bool,
        cascade: bool,
        purge: bool,
    },
    /// REFRESH MATERIALIZED VIEW
    Refresh { name: Name },
    /// ALTER kind name RENAME TO new
    Rename {
        kind: ObjectKind,
        name: Name,
        if_exists: bool,
        to: String,
    },
    /// COMMENT ON kind name [.column] IS 'text' | NULL
    Comment {
        kind: ObjectKind,
        name: Name,
        column: Option<String>,
        comment: Option<String>,
    },
    /// INSERT INTO … (VALUES | query) [RETURNING]
    Insert(Box<ast::Insert>),
    /// UPDATE
    Update(Box<ast::Statement>),
    /// DELETE
    Delete(Box<ast::Delete>),
    /// TRUNCATE
    Truncate { names: Vec<Name> },
    /// COPY t (cols) FROM STDIN
    CopyFrom {
        table: Name,
        columns: Vec<String>,
        options: CopyOptions,
    },
    /// COPY … TO STDOUT
    CopyTo {
        source: CopySource,
        options: CopyOptions,
    },
    /// SUBSCRIBE
    Subscribe(Box<Subscribe>),
    /// DECLARE c CURSOR FOR …
    Declare {
        cursor: String,
        /// WITH HOLD: it outlives its transaction.
        hold: bool,
        source: CursorSource,
    },
    /// FETCH [n | ALL] [FROM] c [WITH (timeout = '…')]; `count: None` = ALL; timeout in milliseconds
    Fetch {
        cursor: String,
        count: Option<u64>,
        timeout_ms: Option<u64>,
    },
    /// MOVE, like FETCH without the rows
    Move { cursor: String, count: Option<u64> },
    /// CLOSE c | ALL
    Close { cursor: Option<String> },
    /// BEGIN, START TRANSACTION
    Begin(TransactionModes),
    /// SET TRANSACTION; `session`: SET SESSION CHARACTERISTICS AS TRANSACTION
    SetTransaction {
        session: bool,
        modes: TransactionModes,
    },
    /// COMMIT, END
    Commit,
    /// ROLLBACK, ABORT
    Rollback,
    /// SAVEPOINT name
    Savepoint { name: String },
    /// RELEASE [SAVEPOINT] name
    Release { name: String },
    /// ROLLBACK [WORK | TRANSACTION] TO [SAVEPOINT] name
    RollbackTo { name: String },
    /// SET name = value (value `None`: DEFAULT), also SET TIME ZONE
    Set {
        local: bool,
        name: String,
        value: Option<String>,
    },
    /// RESET name | ALL
    Reset { name: Option<String> },
    /// SHOW
    Show(Show),
    /// EXPLAIN
    Explain {
        stage: ExplainStage,
        statement: Box<Statement>,
    },
    /// PREPARE name AS statement (types as written)
    Prepare {
        name: String,
        types: Vec<String>,
        statement: Box<Parsed>,
    },
    /// EXECUTE name (args)
    Execute { name: String, args: Vec<Expr> },
    /// DEALLOCATE name | ALL
    Deallocate { name: Option<String> },
    /// DISCARD ALL | …
    Discard,
    /// LISTEN, UNLISTEN, NOTIFY, VACUUM, ANALYZE, LOCK …: accepted or refused by the session, by name
    Other { verb: String },
}

/// Parses a string of statements. Positions of errors are characters of `sql`, from 1; so are the
/// columns of all spans in the result (their line is 1).
pub fn parse(sql: &str) -> Result<Vec<Parsed>, SqlError> {
    crate::parser::parse(sql)
}
