//! Which computed epochs become durable in one commit.
//!
//! A commit costs about a millisecond of CPU, whatever is in it: a file, a transaction, the syncs of both, and everybody who is woken. While a
//! source is behind, epochs follow each other at once and nobody waits for a single one of them; they are committed, and
//! published, a few at a time. Each keeps its own time, its changes and its place in history.

use std::time::{Duration, Instant};

use tidemill_zset::Delta;

use super::{Coordinator, EpochWork};

/// Epochs in one commit. Dataflows rely on it that no more than twice as many and one are on their way (`SETTLED_AFTER`).
const GROUP_EPOCHS_MAX: usize = 16;
/// Changed rows, stored or on their way to followers, from which on sharing a commit gains little and takes much memory.
const GROUP_ROWS_MAX: usize = 30_000;
/// How long the first epoch of a group waits for those after it.
const GROUP_WAIT_MAX: Duration = Duration::from_millis(25);

impl EpochWork {
    /// It may be committed with others before and after it: nobody waits for it but for the input behind it.
    fn may_share(&self) -> bool {
        self.behind && !self.has_writes && self.catalog.is_none() && !self.is_awaited
    }

    fn changed_rows(&self) -> usize {
        let stored = self.commit.changes.iter().map(|c| c.delta.len());
        let followed = self.deltas.iter().flat_map(|(_, deltas)| deltas);
        stored.chain(followed.map(Delta::len)).sum()
    }
}

impl Coordinator {
    /// The epochs in `computed`, of which there is one, take another one into their commit.
    pub(super) fn group_is_open(&self) -> bool {
        self.computed.len() < GROUP_EPOCHS_MAX
            && self.computed.iter().all(EpochWork::may_share)
            && self
                .computed
                .iter()
                .map(EpochWork::changed_rows)
                .sum::<usize>()
                < GROUP_ROWS_MAX
    }

    /// When the epochs in `computed` no longer wait for others.
    pub(super) fn group_due(&self) -> Option<Instant> {
        let first = self.computed.first().filter(|_| self.committing.is_empty());
        first.map(|w| w.cut_at + GROUP_WAIT_MAX)
    }

    /// There is something to commit, the committer is free, and there is nothing to wait for.
    pub(super) fn should_commit(&self) -> bool {
        let Some(due) = self.group_due() else {
            return false;
        };
        let somebody_waits = !self.quiet_work.is_empty()
            || !self.writes.is_empty()
            || !self.numbers_wanted.is_empty()
            || !self.awaited.is_empty()
            || self.joining.is_some()
            || self.upgrade.is_under_way()
            || self.stopping.is_some()
            || self.sources.values().any(|s| s.holds_retraction());
        let another_follows = match &self.computing {
            Some(work) => work.may_share(),
            None => self.may_cut() && self.sources.values().any(|s| s.is_behind()),
        };
        somebody_waits || !another_follows || !self.group_is_open() || due <= Instant::now()
    }

    /// Hands the computed epochs to the committer.
    pub(super) fn start_commit(&mut self) {
        let mut group = Vec::with_capacity(self.computed.len());
        for mut work in std::mem::take(&mut self.computed) {
            work.commit.reserved_upper = self.clock.commit_reservation(work.epoch);
            // Before its creation a collection isn't empty, it isn't there; what was built for it carries epochs of its own.
            let created = work.commit.create.iter().map(|desc| (desc.id, work.epoch));
            work.commit.begins.extend(created.collect::<Vec<_>>());
            group.push(std::mem::take(&mut work.commit));
            self.committing.push(work);
        }
        if self.commits.send(group).is_err() {
            self.failure = Some("the committer is gone".into());
        }
    }
}
