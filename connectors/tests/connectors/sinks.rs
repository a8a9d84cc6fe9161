//! File sinks: formats, resuming, refusals.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use tidemill_connectors::sink::{Mark, SinkEncoding};
use tidemill_connectors::{ConnectorError, FileSink, SinkFormat};
use tidemill_zset::Delta;
use tidemill_zset::schema::SqlType;

use crate::harness::*;

fn format(encoding: SinkEncoding) -> SinkFormat {
    SinkFormat {
        encoding,
        time_column: "time".into(),
        diff_column: "diff".into(),
    }
}

fn delta(words: &[&str], diffs: Vec<i64>) -> Delta {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from(words.to_vec())),
        Arc::new(Int64Array::from_iter_values(0..words.len() as i64)),
    ];
    let schema = schema(&[("word", SqlType::Text), ("count", SqlType::Int8)]);
    Delta::new(
        RecordBatch::try_new(schema, columns).expect("two columns"),
        diffs,
    )
}

fn text(input: &Input, name: &str) -> String {
    std::fs::read_to_string(input.path(name)).expect("UTF-8")
}

#[test]
fn lines_and_resuming() {
    let input = Input::new();
    let path = input.path("out.jsonl");
    let d = delta(&["a \"b\"\n", "c"], vec![1, -2]);
    let mut sink =
        FileSink::open(&path, format(SinkEncoding::Jsonl), d.schema(), None).expect("a new file");
    sink.write(5, &d).expect("written");
    let committed = sink.sync().expect("synced");
    let first = "{\"word\":\"a \\\"b\\\"\\n\",\"count\":0,\"diff\":1,\"time\":5}\n{\"word\":\"c\",\"count\":1,\"diff\":-2,\"time\":5}\n";
    assert_eq!(text(&input, "out.jsonl"), first);
    assert_eq!(committed.length, first.len() as u64);
    // Written, synced, but not committed.
    sink.write(6, &d).expect("written");
    sink.sync().expect("synced");
    assert!(
        matches!(
            FileSink::open(
                &path,
                format(SinkEncoding::Jsonl),
                d.schema(),
                Some(committed.clone())
            ),
            Err(ConnectorError::Refused { .. })
        ),
        "two sinks on one file"
    );
    drop(sink);
    let mut sink = FileSink::open(
        &path,
        format(SinkEncoding::Jsonl),
        d.schema(),
        Some(committed),
    )
    .expect("its own file");
    sink.write(7, &delta(&["d"], vec![1])).expect("written");
    sink.sync().expect("synced");
    assert_eq!(
        text(&input, "out.jsonl"),
        format!("{first}{{\"word\":\"d\",\"count\":0,\"diff\":1,\"time\":7}}\n")
    );
}

#[test]
fn what_a_file_has_already_stays_in_its_place() {
    let input = Input::new();
    let path = input.path("out.csv");
    let columns = delta(&["a"], vec![1]).schema();
    let open = |mark| {
        let format = format(SinkEncoding::Csv);
        FileSink::open(&path, format, columns.clone(), mark).expect("its own file")
    };
    let mut sink = open(None);
    sink.write(5, &delta(&["a"], vec![1])).expect("written");
    let mark = sink.sync().expect("synced");
    let six = delta(&["b\n1", "c\"", "c\"", "d"], vec![1, 1, -1, 1]);
    let seven = delta(&["e", "f"], vec![1, 1]);
    for (epoch, delta) in [(6, &six), (7, &seven)] {
        sink.write(epoch, delta).expect("written");
    }
    sink.sync().expect("synced");
    drop(sink);
    let whole = text(&input, "out.csv");
    let lines_of = |text: &str| {
        let mut lines: Vec<String> = text.split_inclusive('\n').map(Into::into).collect();
        lines.sort();
        lines
    };
    // The same epochs with their rows the other way round, into a file that ends anywhere, or goes on with what nobody wrote.
    for cut in mark.length as usize..=whole.len() {
        for garbage in ["", "x,1,1,7\n"] {
            let there = format!("{}{garbage}", &whole[..cut]);
            std::fs::write(&path, &there).expect("written");
            let mut sink = open(Some(mark.clone()));
            assert_eq!(text(&input, "out.csv"), there, "nothing is cut yet");
            let mut last = mark.clone();
            for (epoch, delta) in [(6, &six), (7, &seven)] {
                sink.write(epoch, &backwards(delta)).expect("written");
                last = sink.sync().expect("synced");
                let now = text(&input, "out.csv");
                assert!(now.starts_with(&whole[..cut]) || !garbage.is_empty());
            }
            sink.caught_up().expect("cut");
            let end = text(&input, "out.csv");
            assert_eq!(last.length, end.len() as u64);
            assert_eq!(lines_of(&end), lines_of(&whole), "{cut} {garbage}");
        }
    }
}

