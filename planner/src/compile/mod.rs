//! Compilation of a bound query to a dataflow that keeps its result up to date.
//!
//! The life of a plan, one file per step:
//!
//! 1. [`refuse`]: what has no single answer over time (`random()`, `now()`, system relations) is refused;
//!    nothing else is, however slow.
//! 2. [`rules`]: the logical plan is optimised by our own list of rules, subqueries that they leave are joined ([`decorrelate`]). Rows have no order in a collection,
//!    so every place where order decides a result gets one total order first ([`order`]).
//! 3. [`Compiler`] walks the plan: [`rows`] (scans, filters, projections, unnest, constants), [`aggregate`], [`join`],
//!    of which those of aggregates by their keys become one aggregate ([`collate`]), or of one aggregate with itself a map ([`self_join`]);
//!    those of which each row's first matches are wanted keep no pairs ([`nearest`], [`extremes`]).
//! 4. What no operator does goes to the general operator, over the smallest subtree and, where the plan
//!    has one, keyed: [`recompute`].
//! 5. Columns that the optimiser has made have names that copies of a part share ([`common`]), and JSON members are taken of each value together ([`members`]).
//!
//! The invariant between the steps is [`Piece`]: the columns of a node are those of the logical plan it came
//! from, at the same positions, and possibly further ones behind them that nobody above names.
//!
//! Equal SQL over equal schemas gives an equal plan in every process: no addresses, no counters
//! that outlive one compilation, no order of hash maps.

mod aggregate;
mod collate;
mod common;
pub(crate) mod decorrelate;
mod distinct;
pub(crate) mod expr;
mod extremes;
mod first_rows;
mod in_lists;
mod join;
pub(crate) mod join_rules;
mod members;
mod nearest;
mod neighbourhood;
pub mod order;
pub(crate) mod own_order;
mod part;
mod recompute;
mod refuse;
mod rows;
pub(crate) mod rules;
mod running;
mod self_join;
mod top_k;
mod windows;
mod windows_above;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_expr::{Distinct, LogicalPlan, TableScan};
use tidemill_dataflow::plan::{DataflowPlan, Node, Op, fingerprint};

use crate::catalog::Relation;
use crate::divided::divided;
use crate::error::{Result, SqlError, from_datafusion};
use crate::query::{QueryPlan, scan_collection};

/// What a view is made of.
#[derive(Clone, Debug)]
pub struct CompiledView {
    /// The operators. The root's columns are those of `QueryPlan::columns`.
    pub plan: DataflowPlan,
    /// Output columns whose combination is unique among the rows of the view (NULL counts as a value), e.g. its
    /// GROUP BY key. Empty: there is at most one row. `None`: not known.
    pub unique: Option<Vec<usize>>,
    /// True if rows of the output are never retracted.
    pub append_only: bool,
    /// The optimised logical plan that was compiled, for EXPLAIN.
    pub logical: LogicalPlan,
}

impl QueryPlan {
    /// The dataflow that keeps the query's result up to date. Refused (0A000, with a hint) is only what has no
    /// single answer: volatile functions, the current time, relations of the system.
    pub fn compile(&self) -> Result<CompiledView> {
        if !self.params.is_empty() {
            return Err(SqlError::new("42P02", "there is no parameter $1")
                .detail("A maintained query can't have parameters."));
        }
        refuse::check(&self.logical, &scan_collection)?;
        // What the binder has seen and turned into something else, e.g. 'now'::timestamptz.
        if let Some(name) = &self.volatile {
            return Err(refuse::volatile(name));
        }
        if let Some(name) = &self.asks {
            return Err(refuse::asks(name));
        }
        if self.uses_now {
            return Err(refuse::clock("now"));
        }
        compile(&self.logical, &self.columns, &scan_collection)
    }

    /// EXPLAIN (LOGICAL): the optimised plan that a SELECT runs, one node per line.
    pub fn explain_logical(&self) -> Result<String> {
        Ok(self.optimised()?.display_indent().to_string())
    }
}

/// Finds the relation that a scan reads; `None` for scans that read no collection (table functions, the work table
/// of a recursive query).
pub type Resolve<'a> = &'a dyn Fn(&TableScan) -> Option<Relation>;

/// The newest revision of the functions in a plan: those whose results have become others are called otherwise since
/// ([`crate::functions::revised`]). What is stored of an earlier one isn't what the plan gives.
pub fn revision(plan: &DataflowPlan) -> u32 {
    let calls = format!("{}(", crate::functions::revised(""));
    match fingerprint(&plan.root).contains(&calls) {
        true => 2,
        false => 1,
    }
}

/// Compiles `logical`, not yet optimised, to a dataflow whose output has the types of `columns`.
pub fn compile(
    logical: &LogicalPlan,
    columns: &SchemaRef,
    resolve: Resolve<'_>,
) -> Result<CompiledView> {
    refuse::check(logical, resolve)?;
    let mut compiler = Compiler::new(resolve);
    let divided = divided(logical).map_err(|e| from_datafusion(&e))?;
    let rest = divided.as_ref().map_or(logical, |divided| &divided.rest);
    for (_, part) in divided.iter().flat_map(|divided| &divided.parts) {
        compiler.compile_part(part)?;
    }
    let optimised = rules::optimise(rest).map_err(|e| from_datafusion(&e))?;
    let piece = compiler.piece(&optimised)?;
    let mut piece = compiler.conform(piece, columns)?;
    piece.node = members::together(common::by_place(piece.node));
    Ok(CompiledView {
        append_only: piece.node.append_only,
        unique: piece.unique,
        plan: DataflowPlan { root: piece.node },
        logical: optimised,
    })
}

