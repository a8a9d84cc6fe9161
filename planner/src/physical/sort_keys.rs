//! Keys of rows to sort, packed into few bits.
//!
//! Sorting compares neighbours twenty times each, so a comparison had better be one of integers. The columns' values are known to their
//! extremes before anything is sorted: a number takes as many bits as its column's range has, a text so many bytes as there is room for.
//! What doesn't fit into 128 bits is compared where that much is equal ([`Packing::open`]).

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::{Result, internal_err};

/// Bits of a key.
const BITS: u32 = u128::BITS;

/// How columns become keys.
#[derive(Debug)]
pub(super) struct Packing {
    fields: Vec<Field>,
    /// Bits of a key that are used.
    pub bits: u32,
    /// The first column that keys don't tell all of; it and those after it are to be compared where keys are equal.
    pub open: Option<usize>,
}

/// A column's part of the key.
#[derive(Debug)]
struct Field {
    options: SortOptions,
    /// Whether there is a bit that says which side of the others NULLs are on.
    nulls: bool,
    values: Values,
    /// Bits of a value that are kept: the first ones.
    bits: u32,
}

#[derive(Debug)]
enum Values {
    /// Numbers of at most so many bits, of which the least is subtracted.
    Numbers { least: i128, bits: u32 },
    /// The first bytes behind those that all values begin with, and where `length` their number, which tells apart values that zeros
    /// follow.
    Bytes {
        same: usize,
        bytes: u32,
        length: bool,
    },
}

impl Packing {
    /// For sorting by `columns`, each given as its parts.
    pub fn of(columns: &[Vec<ArrayRef>], options: &[SortOptions]) -> Result<Self> {
        let mut packing = Packing {
            fields: vec![],
            bits: 0,
            open: None,
        };
        for (i, (parts, options)) in columns.iter().zip(options).enumerate() {
            let nulls = parts.iter().any(|p| p.null_count() > 0);
            let Some(left) = (BITS - packing.bits).checked_sub(u32::from(nulls)) else {
                packing.open = Some(i);
                break;
            };
            let Some((values, wanted)) = values(parts, left)? else {
                packing.open = Some(i);
                break;
            };
            let bits = wanted.min(left);
            packing.bits += bits + u32::from(nulls);
            packing.fields.push(Field {
                options: *options,
                nulls,
                values,
                bits,
            });
            if bits < wanted {
                packing.open = Some(i);
                break;
            }
        }
        Ok(packing)
    }

    /// The keys of a part's rows. `columns` are the part's.
    pub fn keys(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u128>> {
        let mut keys = vec![0; rows];
        for (field, column) in self.fields.iter().zip(columns) {
            field.add(&mut keys, column)?;
        }
        Ok(keys)
    }
}

/// How values of a column are told apart with `left` bits, and how many bits all of them would take; `None` if they can't be in order.
fn values(parts: &[ArrayRef], left: u32) -> Result<Option<(Values, u32)>> {
    let Some(first) = parts.first() else {
        return Ok(None);
    };
    if is_bytes(first.data_type()) {
        let mut longest = 0;
        let mut beginning: Option<Vec<u8>> = None;
        for part in parts {
            each_bytes(part, |_, value| {
                longest = longest.max(value.len());
                let known = beginning.get_or_insert_with(|| value.to_vec());
                if !value.starts_with(known) {
                    known.truncate(common(known, value));
                }
            })?;
        }
        let same = beginning.map_or(0, |b| b.len());
        let longest = longest - same;
        let length = matches!(
            first.data_type(),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView
        );
        let all = longest as u64 * 8 + if length { 8 } else { 0 };
        return Ok(Some(match all <= u64::from(left) {
            true => {
                let bytes = longest as u32;
                (
                    Values::Bytes {
                        same,
                        bytes,
                        length,
                    },
                    all as u32,
                )
            }
            // More than there is room for, so that the column is open.
            false => {
                let bytes = left / 8;
                let length = false;
                (
                    Values::Bytes {
                        same,
                        bytes,
                        length,
                    },
                    left + 1,
                )
            }
        }));
    }
    let mut extremes: Option<(i128, i128)> = None;
    for part in parts {
        let mut found = extremes.unwrap_or((i128::MAX, i128::MIN));
        let known = each_number(part, |_, v| found = (found.0.min(v), found.1.max(v)))?;
        if !known {
            return Ok(None);
        }
        extremes = (found.0 <= found.1).then_some(found);
    }
    let (least, greatest) = extremes.unwrap_or((0, 0));
    let bits = BITS - (greatest.wrapping_sub(least) as u128).leading_zeros();
    Ok(Some((Values::Numbers { least, bits }, bits)))
}

impl Field {
    /// Puts the column's part behind what the keys have.
    fn add(&self, keys: &mut [u128], column: &ArrayRef) -> Result<()> {
        let mask = match self.bits {
            0 => 0,
            bits => u128::MAX >> (BITS - bits),
        };
        let flip = if self.options.descending { mask } else { 0 };
        // The bit of values is set where NULLs come before them.
        let (valid, null) = match (self.nulls, self.options.nulls_first) {
            (false, _) => (0, 0),
            (true, true) => (up(1, self.bits), 0),
            (true, false) => (0, up(1, self.bits)),
        };
        let width = self.bits + u32::from(self.nulls);
        if self.nulls {
            for key in keys.iter_mut() {
                *key = up(*key, width) | null;
            }
        } else {
            for key in keys.iter_mut() {
                *key = up(*key, width);
            }
        }
        let mut put = |row: usize, bits: u128| {
            keys[row] = keys[row] & !(mask | null) | valid | (bits & mask) ^ flip;
        };
        match self.values {
            Values::Numbers { least, bits } => {
                let drop = bits - self.bits;
                each_number(column, |row, v| {
                    put(row, down(v.wrapping_sub(least) as u128, drop));
                })?;
            }
            Values::Bytes {
                same,
                bytes,
                length,
            } => {
                // Fewer bits than the bytes have are never kept; there may be some more, which stay zero.
                let used = bytes * 8 + if length { 8 } else { 0 };
                let pad = self.bits - used;
                each_bytes(column, |row, value| {
                    let value = &value[same..];
                    let n = value.len().min(bytes as usize);
                    let mut first = [0; 16];
                    first[..n].copy_from_slice(&value[..n]);
                    let mut bits = down(u128::from_be_bytes(first), BITS - bytes * 8);
                    if length {
                        bits = up(bits, 8) | value.len() as u128;
                    }
                    put(row, up(bits, pad));
                })?;
            }
        }
        Ok(())
    }
}

/// `v << by`, also by all bits.
fn up(v: u128, by: u32) -> u128 {
    v.checked_shl(by).unwrap_or(0)
}

/// `v >> by`, also by all bits.
fn down(v: u128, by: u32) -> u128 {
    v.checked_shr(by).unwrap_or(0)
}

/// How many bytes two values begin with alike.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn is_bytes(t: &DataType) -> bool {
    use DataType::*;
    matches!(
        t,
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView
    )
}