fn backwards(delta: &Delta) -> Delta {
    let order = arrow::array::UInt32Array::from_iter_values((0..delta.len() as u32).rev());
    let rows = arrow::compute::take_record_batch(&delta.rows, &order).expect("in range");
    let diffs = (0..delta.len()).rev().map(|row| delta.diffs.get(row));
    Delta::new(rows, diffs.collect::<Vec<i64>>())
}

#[test]
fn a_file_that_is_somebody_elses_is_left_alone() {
    let input = Input::new();
    let d = delta(&["a", "b"], vec![1, 1]);
    let foreign = "somebody else's line\n".repeat(500);
    for encoding in [SinkEncoding::Jsonl, SinkEncoding::Csv] {
        let name = format!("{encoding:?}");
        let path = input.path(&name);
        let open = |mark: &Mark| {
            let opened = FileSink::open(&path, format(encoding), d.schema(), Some(mark.clone()));
            match opened {
                Ok(mut sink) => {
                    sink.caught_up().expect("cut");
                    true
                }
                Err(ConnectorError::Refused { .. }) => false,
                Err(e) => panic!("{e}"),
            }
        };
        let mut sink =
            FileSink::open(&path, format(encoding), d.schema(), None).expect("a new file");
        let nothing = Mark::default();
        sink.write(5, &d).expect("written");
        let one = sink.sync().expect("synced");
        sink.write(6, &d).expect("written");
        sink.sync().expect("synced");
        drop(sink);
        let own = text(&input, &name);
        // Nothing was committed, or one epoch.
        assert!(open(&one), "its own file");
        assert_eq!(text(&input, &name).len() as u64, one.length);
        std::fs::write(&path, &own).expect("written");
        assert!(open(&nothing), "its own file");
        assert_eq!(text(&input, &name), "");
        for mark in [&one, &nothing] {
            std::fs::write(&path, &foreign).expect("written");
            assert!(!open(mark), "longer, and other bytes");
            assert_eq!(text(&input, &name), foreign);
        }
        let mut other = own.clone().into_bytes();
        other[one.length as usize - 2] ^= 1;
        std::fs::write(&path, &other).expect("written");
        assert!(!open(&one), "one other byte");
        // A mark of an earlier version.
        let old = Mark { tail: None, ..one };
        assert!(open(&old));
    }
}

