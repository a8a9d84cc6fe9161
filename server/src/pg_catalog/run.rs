//! Rows of a plan: joins, grouping, order, set operations.
//!
//! Invariant: the catalog is small, but a join of three relations of it isn't: equalities are
//! joined by hash, and each condition of WHERE is applied as soon as its columns are there.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use tidemill_planner::SqlError;

use super::context::Context;
use super::eval::{Frame, eval, holds};
use super::plan::{
    Aggregate, AggregateKind, Body, Expr, JoinKind, Op, Order, Plan, SLOTS, Select, SetOp, Source,
    Window,
};
use super::relations::Row;
use super::scope::not_ours;
use super::value::Value;

/// Rows that WITH RECURSIVE may give.
const ROWS_MAX: usize = 5_000_000;
/// Pairs of rows that a join may look at, and values in its rows. What is larger is the planner's, whose queries have limits.
const PAIRS_MAX: usize = 20_000_000;

type Outer<'a> = Option<&'a Frame<'a>>;

/// All rows of a query.
pub fn rows(plan: &Plan, outer: Outer<'_>, context: &Context<'_>) -> Result<Vec<Row>, SqlError> {
    let mut rows = match &plan.body {
        Body::Select(select) => self::select(select, outer, context)?,
        Body::Values(list) => {
            let frame = Frame { row: &[], outer };
            let row = |exprs: &Vec<Expr>| {
                exprs
                    .iter()
                    .map(|e| eval(e, &frame, context))
                    .collect::<Result<Row, _>>()
            };
            list.iter().map(row).collect::<Result<_, _>>()?
        }
        Body::Set {
            op,
            all,
            left,
            right,
        } => {
            let (left, right) = (
                self::rows(left, outer, context)?,
                self::rows(right, outer, context)?,
            );
            set_operation(*op, *all, left, right)
        }
    };
    if !plan.order.is_empty() {
        rows.sort_by(|a, b| by_keys(&plan.order, a, b));
    }
    let distinct_on = match &plan.body {
        Body::Select(select) => select.distinct_on.len(),
        _ => 0,
    };
    if distinct_on > 0 {
        // Their values stand at the end of each row.
        rows.dedup_by(|b, a| {
            let last = |row: &Row| {
                row[row.len() - distinct_on..]
                    .iter()
                    .map(key)
                    .collect::<Vec<_>>()
            };
            last(a) == last(b)
        });
    }
    let frame = Frame { row: &[], outer };
    let count = |expr: &Option<Expr>| -> Result<Option<usize>, SqlError> {
        let Some(expr) = expr else { return Ok(None) };
        let number = eval(expr, &frame, context)?.int();
        Ok(number.and_then(|n| usize::try_from(n).ok()))
    };
    if let Some(offset) = count(&plan.offset)? {
        rows.drain(..offset.min(rows.len()));
    }
    if let Some(limit) = count(&plan.limit)? {
        rows.truncate(limit);
    }
    for row in &mut rows {
        row.truncate(plan.columns.len());
    }
    Ok(rows)
}

fn by_keys(order: &[Order], a: &Row, b: &Row) -> Ordering {
    for key in order {
        let (left, right) = (&a[key.key], &b[key.key]);
        let ordering = match (left.is_null(), right.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) if key.nulls_first => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, true) if key.nulls_first => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let ordering = left.compare(right).unwrap_or(Ordering::Equal);
                if key.descending {
                    ordering.reverse()
                } else {
                    ordering
                }
            }
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
    Ordering::Equal
}

/// A value as part of a hash key; equal values of one kind have equal keys.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
}

fn key(value: &Value) -> Key {
    match value {
        Value::Null => Key::Null,
        Value::Bool(v) => Key::Bool(*v),
        Value::Int(v) => Key::Int(*v),
        other => Key::Text(other.show()),
    }
}

fn keys(row: &Row) -> Vec<Key> {
    row.iter().map(key).collect()
}

fn set_operation(op: SetOp, all: bool, left: Vec<Row>, right: Vec<Row>) -> Vec<Row> {
    let mut counts: HashMap<Vec<Key>, usize> = HashMap::new();
    if op != SetOp::Union {
        for row in &right {
            *counts.entry(keys(row)).or_default() += 1;
        }
    }
    let mut rows: Vec<Row> = match op {
        SetOp::Union => left.into_iter().chain(right).collect(),
        SetOp::Intersect | SetOp::Except => left
            .into_iter()
            .filter(|row| {
                let count = counts.entry(keys(row)).or_default();
                let matched = *count > 0;
                if matched && all {
                    *count -= 1;
                }
                matched == (op == SetOp::Intersect)
            })
            .collect(),
    };
    if !all {
        distinct(&mut rows, usize::MAX);
    }
    rows
}