/// Calls `each` with row and bytes of those that aren't NULL.
fn each_bytes(column: &ArrayRef, mut each: impl FnMut(usize, &[u8])) -> Result<()> {
    macro_rules! all {
        ($array:expr, $bytes:expr) => {
            for (row, v) in $array.iter().enumerate() {
                if let Some(v) = v {
                    each(row, $bytes(v));
                }
            }
        };
    }
    match column.data_type() {
        DataType::Utf8 => all!(column.as_string::<i32>(), str::as_bytes),
        DataType::LargeUtf8 => all!(column.as_string::<i64>(), str::as_bytes),
        DataType::Utf8View => all!(column.as_string_view(), str::as_bytes),
        DataType::Binary => all!(column.as_binary::<i32>(), |v| v),
        DataType::LargeBinary => all!(column.as_binary::<i64>(), |v| v),
        DataType::BinaryView => all!(column.as_binary_view(), |v| v),
        other => return internal_err!("{other} has no bytes"),
    }
    Ok(())
}

/// Calls `each` with row and value, as a number in the same order, of those that aren't NULL; `false` if there are no such numbers.
fn each_number(column: &ArrayRef, mut each: impl FnMut(usize, i128)) -> Result<bool> {
    use DataType::*;
    macro_rules! all {
        ($t:ty, $number:expr) => {
            each_value::<$t>(column, |row, v| each(row, $number(v)))
        };
        ($t:ty) => {
            all!($t, i128::from)
        };
    }
    match column.data_type() {
        Null => {}
        Boolean => {
            for (row, v) in column.as_boolean().iter().enumerate() {
                if let Some(v) = v {
                    each(row, i128::from(v));
                }
            }
        }
        Int8 => all!(Int8Type),
        Int16 => all!(Int16Type),
        Int32 => all!(Int32Type),
        Int64 => all!(Int64Type),
        UInt8 => all!(UInt8Type),
        UInt16 => all!(UInt16Type),
        UInt32 => all!(UInt32Type),
        UInt64 => all!(UInt64Type),
        Date32 => all!(Date32Type),
        Time64(TimeUnit::Microsecond) => all!(Time64MicrosecondType),
        Timestamp(TimeUnit::Microsecond, _) => all!(TimestampMicrosecondType),
        Decimal128(..) => all!(Decimal128Type),
        // Their total order, which is the one that Arrow sorts by: as integers, with the order of negative ones turned round.
        Float32 => all!(Float32Type, |v: f32| {
            let bits = v.to_bits() as i32;
            i128::from(bits ^ ((bits >> 31) as u32 >> 1) as i32)
        }),
        Float64 => all!(Float64Type, |v: f64| {
            let bits = v.to_bits() as i64;
            i128::from(bits ^ ((bits >> 63) as u64 >> 1) as i64)
        }),
        _ => return Ok(false),
    }
    Ok(true)
}

fn each_value<T: ArrowPrimitiveType>(column: &ArrayRef, mut each: impl FnMut(usize, T::Native)) {
    let column = column.as_primitive::<T>();
    let values = column.values().iter().enumerate();
    match column.nulls() {
        None => values.for_each(|(row, v)| each(row, *v)),
        Some(nulls) => values
            .filter(|(row, _)| nulls.is_valid(*row))
            .for_each(|(row, v)| each(row, *v)),
    }
}
