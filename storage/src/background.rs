//! Background merging: keeps the number of runs per arrangement logarithmic, moves small runs out of
//! sled, sums up history below `since`.
//!
//! A merge reads runs that are neighbours in age and writes one run; that happens outside the commit.
//! The change of the manifest rides in the next commit, or, if none comes for [`INSTALL_AFTER`], in a transaction
//! of its own. Until then readers use the old runs; nothing depends on when, or whether, it happens.
//!
//! Policy: runs have a level, the logarithm of their size; when the newest runs up to some level hold
//! [`FAN_IN`] of that level, they are all merged. Where merging removes rows, older runs that aren't larger than
//! all of these come along, so that superseded rows don't pile up; else a row is written again once per level.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parking_lot::{Condvar, Mutex};
use tidemill_zset::{ArrangementId, Epoch};

use crate::api::{ArrangementDesc, ArrangementKind, Result, RunBatch};
use crate::batches::concat_rows;
use crate::block::{BlockRows, Numbers};
use crate::bundle::{BundleWriter, NewBundle, RunWriter};
use crate::log::{LogMerge, LogPiece};
use crate::merge::HashMerge;
use crate::options::BLOCK_ROWS_MAX;
use crate::read::{ArrangementVersion, StoreVersion};
use crate::resolve::{Mode, damaged_rows};
use crate::run::Run;
use crate::sorting::block_rows;
use crate::store::{Shared, Step, Writer};

/// Runs of one level that are merged together.
const FAN_IN: usize = 16;
/// Runs of at most so many bytes are level 0; each level above is [`LEVEL_FACTOR`] times larger.
const LEVEL_0_BYTES: u64 = 4 * 1024;
const LEVEL_FACTOR: u64 = 8;
/// Runs that one merge takes, at most: each holds a block in memory meanwhile.
const INPUTS_MAX: usize = 64;
/// Runs of a log of about this size on average stay as they are: merging them would gain nothing.
const LOG_RUN_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// A segment file from this size on is given up when less than one part in [`WASTE_FACTOR`] of it is alive:
/// the runs left are written again.
const WASTE_BYTES_MIN: u64 = 128 * 1024;
const WASTE_FACTOR: u64 = 8;
/// How long the result of a merge waits for a commit to ride in.
const INSTALL_AFTER: Duration = Duration::from_secs(1);
/// After a failed merge (no space, say) the next is tried no sooner than this.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Merges of more rows than this try to compress their blocks.
const COMPRESS_ROWS_MIN: u64 = 4 * 1024 * 1024;

/// The result of a merge, to be put into the manifest.
#[derive(Debug)]
pub(crate) struct Merged {
    arrangement: ArrangementId,
    inputs: Vec<Arc<Run>>,
    /// `None`: nothing was left.
    new: Option<NewBundle>,
    done_at: Instant,
}

/// How commits talk to the merge thread.
#[derive(Debug, Default)]
pub(crate) struct Background {
    signal: Mutex<Signal>,
    changed: Condvar,
    /// One merge at a time, whoever runs it.
    merging: Mutex<()>,
    /// Whether the last merge of an arrangement left clearly fewer rows than it took.
    shrinking: Mutex<HashMap<ArrangementId, bool>>,
}

#[derive(Debug, Default)]
struct Signal {
    woken: bool,
    stopped: bool,
}

impl Background {
    pub(crate) fn wake(&self) {
        self.signal.lock().woken = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.signal.lock().stopped = true;
        self.changed.notify_one();
    }

    /// Whether merging is expected to remove rows: judged by the last merge, before that by what the runs hold.
    fn shrinks(&self, a: &ArrangementVersion) -> bool {
        match self.shrinking.lock().get(&a.desc.id) {
            Some(shrinking) => *shrinking,
            None => a.desc.kind == ArrangementKind::Last || a.runs.iter().any(|r| r.meta.negative),
        }
    }

    fn forget_dropped(&self, version: &StoreVersion) {
        let mut shrinking = self.shrinking.lock();
        shrinking.retain(|id, _| version.0.arrangements.contains_key(id));
    }

    fn merged(&self, id: ArrangementId, rows_in: u64, rows_out: u64) {
        self.shrinking
            .lock()
            .insert(id, rows_out <= rows_in / 4 * 3);
    }

    fn stopped(&self) -> bool {
        self.signal.lock().stopped
    }

