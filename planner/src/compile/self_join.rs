//! An aggregate's rows joined with themselves by the aggregate's keys: each row meets itself and no other.
//!
//! That is what a WITH query becomes which groups and is named twice. Both sides are maps over one node that has one row per key, so the
//! join is a map over it, too:
//!
//! ```text
//! join(map(x), map(x))  →  map(x)
//! ```

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::BinaryExpr;
use tidemill_dataflow::plan::{Classes, JoinKind, Node, Op};

use super::collate::{none_null, only_when};
use super::expr::{self, Physical};
use super::rows;

/// Parts of the expressions of one side above the common node: more are computed once, and then joined.
const PARTS_MAX: usize = 1000;

/// One side of the join: a map over the common node.
struct Side {
    /// Which of its rows.
    predicate: Option<Physical>,
    /// Its columns, over those of the common node.
    projection: Vec<Physical>,
}

/// The join as a map; `None` if it isn't such a one.
pub(super) fn self_join(
    (left, right): (&Node, &Node),
    kind: JoinKind,
    on: &[(usize, usize)],
    null_equals_null: bool,
    filter: &Option<Physical>,
) -> Option<Node> {
    let possible = match kind {
        JoinKind::Inner => true,
        JoinKind::Left => filter.is_none(),
        // A row with a NULL in its key would be two.
        JoinKind::Full => filter.is_none() && null_equals_null,
        JoinKind::Semi | JoinKind::Anti => false,
    };
    if !possible {
        return None;
    }
    let (lefts, rights) = (maps(left)?, maps(right)?);
    let classes = Classes::of_all(&[left, right]);
    let same = |(a, b): &(usize, usize)| classes.class(lefts[*a]) == classes.class(rights[*b]);
    let mut pairs = (0..lefts.len()).flat_map(|a| (0..rights.len()).map(move |b| (a, b)));
    let (above_left, above_right) = pairs.find(same)?;
    let common = lefts[above_left];
    let keys = keys(common)?;
    let left_side = over(&lefts[..above_left], common)?;
    let right_side = over(&rights[..above_right], common)?;
    let mut paired = vec![];
    for (l, r) in on {
        let l = expr::as_column(&left_side.projection[*l])?;
        let r = expr::as_column(&right_side.projection[*r])?;
        if l != r || !keys.contains(&l) {
            return None;
        }
        paired.push(l);
    }
    if !keys.iter().all(|key| paired.contains(key)) {
        return None;
    }
    let key_columns: Vec<Physical> = keys
        .iter()
        .map(|k| expr::column(&common.schema, *k))
        .collect();
    let has_keys = match null_equals_null {
        true => None,
        false => none_null(&key_columns),
    };
    // Where the row has a match, or is one.
    let (is_left, is_right) = match kind {
        JoinKind::Inner | JoinKind::Left => (
            left_side.predicate,
            expr::and(has_keys, right_side.predicate),
        ),
        _ => (left_side.predicate, right_side.predicate),
    };
    let predicate = match (kind, &is_left, &is_right) {
        (JoinKind::Inner, ..) => expr::and(is_left.clone(), is_right.clone()),
        (JoinKind::Left, ..) => is_left.clone(),
        (_, Some(a), Some(b)) => {
            Some(Arc::new(BinaryExpr::new(a.clone(), Operator::Or, b.clone())) as Physical)
        }
        _ => None,
    };
    let mut exprs = vec![];
    let mut fields: Vec<FieldRef> = vec![];
    let sides = [
        (left, left_side.projection, &is_left, kind == JoinKind::Full),
        (
            right,
            right_side.projection,
            &is_right,
            kind != JoinKind::Inner,
        ),
    ];
    for (node, projection, is, may_be_missing) in sides {
        for (e, field) in projection.into_iter().zip(node.schema.fields()) {
            exprs.push(match is {
                Some(is) if may_be_missing => only_when(is.clone(), e, field.data_type())?,
                _ => e,
            });
            fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let joined = rows::map(common.clone(), predicate, Some((exprs, schema)));
    Some(match filter {
        None => joined,
        Some(filter) => rows::map(joined, Some(filter.clone()), None),
    })
}

/// The maps above an aggregate with keys, from above, and the aggregate.
fn maps(node: &Node) -> Option<Vec<&Node>> {
    let mut found = vec![node];
    let mut node = node;
    while let Op::Map { .. } = &node.op {
        node = &node.inputs[0];
        found.push(node);
    }
    match &node.op {
        Op::Aggregate { keys, .. } if !keys.is_empty() => Some(found),
        _ => None,
    }
}

/// The columns of such a map, or of the aggregate, that are its keys; `None` if one of these isn't there any more.
fn keys(node: &Node) -> Option<Vec<usize>> {
    match &node.op {
        Op::Aggregate { keys, .. } => Some((0..keys.len()).collect()),
        Op::Map { projection, .. } => {
            let below = keys(&node.inputs[0])?;
            let Some(projection) = projection else {
                return Some(below);
            };
            let place = |key: &usize| {
                let is_key = |e| expr::as_column(e) == Some(*key);
                projection.iter().position(is_key)
            };
            below.iter().map(place).collect()
        }
        _ => None,
    }
}

/// What `maps`, each over the next one and the last one over `common`, make of its rows; `None` if it takes too much to write.
fn over(maps: &[&Node], common: &Node) -> Option<Side> {
    let columns = (0..common.schema.fields().len()).map(|i| expr::column(&common.schema, i));
    let mut side = Side {
        predicate: None,
        projection: columns.collect(),
    };
    for map in maps.iter().rev() {
        let Op::Map {
            predicate,
            projection,
        } = &map.op
        else {
            return None;
        };
        let through = |e: &Physical| expr::substitute(e, &side.projection);
        let predicate = expr::and(side.predicate.clone(), predicate.as_ref().map(through));
        let projection = match projection {
            Some(exprs) => exprs.iter().map(through).collect(),
            None => side.projection.clone(),
        };
        side = Side {
            predicate,
            projection,
        };
        let all = side.projection.iter().chain(&side.predicate);
        if !expr::has_few_parts(all, PARTS_MAX) {
            return None;
        }
    }
    Some(side)
}
