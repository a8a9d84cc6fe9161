//! The epoch clock: strictly increasing, close to the wall clock, never back, also across restarts.

use std::time::{SystemTime, UNIX_EPOCH};

use tidemill_zset::Epoch;

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

    /// The reservation that a commit must carry.
    pub fn reservation(&self) -> Epoch {
        self.reserved
    }

    /// True if publishing `upper` needs a new durable reservation first.
    pub fn needs_reservation(&self, upper: Epoch) -> bool {
        upper > self.reserved
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
        assert!(!clock.needs_reservation(far + 2));
        assert!(clock.needs_reservation(far + 3));
        clock.passed(far + 10);
        assert_eq!(clock.take(), far + 10);
    }
}
