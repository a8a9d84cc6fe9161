//! What the runtime does to the rows of [`Op::Input`](crate::plan::Op::Input) before they enter a dataflow.

use arrow::datatypes::SchemaRef;
use tidemill_zset::Delta;

use crate::operators::map::conform;

/// `delta` of a collection reduced to `columns`, as rows of `schema`. Copies nothing.
pub fn project(delta: &Delta, columns: &[usize], schema: &SchemaRef) -> Delta {
    let arrays = columns
        .iter()
        .map(|c| delta.rows.column(*c).clone())
        .collect();
    Delta {
        rows: conform(schema, arrays, delta.len()),
        diffs: delta.diffs.clone(),
    }
}
