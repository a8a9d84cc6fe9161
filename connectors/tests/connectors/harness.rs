//! Runs a source and keeps what a server would keep: rows by origin, errors, offsets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_connectors::{
    BatchReceiver, ConnectorError, SourceBatch, SourceSpec, SourceStatus, StopSignal, channel,
    open_source, reread,
};
use tidemill_zset::schema::SqlType;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the queues.
const QUEUE_BYTES: usize = 64 << 20;

pub fn schema(columns: &[(&str, SqlType)]) -> SchemaRef {
    let fields: Vec<_> = columns.iter().map(|(n, t)| t.field(n, true)).collect();
    Arc::new(Schema::new(fields))
}

pub fn spec(columns: &[(&str, SqlType)], options: &[(&str, &str)], recorded: bool) -> SourceSpec {
    SourceSpec {
        name: "s".into(),
        schema: schema(columns),
        options: options
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        recorded,
    }
}

/// Rows as text, columns separated by `|`, NULL as `∅`.
pub fn texts(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("∅");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|c| ArrayFormatter::try_new(c, &options).expect("a type that can be shown"))
        .collect();
    (0..batch.num_rows())
        .map(|r| {
            let cells: Vec<String> = columns.iter().map(|c| c.value(r).to_string()).collect();
            cells.join("|")
        })
        .collect()
}

/// What the server keeps of a source.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub rows: BTreeMap<u64, Vec<String>>,
    pub errors: BTreeMap<u64, Vec<String>>,
    pub offsets: BTreeMap<Vec<u8>, Vec<u8>>,
    pub bytes: u64,
    pub batches: usize,
    pub retracted: usize,
}

impl Kept {
    pub fn apply(&mut self, batch: &SourceBatch) {
        for origin in &batch.retract {
            let gone = self.rows.remove(origin).map_or(0, |r| r.len());
            self.errors.remove(origin);
            self.retracted += gone;
        }
        if let Some(delta) = &batch.rows {
            self.rows
                .entry(batch.origin)
                .or_default()
                .extend(texts(&delta.rows));
        }
        if let Some(delta) = &batch.errors {
            self.errors
                .entry(batch.origin)
                .or_default()
                .extend(texts(&delta.rows));
        }
        for (key, value) in &batch.offsets {
            match value {
                Some(v) => self.offsets.insert(key.clone(), v.clone()),
                None => self.offsets.remove(key),
            };
        }
        self.bytes += batch.bytes;
        self.batches += 1;
    }

    pub fn rows(&self) -> Vec<String> {
        self.rows.values().flatten().cloned().collect()
    }

    pub fn sorted(&self) -> Vec<String> {
        let mut rows = self.rows();
        rows.sort();
        rows
    }

    pub fn errors(&self) -> Vec<String> {
        self.errors.values().flatten().cloned().collect()
    }

    pub fn offsets(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.offsets
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }
}

/// A source on a thread of its own.
pub struct Running {
    stop: StopSignal,
    receiver: BatchReceiver,
    thread: Option<std::thread::JoinHandle<Result<(), ConnectorError>>>,
    woken: Arc<(Mutex<bool>, Condvar)>,
}

impl Running {
    pub fn start(spec: &SourceSpec, kept: &Kept) -> Running {
        let source = open_source(spec.clone(), kept.offsets()).expect("good options");
        let woken = Arc::new((Mutex::new(false), Condvar::new()));
        let waker = woken.clone();
        let wake = move || {
            *waker.0.lock().expect("not poisoned") = true;
            waker.1.notify_all();
        };
        let (sender, receiver) = channel(QUEUE_BYTES, Arc::new(wake));
        let stop = StopSignal::new();
        let source_stop = stop.clone();
        let thread = std::thread::spawn(move || {
            let result = source.run(sender.clone(), source_stop);
            sender.ended(&result);
            result
        });
        Running {
            stop,
            receiver,
            thread: Some(thread),
            woken,
        }
    }

