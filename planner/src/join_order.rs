//! The order of joins in a query that is executed once: inner joins begin where few rows are left, and go on to relations whose
//! rows are found by them. DataFusion joins as it is written.
//!
//! How many rows a step gives is guessed from the numbers of rows of the relations, from their keys, and from how many of their first rows
//! pass their filters. A query keeps the order in which it is written if none seems far better. Views always do: how they are
//! computed mustn't depend on how many rows there happen to be.

use std::cell::OnceCell;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, JoinType, NullEquality, Result, ScalarValue};
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{
    Expr, FetchType, Filter, Join, JoinConstraint, LogicalPlan, Operator, Projection, TableScan,
    binary_expr,
};

use crate::access::{Condition, conjuncts, of_scan};
use crate::catalog::Relation;
use crate::compile::expr::physical;
use crate::functions::external;
use crate::functions::shared::can_fail_anywhere;
use crate::once::is_volatile;
use crate::physical::lookups::{ROWS_MAX, ROWS_PER_LOOKUP};
use crate::query::{SnapshotReader, scanned_relation};
use crate::tree::Tree;

/// Relations of one group of joins; more keep their order.
const RELATIONS_MAX: usize = 64;
/// So many relations, those with the fewest rows, are tried as the first.
const STARTS_MAX: usize = 8;
/// An order must be so many times better than the one that was written.
const GAIN: f64 = 2.0;
/// What is guessed to cost less than reading so many rows stays as it is.
const WORTH_ROWS: f64 = 2_000.0;
/// Of a column of which nothing is known: the share of rows that have one value, that lie in a range, and that are like a pattern.
const EQUAL_SHARE: f64 = 0.005;
const RANGE_SHARE: f64 = 0.3;
const LIKE_SHARE: f64 = 0.005;
/// The share of rows that fulfil any other condition.
const SOME_SHARE: f64 = 0.25;
/// Rows of what can't be guessed.
const UNKNOWN_ROWS: f64 = 1_000.0;
/// Rows that an index is thought to find for one value, and the share that it finds in a range.
const FOUND_ROWS: f64 = 10.0;
const FOUND_RANGE_SHARE: f64 = 0.1;
/// Rows that a filter is tried on.
const SAMPLE_ROWS: usize = 1024;

/// The optimised plan with its joins in the order that seems best for the rows that `reader` has.
pub(crate) fn ordered(
    plan: LogicalPlan,
    reader: &dyn SnapshotReader,
) -> Result<Transformed<LogicalPlan>> {
    below(plan, reader, None)
}

/// The same where only the first rows in the order of the column `first` are wanted.
fn below(
    plan: LogicalPlan,
    reader: &dyn SnapshotReader,
    first: Option<Column>,
) -> Result<Transformed<LogicalPlan>> {
    let group = Group::of(&plan, reader);
    let looked_at = group.is_some();
    let of_group = match group {
        Some(group)
            if !first
                .as_ref()
                .is_some_and(|first| group.is_driven_by(first)) =>
        {
            // Columns that are left out in between may have one name: then only the written order is possible.
            group.better().unwrap_or_default()
        }
        _ => None,
    };
    let changed = of_group.is_some();
    let mut plan = plan;
    if let Some(better) = of_group {
        let columns = plan.schema().columns().into_iter().map(Expr::Column);
        let (columns, schema) = (columns.collect(), plan.schema().clone());
        let all = Projection::try_new_with_schema(columns, Arc::new(better), schema)?;
        plan = LogicalPlan::Projection(all);
    }
    if looked_at {
        let below = below_group(plan, reader)?;
        return Ok(match changed {
            true => Transformed::yes(below.data),
            false => below,
        });
    }
    let column = |e: &Expr| match e {
        Expr::Column(column) => Some(column.clone()),
        _ => None,
    };
    let first = match &plan {
        // The rows of the last round stand where they are looked for.
        LogicalPlan::RecursiveQuery(_) => return Ok(Transformed::no(plan)),
        LogicalPlan::Sort(sort) if sort.fetch.is_some() => {
            sort.expr.first().and_then(|sort| column(&sort.expr))
        }
        LogicalPlan::Projection(p) => {
            let at = first.and_then(|first| p.schema.maybe_index_of_column(&first));
            at.and_then(|at| column(&p.expr[at].clone().unalias()))
        }
        LogicalPlan::Filter(_) | LogicalPlan::Limit(_) | LogicalPlan::Join(_) => first,
        _ => None,
    };
    plan.change_children(&mut |child| below(child, reader, first.clone()))
}