/// WITH RECURSIVE.
fn recursive(
    (base, step): (&Plan, &Plan),
    all: bool,
    number: usize,
    frame: &Frame<'_>,
    context: &Context<'_>,
) -> Result<Vec<Row>, SqlError> {
    let mut found = rows(base, Some(frame), context)?;
    if !all {
        distinct(&mut found, base.columns.len());
    }
    let mut known = 0;
    while known < found.len() {
        if found.len() > ROWS_MAX {
            return Err(SqlError::new("54000", "WITH RECURSIVE gives too many rows"));
        }
        let last = Rc::new(found[known..].to_vec());
        known = found.len();
        context.working.borrow_mut().insert(number, last);
        found.extend(rows(step, Some(frame), context)?);
        if !all {
            distinct(&mut found, base.columns.len());
        }
    }
    context.working.borrow_mut().remove(&number);
    Ok(found)
}

/// Keeps the first of rows that are equal in their first columns.
fn distinct(rows: &mut Vec<Row>, columns: usize) {
    let mut seen = std::collections::HashSet::new();
    rows.retain(|row| seen.insert(row.iter().take(columns).map(key).collect::<Vec<_>>()));
}

/// Outputs of a SELECT, then the further keys of its ORDER BY, then DISTINCT ON.
fn select(select: &Select, outer: Outer<'_>, context: &Context<'_>) -> Result<Vec<Row>, SqlError> {
    let mut rows = from(select, outer, context)?;
    let slots = !select.aggregates.is_empty()
        || !select.windows.is_empty()
        || !select.expansions.is_empty();
    if let Some(group) = &select.group {
        rows = grouped(select, group, rows, outer, context)?;
    } else if slots {
        for row in &mut rows {
            row.resize(select.width + SLOTS, Value::Null);
        }
    }
    if let Some(having) = &select.having {
        retain(&mut rows, |row| {
            holds(having, &Frame { row, outer }, context)
        })?;
    }
    for (slot, window) in &select.windows {
        number(window, *slot, &mut rows, outer, context)?;
    }
    if !select.expansions.is_empty() {
        rows = expanded(select, rows, outer, context)?;
    }
    let outputs = select
        .outputs
        .iter()
        .chain(&select.keys)
        .chain(&select.distinct_on);
    let outputs: Vec<&Expr> = outputs.collect();
    let mut results = Vec::with_capacity(rows.len());
    for row in &rows {
        let frame = Frame { row, outer };
        let values = outputs.iter().map(|expr| eval(expr, &frame, context));
        results.push(values.collect::<Result<Row, _>>()?);
    }
    if select.distinct {
        distinct(&mut results, select.outputs.len());
    }
    Ok(results)
}

fn retain(
    rows: &mut Vec<Row>,
    mut keep: impl FnMut(&Row) -> Result<bool, SqlError>,
) -> Result<(), SqlError> {
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows.drain(..) {
        if keep(&row)? {
            kept.push(row);
        }
    }
    *rows = kept;
    Ok(())
}

/// FROM and WHERE.
fn from(select: &Select, outer: Outer<'_>, context: &Context<'_>) -> Result<Vec<Row>, SqlError> {
    let mut rows: Vec<Row> = vec![Vec::new()];
    let mut width = 0;
    for (number, source) in select.sources.iter().enumerate() {
        let here: Vec<&Expr> = select
            .filters
            .iter()
            .filter(|(after, _)| *after == Some(number + 1) || (number == 0 && *after == Some(0)))
            .map(|(_, expr)| expr)
            .collect();
        rows = match source.is_lateral() {
            true => {
                let mut joined = Vec::new();
                for left in &rows {
                    for right in source_rows(source, left, outer, context)? {
                        joined.push([left.as_slice(), right.as_slice()].concat());
                    }
                }
                joined
            }
            false => {
                let nothing = vec![Value::Null; width];
                let right = source_rows(source, &nothing, outer, context)?;
                let sides = Sides {
                    left: rows,
                    right,
                    at: 0,
                    left_width: width,
                    right_width: source.width(),
                };
                join(sides, JoinKind::Inner, &here, outer, context)?
            }
        };
        width += source.width();
        if rows.len() * width > PAIRS_MAX {
            return Err(not_ours("many rows"));
        }
        if source.is_lateral() {
            retain(&mut rows, |row| all_hold(&here, row, outer, context))?;
        }
    }
    let done = select.sources.len();
    let rest: Vec<&Expr> = select
        .filters
        .iter()
        .filter(|(after, _)| after.is_none_or(|after| after > done || done == 0))
        .map(|(_, expr)| expr)
        .collect();
    retain(&mut rows, |row| all_hold(&rest, row, outer, context))?;
    Ok(rows)
}

