//! Joins: keys become columns, right joins become left ones, marks become two semi-joins, and NOT IN
//! asks once whether the other side is empty or has a NULL.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion_common::{DFSchema, JoinType, NullEquality, ScalarValue, TableReference};
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{Expr, Join, LogicalPlan, Operator};
use datafusion_physical_expr::expressions::{BinaryExpr, IsNotNullExpr, Literal};
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, JoinKind, Node, Op};

use super::aggregate::distinct_rows;
use super::collate::collate;
use super::expr::{self, Physical};
use super::self_join::self_join;
use super::{Compiler, Piece, node, nullable, rows, schema_of};
use crate::error::{Result, SqlError, from_datafusion};

/// The two inputs, with their keys as columns.
struct Sides {
    left: Piece,
    right: Piece,
    on: Vec<(usize, usize)>,
    /// Over the columns of left's node, then those of right's.
    filter: Option<Physical>,
}

impl Compiler<'_> {
    pub(super) fn join(&mut self, plan: &LogicalPlan, join: &Join) -> Result<Piece> {
        if join.null_aware {
            return match (join.join_type, join.on.len(), &join.filter) {
                (JoinType::LeftAnti, 1, None) => self.not_in(join),
                _ => self.recompute(plan, "NOT IN with a further condition"),
            };
        }
        let (kind, swapped) = match join.join_type {
            JoinType::Inner => (JoinKind::Inner, false),
            JoinType::Left => (JoinKind::Left, false),
            JoinType::Right => (JoinKind::Left, true),
            JoinType::Full => (JoinKind::Full, false),
            JoinType::LeftSemi | JoinType::LeftMark => (JoinKind::Semi, false),
            JoinType::RightSemi | JoinType::RightMark => (JoinKind::Semi, true),
            JoinType::LeftAnti => (JoinKind::Anti, false),
            JoinType::RightAnti => (JoinKind::Anti, true),
        };
        let sides = self.sides(join, swapped)?;
        let null_equals_null = join.null_equality == NullEquality::NullEqualsNull;
        if matches!(join.join_type, JoinType::LeftMark | JoinType::RightMark) {
            return mark(sides, null_equals_null, join);
        }
        let unique = unique_of(&sides, kind);
        let (left, right) = (sides.left.width, sides.right.width);
        let left_columns = sides.left.node.schema.fields().len();
        let joined = joined(&sides, kind, null_equals_null);
        if matches!(kind, JoinKind::Semi | JoinKind::Anti) {
            let piece = Piece {
                node: joined,
                width: left,
                unique,
            };
            return Ok(renamed(rows::strip(piece), &join.schema));
        }
        let left_part = 0..left;
        let right_part = left_columns..left_columns + right;
        let columns: Vec<usize> = match swapped {
            false => left_part.chain(right_part).collect(),
            true => right_part.chain(left_part).collect(),
        };
        let unique = unique.and_then(|u| {
            u.iter()
                .map(|k| columns.iter().position(|c| c == k))
                .collect()
        });
        // Only the number of rows matters if there are none, but a row has a column.
        let kept = if columns.is_empty() {
            &[0][..]
        } else {
            &columns
        };
        let piece = Piece {
            node: rows::choose(joined, kept),
            width: columns.len(),
            unique,
        };
        Ok(renamed(piece, &join.schema))
    }

    /// Both inputs; with `swapped`, the query's right side is `left`.
    fn sides(&mut self, join: &Join, swapped: bool) -> Result<Sides> {
        let (l, r) = if swapped {
            (&join.right, &join.left)
        } else {
            (&join.left, &join.right)
        };
        let left = self.piece(l)?;
        let right = self.piece(r)?;
        let (mut left_keys, mut right_keys) = (vec![], vec![]);
        for (a, b) in &join.on {
            let (a, b) = if swapped { (b, a) } else { (a, b) };
            let a = expr::physical(a, l.schema()).map_err(|e| from_datafusion(&e))?;
            let b = expr::physical(b, r.schema()).map_err(|e| from_datafusion(&e))?;
            let (a, b) = equal_types(a, &left.node.schema, b, &right.node.schema)?;
            left_keys.push(a);
            right_keys.push(b);
        }
        let (left, left_on) = with_keys(left, left_keys)?;
        let (right, right_on) = with_keys(right, right_keys)?;
        let filter = match &join.filter {
            None => None,
            Some(Expr::Literal(ScalarValue::Boolean(Some(true)), _)) => None,
            Some(filter) => Some(condition(filter, (l, &left), (r, &right))?),
        };
        let on = left_on.into_iter().zip(right_on).collect();
        Ok(Sides {
            left,
            right,
            on,
            filter,
        })
    }

    /// `x NOT IN (subquery)`: nothing if the subquery has a NULL, everything if it has no row, else the rows whose x
    /// is not NULL and has no match. The two facts about the subquery are one row that seldom changes.
    fn not_in(&mut self, join: &Join) -> Result<Piece> {
        let Sides {
            left, right, on, ..
        } = self.sides(join, false)?;
        let (key, right_key) = on[0];
        let facts = facts(right.node.clone(), right_key);
        let width = left.node.schema.fields().len();
        let fields: Vec<FieldRef> = left
            .node
            .schema
            .fields()
            .iter()
            .chain(facts.schema.fields())
            .cloned()
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let x: Physical = Arc::new(IsNotNullExpr::new(expr::column(&schema, key)));
        let known = Arc::new(BinaryExpr::new(
            x,
            Operator::And,
            expr::column(&schema, width + 1),
        ));
        let filter: Physical = Arc::new(BinaryExpr::new(
            expr::column(&schema, width),
            Operator::Or,
            known,
        ));
        let op = Op::Join {
            kind: JoinKind::Inner,
            on: vec![],
            null_equals_null: false,
            filter: Some(filter),
        };
        let (logical, unique) = (left.width, left.unique.clone());
        let candidates = node(op, vec![left.node, facts], schema, false);
        let kept: Vec<usize> = (0..width).collect();
        let candidates = rows::choose(candidates, &kept);
        let schema = candidates.schema.clone();
        let op = Op::Join {
            kind: JoinKind::Anti,
            on: vec![(key, right_key)],
            null_equals_null: false,
            filter: None,
        };
        let node = node(op, vec![candidates, right.node], schema, false);
        Ok(renamed(
            rows::strip(Piece {
                node,
                width: logical,
                unique,
            }),
            &join.schema,
        ))
    }
}

