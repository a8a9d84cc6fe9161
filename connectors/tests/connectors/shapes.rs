//! Lines of JSON that look like the one before: what is read is what each line says by itself.

use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::Schema;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_connectors::decode::{Decoder, End, FileContext, Format};
use tidemill_zset::schema::SqlType;

use crate::harness::{schema, texts};

fn columns() -> Arc<Schema> {
    schema(&[
        ("a", SqlType::Int4),
        ("b", SqlType::Text),
        ("doc", SqlType::Jsonb),
        ("raw", SqlType::Json),
        ("_line", SqlType::Int8),
    ])
}

/// Lines of these shapes, in which `$` stands for a scalar.
const SHAPES: [&str; 9] = [
    r#"{"a":$,"b":$,"doc":$}"#,
    r#"{"a":1,"b":$,"doc":{"x":[$,{"y":$}],"z":{}},"raw":[ $ ]}"#,
    r#"{ "b" : $ , "other":[[],[$]], "a" : 2 }"#,
    r#"{"doc":{"\u0041\n":$},"b":$,"b":$}"#,
    r#"{"\u0062":$,"raw":{"k" : $}}"#,
    r#"{"doc":{"\u0000":$},"a":3}"#,
    r#"{}"#,
    r#"{"doc":[[$],[$,$],[]],"b":{"b":$}}"#,
    r#"[$]"#,
];
const SCALARS: [&str; 14] = [
    "1",
    "-7",
    "12345678",
    "1.5e3",
    "true",
    "false",
    "null",
    "\"\"",
    "\"text\"",
    "\"a text that is longer than a view holds\"",
    "\"with \\\"escapes\\\" \\u00e9\"",
    "\"\\u0000\"",
    "\"é\"",
    "\"]},{\"",
];

fn line(rng: &mut ChaCha8Rng, shape: &str) -> Vec<u8> {
    let mut line = String::new();
    for part in shape.split_inclusive('$') {
        line += part.trim_end_matches('$');
        if part.ends_with('$') {
            line += SCALARS.choose(rng).expect("there are some");
        }
    }
    let mut line = line.into_bytes();
    if rng.random_bool(0.1) {
        let at = rng.random_range(0..line.len());
        match rng.random_range(0..3) {
            0 => drop(line.remove(at)),
            1 => line[at] = *b"\"\\,:{}[] 0ex\x01\xff".choose(rng).expect("some"),
            _ => line.insert(at, *b"\", :{}[]1".choose(rng).expect("some")),
        }
    }
    line.push(b'\n');
    line
}

fn decoder() -> Decoder {
    Decoder::new(columns(), &Format::Jsonl).expect("good columns")
}

/// Rows and errors of `content`, which stands at `base` of the file and begins on line `number`.
fn decode(decoder: &mut Decoder, content: &[u8], base: u64, number: u64) -> [Vec<String>; 2] {
    let file = FileContext {
        path: "f".into(),
        modified_us: 0,
    };
    decoder.begin_file(file, number);
    decoder.begin_chunk(content, 0, base, true);
    let chunk = Buffer::from(content);
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < content.len() {
        at = decoder.decode(content, at, End::Last, 1000);
        let decoded = decoder.finish(&chunk);
        rows.extend(decoded.rows.iter().flat_map(texts));
        errors.extend(decoded.errors.iter().flat_map(texts));
    }
    [rows, errors]
}

#[test]
fn lines_are_read_as_if_alone() {
    let seed = 17;
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut read = [0, 0];
    for _ in 0..300 {
        // Files of few shapes, and of many, which come in stretches.
        let shapes: Vec<&str> = (0..rng.random_range(1..4))
            .map(|_| *SHAPES.choose(&mut rng).expect("there are some"))
            .collect();
        let stay = rng.random_range(0.0..1.0);
        let mut shape = shapes[0];
        let lines: Vec<Vec<u8>> = (0..rng.random_range(1..300))
            .map(|_| {
                if !rng.random_bool(stay) {
                    shape = shapes.choose(&mut rng).expect("there are some");
                }
                line(&mut rng, shape)
            })
            .collect();
        let mut alone = [Vec::new(), Vec::new()];
        let mut base = 0;
        for (n, line) in lines.iter().enumerate() {
            let one = decode(&mut decoder(), line, base, n as u64 + 1);
            for (all, mut some) in alone.iter_mut().zip(one) {
                all.append(&mut some);
            }
            base += line.len() as u64;
        }
        let together = decode(&mut decoder(), &lines.concat(), 0, 1);
        assert_eq!(together, alone);
        for (sum, some) in read.iter_mut().zip(&together) {
            *sum += some.len();
        }
    }
    assert!(read.iter().all(|n| *n > 1000), "rows and errors: {read:?}");
}
