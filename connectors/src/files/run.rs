//! The loop of a running files source: wait for hints, look at files, decide what has become of each, read.
//!
//! Invariant: retractions and lost entries wait in the prelude until a batch takes them along, so that
//! an edited file's old rows go in the same batch as its first new ones come.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_zset::Delta;

use super::entry::{self, FileEntry, FileId, NEXT_KEY, Packing, Progress, key_of};
use super::identity::{Cover, covers_all, verify};
use super::input;
use super::options::FilesOptions;
use super::reader::{Job, Left, ReadError, Reader};
use super::scan::{Found, Listing, find, is_within_a_server, list};
use super::table::Table;
use super::watch::{Doorbell, Hints, Watch};
use crate::queue::{BatchSender, StopSignal, Stopped};
use crate::source::SourceBatch;

/// How long a file must be unchanged before an open quote is given up or a cut packing is reported.
const SETTLE: Duration = Duration::from_secs(1);
/// How often everything is looked at, at most.
const RESCAN_MIN: Duration = Duration::from_secs(1);
/// And at least.
const RESCAN_MAX: Duration = Duration::from_secs(60);
/// A look at everything may take one part in this many of the time.
const RESCAN_SHARE: u32 = 200;
/// How often a root that is missing is looked for.
const MISSING_ROOT_POLL: Duration = Duration::from_millis(100);
/// Records, and files, after which the retraction of deleted files goes on in a batch of its own.
const RETRACTED_RECORDS: u64 = 100_000;
const RETRACTED_FILES: usize = 4096;
/// How soon a second look confirms that a file is gone.
const CONFIRM: Duration = Duration::from_millis(20);

/// What is being watched, and the hints about it, if the system gives any.
type Watched = (FileId, Option<Watch>);

/// What must go out with the next batch.
#[derive(Default)]
struct Prelude {
    retract: Vec<u64>,
    offsets: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A running source.
pub struct Run {
    options: FilesOptions,
    recorded: bool,
    table: Table,
    reader: Reader,
    out: BatchSender,
    /// Files to be looked at again although nothing has changed, and when.
    due: BTreeMap<u64, Instant>,
    /// Files that the last look at everything didn't find.
    missing: HashSet<u64>,
    /// Files whose last line is incomplete.
    unfinished: HashSet<u64>,
    /// The root wasn't there at the last look.
    rootless: bool,
    rescan_at: Instant,
    /// How long the last look at everything took.
    look_took: Duration,
    /// The newest trouble with the files that is shown.
    shown: Option<String>,
    next_committed: u64,
    prelude: Prelude,
}

impl Run {
    /// A source that goes on from `table`.
    pub fn new(
        options: FilesOptions,
        recorded: bool,
        table: Table,
        reader: Reader,
        out: BatchSender,
    ) -> Run {
        Run {
            recorded,
            next_committed: table.next,
            options,
            table,
            reader,
            out,
            due: BTreeMap::new(),
            missing: HashSet::new(),
            unfinished: HashSet::new(),
            rootless: false,
            rescan_at: Instant::now(),
            look_took: Duration::ZERO,
            shown: None,
            prelude: Prelude::default(),
        }
    }

    /// Reads until it is stopped.
    pub fn run(&mut self, bell: &Arc<Doorbell>, stop: &StopSignal) -> Result<(), Stopped> {
        let mut watch: Option<Watched> = None;
        let mut hints = Hints::default();
        while !stop.is_stopped() {
            self.watch_root(&mut watch, bell);
            if hints.everything || Instant::now() >= self.rescan_at {
                self.look_at_everything()?;
            } else if !hints.paths.is_empty() {
                self.look_at(hints)?;
            }
            self.look_at_due()?;
            self.show_waiting();
            self.reader.rest();
            let next_due = self.due.values().min().copied();
            let deadline = next_due.map_or(self.rescan_at, |d| d.min(self.rescan_at));
            hints = bell.wait(deadline, || stop.is_stopped());
        }
        Ok(())
    }

    /// Watches the root if it is there and isn't watched yet. A change of the root asks for a look at everything.
    fn watch_root(&mut self, watch: &mut Option<Watched>, bell: &Arc<Doorbell>) {
        let base = &self.options.root.base;
        let id = std::fs::metadata(base).ok().map(|m| {
            if m.is_dir() {
                entry::look(&m).0
            } else {
                // A file is watched through its directory.
                let parent = base.parent().and_then(|p| std::fs::metadata(p).ok());
                parent.map_or(FileId::default(), |p| entry::look(&p).0)
            }
        });
        if id == watch.as_ref().map(|(id, _)| *id) {
            return;
        }
        *watch = None;
        self.rescan_at = Instant::now();
        let Some(id) = id else { return };
        let hints = Watch::new(&self.options.root, bell)
            .inspect_err(|e| {
                // Without hints, files are found by looking at everything.
                tracing::warn!(root = %base.display(), error = %e, "files can't be watched");
            })
            .ok();
        *watch = Some((id, hints));
    }

