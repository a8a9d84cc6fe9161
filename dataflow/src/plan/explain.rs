//! EXPLAIN's text of a plan. Also the source of fingerprints: nothing in it may change from start to start.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::Schema;
use datafusion_physical_expr::PhysicalExpr;
use tidemill_zset::hash::{hash_columns, mix};

use super::{
    Aggregate, AggregateFunction, Classes, DataflowPlan, JoinKind, Node, Numbering, Op, OrderBy,
};
use crate::operators;

impl DataflowPlan {
    /// An indented tree: each operator with its columns, keys and state; for Recompute the reason. What keeps state and
    /// stands in several places is shown where it is met first.
    pub fn explain(&self) -> String {
        let mut out = String::new();
        let mut met = (Classes::of(&self.root), HashSet::new());
        write_node(&self.root, 0, &mut met, &mut out);
        out
    }
}

impl Op {
    /// Its name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input { .. } => "Input",
            Op::Constant { .. } => "Constant",
            Op::Map { .. } => "Map",
            Op::Unnest { .. } => "Unnest",
            Op::Aggregate { .. } => "Aggregate",
            Op::Join { .. } => "Join",
            Op::Union => "Union",
            Op::TopK { .. } => "TopK",
            Op::Recompute { .. } => "Recompute",
        }
    }
}

/// Makes this process plan one kind of operator (its [`Op::name`]) as if another version had written it: for tests of
/// upgrades. Once, before the first plan.
pub fn salt_fingerprints(kind: &str, salt: &str) {
    let _ = SALT.set((kind.into(), salt.into()));
}

static SALT: OnceLock<(String, String)> = OnceLock::new();

/// What [`salt_fingerprints`] has said of this operator; usually nothing.
pub(super) fn salt(op: &Op) -> &'static str {
    match SALT.get() {
        Some((kind, salt)) if kind == op.name() => salt,
        _ => "",
    }
}

/// What the output of `node` is a function of, as text.
pub fn fingerprint(node: &Node) -> String {
    let mut out = describe(node);
    out.push_str(salt(&node.op));
    if let Op::Constant { rows } = &node.op {
        let hashes = hash_columns(rows.columns(), rows.num_rows());
        let digest = hashes.iter().fold(0, |h, v| mix(h ^ v));
        let _ = write!(out, " {digest:016x}");
    }
    let types: Vec<String> = node
        .schema
        .fields()
        .iter()
        .map(|f| f.data_type().to_string())
        .collect();
    let _ = write!(out, ":{}", types.join(","));
    if node.append_only {
        out.push('+');
    }
    for input in &node.inputs {
        let _ = write!(out, "({})", fingerprint(input));
    }
    out
}

/// Writes `node` and what is below it; `met`: the subtrees with state that have been written.
fn write_node(node: &Node, depth: usize, met: &mut (Classes, HashSet<usize>), out: &mut String) {
    let columns: Vec<&str> = node
        .schema
        .fields()
        .iter()
        .map(|f| f.name().as_str())
        .collect();
    let is_new = !has_state(node) || met.1.insert(met.0.class(node));
    let _ = writeln!(
        out,
        "{:indent$}{} -> ({}){}",
        "",
        describe(node),
        columns.join(", "),
        if is_new { "" } else { ", as above" },
        indent = depth * 2
    );
    if !is_new {
        return;
    }
    for spec in operators::arrangements(node) {
        let names = |range: std::ops::Range<usize>| -> String {
            let fields = &spec.schema.fields()[range];
            let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
            names.join(", ")
        };
        let _ = writeln!(
            out,
            "{:indent$}state {}: {:?} by ({}): ({})",
            "",
            spec.name,
            spec.kind,
            names(0..spec.key_columns),
            names(spec.key_columns..spec.schema.fields().len()),
            indent = depth * 2 + 4
        );
    }
    for input in &node.inputs {
        write_node(input, depth + 1, met, out);
    }
}

/// Something in the subtree remembers rows from one epoch to the next.
fn has_state(node: &Node) -> bool {
    !operators::arrangements(node).is_empty() || node.inputs.iter().any(has_state)
}

