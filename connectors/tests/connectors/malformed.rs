//! Bad input is data: in the error relation, and nothing else disturbed.

use tidemill_zset::schema::SqlType;

use crate::harness::*;

const TWO: &[(&str, SqlType)] = &[("id", SqlType::Int4), ("word", SqlType::Text)];

/// Decodes good rows around `bad`; the error rows must be `errors`, each `offset|line|raw|reason`.
fn check(
    format: &str,
    columns: &[(&str, SqlType)],
    before: &str,
    bad: &[u8],
    after: &str,
    errors: &[(usize, &str)],
) {
    let good = before.lines().count() + after.lines().count();
    let content = [before.as_bytes(), bad, after.as_bytes()].concat();
    let (rows, got) = decode(columns, &[("format", format)], &content, good, errors.len());
    assert_eq!(
        rows.len(),
        good,
        "rows around {}: {rows:?} {got:?}",
        String::from_utf8_lossy(bad)
    );
    assert_eq!(got.len(), errors.len(), "{got:?}");
    for (row, (line, reason)) in got.iter().zip(errors) {
        let parts: Vec<&str> = row.splitn(4, '|').collect();
        assert_eq!(parts[2], line.to_string(), "{row}");
        assert!(row.contains(reason), "{row} should say {reason}");
    }
}

#[test]
fn csv() {
    let check = |bad: &[u8], errors: &[(usize, &str)]| {
        check("csv", TWO, "1,a\n2,b\n", bad, "3,c\n4,\"d\"\n", errors);
    };
    check(
        b"x,y\n",
        &[(
            3,
            "column \"id\": invalid input syntax for type integer: \"x\"",
        )],
    );
    check(
        b"99999999999,y\n",
        &[(
            3,
            "column \"id\": value \"99999999999\" is out of range for type integer",
        )],
    );
    check(
        b"7,\xff\xfe\n",
        &[(3, "invalid byte sequence for encoding \"UTF8\": 0xff")],
    );
    check(
        b"7,a\0b\n",
        &[(3, "invalid byte sequence for encoding \"UTF8\": 0x00")],
    );
    check(b"7\n", &[(3, "missing data for column \"word\"")]);
    check(b"7,a,b\n", &[(3, "extra data after last expected column")]);
    check(
        b"7,\"a\"b\n",
        &[(3, "unexpected character after a closing quote")],
    );
    check(
        b"x,a\n7\n8,\xff\n",
        &[(3, "\"x\""), (4, "missing data"), (5, "0xff")],
    );
    check(b"7,\"one\ntwo\",x\n", &[(3, "extra data")]);
}

#[test]
fn an_open_quote_costs_one_line() {
    let (rows, errors) = decode(
        TWO,
        &[("format", "csv")],
        b"1,a\n2,\"open\n3,c\n4,d\n",
        3,
        1,
    );
    assert_eq!(rows, ["1|a", "3|c", "4|d"]);
    assert!(
        errors[0].contains("|4|2|2,\"open|unterminated CSV quoted field"),
        "{errors:?}"
    );
    // Also when a later quote seems to close it.
    let (rows, errors) = decode(
        TWO,
        &[("format", "csv")],
        b"1,a\n2,\"open\n3,c\n4,\"d\"\n5,e\n",
        4,
        1,
    );
    assert_eq!(rows, ["1|a", "3|c", "4|d", "5|e"]);
    assert_eq!(errors.len(), 1);
}

#[test]
fn a_quote_that_is_closed_later_is_waited_for() {
    let input = Input::new();
    input.append("a.csv", "1,a\n2,\"two\n");
    let path = input.text();
    let spec = spec(
        TWO,
        &[("connector", "files"), ("path", &path), ("format", "csv")],
        false,
    );
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    input.append("a.csv", "lines\"\n");
    running.until(&mut kept, |k| k.rows().len() == 2);
    running.stop();
    assert_eq!(kept.rows(), ["1|a", "2|two\nlines"]);
    assert!(kept.errors().is_empty());
}

