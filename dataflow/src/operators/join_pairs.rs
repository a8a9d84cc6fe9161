//! Pairs of a join: which pushed rows meet which indexed rows, and the columns of the result.
//!
//! With a key, each pushed row is paired with the list of its key. Without one, everything is paired with everything; the condition is evaluated on whole
//! columns of one side and one repeated row of the other, which is several times cheaper than gathering both rows of every pair. Where the condition compares
//! both sides, less needs to be looked at ([`super::join_ranges`]).

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take;
use arrow::datatypes::Schema;
use tidemill_zset::{Delta, Diffs};

use super::culprit::row_text;
use super::join::{JoinOperator, LEFT, PIECE_ROWS, Presence, RIGHT};
use super::join_index::{Build, FEW_OF_KEY, IndexMeeting};
use super::join_pending::PendingRows;
use super::join_ranges::{PAIRS_PER_ROW, RangeMeeting};
use super::join_rows::{NIL, batch_of};
use super::join_weights::{Weights, product};
use crate::operator::{Output, error_delta};
use crate::plan::RowError;

/// Pairs of rows: of the pushed piece (by place) and of the other side (by row number), or of both sides' stores.
#[derive(Default)]
pub(super) struct Pairs {
    pub(super) probe: Vec<u32>,
    pub(super) build: Vec<u32>,
}

impl Pairs {
    fn retain(&mut self, mask: &BooleanBuffer) {
        retain(&mut self.probe, mask);
        retain(&mut self.build, mask);
    }
}

/// Keeps the values where `mask` is set.
pub(super) fn retain<T: Copy>(values: &mut Vec<T>, mask: &BooleanBuffer) {
    let mut kept = 0;
    for i in mask.set_indices() {
        values[kept] = values[i];
        kept += 1;
    }
    values.truncate(kept);
}

/// Rows of one side: places in a pushed piece, or numbers in the store.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    Pushed(&'a RecordBatch, &'a [u32]),
    Stored(&'a [u32]),
}

impl Rows<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Rows::Pushed(_, rows) | Rows::Stored(rows) => rows.len(),
        }
    }
}

/// A pushed piece that meets the rows of the other side, and how far it has come.
pub(super) struct Meeting {
    pub port: usize,
    pub delta: Delta,
    /// The slot of each row.
    pub slots: Vec<u32>,
    /// The matches of each row, where they are counted.
    pub own: Vec<i64>,
    /// The stored columns and hashes, if the rows are to be indexed afterwards.
    pub unindexed: Option<(RecordBatch, Vec<u64>)>,
    /// The numbers of those rows of each side that they don't meet.
    pub except: Option<PendingRows>,
    pub place: Place,
}

/// The next pair to be looked at.
pub(super) enum Place {
    Start,
    /// This row of the piece with this one of its key's list.
    Lists {
        row: usize,
        node: u32,
    },
    /// All rows of the piece with a piece of these, in rounds.
    All {
        stored: Vec<u32>,
        from: usize,
        round: usize,
    },
    /// The rows that the condition's comparisons allow.
    Ranges(RangeMeeting),
    /// Those that an index finds.
    Indexed(IndexMeeting),
}

impl Meeting {
    /// `own`: for how many rows matches are counted.
    pub fn new(
        port: usize,
        delta: Delta,
        slots: Vec<u32>,
        own: usize,
        unindexed: Option<(RecordBatch, Vec<u64>)>,
    ) -> Self {
        Meeting {
            port,
            delta,
            slots,
            own: vec![0; own],
            unindexed,
            except: None,
            place: Place::Start,
        }
    }
}