/// The same for the relations of a group of joins that has been looked at.
fn below_group(plan: LogicalPlan, reader: &dyn SnapshotReader) -> Result<Transformed<LogicalPlan>> {
    match is_inner(&plan) || is_of_columns(&plan) {
        true => plan.change_children(&mut |child| below_group(child, reader)),
        false => below(plan, reader, None),
    }
}

/// Inner joins of relations, in any order.
struct Group<'r> {
    relations: Vec<Member<'r>>,
    conditions: Vec<On>,
}

/// One of the relations.
struct Member<'r> {
    plan: &'r LogicalPlan,
    reader: &'r dyn SnapshotReader,
    /// After its filters.
    rows: f64,
    scan: Option<Scanned<'r>>,
}

/// The scan that a relation is, below filters.
struct Scanned<'r> {
    relation: &'r Relation,
    /// All its rows.
    rows: f64,
    /// Those that an index finds by them.
    conditions: Vec<Condition>,
    found: bool,
    /// By column: whether an index finds rows by it.
    indexed: Vec<OnceCell<bool>>,
}

/// A condition between some of the relations.
struct On {
    condition: Expr,
    /// The sides of an equality, and the relations that each names.
    equal: Option<[(Expr, u64); 2]>,
    relations: u64,
}

/// An order of the relations.
struct Order {
    steps: Vec<usize>,
    cost: f64,
}

