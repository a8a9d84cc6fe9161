//! Runs `.slt` files on the planner alone: tables in memory, queries through `Planner` and `execute`.
//! Expectations come from PostgreSQL. `SLT=path …` runs those files; `SLT_SHOW=1` prints instead of failing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use datafusion_common::ScalarValue;
use futures::StreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{self, ColumnDefault, Statement};
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_planner::direct::Direct;
use tidemill_planner::functions::format;
use tidemill_planner::interrupt::{Ask, asking};
use tidemill_planner::query::{
    Condition, Planner, QueryPlan, ResultStream, Rows, SessionContextInfo, SnapshotReader,
};
use tidemill_zset::CollectionId;
use tidemill_zset::schema::SqlType;

#[derive(Clone, Default)]
struct Db(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    relations: Vec<Relation>,
    defaults: BTreeMap<u64, Vec<Option<ColumnDefault>>>,
    rows: BTreeMap<u64, Vec<RecordBatch>>,
    next: u64,
}

impl Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Db")
    }
}

impl CatalogView for Db {
    fn resolve(&self, schema: Option<&str>, name: &str) -> Option<Relation> {
        let c = self.0.lock().expect("one thread");
        c.relations
            .iter()
            .find(|r| r.name == name && schema.is_none_or(|s| s == r.schema))
            .cloned()
    }

    fn relations(&self) -> Vec<Relation> {
        self.0.lock().expect("one thread").relations.clone()
    }
}

impl SnapshotReader for Db {
    fn scan(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        _: &[Condition],
    ) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, SqlError>> + Send>, SqlError> {
        let rows = self
            .0
            .lock()
            .expect("one thread")
            .rows
            .get(&collection.0)
            .cloned()
            .unwrap_or_default();
        let columns = columns.map(<[usize]>::to_vec);
        Ok(Box::new(rows.into_iter().map(move |b| match &columns {
            Some(c) => b.project(c).map_err(|e| SqlError::internal(e.to_string())),
            None => Ok(b),
        })))
    }

    fn find(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<Option<Rows>, SqlError> {
        self.scan(collection, columns, conditions).map(Some)
    }
}

/// Runs a plan, and again without DataFusion where that is possible: answers and errors are the same.
fn run(plan: &QueryPlan, db: &Db) -> Result<Vec<RecordBatch>, SqlError> {
    let out = collect(plan, plan.execute(Arc::new(db.clone()))?);
    if let Some(direct) = Direct::of(plan) {
        // The reader finds what it is asked for; where a given value fails, the general way says how.
        match direct.execute(&[], (plan.session.now, plan.session.statement), db) {
            Ok(None) => assert!(out.is_err(), "{}", plan.logical.display_indent()),
            stream => {
                let again = stream.and_then(|s| collect(plan, s.expect("just looked at")));
                same_answer(plan, &out, &again);
            }
        }
    }
    out
}

fn same_answer(
    plan: &QueryPlan,
    one: &Result<Vec<RecordBatch>, SqlError>,
    other: &Result<Vec<RecordBatch>, SqlError>,
) {
    let sorted = |rows: &[RecordBatch]| {
        let mut rows = lines(rows);
        rows.sort();
        rows
    };
    match (one, other) {
        (Ok(one), Ok(other)) => assert_eq!(sorted(one), sorted(other), "{}", plan.logical),
        (Err(one), Err(other)) => assert_eq!(one.sqlstate, other.sqlstate, "{}", plan.logical),
        _ => panic!("{one:?} and {other:?}: {}", plan.logical),
    }
}

fn collect(plan: &QueryPlan, mut stream: ResultStream) -> Result<Vec<RecordBatch>, SqlError> {
    let mut out = Vec::new();
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(async {
            while let Some(b) = stream.next().await {
                let b = b?;
                assert_eq!(
                    b.schema(),
                    plan.columns,
                    "results have the types of `columns`"
                );
                out.push(b);
            }
            Ok(out)
        })
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut out = Vec::new();
    for b in batches {
        let types: Vec<SqlType> = b.schema().fields().iter().map(|f| SqlType::of(f)).collect();
        for row in 0..b.num_rows() {
            let values: Vec<String> = b
                .columns()
                .iter()
                .zip(&types)
                .map(
                    |(c, t)| match format::value(c, row, t, "UTC").expect("printable") {
                        None => "NULL".into(),
                        Some(t) if t.is_empty() => "(empty)".into(),
                        Some(v) if *c.data_type() == DataType::Boolean => v[..1].to_string(),
                        Some(t) => t.replace('\n', "\\n").replace('\t', "\\t"),
                    },
                )
                .collect();
            out.push(values.join(" "));
        }
    }
    out
}

impl Db {
    fn statement(&self, sql: &str) -> Result<Vec<String>, SqlError> {
        let session = SessionContextInfo {
            now: 1_700_000_000_000_000,
            ..Default::default()
        };
        let planner = Planner::new();
        let mut out = Vec::new();
        for p in ast::parse(sql)? {
            out = self.one(&planner, &session, p.statement)?;
        }
        Ok(out)
    }

