//! Answers to statements that change something. Such a statement is carried out or cancelled, and its client is told which: from the
//! moment on in which the coordinator begins with it a cancel request comes too late, as in PostgreSQL.
//!
//! Invariant: a change that its session has given up is never begun, and one that is begun is never given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tokio::sync::oneshot;

use super::{Handle, Message};

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// How far a change is: waiting, then either begun or given up.
#[derive(Debug, Default)]
struct Stage(AtomicU8);

impl Stage {
    /// True if it is at `stage` now, because it was waiting or came there before.
    fn reach(&self, stage: u8) -> bool {
        let before = (self.0).compare_exchange(WAITING, stage, Ordering::AcqRel, Ordering::Acquire);
        before.is_ok() || before == Err(stage)
    }
}

/// Where the answer to a change goes.
pub struct Reply<T> {
    answer: oneshot::Sender<Result<T, SqlError>>,
    stage: Arc<Stage>,
}

impl<T> Reply<T> {
    /// For a change that is wanted whether or not anybody waits for it.
    pub fn to_nobody() -> Self {
        Reply {
            answer: oneshot::channel().0,
            stage: Arc::default(),
        }
    }

    /// The change is about to be made. False: it isn't wanted any more, and must not be.
    pub fn begin(&self) -> bool {
        self.stage.reach(BEGUN)
    }

    /// It isn't wanted any more.
    pub fn is_given_up(&self) -> bool {
        self.stage.0.load(Ordering::Acquire) == GIVEN_UP
    }

    /// Answers; gives the answer back if nobody waits for it.
    pub fn send(self, answer: Result<T, SqlError>) -> Result<(), Result<T, SqlError>> {
        self.answer.send(answer)
    }
}

/// The change that a connection waits for, if it does.
#[derive(Debug, Default)]
pub struct Underway(Mutex<Option<Arc<Stage>>>);

impl Underway {
    /// What goes on is to be cancelled. False: it has begun to make its change, so that it comes to its end.
    pub fn give_up(&self) -> bool {
        let stage = self.0.lock();
        stage.as_ref().is_none_or(|stage| stage.reach(GIVEN_UP))
    }
}

/// Gives up what is dropped before it is answered.
struct Waiting<'a> {
    stage: Arc<Stage>,
    underway: &'a Underway,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.stage.reach(GIVEN_UP);
        *self.underway.0.lock() = None;
    }
}

impl Handle {
    /// As `ask`, for what changes something: dropped before the change begins, it isn't made. `underway` tells whether it has begun.
    pub async fn change<T>(
        &self,
        underway: &Underway,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T, SqlError> {
        let (answer, answered) = oneshot::channel();
        let stage = Arc::<Stage>::default();
        *underway.0.lock() = Some(Arc::clone(&stage));
        let waiting = Waiting { stage, underway };
        let stage = Arc::clone(&waiting.stage);
        self.send(message(Reply { answer, stage }));
        answered.await.map_err(|_| self.gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> (Reply<()>, Underway) {
        let reply = Reply::to_nobody();
        let underway = Underway(Mutex::new(Some(Arc::clone(&reply.stage))));
        (reply, underway)
    }

    #[test]
    fn what_is_given_up_is_not_begun() {
        let (reply, underway) = request();
        assert!(!reply.is_given_up());
        assert!(underway.give_up() && underway.give_up());
        assert!(reply.is_given_up() && !reply.begin());
    }

    #[test]
    fn what_has_begun_is_not_given_up() {
        let (reply, underway) = request();
        assert!(reply.begin() && reply.begin());
        assert!(!underway.give_up() && !reply.is_given_up());
    }

    #[test]
    fn without_a_change_all_can_be_given_up() {
        assert!(Underway::default().give_up());
    }
}
