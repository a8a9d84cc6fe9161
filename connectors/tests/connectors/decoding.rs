//! Text in, rows out: every type, both formats, the options.

use tidemill_connectors::{ConnectorError, validate_options};
use tidemill_zset::schema::SqlType;

use crate::harness::*;

fn csv(
    columns: &[(&str, SqlType)],
    more: &[(&str, &str)],
    content: &str,
    rows: usize,
) -> Vec<String> {
    let mut options = vec![("format", "csv")];
    options.extend_from_slice(more);
    let (rows, errors) = decode(columns, &options, content.as_bytes(), rows, 0);
    assert!(errors.is_empty(), "{errors:?}");
    rows
}

fn jsonl(columns: &[(&str, SqlType)], content: &str, rows: usize) -> Vec<String> {
    let (rows, errors) = decode(columns, &[("format", "jsonl")], content.as_bytes(), rows, 0);
    assert!(errors.is_empty(), "{errors:?}");
    rows
}

fn every_type() -> Vec<(&'static str, SqlType)> {
    use SqlType::*;
    vec![
        ("a", Bool),
        ("b", Int2),
        ("c", Int4),
        ("d", Int8),
        ("e", Float4),
        ("f", Float8),
        ("g", Numeric(10, 2)),
        ("h", Text),
        ("i", Varchar(Some(3))),
        ("j", Bytea),
        ("k", Date),
        ("l", Time),
        ("m", Timestamp),
        ("n", Timestamptz),
        ("o", Interval),
        ("p", Uuid),
        ("q", Json),
        ("r", Jsonb),
        ("s", Array(Box::new(Int4))),
        ("t", Array(Box::new(Text))),
    ]
}

const WANT: &str = "true|-7|8|9000000000|1.5|2.25|12.35|a longer text than twelve bytes|abc|00ff|\
     2024-05-06|07:08:09.500|2024-05-06T07:08:09|2024-05-06T05:08:09Z|1 mons 2 days 3 hours|\
     a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{\"x\": [1, 2]}|{\"x\":[1,2]}|[1, ∅, 3]|[a b, c]";

#[test]
fn csv_of_every_type() {
    let line = "yes,-7,8,9000000000,1.5,2.25,12.345,a longer text than twelve bytes,abc,\\x00ff,\
         2024-05-06,07:08:09.5,2024-05-06 07:08:09,2024-05-06 07:08:09+02,1 mon 2 days 03:00:00,\
         A0EEBC999C0B4EF8BB6D6BB9BD380A11,\"{\"\"x\"\": [1, 2]}\",\"{\"\"x\"\": [1, 2]}\",\"{1,NULL,3}\",\"{a b,\"\"c\"\"}\"\n";
    let nulls = format!("{}\n", ",".repeat(19));
    let rows = csv(&every_type(), &[], &format!("{line}{nulls}{line}"), 3);
    let interval = WANT.replace(
        "1 mons 2 days 3 hours",
        rows[0].split('|').nth(14).expect("it has 20"),
    );
    assert_eq!(rows[0], interval);
    assert!(interval.contains("1 mon"), "{interval}");
    assert_eq!(rows[1], vec!["∅"; 20].join("|"));
    assert_eq!(rows[2], rows[0]);
}

#[test]
fn json_lines_of_every_type() {
    let line = r#"{"a":true,"b":-7,"c":"8","d":9000000000,"e":1.5,"f":2.25,"g":12.345,"h":"a longer text than twelve bytes","i":"abc","j":"\\x00ff","k":"2024-05-06","l":"07:08:09.5","m":"2024-05-06T07:08:09","n":"2024-05-06 07:08:09+02","o":"1 mon 2 days 03:00:00","p":"A0EEBC999C0B4EF8BB6D6BB9BD380A11","q":{"x": [1, 2]},"r":{"x": [1, 2]},"s":[1,null,3],"t":["a b","\u0063"]}"#;
    let content = format!("{line}\n{{}}\n\n  {{ \"z\" : 1 , \"b\" : null }}\r\n");
    let rows = jsonl(&every_type(), &content, 3);
    let interval = WANT.replace(
        "1 mons 2 days 3 hours",
        rows[0].split('|').nth(14).expect("it has 20"),
    );
    assert_eq!(rows[0], interval);
    assert_eq!(rows[1], vec!["∅"; 20].join("|"));
    assert_eq!(rows[2], rows[1]);
}

#[test]
fn quotes_and_lines() {
    let two = &[("a", SqlType::Text), ("b", SqlType::Text)];
    for (content, want) in [
        ("\"x\",\"\"\n", "x|"),
        ("x,\n", "x|∅"),
        ("\"a \"\"b\"\" c\",\"d,e\"\n", "a \"b\" c|d,e"),
        ("\"two\nlines\",y\n", "two\nlines|y"),
        ("5\" disk,x\"y\"\n", "5\" disk|x\"y\""),
        ("x,y\r\n", "x|y"),
        ("\"x\",\"y\"\r\n", "x|y"),
        ("\u{feff}x,y\n", "x|y"),
        (
            "a much longer text with \"\"quotes,\"and \"\"more\"\" of them\"\n",
            "a much longer text with \"\"quotes|and \"more\" of them",
        ),
        ("é,日本語のとても長い文字列\n", "é|日本語のとても長い文字列"),
    ] {
        assert_eq!(csv(two, &[], content, 1), [want], "{content:?}");
    }
    // Nothing depends on where 64-byte steps or blocks of rows end.
    for n in [1, 63, 64, 65, 1023, 1024, 1025, 70_000] {
        let content: String = (0..n)
            .map(|i| {
                if i % 3 == 0 {
                    format!("\"{i}\",x{i}\n")
                } else {
                    format!("{i},x{i}\n")
                }
            })
            .collect();
        let rows = csv(two, &[], &content, n);
        assert_eq!(rows.len(), n);
        assert!(
            rows.iter()
                .enumerate()
                .all(|(i, r)| *r == format!("{i}|x{i}")),
            "{n} rows"
        );
    }
}

