//! Files whose consumed part changes.

use crate::harness::*;

fn started(recorded: bool, more: &[(&str, &str)]) -> (Input, Running, Kept) {
    let input = Input::new();
    input.append("a.csv", "one\ntwo\n");
    let spec = words(input.dir.path(), recorded, more);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 2);
    (input, running, kept)
}

#[test]
fn an_edit_of_a_recorded_file_retracts_its_rows() {
    let (input, running, mut kept) = started(true, &[]);
    input.put("b.csv", "other\n");
    running.until(&mut kept, |k| k.rows().len() == 3);
    // In place.
    std::fs::write(input.path("a.csv"), "ONE\ntwo\nthree\n").expect("written");
    running.until(&mut kept, |k| {
        k.sorted() == ["ONE", "other", "three", "two"]
    });
    // Replaced.
    input.put("a.csv", "four\n");
    running.until(&mut kept, |k| k.sorted() == ["four", "other"]);
    // Cut.
    std::fs::write(input.path("a.csv"), "").expect("written");
    running.until(&mut kept, |k| k.sorted() == ["other"]);
    input.append("a.csv", "five\n");
    running.until(&mut kept, |k| k.sorted() == ["five", "other"]);
    running.stop();
    assert!(kept.errors().is_empty());
}

#[test]
fn an_edit_while_stopped_is_noticed() {
    let (input, running, mut kept) = started(true, &[]);
    running.stop();
    std::fs::write(input.path("a.csv"), "one\nTWO\n").expect("written");
    let spec = words(input.dir.path(), true, &[]);
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.sorted() == ["TWO", "one"]);
    running.stop();
    assert_eq!(kept.rows().len(), 2);
}

#[test]
fn the_rows_of_an_edited_small_file_change_at_once() {
    let (input, running, mut kept) = started(true, &[]);
    input.put("a.csv", "one\ntwo\nthree\n");
    let before = kept.rows();
    running.until(&mut kept, |k| {
        assert!(k.rows() == before || k.rows().len() == 3, "{:?}", k.rows());
        k.rows().len() == 3
    });
    running.stop();
}

#[test]
fn the_same_beginning_under_another_inode_is_growth() {
    let (input, running, mut kept) = started(true, &[]);
    input.put("a.csv", "one\ntwo\nthree\n");
    running.until(&mut kept, |k| k.rows().len() == 3);
    running.stop();
    assert_eq!((kept.retracted, kept.bytes), (0, 14));
}

#[test]
fn an_edit_of_a_file_that_is_not_recorded_is_an_error_row() {
    let (input, running, mut kept) = started(false, &[]);
    std::fs::write(input.path("a.csv"), "three\n").expect("written");
    running.until(&mut kept, |k| k.rows().len() == 3 && k.errors().len() == 1);
    assert_eq!(kept.sorted(), ["one", "three", "two"]);
    assert!(
        kept.errors()[0].contains("the file was edited after 8 bytes"),
        "{:?}",
        kept.errors()
    );
    input.append("a.csv", "four\n");
    running.until(&mut kept, |k| k.rows().len() == 4);
    running.stop();
    // The restart knows which generation it has read.
    let spec = words(input.dir.path(), false, &[]);
    input.append("a.csv", "five\n");
    catch_up(&spec, &mut kept, 5);
    assert_eq!(kept.errors().len(), 1);
}

#[test]
fn an_edit_in_the_middle_needs_full_verification() {
    let long: String = (0..4000).map(|i| format!("word{i}\n")).collect();
    for full in [false, true] {
        let input = Input::new();
        input.put("a.csv", &long);
        let verify = if full { "full" } else { "ends" };
        let spec = words(input.dir.path(), true, &[("verify", verify)]);
        let mut kept = Kept::default();
        let running = Running::start(&spec, &kept);
        running.until(&mut kept, |k| k.rows().len() == 4000);
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options()
            .write(true)
            .open(input.path("a.csv"))
            .expect("opened");
        file.write_all_at(b"WORD", long.find("word2000").expect("it is there") as u64)
            .expect("written");
        input.append("a.csv", "last\n");
        running.until(&mut kept, |k| {
            k.rows().last().is_some_and(|r| r == "last") && k.rows().len() == 4001
        });
        running.stop();
        assert_eq!(kept.retracted, if full { 4000 } else { 0 });
    }
}

#[test]
fn a_touched_file_is_not_edited() {
    let (input, running, mut kept) = started(true, &[]);
    let file = std::fs::File::options()
        .write(true)
        .open(input.path("a.csv"))
        .expect("opened");
    file.set_modified(std::time::UNIX_EPOCH).expect("set");
    input.put("b.csv", "three\n");
    running.until(&mut kept, |k| k.rows().len() == 3);
    running.stop();
    let spec = words(input.dir.path(), true, &[]);
    input.append("a.csv", "four\n");
    catch_up(&spec, &mut kept, 4);
    assert_eq!(kept.retracted, 0);
}

#[test]
fn a_wrong_header_rejects_the_file_until_it_is_corrected() {
    let input = Input::new();
    input.put("a.csv", "wort\none\n");
    input.put("b.csv", "word\ntwo\n");
    let spec = words(input.dir.path(), true, &[("header", "true")]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1 && k.errors().len() == 1);
    assert!(
        kept.errors()[0].contains(
            "the header names column \"wort\", which the source doesn't have; it has word"
        ),
        "{:?}",
        kept.errors()
    );
    input.append("a.csv", "three\n");
    input.append("b.csv", "four\n");
    running.until(&mut kept, |k| k.rows().len() == 2);
    input.put("a.csv", "word\none\n");
    running.until(&mut kept, |k| k.rows().len() == 3 && k.errors().is_empty());
    running.stop();
    assert_eq!(kept.sorted(), ["four", "one", "two"]);
}
