//! Generators: determinism, ends, columns.

use tidemill_connectors::{
    ConnectorError, SourceSpec, default_columns, open_source, validate_options,
};
use tidemill_zset::schema::SqlType;

use crate::harness::*;

fn generator(more: &[(&str, &str)]) -> SourceSpec {
    let mut options = vec![("connector", "generator")];
    options.extend_from_slice(more);
    let mut made = spec(&[], &options, false);
    made.schema = default_columns(&made.options)
        .expect("good options")
        .expect("a generator knows its columns");
    made
}

#[test]
fn every_kind_ends_and_repeats_and_resumes() {
    for options in [
        vec![("kind", "counter")],
        vec![("kind", "words"), ("seed", "7")],
        vec![("kind", "bank"), ("seed", "7"), ("accounts", "10")],
        vec![("kind", "nexmark"), ("table", "person")],
        vec![("kind", "nexmark"), ("table", "auction"), ("seed", "3")],
        vec![("kind", "nexmark"), ("table", "bid")],
    ] {
        let mut options = options;
        options.push(("rows", "1000"));
        let mut whole = Kept::default();
        Running::start(&generator(&options), &whole).finish(&mut whole);
        assert_eq!(whole.rows().len(), 1000, "{options:?}");
        // In small batches, stopped after each.
        options.push(("epoch_rows_max", "150"));
        let mut pieces = Kept::default();
        while pieces.rows().len() < 1000 {
            let running = Running::start(&generator(&options), &pieces);
            let before = pieces.batches;
            running.until(&mut pieces, |k| k.batches > before);
            running.stop();
        }
        assert_eq!(pieces.rows(), whole.rows(), "{options:?}");
        let again = read_again(&generator(&options), &pieces).expect("generators can");
        assert_eq!(again.rows(), whole.rows(), "{options:?}");
    }
}

#[test]
fn transfers_sum_to_zero() {
    let mut kept = Kept::default();
    let spec = generator(&[("kind", "bank"), ("rows", "500"), ("accounts", "2")]);
    Running::start(&spec, &kept).finish(&mut kept);
    for row in kept.rows() {
        let events: serde_json::Value = serde_json::from_str(&row).expect("JSON");
        let sum: i64 = (0..2)
            .map(|i| events[i]["amount"].as_i64().expect("a number"))
            .sum();
        assert_eq!(sum, 0, "{row}");
        assert_ne!(events[0]["account_id"], events[1]["account_id"], "{row}");
    }
}

#[test]
fn another_seed_gives_other_rows() {
    let rows = |seed| {
        let mut kept = Kept::default();
        let spec = generator(&[("kind", "words"), ("rows", "50"), ("seed", seed)]);
        Running::start(&spec, &kept).finish(&mut kept);
        kept.rows()
    };
    assert_ne!(rows("1"), rows("2"));
}

#[test]
fn a_rate_is_kept() {
    let spec = generator(&[("kind", "counter"), ("rate", "1000"), ("rows", "200")]);
    let start = std::time::Instant::now();
    let mut kept = Kept::default();
    Running::start(&spec, &kept).finish(&mut kept);
    assert_eq!(kept.rows().len(), 200);
    assert!(start.elapsed().as_millis() >= 195, "{:?}", start.elapsed());
}

#[test]
fn columns_may_be_a_part_but_not_others() {
    let mut spec = generator(&[("kind", "nexmark"), ("table", "bid"), ("rows", "3")]);
    spec.schema = schema(&[("price", SqlType::Int8), ("auction", SqlType::Int8)]);
    let mut kept = Kept::default();
    Running::start(&spec, &kept).finish(&mut kept);
    assert_eq!(kept.rows().len(), 3);
    for wrong in [
        schema(&[("prize", SqlType::Int8)]),
        schema(&[("price", SqlType::Text)]),
    ] {
        spec.schema = wrong;
        let Err(ConnectorError::Option { hint, .. }) = open_source(spec.clone(), vec![]).map(drop)
        else {
            panic!("must be refused")
        };
        assert!(hint.contains("price bigint"), "{hint}");
    }
}

#[test]
fn options_are_checked() {
    for (options, want) in [
        (
            vec![("kind", "counters")],
            "invalid value for option \"kind\"",
        ),
        (vec![], "option \"kind\" is required"),
        (
            vec![("kind", "counter"), ("rat", "1")],
            "unrecognized option \"rat\"",
        ),
        (
            vec![("kind", "counter"), ("rate", "-1")],
            "invalid value for option \"rate\"",
        ),
        (
            vec![("kind", "counter"), ("rows", "x")],
            "invalid value for option \"rows\"",
        ),
        (vec![("kind", "nexmark")], "option \"table\" is required"),
        (
            vec![("kind", "counter"), ("table", "bid")],
            "unrecognized option \"table\"",
        ),
    ] {
        let mut all = vec![("connector", "generator")];
        all.extend(options);
        let Err(e) = validate_options(&spec(&[("n", SqlType::Int8)], &all, false)) else {
            panic!("{all:?} must be refused")
        };
        assert!(e.to_string().contains(want), "{e}");
    }
}