/// One row: whether `input` is empty, and whether `key` is never NULL in it.
fn facts(input: Node, key: usize) -> Node {
    let count = |function, column, name| Aggregate {
        function,
        column,
        second: None,
        filter: None,
        output: Field::new(name, DataType::Int64, true),
    };
    let all = count(AggregateFunction::CountStar, None, "rows");
    let known = count(AggregateFunction::Count, Some(key), "known");
    let schema = Arc::new(Schema::new(vec![all.output.clone(), known.output.clone()]));
    let counts = node(
        Op::Aggregate {
            keys: vec![],
            aggregates: vec![all, known],
        },
        vec![input],
        schema.clone(),
        false,
    );
    let zero: Physical = Arc::new(Literal::new(ScalarValue::Int64(Some(0))));
    let empty: Physical = Arc::new(BinaryExpr::new(
        expr::column(&schema, 0),
        Operator::Eq,
        zero,
    ));
    let no_null: Physical = Arc::new(BinaryExpr::new(
        expr::column(&schema, 0),
        Operator::Eq,
        expr::column(&schema, 1),
    ));
    let boolean = |name| Field::new(name, DataType::Boolean, true);
    let schema = Arc::new(Schema::new(vec![boolean("empty"), boolean("no_null")]));
    let facts = rows::map(counts, None, Some((vec![empty, no_null], schema)));
    // DISTINCT, so that only a change of the facts reaches the join, not every change of the counts.
    distinct_rows(Piece::new(facts)).node
}

/// Left rows with whether they have a match.
fn mark(sides: Sides, null_equals_null: bool, join: &Join) -> Result<Piece> {
    let schema = schema_of(&join.schema);
    let (width, unique) = (sides.left.width, sides.left.unique.clone());
    let branch = |kind, value| {
        let rows = joined(&sides, kind, null_equals_null);
        let mut exprs: Vec<Physical> = (0..width).map(|i| expr::column(&rows.schema, i)).collect();
        exprs.push(Arc::new(Literal::new(ScalarValue::Boolean(Some(value)))));
        rows::map(rows, None, Some((exprs, schema.clone())))
    };
    let inputs = vec![branch(JoinKind::Semi, true), branch(JoinKind::Anti, false)];
    Ok(Piece::new(node(Op::Union, inputs, schema.clone(), false)).unique(unique))
}

fn joined(sides: &Sides, kind: JoinKind, null_equals_null: bool) -> Node {
    let (left, right) = (&sides.left.node, &sides.right.node);
    let (on, filter) = (&sides.on, &sides.filter);
    if let Some(map) = self_join((left, right), kind, on, null_equals_null, filter) {
        return map;
    }
    if let Some(aggregate) = collate((left, right), kind, on, null_equals_null, filter) {
        return aggregate;
    }
    let fields = match kind {
        JoinKind::Semi | JoinKind::Anti => left.schema.fields().to_vec(),
        _ => left
            .schema
            .fields()
            .iter()
            .chain(right.schema.fields())
            .cloned()
            .collect(),
    };
    let append_only =
        matches!(kind, JoinKind::Inner | JoinKind::Semi) && left.append_only && right.append_only;
    let op = Op::Join {
        kind,
        on: sides.on.clone(),
        null_equals_null,
        filter: sides.filter.clone(),
    };
    node(
        op,
        vec![left.clone(), right.clone()],
        Arc::new(Schema::new(fields)),
        append_only,
    )
}

