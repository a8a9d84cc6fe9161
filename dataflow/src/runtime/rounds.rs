//! [`Rounds`]: which live dataflows take part in an epoch.
//!
//! A step of a dataflow costs some scheduling even without input, and of hundreds of views most have none. So a live
//! epoch is a step only of those dataflows that read something which it changes, directly or through another's output.
//! Every worker comes to the same answer, because it depends on nothing but the commands, which are the same
//! everywhere: a dataflow's steps stay in order on all of them.

use std::collections::{BTreeSet, HashMap};

use tidemill_zset::CollectionId;

use super::DataflowId;

/// So many epochs after its first step and its last one with input, a dataflow has a step without: in it, operators drop from memory
/// what had to be kept until it was committed. More epochs than these are never on their way to a commit
/// (`GROUP_EPOCHS_MAX` of the coordinator twice, and one).
pub const SETTLED_AFTER: u64 = 40;
/// It has one already after so many: mostly no more than these are.
const SETTLED_SOON: u64 = 3;

/// The live dataflows and their inputs.
#[derive(Debug, Default)]
pub struct Rounds {
    live: HashMap<DataflowId, Place>,
    readers: HashMap<CollectionId, Vec<DataflowId>>,
    /// Epochs so far.
    epoch: u64,
    /// When dataflows without input take part, and which.
    due: BTreeSet<(u64, DataflowId)>,
}

#[derive(Debug)]
struct Place {
    inputs: Vec<CollectionId>,
    output: Option<CollectionId>,
    /// The entry in `due`.
    due: Option<u64>,
    /// It has had a step since it joined.
    began: bool,
    /// The epoch of the last step with input, or of the first.
    last: u64,
}

impl Rounds {
    /// A dataflow that reads `inputs` becomes live. It takes part in the next epoch, whatever that has: constants,
    /// and the row of an aggregate over nothing, come with the first step.
    pub fn join(
        &mut self,
        id: DataflowId,
        inputs: Vec<CollectionId>,
        output: Option<CollectionId>,
    ) {
        for input in &inputs {
            self.readers.entry(*input).or_default().push(id);
        }
        let place = Place {
            inputs,
            output,
            due: None,
            began: false,
            last: 0,
        };
        self.live.insert(id, place);
        self.put_off(id, self.epoch + 1);
    }

    /// A dataflow goes.
    pub fn leave(&mut self, id: DataflowId) {
        let Some(place) = self.live.remove(&id) else {
            return;
        };
        for input in place.inputs {
            let readers = self.readers.entry(input).or_default();
            readers.retain(|r| *r != id);
            if readers.is_empty() {
                self.readers.remove(&input);
            }
        }
        if let Some(due) = place.due {
            self.due.remove(&(due, id));
        }
    }

    /// The live dataflows that read a collection.
    pub fn readers(&self, collection: CollectionId) -> &[DataflowId] {
        self.readers.get(&collection).map_or(&[], Vec::as_slice)
    }

    /// What a live dataflow reads.
    pub fn inputs(&self, id: DataflowId) -> &[CollectionId] {
        &self.live[&id].inputs
    }

    /// The dataflows that take part in the next epoch, which changes the collections `fed`.
    pub fn next(&mut self, fed: &[CollectionId]) -> BTreeSet<DataflowId> {
        self.epoch += 1;
        let (mut beginning, mut settled) = (Vec::new(), BTreeSet::new());
        while let Some(&(due, id)) = self.due.first()
            && due <= self.epoch
        {
            self.due.pop_first();
            let place = self.live.get_mut(&id).expect("it is live");
            place.due = None;
            match std::mem::replace(&mut place.began, true) {
                true => {
                    let again = place.last + SETTLED_AFTER;
                    if due < again {
                        self.put_off(id, again);
                    }
                    settled.insert(id);
                }
                false => beginning.push(id),
            }
        }
        // Constants reach those above.
        let outputs = beginning.iter().filter_map(|id| self.live[id].output);
        let changed = outputs.chain(fed.iter().copied()).collect();
        let mut taking_part = self.reached(changed);
        taking_part.extend(beginning);
        for id in &taking_part {
            let place = self.live.get_mut(id).expect("it is live");
            place.last = self.epoch;
            self.put_off(*id, self.epoch + SETTLED_SOON);
        }
        taking_part.extend(settled);
        taking_part
    }

