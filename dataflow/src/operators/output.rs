//! The end of every dataflow: keeps the output of an epoch together, and makes the changes of the
//! output's own arrangement where there is one.

use std::cell::Cell;
use std::rc::Rc;

use arrow::datatypes::SchemaRef;
use tidemill_storage::ArrangementChange;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{ArrangementId, Delta, Diffs, Epoch};

use crate::operator::{Operator, Output};

/// See the module. Emits only from `finish`.
pub struct OutputRows {
    schema: SchemaRef,
    /// Where the rows are stored: as a log, or in an `Add` arrangement keyed by the whole row.
    arrangement: Option<ArrangementId>,
    /// Whether somebody wants the rows.
    demand: Rc<Cell<bool>>,
    /// No two rows of an epoch are equal.
    apart: bool,
    rows: Vec<Delta>,
}

impl OutputRows {
    /// Ends a dataflow whose output has `schema`. `apart`: see [`crate::plan::OutputStorage::is_apart`].
    pub fn new(
        schema: SchemaRef,
        arrangement: Option<ArrangementId>,
        demand: Rc<Cell<bool>>,
        apart: bool,
    ) -> Self {
        OutputRows {
            schema,
            arrangement,
            demand,
            apart,
            rows: Vec::new(),
        }
    }
}

impl Operator for OutputRows {
    fn push(&mut self, _port: usize, delta: Delta, _out: &mut Output) {
        if !delta.is_empty() && (self.arrangement.is_some() || self.demand.get()) {
            self.rows.push(delta);
        }
    }

    fn finish(&mut self, _epoch: Epoch, out: &mut Output) {
        let mut rows = std::mem::take(&mut self.rows);
        // Pure insertions can't cancel, and the store adds up equal rows by itself.
        if !self.apart && rows.iter().any(|d| !matches!(d.diffs, Diffs::Ones)) {
            rows = vec![consolidate(&self.schema, &rows)];
            rows.retain(|d| !d.is_empty());
        }
        if let Some(arrangement) = self.arrangement {
            out.changes
                .extend(rows.iter().map(|delta| ArrangementChange {
                    arrangement,
                    hashes: Vec::new(),
                    delta: delta.clone(),
                }));
        }
        if self.demand.get() {
            out.rows = rows;
        }
    }

    fn state_bytes(&self) -> usize {
        self.rows.iter().map(Delta::memory_bytes).sum()
    }
}

/// The operator at the root of a dataflow and its end as one: what the former gives needn't pass through the runtime, nor the end of a
/// step, which takes a round of messages between workers per operator.
pub struct Last {
    operator: Box<dyn Operator>,
    output: OutputRows,
    /// The epoch that has been finished, while the operator has work left of it.
    ending: Option<Epoch>,
}

impl Last {
    /// `operator`, whose output ends in `output`.
    pub fn new(operator: Box<dyn Operator>, output: OutputRows) -> Self {
        Last {
            operator,
            output,
            ending: None,
        }
    }

    fn hand_over(&mut self, out: &mut Output) {
        for rows in std::mem::take(&mut out.rows) {
            self.output.push(0, rows, out);
        }
        if !self.operator.is_busy()
            && let Some(epoch) = self.ending.take()
        {
            self.output.finish(epoch, out);
        }
    }
}

impl Operator for Last {
    fn push(&mut self, port: usize, delta: Delta, out: &mut Output) {
        self.operator.push(port, delta, out);
        self.hand_over(out);
    }

    fn finish(&mut self, epoch: Epoch, out: &mut Output) {
        self.operator.finish(epoch, out);
        self.ending = Some(epoch);
        self.hand_over(out);
    }

    fn is_busy(&self) -> bool {
        self.operator.is_busy()
    }

    fn go_on(&mut self, out: &mut Output) {
        self.operator.go_on(out);
        self.hand_over(out);
    }

    fn state_bytes(&self) -> usize {
        self.operator.state_bytes() + self.output.state_bytes()
    }
}
