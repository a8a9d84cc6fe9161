//! The finder of several members against the plain form: one scan per member, and a document of serde_json.

use arrow::array::Array;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::json_scan::{elements, member};
use super::super::json_text::spaced;
use super::*;

/// What is asked for in all tests: keys that are there, twice in two forms, with escapes, long, and missing.
fn wanted() -> Vec<Wanted> {
    let want = |key: &str, as_text| Wanted {
        key: key.into(),
        as_text,
    };
    vec![
        want("a", true),
        want("amount", true),
        want("a", false),
        want("a\"é", true),
        want("", false),
        want("a key of more than sixteen bytes", true),
        want("missing", true),
    ]
}

const KEYS: [&str; 10] = [
    r#""a""#,
    r#""\u0061""#,
    r#""amount""#,
    r#""a\"é""#,
    r#""a\"\u00e9""#,
    r#""""#,
    r#""a key of more than sixteen bytes""#,
    r#""a key of more than sixteen bites""#,
    r#""amoun""#,
    r#""b""#,
];

fn space(random: &mut ChaCha8Rng) -> &'static str {
    [" ", "\n\t", "", "", "", "", "", ""][random.random_range(0..8)]
}

fn value(random: &mut ChaCha8Rng, depth: usize, out: &mut String) {
    const SCALARS: [&str; 14] = [
        "null",
        "true",
        "false",
        "0",
        "-12.50",
        "1e3",
        "12345678901234567890",
        r#""""#,
        r#""text""#,
        r#""a text of more than twelve bytes, é 😀""#,
        r#""},]\"[{:""#,
        r#""\\""#,
        r#""a\nb\u00e9\ud83d\ude00 and some more text""#,
        r#"" 42 ""#,
    ];
    out.push_str(space(random));
    match random.random_range(0..if depth == 0 { 1 } else { 5 }) {
        0 | 1 => out.push_str(SCALARS[random.random_range(0..SCALARS.len())]),
        2 => array(random, depth - 1, out),
        _ => {
            out.push('{');
            out.push_str(space(random));
            // Mostly the same keys in the same order, some missing, some twice, some others.
            let mut first = true;
            for key in KEYS {
                for _ in 0..[0, 1, 1, 1, 1, 2][random.random_range(0..6)] {
                    if !std::mem::take(&mut first) {
                        out.push(',');
                        out.push_str(space(random));
                    }
                    let other = KEYS[random.random_range(0..KEYS.len())];
                    out.push_str(if random.random_bool(0.1) { other } else { key });
                    out.push_str(space(random));
                    out.push(':');
                    value(random, depth - 1, out);
                }
            }
            out.push('}');
        }
    }
    out.push_str(space(random));
}

fn array(random: &mut ChaCha8Rng, depth: usize, out: &mut String) {
    out.push('[');
    out.push_str(space(random));
    for i in 0..random.random_range(0..4) {
        if i > 0 {
            out.push(',');
        }
        value(random, depth, out);
    }
    out.push(']');
}

/// What `->` and `->>` give.
fn plain(text: &str, wanted: &Wanted, jsonb: bool) -> Option<String> {
    let raw = member(text, &wanted.key)?;
    if !wanted.as_text {
        return Some(raw.to_string());
    }
    match serde_json::from_str(raw).unwrap_or_else(|e| panic!("{e}: {raw}")) {
        serde_json::Value::Null => None,
        serde_json::Value::String(s) => Some(s),
        serde_json::Value::Array(_) | serde_json::Value::Object(_) if jsonb => Some(spaced(raw)),
        _ => Some(raw.to_string()),
    }
}

fn check(column: &StringViewArray, texts: &[Option<&str>], wanted: &Wanted, jsonb: bool) {
    column.to_data().validate_full().expect("views of texts");
    assert_eq!(column.len(), texts.len());
    for (row, text) in texts.iter().enumerate() {
        let got = column.is_valid(row).then(|| column.value(row).to_string());
        let want = text.and_then(|t| plain(t, wanted, jsonb));
        assert_eq!(got, want, "{wanted:?} of {text:?}, jsonb {jsonb}");
    }
}

