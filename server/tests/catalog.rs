//! `pg_catalog` as psql and drivers ask it: the same objects here and in a real PostgreSQL 15, and
//! psql must show the same of both. Queries that the evaluator leaves to the planner fail the test.

mod postgres;

use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Schema};
use futures::StreamExt;
use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Parsed, Statement};
use tidemill_planner::names::parse_query;
use tidemill_server::pg_catalog::{
    CatalogQuery, CatalogSnapshot, IndexInfo, PUBLIC_OID, RelationInfo, RelationType, SchemaInfo,
    query_why, relations, rows,
};
use tidemill_server::session::backends::Backend;
use tidemill_server::session::{
    Notice, ParamValue, Prepared, Response, Session, SessionFactory, TransactionStatus,
};
use tidemill_zset::schema::SqlType;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The same objects as [`snapshot`].
const OBJECTS: &str = "
    CREATE TABLE t (id bigint PRIMARY KEY, name text NOT NULL DEFAULT 'x', v numeric(10,2), tags text[],
        at timestamptz, code varchar(7));
    CREATE INDEX tv ON t (v);
    COMMENT ON TABLE t IS 'hello';
    COMMENT ON COLUMN t.v IS 'worth';
    CREATE VIEW v AS SELECT t.id FROM t;
    CREATE MATERIALIZED VIEW mv AS SELECT t.name, count(*) AS n FROM t GROUP BY t.name;";

fn relation(
    oid: u32,
    name: &str,
    kind: RelationType,
    columns: &[(&str, SqlType, bool)],
) -> RelationInfo {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, sql, nullable)| sql.field(name, *nullable))
        .collect();
    RelationInfo {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind,
        columns: Arc::new(Schema::new(fields)),
        identities: vec![],
        defaults: Vec::new(),
        primary_key: Vec::new(),
        primary_key_name: format!("{name}_pkey"),
        checks: vec![],
        indexes: Vec::new(),
        definition: None,
        depends: Vec::new(),
        connector: None,
        options: Vec::new(),
        comment: None,
        column_comments: Vec::new(),
        rows: None,
        bytes: Some(8192),
    }
}

fn snapshot() -> CatalogSnapshot {
    let mut t = relation(
        16_385,
        "t",
        RelationType::Table,
        &[
            ("id", SqlType::Int8, false),
            ("name", SqlType::Text, false),
            ("v", SqlType::Numeric(10, 2), true),
            ("tags", SqlType::Array(Box::new(SqlType::Text)), true),
            ("at", SqlType::Timestamptz, true),
            ("code", SqlType::Varchar(Some(7)), true),
        ],
    );
    t.primary_key = vec![0];
    t.defaults = vec![None, Some("'x'::text".into())];
    t.comment = Some("hello".into());
    t.column_comments = vec![(2, "worth".into())];
    t.indexes = vec![IndexInfo {
        oid: 16_390,
        name: "tv".into(),
        columns: vec![2],
        nulls_not_distinct: false,
        constraint: false,
        unique: false,
        comment: None,
        bytes: 0,
    }];
    let mut v = relation(
        16_386,
        "v",
        RelationType::View,
        &[("id", SqlType::Int8, true)],
    );
    v.definition = Some("SELECT t.id\n   FROM t".into());
    let columns = [("name", SqlType::Text, true), ("n", SqlType::Int8, true)];
    let mut mv = relation(16_387, "mv", RelationType::MaterializedView, &columns);
    mv.definition = Some("SELECT t.name,\n    count(*) AS n\n   FROM t\n  GROUP BY t.name".into());
    CatalogSnapshot {
        database: "postgres".into(),
        user: "postgres".into(),
        server_version: "15.12 (Tidemill)".into(),
        search_path: vec!["public".into()],
        schemas: vec![SchemaInfo {
            oid: PUBLIC_OID,
            name: "public".into(),
            comment: None,
        }],
        relations: vec![t, v, mv],
        sequences: vec![],
        settings: vec![(
            "TimeZone".into(),
            "UTC".into(),
            "Sets the time zone.".into(),
        )],
        backends: Vec::new(),
        signal: Default::default(),
        backend_pid: 7,
        advisory: Default::default(),
        started: None,
    }
}

/// Answers queries over the catalog, and notes those that it can't.
#[derive(Clone, Default)]
struct Catalog(Arc<Mutex<Vec<String>>>);

impl Catalog {
    fn bound(&self, sql: &str, types: &[Option<Field>]) -> Result<CatalogQuery, SqlError> {
        let query = parse_query(sql.trim().trim_end_matches(';'));
        let bound = query.and_then(|query| query_why(&query, types));
        bound.inspect_err(|error| self.0.lock().push(format!("{error}: {sql}")))
    }

