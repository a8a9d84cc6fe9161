//! Joins of aggregates by their keys become one aggregate.
//!
//! `(… GROUP BY k) JOIN (… GROUP BY k) USING (k)` needs no join: both sides have one row per key, so one aggregate over the
//! rows of both computes what either needs, and which sides are there is a count of rows on each. One arrangement
//! replaces four (the two aggregates' and the join's two sides), and what is above is a map over it.
//!
//! ```text
//! join(map(aggregate(left)), map(aggregate(right)))  →  map(aggregate(union(left, right)))
//! ```
//! Each row of the union has the keys and the arguments of its own side; those of the other are NULL, which every
//! specialised aggregate passes over. Where both inputs are choices of the same rows, those rows are taken once.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{
    BinaryExpr, CaseExpr, IsNotNullExpr, IsNullExpr, Literal,
};
use datafusion_physical_expr::split_conjunction;
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, JoinKind, Node, Op, same_rows};

use super::expr::{self, Physical};
use super::{node, rows};

/// Aggregates that one operator computes of what were two; those of a chain of joins, each of the one before it with itself, double.
const AGGREGATES_MAX: usize = 100;
/// Parts of all expressions over an aggregate's output that are written into those above it.
const PARTS_MAX: usize = 1000;

/// One input of the join: a map over an aggregate that has keys.
struct Side<'a> {
    /// Key columns of `input`.
    keys: &'a [usize],
    aggregates: &'a [Aggregate],
    /// What is aggregated.
    input: &'a Node,
    /// Over the aggregate's output; HAVING, for instance.
    predicate: Option<Physical>,
    /// The join's columns of this side, over the aggregate's output.
    projection: Vec<Physical>,
    schema: &'a SchemaRef,
}

impl<'a> Side<'a> {
    fn of(node: &'a Node) -> Option<Side<'a>> {
        match &node.op {
            Op::Aggregate { keys, aggregates } if !keys.is_empty() => Some(Side {
                keys,
                aggregates,
                input: &node.inputs[0],
                predicate: None,
                projection: columns(&node.schema),
                schema: &node.schema,
            }),
            Op::Map {
                predicate,
                projection,
            } => {
                let below = Side::of(&node.inputs[0])?;
                let through = |e: &Physical| expr::substitute(e, &below.projection);
                let predicate = predicate.as_ref().map(through);
                let projection = projection
                    .as_ref()
                    .map(|exprs| exprs.iter().map(through).collect());
                let side = Side {
                    predicate: expr::and(below.predicate.clone(), predicate),
                    projection: projection.unwrap_or(below.projection),
                    schema: &node.schema,
                    ..below
                };
                let all = side.projection.iter().chain(&side.predicate);
                expr::has_few_parts(all, PARTS_MAX).then_some(side)
            }
            _ => None,
        }
    }

    /// The key (by its place in `keys`) that column `i` of the join's input is.
    fn key(&self, i: usize) -> Option<usize> {
        expr::as_column(&self.projection[i]).filter(|k| *k < self.keys.len())
    }

    fn key_type(&self, key: usize) -> &DataType {
        self.input.schema.field(self.keys[key]).data_type()
    }
}

/// The join as an aggregate, with the join's columns; `None` if it isn't one of aggregates by all of their keys.
pub(super) fn collate(
    (left, right): (&Node, &Node),
    kind: JoinKind,
    on: &[(usize, usize)],
    null_equals_null: bool,
    filter: &Option<Physical>,
) -> Option<Node> {
    let possible = match kind {
        JoinKind::Inner => true,
        JoinKind::Left | JoinKind::Full => filter.is_none(),
        JoinKind::Semi | JoinKind::Anti => false,
    };
    if !possible {
        return None;
    }
    let (left, right) = (Side::of(left)?, Side::of(right)?);
    if left.aggregates.len() + right.aggregates.len() > AGGREGATES_MAX {
        return None;
    }
    let right_keys = paired(&left, &right, on)?;
    let join = Collation {
        kind,
        null_equals_null,
        left,
        right,
        right_keys,
    };
    let rows = join.one_pass().unwrap_or_else(|| join.both_passes());
    Some(join.finish(rows, filter))
}

/// For each key of `left` the key of `right` that it must equal, if `on` pairs all of both.
fn paired(left: &Side, right: &Side, on: &[(usize, usize)]) -> Option<Vec<usize>> {
    let mut pairs: Vec<Option<usize>> = vec![None; left.keys.len()];
    for (l, r) in on {
        let (l, r) = (left.key(*l)?, right.key(*r)?);
        if pairs[l].is_some_and(|have| have != r) || left.key_type(l) != right.key_type(r) {
            return None;
        }
        pairs[l] = Some(r);
    }
    let pairs = pairs.into_iter().collect::<Option<Vec<usize>>>()?;
    let all = (0..right.keys.len()).all(|r| pairs.contains(&r));
    (all && left.keys.len() == right.keys.len()).then_some(pairs)
}

struct Collation<'a> {
    kind: JoinKind,
    null_equals_null: bool,
    left: Side<'a>,
    right: Side<'a>,
    /// For each key of `left` that of `right`.
    right_keys: Vec<usize>,
}

