//! Our text and binary forms of random values, held against a real PostgreSQL 15: it reads our
//! binary form, and its text must be ours; its binary form, read by us, must be the value again.

mod postgres;

use std::error::Error;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Fields};
use bytes::{BufMut, BytesMut};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_server::pg::params;
use tidemill_server::pg::types::{Column, TextStyle, text_of};
use tidemill_zset::schema::SqlType;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// Values of each type.
const VALUES: usize = 600;

/// Bytes in PostgreSQL's binary format.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Raw, Box<dyn Error + Sync + Send>> {
        Ok(Raw(raw.to_vec()))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A random value of a type, in text that both sides read.
fn random(sql: &SqlType, rng: &mut ChaCha8Rng) -> String {
    match sql {
        SqlType::Bool => rng.random::<bool>().to_string(),
        SqlType::Int2 => rng.random::<i16>().to_string(),
        SqlType::Int4 => (rng.random::<i32>() >> rng.random_range(0..32)).to_string(),
        SqlType::Int8 => (rng.random::<i64>() >> rng.random_range(0..64)).to_string(),
        SqlType::Float4 => match rng.random_range(0..3) {
            0 => format!("{:e}", f32::from_bits(rng.random())),
            1 => format!(
                "{:e}",
                (rng.random::<i32>() >> rng.random_range(0..32)) as f32 / 8.0
            ),
            _ => format!(
                "{}e{}",
                rng.random_range(0..1000),
                rng.random_range(-30..30)
            ),
        },
        SqlType::Float8 => match rng.random_range(0..4) {
            0 => format!("{:e}", f64::from_bits(rng.random())),
            1 => format!(
                "{:e}",
                (rng.random::<i64>() >> rng.random_range(0..64)) as f64 / 64.0
            ),
            2 => format!("{:e}", 2f64.powi(rng.random_range(-200..200))),
            _ => format!(
                "{}e{}",
                rng.random_range(0..100_000),
                rng.random_range(-40..40)
            ),
        },
        SqlType::Numeric(precision, scale) => {
            let digits = rng.random_range(1..=*precision);
            let mut value: i128 = 0;
            for _ in 0..digits {
                value = value * 10 + rng.random_range(0..10);
            }
            let value = if rng.random() { -value } else { value };
            format!("{value}e-{scale}")
        }
        SqlType::Bytea => {
            let bytes: Vec<String> = (0..rng.random_range(0..20))
                .map(|_| format!("{:02x}", rng.random::<u8>()))
                .collect();
            format!("\\x{}", bytes.concat())
        }
        SqlType::Uuid => uuid::Uuid::from_u128(rng.random()).to_string(),
        SqlType::Json => format!("{{\"a\": {}}}", rng.random::<i32>()),
        // Its values have no blanks where they are kept, and get them where they are shown.
        SqlType::Jsonb => format!("[{}]", rng.random::<i32>()),
        _ => {
            let letters = [
                "a", "b", " ", "\"", "\\", ",", "{", "}", "(", ")", "\n", "\t", "é", "日", "NULL",
                "'",
            ];
            (0..rng.random_range(0..6))
                .map(|_| letters[rng.random_range(0..letters.len())])
                .collect()
        }
    }
}

