//! How far what a program gives for a row reaches, in the order of a key's rows ([`super::neighbours`]).

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow::array::{Array, ArrayRef, PrimitiveArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, RowParser, SortField};

use super::neighbour_rows::{Bytes, Entry, Key, next};
use crate::plan::{Neighbourhood, Reach};

/// Rows side by side: the first and the last one.
pub type Part = (Bytes, Bytes);

/// Finds what lies around changed rows.
pub struct Reader<'n> {
    /// Those of the program.
    pub reaches: &'n [Reach],
    /// For distances.
    pub places: Option<&'n Places>,
}

impl Reader<'_> {
    /// The parts of a key with its changed rows, the rows that see them, and those that these see; in order. `None` if
    /// that are more rows than `rows_max`, or the key is broken.
    pub fn around(&self, key: &Key, rows_max: usize) -> Option<Vec<Part>> {
        let mut left = rows_max;
        let mut parts: Vec<(&Bytes, &Bytes)> = Vec::new();
        // The last changed row of the last part, if what lies behind that one hasn't been looked for yet.
        let mut open: Option<&Bytes> = None;
        for changed in &key.changed {
            let (changed, entry) = key.rows.get_key_value(changed)?;
            if entry.new < 0 {
                return None;
            }
            // It came and went, or equal ones did.
            if entry.old == entry.new {
                continue;
            }
            if let Some((_, last)) = parts.last_mut() {
                if changed > *last
                    && let Some(row) = open.take()
                {
                    *last = self.far(key, row, false, &mut left)?;
                }
                if changed <= *last {
                    open = Some(changed);
                    continue;
                }
            }
            let first = self.far(key, changed, true, &mut left)?;
            open = Some(changed);
            match parts.last_mut() {
                Some((_, last)) if first <= *last => *last = changed,
                _ => parts.push((first, changed)),
            }
        }
        if let (Some((_, last)), Some(row)) = (parts.last_mut(), open) {
            *last = self.far(key, row, false, &mut left)?;
        }
        if_few(parts, key, rows_max)
    }

    /// The first row that is seen by a row which sees a changed one; `None` inside if nothing has changed. `None` if it is farther than
    /// `rows_max` away, or the key is broken.
    pub fn first<'k>(&self, key: &'k Key, rows_max: usize) -> Option<Option<&'k Bytes>> {
        let mut first = None;
        for changed in &key.changed {
            let (changed, entry) = key.rows.get_key_value(changed)?;
            if entry.new < 0 {
                return None;
            }
            if entry.old != entry.new && first.is_none() {
                first = Some(self.far(key, changed, true, &mut { rows_max })?);
            }
        }
        Some(first)
    }

    /// The first row that is seen by those from `place` on.
    pub fn lead_in<'k>(
        &self,
        key: &'k Key,
        place: &'k Bytes,
        rows_max: usize,
    ) -> Option<&'k Bytes> {
        let (mut at, _) = key.rows_from(Some(place)).next()?;
        for reach in self.reaches.iter().rev() {
            at = self.step(key, at, *reach, true, true, &mut { rows_max })?;
        }
        Some(at)
    }

    /// The last row that is seen by the one at `from`.
    pub fn lead_out<'k>(
        &self,
        key: &'k Key,
        from: &'k Bytes,
        rows_max: usize,
    ) -> Option<&'k Bytes> {
        let mut at = from;
        for reach in self.reaches.iter().rev() {
            at = self.step(key, at, *reach, false, false, &mut { rows_max })?;
        }
        Some(at)
    }

    /// The farthest row that a row which sees the one at `from` may see, before it or after it.
    fn far<'k>(
        &self,
        key: &'k Key,
        from: &'k Bytes,
        before: bool,
        left: &mut usize,
    ) -> Option<&'k Bytes> {
        let mut at = from;
        // A row before sees this one as far as it looks forwards; from there it looks backwards. What the first step gives is seen by the
        // second one, and so on; and what the last one sees was seen by the one before.
        for reach in self.reaches {
            at = self.step(key, at, *reach, before, !before, left)?;
        }
        for reach in self.reaches.iter().rev() {
            at = self.step(key, at, *reach, before, before, left)?;
        }
        Some(at)
    }

    /// Goes as far as one step looks, `backwards` or not, before or after the row at `at`, and to the end of the rows that are equal in order.
    fn step<'k>(
        &self,
        key: &'k Key,
        at: &'k Bytes,
        reach: Reach,
        before: bool,
        backwards: bool,
        left: &mut usize,
    ) -> Option<&'k Bytes> {
        let equals = |at| match before {
            true => key.first_of_equals(at),
            false => key.last_of_equals(at),
        };
        let at = equals(at);
        Some(match reach {
            Reach::Rows {
                before: some,
                after: others,
            } => {
                let rows = if backwards { some } else { others };
                equals(rows_from(key, at, rows, before, left)?)
            }
            Reach::Distance {
                before: some,
                after: others,
            } => {
                let distance = if backwards { some } else { others };
                let places = self.places?;
                self.by_distance(key, at, distance, before, places)
            }
        })
    }

    fn by_distance<'k>(
        &self,
        key: &'k Key,
        at: &'k Bytes,
        distance: i128,
        before: bool,
        places: &Places,
    ) -> &'k Bytes {
        let by = if before { -distance } else { distance };
        let Some(target) = places.shifted(key.place(at), by) else {
            return at;
        };
        if !before {
            return key.last_before(next(&target)).unwrap_or(at);
        }
        let from = (Bound::Included(target.as_slice()), Bound::Unbounded);
        let mut rows = key.rows.range::<[u8], _>(from);
        rows.next().map_or(at, |(bytes, _)| bytes)
    }
}