fn all_hold(
    conditions: &[&Expr],
    row: &[Value],
    outer: Outer<'_>,
    context: &Context<'_>,
) -> Result<bool, SqlError> {
    for condition in conditions {
        if !holds(condition, &Frame { row, outer }, context)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Rows of an item of FROM, its own columns only. `before`: the row to its left.
fn source_rows(
    source: &Source,
    before: &Row,
    outer: Outer<'_>,
    context: &Context<'_>,
) -> Result<Vec<Row>, SqlError> {
    let frame = Frame { row: before, outer };
    Ok(match source {
        Source::Relation(definition) => context.rows(definition).as_ref().clone(),
        Source::Derived { plan, .. } => rows(plan, Some(&frame), context)?,
        Source::Working { number, .. } => context
            .working
            .borrow()
            .get(number)
            .map_or_else(Vec::new, |rows| rows.as_ref().clone()),
        Source::Recursive {
            base,
            step,
            all,
            number,
        } => recursive((base, step), *all, *number, &frame, context)?,
        Source::Function {
            expr,
            columns,
            ordinality,
        } => {
            let items = match eval(expr, &frame, context)? {
                Value::Array(items) => items.to_vec(),
                _ => Vec::new(),
            };
            let row = |(n, item): (usize, Value)| {
                let mut row = match (item, columns) {
                    (item, 1) => vec![item],
                    (Value::Array(parts), _) => parts.to_vec(),
                    (item, _) => vec![item],
                };
                row.resize(*columns, Value::Null);
                if *ordinality {
                    row.push(Value::Int(n as i64 + 1));
                }
                row
            };
            items.into_iter().enumerate().map(row).collect()
        }
        Source::Join {
            left,
            right,
            kind,
            on,
            at,
        } => {
            let on: Vec<&Expr> = on.iter().collect();
            let (left_width, right_width) = (left.width(), right.width());
            let left = source_rows(left, before, outer, context)?;
            if !right.is_lateral() {
                let nothing = vec![Value::Null; at + left_width];
                let right = source_rows(right, &nothing, outer, context)?;
                let sides = Sides {
                    left,
                    right,
                    at: *at,
                    left_width,
                    right_width,
                };
                return join(sides, *kind, &on, outer, context);
            }
            let mut joined = Vec::new();
            for row in left {
                let here = [before.as_slice(), row.as_slice()].concat();
                let right = source_rows(right, &here, outer, context)?;
                let sides = Sides {
                    left: vec![row],
                    right,
                    at: *at,
                    left_width,
                    right_width,
                };
                joined.extend(join(sides, *kind, &on, outer, context)?);
            }
            joined
        }
    })
}

/// Two sides of a join; the left one's columns start at `at`.
struct Sides {
    left: Vec<Row>,
    right: Vec<Row>,
    at: usize,
    left_width: usize,
    right_width: usize,
}

fn join(
    sides: Sides,
    kind: JoinKind,
    on: &[&Expr],
    outer: Outer<'_>,
    context: &Context<'_>,
) -> Result<Vec<Row>, SqlError> {
    let Sides {
        left,
        right,
        at,
        left_width,
        right_width,
    } = sides;
    let middle = at + left_width;
    let hashed = on
        .iter()
        .find_map(|condition| equality(condition, at, middle));
    let mut index: HashMap<Key, Vec<usize>> = HashMap::new();
    if let Some((_, of_right)) = hashed {
        for (number, row) in right.iter().enumerate() {
            index
                .entry(key(&row[of_right - middle]))
                .or_default()
                .push(number);
        }
    }
    let every: Vec<usize> = (0..right.len()).collect();
    let mut matched = vec![false; right.len()];
    let mut joined = Vec::new();
    let (mut pairs, width) = (0, left_width + right_width);
    let mut whole: Row = vec![Value::Null; at];
    for row in &left {
        whole.truncate(at);
        whole.extend_from_slice(row);
        let candidates: &[usize] = match hashed {
            Some((of_left, _)) => match key(&whole[of_left]) {
                Key::Null => &[],
                key => index.get(&key).map_or(&[], Vec::as_slice),
            },
            None => &every,
        };
        pairs += candidates.len();
        if pairs.max(joined.len() * width) > PAIRS_MAX {
            return Err(not_ours("a large join"));
        }
        let mut found = false;
        for number in candidates {
            whole.truncate(middle);
            whole.extend_from_slice(&right[*number]);
            if all_hold(on, &whole, outer, context)? {
                found = true;
                matched[*number] = true;
                joined.push(whole[at..].to_vec());
            }
        }
        if !found && matches!(kind, JoinKind::Left | JoinKind::Full) {
            let mut row = row.clone();
            row.resize(left_width + right_width, Value::Null);
            joined.push(row);
        }
    }
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        for (row, matched) in right.iter().zip(matched) {
            if !matched {
                let mut padded = vec![Value::Null; left_width];
                padded.extend_from_slice(row);
                joined.push(padded);
            }
        }
    }
    Ok(joined)
}

/// Column numbers of `left = right`, where the condition is that.
fn equality(condition: &Expr, at: usize, middle: usize) -> Option<(usize, usize)> {
    let Expr::Binary {
        op: Op::Eq,
        left,
        right,
        alike: true,
    } = condition
    else {
        return None;
    };
    let (Expr::Column { .. }, Expr::Column { .. }) = (left.as_ref(), right.as_ref()) else {
        return None;
    };
    let (a, b) = (left.low()?, right.low()?);
    let is_left = |n: usize| (at..middle).contains(&n);
    match (is_left(a), is_left(b)) {
        (true, false) if b >= middle => Some((a, b)),
        (false, true) if a >= middle => Some((b, a)),
        _ => None,
    }
}

/// One row per group: that of its first row, with the aggregates in their slots.
fn grouped(
    select: &Select,
    group: &[Expr],
    rows: Vec<Row>,
    outer: Outer<'_>,
    context: &Context<'_>,
) -> Result<Vec<Row>, SqlError> {
    let mut groups: Vec<Vec<Row>> = Vec::new();
    let mut places: HashMap<Vec<Key>, usize> = HashMap::new();
    for row in rows {
        let frame = Frame { row: &row, outer };
        let values: Row = group
            .iter()
            .map(|e| eval(e, &frame, context))
            .collect::<Result<_, _>>()?;
        let place = *places.entry(keys(&values)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(row);
    }
    if group.is_empty() && groups.is_empty() {
        groups.push(Vec::new());
    }
    let mut results = Vec::with_capacity(groups.len());
    for members in groups {
        let mut row = members.first().cloned().unwrap_or_default();
        row.resize(select.width + SLOTS, Value::Null);
        for (slot, aggregate) in &select.aggregates {
            row[*slot] = aggregated(aggregate, &members, outer, context)?;
        }
        results.push(row);
    }
    Ok(results)
}

fn aggregated(
    aggregate: &Aggregate,
    members: &[Row],
    outer: Outer<'_>,
    context: &Context<'_>,
) -> Result<Value, SqlError> {
    let mut inputs: Vec<(Row, Row)> = Vec::new();
    for row in members {
        let frame = Frame { row, outer };
        if let Some(filter) = &aggregate.filter
            && !holds(filter, &frame, context)?
        {
            continue;
        }
        let args: Row = aggregate
            .args
            .iter()
            .map(|e| eval(e, &frame, context))
            .collect::<Result<_, _>>()?;
        let order = aggregate
            .order
            .iter()
            .map(|(e, _)| eval(e, &frame, context));
        inputs.push((order.collect::<Result<_, _>>()?, args));
    }
    if !aggregate.order.is_empty() {
        let order = sorting(&aggregate.order);
        inputs.sort_by(|(a, _), (b, _)| by_keys(&order, a, b));
    }
    let mut rows: Vec<Row> = inputs.into_iter().map(|(_, args)| args).collect();
    if aggregate.args.is_empty() {
        return Ok(Value::Int(rows.len() as i64));
    }
    if aggregate.kind != AggregateKind::ArrayAgg {
        rows.retain(|args| !args[0].is_null());
    }
    if aggregate.distinct {
        distinct(&mut rows, 1);
    }
    let between = rows
        .first()
        .and_then(|args| args.get(1))
        .map(Value::show)
        .unwrap_or_default();
    let values = rows.into_iter().filter_map(|args| args.into_iter().next());
    let best = |wanted: Ordering| {
        move |best: Value, value: Value| match value.compare(&best) {
            Some(order) if order == wanted => value,
            _ => best,
        }
    };
    let fold = |value: bool| {
        move |all: Value, next: Value| match next.bool() {
            Some(next) if next == value => Value::Bool(value),
            _ => all,
        }
    };
    Ok(match aggregate.kind {
        AggregateKind::Count => Value::Int(values.count() as i64),
        AggregateKind::Min => values.reduce(best(Ordering::Less)).unwrap_or(Value::Null),
        AggregateKind::Max => values
            .reduce(best(Ordering::Greater))
            .unwrap_or(Value::Null),
        AggregateKind::And => values.reduce(fold(false)).unwrap_or(Value::Null),
        AggregateKind::Or => values.reduce(fold(true)).unwrap_or(Value::Null),
        AggregateKind::Sum => {
            let sum = values.filter_map(|v| v.int()).reduce(i64::saturating_add);
            sum.map_or(Value::Null, Value::Int)
        }
        AggregateKind::StringAgg => {
            let texts: Vec<String> = values.map(|v| v.show()).collect();
            if texts.is_empty() {
                Value::Null
            } else {
                Value::text(texts.join(&between))
            }
        }
        AggregateKind::ArrayAgg => {
            let items: Vec<Value> = values.collect();
            if items.is_empty() {
                Value::Null
            } else {
                Value::Array(items.into())
            }
        }
    })
}

fn sorting(keys: &[(Expr, bool)]) -> Vec<Order> {
    let order = |(key, (_, descending)): (usize, &(Expr, bool))| Order {
        key,
        descending: *descending,
        nulls_first: *descending,
    };
    keys.iter().enumerate().map(order).collect()
}

/// `row_number()` into its slot.
fn number(
    window: &Window,
    slot: usize,
    rows: &mut [Row],
    outer: Outer<'_>,
    context: &Context<'_>,
) -> Result<(), SqlError> {
    let mut order: Vec<(Vec<Key>, Row, usize)> = Vec::with_capacity(rows.len());
    for (place, row) in rows.iter().enumerate() {
        let frame = Frame { row, outer };
        let partition: Row = window
            .partition
            .iter()
            .map(|e| eval(e, &frame, context))
            .collect::<Result<_, _>>()?;
        let sort = window.order.iter().map(|(e, _)| eval(e, &frame, context));
        order.push((keys(&partition), sort.collect::<Result<_, _>>()?, place));
    }
    let sorting = sorting(&window.order);
    order.sort_by(|(_, a, _), (_, b, _)| by_keys(&sorting, a, b));
    let mut counts: HashMap<Vec<Key>, i64> = HashMap::new();
    for (partition, _, place) in order {
        let count = counts.entry(partition).or_default();
        *count += 1;
        rows[place][slot] = Value::Int(*count);
    }
    Ok(())
}

/// Set-returning calls of a select list: as many rows as the longest gives.
fn expanded(
    select: &Select,
    rows: Vec<Row>,
    outer: Outer<'_>,
    context: &Context<'_>,
) -> Result<Vec<Row>, SqlError> {
    let mut results = Vec::new();
    for row in rows {
        let frame = Frame { row: &row, outer };
        let mut lists = Vec::new();
        for (slot, expr) in &select.expansions {
            let items = match eval(expr, &frame, context)? {
                Value::Array(items) => items.to_vec(),
                _ => Vec::new(),
            };
            lists.push((*slot, items));
        }
        let longest = lists
            .iter()
            .map(|(_, items)| items.len())
            .max()
            .unwrap_or(0);
        for number in 0..longest {
            let mut row = row.clone();
            for (slot, items) in &lists {
                row[*slot] = items.get(number).cloned().unwrap_or(Value::Null);
            }
            results.push(row);
        }
    }
    Ok(results)
}