    fn target(&self, name: &str) -> Result<(Relation, Vec<Option<ColumnDefault>>), SqlError> {
        let r = self
            .resolve(None, name)
            .ok_or_else(|| SqlError::new("42P01", format!("relation \"{name}\" does not exist")))?;
        let d = self
            .0
            .lock()
            .expect("one thread")
            .defaults
            .get(&r.id.0)
            .cloned()
            .unwrap_or_default();
        Ok((r, d))
    }

    fn one(
        &self,
        planner: &Planner,
        session: &SessionContextInfo,
        s: Statement,
    ) -> Result<Vec<String>, SqlError> {
        match s {
            Statement::Query { query, .. } => {
                let plan = planner.plan_query(self, session, &query, &[])?;
                Ok(lines(&run(&plan, self)?))
            }
            Statement::CreateTable {
                name,
                columns,
                primary_key,
                ..
            } => {
                let fields: Vec<_> = columns
                    .iter()
                    .map(|c| c.data_type.field(&c.name, c.nullable))
                    .collect();
                let key = primary_key
                    .iter()
                    .filter_map(|k| columns.iter().position(|c| c.name == *k))
                    .collect::<Vec<_>>();
                self.create(
                    name.name,
                    RelationKind::Table,
                    fields,
                    (!key.is_empty()).then_some(key),
                    columns.into_iter().map(|c| c.default).collect(),
                );
                Ok(vec![])
            }
            Statement::CreateView {
                name,
                query,
                columns,
                ..
            } => {
                let plan = planner.plan_query(self, session, &query, &[])?;
                let fields = plan
                    .columns
                    .fields()
                    .iter()
                    .enumerate()
                    .map(|(i, f)| {
                        columns
                            .get(i)
                            .map_or(f.as_ref().clone(), |n| f.as_ref().clone().with_name(n))
                    })
                    .collect();
                self.create(
                    name.name,
                    RelationKind::View {
                        sql: query.to_string(),
                    },
                    fields,
                    None,
                    vec![],
                );
                Ok(vec![])
            }
            Statement::Insert(i) => {
                let sqlparser::ast::TableObject::TableName(n) = &i.table else {
                    panic!("a table")
                };
                let (table, defaults) = self.target(&n.to_string().to_lowercase())?;
                let plan = planner.plan_insert(self, session, &i, &table, &defaults, &[])?;
                let rows = run(&plan, self)?;
                self.0
                    .lock()
                    .expect("one thread")
                    .rows
                    .entry(table.id.0)
                    .or_default()
                    .extend(rows);
                Ok(vec![])
            }
            Statement::Drop { names, .. } => {
                let mut c = self.0.lock().expect("one thread");
                c.relations
                    .retain(|r| !names.iter().any(|n| n.name == r.name));
                Ok(vec![])
            }
            Statement::Delete(d) => {
                let (sqlparser::ast::FromTable::WithFromKeyword(t)
                | sqlparser::ast::FromTable::WithoutKeyword(t)) = &d.from;
                let (table, _) = self.target(&t[0].relation.to_string().to_lowercase())?;
                let plan = planner.plan_delete(self, session, &d, &table, &[])?;
                let gone = run(&plan, self)?;
                self.change(&table, &gone, &[]);
                Ok(vec![])
            }
            Statement::Update(u) => {
                let sqlparser::ast::Statement::Update(inner) = u.as_ref() else {
                    panic!("an update")
                };
                let (table, defaults) =
                    self.target(&inner.table.relation.to_string().to_lowercase())?;
                let plan = planner.plan_update(self, session, &u, &table, &defaults, &[])?;
                let both = run(&plan, self)?;
                let n = table.columns.fields().len();
                let part = |from: usize| -> Vec<RecordBatch> {
                    both.iter()
                        .map(|b| {
                            b.project(&(from..from + n).collect::<Vec<_>>())
                                .expect("both halves")
                        })
                        .collect()
                };
                self.change(&table, &part(0), &part(n));
                Ok(vec![])
            }
            Statement::Set { .. }
            | Statement::Begin { .. }
            | Statement::Commit { .. }
            | Statement::Empty => Ok(vec![]),
            other => Err(SqlError::unsupported(format!(
                "not in this test: {other:?}"
            ))),
        }
    }

