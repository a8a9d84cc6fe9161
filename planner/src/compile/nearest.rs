//! The first matches of each row, in the order of a value that the join's condition compares: as-of joins, as `LATERAL (… ORDER BY … LIMIT 1)` and
//! DISTINCT ON say them.
//!
//! A join keeps all its pairs, of which so few are wanted. Here the rows of both sides are the input of one program, each with the place that it has among
//! all, and the program joins them with each other: a changed row is compared with the rows nearby only ([`Neighbourhood::matches`]). What stands above the
//! join stays, and finds among its rows those that it found before.
//!
//! ```text
//! first(map(join(p, s)))  →  first(map(nearest(union(map(p), map(s)))))
//! ```

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::datasource::provider_as_source;
use datafusion_common::{Column, JoinConstraint, JoinType, NullEquality, Result, ScalarValue};
use datafusion_expr::logical_plan::{Filter, Join, Projection, Window};
use datafusion_expr::{Expr, LogicalPlan, Operator, TableScanBuilder, binary_expr, lit, not};
use datafusion_physical_expr::expressions::Literal;
use tidemill_dataflow::plan::{JoinKind, Neighbourhood, Node, Op, OrderBy};
use tidemill_dataflow::ranges::{RangeCondition, Wanted, is_ordered};

use super::aggregate::distinct_rows;
use super::expr::{self, Physical};
use super::running::running;
use super::{Piece, node, rows};
use crate::bind::lateral::{rank, row_number};
use crate::physical::can_fail;
use crate::program::{InputTable, Program};

/// So many matches of each row are found at most; of more, the join keeps all.
const ROWS_MAX: u64 = 1024;
/// What the columns of the side that probes, and of the one that is searched, are called in the program.
const SIDES: [&str; 2] = ["probing", "searched"];

/// What is wanted of the pairs of a join.
#[derive(Clone, Copy)]
pub(super) struct First<'a> {
    /// Columns: of the pairs that are equal in them only so many are wanted.
    pub by: &'a [usize],
    /// The order in which they are the first; of pairs that it leaves equal any will do.
    pub order: &'a [OrderBy],
    /// How many.
    pub count: u64,
}

/// `input` with fewer rows, among which are those that are wanted; `None` if it isn't made of a join that finds them.
pub(super) fn nearest(input: &Node, first: First) -> Result<Option<Node>> {
    let Some(search) = Search::of(input, first) else {
        return Ok(None);
    };
    search.node(input.schema.clone()).map(Some)
}

/// A join that is searched for the first matches.
struct Search<'n> {
    join: &'n Node,
    kind: JoinKind,
    on: &'n [(usize, usize)],
    /// What is made of its pairs.
    columns: Vec<Physical>,
    /// The side that is searched, 0 or 1.
    searched: usize,
    /// Its column that decides.
    key: usize,
    /// How that is compared with `place`.
    op: Operator,
    /// Over the columns of the other side.
    place: Physical,
    /// The whole condition, if it says more.
    further: Option<&'n Physical>,
    /// Which one comes first of matches with the same key, by columns of the searched side; `None`: that can't be said here, so that all of them are given.
    ties: Option<Vec<OrderBy>>,
    count: u64,
}

