//! Which rows of a key have other matches, where rows of one side are given with the nearest ones of the other that come before them
//! ([`super::neighbours`], [`Neighbourhood::matches`](crate::plan::Neighbourhood::matches)).
//!
//! The rows that are searched come first in the order of a key's rows, those that probe after them, each by their places. A searched row is seen by the probing
//! ones from its place on, up to where there are enough other ones behind it. All that those can see goes along: what the program gives for them is right,
//! as they were and as they are.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};

use super::neighbour_reach::{Part, if_few};
use super::neighbour_rows::{Bytes, Entry, Key, next};

/// See the module.
pub struct Matches {
    /// How many rows each one is given with at most.
    rows: u64,
    /// What the places of searched rows begin with.
    searched: Vec<u8>,
    /// What those of probing rows begin with.
    probing: Vec<u8>,
}

/// A place on a side.
fn on(side: &[u8], place: &[u8]) -> Vec<u8> {
    [side, place].concat()
}

/// What has been looked for so far.
struct Search<'k> {
    key: &'k Key,
    parts: Vec<(&'k Bytes, &'k Bytes)>,
    /// How many more rows may be looked at.
    left: usize,
}

/// From which place on probing rows see a changed one, and to which; `None`: to the end.
type Seeing<'k> = (&'k [u8], Option<&'k [u8]>);

impl Matches {
    /// Each row is given with `rows` others at most.
    pub fn new(rows: u64) -> Matches {
        let side = |probes: bool| {
            let field = SortField::new(DataType::Boolean);
            let converter = RowConverter::new(vec![field]).expect("booleans have an order");
            let side: ArrayRef = Arc::new(BooleanArray::from(vec![probes]));
            let rows = converter.convert_columns(&[side]);
            rows.expect("it is a boolean").row(0).data().to_vec()
        };
        Matches {
            rows,
            searched: side(false),
            probing: side(true),
        }
    }

    /// The parts of a key with the probing rows that have other matches than before, and all that may be among those of them; in order. `None` if that
    /// are more rows than `rows_max`, or the key is broken.
    pub fn around(&self, key: &Key, rows_max: usize) -> Option<Vec<Part>> {
        let mut search = Search {
            key,
            parts: Vec::new(),
            left: rows_max,
        };
        // Those that are searched come first.
        let mut seeing: Vec<Seeing> = Vec::new();
        for changed in &key.changed {
            let (changed, entry) = key.rows.get_key_value(changed)?;
            if entry.new < 0 {
                return None;
            }
            // It came and went, or equal ones did.
            if entry.old == entry.new {
                continue;
            }
            let (probes, place) = self.place(changed, entry);
            if probes {
                let before = seeing.partition_point(|(from, _)| *from <= place);
                let covers = |(_, to): &Seeing| to.is_none_or(|to| place <= to);
                if !seeing[..before].last().is_some_and(covers) {
                    search.parts.push((changed, changed));
                    self.seen(place, Some(place), &mut search)?;
                }
                continue;
            }
            let covers = |(_, to): &Seeing| to.is_none_or(|to| place < to);
            if !seeing.last().is_some_and(covers) {
                let to = self.seen_to(changed, &mut search)?;
                self.seeing(place, to, &mut search);
                self.seen(place, to, &mut search)?;
                seeing.push((place, to));
            }
        }
        merged(search.parts, key, rows_max)
    }

    /// Whether a row probes, and its place.
    fn place<'k>(&self, row: &'k Bytes, entry: &Entry) -> (bool, &'k [u8]) {
        let place = &row[..entry.order as usize];
        let (side, place) = place.split_at(self.searched.len());
        (side == self.probing, place)
    }

    /// To which place a changed row may be seen, or one of those that follow before enough that haven't changed.
    fn seen_to<'k>(&self, changed: &'k Bytes, search: &mut Search<'k>) -> Option<Option<&'k [u8]>> {
        let (key, mut unchanged) = (search.key, 0);
        let (_, mut last) = self.place(changed, &key.rows[changed]);
        let following = (Bound::Excluded(changed.as_ref()), self.end_of_searched());
        for (row, entry) in key.rows.range::<[u8], _>(following) {
            search.left = search.left.checked_sub(1)?;
            let (_, place) = self.place(row, entry);
            if entry.old != entry.new {
                (last, unchanged) = (place, 0);
            } else if place != last {
                unchanged += entry.new as u64;
            }
            if unchanged >= self.rows {
                return Some(Some(place));
            }
        }
        Some(None)
    }

    /// The rows that probe from one place to another.
    fn seeing<'k>(&self, from: &[u8], to: Option<&[u8]>, search: &mut Search<'k>) {
        let from = on(&self.probing, from);
        let end = to.and_then(|to| next(&on(&self.probing, to)));
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut seeing = (search.key.rows).range::<[u8], _>((Bound::Included(&*from), end));
        if let Some((first, _)) = seeing.next() {
            let last = seeing.next_back().map_or(first, |(last, _)| last);
            search.parts.push((first, last));
        }
    }

    /// The searched rows that are seen by those which probe from one place to another.
    fn seen(&self, from: &[u8], to: Option<&[u8]>, search: &mut Search) -> Option<()> {
        let key = search.key;
        let from = on(&self.searched, from);
        let (mut old, mut new, mut first) = (0, 0, None);
        let before = (Bound::Unbounded, Bound::Excluded(from.as_slice()));
        for (row, entry) in key.rows.range::<[u8], _>(before).rev() {
            search.left = search.left.checked_sub(1)?;
            old += entry.old.max(0) as u64;
            new += entry.new.max(0) as u64;
            if old.min(new) >= self.rows {
                first = Some(key.first_of_equals(row));
                break;
            }
        }
        let first = match first {
            None => key.rows.keys().next()?,
            Some(first) => first,
        };
        let end = to.and_then(|to| next(&on(&self.searched, to)));
        let end = match end.as_deref() {
            Some(end) if end < self.probing.as_slice() => Bound::Excluded(end),
            _ => self.end_of_searched(),
        };
        let last = key
            .rows
            .range::<[u8], _>((Bound::Unbounded, end))
            .next_back();
        if let Some((last, _)) = last
            && first <= last
        {
            search.parts.push((first, last));
        }
        Some(())
    }

    fn end_of_searched(&self) -> Bound<&[u8]> {
        Bound::Excluded(self.probing.as_slice())
    }
}

/// The parts in order, those that have rows in common as one; `None` if they have more than `rows_max` rows.
fn merged(mut parts: Vec<(&Bytes, &Bytes)>, key: &Key, rows_max: usize) -> Option<Vec<Part>> {
    parts.sort_unstable();
    let mut apart: Vec<(&Bytes, &Bytes)> = Vec::with_capacity(parts.len());
    for (first, last) in parts {
        match apart.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => apart.push((first, last)),
        }
    }
    if_few(apart, key, rows_max)
}