    /// Waits for a commit, at most for `timeout`. True: go on; false: stop.
    fn wait(&self, timeout: Option<Duration>) -> bool {
        let mut signal = self.signal.lock();
        let deadline = timeout.map(|t| Instant::now() + t);
        while !signal.woken && !signal.stopped {
            match deadline {
                None => self.changed.wait(&mut signal),
                Some(at) => {
                    if self.changed.wait_until(&mut signal, at).timed_out() {
                        break;
                    }
                }
            }
        }
        signal.woken = false;
        !signal.stopped
    }
}

/// The merge thread.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut timeout = None;
    while shared.background.wait(timeout.take()) {
        if shared.env.disk.fail.merges_held() {
            continue;
        }
        if let Err(e) = merge_due(shared).and_then(|()| install_late(shared)) {
            tracing::error!(error = %e, "a merge failed; reads go on with the old runs");
            timeout = Some(RETRY_AFTER);
            continue;
        }
        timeout = idle_work(shared);
    }
}

/// Writes the copy of the manifest if it is due. Returns when to look again without a commit.
fn idle_work(shared: &Shared) -> Option<Duration> {
    let due_in = shared.writer.lock().copy.due_in();
    if due_in == Some(Duration::ZERO)
        && let Err(e) = crate::copy::write(shared)
    {
        tracing::warn!(error = %e, "could not write the copy of the manifest");
    }
    let writer = shared.writer.lock();
    match writer.merged.is_empty() {
        true => writer.copy.due_in().map(|t| t.max(INSTALL_AFTER)),
        false => Some(INSTALL_AFTER),
    }
}

/// Merges whatever is due; the results wait in the writer.
fn merge_due(shared: &Shared) -> Result<()> {
    let _one = shared.background.merging.lock();
    loop {
        if shared.background.stopped() {
            return Ok(());
        }
        let busy: HashSet<ArrangementId> = {
            let writer = shared.writer.lock();
            if writer.failed.is_some() {
                return Ok(());
            }
            writer.merged.iter().map(|m| m.arrangement).collect()
        };
        let version = shared.version.read().clone();
        shared.background.forget_dropped(&version);
        let due = version
            .0
            .arrangements
            .values()
            .filter(|a| !busy.contains(&a.desc.id))
            .filter_map(|a| choose(a, shared.background.shrinks(a)).map(|runs| (a.clone(), runs)))
            .max_by_key(|(_, runs)| runs.len());
        let due = due.or_else(|| wasted(shared, &version, &busy));
        let Some((arrangement, runs)) = due else {
            return Ok(());
        };
        if let Some(merged) = merge(shared, &arrangement, runs)? {
            shared.writer.lock().merged.push(merged);
        }
    }
}

/// Installs results that have waited too long for a commit.
fn install_late(shared: &Shared) -> Result<()> {
    let mut writer = shared.writer.lock();
    let late = |m: &Merged| m.done_at.elapsed() >= INSTALL_AFTER;
    match writer.merged.iter().any(late) {
        true => install_all(shared, &mut writer),
        false => Ok(()),
    }
}

fn install_all(shared: &Shared, writer: &mut Writer) -> Result<()> {
    writer.check()?;
    let mut step = shared.step();
    for merged in std::mem::take(&mut writer.merged) {
        install(writer, &mut step, merged);
    }
    let clock = writer.clock;
    shared.apply(writer, step, clock).map(|_| ())
}

/// Merges and installs until nothing is due.
pub(crate) fn merge_all(shared: &Shared) -> Result<()> {
    loop {
        merge_due(shared)?;
        let mut writer = shared.writer.lock();
        if writer.merged.is_empty() {
            return Ok(());
        }
        install_all(shared, &mut writer)?;
    }
}

fn level(bytes: u64) -> u32 {
    (bytes / LEVEL_0_BYTES).max(1).ilog(LEVEL_FACTOR)
}

/// The runs to merge now, a range of neighbours.
fn choose(a: &ArrangementVersion, shrinks: bool) -> Option<Range<usize>> {
    if a.runs.len() < FAN_IN {
        return None;
    }
    let levels: Vec<u32> = a.runs.iter().map(|r| level(r.meta.bytes)).collect();
    let top = levels.iter().copied().max()?;
    for up_to in (0..=top).rev() {
        let from = levels.iter().rposition(|l| *l > up_to).map_or(0, |i| i + 1);
        let full = levels[from..].iter().filter(|l| **l == up_to).count();
        // The smaller ones among them come along as if they were one more.
        let rest = usize::from(full < levels.len() - from);
        if full + rest < FAN_IN {
            continue;
        }
        let bytes: u64 = a.runs[from..].iter().map(|r| r.meta.bytes).sum();
        if a.desc.kind != ArrangementKind::Log {
            let from = if shrinks {
                with_older(a, from, bytes)
            } else {
                from
            };
            return Some(from..levels.len().min(from + INPUTS_MAX));
        }
        if bytes / (full as u64) <= LOG_RUN_BYTES_MAX {
            return Some(from..levels.len().min(from + INPUTS_MAX));
        }
    }
    None
}