impl<'n> Search<'n> {
    fn of(input: &'n Node, first: First) -> Option<Self> {
        let (columns, join) = above_join(input)?;
        let Op::Join {
            kind: kind @ (JoinKind::Inner | JoinKind::Left),
            on,
            null_equals_null: false,
            filter: Some(filter),
        } = &join.op
        else {
            return None;
        };
        let left = join.inputs[0].schema.fields().len();
        let side_of = |column: usize| match column.checked_sub(left) {
            None => (0, column),
            Some(column) => (1, column),
        };
        // Which sides' columns an expression names.
        let sides = |e: &Physical| {
            let mut uses = vec![0; join.schema.fields().len()];
            expr::count_columns(e, &mut uses);
            let (left, right) = uses.split_at(left);
            [left, right].map(|uses| uses.iter().any(|n| *n > 0))
        };
        let searched = match kind {
            JoinKind::Left => 1,
            _ => first.by.iter().find_map(|c| match sides(&columns[*c]) {
                [true, false] => Some(1),
                [false, true] => Some(0),
                _ => None,
            })?,
        };
        // It is the same for all matches of a row.
        let probing = |e: &Physical| !sides(e)[searched];
        let mut order = first.order.iter();
        let by_key = order.find(|by| !probing(&columns[by.column]))?;
        let (side, key) = side_of(expr::as_column(&columns[by_key.column])?);
        let of_row = first.by.iter().all(|c| probing(&columns[*c]));
        if side != searched || !of_row || first.count > ROWS_MAX {
            return None;
        }
        let fails = |e: &Physical| can_fail(e).unwrap_or(true);
        let wanted = Wanted::Column(searched, key);
        let range = RangeCondition::of(filter, &join.schema, &side_of, &fails, wanted)?;
        let (ends, others): (Vec<_>, Vec<_>) =
            (range.limits()).partition(|(_, op)| match by_key.descending {
                true => matches!(op, Operator::Lt | Operator::LtEq),
                false => matches!(op, Operator::Gt | Operator::GtEq),
            });
        let [(place, op)] = ends[..] else {
            return None;
        };
        // They only end the range elsewhere: what is left of the first matches are the first ones still.
        let ends_range = others.iter().all(|(_, op)| *op != Operator::Eq);
        let further = (!others.is_empty()).then_some(filter);
        if !range.is_whole() || !ends_range || further.is_some() && *kind == JoinKind::Left {
            return None;
        }
        let exact = |side: usize, column: usize| {
            let data_type = join.inputs[side].schema.field(column).data_type();
            Some(data_type).filter(|t| is_ordered(t) && !t.is_floating())
        };
        let equal =
            |(l, r): &(usize, usize)| exact(0, *l).is_some() && exact(0, *l) == exact(1, *r);
        if fails(place) || !on.iter().all(equal) || !join.inputs.iter().all(has_order) {
            return None;
        }
        let tie = |by: &OrderBy| match expr::as_column(&columns[by.column]).map(side_of) {
            Some((side, column)) if side == searched => Some(Some(OrderBy { column, ..*by })),
            _ => probing(&columns[by.column]).then_some(None),
        };
        let mut ties: Option<Vec<OrderBy>> = order
            .map(tie)
            .collect::<Option<Vec<_>>>()
            .map(|ties| ties.into_iter().flatten().collect());
        if let Some(ties) = &mut ties {
            let all = 0..join.inputs[searched].schema.fields().len();
            let others = all.filter(|c| ties.iter().all(|by| by.column != *c));
            ties.extend(others.collect::<Vec<_>>().into_iter().map(ascending));
            // Matches with the same key are equal in these.
            let equal = |c: usize| on.iter().any(|on| [on.0, on.1][searched] == c);
            ties.retain(|by| by.column != key && !equal(by.column));
        }
        let ties = ties.filter(|ties| ties.iter().all(|by| exact(searched, by.column).is_some()));
        Some(Search {
            join,
            kind: *kind,
            on,
            searched,
            key,
            op,
            place: place.clone(),
            further,
            ties,
            count: first.count,
            columns,
        })
    }

    /// What has the columns `schema`.
    fn node(self, schema: SchemaRef) -> Result<Node> {
        let input = Input::of(&self);
        let pairs = &self.join.schema;
        let keys = self.on.len();
        let mut fields = input.schema.fields()[..keys].to_vec();
        fields.extend(pairs.fields().iter().cloned());
        let output = Arc::new(Schema::new(fields));
        let place = OrderBy {
            descending: matches!(self.op, Operator::Gt | Operator::GtEq),
            ..ascending(keys + 1)
        };
        let near = Neighbourhood {
            order: vec![ascending(keys), place],
            reaches: vec![],
            runs: false,
            matches: Some(self.count),
        };
        let fragment = self.fragment(&input)?;
        let program = Program::try_new(fragment, vec![input.schema.clone()], output.clone())?
            .with_neighbourhood(Some(near), running)
            .in_any_order()
            .described(self.describe(&input));
        let whole = if keys == 0 { ": the whole input" } else { "" };
        let op = Op::Recompute {
            keys: vec![(0..keys).collect()],
            program: Arc::new(program),
            reason: format!("the nearest rows of a join{whole}"),
        };
        let found = node(op, vec![input.node(&self)?], output.clone(), false);
        let own: Vec<usize> = (keys..output.fields().len()).collect();
        let found = Node {
            schema: pairs.clone(),
            ..rows::choose(found, &own)
        };
        let found = rows::map(found, self.further.cloned(), None);
        Ok(rows::map(found, None, Some((self.columns, schema))))
    }

