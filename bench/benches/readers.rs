//! How fast sources read and sinks write: CPU time of the thread that does it, per row.
//!
//! `cargo bench -p tidemill-bench --bench readers [-- ROWS]`; ROWS is in millions, 10 by default.
//! Plain timing: the best of three runs, data in the page cache.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::Schema;
use tidemill_connectors::sink::SinkEncoding;
use tidemill_connectors::{FileSink, SinkFormat, SourceSpec, StopSignal, channel, open_source};
use tidemill_zset::Delta;
use tidemill_zset::schema::SqlType;

/// Bytes of the queue between reader and consumer.
const QUEUE_BYTES: usize = 64 << 20;

fn main() -> anyhow::Result<()> {
    let millions: f64 = std::env::args()
        .skip(1)
        .find_map(|a| a.parse().ok())
        .unwrap_or(if tidemill_bench::benching() {
            10.0
        } else {
            0.02
        });
    let rows = (millions * 1e6) as usize;
    let dir = std::env::temp_dir().join(format!("tidemill-readers-{}", std::process::id()));
    let result = measure(&dir, rows);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn measure(dir: &Path, rows: usize) -> anyhow::Result<()> {
    use SqlType::{Float8, Int8, Jsonb, Text, Timestamp};
    let csv = &[("format", "csv")][..];
    let jsonl = &[("format", "jsonl")][..];
    let word = &[("word", Text)][..];
    read(dir, "csv: one short text", rows, csv, word, |i, out| {
        writeln!(out, "word{}", skewed(i))
    })?;
    read(
        dir,
        "csv: one quoted text",
        rows / 4,
        csv,
        word,
        |i, out| writeln!(out, "\"word{}\"", skewed(i)),
    )?;
    read(dir, "csv: one long text", rows / 4, csv, word, |i, out| {
        writeln!(out, "a text that doesn't fit into a view {}", skewed(i))
    })?;
    read(
        dir,
        "csv: one bigint",
        rows,
        csv,
        &[("n", Int8)],
        |i, out| writeln!(out, "{}", skewed(i)),
    )?;
    let orders = &[
        ("id", Int8),
        ("customer", Text),
        ("amount", Float8),
        ("at", Timestamp),
    ];
    read(dir, "csv: four columns", rows / 4, csv, orders, |i, out| {
        writeln!(
            out,
            "{i},customer{},{}.25,2024-05-06 07:08:09.{:03}",
            skewed(i),
            i % 1000,
            i % 1000
        )
    })?;
    let bank = &[("events", Jsonb)];
    read(
        dir,
        "jsonl: bank, events jsonb",
        rows / 10,
        jsonl,
        bank,
        |i, out| {
            let (a, b, x) = (skewed(i), skewed(i + 1), i % 1000);
            writeln!(
                out,
                "{{\"events\":[{{\"account_id\":{a},\"amount\":-{x},\"event_type\":\"debit\",\"note\":\"transfer {i}\"}},{{\"account_id\":{b},\"amount\":{x},\"event_type\":\"credit\",\"note\":\"transfer {i}\"}}]}}"
            )
        },
    )?;
    read(
        dir,
        "jsonl: four columns",
        rows / 10,
        jsonl,
        orders,
        |i, out| {
            writeln!(
                out,
                "{{\"id\":{i},\"customer\":\"customer{}\",\"amount\":{}.25,\"at\":\"2024-05-06 07:08:09.{:03}\"}}",
                skewed(i),
                i % 1000,
                i % 1000
            )
        },
    )?;
    small_files(dir, rows / 500)?;
    latency(dir)?;
    write(dir, rows / 2)
}

/// A number below 100,000, small ones more often.
fn skewed(i: usize) -> usize {
    let r = tidemill_zset::hash::mix(i as u64);
    (r % 317 * ((r >> 32) % 317)) as usize
}

/// CPU time of this thread, in nanoseconds.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|n| n.parse().ok());
    first.unwrap_or(0)
}