/// The logical schema's names; types are the same.
fn renamed(piece: Piece, schema: &DFSchema) -> Piece {
    let mut fields: Vec<FieldRef> = schema_of(schema).fields().to_vec();
    fields.extend(piece.node.schema.fields().iter().skip(piece.width).cloned());
    let schema = nullable(&Schema::new(fields));
    Piece {
        node: Node {
            schema,
            ..piece.node
        },
        ..piece
    }
}

/// Adds keys that are more than a column as columns behind the others.
fn with_keys(piece: Piece, keys: Vec<Physical>) -> Result<(Piece, Vec<usize>)> {
    let mut fields: Vec<Field> = piece
        .node
        .schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .collect();
    let mut exprs: Vec<Physical> = (0..fields.len())
        .map(|i| expr::column(&piece.node.schema, i))
        .collect();
    let before = exprs.len();
    let mut on = vec![];
    for key in keys {
        match expr::as_column(&key) {
            Some(i) => on.push(i),
            None => {
                let t = key
                    .data_type(&piece.node.schema)
                    .map_err(|e| from_datafusion(&e))?;
                on.push(exprs.len());
                fields.push(Field::new(format!("key_{}", exprs.len()), t, true));
                exprs.push(key);
            }
        }
    }
    if exprs.is_empty() {
        // Rows without columns are nothing that an arrangement could hold. An outer join makes NULLs of it.
        fields.push(Field::new("row", DataType::Boolean, true));
        exprs.push(Arc::new(Literal::new(ScalarValue::Boolean(Some(true)))));
    }
    if exprs.len() == before {
        return Ok((piece, on));
    }
    let node = rows::map(
        piece.node,
        None,
        Some((exprs, Arc::new(Schema::new(fields)))),
    );
    Ok((Piece { node, ..piece }, on))
}

/// Two keys with one type, so that equal values have equal bytes.
fn equal_types(
    a: Physical,
    left: &Schema,
    b: Physical,
    right: &Schema,
) -> Result<(Physical, Physical)> {
    let types = (a.data_type(left), b.data_type(right));
    let (Ok(x), Ok(y)) = &types else {
        return Err(SqlError::internal("a join key has no type"));
    };
    let common = match x == y {
        true => x.clone(),
        false => comparison_coercion(x, y)
            .ok_or_else(|| SqlError::new("42883", format!("operator does not exist: {x} = {y}")))?,
    };
    let a = expr::cast_to(a, left, &common).map_err(|e| from_datafusion(&e))?;
    let b = expr::cast_to(b, right, &common).map_err(|e| from_datafusion(&e))?;
    Ok((a, b))
}

/// A condition over all columns of both nodes.
fn condition(
    filter: &Expr,
    left: (&LogicalPlan, &Piece),
    right: (&LogicalPlan, &Piece),
) -> Result<Physical> {
    let mut fields: Vec<(Option<TableReference>, FieldRef)> = vec![];
    for (side, (plan, piece)) in [left, right].into_iter().enumerate() {
        fields.extend(plan.schema().iter().map(|(q, f)| (q.cloned(), f.clone())));
        for (i, f) in piece
            .node
            .schema
            .fields()
            .iter()
            .enumerate()
            .skip(piece.width)
        {
            let name = format!("__further_{side}_{i}");
            fields.push((None, Arc::new(f.as_ref().clone().with_name(name))));
        }
    }
    let schema =
        DFSchema::new_with_metadata(fields, HashMap::new()).map_err(|e| from_datafusion(&e))?;
    expr::physical(filter, &schema).map_err(|e| from_datafusion(&e))
}

/// Columns of the joined node that are unique.
fn unique_of(sides: &Sides, kind: JoinKind) -> Option<Vec<usize>> {
    let left = sides.left.unique.clone();
    let matched_once = |unique: &Option<Vec<usize>>, on: Vec<usize>| {
        unique
            .as_ref()
            .is_some_and(|u| u.iter().all(|k| on.contains(k)))
    };
    let right_once = matched_once(
        &sides.right.unique,
        sides.on.iter().map(|(_, r)| *r).collect(),
    );
    let left_once = matched_once(
        &sides.left.unique,
        sides.on.iter().map(|(l, _)| *l).collect(),
    );
    let shift = sides.left.node.schema.fields().len();
    let right = sides
        .right
        .unique
        .as_ref()
        .map(|u| u.iter().map(|k| k + shift).collect::<Vec<_>>());
    match kind {
        JoinKind::Semi | JoinKind::Anti => left,
        JoinKind::Left if right_once => left,
        JoinKind::Inner if right_once => left,
        JoinKind::Inner if left_once => right,
        JoinKind::Inner => left
            .zip(right)
            .map(|(l, r)| l.into_iter().chain(r).collect()),
        JoinKind::Left | JoinKind::Full => None,
    }
}
