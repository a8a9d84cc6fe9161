//! [`Way`]: which of the values that a condition compares are searched by.

use datafusion_expr::Operator;

use super::comparisons::Compared;

/// The values of a side that are searched by.
#[derive(Clone, Copy)]
pub(super) struct Way<'c, 'e> {
    /// What rows are in the order of.
    pub first: &'c Compared<'e>,
    /// What is compared in one direction besides; see [`super::second`].
    pub second: Option<&'c Compared<'e>>,
    /// The first is between two ends.
    ends_both: bool,
}

impl<'c, 'e> Way<'c, 'e> {
    /// All that there are for a side.
    pub fn all(compared: &[&'c Compared<'e>]) -> Vec<Self> {
        let mut ways = vec![];
        for first in compared {
            let of_key = compared.iter().filter(|c| c.key == first.key);
            let ends = |c: &&&Compared| c.op == Operator::Eq || c.is_upper() != first.is_upper();
            let ends_both = first.op == Operator::Eq || of_key.clone().any(|c| ends(&c));
            let way = |second| Way {
                first,
                second,
                ends_both,
            };
            ways.push(way(None));
            if !ends_both {
                let others = compared.iter().filter(|c| c.key != first.key);
                let others = others.filter(|c| c.op != Operator::Eq);
                ways.extend(others.map(|second| way(Some(*second))));
            }
        }
        ways
    }

    /// How much is excluded, compared with the other ways.
    pub fn rank(&self) -> u8 {
        match self.second {
            None if self.ends_both => 3,
            Some(second) if second.is_upper() != self.first.is_upper() => 2,
            Some(_) => 1,
            None => 0,
        }
    }

    /// Whether `compared` is one of the comparisons that are searched by.
    pub fn has(&self, compared: &Compared) -> bool {
        compared.key == self.first.key || self.second.is_some_and(|s| s.is_alike(compared))
    }
}