    fn look_at_everything(&mut self) -> Result<(), Stopped> {
        let start = Instant::now();
        let listing = list(&self.options.root);
        self.look_took = start.elapsed();
        let interval = (self.look_took * RESCAN_SHARE).clamp(RESCAN_MIN, RESCAN_MAX);
        self.rescan_at = Instant::now() + interval;
        let before = self.shown.take();
        if let Some(trouble) = &listing.trouble {
            self.show(trouble.clone());
        }
        self.rootless = listing.device.is_none();
        if self.rootless {
            // A missing root is no deletion of its files.
            self.rescan_at = Instant::now() + MISSING_ROOT_POLL;
            return Ok(());
        }
        let seen = self.look_at_files(listing.files.clone(), true)?;
        self.look_for_missing(&listing, &seen)?;
        match before {
            Some(trouble) if self.shown.is_none() && self.due.is_empty() => {
                self.out.trouble_over(&trouble);
            }
            before => self.shown = self.shown.take().or(before),
        }
        Ok(())
    }

    /// Shows a trouble with the files, until everything was looked at without any.
    fn show(&mut self, trouble: String) {
        self.out.trouble(trouble.clone());
        self.shown = Some(trouble);
    }

    /// Looks at the files that hints name.
    fn look_at(&mut self, hints: Hints) -> Result<(), Stopped> {
        let mut files = Vec::new();
        for path in hints.paths {
            if is_within_a_server(&self.options.root, &path) {
                continue;
            }
            match find(&path) {
                Ok(Some(f)) => files.push(f),
                // Gone, or renamed to where it doesn't concern us: a look at everything tells.
                Ok(None) if self.table.at_path(&path).is_some() && self.options.retract_deleted => {
                    self.rescan_within(CONFIRM)
                }
                Ok(None) => {}
                Err(e) => self.show(format!("{}: {e}", path.display())),
            }
        }
        self.look_at_files(files, false).map(drop)
    }

    /// Asks for a look at everything soon: in `time`, or when looks take less than half of the time.
    fn rescan_within(&mut self, time: Duration) {
        let soon = Instant::now() + time.max(self.look_took * 2);
        self.rescan_at = self.rescan_at.min(soon);
    }

    /// Looks at `files`; `all`: there are no others. Gives the numbers of the known ones.
    fn look_at_files(&mut self, mut files: Vec<Found>, all: bool) -> Result<HashSet<u64>, Stopped> {
        files.sort_by(|a, b| (a.stamp.modified_ns, &a.path).cmp(&(b.stamp.modified_ns, &b.path)));
        let mut seen = HashSet::new();
        let mut fresh = Vec::new();
        // Known files first: a renamed one makes room for a new one at its old path.
        for file in files {
            let Some(number) = self.table.with_id(file.id) else {
                fresh.push(file);
                continue;
            };
            seen.insert(number);
            let entry = self
                .table
                .get(number)
                .expect("an identity leads to an entry");
            let renamed = entry.path != file.path;
            if renamed && find(&entry.path).is_ok_and(|f| f.is_some_and(|f| f.id == entry.id)) {
                // A second name of the same file.
                continue;
            }
            if (renamed || entry.stamp != file.stamp) && !self.check(number, file, false)? {
                seen.remove(&number);
            }
        }
        for file in fresh {
            if self.table.with_id(file.id).is_some() {
                // A second name of a file that was new a moment ago.
                continue;
            }
            match self.table.at_path(&file.path) {
                None => {
                    let number = self.begin(&file);
                    self.read_new(number)?;
                    seen.insert(number);
                }
                Some(number) if all => {
                    seen.insert(self.replaced(number, file)?);
                }
                // Whether the file that was here has been renamed, only a look at everything tells.
                Some(_) => self.rescan_within(Duration::ZERO),
            }
        }
        Ok(seen)
    }