    fn response(&self, query: &CatalogQuery, params: &[ParamValue]) -> Result<Response, SqlError> {
        let params: Vec<Option<ArrayRef>> = params
            .iter()
            .map(|param| match param {
                ParamValue::Null => None,
                ParamValue::Value(array) => Some(Arc::clone(array)),
            })
            .collect();
        let batch = query
            .run(&snapshot(), &params)
            .map(|(batch, _)| batch)
            .inspect_err(|error| self.0.lock().push(error.to_string()))?;
        Ok(Response::Rows {
            schema: batch.schema(),
            batches: futures::stream::iter([Ok(batch)]).boxed(),
            verb: "SELECT",
            counted: true,
            live: false,
        })
    }
}

fn parsed(sql: &str) -> Parsed {
    Parsed {
        statement: Statement::Empty,
        sql: sql.into(),
    }
}

#[async_trait::async_trait]
impl Session for Catalog {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError> {
        Ok(vec![parsed(sql)])
    }
    async fn prepare(
        &mut self,
        sql: &str,
        types: Vec<Option<Field>>,
    ) -> Result<Prepared, SqlError> {
        let query = self.bound(sql, &types)?;
        Ok(Prepared {
            parsed: Arc::new(parsed(sql)),
            params: query.params.clone(),
            columns: Some(Arc::clone(&query.columns)),
            plan: Default::default(),
        })
    }
    async fn execute(
        &mut self,
        statement: &Prepared,
        params: Vec<ParamValue>,
        _: bool,
    ) -> Result<Response, SqlError> {
        let types: Vec<Option<Field>> = statement.params.iter().cloned().map(Some).collect();
        let query = self.bound(&statement.parsed.sql, &types)?;
        self.response(&query, &params)
    }
    async fn execute_parsed(&mut self, statement: Parsed, _: bool) -> Result<Response, SqlError> {
        let query = self.bound(&statement.sql, &[])?;
        self.response(&query, &[])
    }
    async fn sync(&mut self) -> Result<(), SqlError> {
        Ok(())
    }
    fn failed(&mut self) {}
    fn transaction_status(&self) -> TransactionStatus {
        TransactionStatus::Idle
    }
    fn take_notices(&mut self) -> Vec<Notice> {
        Vec::new()
    }
    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        Vec::new()
    }
}

#[async_trait::async_trait]
impl SessionFactory for Catalog {
    async fn open(
        &self,
        _: &str,
        _: &str,
        _: Vec<(String, String)>,
        _: &Backend,
    ) -> Result<Box<dyn Session>, SqlError> {
        Ok(Box::new(self.clone()))
    }
}

struct Server {
    port: u16,
    catalog: Catalog,
    _stop: watch::Sender<bool>,
}

async fn start() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    let catalog = Catalog::default();
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(tidemill_server::pg::serve(
        listener,
        Arc::new(catalog.clone()),
        stopping,
    ));
    Server {
        port,
        catalog,
        _stop: stop,
    }
}

impl Server {
    fn psql(&self) -> Vec<String> {
        let args = [
            "/usr/bin/psql",
            "-X",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-h",
            "127.0.0.1",
            "-p",
        ];
        args.iter()
            .map(ToString::to_string)
            .chain([self.port.to_string()])
            .collect()
    }
}