#[test]
fn members_of_objects() {
    let seed = 31;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut found = 0;
    for round in 0..300 {
        let jsonb = round % 2 == 0;
        let texts: Vec<Option<String>> = (0..random.random_range(0..30))
            .map(|_| {
                let mut text = String::new();
                value(&mut random, 3, &mut text);
                random.random_bool(0.9).then_some(text)
            })
            .collect();
        let column: StringViewArray = texts.iter().map(Option::as_deref).collect();
        // A slice, so that rows aren't places in the buffers.
        let column = column.slice(texts.len() / 5, texts.len() - texts.len() / 5);
        let texts: Vec<Option<&str>> = column.iter().collect();
        let members = columns(&column, &wanted(), jsonb);
        for (w, column) in wanted().iter().zip(&members) {
            check(column, &texts, w, jsonb);
            found += column.len() - column.null_count();
        }
    }
    assert!(found > 1_000, "the test finds something: {found}");
}

#[test]
fn members_of_elements() {
    let seed = 32;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut count = 0;
    for round in 0..300 {
        let jsonb = round % 2 == 0;
        let texts: Vec<Option<String>> = (0..random.random_range(1..20))
            .map(|_| {
                let mut text = space(&mut random).to_string();
                array(&mut random, 3, &mut text);
                random.random_bool(0.9).then_some(text)
            })
            .collect();
        let column: StringViewArray = texts.iter().map(Option::as_deref).collect();
        let mut parts = vec![json_type(jsonb).field("element", true)];
        parts.extend(fields(&wanted(), jsonb));
        let item = Arc::new(Field::new_list_field(DataType::Struct(parts.into()), true));
        let lists = element_lists(&column, &wanted(), jsonb, true, &item).expect("all are arrays");
        assert!((0..column.len()).all(|r| lists.is_null(r) == column.is_null(r)));
        let want: Vec<&str> = column
            .iter()
            .flatten()
            .flat_map(|t| elements(t).expect("an array"))
            .collect();
        let lengths = column
            .iter()
            .map(|t| t.map_or(0, |t| elements(t).expect("an array").count()));
        let offsets = lists.offsets().lengths();
        assert!(offsets.eq(lengths));
        let structs = lists.values().as_struct();
        let all = structs.column(0).as_string_view();
        assert!(all.iter().eq(want.iter().map(|t| Some(*t))));
        let want: Vec<Option<&str>> = want.into_iter().map(Some).collect();
        for (i, w) in wanted().iter().enumerate() {
            check(structs.column(i + 1).as_string_view(), &want, w, jsonb);
        }
        let item = Arc::new(Field::new_list_field(
            DataType::Struct(fields(&wanted(), jsonb).into()),
            true,
        ));
        let alone = element_lists(&column, &wanted(), jsonb, false, &item).expect("the same");
        assert_eq!(alone.offsets(), lists.offsets());
        let members = alone.values().as_struct().columns();
        assert_eq!(members, &structs.columns()[1..]);
        count += want.len();
    }
    assert!(count > 1_000, "the test has elements: {count}");
}

#[test]
fn elements_of_no_array_are_an_error() {
    let item = Arc::new(Field::new_list_field(
        DataType::Struct(Fields::empty()),
        true,
    ));
    for (text, message) in [
        ("{}", "cannot extract elements from an object"),
        (" 1", "cannot extract elements from a scalar"),
    ] {
        let column = StringViewArray::from_iter_values(["[]", text]);
        let error = element_lists(&column, &[], true, true, &item).expect_err("no array");
        let error = crate::error::from_datafusion(&error);
        assert_eq!((error.sqlstate, error.message.as_str()), ("22023", message));
    }
}

#[test]
fn damaged_text_does_no_harm() {
    let seed = 33;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let whole = r#"[{"a":[1,{"amount":"x\"y"},null],"amount":"é\\"},{"a":-1.5e3,"amount":7}]"#;
    let item = |parts: Vec<Field>| {
        let parts = std::iter::once(SqlType::Json.field("element", true)).chain(parts);
        Arc::new(Field::new_list_field(
            DataType::Struct(parts.collect()),
            true,
        ))
    };
    let item = item(fields(&wanted(), false));
    for _ in 0..20_000 {
        let mut text: Vec<char> = whole.chars().collect();
        let at = random.random_range(0..text.len());
        text[at] = ['{', '}', '[', ']', '"', '\\', ',', ':', 'é'][random.random_range(0..9)];
        text.truncate(random.random_range(at..=text.len()));
        let text: String = text.into_iter().collect();
        let column = StringViewArray::from_iter_values([&text[..], text.get(1..).unwrap_or("")]);
        for found in columns(&column, &wanted(), false) {
            found.to_data().validate_full().expect("views of texts");
        }
        if let Ok(lists) = element_lists(&column.slice(0, 1), &wanted(), false, true, &item) {
            lists.to_data().validate_full().expect("views of texts");
        }
    }
}