/// Which of the inputs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Left,
    Right,
}

/// The rows of both sides, and where in them is what.
struct Rows {
    node: Node,
    /// Leading columns that are keys.
    keys: usize,
    /// All aggregates of the left side, then those of the right, over columns of `node`.
    aggregates: [Vec<Aggregate>; 2],
    /// True in the rows of each side.
    is: [usize; 2],
}

/// Columns that are being put together, each expression once.
#[derive(Default)]
struct Columns {
    fields: Vec<Field>,
    exprs: Vec<Physical>,
}

impl Columns {
    fn push(&mut self, name: String, data_type: DataType, e: Physical) -> usize {
        self.fields.push(Field::new(name, data_type, true));
        self.exprs.push(e);
        self.exprs.len() - 1
    }

    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.clone()))
    }
}

impl Collation<'_> {
    fn side(&self, of: Of) -> &Side<'_> {
        match of {
            Of::Left => &self.left,
            Of::Right => &self.right,
        }
    }

    /// Columns of a side's input that are its keys, in the order of the left side's keys.
    fn keys_of(&self, of: Of) -> Vec<usize> {
        match of {
            Of::Left => self.left.keys.to_vec(),
            Of::Right => self
                .right_keys
                .iter()
                .map(|k| self.right.keys[*k])
                .collect(),
        }
    }

    /// Rows of that side without a full key have no match and no row in the result.
    fn needs_keys(&self, of: Of) -> bool {
        let dropped = match self.kind {
            JoinKind::Inner => true,
            JoinKind::Left => of == Of::Right,
            _ => false,
        };
        dropped && !self.null_equals_null
    }

    /// NULL keys of the two sides are different groups: a further key tells them apart.
    fn tells_nulls_apart(&self) -> bool {
        self.kind == JoinKind::Full && !self.null_equals_null
    }

    /// A union of both inputs.
    fn both_passes(&self) -> Rows {
        let width = self.left.keys.len() + usize::from(self.tells_nulls_apart());
        let used = [used_columns(&self.left), used_columns(&self.right)];
        let first = [width, width + used[0].len()];
        let is = [
            width + used[0].len() + used[1].len(),
            width + used[0].len() + used[1].len() + 1,
        ];
        let branch = |of: Of| {
            let side = self.side(of);
            let input = &side.input.schema;
            let keys: Vec<Physical> = self
                .keys_of(of)
                .iter()
                .map(|k| expr::column(input, *k))
                .collect();
            let mut out = Columns::default();
            for (i, key) in keys.iter().enumerate() {
                out.push(
                    format!("key_{i}"),
                    self.left.key_type(i).clone(),
                    key.clone(),
                );
            }
            if self.tells_nulls_apart() {
                let apart = match of {
                    Of::Left => boolean(Some(false)),
                    Of::Right => any_null(&keys),
                };
                out.push("apart".into(), DataType::Boolean, apart);
            }
            for (other, used) in [Of::Left, Of::Right].into_iter().zip(&used) {
                for column in used {
                    let of_type = self.side(other).input.schema.field(*column).data_type();
                    let e = if other == of {
                        expr::column(input, *column)
                    } else {
                        null(of_type)
                    };
                    out.push(format!("argument_{}", out.exprs.len()), of_type.clone(), e);
                }
            }
            for marked in [Of::Left, Of::Right] {
                let e = boolean((marked == of).then_some(true));
                out.push(format!("is_{}", out.exprs.len()), DataType::Boolean, e);
            }
            let predicate = self.needs_keys(of).then(|| none_null(&keys)).flatten();
            let schema = out.schema();
            rows::map(side.input.clone(), predicate, Some((out.exprs, schema)))
        };
        let inputs = vec![branch(Of::Left), branch(Of::Right)];
        let schema = inputs[0].schema.clone();
        let append_only = inputs.iter().all(|n| n.append_only);
        let moved = |of: Of| {
            let (side, n) = (self.side(of), of as usize);
            let at = |column: usize| {
                first[n]
                    + used[n]
                        .iter()
                        .position(|c| *c == column)
                        .expect("it is used")
            };
            let aggregates = side.aggregates.iter().map(|a| Aggregate {
                column: a.column.map(at),
                second: a.second.map(at),
                // Rows of the other side have no argument, but count(*) has none either.
                filter: a.filter.map(at).or(a.column.is_none().then_some(is[n])),
                ..a.clone()
            });
            aggregates.collect::<Vec<_>>()
        };
        Rows {
            aggregates: [moved(Of::Left), moved(Of::Right)],
            node: node(Op::Union, inputs, schema, append_only),
            keys: width,
            is,
        }
    }

    /// One map over the rows that both inputs choose from, if they do and take the same keys from them. An argument is
    /// computed only for rows of its side, as before, so that it fails for no other.
    fn one_pass(&self) -> Option<Rows> {
        let chosen = [chosen(self.left.input)?, chosen(self.right.input)?];
        let base = chosen[0].base;
        if !same_rows(base, chosen[1].base) {
            return None;
        }
        let of_side = |of: Of, column: usize| &chosen[of as usize].projection[column];
        let keys_of = |of: Of| -> Vec<Physical> {
            let columns = self.keys_of(of);
            columns.iter().map(|c| of_side(of, *c).clone()).collect()
        };
        let keys = keys_of(Of::Left);
        if keys != keys_of(Of::Right) {
            return None;
        }
        if self.tells_nulls_apart()
            && !exclude_each_other(&chosen[0].predicate, &chosen[1].predicate)
        {
            return None;
        }
        // First which side a row is of; then, for those of either, the keys and arguments.
        let mut marked = Columns::default();
        for (i, field) in base.schema.fields().iter().enumerate() {
            marked.push(
                field.name().clone(),
                field.data_type().clone(),
                expr::column(&base.schema, i),
            );
        }
        let is = [Of::Left, Of::Right].map(|of| {
            let all = chosen[of as usize].predicate.clone();
            let e = all.unwrap_or_else(|| boolean(Some(true)));
            marked.push(format!("is_{}", of as usize), DataType::Boolean, e)
        });
        let schema = marked.schema();
        let is_side = is.map(|i| expr::column(&schema, i));
        let either = Arc::new(BinaryExpr::new(
            is_side[0].clone(),
            Operator::Or,
            is_side[1].clone(),
        ));
        let marked = rows::map(base.clone(), None, Some((marked.exprs, schema)));

        let mut out = Columns::default();
        for (i, key) in keys.iter().enumerate() {
            out.push(
                format!("key_{i}"),
                self.left.key_type(i).clone(),
                key.clone(),
            );
        }
        if self.tells_nulls_apart() {
            let apart = binary(any_null(&keys), Operator::And, is_side[1].clone());
            out.push("apart".into(), DataType::Boolean, apart);
        }
        let width = out.exprs.len();
        let is = [Of::Left, Of::Right].map(|of| {
            let mut e = is_side[of as usize].clone();
            if self.needs_keys(of)
                && let Some(keys) = none_null(&keys)
            {
                e = binary(e, Operator::And, keys);
            }
            out.push(format!("is_{}", of as usize), DataType::Boolean, e)
        });
        // (expression, needed by one side only, column)
        let mut arguments: Vec<(Physical, Option<Of>, usize)> = vec![];
        let used = |of: Of| {
            used_columns(self.side(of))
                .into_iter()
                .map(move |c| (of, c))
        };
        let all: Vec<(Of, usize)> = used(Of::Left).chain(used(Of::Right)).collect();
        for (of, column) in &all {
            let e = of_side(*of, *column).clone();
            if arguments
                .iter()
                .any(|(have, by, _)| have == &e && by.is_none_or(|by| by == *of))
            {
                continue;
            }
            let shared = all.iter().any(|(by, c)| by != of && of_side(*by, *c) == &e);
            let data_type = self.side(*of).input.schema.field(*column).data_type();
            let value = match shared {
                true => e.clone(),
                false => only_when(is_side[*of as usize].clone(), e.clone(), data_type)?,
            };
            let at = out.push(
                format!("argument_{}", out.exprs.len()),
                data_type.clone(),
                value,
            );
            arguments.push((e, (!shared).then_some(*of), at));
        }
        let moved = |of: Of| {
            let find = |column: usize| {
                let e = of_side(of, column);
                let found = arguments
                    .iter()
                    .find(|(have, by, _)| have == e && by.is_none_or(|by| by == of));
                found.expect("all arguments are there")
            };
            let aggregates = self.side(of).aggregates.iter().map(|a| {
                let column = a.column.map(find);
                let second = a.second.map(find);
                let own = a.filter.map(find);
                // What belongs to this side alone is NULL in other rows.
                let told = [column, second, own]
                    .into_iter()
                    .flatten()
                    .any(|(_, by, _)| by.is_some());
                let filter = match own {
                    Some((.., at)) if told => Some(*at),
                    Some(_) => return None,
                    None => (!told).then_some(is[of as usize]),
                };
                Some(Aggregate {
                    column: column.map(|(.., at)| *at),
                    second: second.map(|(.., at)| *at),
                    filter,
                    ..a.clone()
                })
            });
            aggregates.collect::<Option<Vec<_>>>()
        };
        let aggregates = [moved(Of::Left)?, moved(Of::Right)?];
        let schema = out.schema();
        let mut input = rows::map(marked, Some(either), Some((out.exprs, schema)));
        if self.needs_keys(Of::Right) {
            let [left, right] = is.map(|i| expr::column(&input.schema, i));
            input = rows::map(input, Some(binary(left, Operator::Or, right)), None);
        }
        Some(Rows {
            node: input,
            keys: width,
            aggregates,
            is,
        })
    }

    /// The aggregate over the rows of both, and above it the join's rows: those of which enough sides are there.
    fn finish(&self, rows: Rows, filter: &Option<Physical>) -> Node {
        let Rows {
            node: input,
            keys,
            aggregates: [left, right],
            is,
        } = rows;
        let mut fields: Vec<FieldRef> = input.schema.fields()[..keys].to_vec();
        let starts = [keys, keys + left.len()];
        let mut aggregates: Vec<Aggregate> = left.into_iter().chain(right).collect();
        let counts = is.map(|side| {
            let counts_side = |a: &Aggregate| {
                a.function == AggregateFunction::CountStar && a.filter == Some(side)
            };
            aggregates.iter().position(counts_side).unwrap_or_else(|| {
                aggregates.push(Aggregate {
                    function: AggregateFunction::CountStar,
                    column: None,
                    second: None,
                    filter: Some(side),
                    output: Field::new(format!("rows_{}", aggregates.len()), DataType::Int64, true),
                });
                aggregates.len() - 1
            })
        });
        fields.extend(aggregates.iter().map(|a| Arc::new(a.output.clone())));
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let op = Op::Aggregate {
            keys: (0..keys).collect(),
            aggregates,
        };
        let aggregate = node(op, vec![input], schema.clone(), false);

        let zero = || -> Physical { Arc::new(Literal::new(ScalarValue::Int64(Some(0)))) };
        let present = [Of::Left, Of::Right].map(|of| {
            let count = expr::column(&schema, keys + counts[of as usize]);
            binary(count, Operator::Gt, zero())
        });
        let through = |of: Of| {
            let side = self.side(of);
            let own_keys = (0..side.keys.len()).map(|k| match of {
                Of::Left => k,
                Of::Right => self
                    .right_keys
                    .iter()
                    .position(|r| *r == k)
                    .expect("all are paired"),
            });
            let aggregates = (0..side.aggregates.len()).map(|a| starts[of as usize] + a);
            own_keys
                .chain(aggregates)
                .map(|i| expr::column(&schema, i))
                .collect::<Vec<_>>()
        };
        let columns = [through(Of::Left), through(Of::Right)];
        // HAVING may fail for a side that isn't there.
        let there = [Of::Left, Of::Right].map(|of| {
            let is = present[of as usize].clone();
            match &self.side(of).predicate {
                None => is,
                Some(p) => {
                    let p = expr::substitute(p, &columns[of as usize]);
                    only_when(is, p, &DataType::Boolean).expect("a condition is boolean")
                }
            }
        });
        let [is_left, is_right] = there;
        let predicate = match self.kind {
            JoinKind::Inner => binary(is_left.clone(), Operator::And, is_right.clone()),
            JoinKind::Left => is_left.clone(),
            _ => binary(is_left.clone(), Operator::Or, is_right.clone()),
        };
        let mut exprs = vec![];
        let mut output: Vec<FieldRef> = vec![];
        for of in [Of::Left, Of::Right] {
            let side = self.side(of);
            let may_be_missing = match of {
                Of::Left => self.kind == JoinKind::Full,
                Of::Right => self.kind != JoinKind::Inner,
            };
            for (e, field) in side.projection.iter().zip(side.schema.fields()) {
                let mut e = expr::substitute(e, &columns[of as usize]);
                if may_be_missing {
                    let is = if of == Of::Left { &is_left } else { &is_right };
                    e = only_when(is.clone(), e, field.data_type())
                        .expect("types are those of the side");
                }
                exprs.push(e);
                output.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            }
        }
        let joined = rows::map(
            aggregate,
            Some(predicate),
            Some((exprs, Arc::new(Schema::new(output)))),
        );
        match filter {
            None => joined,
            Some(filter) => rows::map(joined, Some(filter.clone()), None),
        }
    }
}