    /// Takes away rows by their text, then adds.
    fn change(&self, table: &Relation, gone: &[RecordBatch], new: &[RecordBatch]) {
        let mut gone = lines(gone);
        let mut c = self.0.lock().expect("one thread");
        let rows = c.rows.entry(table.id.0).or_default();
        let mut kept = Vec::new();
        for b in rows.iter() {
            let texts = lines(std::slice::from_ref(b));
            for (i, t) in texts.iter().enumerate() {
                match gone.iter().position(|g| g == t) {
                    Some(n) => {
                        gone.remove(n);
                    }
                    None => kept.push(b.slice(i, 1)),
                }
            }
        }
        kept.extend(new.iter().cloned());
        *rows = kept;
    }

    fn create(
        &self,
        name: String,
        kind: RelationKind,
        fields: Vec<arrow::datatypes::Field>,
        primary_key: Option<Vec<usize>>,
        defaults: Vec<Option<ColumnDefault>>,
    ) {
        let mut c = self.0.lock().expect("one thread");
        c.next += 1;
        let id = c.next;
        c.defaults.insert(id, defaults);
        c.relations.push(Relation {
            id: CollectionId(id),
            schema: "public".into(),
            name,
            kind,
            columns: Arc::new(Schema::new(fields)),
            oid: 0,
            planned: None,
            primary_key,
            unique: None,
            append_only: false,
        });
    }
}

struct Record {
    line: usize,
    head: String,
    sql: String,
    expect: Vec<String>,
}

fn records(text: &str) -> Vec<Record> {
    let mut out = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let mut i = 0;
    while i < lines.len() {
        let l = lines[i];
        if !(l.starts_with("statement") || l.starts_with("query")) {
            i += 1;
            continue;
        }
        let line = i + 1;
        i += 1;
        let mut sql = Vec::new();
        while i < lines.len() && !lines[i].trim().is_empty() && lines[i] != "----" {
            sql.push(lines[i]);
            i += 1;
        }
        let mut expect = Vec::new();
        if i < lines.len() && lines[i] == "----" {
            i += 1;
            while i < lines.len() && !lines[i].trim().is_empty() {
                expect.push(lines[i].split_whitespace().collect::<Vec<_>>().join(" "));
                i += 1;
            }
        }
        out.push(Record {
            line,
            head: l.to_string(),
            sql: sql.join("\n"),
            expect,
        });
    }
    out
}

/// What is wrong with each record that doesn't do as it says.
fn check_file(path: &Path) -> (usize, Vec<String>) {
    let text = std::fs::read_to_string(path).expect("a readable file");
    let db = Db::default();
    let mut wrong = Vec::new();
    let all = records(&text);
    for r in &all {
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| db.statement(&r.sql)));
        let at = format!("{}:{}: {}\n", path.display(), r.line, r.sql);
        let Ok(got) = got else {
            wrong.push(format!("{at}  panicked"));
            continue;
        };
        let code = r
            .head
            .split_once("error")
            .map(|(_, rest)| rest.trim().trim_matches(['(', ')']).to_string());
        match (got, code) {
            (Err(e), Some(code)) => {
                if !code.is_empty() && !code.contains(e.sqlstate) {
                    wrong.push(format!("{at}  expected {code}, got {} {e}", e.sqlstate));
                }
            }
            (Ok(rows), Some(code)) => {
                wrong.push(format!("{at}  expected error {code}, got {rows:?}"))
            }
            (Err(e), None) => wrong.push(format!("{at}  {} {e} {:?}", e.sqlstate, e.detail)),
            (Ok(_), None) if r.head.starts_with("statement") => {}
            (Ok(rows), None) => {
                let mut rows: Vec<String> = rows
                    .iter()
                    .map(|r| r.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect();
                let mut expect = r.expect.clone();
                if r.head.contains("rowsort") {
                    rows.sort();
                    expect.sort();
                }
                if rows != expect {
                    wrong.push(format!("{at}  expected {expect:#?}\n  got {rows:#?}"));
                }
            }
        }
    }
    (all.len(), wrong)
}

