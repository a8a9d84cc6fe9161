//! Reading again what an unrecorded source has consumed.

use tidemill_connectors::ConnectorError;
use tidemill_zset::schema::SqlType;

use crate::harness::*;

#[test]
fn gives_exactly_what_was_consumed() {
    let input = Input::new();
    for file in 0..5 {
        input.put(
            &format!("{file}.csv"),
            (0..100)
                .map(|i| format!("w{file}-{i}\n"))
                .collect::<String>(),
        );
    }
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    catch_up(&spec, &mut kept, 500);
    // What has come since isn't given; a renamed file is found.
    input.append("1.csv", "later\n");
    input.put("9.csv", "later\n");
    input.rename("2.csv", "renamed.csv");
    let again = read_again(&spec, &kept).expect("nothing has changed");
    assert_eq!(again.sorted(), kept.sorted());
    assert_eq!(again.bytes, kept.bytes);
    assert!(again.offsets.is_empty());
}

#[test]
fn gives_exactly_what_came_between_two_offsets() {
    let input = Input::new();
    let packed = |text: &str| zstd::encode_all(text.as_bytes(), 1).expect("packed");
    input.append("grows.csv", "word\none\ntwo\n");
    input.append("stays.csv", "word\nthree\nx,y\n");
    input.put("packed.zst", packed("word\nfour\nfive"));
    let columns = &[("word", SqlType::Text), ("_line", SqlType::Int8)];
    let path = input.text();
    let options = [
        ("connector", "files"),
        ("path", path.as_str()),
        ("format", "csv"),
        ("header", "true"),
    ];
    let spec = spec(columns, &options, false);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 5 && k.errors().len() == 1);
    let before = kept.clone();
    input.append("grows.csv", "six\nx,y\nseven\n");
    input.put("new.csv", "word\neight\n");
    input.put("new.zst", packed("word\nnine\n"));
    running.until(&mut kept, |k| k.rows().len() == 9 && k.errors().len() == 2);
    let between = read_between(&spec, &before, &kept).expect("nothing has changed");
    let mut sum = before.clone();
    for (origin, rows) in between.rows {
        sum.rows.entry(origin).or_default().extend(rows);
    }
    for (origin, errors) in between.errors {
        sum.errors.entry(origin).or_default().extend(errors);
    }
    assert_eq!(
        (sum.rows, sum.errors),
        (kept.rows.clone(), kept.errors.clone())
    );
    assert_eq!(before.bytes + between.bytes, kept.bytes);
    // Nothing came of a file that is gone since: it isn't asked for.
    input.remove("stays.csv");
    input.append("grows.csv", "ten\n");
    let middle = kept.clone();
    running.until(&mut kept, |k| k.rows().len() == 10);
    running.stop();
    let between = read_between(&spec, &middle, &kept).expect("nothing has changed");
    assert_eq!(between.sorted().len(), 1);
    assert!(read_between(&spec, &before, &middle).is_ok());
    assert!(read_again(&spec, &kept).is_err());
}

#[test]
fn gives_the_same_errors_and_packed_rows() {
    let input = Input::new();
    let zst = zstd::encode_all("a,b\nfour\nfive".as_bytes(), 1).expect("packed");
    input.put("a.zst", zst);
    input.put("b.csv", "one\nx,y\ntwo\n");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 4 && k.errors().len() == 2);
    running.stop();
    let again = read_again(&spec, &kept).expect("nothing has changed");
    assert_eq!(again.rows, kept.rows);
    assert_eq!(again.errors, kept.errors);
}

#[test]
fn is_refused_when_a_consumed_file_has_changed_or_is_gone() {
    for change in ["edited", "cut", "removed", "replaced"] {
        let input = Input::new();
        input.put("a.csv", "one\ntwo\n");
        let spec = words(input.dir.path(), false, &[]);
        let mut kept = Kept::default();
        catch_up(&spec, &mut kept, 2);
        match change {
            "edited" => std::fs::write(input.path("a.csv"), "ONE\ntwo\n").expect("written"),
            "cut" => std::fs::write(input.path("a.csv"), "one\n").expect("written"),
            "removed" => input.remove("a.csv"),
            _ => input.put("a.csv", "three\nfour\n"),
        }
        let Err(ConnectorError::Refused { message, hint }) = read_again(&spec, &kept) else {
            panic!("{change}: must be refused")
        };
        assert!(message.contains("a.csv"), "{message}");
        assert!(hint.contains("persistent_id"), "{hint}");
    }
}

#[test]
fn finds_files_that_were_copied_or_renamed_in_place() {
    let input = Input::new();
    input.put("a.csv", "one\ntwo\n");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 2);
    let first = kept.offsets.clone();
    input.put("a.csv", "one\ntwo\n");
    running.until(&mut kept, |k| k.offsets != first);
    let copied = read_again(&spec, &kept).expect("the same file");
    assert_eq!(copied.rows, kept.rows);
    let second = kept.offsets.clone();
    std::fs::rename(input.path("a.csv"), input.path("b.csv")).expect("renamed");
    running.until(&mut kept, |k| k.offsets != second);
    running.stop();
    input.remove("b.csv");
    let Err(ConnectorError::Refused { message, .. }) = read_again(&spec, &kept) else {
        panic!("it is gone")
    };
    assert!(message.contains("b.csv"), "{message}");
}

#[test]
fn files_that_are_deleted_together_are_retracted_together() {
    let input = Input::new();
    for i in 0..200 {
        input.put(&format!("{i}.csv"), "one\ntwo\n");
    }
    let spec = words(input.dir.path(), true, &[("on_delete", "retract")]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 400);
    let before = kept.batches;
    for i in 1..200 {
        input.remove(&format!("{i}.csv"));
    }
    running.until(&mut kept, |k| k.rows().len() == 2);
    running.stop();
    assert!(kept.batches - before <= 20, "{}", kept.batches - before);
}

#[test]
fn is_refused_after_a_lost_generation() {
    let input = Input::new();
    input.append("a.csv", "one\n");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    std::fs::write(input.path("a.csv"), "two\n").expect("written");
    running.until(&mut kept, |k| k.rows().len() == 2);
    running.stop();
    assert!(matches!(
        read_again(&spec, &kept),
        Err(ConnectorError::Refused { .. })
    ));
}

#[test]
fn is_refused_when_a_quote_that_was_given_up_is_closed_later() {
    let input = Input::new();
    input.append("a.csv", "one\n\"two\nthree\n");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 2 && k.errors().len() == 1);
    let again = read_again(&spec, &kept).expect("it is as it was");
    assert_eq!(
        (again.rows, again.errors),
        (kept.rows.clone(), kept.errors.clone())
    );
    input.append("a.csv", "\"\nfour\n");
    running.until(&mut kept, |k| k.rows().iter().any(|r| r == "four"));
    running.stop();
    assert!(matches!(
        read_again(&spec, &kept),
        Err(ConnectorError::Refused { .. })
    ));
}
