//! Row by row: scans, filters, projections, unnest, unions and constants.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::functions_nested;
use datafusion_common::{DFSchema, NullHandling, ScalarValue};
use datafusion_expr::logical_plan::{EmptyRelation, Filter, Projection, Union, Unnest, Values};
use datafusion_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableScan};
use datafusion_physical_expr::expressions::Literal;
use tidemill_dataflow::plan::{Node, Op};

use super::expr::{self, Physical};
use super::{Compiler, Piece, node, schema_of};
use crate::catalog::RelationKind;
use crate::error::{Result, SqlError, from_datafusion};

/// Filters and projects the rows of `input`, in one operator with the filter or projection below it if
/// that doesn't evaluate anything twice. `projection`: expressions and the output's columns.
pub(super) fn map(
    input: Node,
    predicate: Option<Physical>,
    projection: Option<(Vec<Physical>, SchemaRef)>,
) -> Node {
    match &input.op {
        Op::Map {
            predicate: below,
            projection: columns,
        } if may_fuse(columns, &predicate, &projection) => {
            let through = |e: &Physical| {
                columns
                    .as_ref()
                    .map_or_else(|| Arc::clone(e), |by| expr::substitute(e, by))
            };
            let predicate = expr::and(below.clone(), predicate.as_ref().map(through));
            let (exprs, schema) = match &projection {
                Some((exprs, schema)) => {
                    (Some(exprs.iter().map(through).collect()), schema.clone())
                }
                None => (columns.clone(), input.schema.clone()),
            };
            let below = input.inputs[0].clone();
            simplify(below, predicate, exprs, schema)
        }
        _ => {
            let (exprs, schema) = match projection {
                Some((exprs, schema)) => (Some(exprs), schema),
                None => (None, input.schema.clone()),
            };
            simplify(input, predicate, exprs, schema)
        }
    }
}

/// Whether a projection below may be written into the expressions above it.
fn may_fuse(
    below: &Option<Vec<Physical>>,
    predicate: &Option<Physical>,
    projection: &Option<(Vec<Physical>, SchemaRef)>,
) -> bool {
    let Some(below) = below else { return true };
    let mut uses = vec![0; below.len()];
    if let Some(e) = predicate {
        expr::count_columns(e, &mut uses);
    }
    match projection {
        Some((exprs, _)) => exprs.iter().for_each(|e| expr::count_columns(e, &mut uses)),
        // Without a projection above, every column is used once more.
        None => uses.iter_mut().for_each(|n| *n += 1),
    }
    below
        .iter()
        .zip(uses)
        .all(|(e, n)| n <= 1 || expr::is_trivial(e))
}

/// A map, unless it is only a choice of an input's columns or nothing at all.
fn simplify(
    input: Node,
    predicate: Option<Physical>,
    exprs: Option<Vec<Physical>>,
    schema: SchemaRef,
) -> Node {
    let columns: Option<Vec<usize>> = exprs
        .as_ref()
        .and_then(|e| e.iter().map(expr::as_column).collect());
    if predicate.is_none() {
        let all = input.schema.fields().len();
        match (&columns, &input.op) {
            (Some(chosen), _) if chosen.iter().copied().eq(0..all) => {
                return Node { schema, ..input };
            }
            (
                Some(chosen),
                Op::Input {
                    collection,
                    columns,
                },
            ) if is_set(chosen) && !chosen.is_empty() => {
                let columns = chosen.iter().map(|i| columns[*i]).collect();
                let op = Op::Input {
                    collection: *collection,
                    columns,
                };
                return node(op, vec![], schema, input.append_only);
            }
            _ if exprs.is_none() => return input,
            _ => {}
        }
    }
    let append_only = input.append_only;
    node(
        Op::Map {
            predicate,
            projection: exprs,
        },
        vec![input],
        schema,
        append_only,
    )
}

fn is_set(columns: &[usize]) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    columns.iter().all(|c| seen.insert(c))
}

/// The first `piece.width` columns only.
pub(super) fn strip(piece: Piece) -> Piece {
    if piece.node.schema.fields().len() == piece.width {
        return piece;
    }
    // Only the number of rows matters, but a row has a column.
    let columns: Vec<usize> = (0..piece.width.max(1)).collect();
    let node = choose(piece.node, &columns);
    Piece { node, ..piece }
}

/// The columns `columns` of `input`, in that order.
pub(super) fn choose(input: Node, columns: &[usize]) -> Node {
    let exprs = columns
        .iter()
        .map(|i| expr::column(&input.schema, *i))
        .collect();
    let fields: Vec<_> = columns
        .iter()
        .map(|i| input.schema.field(*i).clone())
        .collect();
    map(input, None, Some((exprs, Arc::new(Schema::new(fields)))))
}

/// A set of columns, seen through a projection to plain columns.
pub(super) fn unique_through(
    unique: &Option<Vec<usize>>,
    exprs: &[Physical],
) -> Option<Vec<usize>> {
    let at = |column: &usize| {
        exprs
            .iter()
            .position(|e| expr::as_column(e) == Some(*column))
    };
    unique.as_ref()?.iter().map(at).collect()
}