#[test]
fn json_lines() {
    let columns = &[("id", SqlType::Int4), ("doc", SqlType::Jsonb)];
    let check = |bad: &[u8], errors: &[(usize, &str)]| {
        check(
            "jsonl",
            columns,
            "{\"id\":1}\n{\"id\":2}\n",
            bad,
            "{\"id\":3,\"doc\":[]}\n",
            errors,
        );
    };
    check(b"{\"id\":\n", &[(3, "ended unexpectedly")]);
    check(
        b"{\"id\":1,\"doc\":{\"a\":[1,2}\n",
        &[(3, "unexpected character at byte")],
    );
    check(
        b"{\"id\":\"x\"}\n",
        &[(
            3,
            "column \"id\": invalid input syntax for type integer: \"x\"",
        )],
    );
    check(
        b"{\"id\":1.5}\n",
        &[(3, "invalid input syntax for type integer: \"1.5\"")],
    );
    check(
        b"{\"id\":[1]}\n",
        &[(3, "invalid input syntax for type integer")],
    );
    check(
        b"{\"id\":99999999999}\n",
        &[(3, "out of range for type integer")],
    );
    check(b"[1]\n", &[(3, "unexpected character at byte 0")]);
    check(b"17\n", &[(3, "invalid input syntax for type json")]);
    check(b"{\"id\":1} x\n", &[(3, "unexpected character at byte 9")]);
    check(b"{\"id\":1,\"doc\":\"\\u0000\"}\n", &[(3, "\\u0000")]);
    check(b"{\"id\":1,\"doc\":\"\xff\"}\n", &[(3, "0xff")]);
    check(b"{\"id\":1,\"doc\":\"\0\"}\n", &[(3, "0x00")]);
    let deep = format!(
        "{{\"id\":1,\"doc\":{}{}}}\n",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    check(deep.as_bytes(), &[(3, "nested too deeply")]);
    check(
        b"not json at all\n{\"id\":\n",
        &[(3, "unexpected"), (4, "ended")],
    );
}

#[test]
fn half_a_document_at_the_end_waits() {
    let input = Input::new();
    input.append("a.jsonl", "{\"word\":\"one\"}\n{\"word\":\"tw");
    let path = input.text();
    let spec = spec(
        WORD,
        &[("connector", "files"), ("path", &path), ("format", "jsonl")],
        false,
    );
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    input.append("a.jsonl", "o\"}\n");
    running.until(&mut kept, |k| k.rows().len() == 2);
    running.stop();
    assert!(kept.errors().is_empty());
}

#[test]
fn a_long_line_is_an_error_and_memory_stays_bounded() {
    for (format, good) in [
        ("csv", ["1,a\n", "2,b\n"]),
        ("jsonl", ["{\"id\":1}\n", "{\"id\":2}\n"]),
    ] {
        let mut content = good[0].as_bytes().to_vec();
        content.extend(std::iter::repeat_n(b'x', 100 << 20));
        content.extend_from_slice(b"\n");
        content.extend_from_slice(good[1].as_bytes());
        let (rows, errors) = decode(TWO, &[("format", format)], &content, 2, 1);
        assert_eq!(rows.len(), 2);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("record is longer than 67108864 bytes"));
        assert!(errors[0].len() < 5000);
    }
}

#[test]
fn what_is_too_long_does_not_depend_on_chunks() {
    // 1 MiB chunks and a limit of 64 KiB: some records lie across the ends of chunks.
    let long = "y".repeat(70_000);
    let fine = "z".repeat(60_000);
    let content: String = (0..100)
        .map(|i| format!("{i},{}\n", if i % 2 == 0 { &long } else { &fine }))
        .collect();
    let (rows, errors) = decode(
        TWO,
        &[("format", "csv"), ("max_line_bytes", "65536")],
        content.as_bytes(),
        50,
        50,
    );
    assert_eq!((rows.len(), errors.len()), (50, 50));
    // So do quoted ones of several lines, none of which is read as a record of its own.
    let quoted = |i: usize, n: usize| {
        let lines: String = (0..n).map(|j| format!("{j},fake {i} of many\n")).collect();
        format!("{i},\"\n{lines}\"\n")
    };
    let content: String = (0..100)
        .map(|i| quoted(i, [1000, 5000, 6000][i % 3]))
        .collect();
    assert!(quoted(1, 5000).len() > 65_536 && quoted(2, 6000).len() < 2 * 65_536);
    let (rows, errors) = decode(
        TWO,
        &[("format", "csv"), ("max_line_bytes", "65536")],
        content.as_bytes(),
        34,
        66,
    );
    assert_eq!((rows.len(), errors.len()), (34, 66));
    // An open quote that swallows more than twice that costs its first line.
    let mut content = String::from("1,\"open\n");
    content.extend((2..20_002).map(|i| format!("{i},plain text here\n")));
    content.push_str("30000,\"end\"\n");
    let (rows, errors) = decode(
        TWO,
        &[("format", "csv"), ("max_line_bytes", "65536")],
        content.as_bytes(),
        20_001,
        1,
    );
    assert_eq!((rows.len(), errors.len()), (20_001, 1));
}

