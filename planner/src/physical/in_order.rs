//! [`InOrderExpr`]: conditions of a join, of which those that can fail see only pairs that passed the others.
//!
//! DataFusion evaluates what stands after an AND for all pairs, if not few of them pass what stands before it. Above a scan
//! several filters do ([`super::fallible_last`]); a join has one.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{and, prep_null_mask_filter};
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion_common::{Result, internal_err};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::utils::split_conjunction;

/// A conjunction of two conditions or more.
#[derive(Debug)]
pub(crate) struct InOrderExpr {
    /// The condition as DataFusion has it.
    whole: Arc<dyn PhysicalExpr>,
    parts: Vec<Arc<dyn PhysicalExpr>>,
}

impl InOrderExpr {
    /// The condition, evaluated part by part if one of its parts can fail.
    pub(crate) fn of(whole: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let (mut parts, mut fallible) = (Vec::new(), Vec::new());
        for part in split_conjunction(whole) {
            match super::can_fail(part)? {
                true => fallible.push(Arc::clone(part)),
                false => parts.push(Arc::clone(part)),
            }
        }
        let any = !fallible.is_empty();
        parts.extend(fallible);
        Ok(match any && parts.len() > 1 {
            true => Arc::new(InOrderExpr {
                whole: Arc::clone(whole),
                parts,
            }),
            false => Arc::clone(whole),
        })
    }
}

impl PartialEq for InOrderExpr {
    fn eq(&self, other: &Self) -> bool {
        self.whole.eq(&other.whole)
    }
}

impl Eq for InOrderExpr {}

impl Hash for InOrderExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.whole.hash(state);
    }
}

impl fmt::Display for InOrderExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt(f)
    }
}

impl PhysicalExpr for InOrderExpr {
    fn return_field(&self, input: &Schema) -> Result<FieldRef> {
        self.whole.return_field(input)
    }

    fn data_type(&self, input: &Schema) -> Result<DataType> {
        self.whole.data_type(input)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    /// True where all parts are; false elsewhere, also where one is NULL.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let mut passed = BooleanArray::new(
            arrow::buffer::BooleanBuffer::new_set(batch.num_rows()),
            None,
        );
        for part in &self.parts {
            let value = part.evaluate_selection(batch, &passed)?;
            let value = value.into_array(batch.num_rows())?;
            let value = value.as_boolean();
            passed = match value.null_count() {
                0 => and(&passed, value)?,
                _ => and(&passed, &prep_null_mask_filter(value))?,
            };
            if !passed.has_true() {
                break;
            }
        }
        Ok(ColumnarValue::Array(Arc::new(passed)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.whole]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        match children.as_slice() {
            [whole] => InOrderExpr::of(whole),
            _ => internal_err!("conditions in order are those of one"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.whole.fmt_sql(f)
    }
}
