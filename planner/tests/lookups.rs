//! Joins that read one side by the other's keys, first rows above them, rounds of recursive queries, and parts that stand in several
//! places: what is asked of the reader.

use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_common::ScalarValue;
use futures::TryStreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{self, Statement};
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_planner::query::{
    ColumnOrder, Condition, Pieces, Planner, Rows, SessionContextInfo, SnapshotReader,
};
use tidemill_zset::CollectionId;
use tidemill_zset::schema::SqlType;

/// `many (id, v)` has so many rows, `v` a tenth of `id`.
const MANY: i32 = 100_000;
/// `few (id, w)` has so many, `w` three times `id`.
const FEW: i32 = 100;

#[derive(Debug)]
struct Tables;

fn schema(second: &str) -> SchemaRef {
    let fields = ["id", second].map(|name| SqlType::Int4.field(name, true));
    Arc::new(Schema::new(fields.to_vec()))
}

fn relation(id: u64, name: &str, second: &str) -> Relation {
    Relation {
        id: CollectionId(id),
        schema: "public".into(),
        name: name.into(),
        kind: RelationKind::Table,
        columns: schema(second),
        oid: 0,
        planned: None,
        primary_key: Some(vec![0]),
        unique: None,
        append_only: false,
    }
}

impl CatalogView for Tables {
    fn resolve(&self, _: Option<&str>, name: &str) -> Option<Relation> {
        self.relations().into_iter().find(|r| r.name == name)
    }

    fn relations(&self) -> Vec<Relation> {
        vec![relation(1, "many", "v"), relation(2, "few", "w")]
    }
}

/// Rows of a piece, where they are wanted in order.
const PIECE_ROWS: i32 = 1000;

/// What was asked of the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Rows of `many`, by so many keys.
    Keys(usize),
    /// All rows of `many`.
    All,
    /// A piece of a table's rows in the order of `id`.
    Piece,
}

use Look::{All, Keys, Piece};

type Looks = Arc<Mutex<Vec<Look>>>;

#[derive(Debug, Default)]
struct Reader(Looks);

fn rows(ids: Vec<i32>, second: impl Fn(i32) -> i32, columns: Option<&[usize]>) -> Rows {
    let seconds: Int32Array = ids.iter().map(|id| Some(second(*id))).collect();
    let all: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(ids)), Arc::new(seconds)];
    let batch = RecordBatch::try_new(schema("x"), all).expect("two columns");
    let batch = match columns {
        Some(columns) => batch.project(columns).expect("columns of the batch"),
        None => batch,
    };
    Box::new(std::iter::once(Ok(batch)))
}

impl SnapshotReader for Reader {
    fn scan(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        _: &[Condition],
    ) -> Result<Rows, SqlError> {
        Ok(match collection.0 {
            1 => {
                self.0.lock().expect("one thread").push(All);
                rows((0..MANY).collect(), |id| id / 10, columns)
            }
            _ => rows((0..FEW).collect(), |id| id * 3, columns),
        })
    }

    fn rows_estimate(&self, collection: CollectionId) -> Option<u64> {
        Some(if collection.0 == 1 { MANY } else { FEW } as u64)
    }