#[test]
fn slt_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sqllogictest/slt/dialect");
    let mut files: Vec<PathBuf> = match std::env::var("SLT") {
        Ok(list) => list.split_whitespace().map(PathBuf::from).collect(),
        Err(_) => std::fs::read_dir(root)
            .map(|d| d.filter_map(|e| e.ok().map(|e| e.path())).collect())
            .unwrap_or_default(),
    };
    files.sort();
    let (mut total, mut wrong) = (0, Vec::new());
    for f in files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "slt"))
    {
        let (n, w) = check_file(f);
        println!("{}: {} of {n} wrong", f.display(), w.len());
        total += n;
        wrong.extend(w);
    }
    println!("{}", wrong.join("\n"));
    if std::env::var("SLT_SHOW").is_err() {
        assert!(
            wrong.is_empty(),
            "{} of {total} records are wrong",
            wrong.len()
        );
    }
}

#[test]
fn long_chains_and_deep_nests() {
    let db = Db::default();
    let chain: Vec<String> = (0..2000).map(|i| format!("x::int = {i}")).collect();
    let sql = format!(
        "SELECT count(*) FROM (VALUES ('1999'), ('7'), ('5000')) t(x) WHERE {}",
        chain.join(" OR ")
    );
    assert_eq!(
        db.statement(&sql).map_err(|e| e.to_string()),
        Ok(vec!["2".to_string()])
    );
    let sum = vec!["1"; 200].join(" + ");
    assert_eq!(
        db.statement(&format!("SELECT {sum}"))
            .map_err(|e| e.to_string()),
        Ok(vec!["200".to_string()])
    );
    let long = vec!["1"; 3000].join(" + ");
    assert_eq!(
        db.statement(&format!("SELECT {long}"))
            .map_err(|e| e.sqlstate),
        Err("54001")
    );
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(db.statement(&deep).map_err(|e| e.sqlstate), Err("54001"));
    // Read once each: what is read twice at each level would take hours.
    let calls = format!("SELECT {}-1{}", "abs(".repeat(40), ")".repeat(40));
    assert_eq!(
        db.statement(&calls).map_err(|e| e.to_string()),
        Ok(vec!["1".to_string()])
    );
}

/// What is read a second time when it can't be read at first would take twice as long with each level.
#[test]
fn mistakes_within_many_levels_are_found_at_once() {
    let db = Db::default();
    let nested = |open: &str, inner: &str, close: &str, n: usize| {
        format!("SELECT {}{inner}{}", open.repeat(n), close.repeat(n))
    };
    let code = |sql: String| db.statement(&sql).map(|_| ()).map_err(|e| e.sqlstate);
    for (open, close) in [
        ("not (", ")"),
        ("case when a = 1 then ", " end"),
        ("cast(", " as int)"),
        ("array[", "]"),
        ("exists (select ", ")"),
        ("coalesce(", ")"),
        ("- (", ")"),
        ("(select ", ")"),
        ("sum(1) filter (where ", ")"),
    ] {
        assert_eq!(
            code(nested(open, "1 +* 2", close, 60)),
            Err("42601"),
            "{open}"
        );
    }
    for call in [
        "substring(",
        "trim(",
        "extract(",
        "position(",
        "ceil(",
        "overlay(",
        "try_cast(",
    ] {
        assert_eq!(
            code(nested(call, "1 +* 2", ")", 40)),
            Err("54001"),
            "{call}"
        );
    }
    assert_eq!(code(nested("not (", "true", ")", 90)), Ok(()));
    assert_eq!(code(nested("not (", "true", ")", 150)), Err("54001"));
    assert_eq!(code(nested("trim(", "'a'", ")", 16)), Ok(()));
}