    /// The dataflows that read one of `changed`, or what one of them gives.
    fn reached(&self, mut changed: Vec<CollectionId>) -> BTreeSet<DataflowId> {
        let mut reached = BTreeSet::new();
        while let Some(collection) = changed.pop() {
            for id in self.readers(collection) {
                if reached.insert(*id) {
                    changed.extend(self.live[id].output);
                }
            }
        }
        reached
    }

    /// The dataflow has a step in an epoch, whatever that has.
    fn put_off(&mut self, id: DataflowId, due: u64) {
        let place = self.live.get_mut(&id).expect("it is live");
        if let Some(before) = place.due.replace(due) {
            self.due.remove(&(before, id));
        }
        self.due.insert((due, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(id: u64) -> CollectionId {
        CollectionId(id)
    }

    fn next(rounds: &mut Rounds, fed: &[u64]) -> Vec<u64> {
        let fed: Vec<CollectionId> = fed.iter().copied().map(CollectionId).collect();
        rounds.next(&fed).iter().map(|id| id.0).collect()
    }

    /// 1 reads table 1; 2 reads table 2; 3 reads what 1 gives; 0, though older by its number, what 3 gives.
    fn four() -> Rounds {
        let mut rounds = Rounds::default();
        let mut join = |id: u64, input: u64| {
            rounds.join(
                DataflowId(id),
                vec![collection(input)],
                Some(collection(100 + id)),
            )
        };
        join(1, 1);
        join(2, 2);
        join(3, 101);
        join(0, 103);
        rounds
    }

    #[test]
    fn those_that_read_what_changes_take_part() {
        let mut rounds = four();
        assert_eq!(next(&mut rounds, &[]), [0, 1, 2, 3], "the first step");
        assert_eq!(next(&mut rounds, &[1]), [0, 1, 3]);
        assert_eq!(next(&mut rounds, &[2]), [2]);
        assert_eq!(next(&mut rounds, &[7]), [0; 0]);
        rounds.leave(DataflowId(3));
        assert_eq!(next(&mut rounds, &[1, 2]), [0, 1, 2], "0 settles");
        assert_eq!(rounds.readers(collection(101)), []);
        rounds.leave(DataflowId(3));
    }

    #[test]
    fn each_has_a_step_when_its_changes_are_committed() {
        let mut rounds = four();
        next(&mut rounds, &[]);
        next(&mut rounds, &[1]);
        let later = |rounds: &mut Rounds, fed: &[u64]| -> Vec<(u64, Vec<u64>)> {
            let steps = (1..=3 * SETTLED_AFTER).map(|n| (n, next(rounds, fed)));
            steps.filter(|(_, ids)| !ids.is_empty()).collect()
        };
        assert_eq!(
            later(&mut rounds, &[]),
            [
                (SETTLED_SOON - 1, vec![2]),
                (SETTLED_SOON, vec![0, 1, 3]),
                (SETTLED_AFTER - 1, vec![2]),
                (SETTLED_AFTER, vec![0, 1, 3]),
            ]
        );
        assert_eq!(later(&mut rounds, &[]), [], "twice is enough");
        rounds.join(DataflowId(9), vec![collection(9)], None);
        assert_eq!(
            later(&mut rounds, &[]),
            [
                (1, vec![9]),
                (1 + SETTLED_SOON, vec![9]),
                (1 + SETTLED_AFTER, vec![9]),
            ],
            "one that never has input"
        );
        let steps = later(&mut rounds, &[2]);
        assert_eq!(steps.len() as u64, 3 * SETTLED_AFTER);
        assert!(steps.iter().all(|(_, ids)| *ids == [2]));
    }
}
