//! `array_agg(DISTINCT x ORDER BY x)`: the values once each, in order.
//!
//! DataFusion sorts the input of all aggregates of a query in one way, and relies on it for DISTINCT, so that several of them in
//! different orders would all get that of one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::row::{RowConverter, SortField};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

/// An aggregate of a value and of what it is compared by: the list of the values, NULL without any.
pub(crate) fn distinct_list(order: SortOptions) -> Arc<AggregateUDF> {
    let direction = if order.descending { "desc" } else { "asc" };
    let nulls = if order.nulls_first { "first" } else { "last" };
    Arc::new(AggregateUDF::new_from_impl(DistinctList {
        // The name says everything: what is stored of a view is told apart by it.
        name: format!("distinct_array_agg {direction} nulls {nulls}"),
        order,
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DistinctList {
    name: String,
    order: SortOptions,
    signature: Signature,
}

fn list_of(of: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(of.clone(), true)))
}

impl AggregateUDFImpl for DistinctList {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(list_of(&args[0]))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let fields = args.input_fields.iter().enumerate();
        let fields = fields.map(|(i, f)| {
            let name = format!("{}[{i}]", args.name);
            Arc::new(Field::new(name, list_of(f.data_type()), true))
        });
        Ok(fields.collect())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let types = args.expr_fields.iter().map(|f| f.data_type().clone());
        let types: Vec<DataType> = types.collect();
        let key = SortField::new_with_options(types[1].clone(), self.order);
        Ok(Box::new(Values {
            keys: RowConverter::new(vec![key])?,
            types,
            values: BTreeMap::new(),
        }))
    }
}

#[derive(Debug)]
struct Values {
    keys: RowConverter,
    /// Of value and key.
    types: Vec<DataType>,
    /// Value and key by the key's place in the order.
    values: BTreeMap<Box<[u8]>, [ScalarValue; 2]>,
}

impl Values {
    /// Of two equal values that look different the one that is shown: the interval in the largest units, else the first.
    fn is_shown(new: &ScalarValue, old: &ScalarValue) -> bool {
        match new {
            ScalarValue::IntervalMonthDayNano(_) => new > old,
            _ => new < old,
        }
    }

    fn lists(&self) -> Vec<ScalarValue> {
        let list = |i: usize| {
            let items: Vec<ScalarValue> = self.values.values().map(|v| v[i].clone()).collect();
            ScalarValue::List(ScalarValue::new_list_nullable(&items, &self.types[i]))
        };
        vec![list(0), list(1)]
    }
}

impl Accumulator for Values {
    fn update_batch(&mut self, args: &[ArrayRef]) -> Result<()> {
        let rows = self.keys.convert_columns(&args[1..2])?;
        for (i, key) in rows.iter().enumerate() {
            let value = |column: usize| ScalarValue::try_from_array(&args[column], i);
            match self.values.entry(key.as_ref().into()) {
                Entry::Vacant(free) => {
                    free.insert([value(0)?, value(1)?]);
                }
                Entry::Occupied(mut taken) => {
                    let new = value(0)?;
                    if Self::is_shown(&new, &taken.get()[0]) {
                        taken.get_mut()[0] = new;
                    }
                }
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.values.is_empty() {
            return ScalarValue::try_new_null(&list_of(&self.types[0]));
        }
        Ok(self.lists().swap_remove(0))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(self.lists())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (values, keys) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for i in 0..values.len() {
            self.update_batch(&[values.value(i), keys.value(i)])?;
        }
        Ok(())
    }

    fn size(&self) -> usize {
        let keys = self.values.keys().map(|key| key.len()).sum::<usize>();
        let values = self.values.values().flatten().map(ScalarValue::size);
        size_of_val(self) + self.keys.size() + keys + values.sum::<usize>()
    }
}