/// What each level of these nests adds, and what PostgreSQL 15 gives for twelve of them over three rows (of BETWEEN SYMMETRIC for
/// six, as it has no memory for more).
const NESTS: &[(&str, &str, &str, [&str; 3])] = &[
    ("coalesce(", "a", ", 2)", ["1", "2", "2"]),
    ("coalesce(", "a", ", 1 / a, 2)", ["1", "2", "2"]),
    ("nullif(", "a", ", 2)", ["1", "NULL", "NULL"]),
    ("greatest(", "a", ", 2)", ["2", "2", "2"]),
    (
        "CASE WHEN (",
        "a",
        ") = 1 THEN 1 END",
        ["1", "NULL", "NULL"],
    ),
    (
        "CASE ",
        "a",
        " WHEN 2 THEN 2 WHEN 1 THEN 1 END",
        ["1", "NULL", "2"],
    ),
    (
        "CASE WHEN ",
        "a",
        " BETWEEN 1 AND 2 THEN 1 ELSE 2 END",
        ["1", "1", "1"],
    ),
    (
        "CASE WHEN ",
        "a",
        " BETWEEN SYMMETRIC 2 AND 1 THEN 1 ELSE 2 END",
        ["1", "1", "1"],
    ),
    (
        "CASE WHEN ",
        "a",
        " IN (1, 2, a) THEN 1 ELSE 2 END",
        ["1", "1", "1"],
    ),
    ("(", "a", "::bigint::int)", ["1", "NULL", "2"]),
    ("(", "a", " = 1 OR 1 / a = 2)::int", ["1", "NULL", "0"]),
    ("(", "a", " = 1 AND 1 / a = 2)::int", ["0", "NULL", "0"]),
    ("((", "a", ", 1) < (2, 1 / a))::int", ["1", "NULL", "1"]),
    ("(", "a", " IN (SELECT a FROM t))::int", ["1", "NULL", "1"]),
    (
        "(",
        "a",
        " < ANY (SELECT a FROM t))::int",
        ["1", "NULL", "NULL"],
    ),
    (
        "(EXISTS (SELECT 1 WHERE ",
        "a",
        " = 1))::int",
        ["1", "0", "0"],
    ),
];

#[test]
fn nests_grow_by_what_each_level_adds() {
    let db = Db::default();
    db.statement("CREATE TABLE t (id int, a int); INSERT INTO t VALUES (1, 1), (2, NULL), (3, 2)")
        .expect("a table");
    let session = SessionContextInfo::default();
    for (before, inner, after, expected) in NESTS {
        let query = |depth: usize| {
            let (before, after) = (before.repeat(depth), after.repeat(depth));
            format!("SELECT {before}{inner}{after} FROM t ORDER BY id")
        };
        let rows = db.statement(&query(12)).map_err(|e| e.to_string());
        assert_eq!(
            rows,
            Ok(expected.map(String::from).to_vec()),
            "{}",
            query(1)
        );
        // Text that a copy at each level would make 64 times as long.
        let length = |depth| {
            let parsed = ast::parse(&query(depth)).expect("a query");
            let Statement::Query { query, .. } = &parsed[0].statement else {
                panic!("a query")
            };
            let plan = Planner::new().plan_query(&db, &session, query, &[]);
            let text = plan.and_then(|plan| plan.explain_logical());
            text.expect("planned").len()
        };
        let (six, twelve) = (length(6), length(12));
        assert!(twelve < 8 * six, "{}: {six}, then {twelve}", query(1));
    }
}