    /// The columns of the join, in the program.
    fn pairs(&self, input: &Input) -> Vec<Expr> {
        let sides = self.join.inputs.iter().enumerate();
        let columns = sides.flat_map(|(side, of)| {
            let role = usize::from(side == self.searched);
            (0..of.schema.fields().len()).map(move |c| input.column(self, role, c))
        });
        columns.collect()
    }

    /// What the program computes.
    fn describe(&self, input: &Input) -> String {
        let of = |column| input.column(self, 1, column);
        let by = |by: &OrderBy| {
            let nulls = if by.nulls_first { " nulls first" } else { "" };
            let descending = if by.descending { " desc" } else { "" };
            format!("{}{descending}{nulls}", of(by.column))
        };
        let ties = match &self.ties {
            Some(ties) => {
                let ties: Vec<String> = ties.iter().map(by).collect();
                format!(", equal ones by [{}]", ties.join(", "))
            }
            None => " and equal ones".into(),
        };
        let columns = self.pairs(input).into_iter().map(|e| e.to_string());
        let columns: Vec<String> = columns.collect();
        format!(
            "{:?} first {} where searched place {} probing place{ties} [{}]",
            self.kind,
            self.count,
            self.op,
            columns.join(", ")
        )
    }

    /// The program: each probing row with its first matches, behind the columns that are equal.
    fn fragment(&self, input: &Input) -> Result<LogicalPlan> {
        let [probing, searched] = [0, 1].map(|side| input.side(side));
        let (probing, searched) = (Arc::new(probing?), Arc::new(searched?));
        let equal = (0..self.on.len()).map(|i| (named(0, i), named(1, i)));
        let at = self.on.len();
        let within = binary_expr(named(1, at), self.op, named(0, at));
        let kind = match self.kind {
            JoinKind::Left => JoinType::Left,
            _ => JoinType::Inner,
        };
        let own = (0..input.columns[0].len() + at + 1).map(|i| named(0, i));
        let own: Vec<Expr> = own.collect();
        let join = Join::try_new(
            probing,
            searched,
            equal.collect(),
            Some(within),
            kind,
            JoinConstraint::On,
            NullEquality::NullEqualsNothing,
            false,
        )?;
        let descending = matches!(self.op, Operator::Lt | Operator::LtEq);
        let mut order = vec![named(1, at).sort(!descending, false)];
        let tie = |by: &OrderBy| {
            let column = input.column(self, 1, by.column);
            column.sort(!by.descending, by.nulls_first)
        };
        let number = match &self.ties {
            None => rank(own, order),
            Some(ties) => {
                order.extend(ties.iter().map(tie));
                row_number(own, order)
            }
        };
        let window = Window::try_new(vec![number], Arc::new(LogicalPlan::Join(join)))?;
        let number = window.schema.columns().pop().map(Expr::Column);
        let number = number.unwrap_or_else(|| lit(ScalarValue::Null));
        let few = binary_expr(number, Operator::LtEq, lit(self.count));
        let first = Filter::try_new(few, Arc::new(LogicalPlan::Window(window)))?;
        let mut exprs: Vec<Expr> = (0..at)
            .map(|i| named(0, i).alias(format!("k{i}")))
            .collect();
        let pairs = self.pairs(input).into_iter().enumerate();
        exprs.extend(pairs.map(|(i, e)| e.alias(format!("o{i}"))));
        let first = Arc::new(LogicalPlan::Filter(first));
        Projection::try_new(exprs, first).map(LogicalPlan::Projection)
    }
}

/// The program's input: the columns that are equal, whether a row probes, its place, and then further columns of the side that probes, and of the one that is
/// searched, which are NULL in rows of the other side.
struct Input {
    schema: SchemaRef,
    equal: usize,
    /// Which columns of each side's node the further ones are, of the probing one first.
    columns: [Vec<usize>; 2],
}

