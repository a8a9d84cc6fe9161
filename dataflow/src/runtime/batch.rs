//! [`Batch`]: the container that travels between timely operators, and how it is split among workers.

use std::io::Write;

use arrow::array::UInt32Array;
use tidemill_zset::Delta;
use tidemill_zset::hash::hash_columns;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::communication::Push;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message, Stamp};

use crate::operator::{Exchange, worker_of};

/// Deltas on their way; counted by rows, so that splitting one keeps the count.
#[derive(Clone, Default)]
pub struct Batch(pub Vec<Delta>);

impl Accountable for Batch {
    fn record_count(&self) -> i64 {
        self.0.iter().map(|d| d.len() as i64).sum()
    }
}

/// Required by timely's exchange. All workers are threads of one process, between which batches move
/// as they are; nothing is ever encoded.
impl ContainerBytes for Batch {
    fn from_bytes(_: Bytes) -> Self {
        unreachable!("workers share one process")
    }

    fn length_in_bytes(&self) -> usize {
        unreachable!("workers share one process")
    }

    fn into_bytes<W: Write>(&self, _: &mut W) {
        unreachable!("workers share one process")
    }
}

/// Sends each row to the worker that owns its key.
pub struct Split {
    exchange: Exchange,
    partitions: u32,
}

impl Split {
    /// A splitter by `exchange` (not [`Exchange::Local`]).
    pub fn new(exchange: Exchange, partitions: u32) -> Self {
        Split {
            exchange,
            partitions,
        }
    }

    /// The rows of `delta` for each of `workers`; `None` where there are none.
    fn split(&self, delta: Delta, workers: usize) -> Vec<Option<Delta>> {
        let mut out = vec![None; workers];
        let Exchange::Keys(columns) = &self.exchange else {
            out[0] = Some(delta);
            return out;
        };
        let keys: Vec<_> = columns
            .iter()
            .map(|c| delta.rows.column(*c).clone())
            .collect();
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); workers];
        for (row, hash) in hash_columns(&keys, delta.len()).into_iter().enumerate() {
            rows[worker_of(hash, self.partitions, workers)].push(row as u32);
        }
        for (worker, rows) in rows.into_iter().enumerate() {
            if rows.len() == delta.len() {
                out[worker] = Some(delta);
                break;
            }
            if !rows.is_empty() {
                let taken = delta.take(&UInt32Array::from(rows));
                out[worker] = Some(taken.expect("row numbers within the batch"));
            }
        }
        out
    }
}

impl Distributor<Batch> for Split {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(
        &mut self,
        container: &mut Batch,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        for delta in std::mem::take(&mut container.0) {
            for (part, pusher) in self
                .split(delta, pushers.len())
                .into_iter()
                .zip(&mut *pushers)
            {
                if let Some(delta) = part {
                    Message::push_at(&mut Batch(vec![delta]), stamp.clone(), pusher);
                }
            }
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}