fn read(
    dir: &Path,
    what: &str,
    rows: usize,
    options: &[(&str, &str)],
    columns: &[(&str, SqlType)],
    line: impl Fn(usize, &mut BufWriter<std::fs::File>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir)?;
    let per_file = rows.div_ceil(100);
    let mut bytes = 0;
    for file in 0..100 {
        let path = dir.join(format!("{file:03}.txt"));
        let mut out = BufWriter::new(std::fs::File::create(&path)?);
        for i in file * per_file..rows.min((file + 1) * per_file) {
            line(i, &mut out)?;
        }
        out.flush()?;
        bytes += std::fs::metadata(&path)?.len();
    }
    time(dir, what, rows, bytes, options, columns)
}

/// Many files of one row.
fn small_files(dir: &Path, files: usize) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir)?;
    for file in 0..files {
        std::fs::write(dir.join(format!("{file}.csv")), "hello\n")?;
    }
    let word = [("word", SqlType::Text)];
    time(
        dir,
        "csv: files of one row",
        files,
        files as u64 * 6,
        &[("format", "csv")],
        &word,
    )
}

fn time(
    dir: &Path,
    what: &str,
    rows: usize,
    bytes: u64,
    options: &[(&str, &str)],
    columns: &[(&str, SqlType)],
) -> anyhow::Result<()> {
    let mut best: Option<(u64, u128)> = None;
    for _ in 0..3 {
        let got = run(dir, rows, options, columns)?;
        best = Some(best.map_or(got, |b| b.min(got)));
    }
    let (cpu, wall_ms) = best.unwrap_or_default();
    println!(
        "{what:28} {rows:>9} rows  {:>7.1} ns/row  {:>6.2} M rows/s  {:>7.1} MB/s of CPU time  ({wall_ms} ms wall)",
        cpu as f64 / rows as f64,
        rows as f64 * 1e3 / cpu as f64,
        bytes as f64 * 1e3 / cpu as f64,
    );
    Ok(())
}

/// One run: CPU nanoseconds of the reading thread, wall milliseconds.
fn run(
    dir: &Path,
    rows: usize,
    options: &[(&str, &str)],
    columns: &[(&str, SqlType)],
) -> anyhow::Result<(u64, u128)> {
    let fields: Vec<_> = columns.iter().map(|(n, t)| t.field(n, true)).collect();
    let mut spec = SourceSpec {
        name: "bench".into(),
        schema: Arc::new(Schema::new(fields)),
        options: options
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        recorded: false,
    };
    spec.options.insert("connector".into(), "files".into());
    spec.options
        .insert("path".into(), dir.display().to_string());
    spec.options
        .insert("epoch_rows_max".into(), "100000".into());
    let source = open_source(spec, Vec::new())?;
    let stop = StopSignal::new();
    let (awake, woken) = std::sync::mpsc::channel();
    let (sender, receiver) = channel(
        QUEUE_BYTES,
        Arc::new(move || {
            // The bench may be through.
            let _ = awake.send(());
        }),
    );
    let start = Instant::now();
    let source_stop = stop.clone();
    let thread = std::thread::spawn(move || {
        let before = cpu_ns();
        let result = source.run(sender, source_stop);
        result.map(|()| cpu_ns() - before)
    });
    let mut seen = 0;
    while seen < rows {
        woken.recv()?;
        for batch in receiver.take(usize::MAX) {
            seen += batch.rows.map_or(0, |r| r.len());
            anyhow::ensure!(batch.errors.is_none(), "the data is good");
        }
    }
    let wall = start.elapsed().as_millis();
    stop.stop();
    let cpu = thread.join().expect("a source doesn't panic")?;
    Ok((cpu, wall))
}

