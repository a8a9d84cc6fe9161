//! UNION ALL: passes the rows of every input on under its own schema.

use arrow::datatypes::SchemaRef;
use tidemill_zset::{Delta, Epoch};

use crate::operator::{Operator, Output};
use crate::operators::map::conform;

/// See the module.
pub struct Union {
    schema: SchemaRef,
}

impl Union {
    /// A union whose output has `schema`.
    pub fn new(schema: SchemaRef) -> Self {
        Union { schema }
    }
}

impl Operator for Union {
    fn push(&mut self, _port: usize, delta: Delta, out: &mut Output) {
        if !delta.is_empty() {
            let rows = conform(&self.schema, delta.rows.columns().to_vec(), delta.len());
            out.rows.push(Delta {
                rows,
                diffs: delta.diffs,
            });
        }
    }

    fn finish(&mut self, _epoch: Epoch, _out: &mut Output) {}

    fn only_passes(&self) -> bool {
        true
    }
}