#[test]
fn one_column_and_empty_lines() {
    assert_eq!(csv(WORD, &[], "a\n\nb\n", 3), ["a", "∅", "b"]);
    let two = &[("a", SqlType::Text), ("b", SqlType::Text)];
    assert_eq!(csv(two, &[], "a,b\n\r\n\nc,d\n", 2), ["a|b", "c|d"]);
}

#[test]
fn options_of_csv() {
    let two = &[("a", SqlType::Text), ("b", SqlType::Int4)];
    let rows = csv(
        two,
        &[
            ("delimiter", ";"),
            ("quote", "'"),
            ("escape", "\\"),
            ("null", "NULL"),
        ],
        "'it\\'s;';1\nNULL;NULL\n'NULL';2\n;3\n",
        4,
    );
    assert_eq!(rows, ["it's;|1", "∅|∅", "NULL|2", "|3"]);
    assert_eq!(csv(two, &[("delimiter", "\\t")], "x\t1\n", 1), ["x|1"]);
    let rows = csv(two, &[("header", "true")], "\u{feff}B,\"a\"\r\n1,x\r\n", 1);
    assert_eq!(rows, ["x|1"]);
}

#[test]
fn json_keys_in_any_order_and_twice() {
    let two = &[("a", SqlType::Text), ("b", SqlType::Int4)];
    let rows = jsonl(
        two,
        "{\"b\":1,\"a\":\"x\"}\n{\"a\":\"y\",\"b\":2,\"a\":\"z\"}\n{\"\\u0061\":\"e\\\"s\",\"c\":{\"a\":[1]}}\n",
        3,
    );
    assert_eq!(rows, ["x|1", "z|2", "e\"s|∅"]);
}

#[test]
fn options_are_checked() {
    let bad = |options: &[(&str, &str)], recorded: bool| {
        let mut all = vec![("connector", "files"), ("path", "/no/where")];
        all.extend_from_slice(options);
        match validate_options(&spec(WORD, &all, recorded)) {
            Err(ConnectorError::Option { message, hint }) => format!("{message}. {hint}"),
            other => panic!("{all:?} must be refused, got {other:?}"),
        }
    };
    for (options, want) in [
        (&[("format", "cvs")][..], "'csv', 'jsonl'"),
        (&[], "option \"format\" is required"),
        (
            &[("format", "csv"), ("headr", "true")],
            "Perhaps you mean \"header\"",
        ),
        (
            &[("format", "jsonl"), ("header", "true")],
            "no meaning with format = 'jsonl'",
        ),
        (&[("format", "csv"), ("header", "maybe")], "'true', 'false'"),
        (
            &[("format", "csv"), ("delimiter", ";;")],
            "single one-byte character",
        ),
        (&[("format", "csv"), ("delimiter", "\"")], "also the quote"),
        (
            &[("format", "csv"), ("on_delete", "retract")],
            "persistent_id",
        ),
        (
            &[("format", "csv"), ("max_line_bytes", "5")],
            "a whole number from 1024",
        ),
        (&[("format", "csv"), ("verify", "yes")], "'ends', 'full'"),
    ] {
        let got = bad(options, false);
        assert!(got.contains(want), "{got}");
    }
    let no_path = spec(WORD, &[("connector", "files"), ("format", "csv")], false);
    assert!(validate_options(&no_path).is_err());
    let no_connector = spec(WORD, &[("connector", "file")], false);
    assert!(validate_options(&no_connector).is_err());
    let metadata = spec(
        &[("x", SqlType::Text), ("_line", SqlType::Text)],
        &[("connector", "files"), ("path", "/x"), ("format", "csv")],
        false,
    );
    assert!(validate_options(&metadata).is_err());
}

#[test]
fn values_longer_than_a_chunk() {
    let long = "x".repeat(5 << 20);
    for (format, content) in [
        ("csv", format!("a\n\"{long}\"\nb\n")),
        ("csv", format!("a\n{long}\nb\n")),
        (
            "jsonl",
            format!("{{\"word\":\"a\"}}\n{{\"word\":\"{long}\"}}\n{{\"word\":\"b\"}}\n"),
        ),
    ] {
        let (rows, errors) = decode(WORD, &[("format", format)], content.as_bytes(), 3, 0);
        assert!(errors.is_empty());
        assert!(
            rows[0] == "a" && rows[1] == long && rows[2] == "b",
            "{format}"
        );
    }
}

#[test]
fn not_null_is_checked() {
    let input = Input::new();
    input.put(
        "a.jsonl",
        "{\"a\":1,\"b\":true}\n{\"a\":2}\n{\"b\":false}\n{\"a\":4,\"b\":null}\n",
    );
    let path = input.text();
    let mut spec = spec(
        &[],
        &[("connector", "files"), ("path", &path), ("format", "jsonl")],
        false,
    );
    spec.schema = std::sync::Arc::new(arrow::datatypes::Schema::new(vec![
        SqlType::Int4.field("a", true),
        SqlType::Bool.field("b", false),
    ]));
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 2 && k.errors().len() == 2);
    running.stop();
    assert_eq!(kept.rows(), ["1|true", "∅|false"]);
    assert!(kept.errors()[0].contains("column \"b\": null value violates the not-null constraint"));
}