impl<'r> Group<'r> {
    /// The largest group of joins that begins at `plan`, if its order is free and matters.
    fn of(plan: &'r LogicalPlan, reader: &'r dyn SnapshotReader) -> Option<Group<'r>> {
        let LogicalPlan::Join(_) = plan else {
            return None;
        };
        let (mut leaves, mut conditions) = (vec![], vec![]);
        flatten(plan, &mut leaves, &mut conditions);
        if !(3..=RELATIONS_MAX).contains(&leaves.len()) {
            return None;
        }
        // For how many rows those are called depends on the order.
        if leaves.iter().any(|leaf| is_volatile(leaf).unwrap_or(true)) {
            return None;
        }
        let side = |e: &Expr| {
            let mut named = 0;
            for column in e.column_refs() {
                let mut owners =
                    (0..leaves.len()).filter(|n| leaves[*n].schema().has_column(column));
                let (owner, None) = (owners.next()?, owners.next()) else {
                    return None;
                };
                named |= 1 << owner;
            }
            Some(named)
        };
        let of_two = |(condition, equal): (Expr, Option<(Expr, Expr)>)| {
            if can_fail_anywhere(&condition) || condition.is_volatile() {
                return None;
            }
            let relations = side(&condition)?;
            let equal = match equal {
                Some((a, b)) => {
                    let (at, bt) = (side(&a)?, side(&b)?);
                    Some([(a, at), (b, bt)])
                }
                None => None,
            };
            Some(On {
                condition,
                equal,
                relations,
            })
        };
        let conditions = conditions.into_iter().map(of_two).collect::<Option<_>>()?;
        let members = leaves.into_iter().map(|leaf| Member::new(leaf, reader));
        Some(Group {
            relations: members.collect::<Result<_>>().ok()?,
            conditions,
        })
    }

    /// Whether an index gives the rows in the order of a column, which is how the first of them are found best.
    fn is_driven_by(&self, column: &Column) -> bool {
        self.relations.iter().any(|member| {
            let scan = member.scan.as_ref();
            scan.zip(traced(member.plan, column))
                .is_some_and(|(scan, column)| scan.is_indexed(column, member.reader))
        })
    }

    /// The joins in another order, if one is far better than the one that is written.
    fn better(&self) -> Result<Option<LogicalPlan>> {
        let written = self.cost(&(0..self.relations.len()).collect::<Vec<_>>());
        if written < WORTH_ROWS {
            return Ok(None);
        }
        let mut starts: Vec<usize> = (0..self.relations.len()).collect();
        starts.sort_by(|a, b| self.relations[*a].rows.total_cmp(&self.relations[*b].rows));
        let orders = starts
            .into_iter()
            .take(STARTS_MAX)
            .map(|start| self.from(start));
        let best = orders.min_by(|a, b| a.cost.total_cmp(&b.cost));
        match best.filter(|best| best.cost * GAIN < written) {
            Some(best) => self.joined(&best.steps).map(Some),
            None => Ok(None),
        }
    }

    /// The order that begins with a relation and goes on with the cheapest step each time.
    fn from(&self, start: usize) -> Order {
        let mut progress = Progress::new(self, start);
        let mut steps = vec![start];
        while steps.len() < self.relations.len() {
            let left = (0..self.relations.len()).filter(|n| progress.joined & (1 << n) == 0);
            let each = left.map(|n| (n, progress.step(n)));
            // What isn't connected waits.
            let rank = |step: &Step| (!step.connected, step.cost + step.rows);
            let next = each.min_by(|(_, a), (_, b)| {
                let ((a_apart, a), (b_apart, b)) = (rank(a), rank(b));
                a_apart.cmp(&b_apart).then(a.total_cmp(&b))
            });
            let Some((next, step)) = next else { break };
            progress.take(next, step);
            steps.push(next);
        }
        Order {
            steps,
            cost: progress.cost,
        }
    }

    /// What an order costs, in rows that are read or made.
    fn cost(&self, steps: &[usize]) -> f64 {
        let mut progress = Progress::new(self, steps[0]);
        for next in &steps[1..] {
            let step = progress.step(*next);
            progress.take(*next, step);
        }
        progress.cost
    }

    /// The joins in this order.
    fn joined(&self, steps: &[usize]) -> Result<LogicalPlan> {
        let mut plan = self.relations[steps[0]].plan.clone();
        let mut joined = 1 << steps[0];
        let mut done = vec![false; self.conditions.len()];
        for next in &steps[1..] {
            let own = 1 << next;
            let (mut on, mut filter) = (vec![], None);
            for (condition, done) in self.conditions.iter().zip(&mut done) {
                if *done || condition.relations & !(joined | own) != 0 {
                    continue;
                }
                *done = true;
                match condition.between(joined, own) {
                    Some((theirs, ours)) => on.push((theirs.clone(), ours.clone())),
                    None => {
                        let condition = condition.condition.clone();
                        filter = Some(match filter {
                            Some(others) => binary_expr(others, Operator::And, condition),
                            None => condition,
                        });
                    }
                }
            }
            let join = Join::try_new(
                Arc::new(plan),
                Arc::new(self.relations[*next].plan.clone()),
                on,
                filter,
                JoinType::Inner,
                JoinConstraint::On,
                NullEquality::NullEqualsNothing,
                false,
            )?;
            plan = LogicalPlan::Join(join);
            joined |= own;
        }
        Ok(plan)
    }

    /// What is known of the column that an expression is.
    fn column(&self, e: &Expr, relation: u64) -> Option<(&Scanned<'r>, usize)> {
        let member = &self.relations[relation.trailing_zeros() as usize];
        let scan = member.scan.as_ref()?;
        let e = match e {
            Expr::Cast(cast) => &cast.expr,
            e => e,
        };
        let Expr::Column(column) = e else {
            return None;
        };
        Some((scan, traced(member.plan, column)?))
    }
}

impl On {
    /// What is equal on the sides of the relations `joined` and of the relation `own`.
    fn between(&self, joined: u64, own: u64) -> Option<(&Expr, &Expr)> {
        let [(a, at), (b, bt)] = self.equal.as_ref()?;
        if *at != 0 && at & !joined == 0 && *bt == own {
            Some((a, b))
        } else if *bt != 0 && bt & !joined == 0 && *at == own {
            Some((b, a))
        } else {
            None
        }
    }
}

/// Relations that have been joined.
struct Progress<'g, 'r> {
    group: &'g Group<'r>,
    joined: u64,
    rows: f64,
    cost: f64,
}

/// One relation more.
struct Step {
    connected: bool,
    /// Of the join.
    rows: f64,
    cost: f64,
}