/// The parts of a key, which have no rows in common, if they have no more than `rows_max` rows.
pub fn if_few(parts: Vec<(&Bytes, &Bytes)>, key: &Key, rows_max: usize) -> Option<Vec<Part>> {
    let mut rows = 0;
    for (first, last) in &parts {
        let range = (Bound::Included(*first), Bound::Included(*last));
        for (_, entry) in key.rows.range::<Bytes, _>(range) {
            rows += entry.old.max(entry.new) as usize;
            if rows > rows_max {
                return None;
            }
        }
    }
    let part = |(first, last): (&Bytes, &Bytes)| (first.clone(), last.clone());
    Some(parts.into_iter().map(part).collect())
}

/// The row that is so many rows before or after another one, both before and after the epoch; the last one there is.
fn rows_from<'k>(
    key: &'k Key,
    at: &'k Bytes,
    rows: u64,
    before: bool,
    left: &mut usize,
) -> Option<&'k Bytes> {
    let (mut old, mut new) = (0, 0);
    let mut found = at;
    let mut go = |others: &mut dyn Iterator<Item = (&'k Bytes, &'k Entry)>| {
        while old.min(new) < rows
            && let Some((bytes, entry)) = others.next()
        {
            *left = left.checked_sub(1)?;
            old += entry.old.max(0) as u64;
            new += entry.new.max(0) as u64;
            found = bytes;
        }
        Some(())
    };
    match before {
        true => go(&mut key.rows.range::<Bytes, _>(..at).rev())?,
        false => {
            let behind = (Bound::Excluded(at), Bound::Unbounded);
            go(&mut key.rows.range::<Bytes, _>(behind))?;
        }
    }
    Some(found)
}

/// Reads and writes the bytes of the only column to order by.
pub struct Places {
    converter: RowConverter,
    parser: RowParser,
    data_type: DataType,
    descending: bool,
}

impl Places {
    /// `None` if there are more columns, or distances in it have no numbers.
    pub fn of(neighbourhood: &Neighbourhood, input: &SchemaRef) -> Option<Places> {
        let [by] = neighbourhood.order.as_slice() else {
            return None;
        };
        let data_type = input.field(by.column).data_type().clone();
        let options = SortOptions::new(by.descending, by.nulls_first);
        let field = SortField::new_with_options(data_type.clone(), options);
        let converter = RowConverter::new(vec![field]).ok()?;
        let known = matches!(
            data_type,
            DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Date32
                | DataType::Decimal128(..)
                | DataType::Timestamp(TimeUnit::Microsecond, _)
        );
        known.then(|| Places {
            parser: converter.parser(),
            converter,
            data_type,
            descending: by.descending,
        })
    }

    /// The place that is `by` later in the order; `None` for that of NULL.
    fn shifted(&self, place: &[u8], by: i128) -> Option<Vec<u8>> {
        let by = if self.descending { -by } else { by };
        let row = self.parser.parse(place);
        let columns = self.converter.convert_rows([row]);
        let columns = columns.expect("bytes that were made of such a value");
        let value = &columns[0];
        if value.is_null(0) {
            return None;
        }
        let shifted = match &self.data_type {
            DataType::Int16 => moved::<Int16Type>(value, by, i16::MIN, i16::MAX),
            DataType::Int32 => moved::<Int32Type>(value, by, i32::MIN, i32::MAX),
            DataType::Date32 => moved::<Date32Type>(value, by, i32::MIN, i32::MAX),
            DataType::Int64 => moved::<Int64Type>(value, by, i64::MIN, i64::MAX),
            DataType::Decimal128(..) => moved::<Decimal128Type>(value, by, i128::MIN, i128::MAX),
            _ => moved::<TimestampMicrosecondType>(value, by, i64::MIN, i64::MAX),
        };
        let rows = self.converter.convert_columns(&[shifted]);
        Some(rows.expect("the type it had").row(0).data().to_vec())
    }
}

/// A value plus `by`, or the end of its type.
fn moved<T>(value: &ArrayRef, by: i128, least: T::Native, greatest: T::Native) -> ArrayRef
where
    T: ArrowPrimitiveType,
    T::Native: Into<i128> + TryFrom<i128>,
{
    let v: i128 = value.as_primitive::<T>().value(0).into();
    let moved = T::Native::try_from(v.saturating_add(by));
    let moved = moved.unwrap_or(if by < 0 { least } else { greatest });
    let array = PrimitiveArray::<T>::from_iter_values([moved]);
    Arc::new(array.with_data_type(value.data_type().clone()))
}
