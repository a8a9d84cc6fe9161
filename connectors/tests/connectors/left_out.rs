//! Columns that nobody wants: rows and errors are the same, whatever the type.

use std::sync::{Arc, Mutex};

use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_connectors::Wanted;
use tidemill_connectors::decode::{Decoder, End, FileContext, Format};
use tidemill_zset::schema::SqlType;

use crate::harness::{schema, texts};

/// The columns; all but the path may be left out.
fn types() -> Vec<(&'static str, SqlType)> {
    vec![
        ("id", SqlType::Int4),
        ("a", SqlType::Text),
        ("short", SqlType::Varchar(Some(3))),
        ("must", SqlType::Text),
        ("b", SqlType::Text),
        ("_path", SqlType::Text),
        ("doc", SqlType::Jsonb),
        ("whole", SqlType::Int8),
        ("sum", SqlType::Numeric(5, 2)),
        ("flag", SqlType::Bool),
        ("day", SqlType::Date),
        ("bytes", SqlType::Bytea),
        ("list", SqlType::Array(Box::new(SqlType::Int4))),
    ]
}

const OTHER_NAMES: [&str; 6] = ["whole", "sum", "flag", "day", "bytes", "list"];
/// Values of the columns from `whole` on: good ones, a NULL, and one that is bad at most places.
const OTHERS: [[&str; 6]; 5] = [
    ["12", "1.25", "t", "2024-02-29", "\\x00ff", "{1,2,NULL}"],
    [
        "-9223372036854775808",
        "-999.99",
        "f",
        "1999-12-31",
        "ab",
        "{}",
    ],
    ["", "", "", "", "", ""],
    [
        "000000000000000000007",
        "7",
        "yes",
        "infinity",
        "\\x",
        "{3}",
    ],
    [
        "9223372036854775808",
        "1000",
        "maybe",
        "2023-02-29",
        "\\xz",
        "{x}",
    ],
];

fn columns() -> Arc<Schema> {
    let fields = schema(&types());
    let fields: Vec<Field> = (fields.fields().iter())
        .map(|f| f.as_ref().clone().with_nullable(f.name() != "must"))
        .collect();
    assert_eq!(fields[1].data_type(), &DataType::Utf8View);
    Arc::new(Schema::new(fields))
}

/// One line, good or bad.
fn line(rng: &mut ChaCha8Rng, n: usize, json: bool) -> String {
    let id = if rng.random_bool(0.05) {
        "x".into()
    } else {
        n.to_string()
    };
    let short = if rng.random_bool(0.05) { "long" } else { "abc" };
    let must = if rng.random_bool(0.05) { "" } else { "there" };
    let a = ["", "short", "a text that is longer than a view holds"][rng.random_range(0..3)];
    let b = ["b", "another text that is longer than a view holds"][rng.random_range(0..2)];
    let doc = [
        "{}",
        "[1, 2]",
        "{\"x\": \"a member that is rather long\"}",
        "{",
    ][rng.random_range(0..4)];
    let of = |rng: &mut ChaCha8Rng, column: usize| {
        let bad = rng.random_bool(0.02);
        OTHERS[if bad { 4 } else { rng.random_range(0..4) }][column]
    };
    let others: Vec<&str> = (0..6).map(|column| of(rng, column)).collect();
    if json {
        let quoted = |t: &str| {
            if t.is_empty() {
                "null".into()
            } else {
                format!("\"{t}\"")
            }
        };
        let (a, must) = (quoted(a), quoted(must));
        let others: Vec<String> = (OTHER_NAMES.iter().zip(others))
            .map(|(name, value)| match value {
                "" => format!(",\"{name}\":null"),
                list if *name == "list" => {
                    let list = list
                        .replace('{', "[")
                        .replace('}', "]")
                        .replace("NULL", "null");
                    format!(",\"{name}\":{list}")
                }
                _ => format!(",\"{name}\":\"{}\"", value.replace('\\', "\\\\")),
            })
            .collect();
        format!(
            "{{\"id\":{id},\"a\":{a},\"short\":\"{short}\",\"must\":{must},\"b\":\"\\u0062{b}\",\"doc\":{doc}{}}}\n",
            others.concat()
        )
    } else {
        let doc = doc.replace('"', "\"\"");
        let others: Vec<String> = (others.iter())
            .map(|value| match *value {
                "" => ",".into(),
                value => format!(",\"{value}\""),
            })
            .collect();
        format!(
            "{id},{a},{short},{must},\"b\"\"{b}\",\"{doc}\"{}\n",
            others.concat()
        )
    }
}