impl Input {
    fn of(search: &Search) -> Input {
        let inputs = &search.join.inputs;
        let columns = [0, 1].map(|role| {
            let all = 0..inputs[search.side(role)].schema.fields().len();
            let own = all.filter(|c| search.shared(role, *c).is_none());
            own.collect::<Vec<usize>>()
        });
        let field = |name: String, data_type: &DataType| Field::new(name, data_type.clone(), true);
        let mut fields = vec![];
        for (i, (left, _)) in search.on.iter().enumerate() {
            fields.push(field(
                format!("k{i}"),
                inputs[0].schema.field(*left).data_type(),
            ));
        }
        fields.push(field("probes".into(), &DataType::Boolean));
        let key = inputs[search.searched].schema.field(search.key);
        fields.push(field("place".into(), key.data_type()));
        for (role, columns) in columns.iter().enumerate() {
            let schema = &inputs[search.side(role)].schema;
            let name = |i: usize| format!("{}_{i}", SIDES[role]);
            let own = columns.iter().enumerate();
            fields.extend(own.map(|(i, c)| field(name(i), schema.field(*c).data_type())));
        }
        Input {
            schema: Arc::new(Schema::new(fields)),
            equal: search.on.len(),
            columns,
        }
    }

    /// The operators that give it.
    fn node(&self, search: &Search) -> Result<Node> {
        let side = |role: usize| -> Result<Node> {
            let of = &search.join.inputs[search.side(role)];
            let mut places: Vec<Physical> = (search.on.iter())
                .map(|on| expr::column(&of.schema, search.equal(role, on)))
                .collect();
            places.push(match role {
                0 => search.place.clone(),
                _ => expr::column(&of.schema, search.key),
            });
            if search.count == 1 && self.columns[role].is_empty() {
                return self.places(role, of, places);
            }
            let column = |c: usize| expr::column(&of.schema, c);
            let place = places.pop();
            let mut exprs = places;
            let probes = ScalarValue::Boolean(Some(role == 0));
            exprs.push(Arc::new(Literal::new(probes)));
            exprs.extend(place);
            for (i, columns) in self.columns.iter().enumerate() {
                for c in columns {
                    exprs.push(match i == role {
                        true => column(*c),
                        false => {
                            let null = self.schema.field(exprs.len()).data_type();
                            Arc::new(Literal::new(ScalarValue::try_from(null)?))
                        }
                    });
                }
            }
            let schema = self.schema.clone();
            Ok(rows::map(of.clone(), None, Some((exprs, schema))))
        };
        let sides = vec![side(0)?, side(1)?];
        let append_only = sides.iter().all(|side| side.append_only);
        Ok(node(Op::Union, sides, self.schema.clone(), append_only))
    }

    /// A side of which nothing is known but where its rows are, each place once: of equal rows one is as good as all, and days, say, may be
    /// those of very many.
    fn places(&self, role: usize, of: &Node, places: Vec<Physical>) -> Result<Node> {
        let fields = &self.schema.fields();
        let own = fields[..self.equal].iter().chain([&fields[self.equal + 1]]);
        let schema = Arc::new(Schema::new(own.cloned().collect::<Vec<_>>()));
        let mut node = rows::map(of.clone(), None, Some((places, schema)));
        let all: Vec<usize> = (0..=self.equal).collect();
        if !is_distinct(&node, &all) {
            node = distinct_rows(Piece::new(node)).node;
        }
        let mut exprs: Vec<Physical> = vec![];
        for (i, field) in fields.iter().enumerate() {
            exprs.push(match i {
                i if i < self.equal => expr::column(&node.schema, i),
                i if i == self.equal => {
                    Arc::new(Literal::new(ScalarValue::Boolean(Some(role == 0))))
                }
                i if i == self.equal + 1 => expr::column(&node.schema, self.equal),
                _ => Arc::new(Literal::new(ScalarValue::try_from(field.data_type())?)),
            });
        }
        Ok(rows::map(node, None, Some((exprs, self.schema.clone()))))
    }

