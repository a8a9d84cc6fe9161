//! A join operator beside a naive computation: cases, their plan, and epochs of changes with restarts and late commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use tidemill_dataflow::operator::{BuildContext, Operator, Output};
use tidemill_dataflow::operators;
use tidemill_dataflow::operators::join::{UnindexedLimits, build_with};
use tidemill_dataflow::plan::{JoinKind, Node, Op};
use tidemill_zset::CollectionId;

use super::integers::{Row, Rows, add, delta, rows_of};
use super::{MemoryState, map_error};

/// What the condition beyond the equal columns is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Filter {
    None,
    /// l.a < r.a
    Less,
    /// 12 / (l.a - r.a) > 2, which fails where they are equal
    Quotient,
    /// l.a - 1 <= r.a AND r.a <= l.a AND l.v <> r.v
    Between,
    /// 12 / l.a > r.a, which fails where l.a is 0
    Limit,
    /// l.a <= r.a AND l.v >= r.v
    Within,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub kind: JoinKind,
    pub on: Vec<(usize, usize)>,
    pub types: Vec<DataType>,
    pub null_equals_null: bool,
    pub filter: Filter,
    pub state_bytes_max: usize,
    /// What the operator may do in one turn.
    pub allowance: usize,
}

// Columns of both sides: k1, a, k2, v. The value `a` of the filter isn't a key.
pub const A: usize = 1;
pub const V: usize = 3;
pub const WIDTH: usize = 4;

pub fn side_schema(types: &[DataType]) -> SchemaRef {
    let field = |name: &str, t: &DataType| Field::new(name, t.clone(), true);
    Arc::new(Schema::new(vec![
        field("k1", &types[0]),
        field("a", &DataType::Int32),
        field("k2", &types[1]),
        field("v", &DataType::Int64),
    ]))
}

pub fn node(case: &Case) -> Node {
    let input = |id: u64| Node {
        op: Op::Input {
            collection: CollectionId(id),
            columns: (0..WIDTH).collect(),
        },
        inputs: vec![],
        schema: side_schema(&case.types),
        append_only: false,
    };
    let one = side_schema(&case.types);
    let schema = match case.kind {
        JoinKind::Semi | JoinKind::Anti => one,
        _ => {
            let fields = one.fields().iter().chain(one.fields().iter()).cloned();
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        }
    };
    Node {
        op: Op::Join {
            kind: case.kind,
            on: case.on.clone(),
            null_equals_null: case.null_equals_null,
            filter: filter(case.filter),
        },
        inputs: vec![input(1), input(2)],
        schema,
        append_only: false,
    }
}

pub fn filter(filter: Filter) -> Option<Arc<dyn PhysicalExpr>> {
    let left: Arc<dyn PhysicalExpr> = Arc::new(Column::new("a", A));
    let right: Arc<dyn PhysicalExpr> = Arc::new(Column::new("a", WIDTH + A));
    let number =
        |v: i32| -> Arc<dyn PhysicalExpr> { Arc::new(Literal::new(ScalarValue::Int32(Some(v)))) };
    let binary = |l, op, r| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(l, op, r)) };
    match filter {
        Filter::None => None,
        Filter::Less => Some(binary(left, Binary::Lt, right)),
        Filter::Quotient => {
            let difference = binary(left, Binary::Minus, right);
            let quotient = binary(number(12), Binary::Divide, difference);
            Some(binary(quotient, Binary::Gt, number(2)))
        }
        Filter::Between => {
            let least = binary(left.clone(), Binary::Minus, number(1));
            let values =
                [V, WIDTH + V].map(|v| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new("v", v)) });
            let [l, r] = values;
            let low = binary(least, Binary::LtEq, right.clone());
            let high = binary(right, Binary::LtEq, left);
            let others = binary(l, Binary::NotEq, r);
            Some(binary(binary(low, Binary::And, high), Binary::And, others))
        }
        Filter::Limit => {
            let quotient = binary(number(12), Binary::Divide, left);
            Some(binary(quotient, Binary::Gt, right))
        }
        Filter::Within => {
            let values =
                [V, WIDTH + V].map(|v| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new("v", v)) });
            let [l, r] = values;
            let first = binary(left, Binary::LtEq, right);
            Some(binary(first, Binary::And, binary(l, Binary::GtEq, r)))
        }
    }
}

/// `None`: fails.
pub fn passes(filter: Filter, l: &Row, r: &Row) -> Option<bool> {
    match (filter, l[A], r[A]) {
        (Filter::None, _, _) => Some(true),
        (Filter::Less, Some(l), Some(r)) => Some(l < r),
        (Filter::Quotient, Some(l), Some(r)) if l == r => None,
        (Filter::Quotient, Some(l), Some(r)) => Some(12 / (l - r) > 2),
        (Filter::Between, Some(a), Some(b)) => {
            Some(a - 1 <= b && b <= a && l[V].zip(r[V]).is_some_and(|(l, r)| l != r))
        }
        (Filter::Limit, Some(0), _) => None,
        (Filter::Limit, Some(l), Some(r)) => Some(12 / l > r),
        (Filter::Within, Some(a), Some(b)) => {
            Some(a <= b && l[V].zip(r[V]).is_some_and(|(l, r)| l >= r))
        }
        _ => Some(false),
    }
}

