//! Calls whose last arguments are the elements of an array: `format(f, VARIADIC a)`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, new_empty_array, new_null_array};
use tidemill_zset::schema::SqlType;

use super::registry::{CallTypes, Make};
use super::{Args, Kernel};

/// Such a call.
pub(crate) struct Spread {
    /// Makes the function's kernel for so many elements.
    pub make: Make,
    /// Types of the arguments before the array.
    pub fixed: Vec<SqlType>,
    /// The type of the array's elements.
    pub of: SqlType,
    /// The function's result.
    pub ret: SqlType,
    /// The session's time zone.
    pub zone: String,
    /// NULL for the array is one without elements; else the call gives NULL.
    pub null_is_empty: bool,
}

impl Spread {
    pub fn kernel(self) -> Kernel {
        Arc::new(move |a: &Args| {
            let (n, ty) = (self.fixed.len(), self.ret.field("", true));
            let lists = a.arrays[n].as_list::<i32>();
            let mut kernels: HashMap<usize, Kernel> = HashMap::new();
            let mut out: Vec<ArrayRef> = Vec::with_capacity(a.rows);
            for row in 0..a.rows {
                let at = a.at(n, row);
                let items = match lists.is_null(at) {
                    true if self.null_is_empty => lists.values().slice(0, 0),
                    true => {
                        out.push(new_null_array(ty.data_type(), 1));
                        continue;
                    }
                    false => lists.value(at),
                };
                let kernel = kernels
                    .entry(items.len())
                    .or_insert_with(|| self.for_elements(items.len()));
                let fixed = (0..n).map(|i| a.arrays[i].slice(a.at(i, row), 1));
                let each = (0..items.len()).map(|i| items.slice(i, 1));
                let arrays = fixed.chain(each).collect();
                out.push(kernel(&Args { arrays, rows: 1 })?);
            }
            let out: Vec<&dyn Array> = out.iter().map(AsRef::as_ref).collect();
            match out.is_empty() {
                true => Ok(new_empty_array(ty.data_type())),
                false => Ok(arrow::compute::concat(&out)?),
            }
        })
    }

    fn for_elements(&self, count: usize) -> Kernel {
        let mut args = self.fixed.clone();
        args.resize(args.len() + count, self.of.clone());
        (self.make)(&CallTypes {
            args: &args,
            ret: &self.ret,
            zone: &self.zone,
        })
    }
}
