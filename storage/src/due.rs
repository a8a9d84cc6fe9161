//! [`Due`]: what is to be merged next.
//!
//! Policy: runs have a level, the logarithm of their size; when the newest runs up to some level hold
//! [`FAN_IN`] of that level, they are all merged. Where merging removes rows, older runs that aren't larger than
//! all of these come along, so that superseded rows don't pile up; else a row is written again once per level.
//! There, fewer runs only make looking up cheaper, so that large ones wait until look-ups have cost what
//! the merge will, or [`UNREAD_FAN_IN`] are there. Fewer large ones than all these are merged once queries have paid for that by what they
//! read in several of them.
//!
//! A run that has taken the place of others, which are kept for reads as of earlier epochs, says nothing to those reads. Were it
//! merged with a run that does, and that run given up, those reads would miss what that one says. Such runs are merged
//! only where all of them are kept, or when nobody can read as of those epochs any more.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemill_zset::{ArrangementId, Epoch};

use crate::api::ArrangementKind;
use crate::read::{ArrangementVersion, StoreVersion};
use crate::run::Run;
use crate::store::Shared;

/// Runs of one level that are merged together.
const FAN_IN: usize = 16;
/// The same for large runs in which merging removes nothing, until look-ups ask for it.
const UNREAD_FAN_IN: usize = 64;
/// Large is what has files of its own from this level on: 256 KiB.
const UNREAD_LEVEL_MIN: u32 = 2;
/// Looking for one hash in one run costs as much as merging so many rows.
const PROBE_ROWS: u64 = 8;
/// Reading so many rows of blocks, for few of them, costs as much as merging one.
const SCATTERED_ROWS: u64 = 4;
/// A merge that queries pay for takes runs that are, but for the largest, at least so small a part of that one.
const PAID_FACTOR: u64 = 4;
/// Runs of at most so many bytes are level 0; each level above is [`LEVEL_FACTOR`] times larger.
const LEVEL_0_BYTES: u64 = 4 * 1024;
const LEVEL_FACTOR: u64 = 8;
/// Runs of one level, of those that were put aside, that are merged together: few reads look at them.
const HISTORY_FAN_IN: usize = 64;
/// Runs that one merge takes, at most: each holds a block in memory meanwhile.
const INPUTS_MAX: usize = 64;
/// Runs of a log of about this size on average stay as they are: merging them would gain nothing.
const LOG_RUN_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Inputs that are on average so many times larger than what goes into sled are kept as history; smaller ones are put together,
/// so that sled holds few.
const KEPT_FACTOR: u64 = 2;
/// A segment file from this size on is given up when less than one part in [`WASTE_FACTOR`] of it is alive:
/// the runs left are written again.
const WASTE_BYTES_MIN: u64 = 128 * 1024;
const WASTE_FACTOR: u64 = 8;

/// What a merge takes.
pub(crate) struct Due {
    pub arrangement: Arc<ArrangementVersion>,
    /// Neighbours among the runs, or among those put aside.
    pub range: Range<usize>,
    pub of_history: bool,
}

impl Due {
    pub(crate) fn runs(&self) -> &[Arc<Run>] {
        match self.of_history {
            true => &self.arrangement.history,
            false => &self.arrangement.runs,
        }
    }

    fn inputs(&self) -> &[Arc<Run>] {
        &self.runs()[self.range.clone()]
    }

    /// If the inputs are to be kept: the epoch as of which the merge takes their place. They are if there is history in them and
    /// they are large enough for files of their own.
    pub(crate) fn kept_until(&self, inline_bytes_max: u64) -> Option<Epoch> {
        let (a, inputs) = (&self.arrangement, self.inputs());
        let newest = inputs.iter().map(|r| r.meta.max_epoch).max()?;
        let bytes: u64 = inputs.iter().map(|r| r.meta.bytes).sum();
        let keep = a.desc.kind != ArrangementKind::Log
            && !self.of_history
            && inputs.len() > 1
            && newest > a.since
            && bytes >= inline_bytes_max * KEPT_FACTOR * inputs.len() as u64;
        keep.then_some(newest)
    }

