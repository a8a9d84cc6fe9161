//! Background merging: keeps the number of runs per arrangement logarithmic, moves small runs out of
//! sled, sums up history below `since`.
//!
//! A merge reads runs that are neighbours in age and writes one run (and one of history); that happens outside the commit.
//! The change of the manifest rides in the next commit, or, if none comes for [`INSTALL_AFTER`], in a transaction
//! of its own. Until then readers use the old runs; nothing depends on when, or whether, it happens.
//!
//! What is merged, and when, is said in [`crate::due`].
//!
//! A merge gives the contents as of its newest epoch. What only reads as of an earlier one need is put aside in a run of
//! its own, or, where the inputs are large, the inputs are kept for them. A read of the newest epoch looks at neither; both go when `since`
//! has passed them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parking_lot::{Condvar, Mutex};
use tidemill_zset::{ArrangementId, Epoch};

use crate::api::{ArrangementDesc, ArrangementKind, Result, RunBatch};
use crate::batches::concat_rows;
use crate::block::{BlockRows, Numbers};
use crate::bundle::{Bundle, BundleWriter, NewBundle, RunEnd, RunWriter};
use crate::due::{self, Due};
use crate::log::{LogMerge, LogPiece};
use crate::manifest::BundleRecord;
use crate::merge::HashMerge;
use crate::options::BLOCK_ROWS_MAX;
use crate::read::{ArrangementVersion, StoreVersion};
use crate::resolve::{Compaction, Mode, damaged_rows};
use crate::run::{ALIVE, ALWAYS, Run, RunMeta};
use crate::sorting::block_rows;
use crate::store::{Shared, Step, Writer, put_arrangement};

/// How long the result of a merge waits for a commit to ride in.
const INSTALL_AFTER: Duration = Duration::from_secs(1);
/// How often it is seen whether look-ups ask for a merge while no commits come.
const LOOKUPS_AFTER: Duration = Duration::from_secs(1);
/// It isn't looked for merges again sooner than this, nor sooner than [`PAUSE_FACTOR`] times what looking took: commits may be many,
/// and so may arrangements be, of which few are ever due.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_FACTOR: u32 = 16;
const PAUSE_MAX: Duration = Duration::from_millis(250);
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
    /// What was put aside.
    history: Option<NewBundle>,
    /// The inputs were runs put aside themselves, and so is `new`.
    of_history: bool,
    /// History before it was given up in the merge.
    since: Epoch,
    /// The inputs are kept, for reads as of an earlier epoch.
    kept_until: Option<Epoch>,
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
    /// The merge thread has just looked: it need not be woken.
    pausing: bool,
}