impl JoinOperator {
    /// Decides how pushed rows meet the other side. What is given back must be made first.
    pub(super) fn begin(&mut self, meeting: &mut Meeting) -> Option<Build> {
        let meets = self.emits_pairs() || self.presence == Presence::PerRow;
        if !meets || !matches!(meeting.place, Place::Start) {
            return None;
        }
        let other = 1 - meeting.port;
        if let Some(indexed) = self.meeting_by_index(meeting) {
            meeting.place = Place::Indexed(indexed);
            return None;
        }
        let head = |slot: &u32| self.state.keys.slot(*slot).heads[other];
        let node = meeting.slots.first().map_or(NIL, head);
        let keyless = self.stored[LEFT].key_columns == 0;
        if keyless && self.searches() {
            let rows = meeting.slots.len().min(PAIRS_PER_ROW);
            self.note_looked_at(other, rows * self.state.sides[other].store.live());
        }
        let of_keys = match keyless {
            true => None,
            false => self.meeting_of_keys(&meeting.slots, other),
        };
        if let Some(build) = self.due_index(other) {
            return Some(build);
        }
        meeting.place = if let Some(meeting) = of_keys {
            Place::Ranges(meeting)
        } else if keyless && self.filter.is_some() {
            let mut stored = Vec::new();
            self.state.sides[other].store.collect(node, &mut stored);
            match self.searches() {
                true => Place::Ranges(RangeMeeting::new(stored)),
                false => Place::All {
                    stored,
                    from: 0,
                    round: 0,
                },
            }
        } else {
            Place::Lists { row: 0, node }
        };
        None
    }

    /// Pairs of the pushed rows with the rows of the other side: emits them and counts matches. False if the allowance didn't
    /// suffice for all of them.
    pub(super) fn meet(&mut self, meeting: &mut Meeting, out: &mut Output) -> bool {
        if !self.emits_pairs() && self.presence != Presence::PerRow {
            return true;
        }
        match meeting.place {
            Place::All { .. } => self.meet_all(meeting, out),
            Place::Ranges(_) => self.meet_ranges(meeting, out),
            Place::Indexed(_) => self.meet_indexed(meeting, out),
            _ => self.meet_lists(meeting, out),
        }
    }

    /// Pairs of each pushed row with the list of its key.
    fn meet_lists(&mut self, meeting: &mut Meeting, out: &mut Output) -> bool {
        let Meeting {
            port,
            delta,
            slots,
            own,
            place: Place::Lists { row, node },
            ..
        } = meeting
        else {
            unreachable!("the caller has looked")
        };
        let (port, other) = (*port, 1 - *port);
        let mut pairs = std::mem::take(&mut self.pairs);
        let (mut done, mut looked_at) = (false, 0);
        while !done && !out.is_spent() {
            let store = &self.state.sides[other].store;
            while *row < slots.len() {
                let before = pairs.probe.len();
                while *node != NIL && pairs.probe.len() < PIECE_ROWS {
                    pairs.probe.push(*row as u32);
                    pairs.build.push(*node);
                    *node = store.next(*node);
                }
                looked_at += (pairs.probe.len() - before).saturating_sub(FEW_OF_KEY);
                if *node != NIL {
                    break;
                }
                *row += 1;
                if let Some(slot) = slots.get(*row) {
                    *node = self.state.keys.slot(*slot).heads[other];
                }
            }
            done = *row == slots.len();
            out.spend(pairs.probe.len());
            if !pairs.probe.is_empty() {
                self.apply_filter(port, Some(delta), &mut pairs, out);
                self.accept(port, delta, &mut pairs, own, out);
            }
        }
        self.pairs = pairs;
        self.note_looked_at(other, looked_at);
        done
    }

