//! A query's operators, stepped by hand in one thread: no runtime, no store, no clock. What is left is what the operators cost.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use tidemill_dataflow::operator::{BuildContext, Operator, Output};
use tidemill_dataflow::operators;
use tidemill_dataflow::plan::{Node, Op, RowError};
use tidemill_dataflow::state::{Batches, StateHandle, StateReader};
use tidemill_planner::ast::{self, Statement};
use tidemill_planner::catalog::CatalogView;
use tidemill_planner::query::{Planner, SessionContextInfo};
use tidemill_storage::{ArrangementDesc, RunBatch};
use tidemill_zset::{ArrangementId, CollectionId, Delta, Epoch};

/// A store that holds nothing and has committed everything: operators keep all state in memory.
struct Nothing;

impl StateReader for Nothing {
    fn epoch(&self) -> Epoch {
        Epoch::MAX
    }

    fn is_empty(&self) -> bool {
        true
    }

    fn get_many(&self, _: &[u64]) -> tidemill_storage::Result<Vec<RunBatch>> {
        Ok(Vec::new())
    }

    fn rows_estimate(&self) -> u64 {
        0
    }

    fn range(&self, _: (u64, u64)) -> tidemill_storage::Result<Batches> {
        Ok(Box::new(std::iter::empty()))
    }
}

/// What a node does in an epoch.
enum Work {
    Input(CollectionId, Vec<usize>),
    /// Rows that come once, in the first epoch.
    Constant(Option<Delta>),
    Operator(Box<dyn Operator>),
}

/// A node of the plan; children stand before their parents.
struct Step {
    node: Node,
    work: Work,
    /// The parent's index and the port there; `None` for the root.
    to: Option<(usize, usize)>,
    pending: Vec<(usize, Delta)>,
}

/// The operators of one query.
pub struct Stepped {
    steps: Vec<Step>,
    epoch: Epoch,
}

/// What an epoch gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows of the output delta.
    pub rows: usize,
    /// Rows of all changes of arrangements.
    pub changes: usize,
}

impl Stepped {
    /// Compiles `sql` against `catalog` and builds its operators with empty state.
    pub fn new(catalog: &dyn CatalogView, sql: &str) -> Result<Stepped> {
        let mut parsed = ast::parse(sql).map_err(|e| anyhow!("{sql}: {e:?}"))?;
        let Some(Statement::Query { query, .. }) = parsed.pop().map(|p| p.statement) else {
            bail!("not a query: {sql}")
        };
        let plan = Planner::new()
            .plan_query(catalog, &SessionContextInfo::default(), &query, &[])
            .and_then(|plan| plan.compile())
            .map_err(|e| anyhow!("{sql}: {e:?}"))?
            .plan;
        let mut stepped = Stepped {
            steps: Vec::new(),
            epoch: 0,
        };
        stepped.add(plan.root)?;
        Ok(stepped)
    }

    /// Adds a node behind those below it; gives its index.
    fn add(&mut self, node: Node) -> Result<usize> {
        let children = node
            .inputs
            .iter()
            .map(|input| self.add(input.clone()))
            .collect::<Result<Vec<_>>>()?;
        let work = match &node.op {
            Op::Input {
                collection,
                columns,
            } => Work::Input(*collection, columns.clone()),
            Op::Constant { rows } => Work::Constant(Some(Delta::insert(rows.clone()))),
            _ => Work::Operator(operator(&node, true)?),
        };
        let index = self.steps.len();
        for (port, child) in children.into_iter().enumerate() {
            self.steps[child].to = Some((index, port));
        }
        self.steps.push(Step {
            node,
            work,
            to: None,
            pending: Vec::new(),
        });
        Ok(index)
    }

    /// One epoch with these input deltas.
    pub fn epoch(&mut self, deltas: &[(CollectionId, Delta)]) -> Outcome {
        self.epoch += 1;
        let mut outcome = Outcome::default();
        for i in 0..self.steps.len() {
            let step = &mut self.steps[i];
            let rows = match &mut step.work {
                Work::Input(collection, columns) => deltas
                    .iter()
                    .filter(|(id, _)| id == collection)
                    .map(|(_, d)| operators::input::project(d, columns, &step.node.schema))
                    .collect(),
                Work::Constant(rows) => rows.take().into_iter().collect(),
                Work::Operator(operator) => {
                    let mut out = Output::default();
                    for (port, delta) in step.pending.drain(..) {
                        operator.push(port, delta, &mut out);
                    }
                    operator.finish(self.epoch, &mut out);
                    outcome.changes += out.changes.iter().map(|c| c.delta.len()).sum::<usize>();
                    out.rows
                }
            };
            match self.steps[i].to {
                Some((parent, port)) => self.steps[parent]
                    .pending
                    .extend(rows.into_iter().map(|d| (port, d))),
                None => outcome.rows += rows.iter().map(Delta::len).sum::<usize>(),
            }
        }
        outcome
    }

    /// Bytes of all operators' state.
    pub fn state_bytes(&self) -> usize {
        let bytes = |s: &Step| match &s.work {
            Work::Operator(operator) => operator.state_bytes(),
            _ => 0,
        };
        self.steps.iter().map(bytes).sum()
    }
}

/// The operator of `node` with empty state, the only worker's. `demand`: somebody reads its output rows.
pub fn operator(node: &Node, demand: bool) -> Result<Box<dyn Operator>> {
    let states = operators::arrangements(node)
        .into_iter()
        .enumerate()
        .map(|(i, spec)| StateHandle {
            desc: ArrangementDesc {
                id: ArrangementId(i as u64),
                kind: spec.kind,
                schema: spec.schema,
                key_columns: spec.key_columns,
            },
            reader: Some(Arc::new(Nothing)),
        })
        .collect();
    let context = BuildContext {
        worker: 0,
        workers: 1,
        partitions: 16,
        fresh: true,
        state_bytes_max: usize::MAX,
        error_mapper: |e| RowError {
            sqlstate: "XX000".into(),
            message: e.to_string(),
        },
        demand: Rc::new(Cell::new(demand)),
    };
    operators::build(node, states, &context).ok_or_else(|| anyhow!("{:?} has no operator", node.op))
}