impl Background {
    pub(crate) fn wake(&self) {
        let mut signal = self.signal.lock();
        signal.woken = true;
        if !signal.pausing {
            self.changed.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.signal.lock().stopped = true;
        self.changed.notify_one();
    }

    /// Whether merging is expected to remove rows: judged by the last merge, before that by what the runs hold.
    fn shrinks(&self, a: &ArrangementVersion) -> bool {
        match self.shrinking.lock().get(&a.desc.id) {
            Some(shrinking) => *shrinking,
            None => a.desc.kind.is_last() || a.runs.iter().any(|r| r.meta.negative),
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

    /// Waits for `duration`, but for a stop.
    fn pause(&self, duration: Duration) {
        let mut signal = self.signal.lock();
        let deadline = Instant::now() + duration;
        signal.pausing = true;
        while !signal.stopped {
            if self.changed.wait_until(&mut signal, deadline).timed_out() {
                break;
            }
        }
        signal.pausing = false;
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
    let mut timeout = idle_work(shared);
    while shared.background.wait(timeout.take()) {
        if shared.env.disk.fail.merges_held() {
            continue;
        }
        match merge_due(shared).and_then(|looking| install_late(shared).map(|()| looking)) {
            Ok(looking) => {
                timeout = idle_work(shared);
                let pause = (looking * PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX);
                shared.background.pause(pause);
            }
            Err(e) => {
                tracing::error!(error = %e, "a merge failed; reads go on with the old runs");
                timeout = Some(RETRY_AFTER);
            }
        }
    }
}

/// Writes the copy of the manifest if it is due. Returns when to look again without a commit.
fn idle_work(shared: &Shared) -> Option<Duration> {
    let version = shared.version.read().clone();
    let mut all = version.0.arrangements.values();
    let waits = all.any(|a| due::waits_for_lookups(a));
    let lookups = waits.then_some(LOOKUPS_AFTER);
    let due_in = shared.writer.lock().copy.due_in();
    if due_in == Some(Duration::ZERO)
        && let Err(e) = crate::copy::write(shared)
    {
        tracing::warn!(error = %e, "could not write the copy of the manifest");
    }
    let writer = shared.writer.lock();
    let written = match writer.merged.is_empty() {
        true => writer.copy.due_in().map(|t| t.max(INSTALL_AFTER)),
        false => Some(INSTALL_AFTER),
    };
    [lookups, written].into_iter().flatten().min()
}

/// Merges whatever is due; the results wait in the writer. Returns how long it took to see that nothing more is.
fn merge_due(shared: &Shared) -> Result<Duration> {
    let _one = shared.background.merging.lock();
    loop {
        if shared.background.stopped() {
            return Ok(Duration::ZERO);
        }
        let busy: HashSet<ArrangementId> = {
            let writer = shared.writer.lock();
            if writer.failed.is_some() {
                return Ok(Duration::ZERO);
            }
            writer.merged.iter().map(|m| m.arrangement).collect()
        };
        // Waiting for a commit isn't looking.
        let began = Instant::now();
        let version = shared.version.read().clone();
        shared.background.forget_dropped(&version);
        let due = version
            .0
            .arrangements
            .values()
            .filter(|a| !busy.contains(&a.desc.id))
            .filter_map(|a| {
                let shrinks = shared.background.shrinks(a);
                due::due_of(a, shrinks, shared.inline_bytes_max as u64)
            })
            .max_by_key(|due| due.range.len());
        let due = due.or_else(|| due::wasted(shared, &version, &busy));
        let Some(due) = due.or_else(|| due::forgettable(&version, &busy)) else {
            return Ok(began.elapsed());
        };
        if let Some(merged) = merge(shared, &due)? {
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

fn merge(shared: &Shared, due: &Due) -> Result<Option<Merged>> {
    let (a, range) = (&due.arrangement, due.range.clone());
    let inputs: Vec<Arc<Run>> = due.runs()[range.clone()].to_vec();
    let (mut to, mut past) = {
        let mut writer = shared.writer.lock();
        let to = shared.bundle_writer(&mut writer);
        (to, shared.bundle_writer(&mut writer))
    };
    shared.env.disk.fail.pass("during_merge");
    a.probes.store(0, Ordering::Relaxed);
    if inputs.iter().filter(|r| due::is_large(r)).count() > 1 {
        a.scattered.store(0, Ordering::Relaxed);
    }
    let kept_until = due.kept_until(shared.inline_bytes_max as u64);
    let what = Merge {
        desc: &a.desc,
        inputs: &inputs,
        compaction: compaction(due, kept_until),
        since: if due.of_history { 0 } else { a.since },
        oldest: range.start == 0,
        kept_until,
        of_history: due.of_history,
    };
    if !what.write(shared, &mut to, &mut past)? {
        return Ok(None);
    }
    let new = to.finish(shared.inline_bytes_max)?;
    let history = past.finish(shared.inline_bytes_max)?;
    if !due.of_history {
        let rows_in = inputs.iter().map(|r| r.meta.rows).sum();
        let rows_out = new.iter().flat_map(|n| &n.runs).map(|r| r.rows).sum();
        shared.background.merged(a.desc.id, rows_in, rows_out);
    }
    let mut writer = shared.writer.lock();
    writer.merges += 1;
    let written = new.iter().chain(&history).map(|n| n.bundle.len);
    writer.merge_bytes_written += written.sum::<u64>();
    Ok(Some(Merged {
        arrangement: a.desc.id,
        inputs,
        new,
        history,
        of_history: due.of_history,
        since: if due.of_history { 0 } else { a.since },
        kept_until,
        done_at: Instant::now(),
    }))
}

/// What a merge may forget.
fn compaction(due: &Due, kept_until: Option<Epoch>) -> Compaction {
    let a = &due.arrangement;
    let oldest = due.range.start == 0;
    if due.of_history {
        return Compaction::NONE;
    }
    if let Some(newest) = kept_until {
        return Compaction {
            since: newest,
            floor: Epoch::MIN,
            tombstones_until: if oldest { newest } else { Epoch::MIN },
            split: false,
        };
    }
    // Entries up to `floor` get its epoch, and must not by that come to look newer than those of newer runs, or than what
    // is kept as history; and a tombstone stays while that may hold what it hides.
    let past = a.history.iter().chain(&a.replaced);
    let past = past.filter(|r| r.meta.dead_from > a.since);
    let others = a.runs[due.range.end..].iter().chain(past);
    let floor = others
        .map(|r| r.meta.min_epoch - 1)
        .fold(a.since, Epoch::min);
    Compaction {
        since: a.since,
        floor,
        tombstones_until: if oldest { floor } else { Epoch::MIN },
        split: true,
    }
}

/// A merge of `inputs`, neighbours in the order of age.
struct Merge<'a> {
    desc: &'a Arc<ArrangementDesc>,
    inputs: &'a [Arc<Run>],
    compaction: Compaction,
    /// To be written with the result.
    since: Epoch,
    /// No older run is left out.
    oldest: bool,
    kept_until: Option<Epoch>,
    of_history: bool,
}

impl Merge<'_> {
    /// Writes the result as one run, and what is put aside as another. False if the store closes.
    fn write(
        &self,
        shared: &Shared,
        to: &mut BundleWriter,
        past: &mut BundleWriter,
    ) -> Result<bool> {
        let desc = self.desc;
        let rows: u64 = self.inputs.iter().map(|r| r.meta.rows).sum();
        let compress = rows >= COMPRESS_ROWS_MIN;
        let mut out = Blocks::new(to.run(desc.clone(), compress), desc);
        let mut aside = Blocks::new(past.run(desc.clone(), compress), desc);
        let mut distinct = true;
        if desc.kind == ArrangementKind::Log {
            for piece in LogMerge::new(desc.clone(), self.inputs, self.since, self.oldest)? {
                match piece? {
                    LogPiece::Rows(batch) => out.push(batch)?,
                    LogPiece::Whole(run, block) => out.copy(&run, block)?,
                }
                if shared.background.stopped() {
                    return Ok(false);
                }
            }
        } else {
            let mut merge = HashMerge::new(
                desc.clone(),
                self.inputs.iter().cloned(),
                Mode::Compact(self.compaction),
                Epoch::MAX,
                (0..desc.schema.fields().len()).collect(),
                desc.schema.clone(),
            );
            while let Some(batch) = merge.next()? {
                out.push(batch)?;
                if let Some(past) = merge.past.take() {
                    aside.push(past)?;
                }
                if shared.background.stopped() {
                    return Ok(false);
                }
            }
            distinct = merge.distinct;
        }
        out.write_waiting()?;
        aside.write_waiting()?;
        let most = |of: fn(&RunMeta) -> Epoch| self.inputs.iter().map(|r| of(&r.meta)).max();
        // Where the inputs are given up, it is the same for all of them, or before `since`.
        let alive_from = most(|r| r.alive_from).unwrap_or(ALWAYS);
        let end = RunEnd {
            alive_from,
            ..RunEnd::of(self.since, distinct)
        };
        out.run.finish(match (self.of_history, self.kept_until) {
            (true, _) => RunEnd {
                dead_from: most(|r| r.dead_from).unwrap_or(ALIVE),
                aside: true,
                ..end
            },
            (false, Some(newest)) => RunEnd {
                alive_from: newest,
                ..end
            },
            (false, None) => end,
        });
        aside.run.finish(RunEnd {
            dead_from: most(|r| r.max_epoch).unwrap_or(ALIVE),
            alive_from,
            aside: true,
            ..RunEnd::of(0, false)
        });
        Ok(true)
    }
}

/// Cuts batches of any size into blocks of the usual size.
struct Blocks<'a> {
    run: RunWriter<'a>,
    desc: Arc<ArrangementDesc>,
    waiting: VecDeque<RunBatch>,
    rows: usize,
}

impl<'a> Blocks<'a> {
    fn new(run: RunWriter<'a>, desc: &Arc<ArrangementDesc>) -> Self {
        Blocks {
            run,
            desc: desc.clone(),
            waiting: VecDeque::new(),
            rows: 0,
        }
    }

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
    let a = Arc::make_mut(a);
    let list = match merged.of_history {
        true => &mut a.history,
        false => &mut a.runs,
    };
    let first = &merged.inputs[0];
    let Some(from) = list.iter().position(|r| Arc::ptr_eq(r, first)) else {
        return;
    };
    let to = from + merged.inputs.len();
    let unchanged = list.len() >= to
        && list[from..to]
            .iter()
            .zip(&merged.inputs)
            .all(|(a, b)| Arc::ptr_eq(a, b));
    if !unchanged {
        return;
    }
    let order = merged.inputs[merged.inputs.len() - 1].meta.order;
    let mut place = |new: NewBundle| {
        let mut new = new;
        for meta in &mut new.runs {
            meta.order = order;
        }
        let meta = new.runs[0].clone();
        let record = new.record();
        (meta, new.bundle, record)
    };
    let output = merged.new.map(&mut place);
    let history = merged.history.map(&mut place);
    let run = |placed: &(RunMeta, Arc<Bundle>, BundleRecord)| {
        Arc::new(Run::new(placed.0.clone(), placed.1.clone()))
    };
    list.splice(from..to, output.iter().map(run));
    a.history.extend(history.iter().map(run));
    // The merge's `since` is in the manifest: nobody will read as of an earlier epoch, also after a restart.
    let dead = |r: &mut Arc<Run>| r.meta.dead_from <= merged.since;
    let mut gone: Vec<Arc<Run>> = a.history.extract_if(.., dead).collect();
    gone.extend(a.replaced.extract_if(.., dead));
    let mut kept = Vec::new();
    match merged.kept_until {
        None => gone.extend(merged.inputs),
        Some(until) => {
            for run in merged.inputs {
                let meta = RunMeta {
                    dead_from: until,
                    ..run.meta.clone()
                };
                let dated = Run::new(meta, run.bundle.clone());
                a.replaced.push(Arc::new(dated));
                kept.push(run);
            }
        }
    }
    let dated = a.replaced[a.replaced.len() - kept.len()..].to_vec();
    if output.is_none() && !merged.of_history {
        // No run says how far history has been summed up.
        let (desc, since) = (a.desc.clone(), a.since);
        put_arrangement(step, &desc, since);
    }
    for run in &gone {
        step.retire(writer, run);
    }
    for (run, dated) in kept.iter().zip(&dated) {
        step.describe(writer, run, &dated.meta);
    }
    for (_, bundle, record) in output.into_iter().chain(history) {
        step.add_record(bundle, record);
    }
}