/// What a map takes of the rows below it.
struct Chosen<'a> {
    base: &'a Node,
    predicate: Option<Physical>,
    projection: Vec<Physical>,
}

fn chosen(node: &Node) -> Option<Chosen<'_>> {
    match &node.op {
        Op::Map {
            predicate,
            projection,
        } => {
            let base = &node.inputs[0];
            Some(Chosen {
                base,
                predicate: predicate.clone(),
                projection: projection.clone().unwrap_or_else(|| columns(&base.schema)),
            })
        }
        _ => Some(Chosen {
            base: node,
            predicate: None,
            projection: columns(&node.schema),
        }),
    }
}

/// Both ask the same expression to be equal to different constants.
fn exclude_each_other(a: &Option<Physical>, b: &Option<Physical>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return false;
    };
    let tests = |p| {
        let parts: Vec<(Physical, ScalarValue)> = split_conjunction(p)
            .into_iter()
            .filter_map(equals_constant)
            .collect();
        parts
    };
    let others = tests(b);
    tests(a).iter().any(|(x, v)| {
        others
            .iter()
            .any(|(y, w)| x == y && v != w && v.data_type() == w.data_type())
    })
}

/// `x = constant`, which isn't NULL.
fn equals_constant(e: &Physical) -> Option<(Physical, ScalarValue)> {
    let equal = e
        .downcast_ref::<BinaryExpr>()
        .filter(|e| *e.op() == Operator::Eq)?;
    let (x, constant) = match equal.right().downcast_ref::<Literal>() {
        Some(constant) => (equal.left(), constant),
        None => (equal.right(), equal.left().downcast_ref::<Literal>()?),
    };
    let value = constant.value();
    (!value.is_null()).then(|| (x.clone(), value.clone()))
}

