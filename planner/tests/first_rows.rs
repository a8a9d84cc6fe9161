//! First rows in the order that the reader has them in: what is asked of it, and when it is given up.

use std::sync::{Arc, Mutex};

use arrow::array::cast::AsArray;
use arrow::array::types::Int32Type;
use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_common::ScalarValue;
use futures::TryStreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{self, Statement};
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_planner::direct::Direct;
use tidemill_planner::query::{
    ColumnOrder, Condition, Pieces, Planner, Rows, SessionContextInfo, SnapshotReader,
};
use tidemill_zset::CollectionId;
use tidemill_zset::schema::SqlType;

/// `t (v, id, n)` has so many rows: `id` from 0 on, `v` ten times that, `n` NULL.
const ROWS: i32 = 200_000;
const PIECE_ROWS: i32 = 10_000;

#[derive(Debug)]
struct Tables;

fn schema() -> SchemaRef {
    let field = |(name, nullable)| SqlType::Int4.field(name, nullable);
    let fields = [("v", true), ("id", false), ("n", true)].map(field);
    Arc::new(Schema::new(fields.to_vec()))
}

impl CatalogView for Tables {
    fn resolve(&self, _: Option<&str>, name: &str) -> Option<Relation> {
        self.relations().into_iter().find(|r| r.name == name)
    }

    fn relations(&self) -> Vec<Relation> {
        vec![Relation {
            id: CollectionId(1),
            schema: "public".into(),
            name: "t".into(),
            kind: RelationKind::Table,
            columns: schema(),
            oid: 0,
            planned: None,
            primary_key: Some(vec![1]),
            unique: None,
            append_only: false,
        }]
    }
}

/// The orders that were asked for, and how many pieces were taken.
type Asked = (Vec<(usize, bool)>, i32);

#[derive(Debug, Default)]
struct Reader(Arc<Mutex<Asked>>);

fn batch(ids: impl Iterator<Item = i32>, columns: Option<&[usize]>) -> RecordBatch {
    let ids: Vec<i32> = ids.collect();
    let tenfold: Int32Array = ids.iter().map(|id| Some(id * 10)).collect();
    let nulls = Int32Array::new_null(ids.len());
    let all: Vec<ArrayRef> = vec![
        Arc::new(tenfold),
        Arc::new(Int32Array::from(ids)),
        Arc::new(nulls),
    ];
    let batch = RecordBatch::try_new(schema(), all).expect("three columns");
    match columns {
        Some(columns) => batch.project(columns).expect("columns of the batch"),
        None => batch,
    }
}

impl SnapshotReader for Reader {
    fn scan(
        &self,
        _: CollectionId,
        _: Option<&[usize]>,
        _: &[Condition],
    ) -> Result<Rows, SqlError> {
        panic!("a scan")
    }

    fn find_in_order(
        &self,
        _: CollectionId,
        columns: Option<&[usize]>,
        _: &[Condition],
        order: ColumnOrder,
    ) -> Result<Option<Pieces>, SqlError> {
        let mut seen = self.0.lock().expect("one thread");
        seen.0.push((order.column, order.descending));
        let (looks, columns) = (self.0.clone(), columns.map(<[usize]>::to_vec));
        Ok(Some(Box::new((0..ROWS / PIECE_ROWS).map(move |piece| {
            looks.lock().expect("one thread").1 += 1;
            let from = match order.descending {
                false => piece * PIECE_ROWS,
                true => ROWS - (piece + 1) * PIECE_ROWS,
            };
            // In no order.
            let ids = (from..from + PIECE_ROWS).map(|id| id ^ 1);
            let rows: Rows = Box::new(std::iter::once(Ok(batch(ids, columns.as_deref()))));
            Ok(rows)
        }))))
    }
}

/// What was asked of the reader, and the first column of the answer, if there is one without the general path.
#[derive(Debug, PartialEq)]
struct Run {
    orders: Vec<(usize, bool)>,
    pieces: i32,
    answer: Option<Vec<i32>>,
}