    /// Retracts files that two looks at everything didn't find.
    fn look_for_missing(&mut self, listing: &Listing, seen: &HashSet<u64>) -> Result<(), Stopped> {
        if !self.options.retract_deleted || listing.trouble.is_some() {
            return Ok(());
        }
        let gone: Vec<u64> = self
            .table
            .iter()
            .filter(|(n, e)| {
                // Not what lay under another path, nor on a device that is no longer mounted here.
                !seen.contains(n)
                    && e.progress != Progress::Lost
                    && self.options.root.matches(&e.path)
                    && listing.device == Some(e.id.device)
            })
            .map(|(n, _)| n)
            .collect();
        let before = std::mem::take(&mut self.missing);
        // Each batch that retracts looks through all that is recorded.
        let mut records = 0;
        for number in gone {
            if before.contains(&number) {
                records += self.table.remove(number).map_or(0, |e| e.records);
                self.prelude.retract.push(number);
                self.prelude.offsets.push((key_of(number), None));
                self.unfinished.remove(&number);
                if records >= RETRACTED_RECORDS || self.prelude.retract.len() >= RETRACTED_FILES {
                    self.send_prelude(number)?;
                    records = 0;
                }
            } else {
                self.missing.insert(number);
                self.rescan_within(CONFIRM);
            }
        }
        match self.prelude.retract.last() {
            Some(last) => self.send_prelude(*last),
            None => Ok(()),
        }
    }

    /// Looks again at files whose time has come.
    fn look_at_due(&mut self) -> Result<(), Stopped> {
        let now = Instant::now();
        let due: Vec<u64> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(n, _)| *n)
            .collect();
        for number in due {
            self.due.remove(&number);
            let Some(entry) = self.table.get(number) else {
                continue;
            };
            if let Ok(Some(found)) = find(&entry.path)
                && found.id == entry.id
            {
                let settled = found.stamp == entry.stamp;
                self.check(number, found, settled)?;
            }
        }
        Ok(())
    }

    /// A file that nothing is known of.
    fn begin(&mut self, file: &Found) -> u64 {
        self.table
            .add(FileEntry::new(file.path.clone(), file.id, file.stamp))
    }

    fn read_new(&mut self, number: u64) -> Result<(), Stopped> {
        let entry = self.table.get(number).expect("it was just added");
        let (path, id) = (entry.path.clone(), entry.id);
        match self.open(&path, id) {
            Some((file, stamp)) => {
                let cover = Cover::new(self.options.verify_full);
                self.read(number, file, stamp, cover, false)
            }
            None => {
                // It can't be read now: unknown again, so that the next look finds it.
                self.table.remove(number);
                self.send_prelude(number)
            }
        }
    }

    /// Opens a file if it is still the one that was found; troubles show in the status.
    fn open(&mut self, path: &Path, id: FileId) -> Option<(File, entry::Stamp)> {
        let opened = input::open(path).and_then(|file| {
            let now = entry::look(&file.metadata()?);
            Ok((file, now))
        });
        match opened {
            Ok((file, (now, stamp))) if now == id => return Some((file, stamp)),
            Ok(_) => self.rescan_within(Duration::ZERO),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => self.show(format!("{}: {e}", path.display())),
        }
        None
    }

    /// A known file may have changed, or have another path. Returns whether it is still there.
    fn check(&mut self, number: u64, found: Found, settled: bool) -> Result<bool, Stopped> {
        let Some((file, stamp)) = self.open(&found.path, found.id) else {
            return Ok(true);
        };
        let mut entry = self.table.get(number).expect("it is known").clone();
        let unchanged = match self.unchanged(&file, &entry, stamp.size) {
            Ok(cover) => cover,
            Err(e) => return self.trouble(number, &found.path, &e).map(|()| true),
        };
        let renamed = entry.path != found.path;
        let unchanged = match unchanged {
            Some(mut cover) if entry.progress == Progress::Unended => {
                match end_line(&file, &mut entry, &mut cover, stamp.size) {
                    Ok(true) => Some(cover),
                    // The line that was read goes on: it is another one.
                    Ok(false) => None,
                    Err(e) => return self.trouble(number, &found.path, &e).map(|()| true),
                }
            }
            unchanged => unchanged,
        };
        match unchanged {
            Some(cover) => {
                entry.path = found.path;
                let nothing_new = match (entry.progress, entry.packing) {
                    (Progress::Reading | Progress::Unended, Packing::Plain) => {
                        stamp.size == entry.offset
                    }
                    (Progress::Reading, _) => false,
                    (Progress::Cut, _) => stamp.size == entry.covered,
                    _ => true,
                };
                if nothing_new {
                    entry.stamp = stamp;
                }
                match renamed {
                    true => self.found_elsewhere(number, entry),
                    false => self.table.put(number, entry),
                }
                if nothing_new {
                    return self.send_prelude(number).map(|()| true);
                }
                self.read(number, file, stamp, cover, settled)?;
                Ok(true)
            }
            None if renamed => {
                // Not the file that was read: that one is gone, this one has got its inode.
                self.table.lose_id(number);
                let fresh = self.begin(&found);
                self.read_new(fresh)?;
                Ok(false)
            }
            None => self.edited(number, found, "edited").map(|_| true),
        }
    }

