//! ORDER BY … LIMIT without a key: the first rows of parts, of parts of these, and of all.
//!
//! What is among the first n rows of all is among the first n of each part that it is in. A row belongs to a part by its hash, so that
//! a changed row has only its own part computed anew, and what becomes of that part in the larger one, whatever the size of the input
//! (as the hierarchical Top-K of Materialize). The order is total: see [`super::order`].

use std::sync::Arc;

use arrow::array::{ArrayRef, Int16Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Field, Schema};
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{Column, DFSchema};
use datafusion_expr::logical_plan::{Filter, Limit, Projection, Sort, Window};
use datafusion_expr::{Expr, FetchType, LogicalPlan, SkipType, Volatility, lit};
use tidemill_dataflow::plan::{Node, Op};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::schema::SqlType;

use super::expr::{self, Physical};
use super::recompute::leaf_of;
use super::{Compiler, Piece, node, rows, schema_of};
use crate::bind::lateral::row_number;
use crate::error::{Result, from_datafusion};
use crate::functions::{Args, Kernel, call};
use crate::program::Program;
use crate::tree::PlanTree;

/// First rows, those that OFFSET passes over included, up to which parts are computed by themselves: every part keeps as many.
const FIRST_ROWS_MAX: usize = 100;
/// Into how many parts rows are divided, and those that are left of them again.
const PARTS: [i16; 2] = [1024, 32];
/// The column that says which part a row belongs to.
const PART: &str = "__part";
/// The column that numbers the rows of a part.
const NUMBER: &str = "__number";

impl Compiler<'_> {
    /// `plan`: the limit.
    pub(super) fn first_rows(&mut self, plan: &LogicalPlan, limit: &Limit) -> Result<Piece> {
        const REASON: &str = "LIMIT without a key";
        let (Some(count), LogicalPlan::Sort(sort)) = (rows_looked_at(limit), limit.input.as_ref())
        else {
            return self.recompute(plan, REASON);
        };
        if count > FIRST_ROWS_MAX || !self.reads(&sort.input)? {
            return self.recompute(plan, REASON);
        }
        let piece = rows::strip(self.piece(&sort.input)?);
        let mut found = piece.node;
        for parts in PARTS {
            found = first_of_each(found, sort, count, parts)?;
        }
        let (leaf, columns) = leaf_of(0, &found.schema, sort.input.schema())?;
        let last = LogicalPlan::Limit(Limit {
            input: Arc::new(sorted(sort, leaf)),
            ..limit.clone()
        });
        let schema = schema_of(plan.schema());
        let program = Program::try_new(last, vec![columns], schema.clone());
        let op = Op::Recompute {
            keys: vec![vec![]],
            program: Arc::new(program.map_err(|e| from_datafusion(&e))?),
            reason: format!("{REASON}: the first rows of {} parts", PARTS[1]),
        };
        Ok(Piece::new(node(op, vec![found], schema, false)).unique(piece.unique))
    }

    /// Whether there is a collection below.
    fn reads(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut found = false;
        let walked = plan.walk_all(&mut |node| {
            found |= matches!(node, LogicalPlan::TableScan(scan) if (self.resolve)(scan).is_some());
            Ok(TreeNodeRecursion::Continue)
        });
        walked.map_err(|e| from_datafusion(&e))?;
        Ok(found)
    }
}

/// The rows up to the last one that is wanted, if that is known.
fn rows_looked_at(limit: &Limit) -> Option<usize> {
    match (limit.get_fetch_type(), limit.get_skip_type()) {
        (Ok(FetchType::Literal(Some(fetch))), Ok(SkipType::Literal(skip))) => {
            fetch.checked_add(skip)
        }
        _ => None,
    }
}

fn sorted(sort: &Sort, input: LogicalPlan) -> LogicalPlan {
    LogicalPlan::Sort(Sort {
        input: Arc::new(input),
        ..sort.clone()
    })
}

