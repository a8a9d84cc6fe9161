//! New, growing, renamed and disappearing files.

use std::time::{Duration, Instant};

use tidemill_connectors::SourceState;
use tidemill_zset::schema::SqlType;

use crate::harness::*;

#[test]
fn reads_what_is_there_and_what_comes() {
    let input = Input::new();
    input.put("a.csv", "one\ntwo\n");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 2);
    input.put("b.csv", "three\n");
    running.until(&mut kept, |k| k.rows().len() == 3);
    input.append("a.csv", "four\n");
    running.until(&mut kept, |k| k.rows().len() == 4);
    assert_eq!(kept.rows(), ["one", "two", "four", "three"]);
    assert_eq!(kept.bytes, 4 + 4 + 6 + 5);
    running.stop();
}

#[test]
fn a_partial_last_line_waits() {
    let input = Input::new();
    input.append("a.csv", "one\ntw");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let SourceState::Waiting(what) = running.status().state
            && what.contains("a.csv")
        {
            break;
        }
        assert!(Instant::now() < deadline, "{:?}", running.status());
        std::thread::yield_now();
    }
    input.append("a.csv", "o\nthree");
    running.until(&mut kept, |k| k.rows().len() == 2);
    input.append("a.csv", "\n");
    running.until(&mut kept, |k| k.rows().len() == 3);
    assert_eq!(kept.rows(), ["one", "two", "three"]);
    running.stop();
}

#[test]
fn a_partial_line_survives_a_restart() {
    let input = Input::new();
    input.append("a.csv", "one\ntw");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    catch_up(&spec, &mut kept, 1);
    input.append("a.csv", "o\n");
    catch_up(&spec, &mut kept, 2);
    assert_eq!(kept.rows(), ["one", "two"]);
    assert_eq!(kept.bytes, 8);
}

#[test]
fn a_restart_reads_only_what_is_new() {
    let input = Input::new();
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let mut written = 0;
    for round in 0..5 {
        for file in 0..3 {
            let text = format!("r{round}f{file}\n");
            input.append(&format!("{file}.csv"), &text);
            written += text.len() as u64;
        }
        catch_up(&spec, &mut kept, (round + 1) * 3);
        assert_eq!(kept.bytes, written, "round {round}");
    }
    assert_eq!(kept.rows().len(), 15);
}

#[test]
fn a_rename_reads_nothing_again() {
    for recorded in [false, true] {
        let input = Input::new();
        input.put("a.csv", "one\ntwo\n");
        let spec = words(input.dir.path(), recorded, &[]);
        let mut kept = Kept::default();
        let running = Running::start(&spec, &kept);
        running.until(&mut kept, |k| k.rows().len() == 2);
        input.rename("a.csv", "b.csv");
        input.append("b.csv", "three\n");
        running.until(&mut kept, |k| k.rows().len() == 3);
        running.stop();
        input.rename("b.csv", "c.csv");
        input.put("b.csv", "four\n");
        catch_up(&spec, &mut kept, 4);
        assert_eq!(kept.rows(), ["one", "two", "three", "four"]);
        assert_eq!(kept.bytes, 19);
        assert_eq!(kept.retracted, 0);
        assert!(kept.errors().is_empty());
    }
}

