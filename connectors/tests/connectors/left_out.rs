//! Columns that nobody wants: rows and errors are the same, and what can be in error is looked at all the same.

use std::sync::{Arc, Mutex};

use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_connectors::Wanted;
use tidemill_connectors::decode::{Decoder, End, FileContext, Format};
use tidemill_zset::schema::SqlType;

use crate::harness::{schema, texts};

const NAMES: [&str; 7] = ["id", "a", "short", "must", "b", "_path", "doc"];
/// Of those, what may be left out of CSV and of JSON lines.
const CSV: [bool; 7] = [false, true, false, false, true, false, false];
const JSONL: [bool; 7] = [false, true, false, false, true, false, true];

fn columns() -> Arc<Schema> {
    let types = [
        SqlType::Int4,
        SqlType::Text,
        SqlType::Varchar(Some(3)),
        SqlType::Text,
        SqlType::Text,
        SqlType::Text,
        SqlType::Jsonb,
    ];
    let columns: Vec<(&str, SqlType)> = NAMES.into_iter().zip(types).collect();
    let fields = schema(&columns);
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
    if json {
        let quoted = |t: &str| {
            if t.is_empty() {
                "null".into()
            } else {
                format!("\"{t}\"")
            }
        };
        let (a, must) = (quoted(a), quoted(must));
        format!(
            "{{\"id\":{id},\"a\":{a},\"short\":\"{short}\",\"must\":{must},\"b\":\"\\u0062{b}\",\"doc\":{doc}}}\n"
        )
    } else {
        let doc = doc.replace('"', "\"\"");
        format!("{id},{a},{short},{must},\"b\"\"{b}\",\"{doc}\"\n")
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
    let mut left_out = 0;
    for round in 0..60 {
        let json = round % 2 == 0;
        let (format, may) = match json {
            true => (Format::Jsonl, JSONL),
            false => (Format::Csv(Default::default()), CSV),
        };
        let content: String = (0..rng.random_range(1..3000))
            .map(|n| line(&mut rng, n, json))
            .collect();
        let rows_max = rng.random_range(1..2000);
        let wanted = Arc::new(Mutex::new(None));
        let whole = decode(content.as_bytes(), &format, &wanted, rows_max, || {});
        let mut told = Vec::new();
        let parts = decode(content.as_bytes(), &format, &wanted, rows_max, || {
            let flags: Wanted = NAMES.iter().map(|_| rng.random_bool(0.5)).collect();
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
            let unwanted = |i: usize| told.as_ref().is_some_and(|told| !told[i]) && may[i];
            for i in 0..NAMES.len() {
                let is_there = has.as_ref().is_none_or(|has| has[i]);
                assert_eq!(is_there, !unwanted(i) || rows.is_empty(), "{}", NAMES[i]);
                left_out += usize::from(!is_there);
            }
            for (row, some) in rows.iter().zip(some_rows) {
                let (row, some): (Vec<&str>, Vec<&str>) =
                    (row.split('|').collect(), some.split('|').collect());
                for i in 0..NAMES.len() {
                    assert_eq!(
                        some[i],
                        if unwanted(i) { "" } else { row[i] },
                        "{}",
                        NAMES[i]
                    );
                }
            }
        }
    }
    assert!(left_out > 100, "the test leaves something out: {left_out}");
}