#[test]
fn every_type_as_json_and_csv() {
    use SqlType::*;
    let columns = [
        ("a", Bool),
        ("b", Int2),
        ("c", Numeric(30, 2)),
        ("d", Float8),
        ("e", Float8),
        ("f", Timestamptz),
        ("g", Date),
        ("h", Interval),
        ("i", Jsonb),
        ("j", Array(Box::new(Text))),
        ("k", Bytea),
        ("l", Text),
    ];
    // Read as CSV, written as both.
    let input = Input::new();
    input.put("in.csv", "t,-5,1234567890123456789012345678.90,NaN,1.5,2024-05-06 07:08:09.5+00,2024-05-06,1 day 02:03:04,\"{\"\"a\"\": [1]}\",\"{x,NULL,\"\"y z\"\"}\",\\x00ff,\"\"\n,,,,,,,,,,,\n");
    let path = input.path("in.csv");
    let spec = spec(
        &columns,
        &[
            ("connector", "files"),
            ("path", path.to_str().expect("UTF-8")),
            ("format", "csv"),
        ],
        false,
    );
    let source = tidemill_connectors::open_source(spec, vec![]).expect("good options");
    let (sender, receiver) = tidemill_connectors::channel(1 << 20, Arc::new(|| {}));
    let stop = tidemill_connectors::StopSignal::new();
    let source_stop = stop.clone();
    let thread = std::thread::spawn(move || source.run(sender, source_stop));
    let batch = loop {
        if let Some(batch) = receiver.take(1).pop() {
            break batch.rows.expect("it has rows");
        }
        std::thread::yield_now();
    };
    stop.stop();
    thread.join().expect("no panic").expect("it ends well");
    for (encoding, name, want) in [
        (
            SinkEncoding::Jsonl,
            "out.jsonl",
            "{\"a\":true,\"b\":-5,\"c\":1234567890123456789012345678.90,\"d\":\"NaN\",\"e\":1.5,\"f\":\"2024-05-06 07:08:09.5+00\",\"g\":\"2024-05-06\",\"h\":\"1 day 02:03:04\",\"i\":{\"a\":[1]},\"j\":[\"x\",null,\"y z\"],\"k\":\"\\\\x00ff\",\"l\":\"\",\"diff\":1,\"time\":9}\n{\"a\":null,\"b\":null,\"c\":null,\"d\":null,\"e\":null,\"f\":null,\"g\":null,\"h\":null,\"i\":null,\"j\":null,\"k\":null,\"l\":null,\"diff\":1,\"time\":9}\n",
        ),
        (
            SinkEncoding::Csv,
            "out.csv",
            "a,b,c,d,e,f,g,h,i,j,k,l,diff,time\nt,-5,1234567890123456789012345678.90,NaN,1.5,2024-05-06 07:08:09.5+00,2024-05-06,1 day 02:03:04,\"{\"\"a\"\":[1]}\",\"{x,NULL,\"\"y z\"\"}\",\\x00ff,\"\",1,9\n,,,,,,,,,,,,1,9\n",
        ),
    ] {
        let mut sink = FileSink::open(&input.path(name), format(encoding), batch.schema(), None)
            .expect("a new file");
        sink.write(9, &batch).expect("written");
        sink.sync().expect("synced");
        assert_eq!(text(&input, name), want);
        if encoding == SinkEncoding::Jsonl {
            for line in text(&input, name).lines() {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON");
            }
        }
    }
}

#[test]
fn refuses_what_is_not_its_own() {
    let input = Input::new();
    input.put("other", "data");
    let schema = delta(&[], vec![]).schema();
    let open = |name: &str, resume: Option<u64>| {
        let mark = |length| Mark { length, tail: None };
        FileSink::open(
            &input.path(name),
            format(SinkEncoding::Jsonl),
            schema.clone(),
            resume.map(mark),
        )
        .map(drop)
    };
    for (name, resume, want) in [
        ("other", None, "exists and isn't empty"),
        ("other", Some(100), "has 4 bytes, though 100 were committed"),
        ("gone", Some(100), "is gone"),
    ] {
        match open(name, resume) {
            Err(ConnectorError::Refused { message, .. }) => {
                assert!(message.contains(want), "{message}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(matches!(
        open("no/such/directory", None),
        Err(ConnectorError::Io(_))
    ));
    assert_eq!(text(&input, "other"), "data");
    input.put("empty", "");
    open("empty", None).expect("an empty file may be taken");
}

#[test]
fn refuses_columns_that_collide() {
    let input = Input::new();
    let taken = schema(&[("time", SqlType::Text)]);
    let open = |format: SinkFormat, name: &str| {
        FileSink::open(&input.path(name), format, taken.clone(), None).map(drop)
    };
    assert!(matches!(
        open(format(SinkEncoding::Jsonl), "a"),
        Err(ConnectorError::Option { .. })
    ));
    let renamed = SinkFormat {
        time_column: "epoch".into(),
        ..format(SinkEncoding::Jsonl)
    };
    open(renamed, "b").expect("renamed");
}

#[test]
fn options() {
    let parse = |options: &[(&str, &str)]| {
        let map: BTreeMap<String, String> = options
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        SinkFormat::parse(&map)
    };
    let good = [
        ("connector", "files"),
        ("path", "/x/y"),
        ("format", "jsonl"),
        ("time_column", "t"),
    ];
    let (path, format) = parse(&good).expect("good options");
    assert_eq!(path.to_str(), Some("/x/y"));
    assert_eq!(
        (format.time_column.as_str(), format.diff_column.as_str()),
        ("t", "diff")
    );
    for i in 1..3 {
        let mut fewer = good.to_vec();
        fewer.remove(i);
        assert!(parse(&fewer).is_err());
    }
    assert!(parse(&[&good[..], &[("fromat", "csv")]].concat()).is_err());
}