/// Rows and errors of the batches, each with the columns that it has.
fn decode(
    content: &[u8],
    format: &Format,
    wanted: &Arc<Mutex<Option<Wanted>>>,
    rows_max: usize,
    mut before_batch: impl FnMut(),
) -> Vec<(Option<Wanted>, Vec<String>, Vec<String>)> {
    let asked = wanted.clone();
    let mut decoder = Decoder::new(columns(), format)
        .expect("good columns")
        .with_wanted(move || asked.lock().expect("not poisoned").clone());
    decoder.begin_file(
        FileContext {
            path: "f".into(),
            modified_us: 0,
        },
        1,
    );
    decoder.begin_chunk(content, 0, 0, true);
    let chunk = Buffer::from(content);
    let mut out = Vec::new();
    let mut at = 0;
    while at < content.len() {
        before_batch();
        at = decoder.decode(content, at, End::Last, rows_max);
        let decoded = decoder.finish(&chunk);
        let rows = decoded.rows.map_or(vec![], |b| texts(&b));
        let errors = decoded.errors.map_or(vec![], |b| texts(&b));
        out.push((decoded.columns, rows, errors));
    }
    out
}

#[test]
fn rows_and_errors_are_the_same_without_unwanted_columns() {
    let seed = 11;
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let names: Vec<&str> = types().iter().map(|(name, _)| *name).collect();
    let mut left_out = 0;
    for round in 0..60 {
        let json = round % 2 == 0;
        let format = match json {
            true => Format::Jsonl,
            false => Format::Csv(Default::default()),
        };
        let content: String = (0..rng.random_range(1..3000))
            .map(|n| line(&mut rng, n, json))
            .collect();
        let rows_max = rng.random_range(1..2000);
        let wanted = Arc::new(Mutex::new(None));
        let whole = decode(content.as_bytes(), &format, &wanted, rows_max, || {});
        let mut told = Vec::new();
        let parts = decode(content.as_bytes(), &format, &wanted, rows_max, || {
            let flags: Wanted = names.iter().map(|_| rng.random_bool(0.5)).collect();
            let flags = rng.random_bool(0.8).then_some(flags);
            told.push(flags.clone());
            *wanted.lock().expect("not poisoned") = flags;
        });
        assert_eq!(whole.len(), parts.len());
        for (((_, rows, errors), (has, some_rows, some_errors)), told) in
            whole.iter().zip(&parts).zip(told)
        {
            assert_eq!(errors, some_errors);
            assert_eq!(rows.len(), some_rows.len());
            let unwanted =
                |i: usize| told.as_ref().is_some_and(|told| !told[i]) && names[i] != "_path";
            for i in 0..names.len() {
                let is_there = has.as_ref().is_none_or(|has| has[i]);
                assert_eq!(is_there, !unwanted(i) || rows.is_empty(), "{}", names[i]);
                left_out += usize::from(!is_there);
            }
            for (row, some) in rows.iter().zip(some_rows) {
                let (row, some): (Vec<&str>, Vec<&str>) =
                    (row.split('|').collect(), some.split('|').collect());
                for i in 0..names.len() {
                    if !unwanted(i) {
                        assert_eq!(some[i], row[i], "{}", names[i]);
                    }
                }
            }
        }
    }
    assert!(left_out > 100, "the test leaves something out: {left_out}");
}