    /// The rows of a side in the program: the columns that are equal, the place, then the further ones.
    fn side(&self, role: usize) -> Result<LogicalPlan> {
        let table = InputTable::new(0, self.schema.clone());
        let table = provider_as_source(Arc::new(table));
        let scan = TableScanBuilder::new("input_0", table).build()?;
        let scan = LogicalPlan::TableScan(scan);
        let columns: Vec<Column> = scan.schema().columns();
        let column = |i: usize| Expr::Column(columns[i].clone());
        let probes = column(self.equal);
        let is_own = if role == 0 { probes } else { not(probes) };
        let own = Filter::try_new(is_own, Arc::new(scan))?;
        let before = self.equal + 2 + if role == 0 { 0 } else { self.columns[0].len() };
        let equal = 0..self.equal;
        let further = before..before + self.columns[role].len();
        let all = equal.chain([self.equal + 1]).chain(further);
        let exprs = all.enumerate().map(|(i, c)| column(c).alias(name(role, i)));
        let own = Arc::new(LogicalPlan::Filter(own));
        Projection::try_new(exprs.collect(), own).map(LogicalPlan::Projection)
    }

    /// A column of a side's node, in the program.
    fn column(&self, search: &Search, role: usize, column: usize) -> Expr {
        let further = || {
            let at = self.columns[role].iter().position(|c| *c == column);
            self.equal + 1 + at.unwrap_or_default()
        };
        named(role, search.shared(role, column).unwrap_or_else(further))
    }
}

impl Search<'_> {
    /// The side that probes (0) or is searched (1).
    fn side(&self, role: usize) -> usize {
        match role {
            0 => 1 - self.searched,
            _ => self.searched,
        }
    }

    /// The column of a side that is equal to the other's.
    fn equal(&self, role: usize, on: &(usize, usize)) -> usize {
        match self.side(role) {
            0 => on.0,
            _ => on.1,
        }
    }

    /// Where a column of a side is among those that both sides have in the program: those that are equal, then the place.
    fn shared(&self, role: usize, column: usize) -> Option<usize> {
        let equal = self.on.iter().position(|on| self.equal(role, on) == column);
        let place = match role {
            0 => expr::as_column(&self.place),
            _ => Some(self.key),
        };
        equal.or((place == Some(column)).then_some(self.on.len()))
    }
}

/// What is made of the pairs of a join, and the join.
pub(super) fn above_join(input: &Node) -> Option<(Vec<Physical>, &Node)> {
    match &input.op {
        Op::Join { .. } => {
            let all = 0..input.schema.fields().len();
            Some((all.map(|i| expr::column(&input.schema, i)).collect(), input))
        }
        Op::Map {
            predicate: None,
            projection,
        } => {
            let (below, join) = above_join(&input.inputs[0])?;
            Some(match projection {
                None => (below, join),
                Some(exprs) => {
                    let above = exprs.iter().map(|e| expr::substitute(e, &below));
                    (above.collect(), join)
                }
            })
        }
        _ => None,
    }
}

/// Whether rows are known to differ in these columns.
fn is_distinct(node: &Node, columns: &[usize]) -> bool {
    match &node.op {
        Op::Aggregate { keys, .. } => (0..keys.len()).all(|key| columns.contains(&key)),
        Op::Map { projection, .. } => {
            let below = |c: &usize| match projection {
                Some(exprs) => expr::as_column(&exprs[*c]),
                None => Some(*c),
            };
            let below: Vec<usize> = columns.iter().filter_map(below).collect();
            is_distinct(&node.inputs[0], &below)
        }
        _ => false,
    }
}

/// Whether rows can be put in order by all columns.
fn has_order(side: &Node) -> bool {
    let fields = side.schema.fields().iter();
    let fields: Vec<_> = fields
        .map(|f| SortField::new(f.data_type().clone()))
        .collect();
    RowConverter::supports_fields(&fields)
}

fn ascending(column: usize) -> OrderBy {
    OrderBy {
        column,
        descending: false,
        nulls_first: false,
    }
}

fn name(role: usize, column: usize) -> String {
    format!("{}_{column}", SIDES[role])
}

fn named(role: usize, column: usize) -> Expr {
    Expr::Column(Column::new_unqualified(name(role, column)))
}
