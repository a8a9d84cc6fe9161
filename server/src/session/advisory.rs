//! Advisory locks: numbers that sessions lock against each other, with PostgreSQL's functions and rules.
//!
//! They are in memory only, as the sessions are. A lock that is asked for again is counted; it waits behind those who
//! asked for it before, unless its session has it already; sessions that wait in a circle are found when the circle closes.
//!
//! Invariant: what a session holds or waits for ends with the session, with its transaction, or with its statement.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tokio::sync::Notify;

/// Different locks that are held at a time.
pub const ADVISORY_LOCKS_MAX: usize = 1 << 16;

/// What is locked. The two kinds don't meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Of one number.
    One(i64),
    /// Of two.
    Two(i32, i32),
}

impl Key {
    /// `classid`, `objid` and `objsubid` of `pg_locks`.
    pub fn ids(self) -> (u32, u32, i16) {
        match self {
            Key::One(key) => ((key >> 32) as u32, key as u32, 1),
            Key::Two(a, b) => (a as u32, b as u32, 2),
        }
    }
}

/// How it is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With others of this mode.
    Shared,
    /// Alone.
    Exclusive,
}

impl Mode {
    fn conflicts(self, other: Mode) -> bool {
        self == Mode::Exclusive || other == Mode::Exclusive
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shared => "ShareLock",
            Mode::Exclusive => "ExclusiveLock",
        })
    }
}

/// Until when it is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The session unlocks it, or ends.
    Unlocked,
    /// The transaction ends.
    TransactionEnd,
}

/// A lock that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub key: Key,
    /// How.
    pub mode: Mode,
    /// How long.
    pub until: Until,
}

/// How often a session has a lock, for each [`Mode`].
type Counts = [u32; 2];

/// A session's hold of a lock.
#[derive(Clone, Copy, Debug, Default)]
struct Hold {
    session: Counts,
    transaction: Counts,
}

impl Hold {
    fn counts(&mut self, until: Until) -> &mut Counts {
        match until {
            Until::Unlocked => &mut self.session,
            Until::TransactionEnd => &mut self.transaction,
        }
    }

    fn has(&self, mode: Mode) -> bool {
        self.session[mode as usize] + self.transaction[mode as usize] > 0
    }

    fn modes(&self) -> impl Iterator<Item = Mode> {
        [Mode::Shared, Mode::Exclusive]
            .into_iter()
            .filter(|mode| self.has(*mode))
    }

    fn conflicts(&self, mode: Mode) -> bool {
        self.modes().any(|held| held.conflicts(mode))
    }
}

/// What a session's transaction holds, for ROLLBACK TO.
pub type Mark = BTreeMap<Key, Counts>;

/// A line of `pg_locks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The session's number.
    pub pid: i32,
    /// What.
    pub key: Key,
    /// How.
    pub mode: Mode,
    /// It has it; otherwise it waits for it.
    pub granted: bool,
}

#[derive(Default)]
struct State {
    /// By session.
    held: BTreeMap<Key, BTreeMap<i32, Hold>>,
    /// In the order in which they came.
    waiting: Vec<(i32, Request)>,
}

impl State {
    /// The other sessions that keep `pid` from a lock: those that have it, and those of `before` that wait for it.
    fn blockers(&self, pid: i32, request: Request, before: &[(i32, Request)]) -> BTreeSet<i32> {
        let holders = self.held.get(&request.key);
        let has_it = holders.is_some_and(|h| h.contains_key(&pid));
        let holders = holders
            .into_iter()
            .flatten()
            .filter(|(_, hold)| hold.conflicts(request.mode))
            .map(|(other, _)| *other);
        let queue = before
            .iter()
            .filter(|(_, r)| !has_it && r.key == request.key && r.mode.conflicts(request.mode))
            .map(|(other, _)| *other);
        holders.chain(queue).filter(|other| *other != pid).collect()
    }

    /// Gives the lock if nothing stands against it.
    fn grant(&mut self, pid: i32, request: Request) -> Result<bool, SqlError> {
        let own = self.waiting.iter().position(|(waiter, _)| *waiter == pid);
        let before = &self.waiting[..own.unwrap_or(self.waiting.len())];
        if !self.blockers(pid, request, before).is_empty() {
            return Ok(false);
        }
        if self.held.len() >= ADVISORY_LOCKS_MAX && !self.held.contains_key(&request.key) {
            return Err(SqlError::new("53200", "too many advisory locks")
                .detail(format!("There are {ADVISORY_LOCKS_MAX}."))
                .hint("Unlock some: pg_locks shows who has them."));
        }
        let hold = self.held.entry(request.key).or_default();
        let hold = hold.entry(pid).or_default();
        hold.counts(request.until)[request.mode as usize] += 1;
        Ok(true)
    }

