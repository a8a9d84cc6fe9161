//! Execution of plans on threads of their own. A query computes for as long as it likes between two batches and reads from the
//! disk; on a thread of the async runtime it would hold up other sessions, the network, and its own cancellation.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::stream::unfold;
use futures::{StreamExt, TryStreamExt};
use tidemill_planner::SqlError;
use tidemill_planner::interrupt::{Ask, asking};
use tidemill_planner::query::{QueryPlan, ResultStream, SnapshotReader};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Batches that a query may be ahead of its session.
const BATCHES_AHEAD_MAX: usize = 2;

type Batch = <ResultStream as futures::Stream>::Item;

/// Plans a statement that may take long; other sessions go on meanwhile. For one that doesn't it would cost more than planning does.
pub(super) fn planning<T>(plan: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(plan)
}

/// Runs `plan` to its end.
pub(super) async fn collect(
    plan: QueryPlan,
    reader: Arc<dyn SnapshotReader>,
) -> Result<Vec<RecordBatch>, SqlError> {
    start(plan, reader).try_collect().await
}

/// Starts `plan` on what `reader` reads. When the stream is dropped, the query ends at its next batch, or where an operator of it yields; while
/// it is still planned, between two rules of the optimiser.
pub(super) fn start(plan: QueryPlan, reader: Arc<dyn SnapshotReader>) -> ResultStream {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD_MAX);
    let runtime = Handle::current();
    let wanted = sender.clone();
    let ask: Ask = Arc::new(move || wanted.is_closed().then(SqlError::cancelled));
    let thread = runtime.clone().spawn_blocking(move || {
        asking(&ask, || runtime.block_on(run(plan, reader, sender)));
    });
    unfold((receiver, Some(thread)), next).boxed()
}

async fn run(plan: QueryPlan, reader: Arc<dyn SnapshotReader>, sender: mpsc::Sender<Batch>) {
    let mut batches = match plan.execute(reader) {
        Ok(batches) => batches,
        Err(e) => futures::stream::iter([Err(e)]).boxed(),
    };
    loop {
        let batch = tokio::select! {
            biased;
            () = sender.closed() => return,
            batch = batches.next() => batch,
        };
        let Some(batch) = batch else { return };
        if sender.send(batch).await.is_err() {
            return;
        }
    }
}

/// The next batch. A thread that panicked must not look like one that has come to its end.
async fn next(
    (mut receiver, mut thread): (mpsc::Receiver<Batch>, Option<JoinHandle<()>>),
) -> Option<(Batch, (mpsc::Receiver<Batch>, Option<JoinHandle<()>>))> {
    if let Some(batch) = receiver.recv().await {
        return Some((batch, (receiver, thread)));
    }
    match thread.take()?.await {
        Ok(()) => None,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => Some((Err(SqlError::internal(e.to_string())), (receiver, None))),
        },
    }
}