    /// A known file has another path or inode, by which it is found when it must be read again.
    fn found_elsewhere(&mut self, number: u64, entry: FileEntry) {
        let offset = (key_of(number), Some(entry.encode()));
        self.prelude.offsets.push(offset);
        self.table.put(number, entry);
    }

    /// What the file still covers of what was consumed; `None` if that has changed.
    fn unchanged(&self, file: &File, entry: &FileEntry, size: u64) -> io::Result<Option<Cover>> {
        let full = self.options.verify_full;
        if size < entry.covered {
            return Ok(None);
        }
        // A packed file is a unit: once complete, it may not even grow.
        if entry.progress == Progress::Complete && size != entry.covered {
            return Ok(None);
        }
        let cover = verify(file, entry, full)?;
        if cover.is_some() && entry.packing != Packing::Plain {
            return Cover::of_file(file, size, full).map(Some);
        }
        Ok(cover)
    }

    /// Another file has taken a path, and the old one is gone.
    fn replaced(&mut self, number: u64, found: Found) -> Result<u64, Stopped> {
        let old = self.table.get(number).expect("it is known").clone();
        if covers_all(&old)
            && old.progress == Progress::Reading
            && let Some((file, stamp)) = self.open(&found.path, found.id)
            && let Ok(Some(cover)) = self.unchanged(&file, &old, stamp.size)
        {
            // Written anew with the same beginning, all of which is known: the same file.
            let mut entry = old;
            entry.id = found.id;
            self.found_elsewhere(number, entry);
            self.read(number, file, stamp, cover, false)?;
            return Ok(number);
        }
        if self.table.with_id(old.id) == Some(number)
            && let Some(path) = renamed_beside(&old)
        {
            // Rotated to a name that isn't ours: its rows stay, and what has its path is another file.
            let mut entry = old;
            entry.path = path;
            self.found_elsewhere(number, entry);
            let fresh = self.begin(&found);
            self.read_new(fresh)?;
            return Ok(fresh);
        }
        self.edited(number, found, "replaced")
    }

    /// What was consumed of a file is no longer there; it is read anew under a new number.
    fn edited(&mut self, number: u64, found: Found, how: &str) -> Result<u64, Stopped> {
        let old = self.table.remove(number).expect("it is known");
        self.unfinished.remove(&number);
        self.due.remove(&number);
        let key = key_of(number);
        if self.recorded {
            self.prelude.retract.push(number);
            self.prelude.offsets.push((key, None));
        } else if old.offset == 0 {
            self.prelude.offsets.push((key, None));
        } else {
            self.reader.note(
                &old,
                &format!(
                    "the file was {how} after {} bytes of it had been read: it is read again from its start, \
                     and its old rows stay (with persistent_id they would be retracted)",
                    old.offset
                ),
            );
            let mut lost = old;
            lost.progress = Progress::Lost;
            self.prelude.offsets.push((key, Some(lost.encode())));
            self.table.put(number, lost);
        }
        let fresh = self.begin(&found);
        self.read_new(fresh)?;
        Ok(fresh)
    }

    /// Reads a file on from its entry.
    fn read(
        &mut self,
        number: u64,
        file: File,
        stamp: entry::Stamp,
        mut cover: Cover,
        settled: bool,
    ) -> Result<(), Stopped> {
        let mut entry = self.table.get(number).expect("it is known").clone();
        entry.stamp = stamp;
        let limit = match entry.packing {
            Packing::Plain => stamp.size.max(entry.offset),
            _ => u64::MAX,
        };
        if entry.packing != Packing::Plain {
            match Cover::of_file(&file, stamp.size, self.options.verify_full) {
                Ok(all) => cover = all,
                Err(e) => return self.trouble(number, &entry.path.clone(), &e),
            }
        }
        let Run {
            reader,
            table,
            out,
            prelude,
            next_committed,
            ..
        } = self;
        let mut emit = |entry: &FileEntry, decoded: crate::decode::Decoded, bytes: u64| {
            let mut offsets = std::mem::take(&mut prelude.offsets);
            offsets.push((key_of(number), Some(entry.encode())));
            if table.next != *next_committed {
                *next_committed = table.next;
                offsets.push((NEXT_KEY.to_vec(), Some(table.next.to_le_bytes().to_vec())));
            }
            table.put(number, entry.clone());
            send(
                out,
                SourceBatch {
                    rows: decoded.rows.map(Delta::insert),
                    columns: decoded.columns,
                    errors: decoded.errors.map(Delta::insert),
                    origin: number,
                    retract: std::mem::take(&mut prelude.retract),
                    offsets,
                    bytes,
                },
            )
        };
        let job = Job {
            entry: &mut entry,
            cover,
            limit,
            size: stamp.size,
            settled,
            again: false,
        };
        let result = reader.read(file, job, &mut emit);
        self.unfinished.remove(&number);
        match result {
            Ok(left) => {
                self.table.put(number, entry);
                self.note_left(number, left);
                self.send_prelude(number)
            }
            Err(ReadError::Stopped(e)) => Err(e),
            Err(ReadError::Io(e)) => {
                let path = entry.path.clone();
                self.trouble(number, &path, &e)
            }
        }
    }