    /// Whether sessions wait in a circle that `pid` closes.
    fn is_deadlock(&self, pid: i32) -> bool {
        let blockers = |of: i32| {
            let place = self.waiting.iter().position(|(waiter, _)| *waiter == of);
            place.map(|at| self.blockers(of, self.waiting[at].1, &self.waiting[..at]))
        };
        let mut seen = BTreeSet::new();
        let mut todo: Vec<i32> = blockers(pid).into_iter().flatten().collect();
        while let Some(next) = todo.pop() {
            if next == pid {
                return true;
            }
            if seen.insert(next) {
                todo.extend(blockers(next).into_iter().flatten());
            }
        }
        false
    }

    /// Changes a session's holds; those that are empty go.
    fn change(&mut self, pid: i32, mut change: impl FnMut(Key, &mut Hold)) {
        self.held.retain(|key, holders| {
            if let Some(hold) = holders.get_mut(&pid) {
                change(*key, hold);
                if hold.modes().next().is_none() {
                    holders.remove(&pid);
                }
            }
            !holders.is_empty()
        });
    }
}

/// The locks of all sessions, which are told apart by their connections' numbers.
#[derive(Default)]
pub struct AdvisoryLocks {
    state: Mutex<State>,
    /// Whether there are any, so that a session needn't ask whose they are each time that a statement ends.
    any: AtomicBool,
    released: Notify,
}

impl fmt::Debug for AdvisoryLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdvisoryLocks")
    }
}

impl AdvisoryLocks {
    /// Takes a lock if that is possible at once. Errors: [`ADVISORY_LOCKS_MAX`] (53200).
    pub fn try_lock(&self, pid: i32, request: Request) -> Result<bool, SqlError> {
        let mut state = self.state.lock();
        let granted = state.grant(pid, request)?;
        if granted {
            self.any.store(true, Ordering::Release);
        }
        Ok(granted)
    }

    /// Waits for a lock, at most `limit`. Errors: sessions that wait in a circle (40P01), the limit (55P03),
    /// [`ADVISORY_LOCKS_MAX`].
    pub async fn lock(
        self: &Arc<Self>,
        pid: i32,
        request: Request,
        limit: Option<Duration>,
    ) -> Result<(), SqlError> {
        let waiter = Waiter {
            locks: Arc::clone(self),
            pid,
        };
        let is_deadlock = {
            let mut state = self.state.lock();
            state.waiting.push((pid, request));
            state.is_deadlock(pid)
        };
        if is_deadlock {
            let (class, object, sub) = request.key.ids();
            return Err(SqlError::new("40P01", "deadlock detected")
                .detail(format!(
                    "Process {pid} waits for {} on advisory lock [{class},{object},{sub}], and others wait for what it has.",
                    request.mode
                ))
                .hint("Lock in the same order everywhere."));
        }
        let granted = async {
            loop {
                let released = self.released.notified();
                let mut released = std::pin::pin!(released);
                released.as_mut().enable();
                if self.try_lock(pid, request)? {
                    return Ok(());
                }
                released.await;
            }
        };
        let result = match limit {
            None => granted.await,
            Some(limit) => tokio::time::timeout(limit, granted)
                .await
                .unwrap_or_else(|_| {
                    let message = "canceling statement due to lock timeout";
                    Err(SqlError::new("55P03", message))
                }),
        };
        drop(waiter);
        result
    }

    /// Takes one count of a lock back. False: the session doesn't have it, or only until its transaction ends.
    pub fn unlock(&self, pid: i32, key: Key, mode: Mode) -> bool {
        let mut state = self.state.lock();
        let hold = state.held.get_mut(&key).and_then(|h| h.get_mut(&pid));
        let Some(hold) = hold.filter(|hold| hold.session[mode as usize] > 0) else {
            return false;
        };
        hold.session[mode as usize] -= 1;
        state.change(pid, |_, _| {});
        drop(state);
        self.released.notify_waiters();
        true
    }

    /// Takes back all that the session has locked, but for its transaction's locks.
    pub fn unlock_all(&self, pid: i32) {
        self.take_back(pid, |_, hold| hold.session = [0; 2]);
    }

    /// The session's transaction ends.
    pub fn end_transaction(&self, pid: i32) {
        self.take_back(pid, |_, hold| hold.transaction = [0; 2]);
    }

    /// The session ends.
    pub fn end_session(&self, pid: i32) {
        self.take_back(pid, |_, hold| *hold = Hold::default());
    }