/// The row of `values`, as a constant.
fn constant(columns: Vec<ArrayRef>, rows: usize, schema: SchemaRef) -> Result<Node> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let rows = RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|e| SqlError::internal(e.to_string()))?;
    Ok(node(Op::Constant { rows }, vec![], schema, true))
}

/// The one column of rows of which only the number matters.
fn row_only() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(
        "row",
        DataType::Boolean,
        true,
    )]))
}

/// No row, or one row. Nothing downstream should have to think of rows without columns: they get one of ours.
pub(super) fn empty(empty: &EmptyRelation) -> Result<Piece> {
    let rows = usize::from(empty.produce_one_row);
    let width = empty.schema.fields().len();
    let schema = match width {
        0 => row_only(),
        _ => schema_of(&empty.schema),
    };
    let columns = schema
        .fields()
        .iter()
        .map(|f| arrow::array::new_null_array(f.data_type(), rows))
        .collect();
    let node = constant(columns, rows, schema)?;
    Ok(Piece {
        node,
        width,
        unique: Some(vec![]),
    })
}

/// VALUES; an expression that fails is an error of the statement.
pub(super) fn values(values: &Values) -> Result<Piece> {
    let schema = schema_of(&values.schema);
    let one_row = RecordBatch::try_new_with_options(
        Arc::new(Schema::empty()),
        vec![],
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )
    .map_err(|e| SqlError::internal(e.to_string()))?;
    let mut columns: Vec<Vec<ScalarValue>> =
        vec![Vec::with_capacity(values.values.len()); schema.fields().len()];
    for row in &values.values {
        for (i, e) in row.iter().enumerate() {
            let value = expr::physical(e, &DFSchema::empty())
                .and_then(|p| p.evaluate(&one_row))
                .and_then(|v| v.into_array(1))
                .and_then(|a| ScalarValue::try_from_array(&a, 0))
                .and_then(|v| v.cast_to(schema.field(i).data_type()))
                .map_err(|e| from_datafusion(&e))?;
            columns[i].push(value);
        }
    }
    let arrays = columns
        .into_iter()
        .zip(schema.fields())
        .map(|(values, field)| match values.is_empty() {
            true => Ok(arrow::array::new_empty_array(field.data_type())),
            false => ScalarValue::iter_to_array(values),
        })
        .collect::<datafusion_common::Result<Vec<_>>>()
        .map_err(|e| from_datafusion(&e))?;
    Ok(Piece::new(constant(arrays, values.values.len(), schema)?))
}

