//! The general operator: cuts the smallest subtree that no operator has out of the plan, compiles what is below
//! it, and makes it a batch program over those inputs, per key where the plan has one.

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema};
use datafusion_expr::logical_plan::Projection;
use datafusion_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder};
use tidemill_dataflow::plan::{Node, Op};

use super::expr::unalias;
use super::neighbourhood::neighbourhood;
use super::running::running;
use super::{Compiler, Piece, node, order, rows, rules, schema_of};
use crate::error::{Result, SqlError, from_datafusion};
use crate::interrupt;
use crate::part::leaf_named;
use crate::program::{InputTable, Program};
use crate::tree::{PlanTree, Tree};

/// Rows of a subtree without inputs, e.g. a table function: they are held in the plan.
const CONSTANT_ROWS_MAX: usize = 1_000_000;

/// The inputs of a program under construction.
#[derive(Default)]
pub(super) struct Cut {
    /// The operators that give them.
    pub inputs: Vec<Node>,
    /// Their columns.
    pub schemas: Vec<SchemaRef>,
    /// Names of the recursive queries around.
    work_tables: Vec<String>,
}

impl Compiler<'_> {
    /// The general operator over the whole input of `plan`.
    pub(super) fn recompute(&mut self, plan: &LogicalPlan, reason: &str) -> Result<Piece> {
        let mut cut = Cut::default();
        let mut fragment = self.cut(plan, false, &mut cut)?;
        let width = plan.schema().fields().len();
        if width > 0 && fragment.schema().fields().len() != width {
            // What stands for an input without columns has some.
            let own = plan.schema().columns().into_iter().map(Expr::Column);
            let chosen = Projection::try_new(own.collect(), Arc::new(fragment));
            fragment = LogicalPlan::Projection(chosen.map_err(|e| from_datafusion(&e))?);
        }
        if width == 0 {
            // Only the number of rows matters, but a stored row has a column.
            let row = datafusion_expr::lit(true).alias("row");
            let counted = Projection::try_new(vec![row], Arc::new(fragment));
            fragment = LogicalPlan::Projection(counted.map_err(|e| from_datafusion(&e))?);
        }
        let schema = schema_of(fragment.schema());
        if cut.inputs.is_empty() {
            let piece = constant(fragment, schema)?;
            return Ok(Piece { width, ..piece });
        }
        let near = neighbourhood(&fragment, &[]);
        let program = Program::try_new(fragment, cut.schemas, schema.clone())
            .map_err(|e| from_datafusion(&e))?
            .with_neighbourhood(near, running);
        let keys = vec![vec![]; cut.inputs.len()];
        let op = Op::Recompute {
            keys,
            program: Arc::new(program),
            reason: format!("{reason}: the whole input"),
        };
        let piece = Piece::new(node(op, cut.inputs, schema, false));
        Ok(Piece { width, ..piece })
    }

    /// An aggregate that only the general operator has, by its keys.
    pub(super) fn keyed(
        &mut self,
        plan: &LogicalPlan,
        input: &LogicalPlan,
        keys: &[Expr],
        reason: &str,
    ) -> Result<Piece> {
        let LogicalPlan::Aggregate(a) = plan else {
            return self.recompute(plan, reason);
        };
        let (input, columns) = with_columns(input, keys)?;
        let mut cut = Cut::default();
        let leaf = self.leaf(&input, &mut cut)?;
        let at = columns
            .iter()
            .map(|c| input.schema().index_of_column(c))
            .collect::<datafusion_common::Result<Vec<_>>>();
        let at = at.map_err(|e| from_datafusion(&e))?;
        let groups = columns.into_iter().map(Expr::Column).collect();
        let fragment = Aggregate::try_new(Arc::new(leaf), groups, a.aggr_expr.clone())
            .map_err(|e| from_datafusion(&e))?;
        let schema = schema_of(&a.schema);
        let program = Program::try_new(
            LogicalPlan::Aggregate(fragment),
            cut.schemas,
            schema.clone(),
        )
        .map_err(|e| from_datafusion(&e))?;
        let unique = (0..keys.len()).collect();
        let reason = match keys.is_empty() {
            true => format!("{reason}: the whole input"),
            false => reason.to_string(),
        };
        let op = Op::Recompute {
            keys: vec![at],
            program: Arc::new(program),
            reason,
        };
        Ok(Piece::new(node(op, cut.inputs, schema, false)).unique(Some(unique)))
    }

    /// `plan` with its inputs replaced. `ordered`: its parent relies on the order of its rows.
    fn cut(&mut self, plan: &LogicalPlan, ordered: bool, cut: &mut Cut) -> Result<LogicalPlan> {
        if let LogicalPlan::RecursiveQuery(r) = plan {
            cut.work_tables.push(r.name.clone());
        }
        let wants_order = matches!(plan, LogicalPlan::Limit(_) | LogicalPlan::Window(_))
            || ordered
                && (order::by_rounds(plan)
                    || matches!(
                        plan,
                        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_)
                    ));
        let mut failed = None;
        let mut replace =
            |child: LogicalPlan, ordered: bool| match self.cut_child(&child, ordered, cut) {
                Ok(plan) => Ok(Transformed::yes(plan)),
                Err(e) => {
                    failed = Some(e);
                    datafusion_common::plan_err!("refused")
                }
            };
        let rebuilt = plan
            .clone()
            .change_children(&mut |child| replace(child, wants_order))
            .and_then(|t| {
                t.data.change_subqueries(&mut |subquery| match subquery {
                    LogicalPlan::Subquery(s) => {
                        let inner = replace(s.subquery.as_ref().clone(), false)?;
                        Ok(Transformed::yes(LogicalPlan::Subquery(
                            s.with_plan(Arc::new(inner.data)),
                        )))
                    }
                    other => replace(other, false),
                })
            })
            .and_then(|t| t.data.recompute_schema());
        if let LogicalPlan::RecursiveQuery(_) = plan {
            cut.work_tables.pop();
        }
        match failed {
            Some(e) => Err(e),
            None => rebuilt.map_err(|e| from_datafusion(&e)),
        }
    }

    fn cut_child(
        &mut self,
        child: &LogicalPlan,
        ordered: bool,
        cut: &mut Cut,
    ) -> Result<LogicalPlan> {
        let mut collections = 0;
        let mut free = true;
        child
            .walk_all(&mut |node| {
                if let LogicalPlan::TableScan(scan) = node {
                    match self.is_collection(scan) {
                        true => collections += 1,
                        false => {
                            free &= !cut.work_tables.iter().any(|w| w == scan.table_name.table())
                        }
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .map_err(|e| from_datafusion(&e))?;
        let outer = rules::has_outer_reference(child).map_err(|e| from_datafusion(&e))?;
        if collections == 0 {
            return Ok(child.clone());
        }
        if outer || !free || ordered && (order::is_sorted(child) || order::by_rounds(child)) {
            return self.cut(child, ordered, cut);
        }
        self.leaf(child, cut)
    }

    /// Compiles `plan` and gives the leaf that stands for it in the program.
    pub(super) fn leaf(&mut self, plan: &LogicalPlan, cut: &mut Cut) -> Result<LogicalPlan> {
        let piece = rows::strip(self.piece(plan)?);
        self.last_unique = piece.unique;
        let (leaf, columns) = leaf_of(cut.inputs.len(), &piece.node.schema, plan.schema())?;
        cut.inputs.push(piece.node);
        cut.schemas.push(columns);
        Ok(leaf)
    }
}

/// The leaf of a program that stands for its input number `index`, of the columns `schema`, which the program calls as `named` says; and the
/// columns of that input for [`Program::try_new`].
pub(super) fn leaf_of(
    index: usize,
    schema: &Schema,
    named: &DFSchema,
) -> Result<(LogicalPlan, SchemaRef)> {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| field.as_ref().clone().with_name(format!("c{i}")))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let table: Arc<dyn TableProvider> = Arc::new(InputTable::new(index, schema.clone()));
    let leaf = leaf_named(format!("input_{index}"), table, named);
    Ok((leaf.map_err(|e| from_datafusion(&e))?, schema))
}

/// A program without inputs is run once, now.
fn constant(fragment: LogicalPlan, schema: SchemaRef) -> Result<Piece> {
    let stop = interrupt::asked();
    let run = || {
        let bounded = LogicalPlanBuilder::from(fragment).limit(0, Some(CONSTANT_ROWS_MAX + 1))?;
        Program::try_new(bounded.build()?, vec![], schema.clone())?.execute(vec![], &stop)
    };
    let batches = run().map_err(|e| from_datafusion(&e))?;
    let rows = concat_batches(&schema, &batches).map_err(|e| SqlError::internal(e.to_string()))?;
    if rows.num_rows() > CONSTANT_ROWS_MAX {
        let message = format!("a view can't have more than {CONSTANT_ROWS_MAX} constant rows");
        return Err(SqlError::new("54000", message).hint("Insert the rows into a table."));
    }
    Ok(Piece::new(node(
        Op::Constant { rows },
        vec![],
        schema,
        true,
    )))
}

/// `input` with a column for each of `exprs`: its own where the expression is one, else a new one behind.
pub(super) fn with_columns(
    input: &LogicalPlan,
    exprs: &[Expr],
) -> Result<(LogicalPlan, Vec<Column>)> {
    let mut columns = vec![];
    let mut further = vec![];
    for e in exprs {
        match unalias(e) {
            Expr::Column(c) => columns.push(c.clone()),
            e => {
                let name = format!("__key_{}", further.len());
                columns.push(Column::new_unqualified(name.clone()));
                further.push(e.clone().alias(name));
            }
        }
    }
    if further.is_empty() {
        return Ok((input.clone(), columns));
    }
    let all: Vec<Expr> = input
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .chain(further)
        .collect();
    let projection =
        Projection::try_new(all, Arc::new(input.clone())).map_err(|e| from_datafusion(&e))?;
    Ok((LogicalPlan::Projection(projection), columns))
}