    fn find(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<Option<Rows>, SqlError> {
        let keys = conditions.iter().find_map(|c| match c {
            Condition::OneOf { column: 0, values } => Some(values),
            _ => None,
        });
        let (Some(keys), 1) = (keys, collection.0) else {
            return Ok(None);
        };
        let ids = keys.iter().map(|key| match key {
            ScalarValue::Int32(Some(id)) => *id,
            other => panic!("{other:?} is looked for in a column of integers"),
        });
        let ids: Vec<i32> = ids.filter(|id| (0..MANY).contains(id)).collect();
        self.0.lock().expect("one thread").push(Keys(keys.len()));
        Ok(Some(rows(ids, |id| id / 10, columns)))
    }

    /// Nothing is read for the answer.
    fn finds(&self, collection: CollectionId, conditions: &[Condition]) -> Result<bool, SqlError> {
        let by_id = |c: &Condition| matches!(c, Condition::OneOf { column: 0, .. });
        Ok(collection.0 == 1 && conditions.iter().any(by_id))
    }

    fn find_in_order(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        _: &[Condition],
        order: ColumnOrder,
    ) -> Result<Option<Pieces>, SqlError> {
        if order.column != 0 {
            return Ok(None);
        }
        let (all, second): (i32, fn(i32) -> i32) = match collection.0 {
            1 => (MANY, |id| id / 10),
            _ => (FEW, |id| id * 3),
        };
        let (looks, columns) = (self.0.clone(), columns.map(<[usize]>::to_vec));
        Ok(Some(Box::new((0..all).step_by(PIECE_ROWS as usize).map(
            move |from| {
                looks.lock().expect("one thread").push(Piece);
                let until = (from + PIECE_ROWS).min(all);
                let ids = match order.descending {
                    false => from..until,
                    true => all - until..all - from,
                };
                // In no order.
                let ids = ids.rev().collect();
                Ok(rows(ids, second, columns.as_deref()))
            },
        ))))
    }
}

/// The single number that a query gives, and what was asked of the reader.
fn run(sql: &str) -> (Option<i64>, Vec<Look>) {
    let mut parsed = ast::parse(sql).expect("SQL");
    let Some(Statement::Query { query, .. }) = parsed.pop().map(|p| p.statement) else {
        panic!("not a query: {sql}");
    };
    let plan = Planner::new().plan_query(&Tables, &SessionContextInfo::default(), &query, &[]);
    let plan = plan.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let reader = Reader::default();
    let looks = reader.0.clone();
    let run = async {
        let rows = plan.execute(Arc::new(reader))?;
        rows.try_collect::<Vec<RecordBatch>>().await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let batches = runtime.expect("a runtime").block_on(run);
    let batches = batches.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let value = ScalarValue::try_from_array(batches[0].column(0), 0).expect("a row");
    let ScalarValue::Int64(value) = value else {
        panic!("{sql}: {value:?}");
    };
    let looks = looks.lock().expect("one thread").clone();
    (value, looks)
}

#[test]
fn one_side_is_read_by_the_keys_of_the_other() {
    for (sql, sum, keys) in [
        (
            "SELECT sum(v) FROM few JOIN many ON many.id = few.w",
            1440,
            FEW,
        ),
        (
            "SELECT sum(v) FROM many JOIN few ON many.id = few.w",
            1440,
            FEW,
        ),
        (
            "SELECT sum(v) FROM many, few WHERE many.id = few.w AND few.id < 10",
            9,
            10,
        ),
        (
            "SELECT sum(v) FROM few LEFT JOIN many ON many.id = few.w AND v > 1",
            1437,
            FEW,
        ),
        (
            "SELECT sum(v) FROM many RIGHT JOIN few ON many.id = few.w * 1000000",
            0,
            FEW,
        ),
        (
            "SELECT sum(v) FROM many WHERE id IN (SELECT w FROM few)",
            1440,
            FEW,
        ),
        (
            "SELECT sum(v) FROM many WHERE id = ANY (ARRAY(SELECT w FROM few))",
            1440,
            FEW,
        ),
        (
            "SELECT sum(w) FROM few WHERE NOT EXISTS (SELECT FROM many WHERE id = w AND v < 2)",
            14787,
            FEW,
        ),
        (
            "SELECT sum((SELECT max(v) FROM many WHERE many.id = few.w)) FROM few",
            1440,
            FEW,
        ),
        (
            "SELECT sum(x.v + 1) FROM few JOIN (SELECT id + 0 AS i, id, v FROM many WHERE v > 0) AS x ON x.id = few.w",
            1536,
            FEW,
        ),
        (
            "SELECT sum(v) FROM many JOIN generate_series(5, 9, 2) AS g ON many.id = g::bigint * 100",
            210,
            3,
        ),
    ] {
        let (value, looks) = run(sql);
        assert_eq!(looks, [Keys(keys as usize)], "{sql}");
        assert_eq!(value, Some(sum), "{sql}");
    }
}

#[test]
fn rounds_of_a_recursive_query_look_up_what_is_new() {
    let sql = "WITH RECURSIVE up(id) AS (VALUES (98765) UNION ALL \
               SELECT v FROM many JOIN up ON many.id = up.id WHERE v > 0) SELECT count(*) FROM up";
    let (value, looks) = run(sql);
    assert_eq!(value, Some(5));
    assert_eq!(looks, [Keys(1); 5]);
}

/// By a column that no index finds rows by.
#[test]
fn what_all_rounds_of_a_recursive_query_have_is_read_once() {
    let down = |step: &str| {
        format!(
            "WITH RECURSIVE down(id, d) AS (VALUES (5, 0) UNION ALL {step} AND d < 3) SELECT count(*) FROM down"
        )
    };
    for (step, count) in [
        (
            "SELECT m.id, d + 1 FROM many m JOIN down ON m.v = down.id WHERE true",
            1111,
        ),
        (
            "SELECT m.id, d + 1 FROM down JOIN many m ON m.v + 1 = down.id + 1 AND m.id > d WHERE true",
            1111,
        ),
        (
            "SELECT m.id, d + 1 FROM down LEFT JOIN many m ON m.v = down.id WHERE true",
            1111,
        ),
        (
            "SELECT m.v, d + 1 FROM down JOIN (SELECT v, count(*) AS n FROM many GROUP BY v) AS m ON m.n = down.id + 5 WHERE m.v < 8",
            25,
        ),
        (
            "SELECT down.id, d + 1 FROM down WHERE EXISTS (SELECT FROM many m WHERE m.v = down.id)",
            4,
        ),
        (
            "SELECT down.id, d + 1 FROM down WHERE NOT EXISTS (SELECT FROM many m WHERE m.v = down.id + 10000)",
            4,
        ),
        (
            "SELECT down.id, d + 1 FROM down, (SELECT max(v) AS most FROM many) AS m WHERE most > d",
            4,
        ),
        (
            "SELECT down.id, d + 1 FROM down JOIN many m ON m.v < down.id - 3 WHERE m.id % 10 = 7",
            15,
        ),
    ] {
        let sql = down(step);
        assert_eq!(run(&sql), (Some(count), vec![All]), "{sql}");
    }
    // By a key, until there are too many; then there is a table.
    let sql = "WITH RECURSIVE r(id, d) AS (VALUES (1, 0) UNION ALL SELECT g, d + 1 FROM r JOIN many ON many.id = r.id, \
               generate_series(r.id * 10, r.id * 10 + 9) AS g WHERE d < 5) SELECT count(*) FROM r";
    assert_eq!(
        run(sql),
        (
            Some(111_111),
            vec![Keys(1), Keys(10), Keys(100), Keys(1000), All]
        )
    );
}

#[test]
fn equal_parts_of_a_query_are_read_once() {
    for (sql, sum, looks) in [
        (
            "WITH s AS (SELECT v, count(*) AS n FROM many GROUP BY v) SELECT sum(a.n + b.n)::bigint FROM s a JOIN s b ON a.v = b.v + 1",
            199_980,
            &[All][..],
        ),
        (
            "WITH s AS (SELECT v, count(*) AS n FROM many GROUP BY v) SELECT count(*) FROM s WHERE n = (SELECT max(n) FROM s)",
            10_000,
            &[All],
        ),
        (
            "WITH s AS (SELECT id, row_number() OVER (ORDER BY v, id) AS n FROM many) SELECT count(*) FROM s a JOIN s b ON b.n = a.n + 1",
            99_999,
            &[All],
        ),
        // What is in it is once in each of its places, and once beside it.
        (
            "WITH s AS (SELECT v, count(*) AS n FROM many GROUP BY v), t AS (SELECT n, count(*) AS m FROM s GROUP BY n) \
             SELECT sum(a.m + b.m + (SELECT max(n) FROM s))::bigint FROM t a, t b",
            20_010,
            &[All],
        ),
        // Few of its rows are wanted, other ones in each place.
        (
            "WITH s AS (SELECT id, sum(v) AS n FROM many GROUP BY id) SELECT sum(a.n + b.n)::bigint FROM few JOIN s a ON a.id = few.w JOIN s b ON b.id = few.w + 1",
            2890,
            &[Keys(100), Keys(100)],
        ),
        // Each time others.
        (
            "SELECT count(*) FROM (SELECT v, max(random()) AS x FROM many GROUP BY v) a JOIN (SELECT v, max(random()) AS x FROM many GROUP BY v) b ON a.v = b.v",
            10_000,
            &[All, All],
        ),
        // Not equal.
        (
            "SELECT count(*) FROM (SELECT v, max(id) AS x FROM many GROUP BY v) a JOIN (SELECT v, min(id) AS x FROM many GROUP BY v) b ON a.v = b.v",
            10_000,
            &[All, All],
        ),
    ] {
        assert_eq!(run(sql), (Some(sum), looks.to_vec()), "{sql}");
    }
}

/// Rows that have no partner count, NULL equals NULL, or there are too many keys.
#[test]
fn other_joins_read_both_sides() {
    for sql in [
        "SELECT count(*) FROM few RIGHT JOIN many ON many.id = few.w",
        "SELECT count(*) FROM many LEFT JOIN unnest(ARRAY[1, 2]) AS u(x) ON many.id = x",
        "SELECT count(*) FROM few FULL JOIN many ON many.id = few.w",
        "SELECT count(*) FROM few JOIN many ON many.v = few.w",
        "SELECT count(*) FROM few JOIN many ON many.id IS NOT DISTINCT FROM few.w",
        "SELECT count(*) FROM few WHERE w NOT IN (SELECT id FROM many)",
        "SELECT count(*) FROM generate_series(1, 5000) AS g JOIN many ON many.id = g",
    ] {
        assert_eq!(run(sql).1, [All], "{sql}");
    }
}

/// `few` is read to its end, which the reader doesn't note.
#[test]
fn first_rows_above_joins_take_what_comes_first() {
    let of = |select: &str| format!("SELECT sum(x) FROM ({select}) s");
    for (select, sum, looks) in [
        (
            "SELECT many.id AS x FROM many JOIN few ON few.w = many.id ORDER BY many.id LIMIT 3 OFFSET 1",
            18,
            &[Piece][..],
        ),
        (
            "SELECT f.w AS x FROM few f RIGHT JOIN many ON f.id = v ORDER BY many.id DESC LIMIT 3",
            0,
            &[Piece],
        ),
        (
            "SELECT v AS x FROM few JOIN many ON many.id = few.w ORDER BY few.id DESC, v LIMIT 2",
            58,
            &[Piece, Keys(64)],
        ),
        (
            "SELECT v AS x FROM few LEFT JOIN many ON many.id = few.w AND v > 5 WHERE few.id % 10 = 0 ORDER BY few.id LIMIT 4",
            15,
            &[Piece, Keys(7)],
        ),
        (
            "SELECT few.id AS x FROM few WHERE EXISTS (SELECT FROM many WHERE many.id = w AND v = 4) ORDER BY id LIMIT 2",
            29,
            &[Piece, Keys(64)],
        ),
        // Three parts of a piece, and one of the next.
        (
            "SELECT many.id AS x FROM many JOIN few ON few.id = v % 100 WHERE few.id = 99 ORDER BY many.id LIMIT 11",
            11_935,
            &[Piece, Piece],
        ),
        (
            "SELECT a.v + b.w AS x FROM many a JOIN few b ON b.id = a.v JOIN many c ON c.id = b.w ORDER BY a.id LIMIT 12",
            8,
            &[Piece, Keys(7)],
        ),
    ] {
        let (value, seen) = run(&of(select));
        assert_eq!(value, Some(sum).filter(|n| *n != 0), "{select}");
        assert_eq!(seen, looks, "{select}");
    }
}

/// No row passes; a side would have to be read to its end; each row isn't of one in the order, or is in another order.
#[test]
fn first_rows_above_other_joins_are_found_among_all() {
    let none = "SELECT sum(id) FROM (SELECT many.id FROM many JOIN few ON few.id = v + 1000 ORDER BY many.id LIMIT 3) s";
    let (value, looks) = run(none);
    assert_eq!(value, None);
    let pieces = looks.iter().filter(|look| **look == Piece).count();
    assert!((4..8).contains(&pieces), "{looks:?}");
    assert_eq!(looks.last(), Some(&All));
    for (sql, looks) in [
        (
            "SELECT v::bigint FROM few JOIN many ON v = few.w ORDER BY few.id LIMIT 3",
            &[Piece, All][..],
        ),
        (
            "SELECT v::bigint FROM few RIGHT JOIN many ON many.id = few.w ORDER BY few.id LIMIT 3",
            &[All],
        ),
        (
            "SELECT v::bigint FROM few FULL JOIN many ON many.id = few.w ORDER BY many.id LIMIT 3",
            &[All],
        ),
        (
            "SELECT v::bigint FROM many JOIN few ON few.id = v ORDER BY many.id + 1 LIMIT 3",
            &[All],
        ),
        (
            "SELECT v::bigint FROM many JOIN few ON few.id = v ORDER BY many.id NULLS FIRST LIMIT 3",
            &[All],
        ),
        (
            "SELECT v::bigint FROM many JOIN few ON few.id = v AND random() < 2 ORDER BY many.id LIMIT 3",
            &[All],
        ),
        (
            "SELECT v::bigint FROM many JOIN (SELECT id FROM few WHERE random() < 2) f ON f.id = v ORDER BY many.id LIMIT 3",
            &[All],
        ),
    ] {
        let (_, seen) = run(sql);
        assert_eq!(seen, looks, "{sql}");
    }
}