    /// The inputs aren't all read as of the same epochs.
    fn is_mixed(&self) -> bool {
        let from = |r: &Arc<Run>| r.meta.alive_from.max(self.arrangement.since);
        let mut inputs = self.inputs().windows(2);
        inputs.any(|pair| from(&pair[0]) != from(&pair[1]))
    }
}

fn level(bytes: u64) -> u32 {
    (bytes / LEVEL_0_BYTES).max(1).ilog(LEVEL_FACTOR)
}

/// What is to be merged now of an arrangement, given how large a run inside sled may be.
pub(crate) fn due_of(
    a: &Arc<ArrangementVersion>,
    shrinks: bool,
    inline_bytes_max: u64,
) -> Option<Due> {
    let due = |range, of_history| Due {
        arrangement: a.clone(),
        range,
        of_history,
    };
    let mut runs = choose(a, 0, shrinks).map(|range| due(range, false));
    if runs
        .as_ref()
        .is_some_and(|due| due.is_mixed() && due.kept_until(inline_bytes_max).is_none())
    {
        // What is newer than all that has taken the place of others.
        let took_place = |r: &Arc<Run>| r.meta.alive_from > a.since;
        let from = a.runs.iter().rposition(took_place).map_or(0, |i| i + 1);
        runs = choose(a, from, shrinks).map(|range| due(range, false));
    }
    runs.or_else(|| choose_history(a).map(|range| due(range, true)))
}

/// Enough small runs that were put aside, all of them a part of what is read as of the same epochs. Together they are
/// read as long as any of them was, which must not be beyond a merge that kept its inputs: its result has no
/// tombstones for what was put aside before it.
fn choose_history(a: &ArrangementVersion) -> Option<Range<usize>> {
    if a.history.len() < HISTORY_FAN_IN {
        return None;
    }
    let newer = a.replaced.iter().chain(&a.runs);
    let mut ends: Vec<Epoch> = newer.map(|r| r.meta.alive_from).collect();
    ends.push(a.since);
    ends.sort_unstable();
    let read_by = |r: &Run| {
        let stretch = ends.partition_point(|end| *end < r.meta.dead_from);
        (r.meta.alive_from, stretch)
    };
    let mut start = 0;
    for same in a.history.chunk_by(|a, b| read_by(a) == read_by(b)) {
        let levels: Vec<u32> = same.iter().map(|r| level(r.meta.bytes)).collect();
        let top = levels.iter().copied().max()?;
        for up_to in 0..=top {
            let from = levels.iter().rposition(|l| *l > up_to).map_or(0, |i| i + 1);
            if levels.len() - from >= HISTORY_FAN_IN {
                return Some(start + from..start + from + HISTORY_FAN_IN);
            }
        }
        start += same.len();
    }
    None
}

/// Where `since` has passed what was put aside, and that is larger than the newest run: writing this one again, with
/// that `since`, lets it go.
pub(crate) fn forgettable(version: &StoreVersion, busy: &HashSet<ArrangementId>) -> Option<Due> {
    let all = version.0.arrangements.values();
    let due = |a: &Arc<ArrangementVersion>| {
        let newest = a.runs.last()?;
        let past = a.history.iter().chain(&a.replaced);
        let dead = past.filter(|r| r.meta.dead_from <= a.since);
        let bytes: u64 = dead.map(|r| r.meta.bytes).sum();
        (bytes > newest.meta.bytes).then(|| Due {
            arrangement: a.clone(),
            range: a.runs.len() - 1..a.runs.len(),
            of_history: false,
        })
    };
    all.filter(|a| !busy.contains(&a.desc.id)).find_map(due)
}

/// The runs to merge now, a range of neighbours among those from `oldest` on.
fn choose(a: &ArrangementVersion, oldest: usize, shrinks: bool) -> Option<Range<usize>> {
    full_level(a, oldest, shrinks).or_else(|| paid_by_queries(a, oldest))
}

