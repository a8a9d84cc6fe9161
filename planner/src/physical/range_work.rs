//! How a [`RangeJoinExec`] goes through its sides.
//!
//! If the probing side is small it is held, and the searched one passes by batch after batch: neither is in memory as a whole. Otherwise
//! the searched side is, in order, and the probing one passes by; unless there is no memory for it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_common::utils::memory::RecordBatchMemoryCounter;
use datafusion_common::{Result, internal_err, resources_err};
use futures::StreamExt;
use futures::stream::{iter, unfold};
use hashbrown::HashSet;

use super::kept::bytes_max;
use super::range_join::RangeJoinExec;
use super::range_pairs::{Alone, Join, Probe, Searched};
use crate::functions::external;
use crate::interrupt;

/// Rows of a probing side that is held.
const HELD_ROWS: usize = 8192;
/// Bytes of memory that putting a row in order takes, and what a row takes that is known by the values of columns.
const ORDER_BYTES: usize = 48;
const EQUAL_BYTES: usize = 128;
/// Rows of a side that tell how many have the same values, and their bytes.
const TELLING_ROWS: usize = 65_536;
const TELLING_BYTES: usize = 4 << 20;
/// If fewer rows of a side have the same values on average, looking at all pairs takes no longer than putting rows in order.
const SAME_ROWS_MIN: usize = 16;
/// The same among the first [`TELLING_ROWS`] of more.
const SAME_ROWS_MIN_TOLD: usize = 2;