async fn output(command: &[String], meta: &str) -> (String, String) {
    let (command, meta) = (command.to_vec(), meta.to_string());
    let run = move || {
        let mut process = Command::new(&command[0]);
        process
            .args(&command[1..])
            .args(["-c", &meta])
            .stdin(Stdio::null());
        process
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("psql runs")
    };
    let output = tokio::task::spawn_blocking(run).await.expect("no panic");
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_shows_what_it_shows_of_postgres() {
    let (server, real) = (start().await, postgres::Postgres::start());
    let client = real.connect().await;
    client
        .batch_execute(OBJECTS)
        .await
        .expect("the objects are made");
    let mut there: Vec<String> = [
        "/usr/bin/psql",
        "-X",
        "-U",
        "postgres",
        "-d",
        "postgres",
        "-h",
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    there.push(real.socket_dir().display().to_string());
    for meta in [
        r"\d", r"\dt", r"\dv", r"\dm", r"\di", r"\ds", r"\dE", r"\d t", r"\d v", r"\d mv", r"\d t_pkey",
        r"\d tv", r"\d+ v", r"\dt public.*", r"\dt nothing", r"\d nothing", r"\df", r"\dp t", r"\dx nothing",
        r"\dRp", r"\dT nothing", r"\dD", r"\dy", r"\dd", r"\da nothing", r"\des", r"\det", r"\dX", r"\drds",
        "SELECT 't'::regclass, 't'::regclass::oid > 0, to_regclass('nothing')",
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
           WHERE attrelid = 't'::regclass AND attnum > 0 ORDER BY attnum",
        "SELECT table_name, column_name, data_type, is_nullable, numeric_precision, numeric_scale,
                character_maximum_length, datetime_precision, udt_name
           FROM information_schema.columns WHERE table_schema = 'public' AND table_name IN ('t', 'v') ORDER BY 1, ordinal_position",
        "SELECT constraint_name, table_name, constraint_type FROM information_schema.table_constraints
           WHERE table_schema = 'public' AND constraint_type = 'PRIMARY KEY'",
        "SELECT table_name, column_name, ordinal_position FROM information_schema.key_column_usage WHERE table_schema = 'public'",
        "SELECT obj_description('t'::regclass, 'pg_class'), col_description('t'::regclass, 3)",
        "SELECT typname, typarray::regtype, typelem, typcategory FROM pg_type WHERE typname IN ('int4', 'text', '_text', 'numeric') ORDER BY 1",
        "SELECT relkind, count(*), array_agg(relname ORDER BY relname) FROM pg_class
           WHERE relnamespace = 'public'::regnamespace GROUP BY relkind ORDER BY 1",
        "SELECT quote_ident('Ab'), quote_ident('select'), quote_literal(E'a\\'\\\\b'), format('%I.%s', 'X', 1) FROM pg_namespace WHERE nspname = 'pg_catalog'",
        "SELECT c.relname, a.attname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attname)
           FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
           WHERE c.relname IN ('t', 'mv') ORDER BY 1, 2",
        "SELECT (information_schema._pg_expandarray(indkey)).n FROM pg_index WHERE indrelid = 't'::regclass ORDER BY 1",
        "SELECT current_database(), current_schemas(false), current_user, pg_get_userbyid(10)",
        // As asyncpg looks up the types of arrays: a walk over types, with one inside it that sees the row around it.
        "WITH RECURSIVE tree(oid, name, elem, base, depth) AS (
           SELECT t.oid, t.typname, t.typelem,
                  (WITH RECURSIVE bases(oid, depth) AS (
                     SELECT b.typbasetype, 0 FROM pg_type b WHERE b.oid = t.oid
                     UNION ALL SELECT b.typbasetype, bases.depth + 1 FROM pg_type b, bases
                       WHERE bases.oid = b.oid AND b.typbasetype <> 0)
                   SELECT oid FROM bases ORDER BY depth DESC LIMIT 1), 0
             FROM pg_type t WHERE t.oid = ANY ('{1007,2951,1231}'::oid[])
           UNION ALL
           SELECT t.oid, t.typname, t.typelem, NULL, tree.depth + 1
             FROM pg_type t, tree WHERE tree.elem IS NOT NULL AND t.oid = tree.elem)
         SELECT DISTINCT *, elem::regtype::text AS element FROM tree ORDER BY depth DESC, oid",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i % 5 + 1 FROM n)
           SELECT i, current_schema() FROM n ORDER BY i",
        // As Rails and Grafana ask.
        "SELECT a.attname FROM (SELECT indrelid, indkey, generate_subscripts(indkey, 1) idx FROM pg_index
           WHERE indrelid = 't'::regclass AND indisprimary) i
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[i.idx] ORDER BY i.idx",
        r#"SELECT (parse_ident('"A b".c'))[1], array_length(parse_ident('x'), 1)"#,
        "SELECT 't'::regclass::text, 23::regtype::oid::text, json_build_object('a', 1, 'b', NULL, 'c', 'x''\"')
           FROM pg_class WHERE relname = 't'",
    ] {
        let ours = output(&server.psql(), meta).await;
        let theirs = output(&there, meta).await;
        assert_eq!(ours, theirs, "{meta}");
    }
    assert_eq!(server.catalog.0.lock().as_slice(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_psql_is_answered() {
    let server = start().await;
    for meta in [
        r"\d+",
        r"\d+ t",
        r"\d+ mv",
        r"\dt+",
        r"\dn",
        r"\dn+",
        r"\l",
        r"\l+",
        r"\du",
        r"\du+",
        r"\dg",
        r"\dT",
        r"\dT+",
        r"\dx",
        r"\db",
        r"\dC",
        r"\do",
        r"\dO",
        r"\dc",
        r"\df+",
        r"\dF",
        r"\dFd",
        r"\dFp",
        r"\dFt",
        r"\dL",
        r"\dA",
        r"\ddp",
        r"\dP",
        r"\dconfig",
        r"\dew",
        r"\deu",
        r"\dRs",
        r"\dS",
        r"\dS pg_class",
        r"\d pg_catalog.pg_class",
        r"\sv v",
        r"\sv+ v",
        r"\conninfo",
        r"\d *",
        r"\dp",
        r"\z",
        r"\dl",
    ] {
        let (_, err) = output(&server.psql(), meta).await;
        assert!(
            err.is_empty() || err.starts_with("Did not find any"),
            "{meta}: {err}"
        );
    }
    let (out, _) = output(&server.psql(), r"\l").await;
    assert!(out.contains("postgres | postgres | UTF8"), "{out}");
    assert_eq!(server.catalog.0.lock().as_slice(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tab_completion_asks_nothing_in_vain() {
    let server = start().await;
    let line = format!("{} -P pager=off", server.psql().join(" "));
    // `script` gives psql a terminal; without one it completes nothing.
    let mut child = Command::new("timeout")
        .args(["--foreground", "60", "script", "-qec", &line, "/dev/null"])
        .env("TERM", "dumb")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script runs (Debian's bsdutils)");
    let mut keys = String::new();
    for line in [
        "SELECT * FROM t",
        "SELECT * FROM pg_catalog.pg_cl",
        "SELECT * FROM public.",
        "DROP TABLE ",
        "DROP MATERIALIZED VIEW ",
        "DROP VIEW ",
        "DROP INDEX ",
        "DROP SCHEMA ",
        "INSERT INTO ",
        "INSERT INTO t (",
        "UPDATE ",
        "DELETE FROM ",
        "SELECT id FROM t WHERE ",
        "SET ",
        "SET timezone TO ",
        "SHOW ",
        "COPY ",
        "TRUNCATE ",
        "COMMENT ON TABLE ",
        "CREATE INDEX ON ",
        "ALTER TABLE t DROP COLUMN ",
        "\\d ",
        "\\dt ",
        "\\dn ",
        "\\df ",
        "\\l ",
        "\\c ",
        "\\du ",
        "\\dT ",
        "\\sv ",
        "GRANT SELECT ON ",
        "DROP ROLE ",
        "DROP TYPE ",
    ] {
        // Tab completes, Ctrl-U empties the line.
        keys.push_str(line);
        keys.push_str("\t\x15");
    }
    keys.push_str("\nSELECT version();\n\\q\n");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    let run = move || {
        // Keys mean something only once psql has the terminal.
        let mut shown = Vec::new();
        let mut byte = [0u8];
        while !shown.ends_with(b"=# ") {
            std::io::Read::read_exact(&mut stdout, &mut byte).expect("psql prompts");
            shown.push(byte[0]);
        }
        std::io::Write::write_all(&mut stdin, keys.as_bytes()).expect("psql reads");
        std::io::Read::read_to_end(&mut stdout, &mut shown).expect("psql ends");
        child.wait().expect("script ends");
        String::from_utf8_lossy(&shown).into_owned()
    };
    let shown = tokio::task::spawn_blocking(run).await.expect("no panic");
    assert!(shown.contains("PostgreSQL 15.12 (Tidemill)"), "{shown}");
    assert_eq!(server.catalog.0.lock().as_slice(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_read_types_in_binary() {
    let server = start().await;
    let config = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres",
        server.port
    );
    let connect = tokio_postgres::connect(&config, tokio_postgres::NoTls);
    let (client, connection) = connect.await.expect("connects");
    tokio::spawn(connection);
    let row = client
        .query_one(
            "SELECT t.typname, t.typtype, t.typelem, r.rngsubtype, t.typbasetype, n.nspname, t.typrelid
             FROM pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
             INNER JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid WHERE t.oid = $1",
            &[&1009u32],
        )
        .await
        .expect("a type");
    assert_eq!(row.get::<_, &str>(0), "_text");
    assert_eq!(row.get::<_, i8>(1), b'b' as i8);
    assert_eq!(row.get::<_, u32>(2), 25);
    assert_eq!(row.get::<_, Option<u32>>(3), None);
    assert_eq!(row.get::<_, &str>(5), "pg_catalog");
    let names: Vec<String> = client
        .query(
            "SELECT relname FROM pg_class WHERE relname = ANY ($1) ORDER BY 1",
            &[&vec!["t", "mv", "no"]],
        )
        .await
        .expect("rows")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(names, ["mv", "t"]);
}

#[test]
fn every_relation_has_rows_of_its_columns() {
    let snapshot = snapshot();
    let all = relations();
    assert!(all.len() > 100);
    for relation in all {
        let batch = rows(relation.schema, relation.name, &snapshot).expect("it is listed");
        assert_eq!(batch.schema(), relation.columns, "{}", relation.name);
    }
    assert!(rows("pg_catalog", "pg_nothing", &snapshot).is_none());
}
