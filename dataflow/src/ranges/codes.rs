//! Values of all ordered types as whole numbers in the same order.

use std::ops::RangeInclusive;

use arrow::array::cast::AsArray;
use arrow::array::types::{Decimal128Type, Float32Type, Float64Type, Int64Type};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion_common::Result;
use datafusion_expr::Operator;

use super::comparisons::Limit;
use super::order::{evaluated, total};

/// Decimals of so many digits are whole numbers of 64 bits.
const EXACT_DIGITS: u8 = 18;

/// For each row of the probing side, the limits of a code.
pub(super) struct Bounds(Vec<(ArrayRef, Vec<i64>, Operator)>);

impl Bounds {
    pub fn of(limits: &[Limit], rows: &RecordBatch, failed: &mut Vec<usize>) -> Result<Bounds> {
        let each = limits.iter().map(|limit| {
            let values = evaluated(&limit.value, rows, failed)?;
            let codes = codes(&values)?;
            Ok((values, codes, limit.op))
        });
        Ok(Bounds(each.collect::<Result<_>>()?))
    }

    /// Whether the codes say all.
    pub fn are_exact(&self) -> bool {
        self.0
            .iter()
            .all(|(values, ..)| is_exact(values.data_type()))
    }

    /// What the codes are between; `None`: nothing is.
    pub fn of_row(&self, row: usize) -> Option<RangeInclusive<i64>> {
        let (mut least, mut greatest) = (i64::MIN, i64::MAX);
        for (values, codes, op) in &self.0 {
            if values.is_null(row) {
                return None;
            }
            // Different values may have the same code.
            let step = i64::from(is_exact(values.data_type()));
            let code = codes[row];
            match op {
                Operator::Lt => greatest = greatest.min(code.checked_sub(step)?),
                Operator::LtEq => greatest = greatest.min(code),
                Operator::Gt => least = least.max(code.checked_add(step)?),
                Operator::GtEq => least = least.max(code),
                _ => (least, greatest) = (least.max(code), greatest.min(code)),
            }
        }
        (least <= greatest).then_some(least..=greatest)
    }
}

/// Whether different values have different [`codes`].
pub(super) fn is_exact(ty: &DataType) -> bool {
    match ty {
        DataType::Utf8View => false,
        DataType::Decimal128(digits, _) => *digits <= EXACT_DIGITS,
        _ => true,
    }
}

/// Numbers in the order of the values, whose type is ordered ([`super::is_ordered`]). Those of NULLs say nothing.
pub(super) fn codes(values: &ArrayRef) -> Result<Vec<i64>> {
    Ok(match values.data_type() {
        DataType::Boolean => {
            let values = values.as_boolean();
            let code = |at| i64::from(values.value(at));
            (0..values.len()).map(code).collect()
        }
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>().values().iter();
            values.map(|v| total(f64::from(*v))).collect()
        }
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>().values().iter();
            values.map(|v| total(*v)).collect()
        }
        DataType::Decimal128(digits, _) => {
            let numbers = values.as_primitive::<Decimal128Type>().values().iter();
            match *digits <= EXACT_DIGITS {
                true => numbers.map(|v| *v as i64).collect(),
                false => numbers.map(|v| total(*v as f64)).collect(),
            }
        }
        // The first bytes.
        DataType::Utf8View => {
            let values = values.as_string_view();
            let code = |at| {
                let text = values.value(at).as_bytes();
                let mut first = [0; 8];
                let known = text.len().min(first.len());
                first[..known].copy_from_slice(&text[..known]);
                (u64::from_be_bytes(first) ^ 1 << 63) as i64
            };
            (0..values.len()).map(code).collect()
        }
        _ => {
            let numbers = cast(values, &DataType::Int64)?;
            numbers.as_primitive::<Int64Type>().values().to_vec()
        }
    })
}
