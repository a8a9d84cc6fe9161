//! Tables of mixed types with random rows: few distinct values, NULLs, duplicates, NaN.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_zset::CollectionId;
use tidemill_zset::schema::SqlType;

/// One value per column.
pub type Row = Vec<ScalarValue>;

/// The tables of the tests.
#[derive(Debug)]
pub struct Tables {
    pub relations: Vec<Relation>,
}

impl Tables {
    pub fn new() -> Self {
        let numeric = SqlType::Numeric(12, 2);
        let tables: Vec<(&str, Vec<(&str, SqlType)>)> = vec![
            (
                "orders",
                vec![
                    ("id", SqlType::Int8),
                    ("customer", SqlType::Int4),
                    ("product", SqlType::Text),
                    ("quantity", SqlType::Int4),
                    ("price", numeric.clone()),
                    ("weight", SqlType::Float8),
                    ("paid", SqlType::Bool),
                    ("day", SqlType::Date),
                    ("at", SqlType::Timestamp),
                    ("tags", SqlType::Array(Box::new(SqlType::Int4))),
                ],
            ),
            (
                "customers",
                vec![
                    ("id", SqlType::Int4),
                    ("name", SqlType::Text),
                    ("region", SqlType::Text),
                    ("credit", SqlType::Numeric(10, 2)),
                ],
            ),
            (
                "payments",
                vec![
                    ("order_id", SqlType::Int8),
                    ("amount", numeric),
                    ("method", SqlType::Text),
                ],
            ),
            (
                "events",
                vec![
                    ("kind", SqlType::Int2),
                    ("payload", SqlType::Jsonb),
                    ("score", SqlType::Float4),
                ],
            ),
        ];
        let relations = tables.into_iter().enumerate().map(|(i, (name, columns))| {
            let fields: Vec<Field> = columns.iter().map(|(n, t)| t.field(n, true)).collect();
            Relation {
                id: CollectionId(i as u64 + 1),
                schema: "public".into(),
                name: name.into(),
                kind: RelationKind::Table,
                columns: Arc::new(Schema::new(fields)),
                oid: 0,
                planned: None,
                primary_key: None,
                unique: None,
                append_only: false,
            }
        });
        Tables {
            relations: relations.collect(),
        }
    }

    pub fn schema(&self, id: CollectionId) -> SchemaRef {
        self.relations[id.0 as usize - 1].columns.clone()
    }
}

impl CatalogView for Tables {
    fn resolve(&self, schema: Option<&str>, name: &str) -> Option<Relation> {
        let known = schema.is_none_or(|s| s == "public");
        self.relations
            .iter()
            .find(|r| known && r.name == name)
            .cloned()
    }

    fn relations(&self) -> Vec<Relation> {
        self.relations.clone()
    }
}

/// A random row of `schema`.
pub fn row(schema: &Schema, random: &mut ChaCha8Rng) -> Row {
    schema.fields().iter().map(|f| value(f, random)).collect()
}

fn value(field: &Field, random: &mut ChaCha8Rng) -> ScalarValue {
    if random.random_bool(0.08) {
        return ScalarValue::try_new_null(field.data_type()).expect("every type has NULL");
    }
    let small = random.random_range(0..10i64);
    match SqlType::of(field) {
        SqlType::Bool => ScalarValue::Boolean(Some(small < 5)),
        SqlType::Int2 => ScalarValue::Int16(Some(small as i16)),
        SqlType::Int4 => ScalarValue::Int32(Some(small as i32)),
        SqlType::Int8 => ScalarValue::Int64(Some(small + 10 * random.random_range(0..3i64))),
        SqlType::Float4 => {
            ScalarValue::Float32(Some([0.5, -1.25, f32::NAN, 3.0][small as usize % 4]))
        }
        SqlType::Float8 => ScalarValue::Float64(Some(
            [0.1, 1e16, -0.0, 0.0, f64::NAN, -2.5, f64::INFINITY, 0.2][small as usize % 8],
        )),
        SqlType::Numeric(p, s) => ScalarValue::Decimal128(Some(i128::from(small) * 125), p, s),
        SqlType::Date => ScalarValue::Date32(Some(19_723 + small as i32 * 3)),
        SqlType::Timestamp => {
            ScalarValue::TimestampMicrosecond(Some(1_704_000_000_000_000 + small * 7_000_000), None)
        }
        SqlType::Jsonb => ScalarValue::Utf8View(Some(
            [
                r#"[{"account":"a","amount":3},{"account":"b","amount":-3}]"#,
                "[]",
                r#"{"a":[1,2,2],"b":null}"#,
                r#"[1,"x",null]"#,
                "7",
                r#"{"b":"2","a":{"x":1,"y":[1, 2]},"b": "é\u0041 and more than twelve"}"#,
            ][small as usize % 6]
                .into(),
        )),
        SqlType::Array(_) => {
            let items: Vec<_> = (0..small % 4)
                .map(|i| ScalarValue::Int32((i != 2).then_some(i as i32)))
                .collect();
            ScalarValue::List(ScalarValue::new_list(&items, &DataType::Int32, true))
        }
        _ => {
            let words = [
                "apple",
                "pear",
                "plum",
                "north",
                "south",
                "west",
                "Ärger",
                "",
                "a longer text than twelve",
                "x",
            ];
            ScalarValue::Utf8View(Some(words[small as usize].into()))
        }
    }
}

/// `rows` as a batch of `schema`.
pub fn batch(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = (0..schema.fields().len())
        .map(|c| {
            let field = schema.field(c);
            let array = match rows.is_empty() {
                true => arrow::array::new_empty_array(field.data_type()),
                false => ScalarValue::iter_to_array(rows.iter().map(|r| r[c].clone()))
                    .expect("one type per column"),
            };
            arrow::compute::cast(&array, field.data_type()).expect("a cast to the same type")
        })
        .collect();
    RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema")
}

/// Rows as text, sorted: equal for equal multisets. Every NaN is one value, -0 is 0.
pub fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut out = vec![];
    for batch in batches {
        for i in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|c| {
                let value = ScalarValue::try_from_array(c, i).expect("a value in range");
                match value {
                    ScalarValue::Float64(Some(f)) => float(f),
                    ScalarValue::Float32(Some(f)) => float(f.into()),
                    v => format!("{v:?}"),
                }
            });
            out.push(values.collect::<Vec<_>>().join(", "));
        }
    }
    out.sort();
    out
}

fn float(f: f64) -> String {
    if f.is_nan() {
        "NaN".into()
    } else {
        // Adding zero turns -0 into 0.
        format!("{:e}", f + 0.0)
    }
}