impl<'g, 'r> Progress<'g, 'r> {
    fn new(group: &'g Group<'r>, start: usize) -> Self {
        let first = &group.relations[start];
        Progress {
            group,
            joined: 1 << start,
            rows: first.rows,
            cost: first.read(),
        }
    }

    fn take(&mut self, relation: usize, step: Step) {
        self.joined |= 1 << relation;
        self.rows = step.rows;
        self.cost += step.cost + step.rows;
    }

    fn step(&self, relation: usize) -> Step {
        let (group, own) = (self.group, 1 << relation);
        let member = &group.relations[relation];
        let mut rows = self.rows * member.rows;
        let mut cost = member.read();
        // Several equalities of one column follow from each other.
        let mut equal: Vec<(&Expr, f64)> = vec![];
        for condition in &group.conditions {
            if condition.relations & own == 0 || condition.relations & !(self.joined | own) != 0 {
                continue;
            }
            let Some((theirs, ours)) = condition.between(self.joined, own) else {
                rows *= if condition.equal.is_some() {
                    EQUAL_SHARE
                } else {
                    RANGE_SHARE
                };
                continue;
            };
            let (their_relation, ours_at) = (condition.relations & !own, group.column(ours, own));
            let theirs = match their_relation.count_ones() {
                1 => group.column(theirs, their_relation),
                _ => None,
            };
            let share = 1.0 / values(ours_at, theirs);
            match equal.iter_mut().find(|(e, _)| *e == ours) {
                Some((_, known)) => *known = known.min(share),
                None => equal.push((ours, share)),
            }
            if let Some((scan, column)) = ours_at {
                let most = (scan.rows / ROWS_PER_LOOKUP as f64).min(ROWS_MAX as f64);
                if self.rows <= most && scan.is_indexed(column, member.reader) {
                    cost = cost.min(self.rows * ROWS_PER_LOOKUP as f64);
                }
            }
        }
        equal.iter().for_each(|(_, share)| rows *= share);
        Step {
            connected: !equal.is_empty(),
            rows: rows.max(1.0),
            cost,
        }
    }
}

/// How many values two columns that are equal have at least: as many as the one that is a key.
fn values(ours: Option<(&Scanned, usize)>, theirs: Option<(&Scanned, usize)>) -> f64 {
    let key = |c: &Option<(&Scanned, usize)>| {
        let key = c.filter(|(scan, column)| scan.is_key(*column));
        key.map(|(scan, _)| scan.rows)
    };
    let rows = |c: Option<(&Scanned, usize)>| c.map_or(UNKNOWN_ROWS, |(scan, _)| scan.rows);
    let values = match (key(&ours), key(&theirs)) {
        (Some(a), Some(b)) => a.max(b),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => rows(ours).min(rows(theirs)) / FOUND_ROWS,
    };
    values.max(1.0)
}

impl<'r> Member<'r> {
    fn new(plan: &'r LogicalPlan, reader: &'r dyn SnapshotReader) -> Result<Member<'r>> {
        let scan = match scanned(plan).and_then(|scan| Some((scan, scanned_relation(scan)?))) {
            Some((scan, relation)) => Scanned::new(scan, relation, reader)?,
            None => None,
        };
        let rows = rows(plan, scan.as_ref(), reader);
        Ok(Member {
            plan,
            reader,
            rows,
            scan,
        })
    }

    /// Rows that are read if no others find them.
    fn read(&self) -> f64 {
        match &self.scan {
            Some(scan) if scan.found => self.rows * ROWS_PER_LOOKUP as f64,
            Some(scan) => scan.rows,
            None => self.rows,
        }
    }
}

