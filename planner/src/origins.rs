//! Which column of which relation a result's column is: clients that let users edit results ask for it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::Column;
use datafusion_expr::{Distinct, Expr, LogicalPlan};

use crate::compile::expr::unalias;

/// A field's metadata that says it: `oid.number`, the relation's oid in pg_class and the column's number from 1.
const ORIGIN_KEY: &str = "tidemill.origin";

/// A column of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The relation's oid in pg_class.
    pub oid: u32,
    /// The column's number, from 1.
    pub number: i16,
}

/// Origins of the columns of relations as a plan names them.
pub(crate) type Origins = HashMap<Column, Origin>;

/// `columns` with the origins of the plan's columns `of`.
pub(crate) fn described(
    plan: &LogicalPlan,
    of: &[Column],
    origins: &Origins,
    columns: &SchemaRef,
) -> SchemaRef {
    if origins.is_empty() {
        return Arc::clone(columns);
    }
    let fields = columns.fields().iter().zip(of);
    let fields = fields.map(|(field, column)| match origin(plan, column, origins) {
        None => Arc::clone(field),
        Some(Origin { oid, number }) => {
            let mut metadata = field.metadata().clone();
            metadata.insert(ORIGIN_KEY.into(), format!("{oid}.{number}"));
            Arc::new(field.as_ref().clone().with_metadata(metadata))
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The origin that a field of a plan's described columns has.
pub fn origin_of(field: &Field) -> Option<Origin> {
    let (oid, number) = field.metadata().get(ORIGIN_KEY)?.split_once('.')?;
    Some(Origin {
        oid: oid.parse().ok()?,
        number: number.parse().ok()?,
    })
}

/// Follows a column down to the relation that it is shown of unchanged.
fn origin(plan: &LogicalPlan, column: &Column, origins: &Origins) -> Option<Origin> {
    if let Some(origin) = origins.get(column) {
        return Some(*origin);
    }
    let place = || plan.schema().maybe_index_of_column(column);
    match plan {
        LogicalPlan::Projection(p) => match unalias(&p.expr[place()?]) {
            Expr::Column(below) => origin(&p.input, below, origins),
            _ => None,
        },
        LogicalPlan::SubqueryAlias(a) => {
            let (qualifier, field) = a.input.schema().qualified_field(place()?);
            origin(&a.input, &Column::from((qualifier, field)), origins)
        }
        LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => {
            let inputs = plan.inputs().into_iter();
            let mut having = inputs.filter(|i| i.schema().has_column(column));
            having.find_map(|i| origin(i, column, origins))
        }
        LogicalPlan::Aggregate(a) => {
            let key = a
                .group_expr
                .iter()
                .any(|e| matches!(e, Expr::Column(c) if c == column));
            key.then(|| origin(&a.input, column, origins)).flatten()
        }
        _ => None,
    }
}