    /// Keeps the pairs that pass the filter; those that fail become errors, unless their pushed rows are only
    /// fetched state (`delta` is `None`, the pairs are row numbers of both sides).
    pub(super) fn apply_filter(
        &mut self,
        port: usize,
        delta: Option<&Delta>,
        pairs: &mut Pairs,
        out: &mut Output,
    ) {
        let Some(filter) = self.filter.take() else {
            return;
        };
        let count = pairs.probe.len();
        let columns = self.pair_arrays(port, delta, &pairs.probe, &pairs.build, &filter.columns);
        let mut failed = Vec::new();
        let mask = filter.mask(columns, count, &mut failed);
        if let (false, Some(delta)) = (failed.is_empty(), delta) {
            let store = &self.state.sides[1 - port].store;
            let pair = |(at, error)| {
                let (probe, build): (u32, u32) = (pairs.probe[at], pairs.build[at]);
                let diff = delta
                    .diffs
                    .get(probe as usize)
                    .wrapping_mul(store.diff(build));
                (probe, build, diff, error)
            };
            let failed = failed.into_iter().map(pair).collect();
            self.report_failed(port, Some(delta), failed, out);
        }
        if mask.count_set_bits() < count {
            pairs.retain(&mask);
        }
        self.filter = Some(filter);
    }

    /// Error deltas for pairs (probe, build, diff) whose condition can't be evaluated; see
    /// [`JoinOperator::pair_arrays`].
    pub(super) fn report_failed(
        &mut self,
        port: usize,
        delta: Option<&Delta>,
        failed: Vec<(u32, u32, i64, RowError)>,
        out: &mut Output,
    ) {
        if failed.is_empty() {
            return;
        }
        let probe: Vec<u32> = failed.iter().map(|f| f.0).collect();
        let build: Vec<u32> = failed.iter().map(|f| f.1).collect();
        let wanted = self.pair_columns.clone();
        let arrays = self.pair_arrays(port, delta, &probe, &build, &wanted);
        let batch = batch_of(&self.pair_schema, arrays, failed.len());
        let errors: Vec<_> = failed
            .into_iter()
            .enumerate()
            .map(|(i, (_, _, diff, error))| (error, row_text(&batch, i), diff))
            .collect();
        out.errors.push(error_delta(&errors));
    }

    /// Pairs of all pushed rows with all rows of the other side, under a condition.
    fn meet_all(&mut self, meeting: &mut Meeting, out: &mut Output) -> bool {
        let Meeting {
            port,
            delta,
            own,
            place:
                Place::All {
                    stored,
                    from,
                    round,
                },
            ..
        } = meeting
        else {
            unreachable!("the caller has looked")
        };
        let (port, other) = (*port, 1 - *port);
        let filter = self.filter.take().expect("the caller has looked");
        let mut pairs = std::mem::take(&mut self.pairs);
        let mut failed = Vec::new();
        let all: Vec<u32> = (0..delta.len() as u32).collect();
        while *from < stored.len() && !out.is_spent() {
            let stored = &stored[*from..stored.len().min(*from + PIECE_ROWS)];
            let sides = [LEFT, RIGHT].map(|side| {
                let rows = match side == port {
                    true => Rows::Pushed(&delta.rows, &all),
                    false => Rows::Stored(stored),
                };
                self.condition_arrays(side, rows, &filter.columns)
            });
            // The shorter side is gone through row by row, the longer one evaluated as a whole.
            let repeated = if delta.len() <= stored.len() {
                port
            } else {
                other
            };
            let (rounds, rows) = match repeated == port {
                true => (delta.len(), stored.len()),
                false => (stored.len(), delta.len()),
            };
            while *round < rounds && !out.is_spent() {
                out.spend(rows);
                let at = UInt32Array::from(vec![*round as u32; rows]);
                let repeat = |c: &ArrayRef| take(c, &at, None).expect("a row of the side");
                let columns = [LEFT, RIGHT].iter().flat_map(|side| {
                    let columns = sides[*side].iter();
                    columns.map(|c| {
                        if *side == repeated {
                            repeat(c)
                        } else {
                            c.clone()
                        }
                    })
                });
                let mut failures = Vec::new();
                let mask = filter.mask(columns.collect(), rows, &mut failures);
                let pair = |at: usize| match repeated == port {
                    true => (*round as u32, stored[at]),
                    false => (at as u32, stored[*round]),
                };
                for (at, error) in failures {
                    let (probe, build) = pair(at);
                    let theirs = self.state.sides[other].store.diff(build);
                    let diff = delta.diffs.get(probe as usize).wrapping_mul(theirs);
                    failed.push((probe, build, diff, error));
                }
                for (probe, build) in mask.set_indices().map(pair) {
                    pairs.probe.push(probe);
                    pairs.build.push(build);
                }
                *round += 1;
                if pairs.probe.len() >= PIECE_ROWS {
                    self.accept(port, delta, &mut pairs, own, out);
                }
                if failed.len() >= PIECE_ROWS {
                    self.report_failed(port, Some(delta), std::mem::take(&mut failed), out);
                }
            }
            if *round == rounds {
                (*from, *round) = (*from + PIECE_ROWS, 0);
            }
        }
        self.accept(port, delta, &mut pairs, own, out);
        self.report_failed(port, Some(delta), failed, out);
        self.pairs = pairs;
        self.filter = Some(filter);
        *from >= stored.len()
    }

