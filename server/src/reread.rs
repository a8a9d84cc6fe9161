//! Rows of a source that isn't recorded: its input is read again, between the offsets of two versions.

use std::sync::Arc;

use tidemill_connectors::ConnectorError;
use tidemill_connectors::queue::{BatchReceiver, StopSignal, channel};
use tidemill_connectors::source::{Offsets, reread};
use tidemill_planner::SqlError;
use tidemill_zset::Delta;

use crate::catalog::Object;
use crate::coordinator::sinks::connector_error;
use crate::coordinator::sources::{QUEUE_BYTES_MAX, source_spec};
use crate::reader::DeltaIterator;

/// Reads what was read between `from` (none: the start) and `to` again, on a thread of its own. An error (a consumed file isn't what it was) may come after
/// some rows, which must then be thrown away.
pub fn reread_source(
    object: &Arc<Object>,
    from: Offsets,
    to: Offsets,
) -> Result<DeltaIterator, SqlError> {
    let Some(spec) = source_spec(object) else {
        return Err(SqlError::internal(format!(
            "{} is not a source",
            object.display_name()
        )));
    };
    let stop = StopSignal::new();
    let (arrived, arrivals) = crossbeam_channel::unbounded::<()>();
    let (sender, receiver) = channel(
        QUEUE_BYTES_MAX,
        Arc::new(move || {
            // The reader may be gone.
            let _ = arrived.send(());
        }),
    );
    let (done, outcome) = crossbeam_channel::bounded(1);
    std::thread::Builder::new()
        .name(format!("reread {}", object.display_name()))
        .spawn(move || {
            // Nobody may be left to hear of it.
            let _ = done.send(reread(&spec, from, to, sender.clone(), stop));
            sender.ended(&Ok(()));
        })
        .map_err(|e| SqlError::new("53000", format!("no thread to read the source again: {e}")))?;
    Ok(Box::new(Reread {
        receiver,
        arrivals,
        outcome,
        ready: vec![].into_iter(),
        ended: false,
    }))
}

struct Reread {
    receiver: BatchReceiver,
    arrivals: crossbeam_channel::Receiver<()>,
    outcome: crossbeam_channel::Receiver<Result<(), ConnectorError>>,
    ready: std::vec::IntoIter<Delta>,
    ended: bool,
}

impl Iterator for Reread {
    type Item = Result<Delta, SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(delta) = self.ready.next() {
                return Some(Ok(delta));
            }
            if !self.ended
                && let Ok(outcome) = self.outcome.try_recv()
            {
                self.ended = true;
                if let Err(e) = outcome {
                    return Some(Err(connector_error(e)));
                }
            }
            // The end was seen before the queue is emptied, so nothing that was sent is missed.
            let ended = self.ended;
            let batches: Vec<Delta> = self
                .receiver
                .take(usize::MAX)
                .into_iter()
                .filter_map(|b| b.rows)
                .collect();
            if !batches.is_empty() {
                self.ready = batches.into_iter();
            } else if ended {
                return None;
            } else {
                // Each batch and the end send one; the thread that sends them ends with a result in `outcome`.
                let _ = self.arrivals.recv();
            }
        }
    }
}
