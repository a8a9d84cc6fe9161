//! The queue's bound, and stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use tidemill_connectors::{SourceBatch, SourceState, StopSignal, channel};
use tidemill_zset::Delta;
use tidemill_zset::schema::SqlType;

use crate::harness::schema;

fn batch(rows: i64) -> SourceBatch {
    let column = Int64Array::from_iter_values(0..rows);
    let rows = RecordBatch::try_new(schema(&[("n", SqlType::Int8)]), vec![Arc::new(column)]);
    SourceBatch {
        rows: Some(Delta::insert(rows.expect("one column"))),
        columns: None,
        errors: None,
        origin: 0,
        retract: vec![],
        offsets: vec![],
        bytes: 1,
    }
}

#[test]
fn a_full_queue_blocks_and_a_large_batch_passes() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let counter = wakes.clone();
    let (sender, receiver) = channel(
        10_000,
        Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }),
    );
    sender
        .send(batch(100_000))
        .expect("an empty queue takes everything");
    assert_eq!(wakes.load(Ordering::SeqCst), 1);
    let second = sender.clone();
    let thread = std::thread::spawn(move || second.send(batch(1)));
    assert!(receiver.oldest().is_some());
    assert_eq!(receiver.take(1).len(), 1);
    assert_eq!(thread.join().expect("no panic"), Ok(()));
    assert_eq!(
        (receiver.pending_rows(), receiver.pending_batches()),
        (1, 1)
    );
    assert!(receiver.pending_bytes() > 0);
    receiver.take(1);
    assert_eq!(receiver.pending_bytes(), 0);
    assert!(receiver.oldest().is_none());
}

#[test]
fn rows_are_bounded_too() {
    let (sender, receiver) = channel(1 << 20, Arc::new(|| {}));
    receiver.set_rows_max(10);
    // Not one row more than wait already counts: a batch passes whole.
    sender.send(batch(9)).expect("room");
    sender.send(batch(9)).expect("room");
    let third = sender.clone();
    let thread = std::thread::spawn(move || third.send(batch(1)));
    for _ in 0..10_000 {
        assert!(!thread.is_finished(), "the third waits");
        std::thread::yield_now();
    }
    assert_eq!(receiver.take(1).len(), 1);
    assert_eq!(thread.join().expect("no panic"), Ok(()));
    assert_eq!(receiver.pending_rows(), 10);
}

#[test]
fn take_gives_whole_batches_up_to_the_rows_asked_for() {
    let (sender, receiver) = channel(1 << 20, Arc::new(|| {}));
    for rows in [40, 40, 40] {
        sender.send(batch(rows)).expect("room");
    }
    assert_eq!(receiver.take(100).len(), 2);
    sender.send(batch(1000)).expect("room");
    assert_eq!(receiver.take(10).len(), 1);
    assert_eq!(receiver.take(10).len(), 1);
    assert!(receiver.take(10).is_empty());
    assert_eq!(receiver.status().rows, 1120);
}

#[test]
fn a_batch_that_retracts_comes_alone() {
    let (sender, receiver) = channel(1 << 20, Arc::new(|| {}));
    for retract in [vec![], vec![7], vec![8], vec![]] {
        let batch = SourceBatch {
            retract,
            ..batch(1)
        };
        sender.send(batch).expect("room");
    }
    let retracted: Vec<Vec<u64>> = (0..4)
        .map(|_| {
            receiver
                .take(100)
                .into_iter()
                .flat_map(|b| b.retract)
                .collect()
        })
        .collect();
    assert_eq!(retracted, [vec![], vec![7], vec![8], vec![]]);
}

#[test]
fn stopping_ends_a_blocked_send() {
    let (sender, receiver) = channel(1, Arc::new(|| {}));
    let stop = StopSignal::new();
    sender.stop_with(&stop);
    sender
        .send(batch(1))
        .expect("an empty queue takes everything");
    let blocked = sender.clone();
    let thread = std::thread::spawn(move || blocked.send(batch(1)));
    stop.stop();
    assert!(thread.join().expect("no panic").is_err());
    assert!(stop.wait(Duration::from_secs(60)));
    drop(receiver);
}

#[test]
fn dropping_the_receiver_ends_a_blocked_send() {
    let (sender, receiver) = channel(1, Arc::new(|| {}));
    sender
        .send(batch(1))
        .expect("an empty queue takes everything");
    let thread = std::thread::spawn(move || sender.send(batch(1)));
    drop(receiver);
    assert!(thread.join().expect("no panic").is_err());
}

#[test]
fn the_status_tells_how_a_source_ended() {
    let (sender, receiver) = channel(1, Arc::new(|| {}));
    sender.waiting("new input".into());
    assert_eq!(
        receiver.status().state,
        SourceState::Waiting("new input".into())
    );
    sender.ended(&Ok(()));
    assert_eq!(receiver.status().state, SourceState::Finished);
    sender.ended(&Err(tidemill_connectors::ConnectorError::Io(
        "disk on fire".into(),
    )));
    assert_eq!(
        receiver.status().state,
        SourceState::Failed("disk on fire".into())
    );
    assert_eq!(
        receiver.status().last_error.as_deref(),
        Some("disk on fire")
    );
}

#[test]
fn a_larger_bound_lets_a_waiting_batch_in_and_idleness_wakes() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let counter = wakes.clone();
    let wake = move || {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let (sender, receiver) = channel(1, Arc::new(wake));
    sender
        .send(batch(1))
        .expect("an empty queue takes everything");
    let second = sender.clone();
    let thread = std::thread::spawn(move || second.send(batch(1)));
    receiver.set_bytes_max(1 << 20);
    assert_eq!(thread.join().expect("no panic"), Ok(()));
    assert_eq!(receiver.pending_rows(), 2);
    sender.waiting("more".into());
    sender.waiting("still".into());
    assert_eq!(wakes.load(Ordering::SeqCst), 3);
    assert!(!receiver.is_empty_and_idle());
    receiver.take(9);
    assert!(receiver.is_empty_and_idle());
}