    /// Of the columns that the filter needs, those of `side`, for some of its rows.
    pub(super) fn condition_arrays(
        &mut self,
        side: usize,
        rows: Rows,
        columns: &[usize],
    ) -> Vec<ArrayRef> {
        let columns = self.condition_columns(side, columns);
        self.side_arrays(side, rows, &columns)
    }

    /// Which columns of `side` these are, of those of a pair.
    pub(super) fn condition_columns(&self, side: usize, columns: &[usize]) -> Vec<usize> {
        let from = side * self.widths[LEFT];
        let of_side = |c: &&usize| (**c >= self.widths[LEFT]) == (side == RIGHT);
        columns.iter().filter(of_side).map(|c| c - from).collect()
    }

    /// Counts and emits pairs that have passed, in pieces of bounded size, and empties the list.
    pub(super) fn accept(
        &mut self,
        port: usize,
        delta: &Delta,
        pairs: &mut Pairs,
        own: &mut [i64],
        out: &mut Output,
    ) {
        self.count_matches(port, delta, pairs, own);
        if self.emits_pairs() {
            let pieces = pairs
                .probe
                .chunks(PIECE_ROWS)
                .zip(pairs.build.chunks(PIECE_ROWS));
            for (probe, build) in pieces {
                self.emit_pairs(port, delta, probe, build, out);
            }
        }
        pairs.probe.clear();
        pairs.build.clear();
    }

    /// Columns (numbered left, then right) of pairs. The probe rows are of side `port`: places in `delta`, or row
    /// numbers if there is none.
    pub(super) fn pair_arrays(
        &mut self,
        port: usize,
        delta: Option<&Delta>,
        probe: &[u32],
        build: &[u32],
        columns: &[usize],
    ) -> Vec<ArrayRef> {
        let split = columns.partition_point(|c| *c < self.widths[LEFT]);
        let (left, right) = columns.split_at(split);
        let left = left.to_vec();
        let right: Vec<usize> = right.iter().map(|c| c - self.widths[LEFT]).collect();
        let probe = match delta {
            Some(d) => Rows::Pushed(&d.rows, probe),
            None => Rows::Stored(probe),
        };
        let build = Rows::Stored(build);
        let mut arrays = [Vec::new(), Vec::new()];
        for (side, columns) in [left, right].into_iter().enumerate() {
            arrays[side] = match side == port {
                true => self.side_arrays(side, probe, &columns),
                false => self.build_arrays(side, probe, build, &columns),
            };
        }
        arrays.into_iter().flatten().collect()
    }