/// Where a merge of the runs from `from` on, `bytes` in all, begins so that older runs that aren't larger
/// come along: otherwise a state that changes all over would be kept once per run of its own size.
fn with_older(a: &ArrangementVersion, mut from: usize, mut bytes: u64) -> usize {
    while from > 0 && a.runs[from - 1].meta.bytes <= bytes {
        from -= 1;
        bytes += a.runs[from].meta.bytes;
    }
    from
}

/// A run that keeps a file of which little else is alive: it is written again alone.
fn wasted(
    shared: &Shared,
    version: &StoreVersion,
    busy: &HashSet<ArrangementId>,
) -> Option<(Arc<ArrangementVersion>, Range<usize>)> {
    let writer = shared.writer.lock();
    for live in writer.bundles.values() {
        let record = &live.record;
        let bytes: u64 = record.runs.iter().map(|r| r.bytes).sum();
        if record.inline || record.len < WASTE_BYTES_MIN || bytes * WASTE_FACTOR > record.len {
            continue;
        }
        for run in record
            .runs
            .iter()
            .filter(|r| !busy.contains(&r.arrangement))
        {
            if let Some(a) = version.arrangement(run.arrangement)
                && let Some(i) = a.runs.iter().position(|r| r.meta.order == run.order)
            {
                return Some((a, i..i + 1));
            }
        }
    }
    None
}

fn merge(
    shared: &Shared,
    a: &Arc<ArrangementVersion>,
    range: Range<usize>,
) -> Result<Option<Merged>> {
    let inputs: Vec<Arc<Run>> = a.runs[range.clone()].to_vec();
    let oldest = range.start == 0;
    // Entries up to `since` get the epoch `since`, and must not by that come to look newer than those of newer runs.
    let newer = a.runs[range.end..].iter().map(|r| r.meta.min_epoch - 1);
    let since = newer.fold(a.since, Epoch::min);
    let mut to = shared.bundle_writer(&mut shared.writer.lock());
    shared.env.disk.fail.pass("during_merge");
    if !merge_runs(shared, &mut to, &a.desc, &inputs, since, oldest)? {
        return Ok(None);
    }
    let new = to.finish(shared.inline_bytes_max)?;
    let rows_in = inputs.iter().map(|r| r.meta.rows).sum();
    let rows_out = new.iter().flat_map(|n| &n.runs).map(|r| r.rows).sum();
    shared.background.merged(a.desc.id, rows_in, rows_out);
    let mut writer = shared.writer.lock();
    writer.merges += 1;
    writer.merge_bytes_written += new.as_ref().map_or(0, |n| n.bundle.len);
    Ok(Some(Merged {
        arrangement: a.desc.id,
        inputs,
        new,
        done_at: Instant::now(),
    }))
}

/// Writes the merge of `inputs`, neighbours in the order of age, as one run. False if the store closes.
fn merge_runs(
    shared: &Shared,
    to: &mut BundleWriter,
    desc: &Arc<ArrangementDesc>,
    inputs: &[Arc<Run>],
    since: Epoch,
    oldest: bool,
) -> Result<bool> {
    let rows: u64 = inputs.iter().map(|r| r.meta.rows).sum();
    let mut out = Blocks {
        run: to.run(desc.clone(), rows >= COMPRESS_ROWS_MIN),
        desc: desc.clone(),
        waiting: VecDeque::new(),
        rows: 0,
    };
    let all: Vec<usize> = (0..desc.schema.fields().len()).collect();
    let mut distinct = true;
    if desc.kind == ArrangementKind::Log {
        for piece in LogMerge::new(desc.clone(), inputs, since, oldest)? {
            match piece? {
                LogPiece::Rows(batch) => out.push(batch)?,
                LogPiece::Whole(run, block) => out.copy(&run, block)?,
            }
            if shared.background.stopped() {
                return Ok(false);
            }
        }
    } else {
        let mode = Mode::Compact {
            since,
            drop_tombstones: oldest,
        };
        let schema = desc.schema.clone();
        let mut merge = HashMerge::new(
            desc.clone(),
            inputs.iter().cloned(),
            mode,
            Epoch::MAX,
            all,
            schema,
        );
        while let Some(batch) = merge.next()? {
            out.push(batch)?;
            if shared.background.stopped() {
                return Ok(false);
            }
        }
        distinct = merge.distinct;
    }
    out.write_waiting()?;
    out.run.finish(since, distinct);
    Ok(true)
}