/// The join of whole inputs, and how many pairs fail.
pub fn reference(case: &Case, left: &Rows, right: &Rows) -> (Rows, i64) {
    let mut out = Rows::new();
    let mut errors = 0;
    let mut right_matched: BTreeMap<&Row, bool> = BTreeMap::new();
    for (l, ld) in left {
        let mut matched = false;
        for (r, rd) in right {
            let equal = case.on.iter().all(|(lc, rc)| match (l[*lc], r[*rc]) {
                (None, None) => case.null_equals_null,
                (a, b) => a == b,
            });
            if !equal {
                continue;
            }
            match passes(case.filter, l, r) {
                None => errors += ld * rd,
                Some(false) => {}
                Some(true) => {
                    matched = true;
                    right_matched.insert(r, true);
                    if !matches!(case.kind, JoinKind::Semi | JoinKind::Anti) {
                        add(&mut out, [l.clone(), r.clone()].concat(), ld * rd);
                    }
                }
            }
        }
        match case.kind {
            JoinKind::Left | JoinKind::Full if !matched => {
                add(&mut out, [l.clone(), vec![None; WIDTH]].concat(), *ld)
            }
            JoinKind::Semi if matched => add(&mut out, l.clone(), *ld),
            JoinKind::Anti if !matched => add(&mut out, l.clone(), *ld),
            _ => {}
        }
    }
    if case.kind == JoinKind::Full {
        for (r, rd) in right {
            if !right_matched.contains_key(r) {
                add(&mut out, [vec![None; WIDTH], r.clone()].concat(), *rd);
            }
        }
    }
    (out, errors)
}

pub struct Test {
    pub case: Case,
    pub limits: UnindexedLimits,
    pub node: Node,
    pub states: Vec<Arc<MemoryState>>,
    pub operator: Box<dyn Operator>,
    pub inputs: [Rows; 2],
    pub output: Rows,
    pub errors: BTreeMap<String, i64>,
    pub uncommitted: Vec<(i64, Vec<tidemill_storage::ArrangementChange>)>,
    pub turns: usize,
}

impl Test {
    pub fn new(case: Case) -> Self {
        Test::with_limits(case, UnindexedLimits::default())
    }

    pub fn with_limits(case: Case, limits: UnindexedLimits) -> Self {
        let node = node(&case);
        let states: Vec<_> = operators::arrangements(&node)
            .iter()
            .enumerate()
            .inspect(|(_, spec)| assert!(!spec.schema.fields().is_empty(), "a row without columns"))
            .map(|(i, spec)| MemoryState::new(10 + i as u64, spec))
            .collect();
        let operator = build(&node, &states, &case, limits);
        Test {
            case,
            limits,
            node,
            states,
            operator,
            inputs: Default::default(),
            output: Rows::new(),
            errors: BTreeMap::new(),
            uncommitted: Vec::new(),
            turns: 0,
        }
    }

    /// Returns the number of rows that came out, as they came.
    pub fn epoch(&mut self, epoch: i64, pushes: Vec<(usize, Vec<(Row, i64)>)>) -> usize {
        let mut out = Output::default();
        for (port, rows) in pushes {
            for (row, diff) in &rows {
                add(&mut self.inputs[port], row.clone(), *diff);
            }
            let schema = self.node.inputs[port].schema.clone();
            out.allowance = self.case.allowance;
            self.operator.push(port, delta(&schema, &rows), &mut out);
            self.work(&mut out);
        }
        out.allowance = self.case.allowance;
        self.operator.finish(epoch, &mut out);
        self.work(&mut out);
        for piece in &out.rows {
            assert!(piece.len() <= 8192);
            for (i, row) in rows_of(&piece.rows).into_iter().enumerate() {
                add(&mut self.output, row, piece.diffs.get(i));
            }
        }
        for piece in &out.errors {
            let culprits = piece.rows.column(2);
            for i in 0..piece.len() {
                let text = arrow::util::display::array_value_to_string(culprits, i).unwrap();
                *self.errors.entry(text).or_insert(0) += piece.diffs.get(i);
            }
        }
        self.uncommitted.push((epoch, out.changes));
        let (expected, failing) = reference(&self.case, &self.inputs[0], &self.inputs[1]);
        assert_eq!(self.output, expected);
        assert!(self.errors.values().all(|d| *d >= 0), "{:?}", self.errors);
        assert_eq!(self.errors.values().sum::<i64>(), failing);
        out.rows.iter().map(|d| d.len()).sum()
    }

    /// Turns until nothing is left.
    pub fn work(&mut self, out: &mut Output) {
        while self.operator.is_busy() {
            self.turns += 1;
            out.allowance = self.case.allowance;
            self.operator.go_on(out);
        }
    }

    /// Commits all but the last `behind` epochs.
    pub fn commit(&mut self, behind: usize) {
        while self.uncommitted.len() > behind {
            let (epoch, changes) = self.uncommitted.remove(0);
            for state in &self.states {
                state.commit(epoch, &changes);
            }
        }
    }

    pub fn restart(&mut self) {
        self.commit(0);
        self.operator = build(&self.node, &self.states, &self.case, self.limits);
    }
}

pub fn build(
    node: &Node,
    states: &[Arc<MemoryState>],
    case: &Case,
    limits: UnindexedLimits,
) -> Box<dyn Operator> {
    let context = BuildContext {
        worker: 0,
        workers: 1,
        partitions: 16,
        fresh: true,
        state_bytes_max: case.state_bytes_max,
        error_mapper: map_error,
        demand: Default::default(),
    };
    let states = states.iter().map(|s| s.handle()).collect();
    build_with(node, states, &context, limits)
}
