//! Compressed files.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::harness::*;

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("packed");
    encoder.finish().expect("packed")
}

fn long() -> String {
    (0..200_000)
        .map(|i| format!("word{}\n", i % 7919))
        .collect()
}

#[test]
fn gzip_and_zstd_by_suffix() {
    let input = Input::new();
    // Two members are one file; the last line needs no line end.
    input.put("a.csv.gz", [gz("one\nt"), gz("wo\nthree")].concat());
    let zst = zstd::encode_all("four\nfive\n".as_bytes(), 1).expect("packed");
    input.put("b.csv.zst", zst);
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    catch_up(&spec, &mut kept, 5);
    assert_eq!(kept.sorted(), ["five", "four", "one", "three", "two"]);
    // A restart reads nothing again.
    let bytes = kept.bytes;
    input.put("c.csv", "six\n");
    catch_up(&spec, &mut kept, 6);
    assert_eq!(kept.bytes, bytes + 4);
}

#[test]
fn a_restart_within_a_packed_file_gives_each_row_once() {
    let input = Input::new();
    input.put("a.csv.gz", gz(&long()));
    let spec = words(input.dir.path(), true, &[("epoch_rows_max", "10000")]);
    let mut kept = Kept::default();
    for batches in 1..6 {
        let running = Running::start(&spec, &kept);
        let before = kept.batches;
        running.until(&mut kept, |k| k.batches >= before + batches);
        running.stop();
    }
    catch_up(&spec, &mut kept, 200_000);
    assert_eq!(kept.rows().join("\n") + "\n", long());
    assert_eq!(kept.bytes, long().len() as u64);
}

#[test]
fn a_changed_packed_file_is_an_edit() {
    let input = Input::new();
    input.put("a.csv.gz", gz("one\n"));
    let spec = words(input.dir.path(), true, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.rows().len() == 1);
    input.append("a.csv.gz", gz("two\n"));
    running.until(&mut kept, |k| k.rows().len() == 2);
    assert_eq!(kept.retracted, 1);
    input.rename("a.csv.gz", "b.old");
    input.put("c.csv", "three\n");
    running.until(&mut kept, |k| k.rows().len() == 3);
    running.stop();
    assert_eq!(kept.sorted(), ["one", "three", "two"]);
}

#[test]
fn a_cut_file_is_reported_and_goes_on_when_it_grows() {
    let input = Input::new();
    let packed = gz(&long());
    let (first, second) = packed.split_at(packed.len() / 2);
    input.put("a.csv.gz", first);
    input.put("b.csv", "other\n");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.errors().len() == 1);
    assert!(
        kept.errors()[0].contains("the file is cut"),
        "{:?}",
        kept.errors()
    );
    // Looking at it again reports nothing again.
    let file = std::fs::File::options()
        .write(true)
        .open(input.path("a.csv.gz"))
        .expect("opened");
    file.set_modified(std::time::UNIX_EPOCH).expect("set");
    input.append("b.csv", "more\n");
    running.until(&mut kept, |k| k.rows().iter().any(|r| r == "more"));
    let rows = kept.rows().len();
    assert!(rows > 1000 && rows < 200_000, "{rows}");
    input.append("a.csv.gz", second);
    running.until(&mut kept, |k| k.rows().len() == 200_002);
    running.stop();
    assert_eq!(kept.errors().len(), 1);
    assert_eq!(kept.bytes, long().len() as u64 + 11);
}

#[test]
fn what_is_no_gzip_is_reported() {
    let input = Input::new();
    input.put("a.csv.gz", "plain text\n");
    input.put("b.csv.zst", "plain text\n");
    input.put("c.csv", "one\n");
    let spec = words(input.dir.path(), false, &[]);
    let mut kept = Kept::default();
    let running = Running::start(&spec, &kept);
    running.until(&mut kept, |k| k.errors().len() == 2 && k.rows().len() == 1);
    running.stop();
}
