//! Cutting an epoch: what all sources have pending and what transactions wrote becomes one atomic step.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_connectors::source::SourceBatch;
use tidemill_dataflow::runtime::{Command, DataflowResult, Scope};
use tidemill_storage::{ArrangementChange, Commit, OffsetChange};
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::delta::schema_of;
use tidemill_zset::{ArrangementId, CollectionId, Delta, Diffs};

use super::sources::RunningSource;
use super::{Coordinator, EpochWork, Owner, RIDE};
use crate::catalog::Detail;

/// How often `since` moves on: often enough for merging to drop history, rarely enough to cost nothing.
const SINCE_INTERVAL: Duration = Duration::from_secs(1);

/// The schema of a source's recorded rows or errors: where they came from, then the columns.
pub fn origin_schema(columns: &SchemaRef) -> SchemaRef {
    let mut fields = vec![Field::new("_origin", DataType::Int64, false)];
    fields.extend(columns.fields().iter().map(|f| f.as_ref().clone()));
    schema_of(fields)
}

impl Coordinator {
    /// Is it time for an epoch?
    pub(super) fn should_cut(&self) -> bool {
        if self.sources.values().any(RunningSource::holds_retraction) {
            // It needs an epoch that is cut while nothing commits: others must not be squeezed in for ever.
            return self.all_is_committed();
        }
        // Writes are checked against the committed state, so one epoch with writes at a time.
        let writes = !self.writes.is_empty() && !self.writes_are_under_way();
        let riding =
            self.riding_since.is_some_and(|t| t.elapsed() >= RIDE) && self.all_is_committed();
        let now = Instant::now();
        writes
            || !self.numbers_wanted.is_empty()
            || riding
            || self
                .sources
                .values()
                .any(|s| s.due(self.epoch_takes).is_some_and(|at| at <= now))
    }

    /// Cuts the next epoch and hands it to the workers.
    pub(super) fn cut(&mut self) {
        self.input_turn = false;
        let mut work = self.begin_epoch();
        self.cut_sources(&mut work);
        if !self.writes_are_under_way() {
            self.cut_writes(&mut work);
        }
        self.cut_numbers(&mut work);
        self.finish_cut(work);
    }

    /// A new epoch with what rides along.
    pub(super) fn begin_epoch(&mut self) -> EpochWork {
        let epoch = self.clock.take();
        let (drop, notes) = std::mem::take(&mut self.left_behind);
        let mut catalog = std::mem::take(&mut self.riding);
        catalog.extend(notes);
        let commit = Commit {
            epoch,
            catalog,
            drop,
            ..Commit::default()
        };
        self.riding_since = None;
        EpochWork {
            epoch,
            cut_at: Instant::now(),
            behind: false,
            commit,
            deltas: Vec::new(),
            offsets: Vec::new(),
            remaining: self.workers,
            catalog: None,
            has_writes: false,
            is_awaited: false,
            after: Vec::new(),
        }
    }

    /// Hands the epoch to the workers. Nothing may be fed to it afterwards.
    pub(super) fn finish_cut(&mut self, mut work: EpochWork) {
        if self.last_since.elapsed() >= SINCE_INTERVAL {
            self.last_since = Instant::now();
            self.release_stalled_sinks();
            // Followers go without a word.
            self.tell_wanted_columns();
            let since = self.since_changes();
            work.commit.since.extend(since);
        }
        let reported = self.runtime.send(Command::Finish {
            scope: Scope::Live,
            epoch: work.epoch,
        });
        if !reported {
            work.remaining = 0;
        }
        self.computing = Some(work);
    }

    fn cut_sources(&mut self, work: &mut EpochWork) {
        let may_retract = self.all_is_committed();
        work.behind = self.sources.values().any(RunningSource::is_behind);
        for id in self.sources.keys().copied().collect::<Vec<_>>() {
            let Some(source) = self.sources.get_mut(&id) else {
                continue;
            };
            let since = source.oldest().unwrap_or_else(Instant::now);
            let batches = source.take(may_retract);
            for batch in batches {
                self.take_batch(id, batch, since, work);
            }
        }
    }