/// From a file's rename to its batch in the queue, and what a source costs that has nothing to do.
fn latency(dir: &Path) -> anyhow::Result<()> {
    const FILES: usize = 500;
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir)?;
    let mut spec = SourceSpec {
        name: "bench".into(),
        schema: Arc::new(Schema::new(vec![SqlType::Text.field("word", true)])),
        options: Default::default(),
        recorded: true,
    };
    for (name, value) in [("connector", "files"), ("format", "csv")] {
        spec.options.insert(name.into(), value.into());
    }
    spec.options
        .insert("path".into(), dir.display().to_string());
    let source = open_source(spec, Vec::new())?;
    let stop = StopSignal::new();
    let (awake, woken) = std::sync::mpsc::channel();
    let (sender, receiver) = channel(
        QUEUE_BYTES,
        Arc::new(move || {
            // The bench may be through.
            let _ = awake.send(Instant::now());
        }),
    );
    let source_stop = stop.clone();
    let thread = std::thread::spawn(move || {
        let result = source.run(sender, source_stop);
        result.map(|()| cpu_ns())
    });
    let mut times = Vec::new();
    for file in 0..FILES {
        let temporary = dir.join(".unfinished");
        std::fs::write(&temporary, "hello\n")?;
        let before = Instant::now();
        std::fs::rename(&temporary, dir.join(format!("{file}.csv")))?;
        let arrived = woken.recv()?;
        times.push(arrived.saturating_duration_since(before).as_micros());
        receiver.take(usize::MAX);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    times.sort();
    println!(
        "file renamed -> batch queued      p50 {} us, p99 {} us",
        times[FILES / 2],
        times[FILES * 99 / 100]
    );
    let cpu = |path: String| -> u64 {
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        stat.split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    let process = || -> u64 {
        let tasks = std::fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        tasks
            .map(|t| cpu(t.path().join("schedstat").display().to_string()))
            .sum()
    };
    let (before, start) = (process(), Instant::now());
    std::thread::sleep(std::time::Duration::from_secs(5));
    let share = (process() - before) as f64 / start.elapsed().as_nanos() as f64;
    println!(
        "idle with {FILES} files            {:.3} % of a core",
        share * 100.0
    );
    stop.stop();
    thread.join().expect("a source doesn't panic")?;
    Ok(())
}

/// A file sink of word counts.
fn write(dir: &Path, rows: usize) -> anyhow::Result<()> {
    let batch_rows = 10_000;
    let words: StringViewArray = (0..batch_rows)
        .map(|i| Some(format!("word{}", skewed(i))))
        .collect();
    let counts = Int64Array::from_iter_values((0..batch_rows).map(|i| i as i64 * 37 % 5000));
    let columns: Vec<ArrayRef> = vec![Arc::new(words), Arc::new(counts)];
    let fields = vec![
        SqlType::Text.field("word", true),
        SqlType::Int8.field("count", true),
    ];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let diffs: Vec<i64> = (0..batch_rows as i64)
        .map(|i| if i % 2 == 0 { -1 } else { 1 })
        .collect();
    let delta = Delta::new(batch, diffs);
    for encoding in [SinkEncoding::Jsonl, SinkEncoding::Csv] {
        let mut best = u64::MAX;
        for run in 0..3 {
            let format = SinkFormat {
                encoding,
                time_column: "time".into(),
                diff_column: "diff".into(),
            };
            let path = dir.join(format!("out-{encoding:?}-{run}"));
            let mut sink = FileSink::open(&path, format, delta.schema(), None)?;
            let before = cpu_ns();
            for epoch in 0..rows / batch_rows {
                sink.write(1_700_000_000_000 + epoch as i64, &delta)?;
            }
            best = best.min(cpu_ns() - before);
            std::fs::remove_file(path)?;
        }
        println!(
            "{:28} {rows:>9} rows  {:>7.1} ns/row  {:>6.2} M rows/s",
            format!("sink: {encoding:?}"),
            best as f64 / rows as f64,
            rows as f64 * 1e3 / best as f64
        );
    }
    Ok(())
}