#[test]
fn the_end_of_a_file_may_be_too_long() {
    // Of lines that are too long, some are shorter than what an error row shows.
    for bytes in [1_100, 2_049, 3_000, 4_096, 4_097, 9_000] {
        let input = Input::new();
        input.put("f", format!("1,a\n2,{}", "y".repeat(bytes)));
        let path = input.text();
        let options = [
            ("connector", "files"),
            ("path", path.as_str()),
            ("format", "csv"),
            ("max_line_bytes", "1024"),
        ];
        let mut kept = Kept::default();
        let running = Running::start(&spec(TWO, &options, false), &kept);
        running.until(&mut kept, |k| k.rows().len() == 1);
        input.append("f", "\n3,b\n");
        running.until(&mut kept, |k| k.rows().len() == 2 && k.errors().len() == 1);
        running.stop();
        assert_eq!(kept.rows(), ["1|a", "3|b"], "{bytes} bytes");
    }
}

#[test]
fn a_header_of_very_many_columns_is_refused() {
    let content = format!("{}\n1,a\n", ",".repeat(300_000));
    let options = [("format", "csv"), ("header", "true")];
    let (rows, errors) = decode(TWO, &options, content.as_bytes(), 0, 1);
    assert_eq!((rows.len(), errors.len()), (0, 1));
    assert!(errors[0].contains("the header names column"), "{errors:?}");
}

#[test]
fn every_byte_of_a_corpus_may_be_damaged() {
    let content = b"1,a longer word than twelve\n2,\"quoted, \"\"word\"\"\"\n3,c\n";
    let mut seed = 99u32;
    for _ in 0..300 {
        let mut damaged = content.to_vec();
        for _ in 0..2 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (seed >> 8) as usize % damaged.len();
            damaged[at] = (seed >> 16) as u8;
        }
        damaged.extend_from_slice(b"\n4,last\n");
        let schema = schema(TWO);
        let format = tidemill_connectors::decode::Format::Csv(Default::default());
        let mut decoder =
            tidemill_connectors::decode::Decoder::new(schema, &format).expect("good columns");
        let end = tidemill_connectors::decode::End::Last;
        decoder.begin_chunk(&damaged, 0, 0, true);
        let stop = decoder.decode(&damaged, 0, end, usize::MAX);
        assert_eq!(stop, damaged.len(), "all is consumed: {damaged:?}");
        let chunk = arrow::buffer::Buffer::from(damaged.as_slice());
        let decoded = decoder.finish(&chunk);
        let rows = decoded.rows.map_or(vec![], |b| texts(&b));
        assert_eq!(
            rows.last().map(String::as_str),
            Some("4|last"),
            "{damaged:?}"
        );
    }
}

#[test]
fn a_batch_has_no_more_text_than_its_offsets_can_say() {
    // Text that is unescaped is kept together.
    let line = format!("{{\"id\": 1, \"word\": \"\\n{}\"}}\n", "y".repeat(48_000));
    let content = line.repeat(3_000).into_bytes();
    let format = tidemill_connectors::decode::Format::Jsonl;
    let mut decoder =
        tidemill_connectors::decode::Decoder::new(schema(TWO), &format).expect("good columns");
    decoder.begin_chunk(&content, 0, 0, true);
    let stop = decoder.decode(
        &content,
        0,
        tidemill_connectors::decode::End::Last,
        usize::MAX,
    );
    assert!(decoder.is_full(usize::MAX));
    assert!((60 << 20..70 << 20).contains(&stop), "{stop} bytes");
}

#[test]
fn quotes_that_never_close_are_looked_for_once() {
    // Every line but the first could close the quote of the line before, and opens one.
    let lines = 60_000;
    let content = "x\",\"y\n".repeat(lines);
    let options = [("format", "csv")];
    let (rows, errors) = decode(TWO, &options, content.as_bytes(), 0, lines);
    assert_eq!((rows.len(), errors.len()), (0, lines));
    // The same with something wrong at the end of it all.
    let content = format!("{content}z\",\"q\"r\n5,fine\n");
    let (rows, errors) = decode(TWO, &options, content.as_bytes(), 1, lines + 1);
    assert_eq!(
        (rows, errors.len()),
        (vec!["5|fine".to_string()], lines + 1)
    );
}