    fn take_batch(&mut self, id: u64, batch: SourceBatch, since: Instant, work: &mut EpochWork) {
        let Some(object) = self.catalog.get(id).cloned() else {
            return;
        };
        let ids = &object.record.ids;
        let (Some(offsets), Some(collection), Some(errors_collection), Some(errors)) = (
            ids.offsets,
            ids.collection,
            ids.errors_collection,
            ids.errors,
        ) else {
            unreachable!("a source has offsets, rows and errors")
        };
        if !batch.retract.is_empty() {
            let gone = batch.retract.iter().map(|origin| *origin as i64).collect();
            if let Some(rows) = ids.rows {
                self.retract_origins(&gone, rows, &object.columns, collection, work);
            }
            let schema = object
                .error_columns()
                .expect("a source has an error relation");
            self.retract_origins(&gone, errors, &schema, errors_collection, work);
        }
        let recorded = ids.rows.is_some();
        self.source_taken(id);
        let (row_count, error_count) = (
            batch.rows.as_ref().map_or(0, Delta::len),
            batch.errors.as_ref().map_or(0, Delta::len),
        );
        let (bytes, status) = (batch.bytes, &self.env.status);
        status.source_taken(id, row_count + error_count, bytes, since);
        work.after.push(Box::new(move |c, _| {
            c.source_published(id);
            c.env
                .status
                .source_progress(id, row_count, error_count, bytes)
        }));
        if let Some(rows) = batch.rows {
            if let Some(columns) = &batch.columns {
                self.check_columns(&object, columns);
            }
            if let Some(log) = ids.rows {
                work.commit
                    .changes
                    .push(with_origin(log, batch.origin, &rows));
            }
            self.feed(collection, rows, work);
        }
        if let Some(rows) = batch.errors {
            work.commit
                .changes
                .push(with_origin(errors, batch.origin, &rows));
            self.feed(errors_collection, rows, work);
        }
        let changes = batch.offsets.into_iter().map(|(key, value)| OffsetChange {
            source: offsets,
            key,
            value,
        });
        let from = work.commit.offsets.len();
        work.commit.offsets.extend(changes);
        if !recorded {
            work.offsets.extend_from_slice(&work.commit.offsets[from..]);
        }
    }

    /// Retracts everything recorded from the origins `gone`. Reads the committed version, so nothing may be in flight.
    fn retract_origins(
        &mut self,
        gone: &HashSet<i64>,
        log: ArrangementId,
        columns: &SchemaRef,
        collection: CollectionId,
        work: &mut EpochWork,
    ) {
        let Some(version) = self.env.store.version().arrangement(log) else {
            return;
        };
        for piece in version.scan(work.epoch) {
            let piece = match piece {
                Ok(piece) => piece,
                Err(e) => {
                    self.failure = Some(format!("recorded rows can't be read: {e}"));
                    return;
                }
            };
            let origins = piece.rows.column(0).as_any().downcast_ref::<Int64Array>();
            let origins = origins.expect("the first column of a record is the origin");
            let mask = origins.values().iter().map(|o| Some(gone.contains(o)));
            let old = piece
                .filter(&mask.collect::<BooleanArray>())
                .expect("the mask is as long as the piece");
            if old.is_empty() {
                continue;
            }
            let old = old.negate();
            let data: Vec<ArrayRef> = old.rows.columns()[1..].to_vec();
            let rows = RecordBatch::try_new(columns.clone(), data)
                .expect("recorded rows have the source's columns");
            let diffs = old.diffs.clone();
            work.commit.changes.push(ArrangementChange {
                arrangement: log,
                hashes: vec![],
                delta: old,
            });
            self.feed(collection, Delta { rows, diffs }, work);
        }
    }

    /// Gives a collection's delta to those who want it: live dataflows and followers.
    pub(super) fn feed(&mut self, collection: CollectionId, delta: Delta, work: &mut EpochWork) {
        if delta.is_empty() {
            return;
        }
        if self.read_by_dataflows.contains_key(&collection) {
            self.runtime.send(Command::Feed {
                scope: Scope::Live,
                collection,
                delta: delta.clone(),
            });
        }
        if self.env.changes.is_followed(collection) {
            match work.deltas.iter_mut().find(|(c, _)| *c == collection) {
                Some((_, deltas)) => deltas.push(delta),
                None => work.deltas.push((collection, vec![delta])),
            }
        }
    }

    /// Takes what one worker computed in the epoch.
    pub(super) fn collect(&mut self, work: &mut EpochWork, results: Vec<DataflowResult>) {
        for result in results {
            // The state of a query lives in memory alone.
            if let Some(Owner::View(_)) = self.dataflows.get(&result.dataflow) {
                work.commit.changes.extend(result.changes);
            }
            let mut apart = false;
            let (collection, errors) = match self.dataflows.get(&result.dataflow) {
                None => continue,
                Some(Owner::Query { rows, errors }) => (Some(*rows), Some((None, Some(*errors)))),
                Some(Owner::View(id)) => match self.catalog.get(*id) {
                    None => continue,
                    Some(view) => {
                        if let Detail::MaterializedView { output, .. } = &view.detail {
                            apart = output.is_apart();
                        }
                        let ids = &view.record.ids;
                        (ids.collection, Some((ids.errors, ids.errors_collection)))
                    }
                },
            };
            if let Some(collection) = collection.filter(|c| self.env.changes.is_followed(*c)) {
                let rows: Vec<Delta> = result.rows.into_iter().filter(|d| !d.is_empty()).collect();
                let has_rows = !rows.is_empty();
                let another = work.deltas.iter().position(|(c, _)| *c == collection);
                add_deltas(work, collection, rows);
                // One worker may have taken back what another one gives.
                if let Some(place) = another.filter(|_| !apart && has_rows) {
                    sum_up(&mut work.deltas[place].1);
                    // Followers get changes, not none.
                    work.deltas.retain(|(_, deltas)| !deltas.is_empty());
                }
            }
            let Some((errors, Some(errors_collection))) = errors else {
                continue;
            };
            let rows = consolidate(&tidemill_dataflow::operator::error_schema(), &result.errors);
            if !rows.is_empty() {
                if let Some(errors) = errors {
                    work.commit.changes.push(ArrangementChange {
                        arrangement: errors,
                        hashes: vec![],
                        delta: rows.clone(),
                    });
                }
                if self.env.changes.is_followed(errors_collection) {
                    add_deltas(work, errors_collection, vec![rows]);
                }
            }
        }
    }