/// The rows of the join of `inputs`.
pub(super) fn rows(
    node: RangeJoinExec,
    inputs: [SendableRecordBatchStream; 2],
    task: Arc<TaskContext>,
) -> SendableRecordBatchStream {
    let join = node.join().clone();
    let schema = join.schema.clone();
    let [left, right] = inputs;
    let (searched, probing) = match join.searched_side() {
        0 => (left, right),
        _ => (right, left),
    };
    let consumer = MemoryConsumer::new("rows of a join by a range");
    let work = Work {
        join,
        node,
        state: State::Begin { searched, probing },
        ready: VecDeque::new(),
        alone: None,
        memory: consumer.register(task.memory_pool()),
        task,
    };
    let stream = unfold(work, |mut work| async move {
        match work.next().await {
            Ok(batch) => Some((Ok(batch?), work)),
            Err(e) => Some((Err(e), work)),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

/// The join on its way.
struct Work {
    join: Arc<Join>,
    node: RangeJoinExec,
    state: State,
    ready: VecDeque<RecordBatch>,
    alone: Option<Alone>,
    memory: MemoryReservation,
    task: Arc<TaskContext>,
}

enum State {
    Begin {
        searched: SendableRecordBatchStream,
        probing: SendableRecordBatchStream,
    },
    /// All of the searched side, and a batch of the probing one.
    Searched {
        searched: Searched,
        probe: Option<Probe>,
        probing: SendableRecordBatchStream,
    },
    /// All of the probing side, and a batch of the searched one.
    Held {
        probe: Probe,
        searched: Option<Searched>,
        searching: SendableRecordBatchStream,
    },
    /// A join of another kind.
    Instead(SendableRecordBatchStream),
    Done,
}

/// How reading the searched side ended.
enum Outcome {
    All,
    /// Hardly any rows have the same values in the columns that are equal, so that their order is worth nothing.
    WorthNothing,
    NoMemory,
}

/// What has been read of a side, and the rest.
struct Read {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    rest: SendableRecordBatchStream,
    ended: bool,
    /// Bytes of the batches, which may share buffers.
    memory: RecordBatchMemoryCounter,
}

impl Read {
    fn new(rest: SendableRecordBatchStream) -> Read {
        Read {
            schema: rest.schema(),
            batches: vec![],
            rest,
            ended: false,
            memory: RecordBatchMemoryCounter::new(),
        }
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let next = self.rest.next().await.transpose()?;
        self.ended = next.is_none();
        Ok(next)
    }

    /// Takes a batch. Returns by how many bytes what has been read has grown.
    fn push(&mut self, batch: RecordBatch) -> usize {
        let before = self.memory.memory_usage();
        self.memory.count_batch(&batch);
        self.batches.push(batch);
        self.memory.memory_usage() - before
    }

    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    fn whole(self) -> Result<RecordBatch> {
        Ok(concat_batches(&self.schema, &self.batches)?)
    }

    /// All of it from the beginning.
    fn again(self) -> SendableRecordBatchStream {
        let read = iter(self.batches.into_iter().map(Ok));
        let all = read.chain(self.rest);
        Box::pin(RecordBatchStreamAdapter::new(self.schema, all))
    }
}

impl Work {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if let Some(alone) = &mut self.alone {
                match alone.next(&self.join)? {
                    Some(batch) => return Ok(Some(batch)),
                    None => self.alone = None,
                }
            }
            interrupt::check().map_err(external)?;
            match &mut self.state {
                State::Begin { .. } => self.begin().await?,
                State::Instead(rows) => return rows.next().await.transpose(),
                State::Done => return Ok(None),
                State::Searched { .. } => self.go_on_searched().await?,
                State::Held { .. } => self.go_on_held().await?,
            }
        }
    }

    async fn go_on_searched(&mut self) -> Result<()> {
        let State::Searched {
            searched,
            probe,
            probing,
        } = &mut self.state
        else {
            return internal_err!("the caller has looked");
        };
        if let Some(rows) = probe {
            if !self.join.pairs(searched, rows, &mut self.ready)? {
                self.alone = probe.take().map(|probe| probe.alone(&self.join));
            }
            return Ok(());
        }
        match probing.next().await.transpose()? {
            Some(rows) if rows.num_rows() == 0 => {}
            Some(rows) => {
                let mut rows = Probe::new(rows);
                self.join.begin(searched, &mut rows)?;
                *probe = Some(rows);
            }
            None => {
                let state = std::mem::replace(&mut self.state, State::Done);
                if let State::Searched { searched, .. } = state {
                    self.alone = Some(searched.alone(&self.join));
                }
            }
        }
        Ok(())
    }

    async fn go_on_held(&mut self) -> Result<()> {
        let State::Held {
            probe,
            searched,
            searching,
        } = &mut self.state
        else {
            return internal_err!("the caller has looked");
        };
        if let Some(rows) = searched {
            if !self.join.pairs(rows, probe, &mut self.ready)? {
                self.alone = searched.take().map(|rows| rows.alone(&self.join));
            }
            return Ok(());
        }
        match searching.next().await.transpose()? {
            Some(rows) if rows.num_rows() == 0 => {}
            Some(rows) => {
                let mut rows = self.join.searched(rows, probe)?;
                self.join.begin(&mut rows, probe)?;
                *searched = Some(rows);
            }
            None => {
                let state = std::mem::replace(&mut self.state, State::Done);
                if let State::Held { probe, .. } = state {
                    self.alone = Some(probe.alone(&self.join));
                }
            }
        }
        Ok(())
    }

    /// Reads the side that is to be in memory.
    async fn begin(&mut self) -> Result<()> {
        let state = std::mem::replace(&mut self.state, State::Done);
        let State::Begin { searched, probing } = state else {
            return internal_err!("the caller has looked");
        };
        if let Some(searched) = self.kept() {
            self.state = State::Searched {
                searched,
                probe: None,
                probing,
            };
            return Ok(());
        }
        let keeps = self.node.kept().is_some();
        let mut probing = Read::new(probing);
        self.read(&mut probing, HELD_ROWS, usize::MAX).await?;
        let among_equal = self.join.range.is_among_equal();
        // Of rows with equal values few are put in order; of others they would have to be again and again, batch by batch.
        let passes_by = self.join.first.is_none() && !among_equal;
        if probing.ended && passes_by && !keeps {
            return self.hold(probing, searched).await;
        }
        let mut searched = Read::new(searched);
        let mut wanted = None;
        if among_equal && !keeps {
            self.read(&mut probing, TELLING_ROWS, TELLING_BYTES).await?;
            let values = self.wanted(&probing)?;
            if self.join.first.is_none()
                && self.few_are_same(values.len(), probing.rows(), probing.ended)
            {
                return self.instead(searched, probing);
            }
            let all = self.join.kind.gives_unmatched(self.join.searched_side());
            wanted = (probing.ended && !all).then_some(values);
        }
        let others = self.memory.size();
        match self.read_searched(&mut searched, wanted.as_ref()).await? {
            Outcome::All => {}
            Outcome::WorthNothing => return self.instead(searched, probing),
            // It takes less, if it keeps the other side.
            Outcome::NoMemory if among_equal && self.join.first.is_none() && !keeps => {
                return self.instead(searched, probing);
            }
            Outcome::NoMemory => {
                self.memory.try_resize(others)?;
                return self.hold(probing, searched.again()).await;
            }
        }
        let count = searched.rows();
        if u32::try_from(count).is_err() {
            return resources_err!("a side of a join by a range has {count} rows, 2^32 at most");
        }
        let rows = searched.whole()?;
        let searched = Searched::in_order(rows, &self.join)?;
        self.memory.try_resize(others + searched.size())?;
        if let Some(kept) = self.node.kept()
            && searched.size() <= bytes_max(&self.task)
        {
            let memory = self.memory.split(searched.size());
            let rows = searched.anew(&self.join);
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((rows, memory));
        }
        self.state = State::Searched {
            searched,
            probe: None,
            probing: probing.again(),
        };
        Ok(())
    }

    /// Reads a batch more than `rows` rows, or `bytes` bytes, of a side, if it has so many and there is memory for them.
    async fn read(&mut self, side: &mut Read, rows: usize, bytes: usize) -> Result<()> {
        while side.rows() <= rows
            && side.memory.memory_usage() <= bytes
            && let Some(batch) = side.next().await?
        {
            let more = side.push(batch);
            if self.memory.try_grow(more).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Whether the order of rows with so many different values is worth nothing; `are_all`: no others follow.
    fn few_are_same(&self, values: usize, rows: usize, are_all: bool) -> bool {
        match (&self.join.first, are_all) {
            (Some(_), _) => values * 4 > rows * 3,
            (None, true) => values * SAME_ROWS_MIN > rows,
            (None, false) => values * SAME_ROWS_MIN_TOLD > rows,
        }
    }

    /// Goes on with a join of another kind.
    fn instead(&mut self, searched: Read, probing: Read) -> Result<()> {
        self.memory.free();
        let mut inputs = [searched.again(), probing.again()];
        if self.join.searched_side() == 1 {
            inputs.reverse();
        }
        let rows = self.node.instead(inputs, self.task.clone())?;
        self.state = State::Instead(rows);
        Ok(())
    }

    /// The searched side, if an earlier round has read it.
    fn kept(&self) -> Option<Searched> {
        let kept = self.node.kept()?;
        let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (searched, _) = kept.as_ref()?;
        Some(searched.anew(&self.join))
    }

    /// Holds all rows of the probing side.
    async fn hold(
        &mut self,
        mut probing: Read,
        searching: SendableRecordBatchStream,
    ) -> Result<()> {
        while let Some(batch) = probing.next().await? {
            let more = probing.push(batch);
            self.memory.try_grow(more)?;
        }
        self.state = State::Held {
            probe: Probe::new(probing.whole()?),
            searched: None,
            searching,
        };
        Ok(())
    }

    /// The hashes of what rows of the searched side must be equal to.
    fn wanted(&mut self, probing: &Read) -> Result<HashSet<u64>> {
        let side = 1 - self.join.searched_side();
        let mut wanted = HashSet::new();
        for batch in &probing.batches {
            wanted.extend(self.join.range.equal_hashes(batch, side)?);
        }
        Ok(wanted)
    }

    /// Reads the searched side: all rows, or those that have one of the hashes.
    async fn read_searched(
        &mut self,
        searched: &mut Read,
        wanted: Option<&HashSet<u64>>,
    ) -> Result<Outcome> {
        let side = self.join.searched_side();
        let among_equal = self.join.range.is_among_equal();
        let each = ORDER_BYTES + if among_equal { EQUAL_BYTES } else { 0 };
        let (mut seen, mut rows, mut next) = (HashSet::new(), 0, TELLING_ROWS);
        // How many values there were in half of the rows: if there are nearly twice as many now, more rows won't have the same.
        let mut before = usize::MAX / 8;
        // A join of another kind keeps nothing.
        let mut told = !among_equal || self.node.kept().is_some();
        while let Some(mut batch) = searched.next().await? {
            if among_equal && (wanted.is_some() || !told) {
                let hashes = self.join.range.equal_hashes(&batch, side)?;
                if let Some(wanted) = wanted {
                    let mask: BooleanBuffer =
                        hashes.iter().map(|hash| wanted.contains(hash)).collect();
                    batch = filter_record_batch(&batch, &BooleanArray::from(mask))?;
                }
                if !told {
                    let kept = |hash: &u64| wanted.is_none_or(|wanted| wanted.contains(hash));
                    seen.extend(hashes.into_iter().filter(kept));
                }
            }
            rows += batch.num_rows();
            // Once as it came, and once in one piece.
            let keys = batch.num_rows() * each;
            let bytes = 2 * searched.push(batch) + keys;
            if self.memory.try_grow(bytes).is_err() {
                return Ok(Outcome::NoMemory);
            }
            if !told && rows >= next {
                let grows = seen.len() * 5 < before * 8;
                if self.few_are_same(seen.len(), rows, false) || !grows {
                    return Ok(Outcome::WorthNothing);
                }
                told = self.join.first.is_some() || !self.few_are_same(seen.len(), rows, true);
                (next, before) = (2 * rows, seen.len());
            }
        }
        Ok(match told || !self.few_are_same(seen.len(), rows, true) {
            true => Outcome::All,
            false => Outcome::WorthNothing,
        })
    }
}