    fn take_back(&self, pid: i32, change: impl FnMut(Key, &mut Hold)) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock();
        state.change(pid, change);
        if state.held.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        drop(state);
        self.released.notify_waiters();
    }

    /// What the session's transaction holds now.
    pub fn mark(&self, pid: i32) -> Mark {
        let state = self.state.lock();
        let own = |(key, holders): (&Key, &BTreeMap<i32, Hold>)| {
            holders.get(&pid).map(|hold| (*key, hold.transaction))
        };
        state.held.iter().filter_map(own).collect()
    }

    /// Takes back what the transaction has locked since a mark.
    pub fn back_to(&self, pid: i32, mark: &Mark) {
        self.take_back(pid, |key, hold| {
            hold.transaction = mark.get(&key).copied().unwrap_or_default();
        });
    }

    /// Who has and who waits for what.
    pub fn list(&self) -> Vec<Shown> {
        let state = self.state.lock();
        let held = state.held.iter().flat_map(|(key, holders)| {
            holders.iter().flat_map(|(pid, hold)| {
                hold.modes().map(|mode| Shown {
                    pid: *pid,
                    key: *key,
                    mode,
                    granted: true,
                })
            })
        });
        let waiting = state.waiting.iter().map(|(pid, request)| Shown {
            pid: *pid,
            key: request.key,
            mode: request.mode,
            granted: false,
        });
        held.chain(waiting).collect()
    }
}

/// A session's place among those that wait; others look again when it is given up.
struct Waiter {
    locks: Arc<AdvisoryLocks>,
    pid: i32,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.locks
            .state
            .lock()
            .waiting
            .retain(|(pid, _)| *pid != self.pid);
        self.locks.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::Mode::{Exclusive, Shared};
    use super::*;

    fn of(key: i64, mode: Mode) -> Request {
        Request {
            key: Key::One(key),
            mode,
            until: Until::Unlocked,
        }
    }

    #[test]
    fn modes_counts_and_marks() {
        let locks = AdvisoryLocks::default();
        let take = |pid, request| locks.try_lock(pid, request).expect("few locks");
        assert!(take(1, of(7, Exclusive)) && take(1, of(7, Exclusive)));
        assert!(!take(2, of(7, Shared)) && take(2, of(8, Shared)) && take(1, of(8, Shared)));
        assert!(!take(1, of(8, Exclusive)), "another session shares it");
        let two = Request {
            key: Key::Two(0, 7),
            ..of(7, Exclusive)
        };
        assert!(take(2, two), "two numbers are another lock than one");
        assert!(locks.unlock(1, Key::One(7), Exclusive) && !take(2, of(7, Shared)));
        assert!(!locks.unlock(2, Key::One(7), Exclusive) && !locks.unlock(1, Key::One(7), Shared));
        assert!(locks.unlock(1, Key::One(7), Exclusive) && take(2, of(7, Shared)));

        let transaction = Request {
            until: Until::TransactionEnd,
            ..of(9, Exclusive)
        };
        assert!(take(1, transaction));
        let mark = locks.mark(1);
        assert!(
            take(
                1,
                Request {
                    key: Key::One(10),
                    ..transaction
                }
            ) && take(1, transaction)
        );
        locks.back_to(1, &mark);
        assert!(take(2, of(10, Exclusive)) && !take(2, of(9, Exclusive)));
        assert!(
            !locks.unlock(1, Key::One(9), Exclusive),
            "the transaction's"
        );
        locks.unlock_all(1);
        assert!(!take(2, of(9, Exclusive)) && take(2, of(8, Exclusive)));
        locks.end_transaction(1);
        assert!(take(2, of(9, Exclusive)));
        locks.end_session(2);
        assert!(locks.list().is_empty());
    }

    /// Runs until `n` sessions wait.
    async fn waiting(locks: &AdvisoryLocks, n: usize) {
        while locks.list().iter().filter(|l| !l.granted).count() != n {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_waits_is_served_in_order_and_circles_are_found() {
        let locks = Arc::new(AdvisoryLocks::default());
        assert!(locks.try_lock(1, of(1, Shared)).expect("few"));
        assert!(locks.try_lock(2, of(2, Exclusive)).expect("few"));
        let wait = |pid, request| {
            let locks = Arc::clone(&locks);
            tokio::spawn(async move { locks.lock(pid, request, None).await })
        };
        let second = wait(2, of(1, Exclusive));
        waiting(&locks, 1).await;
        // Shares it with who has it, but comes behind who waits.
        assert!(!locks.try_lock(3, of(1, Shared)).expect("few"));
        let third = wait(3, of(1, Shared));
        waiting(&locks, 2).await;
        let circle = locks.lock(1, of(2, Shared), None).await;
        assert_eq!(circle.expect_err("a circle").sqlstate, "40P01");
        let limit = Some(Duration::from_millis(1));
        let late = locks.lock(4, of(1, Exclusive), limit).await;
        assert_eq!(late.expect_err("it is taken").sqlstate, "55P03");
        locks.end_session(1);
        second.await.expect("no panic").expect("it is free");
        waiting(&locks, 1).await;
        // A statement that is cancelled waits no more.
        let cancelled = wait(4, of(2, Exclusive));
        waiting(&locks, 2).await;
        cancelled.abort();
        waiting(&locks, 1).await;
        locks.end_session(2);
        third.await.expect("no panic").expect("it is free");
        assert_eq!(locks.list().len(), 1);
    }
}