/// Two large runs or more, and all that are newer, where queries have read as much in them as the merge will cost. Not one run for little
/// else, which would be written again and again, and nothing while inputs of an earlier merge are kept: there would be more and more of
/// them. A log has no queries.
fn paid_by_queries(a: &ArrangementVersion, oldest: usize) -> Option<Range<usize>> {
    let paid = a.scattered.load(Ordering::Relaxed) / SCATTERED_ROWS;
    if paid == 0 || !a.replaced.is_empty() {
        return None;
    }
    let (mut rows, mut most, mut large, mut found) = (0, 0, 0, None);
    for (i, run) in a.runs.iter().enumerate().skip(oldest).rev() {
        rows += run.meta.rows;
        most = most.max(run.meta.rows);
        large += usize::from(is_large(run));
        if rows > paid {
            break;
        }
        if large > 1 && (rows - most) * PAID_FACTOR >= most {
            found = Some(i);
        }
    }
    found.map(|from| from..a.runs.len().min(from + INPUTS_MAX))
}

/// Large enough for a merge that look-ups or queries pay for.
pub(crate) fn is_large(run: &Run) -> bool {
    level(run.meta.bytes) >= UNREAD_LEVEL_MIN
}

/// Enough runs of one level.
fn full_level(a: &ArrangementVersion, oldest: usize, shrinks: bool) -> Option<Range<usize>> {
    if a.runs.len() < oldest + FAN_IN {
        return None;
    }
    let levels: Vec<u32> = a.runs.iter().map(|r| level(r.meta.bytes)).collect();
    let top = levels[oldest..].iter().copied().max()?;
    for up_to in (0..=top).rev() {
        let from = levels.iter().rposition(|l| *l > up_to).map_or(0, |i| i + 1);
        let from = from.max(oldest);
        let full = levels[from..].iter().filter(|l| **l == up_to).count();
        // The smaller ones among them come along as if they were one more.
        let rest = usize::from(full < levels.len() - from);
        if full + rest < FAN_IN {
            continue;
        }
        let unread = !shrinks && up_to >= UNREAD_LEVEL_MIN && full + rest < UNREAD_FAN_IN;
        if unread && !looked_up(a, from) {
            continue;
        }
        let bytes: u64 = a.runs[from..].iter().map(|r| r.meta.bytes).sum();
        if a.desc.kind != ArrangementKind::Log {
            let from = if shrinks {
                with_older(a, oldest, from, bytes)
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

/// Whether look-ups since the last merge have cost what a merge of the runs from `from` on will. A log has none.
fn looked_up(a: &ArrangementVersion, from: usize) -> bool {
    let rows: u64 = a.runs[from..].iter().map(|r| r.meta.rows).sum();
    a.probes.load(Ordering::Relaxed) * PROBE_ROWS >= rows
}

/// Whether look-ups alone, without a commit, may make a merge due.
pub(crate) fn waits_for_lookups(a: &ArrangementVersion) -> bool {
    a.desc.kind != ArrangementKind::Log && a.runs.iter().filter(|r| is_large(r)).count() > 1
}

/// Where a merge of the runs from `from` on, `bytes` in all, begins so that older runs that aren't larger, at most those from
/// `oldest` on, come along: otherwise a state that changes all over would be kept once per run of its own size.
fn with_older(a: &ArrangementVersion, oldest: usize, mut from: usize, mut bytes: u64) -> usize {
    while from > oldest && a.runs[from - 1].meta.bytes <= bytes {
        from -= 1;
        bytes += a.runs[from].meta.bytes;
    }
    from
}

/// A run that keeps a file of which little else is alive: it is written again alone.
pub(crate) fn wasted(
    shared: &Shared,
    version: &StoreVersion,
    busy: &HashSet<ArrangementId>,
) -> Option<Due> {
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
                && let Some(i) = a.runs.iter().position(|r| r.meta == *run)
            {
                return Some(Due {
                    arrangement: a,
                    range: i..i + 1,
                    of_history: false,
                });
            }
        }
    }
    None
}
