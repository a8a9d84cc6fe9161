//! The epoch clock: strictly increasing, close to the wall clock, never back, also across restarts.
//!
//! What was shown must not be shown again as something else after a crash, so `upper` moves only below a bound that is
//! durable. After a crash time begins at that bound: it is kept close.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemill_zset::Epoch;

/// How far ahead of the clock `upper` is reserved while nothing is committed. An idle server syncs once in this time, and
/// a restart after a kill finds time at most this far ahead.
const IDLE_AHEAD_MS: i64 = 1_000;
/// How far ahead a commit reserves, at no cost: under steady commits there is nothing else to sync.
const COMMIT_AHEAD_MS: i64 = 250;
/// Steps of one millisecond that are reserved at a time while the wall clock is behind.
const BEHIND_STEPS: i64 = 16;

/// Gives out epochs.
pub struct Clock {
    /// Every epoch below is used or given up.
    next: Epoch,
    /// No epoch below this will be used after a restart.
    reserved: Epoch,
}

impl Clock {
    /// Starts where the store's reservation ends.
    pub fn new(reserved_upper: Epoch) -> Self {
        Clock {
            next: reserved_upper.max(1),
            reserved: reserved_upper,
        }
    }

    /// Wall clock, milliseconds since the Unix epoch; 0 if it stands before 1970.
    pub fn now(&self) -> Epoch {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Epoch::try_from(since_1970.as_millis()).unwrap_or(Epoch::MAX / 2)
    }

    /// The next epoch: now, or one more than the last if the wall clock hasn't moved on.
    pub fn take(&mut self) -> Epoch {
        let epoch = self.now().max(self.next);
        self.next = epoch + 1;
        self.reserved = self.reserved.max(self.next);
        epoch
    }

    /// The reservation that the commit of `epoch` carries. It counts once the commit is durable; until then
    /// nobody asks, because `upper` stands still.
    pub fn commit_reservation(&mut self, epoch: Epoch) -> Epoch {
        self.reserved = self.reserved.max(epoch + COMMIT_AHEAD_MS);
        self.reserved
    }

    /// The `upper` to publish while nothing is under way: the wall clock's time, or, where that is behind (after a restart,
    /// or set back), one more than the last every `tick`, so that those who wait for progress see some.
    pub fn idle_upper(&self, upper: Epoch, waited: Duration, tick: Duration) -> Option<Epoch> {
        let now = self.now();
        if now > upper {
            Some(now)
        } else {
            (waited >= tick).then_some(upper + 1)
        }
    }

    /// The bound to reserve durably before `upper` is published; `None`: it is below the one that there is.
    pub fn idle_reservation(&self, upper: Epoch) -> Option<Epoch> {
        let ahead = (self.now() + IDLE_AHEAD_MS).max(upper + BEHIND_STEPS);
        (upper > self.reserved).then_some(ahead)
    }

    /// A reservation is durable.
    pub fn reserved(&mut self, upper: Epoch) {
        self.reserved = self.reserved.max(upper);
    }

    /// `upper` was published without an epoch: no epoch below it will be used.
    pub fn passed(&mut self, upper: Epoch) {
        self.next = self.next.max(upper);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_go_on_even_when_the_wall_clock_is_behind() {
        let far = 4_000_000_000_000;
        let mut clock = Clock::new(far);
        assert_eq!(clock.take(), far);
        assert_eq!(clock.take(), far + 1);
        assert_eq!(clock.idle_reservation(far + 2), None);
        assert!(clock.idle_reservation(far + 3).is_some_and(|r| r > far + 3));
        clock.passed(far + 10);
        assert_eq!(clock.take(), far + 10);
    }

    #[test]
    fn time_goes_on_while_the_wall_clock_is_behind() {
        let far = 4_000_000_000_000;
        let tick = Duration::from_millis(250);
        let clock = Clock::new(far);
        assert_eq!(clock.idle_upper(far, Duration::ZERO, tick), None);
        assert_eq!(clock.idle_upper(far, tick, tick), Some(far + 1));
    }

    #[test]
    fn reservations_stay_close_to_what_is_shown() {
        let mut clock = Clock::new(0);
        let epoch = clock.take();
        let by_commit = clock.commit_reservation(epoch);
        assert!(by_commit - epoch <= COMMIT_AHEAD_MS);
        assert_eq!(clock.idle_reservation(by_commit), None);
        let idle = clock
            .idle_reservation(by_commit + 1)
            .expect("beyond the commit's");
        assert!(
            idle > by_commit && idle <= clock.now().max(by_commit) + IDLE_AHEAD_MS + BEHIND_STEPS
        );
    }
}
