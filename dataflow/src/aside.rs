//! [`Aside`]: a computation on a thread beside the worker's, which looks for its result from time to time.
//!
//! Threads that have nothing to do wait for the next computation. One that goes on although nobody wants it any more ends when
//! its computation looks at `stop`; the worker doesn't wait for it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

/// How long a worker waits for a result before it turns to other work.
const PATIENCE: Duration = Duration::from_millis(2);

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait.
static IDLE: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

/// See the module. Dropping it asks the computation to stop.
pub struct Aside<T> {
    result: Receiver<Result<T, Box<dyn Any + Send>>>,
    stop: Arc<AtomicBool>,
}

impl<T: Send + 'static> Aside<T> {
    /// Begins a computation, which ends early once what it is given has become true.
    pub fn start(compute: impl FnOnce(&Arc<AtomicBool>) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, result) = bounded(1);
        let stopped = stop.clone();
        dispatch(Box::new(move || {
            let computed = catch_unwind(AssertUnwindSafe(|| compute(&stopped)));
            // Nobody may want it any more.
            let _ = sender.send(computed);
        }));
        Aside { result, stop }
    }

    /// The result, if it is there within a moment; else, if `for_ever`, whenever it comes. A panic of the computation is the
    /// caller's.
    pub fn wait(&self, for_ever: bool) -> Option<T> {
        let result = match for_ever {
            true => self
                .result
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            false => self.result.recv_timeout(PATIENCE),
        };
        match result {
            Ok(Ok(result)) => Some(result),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("a computation always answers"),
        }
    }
}

impl<T> Drop for Aside<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Gives a job to a thread that waits, or to a new one.
fn dispatch(mut job: Job) {
    while let Some(thread) = IDLE.lock().pop() {
        match thread.send(job) {
            Ok(()) => return,
            Err(refused) => job = refused.0,
        }
    }
    let (sender, jobs) = bounded::<Job>(1);
    let run = move || {
        job();
        loop {
            IDLE.lock().push(sender.clone());
            match jobs.recv() {
                Ok(job) => job(),
                Err(_) => return,
            }
        }
    };
    let thread = std::thread::Builder::new().name("aside".into());
    if let Err(e) = thread.spawn(run) {
        panic!("no thread for a computation: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_panics_and_stops() {
        assert_eq!(Aside::start(|_| 7).wait(true), Some(7));
        let panics = Aside::start(|_| -> i32 { panic!("on purpose") });
        assert!(catch_unwind(AssertUnwindSafe(|| panics.wait(true))).is_err());
        let (sender, ended) = bounded(1);
        let endless = Aside::start(move |stop: &Arc<AtomicBool>| {
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let _ = sender.send(());
        });
        assert!(endless.wait(false).is_none());
        drop(endless);
        ended.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