/// Columns of the side's input that its aggregates take, each once.
fn used_columns(side: &Side) -> Vec<usize> {
    let mut used = vec![];
    for column in side
        .aggregates
        .iter()
        .flat_map(|a| [a.column, a.second, a.filter])
        .flatten()
    {
        if !used.contains(&column) {
            used.push(column);
        }
    }
    used
}

fn columns(schema: &Schema) -> Vec<Physical> {
    (0..schema.fields().len())
        .map(|i| expr::column(schema, i))
        .collect()
}

fn binary(a: Physical, op: Operator, b: Physical) -> Physical {
    Arc::new(BinaryExpr::new(a, op, b))
}

fn boolean(value: Option<bool>) -> Physical {
    Arc::new(Literal::new(ScalarValue::Boolean(value)))
}

fn null(data_type: &DataType) -> Physical {
    let value = ScalarValue::try_new_null(data_type).expect("a column's type has a NULL");
    Arc::new(Literal::new(value))
}

/// CASE WHEN condition THEN e END.
pub(super) fn only_when(
    condition: Physical,
    e: Physical,
    data_type: &DataType,
) -> Option<Physical> {
    let case = CaseExpr::try_new(None, vec![(condition, e)], Some(null(data_type)));
    case.ok().map(|e| Arc::new(e) as Physical)
}

fn any_null(keys: &[Physical]) -> Physical {
    let tests = keys
        .iter()
        .map(|k| Arc::new(IsNullExpr::new(k.clone())) as Physical);
    let any = tests.reduce(|a, b| binary(a, Operator::Or, b));
    any.unwrap_or_else(|| boolean(Some(false)))
}

pub(super) fn none_null(keys: &[Physical]) -> Option<Physical> {
    let tests = keys
        .iter()
        .map(|k| Arc::new(IsNotNullExpr::new(k.clone())) as Physical);
    tests.reduce(|a, b| binary(a, Operator::And, b))
}
