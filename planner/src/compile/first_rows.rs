//! ORDER BY … LIMIT, and first rows by their numbers, without a key: the first rows of parts, of parts of these, and of all.
//!
//! What is among the first n rows of all is among the first n of each part that it is in, whether they are counted, or those before them, or these's
//! distinct values. A row belongs to a part by its hash, so that
//! a changed row has only its own part computed anew, and what becomes of that part in the larger one, whatever the size of the input
//! (as the hierarchical Top-K of Materialize). The order is total: see [`super::order`].

use std::sync::Arc;

use arrow::array::{ArrayRef, Int16Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Field, Schema};
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{Column, DFSchema};
use datafusion_expr::logical_plan::Limit;
use datafusion_expr::{Expr, FetchType, LogicalPlan, Operator, SkipType, Volatility};
use datafusion_physical_expr::expressions::{Literal, binary};
use tidemill_dataflow::plan::{Node, Numbering};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::schema::SqlType;

use super::expr::{self, Physical};
use super::top_k::Wanted;
use super::{Compiler, Piece, rows, schema_of};
use crate::error::{Result, from_datafusion};
use crate::functions::{Args, Kernel, call};
use crate::tree::PlanTree;

/// First rows, those that OFFSET passes over included, up to which the operator finds them; of more, all is computed anew.
pub(super) const FIRST_ROWS_MAX: u64 = 10_000;
/// First rows up to which there are many parts and parts of these: every part keeps as many.
const FEW_ROWS_MAX: u64 = 100;
/// Into how many parts rows are divided, and those that are left of them again.
const PARTS_OF_FEW: [i16; 2] = [1024, 32];
const PARTS_OF_MANY: [i16; 1] = [64];
/// The column that says which part a row belongs to.
const PART: &str = "__part";

impl Compiler<'_> {
    /// `plan`: the limit.
    pub(super) fn first_rows(&mut self, plan: &LogicalPlan, limit: &Limit) -> Result<Piece> {
        const REASON: &str = "LIMIT without a key";
        let (Some((skip, count)), LogicalPlan::Sort(sort)) =
            (rows_wanted(limit), limit.input.as_ref())
        else {
            return self.recompute(plan, REASON);
        };
        if count > FIRST_ROWS_MAX || !self.reads(&sort.input)? {
            return self.recompute(plan, REASON);
        }
        let piece = rows::strip(self.piece(&sort.input)?);
        let wanted = Wanted {
            order: &sort.expr,
            numbering: Numbering::RowNumber,
            count,
            named: sort.input.schema(),
        };
        let found = wanted.of_parts(piece.node)?;
        let first = || -> datafusion_common::Result<Node> {
            let (first, _) = wanted.of_each(found, &[], skip > 0)?;
            if skip == 0 {
                return Ok(first);
            }
            let width = first.schema.fields().len() - 1;
            let number = expr::column(&first.schema, width);
            let later = binary(
                number,
                Operator::Gt,
                Arc::new(Literal::new(skip.into())),
                &first.schema,
            )?;
            let own: Vec<usize> = (0..width).collect();
            Ok(rows::choose(rows::map(first, Some(later), None), &own))
        };
        let first = first().map_err(|e| from_datafusion(&e))?;
        let node = Node {
            schema: schema_of(plan.schema()),
            ..first
        };
        Ok(Piece::new(node).unique(piece.unique))
    }

    /// Whether there is a collection below.
    pub(super) fn reads(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut found = false;
        let walked = plan.walk_all(&mut |node| {
            found |= matches!(node, LogicalPlan::TableScan(scan) if self.is_collection(scan));
            Ok(TreeNodeRecursion::Continue)
        });
        walked.map_err(|e| from_datafusion(&e))?;
        Ok(found)
    }
}

/// How many rows are passed over, and which is the last one that is wanted, if that is known.
fn rows_wanted(limit: &Limit) -> Option<(u64, u64)> {
    match (limit.get_fetch_type(), limit.get_skip_type()) {
        (Ok(FetchType::Literal(Some(fetch))), Ok(SkipType::Literal(skip))) => {
            Some((skip as u64, fetch.checked_add(skip)? as u64))
        }
        _ => None,
    }
}

impl Wanted<'_> {
    /// Those of parts of the input, and of parts of these.
    pub(super) fn of_parts(&self, input: Node) -> Result<Node> {
        let all_parts = match self.count <= FEW_ROWS_MAX {
            true => &PARTS_OF_FEW[..],
            false => &PARTS_OF_MANY,
        };
        let mut found = input;
        for parts in all_parts {
            found = self.of_each_part(found, *parts)?;
        }
        Ok(found)
    }

    fn of_each_part(&self, input: Node, parts: i16) -> Result<Node> {
        let width = input.schema.fields().len();
        let divided = with_part(input, parts)?;
        let first = || {
            let part = Field::new(PART, SqlType::Int2.arrow(), true);
            let all = self.named.iter();
            let all = all.map(|(q, f)| (q.cloned(), f.clone()));
            let all = all.chain([(None, Arc::new(part))]).collect();
            let named = DFSchema::new_with_metadata(all, Default::default())?;
            let part = Expr::Column(Column::new_unqualified(PART));
            let wanted = Wanted {
                named: &named,
                ..*self
            };
            wanted.of_each(divided, &[part], false)
        };
        let (first, _) = first().map_err(|e| from_datafusion(&e))?;
        let own: Vec<usize> = (0..width).collect();
        Ok(rows::choose(first, &own))
    }
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
