//! Three tables with made-up rows, for benchmarks of operators and of the codec.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, Int64Builder, ListBuilder, RecordBatch,
    StringViewArray,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_zset::delta::schema_of;
use tidemill_zset::schema::SqlType;
use tidemill_zset::{CollectionId, Delta};

/// `a (k bigint, s text, v bigint, n numeric(12,2), f double precision, l bigint[], j jsonb)`.
pub const A: CollectionId = CollectionId(1);
/// `b (k bigint, w bigint)`.
pub const B: CollectionId = CollectionId(2);
/// `c (events jsonb)`: messages of the workload `bank`.
pub const C: CollectionId = CollectionId(3);
/// Rows of a batch.
const BATCH_ROWS: usize = 8_192;

/// The catalog of the three tables.
pub struct Tables(Vec<Relation>);

impl Default for Tables {
    fn default() -> Self {
        let relation = |id, name: &str, columns: &[(&str, SqlType)]| Relation {
            oid: 0,
            id,
            schema: "public".into(),
            name: name.into(),
            kind: RelationKind::Table,
            columns: schema_of(columns.iter().map(|(n, t)| t.field(n, true)).collect()),
            planned: None,
            primary_key: None,
            unique: None,
            append_only: false,
        };
        let bigints = SqlType::Array(Box::new(SqlType::Int8));
        Tables(vec![
            relation(
                A,
                "a",
                &[
                    ("k", SqlType::Int8),
                    ("s", SqlType::Text),
                    ("v", SqlType::Int8),
                    ("n", SqlType::Numeric(12, 2)),
                    ("f", SqlType::Float8),
                    ("l", bigints),
                    ("j", SqlType::Jsonb),
                ],
            ),
            relation(B, "b", &[("k", SqlType::Int8), ("w", SqlType::Int8)]),
            relation(C, "c", &[("events", SqlType::Jsonb)]),
        ])
    }
}

impl CatalogView for Tables {
    fn resolve(&self, _: Option<&str>, name: &str) -> Option<Relation> {
        self.0.iter().find(|r| r.name == name).cloned()
    }

    fn relations(&self) -> Vec<Relation> {
        self.0.clone()
    }
}

impl Tables {
    /// Columns of a table.
    pub fn schema(&self, id: CollectionId) -> SchemaRef {
        let relation = self.0.iter().find(|r| r.id == id);
        relation.expect("one of the three").columns.clone()
    }

    /// Rows of `a` whose keys are in `keys`, in that order.
    pub fn a(&self, keys: impl IntoIterator<Item = i64>) -> Vec<Delta> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let keys: Vec<i64> = keys.into_iter().collect();
        let make = |keys: &[i64]| -> Vec<ArrayRef> {
            let values: Vec<i64> = keys.iter().map(|_| random.random_range(0..1_000)).collect();
            let numbers = Decimal128Array::from_iter_values(values.iter().map(|v| i128::from(*v)))
                .with_precision_and_scale(12, 2)
                .expect("three digits fit");
            vec![
                Arc::new(Int64Array::from(keys.to_vec())),
                Arc::new(StringViewArray::from_iter_values(
                    keys.iter().map(|k| format!("word{k}")),
                )),
                Arc::new(Int64Array::from(values.clone())),
                Arc::new(numbers),
                Arc::new(Float64Array::from_iter_values(
                    values.iter().map(|v| *v as f64 / 8.0),
                )),
                lists(&values),
                Arc::new(StringViewArray::from_iter_values(
                    values
                        .iter()
                        .map(|v| format!("{{\"kind\": \"credit\", \"amount\": {v}}}")),
                )),
            ]
        };
        pieces(&self.schema(A), &keys, make)
    }

    /// Rows of `b` with these keys, in that order.
    pub fn b(&self, keys: impl IntoIterator<Item = i64>) -> Vec<Delta> {
        let keys: Vec<i64> = keys.into_iter().collect();
        pieces(&self.schema(B), &keys, |keys| {
            let column: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
            vec![column.clone(), column]
        })
    }
}

impl Tables {
    /// Messages that move money between two of `accounts`.
    pub fn c(&self, rows: usize, accounts: i64) -> Vec<Delta> {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let keys: Vec<i64> = (0..rows as i64).collect();
        let mut message = || {
            let [debit, credit] = [0; 2].map(|_| random.random_range(0..accounts));
            let amount = random.random_range(1..10_000);
            format!(
                r#"[{{"account_id":{debit},"amount":{},"event_type":"debit"}},{{"account_id":{credit},"amount":{amount},"event_type":"credit"}}]"#,
                -amount
            )
        };
        pieces(&self.schema(C), &keys, |keys| {
            let texts = keys.iter().map(|_| message());
            vec![Arc::new(StringViewArray::from_iter_values(texts))]
        })
    }
}

/// Two elements per row.
fn lists(values: &[i64]) -> ArrayRef {
    let item = Field::new_list_field(DataType::Int64, true);
    let mut lists = ListBuilder::new(Int64Builder::new()).with_field(item);
    for v in values {
        lists.append_value([Some(*v), Some(v + 1)]);
    }
    Arc::new(lists.finish())
}

/// Insertions in batches.
fn pieces(
    schema: &SchemaRef,
    keys: &[i64],
    mut make: impl FnMut(&[i64]) -> Vec<ArrayRef>,
) -> Vec<Delta> {
    let batch = |keys| RecordBatch::try_new(schema.clone(), make(keys)).expect("the table's types");
    keys.chunks(BATCH_ROWS)
        .map(batch)
        .map(Delta::insert)
        .collect()
}

/// `n` keys below `distinct`, in an order that repeats each about as often.
pub fn keys(n: usize, distinct: i64) -> impl Iterator<Item = i64> {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    (0..n).map(move |_| random.random_range(0..distinct))
}
