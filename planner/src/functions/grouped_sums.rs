//! sum and avg of many groups at once.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, new_empty_array};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, i256};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{EmitTo, GroupsAccumulator};
use tidemill_zset::FloatSum;

use super::aggregate::{Form, overflow, sums_of, to_bytes};
use super::external;
use crate::error::SqlError;

/// What a sum of floats of about one size has on the heap.
const LIMBS_BYTES: usize = 4 * size_of::<i64>();

/// Running counts and sums, by the number of the group.
#[derive(Debug)]
pub(super) struct GroupSums {
    form: Form,
    counts: Vec<i64>,
    /// Of integers and decimals.
    exact: Vec<i128>,
    /// What didn't fit into `exact`.
    carried: HashMap<usize, i256>,
    /// Of floats.
    float: Vec<FloatSum>,
}

impl GroupSums {
    pub(super) fn new(form: Form) -> Self {
        GroupSums {
            form,
            counts: vec![],
            exact: vec![],
            carried: HashMap::new(),
            float: vec![],
        }
    }

    fn is_float(&self) -> bool {
        matches!(self.form.input, DataType::Float32 | DataType::Float64)
    }

    fn resize(&mut self, groups: usize) {
        self.counts.resize(groups, 0);
        match self.is_float() {
            true => self.float.resize(groups, FloatSum::new()),
            false => self.exact.resize(groups, 0),
        }
    }

    fn add(&mut self, group: usize, v: i128) -> Result<()> {
        let sum = &mut self.exact[group];
        match sum.checked_add(v) {
            Some(more) => *sum = more,
            None => {
                let full = std::mem::replace(sum, v);
                self.carry(group, i256::from_i128(full))?;
            }
        }
        Ok(())
    }

    fn carry(&mut self, group: usize, v: i256) -> Result<()> {
        let sum = self.carried.entry(group).or_insert(i256::ZERO);
        *sum = sum.checked_add(v).ok_or_else(overflow)?;
        Ok(())
    }

    /// Takes the first groups out: count and sum of each.
    fn emitted(&mut self, emit: EmitTo) -> Result<Vec<(i64, i256, FloatSum)>> {
        let all = self.counts.len();
        let counts = emit.take_needed(&mut self.counts);
        let n = counts.len();
        let mut exact = match self.is_float() {
            true => vec![0; n],
            false => emit.take_needed(&mut self.exact),
        }
        .into_iter();
        let mut float = match self.is_float() {
            true => emit.take_needed(&mut self.float).into_iter(),
            false => vec![].into_iter(),
        };
        let carried = std::mem::take(&mut self.carried);
        if n < all {
            let rest = carried.iter().filter(|(group, _)| **group >= n);
            self.carried = rest.map(|(group, v)| (group - n, *v)).collect();
        }
        let one = |(group, count)| {
            let exact = i256::from_i128(exact.next().unwrap_or_default());
            let carried = carried.get(&group).copied().unwrap_or(i256::ZERO);
            let exact = exact.checked_add(carried).ok_or_else(overflow)?;
            Ok((count, exact, float.next().unwrap_or_default()))
        };
        counts.into_iter().enumerate().map(one).collect()
    }
}

/// Calls `each` with group and value where there is one.
fn for_each<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    groups: &[usize],
    filter: Option<&BooleanArray>,
    mut each: impl FnMut(usize, T::Native) -> Result<()>,
) -> Result<()> {
    let values = values.as_primitive::<T>();
    let filter = filter.map(prep_null_mask_filter_of);
    if values.null_count() == 0 && filter.is_none() {
        for (v, group) in values.values().iter().zip(groups) {
            each(*group, *v)?;
        }
        return Ok(());
    }
    for (i, group) in groups.iter().enumerate() {
        if values.is_valid(i) && filter.as_ref().is_none_or(|f| f.value(i)) {
            each(*group, values.value(i))?;
        }
    }
    Ok(())
}

/// The filter with false for NULL.
fn prep_null_mask_filter_of(filter: &BooleanArray) -> BooleanArray {
    match filter.null_count() {
        0 => filter.clone(),
        _ => prep_null_mask_filter(filter),
    }
}

impl GroupsAccumulator for GroupSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.resize(total);
        let a = &values[0];
        macro_rules! exact {
            ($t:ty) => {
                for_each::<$t>(a, groups, filter, |group, v| {
                    self.counts[group] += 1;
                    self.add(group, v as i128)
                })
            };
        }
        macro_rules! float {
            ($t:ty) => {
                for_each::<$t>(a, groups, filter, |group, v| {
                    self.counts[group] += 1;
                    self.float[group].add(v as f64);
                    Ok(())
                })
            };
        }
        match &self.form.input {
            DataType::Int16 => exact!(Int16Type),
            DataType::Int32 => exact!(Int32Type),
            DataType::Int64 => exact!(Int64Type),
            DataType::Decimal128(..) => exact!(Decimal128Type),
            DataType::Float32 => float!(Float32Type),
            DataType::Float64 => float!(Float64Type),
            other => Err(external(SqlError::internal(format!("sum over {other}")))),
        }
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let groups = self.emitted(emit)?.into_iter();
        let results = groups.map(|(count, exact, float)| self.form.result(count, exact, &float));
        let results = results.collect::<Result<Vec<_>>>()?;
        match results.is_empty() {
            true => Ok(new_empty_array(&self.form.output)),
            false => ScalarValue::iter_to_array(results),
        }
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.emitted(emit)?;
        let counts: Int64Array = groups.iter().map(|g| Some(g.0)).collect();
        let sums = groups
            .iter()
            .map(|(_, exact, float)| Some(to_bytes(*exact, float)));
        let sums: BinaryArray = sums.collect();
        Ok(vec![Arc::new(counts), Arc::new(sums)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.resize(total);
        for (row, count, exact, float) in sums_of(states)? {
            let group = groups[row];
            self.counts[group] += count;
            match self.is_float() {
                true => self.float[group].merge(&float),
                false => match exact.to_i128() {
                    Some(sum) => self.add(group, sum)?,
                    None => self.carry(group, exact)?,
                },
            }
        }
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let mut each = GroupSums::new(self.form.clone());
        let rows: Vec<usize> = (0..values[0].len()).collect();
        each.update_batch(values, &rows, filter, rows.len())?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        size_of_val(self)
            + self.counts.capacity() * size_of::<i64>()
            + self.exact.capacity() * size_of::<i128>()
            + self.float.capacity() * (size_of::<FloatSum>() + LIMBS_BYTES)
            + self.carried.capacity() * size_of::<(usize, i256)>()
    }
}