/// Cuts batches of any size into blocks of the usual size.
struct Blocks<'a> {
    run: RunWriter<'a>,
    desc: Arc<ArrangementDesc>,
    waiting: VecDeque<RunBatch>,
    rows: usize,
}

impl Blocks<'_> {
    fn push(&mut self, batch: RunBatch) -> Result<()> {
        self.rows += batch.rows.num_rows();
        self.waiting.push_back(batch);
        // A batch of a merge is about a block; short ones are gathered.
        let first = &self.waiting[0].rows;
        if self.rows >= block_rows(first).min(BLOCK_ROWS_MAX / 2) {
            self.write_waiting()?;
        }
        Ok(())
    }

    fn copy(&mut self, run: &Run, block: usize) -> Result<()> {
        self.write_waiting()?;
        let meta = &run.index()?[block];
        self.run.copy(meta, &run.stored(meta)?, run.meta.negative)
    }

    fn write_waiting(&mut self) -> Result<()> {
        let batch = match self.waiting.len() {
            0 => return Ok(()),
            1 => self.waiting.pop_front(),
            _ => Some(concat(&self.desc, self.waiting.make_contiguous())?),
        };
        self.waiting.clear();
        self.rows = 0;
        let Some(batch) = batch else { return Ok(()) };
        let rows = batch.rows.num_rows();
        let pieces = rows.div_ceil(block_rows(&batch.rows)).max(1);
        let step = rows.div_ceil(pieces).max(1);
        for at in (0..rows).step_by(step) {
            let len = step.min(rows - at);
            self.run.block(&BlockRows {
                hashes: match batch.hashes.is_empty() {
                    true => batch.hashes.clone(),
                    false => batch.hashes.slice(at, len),
                },
                rows: &batch.rows.slice(at, len),
                diffs: Numbers::of(batch.diffs.slice(at, len)),
                epochs: Numbers::of(batch.epochs.slice(at, len)),
            })?;
        }
        Ok(())
    }
}

fn concat(desc: &ArrangementDesc, batches: &[RunBatch]) -> Result<RunBatch> {
    let all: Vec<&RecordBatch> = batches.iter().map(|b| &b.rows).collect();
    let rows = concat_rows(&desc.schema, &all).map_err(|e| damaged_rows(desc, &e))?;
    let hashes: Vec<u64> = batches
        .iter()
        .flat_map(|b| b.hashes.iter().copied())
        .collect();
    let diffs: Vec<i64> = batches
        .iter()
        .flat_map(|b| b.diffs.iter().copied())
        .collect();
    let epochs: Vec<i64> = batches
        .iter()
        .flat_map(|b| b.epochs.iter().copied())
        .collect();
    Ok(RunBatch {
        hashes: hashes.into(),
        rows,
        diffs: diffs.into(),
        epochs: epochs.into(),
    })
}

/// Replaces the inputs of a merge by its output in `step`. A result whose inputs are gone (the
/// arrangement was dropped) is let go, and its file with it.
pub(crate) fn install(writer: &Writer, step: &mut Step, merged: Merged) {
    let Some(a) = step.arrangements.get_mut(&merged.arrangement) else {
        return;
    };
    let first = merged.inputs[0].meta.order;
    let Some(from) = a.runs.iter().position(|r| r.meta.order == first) else {
        return;
    };
    let to = from + merged.inputs.len();
    let unchanged = a.runs.len() >= to
        && a.runs[from..to]
            .iter()
            .zip(&merged.inputs)
            .all(|(a, b)| Arc::ptr_eq(a, b));
    if !unchanged {
        return;
    }
    let order = merged.inputs[merged.inputs.len() - 1].meta.order;
    let mut output = None;
    for run in &merged.inputs {
        step.retire(writer, run);
    }
    if let Some(mut new) = merged.new {
        for meta in &mut new.runs {
            meta.order = order;
        }
        let meta = new.runs[0].clone();
        let bundle = step.add(new);
        output = Some(Arc::new(Run::new(meta, bundle)));
    }
    if let Some(a) = step.arrangements.get_mut(&merged.arrangement) {
        Arc::make_mut(a).runs.splice(from..to, output);
    }
}