impl Compiler<'_> {
    /// A collection; filters that the scan has taken over are applied.
    pub(super) fn scan(&mut self, plan: &LogicalPlan, scan: &TableScan) -> Result<Piece> {
        if let Some(piece) = self.part(scan)? {
            return Ok(piece);
        }
        let Some(relation) = (self.resolve)(scan) else {
            return self.recompute(plan, "a table function");
        };
        if matches!(
            relation.kind,
            RelationKind::View { .. } | RelationKind::Broken { .. } | RelationKind::System
        ) {
            return Err(SqlError::internal(format!(
                "relation {} can't be an input",
                relation.name
            )));
        }
        let all = relation.columns.fields().len();
        let wanted: Vec<usize> = scan
            .projection
            .clone()
            .unwrap_or_else(|| (0..all).collect());
        let filters = exact_filters(scan)?;
        let mut columns = wanted.clone();
        let full =
            DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())
                .map_err(|e| from_datafusion(&e))?;
        for filter in &filters {
            for column in filter.column_refs() {
                let i = full
                    .index_of_column(column)
                    .map_err(|e| from_datafusion(&e))?;
                if !columns.contains(&i) {
                    columns.push(i);
                }
            }
        }
        // A batch without columns is an edge that nothing downstream should have to think of.
        if columns.is_empty() && all > 0 {
            columns.push(0);
        }
        columns[wanted.len()..].sort_unstable();
        let fields: Vec<_> = columns
            .iter()
            .map(|i| relation.columns.field(*i).clone().with_nullable(true))
            .collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let unique = relation.primary_key.as_ref().or(relation.unique.as_ref());
        let unique = unique.and_then(|key| {
            key.iter()
                .map(|k| wanted.iter().position(|c| c == k))
                .collect()
        });
        let op = Op::Input {
            collection: relation.id,
            columns: columns.clone(),
        };
        let mut input = node(op, vec![], schema, relation.append_only);
        for filter in &filters {
            // Filters name columns of the whole relation: move them to where the input has them.
            let at = |i: usize| columns.iter().position(|c| *c == i).unwrap_or(0);
            let moved: Vec<Physical> = (0..all)
                .map(|i| expr::column(&input.schema, at(i)))
                .collect();
            let predicate = expr::physical(filter, &full).map_err(|e| from_datafusion(&e))?;
            input = map(input, Some(expr::substitute(&predicate, &moved)), None);
        }
        Ok(Piece {
            node: input,
            width: wanted.len(),
            unique,
        })
    }

    pub(super) fn projection(&mut self, p: &Projection) -> Result<Piece> {
        let input = self.piece(&p.input)?;
        let exprs = expr::physicals(&p.expr, p.input.schema()).map_err(|e| from_datafusion(&e))?;
        let unique = unique_through(&input.unique, &exprs);
        let width = exprs.len();
        if width == 0 {
            return Ok(Piece {
                width,
                unique,
                ..input
            });
        }
        let node = map(input.node, None, Some((exprs, schema_of(&p.schema))));
        Ok(Piece {
            node,
            width,
            unique,
        })
    }

    pub(super) fn filter(&mut self, f: &Filter) -> Result<Piece> {
        let input = self.piece(&f.input)?;
        let predicate =
            expr::physical(&f.predicate, f.input.schema()).map_err(|e| from_datafusion(&e))?;
        Ok(Piece {
            node: map(input.node, Some(predicate), None),
            ..input
        })
    }

    pub(super) fn unnest(&mut self, plan: &LogicalPlan, unnest: &Unnest) -> Result<Piece> {
        let lists: Vec<usize> = unnest.list_type_columns.iter().map(|(i, _)| *i).collect();
        let plain = unnest
            .list_type_columns
            .iter()
            .all(|(_, list)| list.depth == 1)
            && is_set(&lists);
        let keeps = !lists.is_empty() && unnest.options.null_handling != NullHandling::Drop;
        if !plain || keeps && !unnest.struct_type_columns.is_empty() {
            return self.recompute(plan, "unnest of nested lists");
        }
        let input = strip(self.piece(&unnest.input)?);
        let schema = schema_of(&unnest.schema);
        let append_only = input.node.append_only;
        let kept = match keeps {
            true => Some(without_elements(
                input.node.clone(),
                unnest,
                &lists,
                &schema,
            )?),
            false => None,
        };
        let structs = unnest.struct_type_columns.clone();
        let op = Op::Unnest {
            columns: lists,
            structs,
        };
        let elements = node(op, vec![input.node], schema.clone(), append_only);
        Ok(Piece::new(match kept {
            None => elements,
            Some(kept) => node(Op::Union, vec![elements, kept], schema, append_only),
        }))
    }

    pub(super) fn union(&mut self, union: &Union) -> Result<Piece> {
        let mut schema = schema_of(&union.schema);
        let width = schema.fields().len();
        if width == 0 {
            schema = row_only();
        }
        let mut inputs = Vec::with_capacity(union.inputs.len());
        for input in &union.inputs {
            let mut piece = self.piece(input)?;
            if width == 0 {
                let row: Physical = Arc::new(Literal::new(ScalarValue::Boolean(None)));
                piece.node = map(piece.node, None, Some((vec![row], schema.clone())));
                piece.width = 1;
            }
            let exprs = (0..piece.width)
                .map(|i| {
                    expr::cast_to(
                        expr::column(&piece.node.schema, i),
                        &piece.node.schema,
                        schema.field(i).data_type(),
                    )
                })
                .collect::<datafusion_common::Result<Vec<_>>>()
                .map_err(|e| from_datafusion(&e))?;
            inputs.push(map(piece.node, None, Some((exprs, schema.clone()))));
        }
        let append_only = inputs.iter().all(|n| n.append_only);
        let piece = Piece::new(node(Op::Union, inputs, schema, append_only));
        Ok(Piece { width, ..piece })
    }
}

/// The rows of which no list has an element, with NULL in place of the lists: what an outer unnest keeps.
fn without_elements(
    input: Node,
    unnest: &Unnest,
    lists: &[usize],
    schema: &SchemaRef,
) -> Result<Node> {
    let logical = unnest.input.schema();
    let columns = logical.columns();
    let none = lists.iter().map(|i| {
        let list = Expr::Column(columns[*i].clone());
        match unnest.options.null_handling {
            NullHandling::PreserveAndExpandEmpty => {
                let empty = functions_nested::expr_fn::array_empty(list.clone());
                list.is_null().or(empty)
            }
            _ => list.is_null(),
        }
    });
    let none = none
        .reduce(Expr::and)
        .unwrap_or_else(|| datafusion_expr::lit(true));
    let predicate = expr::physical(&none, logical).map_err(|e| from_datafusion(&e))?;
    let mut exprs: Vec<Physical> = vec![];
    for i in 0..columns.len() {
        exprs.push(match lists.contains(&i) {
            false => expr::column(&input.schema, i),
            true => {
                let null = ScalarValue::try_new_null(schema.field(i).data_type());
                Arc::new(Literal::new(null.map_err(|e| from_datafusion(&e))?))
            }
        });
    }
    Ok(map(input, Some(predicate), Some((exprs, schema.clone()))))
}

/// The filters of a scan that no `Filter` above it repeats.
fn exact_filters(scan: &TableScan) -> Result<Vec<Expr>> {
    let filters: Vec<_> = scan.filters.iter().collect();
    let support = scan
        .source
        .supports_filters_pushdown(&filters)
        .map_err(|e| from_datafusion(&e))?;
    let exact = scan
        .filters
        .iter()
        .zip(support)
        .filter(|(_, s)| *s == TableProviderFilterPushDown::Exact);
    Ok(exact.map(|(f, _)| f.clone()).collect())
}
