//! Values in order, per group, for min and max.

use arrow::datatypes::DataType;

/// True if min and max of the type are kept.
pub fn ordered(t: &DataType) -> bool {
    !t.is_nested() && !matches!(t, DataType::Null)
}