    /// Where history may now be forgotten.
    fn since_changes(&self) -> Vec<(ArrangementId, tidemill_zset::Epoch)> {
        let now = self.env.publisher.pin().now();
        let mut out = Vec::new();
        for object in self.catalog.objects() {
            let ids = &object.record.ids;
            let retain_ms = match &object.detail {
                Detail::Index { on, .. } => {
                    self.catalog.get(*on).map_or(0, |on| retain_ms(&on.detail))
                }
                detail => retain_ms(detail),
            };
            let held = self
                .sinks
                .values()
                .filter(|s| s.from == object.record.id && s.holds_history())
                .map(|s| s.written);
            let builds = self.builds.values();
            let building = builds.filter_map(|b| b.holds_history(ids.collection?));
            let held = held.chain(building).min();
            let since = (now - retain_ms).min(held.unwrap_or(now)).max(0);
            let output = match &object.detail {
                Detail::MaterializedView {
                    output: tidemill_dataflow::plan::OutputStorage::Arrangement { index, .. },
                    ..
                } => ids.states.get(*index).map(|s| s.id),
                _ => None,
            };
            out.extend(
                [ids.rows, ids.errors, output]
                    .into_iter()
                    .flatten()
                    .map(|a| (a, since)),
            );
            out.extend(
                ids.states
                    .iter()
                    .filter(|s| Some(s.id) != output)
                    .map(|s| (s.id, now)),
            );
        }
        out
    }

    /// Finds anew what live dataflows read from outside; sources among it begin.
    pub(super) fn recount_inputs(&mut self) {
        self.read_by_dataflows.clear();
        for (id, owner) in &self.dataflows {
            let reads = match owner {
                Owner::Query { .. } => self.builds.get(id).map(|b| b.reads.clone()),
                Owner::View(object) => match self.catalog.get(*object).map(|o| &o.detail) {
                    Some(Detail::MaterializedView { plan, .. } | Detail::Index { plan, .. }) => {
                        Some(plan.columns_read())
                    }
                    _ => None,
                },
            };
            for (input, columns) in reads.into_iter().flatten() {
                self.read_by_dataflows
                    .entry(input)
                    .or_default()
                    .extend(columns);
            }
        }
        let inputs: Vec<CollectionId> = self.read_by_dataflows.keys().copied().collect();
        inputs.into_iter().for_each(|c| self.begin_source_of(c));
        self.tell_wanted_columns();
    }
}

/// How long history of an object is kept.
fn retain_ms(detail: &Detail) -> i64 {
    match detail {
        Detail::MaterializedView {
            retain_history_ms, ..
        } => *retain_history_ms,
        _ => super::ddl::RETAIN_HISTORY_MS_DEFAULT,
    }
}

fn add_deltas(work: &mut EpochWork, collection: CollectionId, rows: Vec<Delta>) {
    if rows.is_empty() {
        return;
    }
    match work.deltas.iter_mut().find(|(c, _)| *c == collection) {
        Some((_, deltas)) => deltas.extend(rows),
        None => work.deltas.push((collection, rows)),
    }
}

/// The changes of an epoch, added up per row.
fn sum_up(deltas: &mut Vec<Delta>) {
    if let Some(first) = deltas.first()
        && deltas.iter().any(|d| !matches!(d.diffs, Diffs::Ones))
    {
        *deltas = vec![consolidate(&first.schema(), deltas)];
        deltas.retain(|d| !d.is_empty());
    }
}

/// Rows as they are recorded: the origin in front.
fn with_origin(log: ArrangementId, origin: u64, delta: &Delta) -> ArrangementChange {
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from_value(origin as i64, delta.len()))];
    columns.extend(delta.rows.columns().iter().cloned());
    let schema = origin_schema(&delta.schema());
    debug_assert!(columns.iter().all(|c| c.len() == delta.len()));
    let rows = RecordBatch::try_new(schema, columns).expect("the origin is one more column");
    let diffs = match &delta.diffs {
        Diffs::Ones => Diffs::Ones,
        each => each.clone(),
    };
    ArrangementChange {
        arrangement: log,
        hashes: vec![],
        delta: Delta { rows, diffs },
    }
}