    fn note_left(&mut self, number: u64, left: Left) {
        match left {
            Left::Nothing => {}
            Left::PartialLine if self.options.read_last_line => {
                self.due.insert(number, Instant::now() + SETTLE);
            }
            Left::PartialLine => {
                if self.table.get(number).is_some_and(|e| e.stamp.size > 0) {
                    self.unfinished.insert(number);
                }
            }
            Left::OpenQuote | Left::CutPacking => {
                self.due.insert(number, Instant::now() + SETTLE);
            }
        }
    }

    /// A file can't be read now: shown, and tried again.
    fn trouble(&mut self, number: u64, path: &Path, e: &io::Error) -> Result<(), Stopped> {
        self.show(format!("{}: {e}", path.display()));
        self.due.insert(number, Instant::now() + SETTLE);
        self.send_prelude(number)
    }

    /// Sends what no batch of rows has taken along.
    fn send_prelude(&mut self, number: u64) -> Result<(), Stopped> {
        let notes = self.reader.take_notes();
        let prelude = std::mem::take(&mut self.prelude);
        if prelude.retract.is_empty() && prelude.offsets.is_empty() && notes.errors.is_none() {
            return Ok(());
        }
        send(
            &self.out,
            SourceBatch {
                rows: None,
                columns: None,
                errors: notes.errors.map(Delta::insert),
                origin: number,
                retract: prelude.retract,
                offsets: prelude.offsets,
                bytes: 0,
            },
        )
    }

    fn show_waiting(&self) {
        let what = match self.unfinished.iter().next() {
            None if self.rootless => {
                format!(
                    "new input; {} doesn't exist",
                    self.options.root.base.display()
                )
            }
            None => "new input".to_string(),
            Some(number) => {
                let path = self
                    .table
                    .get(*number)
                    .map(|e| e.path.display().to_string());
                format!(
                    "new input; {} file(s) end in a line without line end, such as {}",
                    self.unfinished.len(),
                    path.unwrap_or_default()
                )
            }
        };
        self.out.waiting(what);
    }
}

/// The line end of a last line that was read without it is consumed, if it has come; false: something else has.
fn end_line(file: &File, entry: &mut FileEntry, cover: &mut Cover, size: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    if size == entry.offset {
        return Ok(true);
    }
    let mut next = [0; 2];
    let n = file.read_at(&mut next, entry.offset)?;
    let line_end = match &next[..n] {
        [b'\n', ..] => 1,
        [b'\r', b'\n'] => 2,
        _ => return Ok(false),
    };
    cover.extend(&next[..line_end]);
    entry.offset += line_end as u64;
    entry.progress = Progress::Reading;
    Ok(true)
}

/// Where in its directory a file is now that is no longer at its path.
fn renamed_beside(entry: &FileEntry) -> Option<PathBuf> {
    use std::os::unix::fs::DirEntryExt;
    let directory = std::fs::read_dir(entry.path.parent()?).ok()?;
    let mut named = directory
        .flatten()
        .filter(|d| d.ino() == entry.id.inode)
        .map(|d| d.path());
    named.find(|path| find(path).is_ok_and(|f| f.is_some_and(|f| f.id == entry.id)))
}

fn send(out: &BatchSender, batch: SourceBatch) -> Result<(), Stopped> {
    if let Some(errors) = &batch.errors {
        use arrow::array::AsArray;
        let row = errors.rows.num_rows() - 1;
        let text = |column: usize| errors.rows.column(column).as_string_view().value(row);
        out.trouble(format!("{}: {}", text(0), text(4)));
    }
    out.send(batch)
}