impl<'r> Scanned<'r> {
    fn new(
        scan: &TableScan,
        relation: &'r Relation,
        reader: &'r dyn SnapshotReader,
    ) -> Result<Option<Scanned<'r>>> {
        let Some(rows) = reader.rows_estimate(relation.id) else {
            return Ok(None);
        };
        let conditions = scan.filters.iter();
        let conditions = conditions.flat_map(|f| of_scan(f, &relation.columns));
        let conditions: Vec<_> = conditions.collect();
        let found =
            !conditions.is_empty() && reader.finds(relation.id, &conditions).map_err(external)?;
        let columns = relation.columns.fields().len();
        Ok(Some(Scanned {
            relation,
            rows: rows as f64,
            conditions,
            found,
            indexed: vec![OnceCell::new(); columns],
        }))
    }

    /// About how many rows an index finds by the conditions; all, if none does.
    fn found_rows(&self) -> f64 {
        let of_one = |condition: &Condition| match condition {
            Condition::OneOf { column, values } => match self.is_key(*column) {
                true => values.len() as f64,
                false => values.len() as f64 * FOUND_ROWS,
            },
            Condition::Range { .. } => self.rows * FOUND_RANGE_SHARE,
        };
        match self.found {
            true => self.conditions.iter().map(of_one).fold(self.rows, f64::min),
            false => self.rows,
        }
    }

    /// The share of the first rows of the scan that pass a filter directly above it. `None`: it can't be told.
    fn share(&self, filter: &Filter, reader: &dyn SnapshotReader) -> Option<f64> {
        let LogicalPlan::TableScan(scan) = &*filter.input else {
            return None;
        };
        let some = reader.sample(self.relation.id, scan.projection.as_deref())?;
        let some = some.slice(0, some.num_rows().min(SAMPLE_ROWS));
        let passes = physical(&filter.predicate, filter.input.schema()).ok()?;
        let passed = passes
            .evaluate(&some)
            .ok()?
            .into_array(some.num_rows())
            .ok()?;
        let passed = passed.as_boolean_opt()?.true_count() as f64;
        // Rows that lie together are alike: what none of them fulfils some others may.
        Some((passed + 0.5) / (some.num_rows() as f64 + 1.0))
    }

    /// Whether no two rows have the same value in a column.
    fn is_key(&self, column: usize) -> bool {
        let is = |key: &Option<Vec<usize>>| key.as_deref() == Some(&[column]);
        is(&self.relation.primary_key) || is(&self.relation.unique)
    }

    /// Whether an index finds rows by a value of a column.
    fn is_indexed(&self, column: usize, reader: &dyn SnapshotReader) -> bool {
        let finds = || {
            let ty = self.relation.columns.field(column).data_type();
            let value = ScalarValue::new_default(ty).ok()?;
            let mut conditions = self.conditions.clone();
            conditions.push(Condition::OneOf {
                column,
                values: vec![value],
            });
            reader.finds(self.relation.id, &conditions).ok()
        };
        *self.indexed[column].get_or_init(|| finds().unwrap_or(false))
    }
}

/// The relations and conditions of inner joins; with each condition, what it says is equal.
fn flatten<'r>(
    plan: &'r LogicalPlan,
    leaves: &mut Vec<&'r LogicalPlan>,
    conditions: &mut Vec<(Expr, Option<(Expr, Expr)>)>,
) {
    match plan {
        LogicalPlan::Join(join) if is_inner(plan) => {
            flatten(&join.left, leaves, conditions);
            flatten(&join.right, leaves, conditions);
            conditions.extend(join.on.iter().map(|(l, r)| {
                let both = binary_expr(l.clone(), Operator::Eq, r.clone());
                (both, Some((l.clone(), r.clone())))
            }));
            let filter = join.filter.iter().flat_map(split_conjunction);
            conditions.extend(filter.map(|e| (e.clone(), None)));
        }
        LogicalPlan::Projection(p) if is_of_columns(plan) => flatten(&p.input, leaves, conditions),
        plan => leaves.push(plan),
    }
}

/// Whether the node is an inner join whose place is free.
fn is_inner(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Join(join) = plan else {
        return false;
    };
    let strict = join.null_equality == NullEquality::NullEqualsNothing;
    join.join_type == JoinType::Inner && strict && !join.null_aware
}

/// Whether the node only leaves columns of a join out.
fn is_of_columns(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Projection(p) = plan else {
        return false;
    };
    let columns = p.expr.iter().all(|e| matches!(e, Expr::Column(_)));
    columns && matches!(&*p.input, LogicalPlan::Join(_))
}

/// The scan whose rows a relation is, but for filters.
fn scanned(plan: &LogicalPlan) -> Option<&TableScan> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan),
        LogicalPlan::Filter(f) => scanned(&f.input),
        LogicalPlan::SubqueryAlias(a) => scanned(&a.input),
        LogicalPlan::Projection(p) => scanned(&p.input),
        _ => None,
    }
}