    /// Columns of the build rows of pairs; those that equal a key column of the probe rows are taken from there, which is
    /// cheaper.
    pub(super) fn build_arrays(
        &mut self,
        side: usize,
        probe: Rows,
        build: Rows,
        columns: &[usize],
    ) -> Vec<ArrayRef> {
        let twins: Vec<Option<usize>> = columns.iter().map(|c| self.twins[side][*c]).collect();
        let own = columns.iter().zip(&twins).filter(|(_, t)| t.is_none());
        let own: Vec<usize> = own.map(|(c, _)| *c).collect();
        let theirs: Vec<usize> = twins.iter().copied().flatten().collect();
        let mut own = self.side_arrays(side, build, &own).into_iter();
        let mut theirs = self.side_arrays(1 - side, probe, &theirs).into_iter();
        let next = |t: &Option<usize>| match t {
            None => own.next(),
            Some(_) => theirs.next(),
        };
        twins
            .iter()
            .map(next)
            .map(|array| array.expect("one array per column"))
            .collect()
    }

    /// Input columns of rows of one side.
    pub(super) fn side_arrays(
        &mut self,
        side: usize,
        rows: Rows,
        columns: &[usize],
    ) -> Vec<ArrayRef> {
        match rows {
            Rows::Stored(numbers) => {
                let stored = &self.stored[side];
                let position = |c: &usize| stored.position(*c).expect("needed columns are stored");
                let columns: Vec<usize> = columns.iter().map(position).collect();
                self.state.sides[side].store.gather(numbers, &columns)
            }
            Rows::Pushed(batch, places) => {
                let start = places.first().map_or(0, |p| *p as usize);
                if is_range(places) {
                    let slice = |c: &usize| batch.column(*c).slice(start, places.len());
                    return columns.iter().map(slice).collect();
                }
                let indices = UInt32Array::from(places.to_vec());
                columns
                    .iter()
                    .map(|c| take(batch.column(*c), &indices, None).expect("places of the piece"))
                    .collect()
            }
        }
    }

    fn emit_pairs(
        &mut self,
        port: usize,
        delta: &Delta,
        probe: &[u32],
        build: &[u32],
        out: &mut Output,
    ) {
        let all: Vec<usize> = (0..self.widths[LEFT] + self.widths[RIGHT]).collect();
        let arrays = self.pair_arrays(port, Some(delta), probe, build, &all);
        let rows = batch_of(&self.output_schema, arrays, probe.len());
        let diffs = self.pair_diffs(port, delta, (probe, build), &rows, out);
        out.rows.push(Delta::new(rows, diffs));
    }

    /// The diffs of pairs, which are `rows`.
    fn pair_diffs(
        &self,
        port: usize,
        delta: &Delta,
        (probe, build): (&[u32], &[u32]),
        rows: &RecordBatch,
        out: &mut Output,
    ) -> Diffs {
        let store = &self.state.sides[1 - port].store;
        match (&delta.diffs, store.all_ones()) {
            (Diffs::Ones, true) => Diffs::Ones,
            (Diffs::Each(d), true) => {
                let of = |p: &u32| d[*p as usize];
                Diffs::Each(probe.iter().map(of).collect::<Vec<_>>().into())
            }
            _ => {
                let mut weights = Weights::default();
                for (p, b) in probe.iter().zip(build) {
                    weights.push(product(delta.diffs.get(*p as usize), store.diff(*b)));
                }
                weights.report(rows, out);
                Diffs::Each(weights.each.into())
            }
        }
    }
}

/// Per column of `schema`: the column of the other side that is equal to it by `on` (own column, other column), if equal
/// means the same value.
pub(super) fn twins(schema: &Schema, on: &[(usize, usize)]) -> Vec<Option<usize>> {
    let twin = |c: usize| {
        // -0 equals 0, but they aren't the same.
        let t = schema.field(c).data_type();
        let same = !t.is_floating() && !t.is_nested();
        on.iter().find(|(own, _)| same && *own == c).map(|o| o.1)
    };
    (0..schema.fields().len()).map(twin).collect()
}

/// True if `places` are consecutive.
fn is_range(places: &[u32]) -> bool {
    places.windows(2).all(|w| w[1] == w[0] + 1)
}