/// A compiled subtree.
#[derive(Clone)]
pub(crate) struct Piece {
    /// The operators.
    pub node: Node,
    /// How many leading columns of `node` are those of the logical plan; the others are ours.
    pub width: usize,
    /// Logical columns whose combination is unique, see [`CompiledView::unique`].
    pub unique: Option<Vec<usize>>,
}

impl Piece {
    /// A piece without further columns.
    fn new(node: Node) -> Piece {
        let width = node.schema.fields().len();
        Piece {
            node,
            width,
            unique: None,
        }
    }

    fn unique(mut self, unique: Option<Vec<usize>>) -> Piece {
        self.unique = unique;
        self
    }
}

/// Walks a logical plan.
pub(crate) struct Compiler<'a> {
    resolve: Resolve<'a>,
    /// Unique columns of the leaf compiled last, for operators that keep them.
    last_unique: Option<Vec<usize>>,
    /// Subtrees that stand in several places, with what was made of them.
    compiled: Vec<(Arc<LogicalPlan>, Piece)>,
    /// Parts of the query that were taken out ([`crate::divided`]), by number.
    parts: Vec<Piece>,
}

impl<'a> Compiler<'a> {
    fn new(resolve: Resolve<'a>) -> Self {
        Compiler {
            resolve,
            last_unique: None,
            compiled: vec![],
            parts: vec![],
        }
    }

    /// Compiles a subtree.
    fn piece(&mut self, plan: &LogicalPlan) -> Result<Piece> {
        let mut compiled = self.compiled.iter();
        if let Some((_, piece)) = compiled.find(|(of, _)| std::ptr::eq(of.as_ref(), plan)) {
            return Ok(piece.clone());
        }
        if plan.expressions().iter().any(expr::has_subquery) {
            return self.recompute(plan, "a subquery that is not a join");
        }
        if let Some(windows) = windows::by_one_key(plan).map_err(|e| from_datafusion(&e))? {
            return match self.first_of_each(plan, &windows)? {
                Some(piece) => Ok(piece),
                None => self.windows(plan, windows),
            };
        }
        if let Some(first) = self.first_of_all(plan)? {
            return Ok(first);
        }
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(plan, scan),
            LogicalPlan::SubqueryAlias(alias) => self.piece(&alias.input),
            LogicalPlan::Projection(p) => self.projection(p),
            LogicalPlan::Filter(f) => self.filter(f),
            LogicalPlan::EmptyRelation(empty) => rows::empty(empty),
            LogicalPlan::Values(values) => rows::values(values),
            LogicalPlan::Unnest(unnest) => self.unnest(plan, unnest),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(input),
            LogicalPlan::Aggregate(a) => self.aggregate(plan, a),
            LogicalPlan::Join(join) => self.join(plan, join),
            LogicalPlan::Window(_) => self.recompute(plan, "window functions without PARTITION BY"),
            // Collections have no order.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.piece(&sort.input),
            LogicalPlan::Repartition(r) => self.piece(&r.input),
            LogicalPlan::Limit(limit) if order::limits_nothing(limit) => self.piece(&limit.input),
            LogicalPlan::Limit(limit) => self.first_rows(plan, limit),
            LogicalPlan::Sort(_) => self.recompute(plan, "LIMIT without a key"),
            LogicalPlan::RecursiveQuery(_) => self.recompute(plan, "a recursive query"),
            LogicalPlan::Distinct(Distinct::On(_)) => self.recompute(plan, "DISTINCT ON"),
            LogicalPlan::Subquery(_) => self.recompute(plan, "a correlated subquery"),
            LogicalPlan::Extension(_) => self.recompute(plan, "an operator of the planner"),
            LogicalPlan::Statement(_)
            | LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Ddl(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::DescribeTable(_) => {
                Err(SqlError::unsupported("only queries can be maintained"))
            }
        }
    }

    /// Gives the root the names and types that the user sees.
    fn conform(&mut self, piece: Piece, columns: &SchemaRef) -> Result<Piece> {
        if piece.width != columns.fields().len() {
            return Err(SqlError::internal(format!(
                "the plan has {} columns, the query {}",
                piece.width,
                columns.fields().len()
            )));
        }
        if columns.fields().is_empty() {
            return Err(SqlError::unsupported(
                "a maintained query must have at least one column",
            ));
        }
        let exprs = (0..piece.width)
            .map(|i| {
                expr::cast_to(
                    expr::column(&piece.node.schema, i),
                    &piece.node.schema,
                    columns.field(i).data_type(),
                )
            })
            .collect::<datafusion_common::Result<Vec<_>>>()
            .map_err(|e| from_datafusion(&e))?;
        let node = rows::map(piece.node, None, Some((exprs, nullable(columns))));
        Ok(Piece::new(node).unique(piece.unique))
    }
}

/// The columns of a logical plan's output. All may be NULL: what DataFusion derives of nullability
/// is a hint that operators, who see retractions and outer joins, don't depend on.
fn schema_of(schema: &DFSchema) -> SchemaRef {
    nullable(schema.as_arrow())
}

fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn node(op: Op, inputs: Vec<Node>, schema: SchemaRef, append_only: bool) -> Node {
    Node {
        op,
        inputs,
        schema,
        append_only,
    }
}