#[test]
fn planning_stops_when_nobody_wants_the_plan() {
    let db = Db::default();
    db.statement("CREATE TABLE t (a int)").expect("a table");
    let session = SessionContextInfo::default();
    let items = vec!["a + 1"; 100].join(", ");
    let parsed = ast::parse(&format!("SELECT {items} FROM t")).expect("a query");
    let Statement::Query { query, .. } = &parsed[0].statement else {
        panic!("a query")
    };
    let plan = || Planner::new().plan_query(&db, &session, query, &[]);
    let bound = plan().expect("bound");
    let stop: Ask = Arc::new(|| Some(SqlError::new("57014", "canceling statement")));
    let stopped = asking(&stop, plan).expect_err("stopped while it is bound");
    assert_eq!(stopped.sqlstate, "57014");
    let stopped = asking(&stop, || bound.explain_logical()).expect_err("stopped by the optimiser");
    assert_eq!(stopped.sqlstate, "57014");
    bound.explain_logical().expect("nobody stops it any more");
}

#[test]
fn positions_count_characters_of_the_whole_string() {
    let at = |sql: &str| match Db::default().statement(sql) {
        Err(e) => (e.sqlstate, e.position),
        Ok(rows) => panic!("{rows:?}"),
    };
    assert_eq!(at("SELECT 1;\nSELECT 'é', nope"), ("42703", Some(23)));
    assert_eq!(at("SELECT *\nFROM nope"), ("42P01", Some(15)));
    assert_eq!(at("SELECT 1 +"), ("42601", Some(11)));
    assert_eq!(at("SELEC 1"), ("42601", Some(1)));
    assert_eq!(at("SELECT 1 + true"), ("42883", Some(8)));
}

#[test]
fn parameters_take_their_types_from_where_they_stand() {
    let db = Db::default();
    db.statement("CREATE TABLE t (a int, b text, c numeric(5,2)); INSERT INTO t VALUES (1, 'x', 1.5), (2, 'y', 2.5)")
        .expect("a table");
    let session = SessionContextInfo::default();
    let parsed =
        ast::parse("SELECT b, $3::bigint FROM t WHERE a = $1 AND c < $2").expect("a query");
    let Statement::Query { query, .. } = &parsed[0].statement else {
        panic!("a query")
    };
    let plan = Planner::new()
        .plan_query(&db, &session, query, &[])
        .expect("bound");
    let types: Vec<String> = plan
        .params
        .iter()
        .map(|f| SqlType::of(f).to_string())
        .collect();
    assert_eq!(types, ["integer", "numeric", "bigint"]);
    let values = [
        ScalarValue::Int32(Some(1)),
        ScalarValue::Decimal128(Some(20_000_000_000), 38, 10),
        ScalarValue::Int64(Some(9)),
    ];
    let bound = plan.bind_params(&values).expect("values for all");
    assert_eq!(lines(&run(&bound, &db).expect("rows")), ["x 9"]);
    let direct = Direct::of(&plan).expect("a chain over one table with a condition");
    for (a, c) in [(Some(1), 200), (Some(2), 200), (None, 200), (Some(2), 300)] {
        let values = [
            ScalarValue::Int32(a),
            ScalarValue::Decimal128(Some(c), 5, 2),
            ScalarValue::Int64(Some(9)),
        ];
        let one = run(&plan.bind_params(&values).expect("values for all"), &db);
        let found = direct.execute(&values, (0, 0), &db).expect("no error");
        same_answer(&plan, &one, &collect(&plan, found.expect("found")));
    }
}

#[test]
fn now_is_a_call_until_it_runs() {
    let session = SessionContextInfo {
        now: 1_000_000,
        ..Default::default()
    };
    let parsed = ast::parse("SELECT now(), current_date").expect("a query");
    let Statement::Query { query, .. } = &parsed[0].statement else {
        panic!("a query")
    };
    let plan = Planner::new()
        .plan_query(&Db::default(), &session, query, &[])
        .expect("bound");
    assert!(plan.uses_now && plan.logical.to_string().contains("now()"));
    assert_eq!(
        lines(&run(&plan, &Db::default()).expect("a row")),
        ["1970-01-01 00:00:01+00 1970-01-01"]
    );
}