/// The first `count` rows of each part of `input`, whose columns are those of what `sort` orders.
fn first_of_each(input: Node, sort: &Sort, count: usize, parts: i16) -> Result<Node> {
    let columns = input.schema.clone();
    let divided = with_part(input, parts)?;
    // The part comes last in the input, and first in what the operator gives, as its keys do.
    let width = columns.fields().len();
    let build = || {
        let part = Field::new(PART, SqlType::Int2.arrow(), true);
        let all = sort.input.schema().iter();
        let all = all.map(|(q, f)| (q.cloned(), f.clone()));
        let all = all.chain([(None, Arc::new(part))]).collect();
        DFSchema::new_with_metadata(all, Default::default())
    };
    let named = build().map_err(|e| from_datafusion(&e))?;
    let (leaf, leaf_columns) = leaf_of(0, &divided.schema, &named)?;
    // The operator gives its program the rows of several parts at a time.
    let number = row_number(
        vec![Expr::Column(Column::new_unqualified(PART))],
        sort.expr.clone(),
    );
    let wanted = Expr::Column(Column::new_unqualified(NUMBER));
    let wanted = wanted.lt_eq(lit(count as u64));
    let part = Column::new_unqualified(PART);
    let own = sort.input.schema().columns();
    let chosen: Vec<Expr> = [part].into_iter().chain(own).map(Expr::Column).collect();
    let build = || {
        let number = vec![number.alias(NUMBER)];
        let numbered = LogicalPlan::Window(Window::try_new(number, Arc::new(leaf))?);
        let first = LogicalPlan::Filter(Filter::try_new(wanted, Arc::new(numbered))?);
        Projection::try_new(chosen, Arc::new(first))
    };
    let chosen = build().map_err(|e| from_datafusion(&e))?;
    let schema = schema_of(&chosen.schema);
    let program = LogicalPlan::Projection(chosen);
    let program = Program::try_new(program, vec![leaf_columns], schema.clone());
    let op = Op::Recompute {
        keys: vec![vec![width]],
        program: Arc::new(program.map_err(|e| from_datafusion(&e))?),
        reason: format!("LIMIT without a key: the first rows of each of {parts} parts"),
    };
    let found = node(op, vec![divided], schema, false);
    let back: Vec<usize> = (1..=width).collect();
    Ok(rows::choose(found, &back))
}

/// The rows with the part that each belongs to, behind their columns.
fn with_part(input: Node, parts: i16) -> Result<Node> {
    let width = input.schema.fields().len();
    let named = (0..width).map(|i| {
        let field = input.schema.field(i).clone().with_name(format!("c{i}"));
        (None, Arc::new(field))
    });
    let named = DFSchema::new_with_metadata(named.collect(), Default::default());
    let named = named.map_err(|e| from_datafusion(&e))?;
    let columns = named.columns().into_iter().map(Expr::Column).collect();
    let part = call(
        "part",
        format!("part of {parts}"),
        part_of(parts),
        Volatility::Immutable,
        false,
        columns,
        &SqlType::Int2,
    );
    let part = expr::physical(&part, &named).map_err(|e| from_datafusion(&e))?;
    let mut exprs: Vec<Physical> = (0..width).map(|i| expr::column(&input.schema, i)).collect();
    exprs.push(part);
    let mut fields: Vec<Field> = input
        .schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .collect();
    fields.push(SqlType::Int2.field(PART, true));
    let schema = Arc::new(Schema::new(fields));
    Ok(rows::map(input, None, Some((exprs, schema))))
}

/// From a row's hash, which is the same for ever. Its low bits: the high ones place it in a partition.
fn part_of(parts: i16) -> Kernel {
    Arc::new(move |args: &Args| {
        // A constant is an array of one.
        let first = UInt32Array::from(vec![0; args.rows]);
        let whole = args.arrays.iter().map(|a| match a.len() == args.rows {
            true => Ok(a.clone()),
            false => take(a, &first, None),
        });
        let columns: Vec<ArrayRef> = whole.collect::<std::result::Result<_, _>>()?;
        let hashes = hash_columns(&columns, args.rows);
        let parts = hashes.into_iter().map(|h| (h % parts as u64) as i16);
        Ok(Arc::new(Int16Array::from_iter_values(parts)) as ArrayRef)
    })
}