    /// Takes batches into `kept` until `done`.
    pub fn until(&self, kept: &mut Kept, done: impl Fn(&Kept) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for batch in self.receiver.take(1) {
                kept.apply(&batch);
            }
            if done(kept) {
                return;
            }
            if self.receiver.pending_batches() > 0 {
                continue;
            }
            assert!(
                Instant::now() < deadline,
                "it didn't happen: {} rows, the last {:?}; errors {:?}; {} retracted; {:?}",
                kept.rows().len(),
                kept.rows().last(),
                kept.errors(),
                kept.retracted,
                self.status()
            );
            let woken = self.woken.0.lock().expect("not poisoned");
            let (mut woken, _) = self
                .woken
                .1
                .wait_timeout_while(woken, Duration::from_millis(50), |w| !*w)
                .expect("not poisoned");
            *woken = false;
        }
    }

    /// Takes `batches` batches, or fewer if the source has nothing more within a moment.
    pub fn take_some(&self, kept: &mut Kept, batches: usize) {
        let deadline = Instant::now() + Duration::from_millis(20);
        let mut taken = 0;
        while taken < batches && Instant::now() < deadline {
            for batch in self.receiver.take(1) {
                kept.apply(&batch);
                taken += 1;
            }
            std::thread::yield_now();
        }
    }

    pub fn status(&self) -> SourceStatus {
        self.receiver.status()
    }

    /// Stops it; what wasn't taken is lost, as in a crash.
    pub fn stop(mut self) {
        self.stop.stop();
        let thread = self.thread.take().expect("it runs");
        thread
            .join()
            .expect("a source doesn't panic")
            .expect("a source ends well when it is stopped");
    }

    /// Takes everything until the source ends by itself.
    pub fn finish(mut self, kept: &mut Kept) {
        let thread = self.thread.take().expect("it runs");
        while !thread.is_finished() || self.receiver.pending_batches() > 0 {
            for batch in self.receiver.take(1) {
                kept.apply(&batch);
            }
        }
        thread
            .join()
            .expect("a source doesn't panic")
            .expect("it ends well");
    }
}

/// A directory with input files.
pub struct Input {
    pub dir: tempfile::TempDir,
}

impl Input {
    pub fn new() -> Input {
        Input {
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self) -> String {
        self.dir.path().to_str().expect("UTF-8").into()
    }

    /// Writes a file under another name and renames it, as careful writers do.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let temporary = self.path(".unfinished");
        std::fs::write(&temporary, content).expect("written");
        std::fs::rename(&temporary, self.path(name)).expect("renamed");
    }

    pub fn append(&self, name: &str, content: impl AsRef<[u8]>) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path(name))
            .expect("opened");
        file.write_all(content.as_ref()).expect("appended");
    }

    pub fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).expect("renamed");
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).expect("removed");
    }
}

pub const WORD: &[(&str, SqlType)] = &[("word", SqlType::Text)];

/// A source of one text column over the CSV files in `dir`.
pub fn words(dir: &Path, recorded: bool, more: &[(&str, &str)]) -> SourceSpec {
    let dir = dir.to_str().expect("UTF-8");
    let mut options = vec![("connector", "files"), ("path", dir), ("format", "csv")];
    options.extend_from_slice(more);
    spec(WORD, &options, recorded)
}

/// Runs a source from `kept` until it has everything there is.
pub fn catch_up(spec: &SourceSpec, kept: &mut Kept, rows: usize) {
    let running = Running::start(spec, kept);
    running.until(kept, |k| k.rows().len() >= rows);
    running.stop();
}

/// Reads again what `kept` has consumed.
pub fn read_again(spec: &SourceSpec, kept: &Kept) -> Result<Kept, ConnectorError> {
    read_between(spec, &Kept::default(), kept)
}

/// Reads again what `kept` has consumed since it was as `before` is.
pub fn read_between(spec: &SourceSpec, before: &Kept, kept: &Kept) -> Result<Kept, ConnectorError> {
    let (sender, receiver) = channel(QUEUE_BYTES, Arc::new(|| {}));
    let mut again = Kept::default();
    let (spec, from, to) = (spec.clone(), before.offsets(), kept.offsets());
    let thread = std::thread::spawn(move || reread(&spec, from, to, sender, StopSignal::new()));
    while !thread.is_finished() || receiver.pending_batches() > 0 {
        for batch in receiver.take(1) {
            again.apply(&batch);
        }
    }
    thread.join().expect("it doesn't panic").map(|()| again)
}

/// All of one file, decoded by a source: rows and errors, once `rows` and `errors` of them are there.
pub fn decode(
    columns: &[(&str, SqlType)],
    options: &[(&str, &str)],
    content: &[u8],
    rows: usize,
    errors: usize,
) -> (Vec<String>, Vec<String>) {
    let input = Input::new();
    input.put("f", content);
    let path = input.text();
    let mut all = vec![("connector", "files"), ("path", path.as_str())];
    all.extend_from_slice(options);
    let mut kept = Kept::default();
    let running = Running::start(&spec(columns, &all, false), &kept);
    running.until(&mut kept, |k| {
        k.rows().len() >= rows && k.errors().len() >= errors
    });
    // Everything else would have come in the same read.
    running.take_some(&mut kept, 1);
    running.stop();
    (kept.rows(), kept.errors())
}