/// Values that Arrow's readers of text don't take, or not all of them, are built directly.
fn random_array(sql: &SqlType, rng: &mut ChaCha8Rng) -> ArrayRef {
    use arrow::array::{
        Date32Array, IntervalMonthDayNanoArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::IntervalMonthDayNano;
    const DAY: i64 = 86_400_000_000;
    // From 4713 BC far into the future.
    let latest = if rng.random() { 20_000_000 } else { 40_000 };
    let day = rng.random_range(-2_440_000..latest);
    let us = match rng.random_range(0..3) {
        0 => rng.random_range(0..DAY),
        1 => rng.random_range(0..DAY / 1_000) * 1_000,
        _ => rng.random_range(0..86_400) * 1_000_000,
    };
    match sql {
        SqlType::Date => Arc::new(Date32Array::from(vec![day as i32])),
        SqlType::Time => Arc::new(Time64MicrosecondArray::from(vec![us])),
        SqlType::Timestamp => Arc::new(TimestampMicrosecondArray::from(vec![day * DAY + us])),
        SqlType::Timestamptz => Arc::new(
            TimestampMicrosecondArray::from(vec![day * DAY + us])
                .with_timezone(tidemill_zset::schema::UTC),
        ),
        SqlType::Interval => {
            let mut part = |most: i64| match rng.random_range(0..3) {
                0 => 0,
                _ => rng.random_range(-most..=most),
            };
            let (months, days) = (part(500) as i32, part(500) as i32);
            let us = [part(3 * DAY), part(3 * 86_400) * 1_000_000][rng.random_range(0..2)];
            let value = IntervalMonthDayNano::new(months, days, us * 1_000);
            Arc::new(IntervalMonthDayNanoArray::from(vec![value]))
        }
        _ => {
            let text = random(sql, rng);
            let field = sql.field("v", true);
            params::from_text(&field, text.as_bytes(), None)
                .unwrap_or_else(|error| panic!("{text:?} as {sql}: {error}"))
        }
    }
}

fn list(of: &SqlType, elements: &[ArrayRef]) -> ArrayRef {
    let refs: Vec<&dyn Array> = elements.iter().map(AsRef::as_ref).collect();
    let values = arrow::compute::concat(&refs).expect("elements of one type");
    let field = Arc::new(of.field("item", true));
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    Arc::new(ListArray::new(field, offsets, values, None))
}

fn binary(field: &Field, array: &ArrayRef, row: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    Column::new(field, array, TextStyle::default()).binary(row, &mut out);
    out.to_vec()
}

fn seed() -> ChaCha8Rng {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

#[tokio::test]
async fn values_are_shown_as_postgres_shows_them() {
    let server = postgres::Postgres::start();
    let client = server.connect().await;
    let mut rng = seed();
    for sql in [
        SqlType::Bool,
        SqlType::Int2,
        SqlType::Int4,
        SqlType::Int8,
        SqlType::Float4,
        SqlType::Float8,
        SqlType::Numeric(38, 0),
        SqlType::Numeric(20, 7),
        SqlType::Numeric(5, 5),
        SqlType::Text,
        SqlType::Varchar(None),
        SqlType::Bytea,
        SqlType::Date,
        SqlType::Time,
        SqlType::Timestamp,
        SqlType::Timestamptz,
        SqlType::Interval,
        SqlType::Uuid,
        SqlType::Json,
        SqlType::Jsonb,
    ] {
        let elements: Vec<ArrayRef> = (0..VALUES)
            .map(|number| match number % 20 {
                0 => arrow::array::new_null_array(&sql.arrow(), 1),
                _ => random_array(&sql, &mut rng),
            })
            .collect();
        let array = list(&sql, &elements);
        let field = SqlType::Array(Box::new(sql.clone())).field("v", true);
        let query = format!(
            "SELECT CASE WHEN v IS NOT NULL THEN format('%s', v) END, v FROM unnest($1::{sql}[]) WITH ORDINALITY AS u(v, n) ORDER BY n"
        );
        let raw = Raw(binary(&field, &array, 0));
        let rows = client
            .query(&query, &[&raw])
            .await
            .expect("PostgreSQL reads our array");
        assert_eq!(rows.len(), VALUES);
        let element = sql.field("v", true);
        for (row, ours) in rows.iter().zip(&elements) {
            let theirs: Option<String> = row.get(0);
            assert_eq!(theirs.is_none(), ours.is_null(0), "NULL of {sql}");
            assert_eq!(
                theirs.unwrap_or_default(),
                text_of(ours, 0),
                "text of {sql}"
            );
            if let Some(Raw(bytes)) = row.get::<_, Option<Raw>>(1) {
                let back = params::from_binary(&element, &bytes)
                    .unwrap_or_else(|error| panic!("binary {sql}: {error}"));
                assert_eq!(text_of(&back, 0), text_of(ours, 0), "binary {sql}");
            }
        }
        // The whole array's text, quoting and all, in both directions.
        let query = format!("SELECT ($1::{sql}[])::text");
        let theirs: String = client
            .query_one(&query, &[&raw])
            .await
            .expect("array")
            .get(0);
        assert_eq!(theirs, text_of(&array, 0), "text of {sql}[]");
        let dates = matches!(
            sql,
            SqlType::Interval | SqlType::Date | SqlType::Timestamp | SqlType::Timestamptz
        );
        if !dates {
            let back =
                params::from_text(&field, theirs.as_bytes(), None).expect("an array's own text");
            assert_eq!(text_of(&back, 0), theirs, "text of {sql}[] read back");
        }
    }
}

#[tokio::test]
async fn records_and_nested_arrays() {
    let server = postgres::Postgres::start();
    let client = server.connect().await;
    let mut rng = seed();
    for _ in 0..200 {
        let texts: Vec<ArrayRef> = (0..2)
            .map(|_| random_array(&SqlType::Text, &mut rng))
            .collect();
        let number = random_array(&SqlType::Float8, &mut rng);
        let fields = Fields::from(vec![
            SqlType::Text.field("a", true),
            SqlType::Float8.field("b", true),
            SqlType::Text.field("c", true),
            SqlType::Int4.field("d", true),
        ]);
        let null = arrow::array::new_null_array(&SqlType::Int4.arrow(), 1);
        let columns = vec![
            Arc::clone(&texts[0]),
            Arc::clone(&number),
            Arc::clone(&texts[1]),
            null,
        ];
        let record: ArrayRef = Arc::new(StructArray::new(fields, columns, None));
        let (a, b, c) = (
            text_of(&texts[0], 0),
            text_of(&number, 0),
            text_of(&texts[1], 0),
        );
        let theirs: String = client
            .query_one(
                "SELECT ROW($1::text, $2::text::float8, $3::text, NULL::int)::text",
                &[&a, &b, &c],
            )
            .await
            .expect("a record")
            .get(0);
        assert_eq!(theirs, text_of(&record, 0));
    }
    let inner = SqlType::Array(Box::new(SqlType::Int4));
    let one = |values: &[&str]| {
        let elements: Vec<ArrayRef> = values
            .iter()
            .map(|v| {
                params::from_text(&SqlType::Int4.field("v", true), v.as_bytes(), None).expect("int")
            })
            .collect();
        list(&SqlType::Int4, &elements)
    };
    let nested = list(&inner, &[one(&["1", "2"]), one(&["3", "4"])]);
    assert_eq!(text_of(&nested, 0), "{{1,2},{3,4}}");
    let field = SqlType::Array(Box::new(inner)).field("v", true);
    let raw = Raw(binary(&field, &nested, 0));
    let theirs: String = client
        .query_one("SELECT ($1::int[])::text", &[&raw])
        .await
        .expect("int[][]")
        .get(0);
    assert_eq!(theirs, "{{1,2},{3,4}}");
}