#[test]
fn logs_rotate() {
    let input = Input::new();
    let spec = words(input.dir.path(), true, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    for generation in 0..5 {
        input.append("app.log", format!("first{generation}\n"));
        running.until(&mut kept, |k| k.rows().len() == generation * 2 + 1);
        input.append("app.log", format!("last{generation}\n"));
        input.rename("app.log", &format!("app.log.{generation}"));
        running.until(&mut kept, |k| k.rows().len() == generation * 2 + 2);
    }
    running.stop();
    assert_eq!(kept.retracted, 0);
    assert_eq!(kept.bytes, 5 * (7 + 6));
}

#[test]
fn a_single_file_rotates_away() {
    let input = Input::new();
    input.append("app.log", "one\n");
    let spec = words(&input.path("app.log"), true, &[("on_delete", "retract")]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    input.rename("app.log", "app.log.1");
    input.append("app.log", "two\n");
    running.until(&mut kept, |k| k.rows().len() == 2);
    running.stop();
    assert_eq!(kept.rows(), ["one", "two"]);
    assert_eq!(kept.retracted, 0);
}

#[test]
fn a_path_may_come_later() {
    let input = Input::new();
    let spec = words(&input.path("not/yet"), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    std::fs::create_dir_all(input.path("not/yet")).expect("made");
    input.put("not/yet/a.csv", "one\n");
    running.until(&mut kept, |k| k.rows().len() == 1);
    running.stop();
}

#[test]
fn looks_into_directories_and_ignores_unfinished_files() {
    let input = Input::new();
    std::fs::create_dir_all(input.path("sub/.git")).expect("made");
    for (name, word) in [
        ("a.csv", "a"),
        ("sub/b.csv", "b"),
        (".hidden", "x"),
        ("c.csv.tmp", "x"),
        ("d.csv~", "x"),
        ("sub/.git/e", "x"),
    ] {
        std::fs::write(input.path(name), format!("{word}\n")).expect("written");
    }
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 2);
    // A directory that comes with files in it.
    std::fs::create_dir_all(input.path(".new/deep")).expect("made");
    std::fs::write(input.path(".new/deep/f.csv"), "f\n").expect("written");
    input.rename(".new", "new");
    running.until(&mut kept, |k| k.rows().len() == 3);
    input.rename("c.csv.tmp", "c.csv");
    running.until(&mut kept, |k| k.rows().len() == 4);
    running.stop();
    assert_eq!(kept.sorted(), ["a", "b", "f", "x"]);
}

#[test]
fn globs_choose_files() {
    let input = Input::new();
    for (name, word) in [("a1.csv", "yes"), ("a2.txt", "no"), ("b1.csv", "no")] {
        input.put(name, format!("{word}\n"));
    }
    let spec = words(&input.path("a*.csv"), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    input.rename("b1.csv", "a3.csv");
    running.until(&mut kept, |k| k.rows().len() == 2);
    running.stop();
    assert_eq!(kept.sorted(), ["no", "yes"]);
}

#[test]
fn files_come_in_the_order_of_their_modification() {
    let input = Input::new();
    for (i, name) in ["c", "a", "b"].iter().enumerate() {
        std::fs::write(input.path(name), format!("{name}\n")).expect("written");
        let file = std::fs::File::options()
            .write(true)
            .open(input.path(name))
            .expect("opened");
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000 + i as u64);
        file.set_modified(time).expect("set");
    }
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    catch_up(&spec, &mut kept, 3);
    assert_eq!(kept.rows(), ["c", "a", "b"]);
}

#[test]
fn deleted_files_keep_their_rows_or_not() {
    for retract in [false, true] {
        let input = Input::new();
        input.put("a.csv", "one\n");
        input.put("b.csv", "two\n");
        let on_delete = if retract { "retract" } else { "keep" };
        let spec = words(input.dir.path(), true, &[("on_delete", on_delete)]);
        let mut kept = Kept::default();
        let running = Running::start(&spec, &kept);
        running.until(&mut kept, |k| k.rows().len() == 2);
        input.remove("a.csv");
        if retract {
            running.until(&mut kept, |k| k.rows().len() == 1);
        }
        input.put("c.csv", "three\n");
        running.until(&mut kept, |k| k.rows().contains(&"three".to_string()));
        running.stop();
        let want: &[&str] = if retract {
            &["three", "two"]
        } else {
            &["one", "three", "two"]
        };
        assert_eq!(kept.sorted(), want);
        // While it was stopped, another one goes.
        input.remove("b.csv");
        let running = Running::start(&spec, &kept);
        if retract {
            running.until(&mut kept, |k| k.rows().len() == 1);
        }
        running.take_some(&mut kept, 1);
        running.stop();
        assert_eq!(kept.rows().len(), if retract { 1 } else { 3 });
    }
}

#[test]
fn a_missing_root_is_no_deletion() {
    let input = Input::new();
    std::fs::create_dir(input.path("root")).expect("made");
    input.put("root/a.csv", "one\n");
    let spec = words(&input.path("root"), true, &[("on_delete", "retract")]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    input.rename("root", "elsewhere");
    running.take_some(&mut kept, 10);
    running.stop();
    let running = Running::start(&spec, &kept);
    running.take_some(&mut kept, 10);
    assert_eq!(kept.rows(), ["one"]);
    input.rename("elsewhere", "root");
    input.append("root/a.csv", "two\n");
    running.until(&mut kept, |k| k.rows().len() == 2);
    running.stop();
    assert_eq!((kept.bytes, kept.retracted), (8, 0));
    // Another path: what lay under the old one isn't deleted either.
    std::fs::create_dir(input.path("other")).expect("made");
    input.put("other/b.csv", "three\n");
    let spec = words(&input.path("other"), true, &[("on_delete", "retract")]);
    catch_up(&spec, &mut kept, 3);
    assert_eq!(kept.retracted, 0);
}

#[test]
fn what_was_wrong_is_said_no_longer_than_it_is() {
    let input = Input::new();
    std::os::unix::fs::symlink("loop.csv", input.path("loop.csv")).expect("a link to itself");
    input.put("a.csv", "one\n");
    let spec = words(input.dir.path(), true, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    running.until(&mut kept, |_| running.status().last_error.is_some());
    input.remove("loop.csv");
    running.until(&mut kept, |_| running.status().last_error.is_none());
    running.stop();
}

#[test]
fn a_new_file_with_an_old_inode_is_new() {
    let input = Input::new();
    let spec = words(input.dir.path(), true, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    for i in 0..20 {
        // Many file systems give the inode of the file just removed; the content is the same, too.
        input.append(&format!("{i}.csv"), "same\n");
        running.until(&mut kept, |k| k.rows().len() == i + 1);
        input.remove(&format!("{i}.csv"));
    }
    running.stop();
    assert_eq!(kept.rows().len(), 20);
    assert_eq!(kept.retracted, 0);
}

#[test]
fn a_hard_link_is_the_same_file() {
    let input = Input::new();
    input.put("a.csv", "one\n");
    std::fs::hard_link(input.path("a.csv"), input.path("b.csv")).expect("linked");
    let spec = words(input.dir.path(), true, &[("on_delete", "retract")]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    input.put("c.csv", "two\n");
    running.until(&mut kept, |k| k.rows().len() == 2);
    input.remove("a.csv");
    input.append("b.csv", "three\n");
    running.until(&mut kept, |k| k.rows().len() == 3);
    running.stop();
    assert_eq!(kept.sorted(), ["one", "three", "two"]);
}

#[test]
fn metadata_columns_say_where_a_row_comes_from() {
    let input = Input::new();
    input.put("a.csv", "x\none\n\"t\nwo\"\nthree\n");
    let path = input.text();
    let spec = spec(
        &[
            ("_line", SqlType::Int8),
            ("x", SqlType::Text),
            ("_offset", SqlType::Int8),
            ("_path", SqlType::Text),
            ("_modified_at", SqlType::Timestamptz),
        ],
        &[
            ("connector", "files"),
            ("path", &path),
            ("format", "csv"),
            ("header", "true"),
        ],
        false,
    );
    let mut kept = Kept::default();
    catch_up(&spec, &mut kept, 3);
    let file = input.path("a.csv").display().to_string();
    let rows: Vec<String> = kept
        .rows()
        .iter()
        .map(|r| r.rsplit_once('|').expect("five columns").0.to_string())
        .collect();
    assert_eq!(
        rows,
        [
            format!("2|one|2|{file}"),
            format!("3|t\nwo|6|{file}"),
            format!("5|three|13|{file}"),
        ]
    );
    // After a restart, lines and offsets go on.
    input.append("a.csv", "four\n");
    catch_up(&spec, &mut kept, 4);
    assert!(
        kept.rows()[3].starts_with(&format!("6|four|19|{file}|")),
        "{:?}",
        kept.rows()
    );
}

#[test]
fn a_link_that_leads_nowhere_disturbs_nothing() {
    let input = Input::new();
    std::os::unix::fs::symlink(input.path(".target"), input.path("a.csv")).expect("linked");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    input.put("b.csv", "one\n");
    running.until(&mut kept, |k| k.rows().len() == 1);
    std::fs::write(input.path(".target"), "two\n").expect("written");
    running.until(&mut kept, |k| k.rows().len() == 2);
    running.stop();
    assert_eq!(kept.sorted(), ["one", "two"]);
}