/// The column of the scanned collection that a column of such a relation is.
fn traced(plan: &LogicalPlan, column: &Column) -> Option<usize> {
    let at = plan.schema().maybe_index_of_column(column)?;
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan.projection.as_ref().map_or(at, |p| p[at])),
        LogicalPlan::Filter(f) => traced(&f.input, column),
        LogicalPlan::SubqueryAlias(a) => {
            let below = a.input.schema().columns().into_iter().nth(at)?;
            traced(&a.input, &below)
        }
        LogicalPlan::Projection(p) => match p.expr[at].clone().unalias() {
            Expr::Column(below) => traced(&p.input, &below),
            _ => None,
        },
        _ => None,
    }
}

/// About how many rows a plan gives.
fn rows(plan: &LogicalPlan, scan: Option<&Scanned>, reader: &dyn SnapshotReader) -> f64 {
    let inputs = || {
        plan.inputs()
            .into_iter()
            .map(|input| rows(input, scan, reader))
    };
    let guess: f64 = match plan {
        LogicalPlan::TableScan(table) => match scan {
            Some(scan) => scan.found_rows(),
            None => {
                let all = scanned_relation(table).and_then(|r| reader.rows_estimate(r.id));
                all.map_or(UNKNOWN_ROWS, |rows| rows as f64)
            }
        },
        // Of those that an index finds the other conditions leave most.
        LogicalPlan::Filter(_) if scan.is_some_and(|scan| scan.found) => inputs().sum(),
        LogicalPlan::Filter(f) => {
            let sampled = scan.and_then(|scan| scan.share(f, reader));
            let share = sampled.unwrap_or_else(|| share(&f.predicate, &f.input, scan));
            share * inputs().sum::<f64>()
        }
        LogicalPlan::Aggregate(a) if a.group_expr.is_empty() => 1.0,
        LogicalPlan::Values(values) => values.values.len() as f64,
        LogicalPlan::EmptyRelation(_) => 1.0,
        LogicalPlan::Limit(limit) => match limit.get_fetch_type() {
            Ok(FetchType::Literal(Some(most))) => inputs().sum::<f64>().min(most as f64),
            _ => inputs().sum(),
        },
        LogicalPlan::Join(_) => inputs().fold(0.0, f64::max),
        plan if plan.inputs().is_empty() => UNKNOWN_ROWS,
        _ => inputs().sum(),
    };
    guess.max(1.0)
}

/// The share of rows that fulfil a condition.
fn share(condition: &Expr, input: &LogicalPlan, scan: Option<&Scanned>) -> f64 {
    let mut parts = vec![];
    conjuncts(condition, &mut parts);
    let is_key = |e: &Expr| match (e, scan) {
        (Expr::Column(c), Some(scan)) => traced(input, c).is_some_and(|c| scan.is_key(c)),
        _ => false,
    };
    let of_one = |part: &Expr| match part {
        Expr::BinaryExpr(b) => match b.op {
            Operator::Eq if is_key(&b.left) || is_key(&b.right) => {
                1.0 / scan.map_or(UNKNOWN_ROWS, |scan| scan.rows.max(1.0))
            }
            Operator::Eq => EQUAL_SHARE,
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => RANGE_SHARE,
            Operator::NotEq => 1.0,
            Operator::Or => {
                let either = share(&b.left, input, scan) + share(&b.right, input, scan);
                either.min(1.0)
            }
            _ => SOME_SHARE,
        },
        Expr::Between(b) if !b.negated => RANGE_SHARE * RANGE_SHARE,
        Expr::InList(list) if !list.negated => (list.list.len() as f64 * EQUAL_SHARE).min(1.0),
        Expr::Like(like) if !like.negated => LIKE_SHARE,
        Expr::Like(_) | Expr::IsNotNull(_) => 1.0,
        Expr::IsNull(_) => EQUAL_SHARE,
        Expr::Not(e) => 1.0 - share(e, input, scan),
        Expr::Literal(ScalarValue::Boolean(Some(true)), _) => 1.0,
        _ => SOME_SHARE,
    };
    parts.into_iter().map(of_one).product()
}
