//! Names of the columns that the optimiser makes of expressions which occur several times.
//!
//! It counts them, so that copies of one part of a query, of which each has such columns, were never equal: a chain of WITH queries that are each named twice was
//! a dataflow of two, four, eight of each, not of one. A pass over a finished plan, in which a column's name says nothing but where it is among its
//! node's.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion_physical_expr::expressions::Column;
use tidemill_dataflow::plan::{Node, Op};

use super::expr::{self, Physical};

/// What the names begin with that DataFusion gives.
const COMMON: &str = "__common_expr_";

/// The plan with such columns named by their places.
pub(super) fn by_place(root: Node) -> Node {
    match has_common(&root) {
        true => renamed(root),
        false => root,
    }
}

fn is_common(field: &Field) -> bool {
    field.name().starts_with(COMMON)
}

fn has_common(node: &Node) -> bool {
    node.schema.fields().iter().any(|f| is_common(f)) || node.inputs.iter().any(has_common)
}

fn renamed(node: Node) -> Node {
    let inputs: Vec<Node> = node.inputs.into_iter().map(renamed).collect();
    // Those of a join's right side come after those of the left.
    let columns = inputs.iter().flat_map(|input| input.schema.fields());
    let columns = columns.enumerate();
    let columns: Vec<Physical> = columns
        .map(|(i, field)| Arc::new(Column::new(field.name(), i)) as Physical)
        .collect();
    let over = |e: Physical| expr::substitute(&e, &columns);
    let op = match node.op {
        Op::Map {
            predicate,
            projection,
        } => Op::Map {
            predicate: predicate.map(over),
            projection: projection.map(|exprs| exprs.into_iter().map(over).collect()),
        },
        Op::Join {
            kind,
            on,
            null_equals_null,
            filter,
        } => Op::Join {
            kind,
            on,
            null_equals_null,
            filter: filter.map(over),
        },
        op => op,
    };
    let place = |(i, field): (usize, &Arc<Field>)| match is_common(field) {
        true => Arc::new(field.as_ref().clone().with_name(format!("common_{i}"))),
        false => Arc::clone(field),
    };
    let fields = node.schema.fields().iter().enumerate().map(place);
    let metadata = node.schema.metadata().clone();
    Node {
        op,
        inputs,
        schema: Arc::new(Schema::new_with_metadata(
            fields.collect::<Vec<_>>(),
            metadata,
        )),
        append_only: node.append_only,
    }
}
