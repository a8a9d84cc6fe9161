//! Which arrangements joins and recomputations keep: their columns and what their contents depend on.
//!
//! Invariant: the functions here are the only place that decides the columns of this state; the
//! operators build their rows with the same [`StoredColumns`], so plan and state can't disagree.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::utils::collect_columns;
use tidemill_storage::ArrangementKind;

use crate::plan::{ArrangementSpec, JoinKind, Op};

/// How an input's rows are laid out in an arrangement: key columns first, then the others that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredColumns {
    /// Input column of each stored column.
    pub columns: Vec<usize>,
    /// How many leading stored columns form the key.
    pub key_columns: usize,
}

impl StoredColumns {
    /// `keys`, then all columns of `0..width` that `kept` wants and that aren't keys.
    pub fn new(keys: &[usize], width: usize, kept: impl Fn(usize) -> bool) -> Self {
        let mut columns = keys.to_vec();
        columns.extend((0..width).filter(|c| !keys.contains(c) && kept(*c)));
        StoredColumns {
            columns,
            key_columns: keys.len(),
        }
    }

    /// The stored column that holds input column `column`, if it is kept.
    pub fn position(&self, column: usize) -> Option<usize> {
        self.columns.iter().position(|c| *c == column)
    }

    /// The schema of the stored rows of an input of `schema`.
    pub fn schema(&self, schema: &Schema) -> SchemaRef {
        let fields = self.columns.iter().map(|c| schema.field(*c).clone());
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// The stored columns of both sides of a join. Semi and anti joins need of the right side only
/// the key and what the filter looks at.
pub fn join_columns(
    kind: JoinKind,
    on: &[(usize, usize)],
    filter: Option<&Arc<dyn PhysicalExpr>>,
    left_width: usize,
    right_width: usize,
) -> [StoredColumns; 2] {
    let left: Vec<usize> = on.iter().map(|(l, _)| *l).collect();
    let right: Vec<usize> = on.iter().map(|(_, r)| *r).collect();
    let filtered: Vec<usize> = filter
        .map(|f| collect_columns(f).iter().map(|c| c.index()).collect())
        .unwrap_or_default();
    let whole = !matches!(kind, JoinKind::Semi | JoinKind::Anti);
    // Without a key and a filter only the number of rows matters, but a stored row has a column.
    let counted = right.is_empty() && !filtered.iter().any(|c| *c >= left_width);
    [
        StoredColumns::new(&left, left_width, |_| true),
        StoredColumns::new(&right, right_width, |c| {
            whole || filtered.contains(&(left_width + c)) || counted && c == 0
        }),
    ]
}

/// The arrangements of an [`Op::Join`], left then right. Empty for every other operator.
pub fn join_arrangements(op: &Op, inputs: &[SchemaRef]) -> Vec<ArrangementSpec> {
    let Op::Join {
        kind,
        on,
        null_equals_null,
        filter,
    } = op
    else {
        return Vec::new();
    };
    let columns = join_columns(
        *kind,
        on,
        filter.as_ref(),
        inputs[0].fields().len(),
        inputs[1].fields().len(),
    );
    columns
        .iter()
        .zip(["left", "right"])
        .enumerate()
        .map(|(side, (stored, name))| ArrangementSpec {
            kind: ArrangementKind::Add,
            schema: stored.schema(&inputs[side]),
            key_columns: stored.key_columns,
            name: name.into(),
            fingerprint: format!(
                "rows v1 key {:?} columns {:?} null keys {null_equals_null}",
                &stored.columns[..stored.key_columns],
                stored.columns,
            ),
            input: Some(side),
        })
        .collect()
}

/// The arrangements of an [`Op::Recompute`]: the rows of each input, the previous output, and the
/// keys whose last run failed. Empty for every other operator.
pub fn recompute_arrangements(
    op: &Op,
    inputs: &[SchemaRef],
    output: &SchemaRef,
) -> Vec<ArrangementSpec> {
    let Op::Recompute { keys, program, .. } = op else {
        return Vec::new();
    };
    let mut specs: Vec<ArrangementSpec> = inputs
        .iter()
        .enumerate()
        .map(|(i, schema)| {
            let columns = keys.get(i).map_or(&[][..], Vec::as_slice);
            let stored = StoredColumns::new(columns, schema.fields().len(), |_| true);
            ArrangementSpec {
                kind: ArrangementKind::Add,
                schema: stored.schema(schema),
                key_columns: stored.key_columns,
                name: "rows".into(),
                fingerprint: format!("rows v1 input {i} key {columns:?}"),
                input: Some(i),
            }
        })
        .collect();
    let key_columns = keys.first().map_or(0, Vec::len);
    let computed = format!("{:?} {}", keys, program.describe());
    specs.push(ArrangementSpec {
        kind: ArrangementKind::Add,
        schema: output.clone(),
        key_columns,
        name: "output".into(),
        fingerprint: format!("recompute v1 output {computed}"),
        input: None,
    });
    specs.push(ArrangementSpec {
        kind: ArrangementKind::Add,
        schema: failed_schema(output, key_columns),
        key_columns,
        name: "failed".into(),
        fingerprint: format!("recompute v1 failed {computed}"),
        input: None,
    });
    specs
}

/// Columns of the arrangement of failing keys: the key, SQLSTATE, message and the key as text.
fn failed_schema(output: &Schema, key_columns: usize) -> SchemaRef {
    let mut fields: Vec<_> = output.fields()[..key_columns].to_vec();
    fields.extend(crate::operator::error_schema().fields().iter().cloned());
    Arc::new(Schema::new(fields))
}
