//! [`Body`]: an expression that is part of a function, over the function's arguments.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, DataFusionError, Result as DfResult};
use datafusion_expr::{Expr, ScalarFunctionArgs, Signature, TypeSignature, Volatility};
use datafusion_physical_expr::PhysicalExpr;

use super::shared::can_fail_anywhere;
use crate::compile::expr::physical;
use crate::functions::time_of;
use crate::tree::Tree;

/// See the module.
pub(super) struct Body {
    /// In it the columns `$0`, `$1`, … stand for the arguments.
    pub(super) expr: Expr,
    /// The same over arguments of certain types, which are always the same.
    compiled: OnceLock<(SchemaRef, Arc<dyn PhysicalExpr>)>,
}

impl Body {
    /// `e` over `args` and further arguments, which are added: what `is_argument` says, from the top, and what a body can't have
    /// in itself.
    pub fn new(e: Expr, args: &mut Vec<Expr>, is_argument: &dyn Fn(&Expr) -> bool) -> Body {
        let there = args.iter().enumerate();
        let mut places: HashMap<Expr, usize> = there.map(|(i, e)| (e.clone(), i)).collect();
        let expr = e.change_down(&mut |e| {
            if !is_of_row(&e) && !is_argument(&e) {
                return Ok(Transformed::no(e));
            }
            let i = *places.entry(e).or_insert_with_key(|e| {
                args.push(e.clone());
                args.len() - 1
            });
            let column = Expr::Column(Column::new_unqualified(format!("${i}")));
            Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
        });
        Body {
            expr: expr.expect("replacing columns can't fail").data,
            compiled: OnceLock::new(),
        }
    }

    /// The expression with other ones in the place of its arguments.
    pub fn over(&self, args: &[Expr]) -> Expr {
        let whole = self.expr.clone().change_up(&mut |e| {
            Ok(match &e {
                Expr::Column(c) => match place(c) {
                    Some(i) => Transformed::yes(args[i].clone()),
                    None => Transformed::no(e),
                },
                _ => Transformed::no(e),
            })
        });
        whole.expect("replacing columns can't fail").data
    }

    /// Whether evaluating it can fail.
    pub fn is_fallible(&self) -> bool {
        can_fail_anywhere(&self.expr)
    }

    /// What it gives for rows of arguments, as values of type `ty`.
    pub fn evaluate(&self, rows: &RecordBatch, ty: &DataType) -> DfResult<ArrayRef> {
        let body = self.compiled(rows.schema_ref())?;
        let out = body.evaluate(rows)?.into_array(rows.num_rows())?;
        match out.data_type() == ty {
            true => Ok(out),
            false => Ok(arrow::compute::cast(&out, ty)?),
        }
    }

    fn compiled(&self, schema: &SchemaRef) -> DfResult<Arc<dyn PhysicalExpr>> {
        let compile = || physical(&self.expr, &DFSchema::try_from(Arc::clone(schema))?);
        if let Some((of, compiled)) = self.compiled.get() {
            return match of == schema {
                true => Ok(Arc::clone(compiled)),
                false => compile(),
            };
        }
        let compiled = compile()?;
        // Whoever was faster compiled the same.
        let _ = self
            .compiled
            .set((Arc::clone(schema), Arc::clone(&compiled)));
        Ok(compiled)
    }
}

impl std::fmt::Display for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.expr.fmt(f)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.expr.fmt(f)
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.expr == other.expr
    }
}

impl Eq for Body {}

/// Any arguments.
pub(super) fn signature() -> Signature {
    let any = vec![TypeSignature::VariadicAny, TypeSignature::Nullary];
    Signature::one_of(any, Volatility::Immutable)
}

/// The arguments of a call as the rows of a body.
pub(super) fn rows_of(args: ScalarFunctionArgs) -> DfResult<RecordBatch> {
    let rows = args.number_rows;
    let columns = args.args.into_iter().map(|a| a.into_array(rows));
    let columns = columns.collect::<DfResult<Vec<_>>>()?;
    // As of other functions: the optimiser tries predicates on NULLs without a type.
    if columns.iter().any(|a| a.data_type() == &DataType::Null) {
        let message = "an expression is not defined for a NULL without a type";
        return Err(DataFusionError::Plan(message.into()));
    }
    let fields = columns.iter().enumerate();
    let fields: Vec<Field> = fields
        .map(|(i, a)| Field::new(format!("${i}"), a.data_type().clone(), true))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}

/// The argument that a column in a body stands for.
fn place(c: &Column) -> Option<usize> {
    let number = c.name.strip_prefix('$').filter(|_| c.relation.is_none())?;
    number.parse().ok()
}

/// What a body can't have in itself: what is known of a row, or only when the statement runs. It costs nothing, or is
/// computed whatever becomes of it.
pub(super) fn is_of_row(e: &Expr) -> bool {
    let leaf = matches!(
        e,
        Expr::Column(_)
            | Expr::OuterReferenceColumn(..)
            | Expr::Placeholder(_)
            | Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
    );
    leaf || time_of(e).is_some()
}