fn run(sql: &str, params: &[i64]) -> Run {
    let mut parsed = ast::parse(sql).expect("SQL");
    let Some(Statement::Query { query, .. }) = parsed.pop().map(|p| p.statement) else {
        panic!("not a query: {sql}");
    };
    let plan = Planner::new().plan_query(&Tables, &SessionContextInfo::default(), &query, &[]);
    let plan = plan.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let reader = Reader::default();
    let params: Vec<_> = params
        .iter()
        .map(|p| ScalarValue::Int64(Some(*p)))
        .collect();
    let rows = Direct::of(&plan).and_then(|direct| {
        let rows = direct.execute(&params, (0, 0), &reader);
        rows.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let answer = rows.map(|rows| {
        let batches = runtime.expect("a runtime").block_on(rows.try_collect());
        let batches: Vec<RecordBatch> = batches.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let columns = batches.iter().map(|b| b.column(0));
        columns
            .flat_map(|c| c.as_primitive::<Int32Type>().values().to_vec())
            .collect()
    });
    let (orders, pieces) = reader.0.lock().expect("one thread").clone();
    Run {
        orders,
        pieces,
        answer,
    }
}

#[test]
fn pieces_are_read_until_there_are_enough_rows() {
    let by_id = |descending| vec![(1, descending)];
    for (sql, params, descending, pieces, answer) in [
        (
            "SELECT id FROM t ORDER BY id LIMIT 3",
            &[][..],
            false,
            1,
            vec![0, 1, 2],
        ),
        (
            "SELECT id FROM t ORDER BY id DESC LIMIT 2 OFFSET 1",
            &[],
            true,
            1,
            vec![ROWS - 2, ROWS - 3],
        ),
        (
            "SELECT id FROM t ORDER BY id DESC NULLS LAST LIMIT 1",
            &[],
            true,
            1,
            vec![ROWS - 1],
        ),
        ("SELECT id FROM t LIMIT 2", &[], false, 1, vec![0, 1]),
        (
            "SELECT k FROM (SELECT v + 1 AS w, id AS k FROM t) s WHERE w > 349995 ORDER BY k LIMIT 2",
            &[],
            false,
            4,
            vec![35_000, 35_001],
        ),
        (
            "SELECT id FROM t WHERE v % $1 = 0 ORDER BY id LIMIT $2 OFFSET $3",
            &[120_000, 2, 1],
            false,
            3,
            vec![12_000, 24_000],
        ),
        (
            "SELECT id FROM (SELECT id, v FROM t ORDER BY id LIMIT 3) s WHERE v > 5",
            &[],
            false,
            1,
            vec![1, 2],
        ),
    ] {
        let expected = Run {
            orders: by_id(descending),
            pieces,
            answer: Some(answer),
        };
        assert_eq!(run(sql, params), expected, "{sql}");
    }
}

#[test]
fn after_many_rows_the_reader_is_given_up() {
    let sql = "SELECT id FROM t WHERE v < 0 ORDER BY id LIMIT 3";
    let seen = run(sql, &[]);
    assert_eq!((seen.orders, seen.answer), (vec![(1, false)], None));
    assert!((2..10).contains(&seen.pieces), "{} pieces", seen.pieces);
}

#[test]
fn other_orders_are_not_asked_for() {
    for (sql, params) in [
        ("SELECT id FROM t ORDER BY id", &[][..]),
        ("SELECT id FROM t ORDER BY id OFFSET 5", &[]),
        ("SELECT id FROM t ORDER BY id + 1 LIMIT 3", &[]),
        ("SELECT id FROM t ORDER BY v NULLS FIRST LIMIT 3", &[]),
        ("SELECT id FROM t ORDER BY v DESC NULLS LAST LIMIT 3", &[]),
        ("SELECT count(*) FROM t LIMIT 3", &[]),
        ("SELECT id FROM t ORDER BY id LIMIT 100000", &[]),
        ("SELECT id FROM t ORDER BY id LIMIT $1", &[-1]),
        ("SELECT id FROM t ORDER BY id LIMIT 3 OFFSET $1", &[-1]),
    ] {
        let expected = Run {
            orders: vec![],
            pieces: 0,
            answer: None,
        };
        assert_eq!(run(sql, params), expected, "{sql}");
    }
}

#[test]
fn the_least_and_the_greatest_are_first_rows() {
    for (sql, params, orders, pieces, answer) in [
        (
            "SELECT max(id) FROM t",
            &[][..],
            vec![(1, true)],
            1,
            ROWS - 1,
        ),
        (
            "SELECT min(id) + 7 AS m FROM t",
            &[],
            vec![(1, false)],
            1,
            7,
        ),
        (
            "SELECT coalesce(max(s.k), 0) + 1 FROM (SELECT id AS k, v FROM t) s WHERE v < 1700000",
            &[],
            vec![(1, true)],
            4,
            170_000,
        ),
        (
            "SELECT min(id) FROM t WHERE v % $1 = 0 AND v > 0 HAVING min(id) > 5",
            &[120_000],
            vec![(1, false)],
            2,
            12_000,
        ),
        // NULL is neither.
        (
            "SELECT coalesce(max(n), -1) FROM (SELECT n FROM t ORDER BY id LIMIT 5) s",
            &[],
            vec![(1, false)],
            1,
            -1,
        ),
        (
            "SELECT coalesce(min(id), -1) FROM (SELECT id FROM t ORDER BY id LIMIT $1) s",
            &[0],
            vec![(1, false)],
            1,
            -1,
        ),
    ] {
        let expected = Run {
            orders,
            pieces,
            answer: Some(vec![answer]),
        };
        assert_eq!(run(sql, params), expected, "{sql}");
    }
}

#[test]
fn other_aggregates_take_the_general_path() {
    for sql in [
        "SELECT max(id) FROM t GROUP BY v",
        "SELECT max(id), min(id) FROM t",
        "SELECT max(id) FILTER (WHERE v > 5) FROM t",
        "SELECT count(id) FROM t",
        "SELECT max(id::float8) FROM t",
        "SELECT max(id + 1) FROM t",
    ] {
        let general = Run {
            orders: vec![],
            pieces: 0,
            answer: None,
        };
        assert_eq!(run(sql, &[]), general, "{sql}");
    }
}