/// The operator in one line.
pub(super) fn describe(node: &Node) -> String {
    let input = |i: usize| node.inputs[i].schema.as_ref();
    match &node.op {
        Op::Input {
            collection,
            columns,
        } => format!("Input {collection} columns {columns:?}"),
        Op::Constant { rows } => format!("Constant {} rows", rows.num_rows()),
        Op::Map {
            predicate,
            projection,
        } => map_text(predicate, projection),
        Op::Unnest { columns, structs } => {
            let mut s = format!("Unnest [{}]", names(input(0), columns));
            if !structs.is_empty() {
                let _ = write!(s, " spread [{}]", names(input(0), structs));
            }
            s
        }
        Op::Aggregate { keys, aggregates } if aggregates.is_empty() => {
            format!("Distinct [{}]", names(input(0), keys))
        }
        Op::Aggregate { keys, aggregates } => {
            let list: Vec<String> = aggregates
                .iter()
                .map(|a| aggregate_text(a, input(0)))
                .collect();
            format!(
                "Aggregate keys [{}] compute [{}]",
                names(input(0), keys),
                list.join(", ")
            )
        }
        Op::Join {
            kind,
            on,
            null_equals_null,
            filter,
        } => {
            let kind = match kind {
                JoinKind::Inner => "Inner",
                JoinKind::Left => "Left",
                JoinKind::Full => "Full",
                JoinKind::Semi => "Semi",
                JoinKind::Anti => "Anti",
            };
            let on: Vec<String> = on
                .iter()
                .map(|(l, r)| format!("{} = {}", name(input(0), *l), name(input(1), *r)))
                .collect();
            let mut s = format!("Join {kind} on [{}]", on.join(", "));
            if *null_equals_null {
                s.push_str(" null = null");
            }
            if let Some(f) = filter {
                let _ = write!(s, " where {f}");
            }
            s
        }
        Op::Union => "Union".to_string(),
        Op::TopK {
            keys,
            order,
            numbering,
            count,
            numbered,
        } => {
            let by = |o: &OrderBy| {
                let descending = if o.descending { " desc" } else { "" };
                let nulls = match (o.descending, o.nulls_first) {
                    (true, false) => " nulls last",
                    (false, true) => " nulls first",
                    _ => "",
                };
                format!(
                    "{}@{}{descending}{nulls}",
                    name(input(0), o.column),
                    o.column
                )
            };
            let order: Vec<String> = order.iter().map(by).collect();
            let ties = match numbering {
                Numbering::RowNumber => "",
                Numbering::Rank => " with ties",
                Numbering::DenseRank => " distinct values",
            };
            format!(
                "TopK keys [{}] first {count}{ties} by [{}]{}",
                names(input(0), keys),
                order.join(", "),
                if *numbered { ", numbered" } else { "" }
            )
        }
        Op::Recompute {
            keys,
            program,
            reason,
        } => {
            let keys: Vec<String> = keys
                .iter()
                .enumerate()
                .map(|(i, k)| format!("[{}]", names(input(i), k)))
                .collect();
            format!(
                "Recompute keys {} {} (because {reason})",
                if keys.is_empty() {
                    "[]".to_string()
                } else {
                    keys.join(" ")
                },
                program.describe()
            )
        }
    }
}

/// A map in words.
pub(super) fn map_text(
    predicate: &Option<Arc<dyn PhysicalExpr>>,
    projection: &Option<Vec<Arc<dyn PhysicalExpr>>>,
) -> String {
    let mut s = "Map".to_string();
    if let Some(p) = predicate {
        let _ = write!(s, " where {p}");
    }
    if let Some(exprs) = projection {
        let list: Vec<String> = exprs.iter().map(|e| e.to_string()).collect();
        let _ = write!(s, " project [{}]", list.join(", "));
    }
    s
}

fn name(schema: &Schema, column: usize) -> &str {
    schema.field(column).name()
}

fn names(schema: &Schema, columns: &[usize]) -> String {
    let list: Vec<String> = columns
        .iter()
        .map(|c| format!("{}@{c}", name(schema, *c)))
        .collect();
    list.join(", ")
}

fn aggregate_text(a: &Aggregate, input: &Schema) -> String {
    let function = match a.function {
        AggregateFunction::CountStar => "count",
        AggregateFunction::Count => "count",
        AggregateFunction::Sum => "sum",
        AggregateFunction::Avg => "avg",
        AggregateFunction::Moments => "moments",
        AggregateFunction::Min => "min",
        AggregateFunction::Max => "max",
        AggregateFunction::BoolAnd => "bool_and",
        AggregateFunction::BoolOr => "bool_or",
    };
    let argument = match a.column {
        Some(c) => names(input, &[&[c], a.second.as_slice()].concat()),
        None => "*".to_string(),
    };
    match a.filter {
        Some(f) => format!(
            "{function}({argument}) filter ({}@{f}) {}",
            name(input, f),
            a.output.data_type()
        ),
        None => format!("{function}({argument}) {}", a.output.data_type()),
    }
}
