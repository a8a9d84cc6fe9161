//! Which running values ("cells") a group needs, and how they are stored: a pure function of the plan.
//!
//! Several aggregates may share a cell (sum, count and avg of one column need one sum and one count).
//! The `Last` arrangement of an aggregate has the columns keys, outputs, then hidden columns for
//! what the outputs don't already say.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_storage::ArrangementKind;

use crate::plan::{Aggregate, AggregateFunction, ArrangementSpec, Node, Op};

/// Which rows a cell looks at: those whose `column` isn't NULL (`None`: all) and whose `filter` is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Input column.
    pub column: Option<usize>,
    /// Boolean input column.
    pub filter: Option<usize>,
}

/// How numbers are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Integers of at most 64 bits, in an i128.
    Int,
    /// 128-bit decimals, in 192 bits.
    Decimal,
    /// Floats, in an exact sum.
    Float,
}

/// A running value of every group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Number of rows in scope.
    Count(Scope),
    /// Number of rows in scope whose value is true.
    Trues(Scope),
    /// Sum of the values in scope.
    Sum(Scope, Number),
    /// Count, sum and sums of products of the values in scope, or of the pairs with those of a second column.
    Moments {
        /// Rows that count.
        scope: Scope,
        /// Input column of the pairs' other value; rows where it is NULL don't count.
        second: Option<usize>,
        /// What they are.
        number: Number,
    },
    /// The least or greatest (`max`) value ever seen: input without retractions.
    Record {
        /// Rows that count.
        scope: Scope,
        /// Greatest rather than least.
        max: bool,
    },
    /// All values in scope with their multiplicities, in an arrangement of their own.
    Values {
        /// Rows that count.
        scope: Scope,
    },
}

/// Where a cell's stored value is found in the `Last` arrangement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is the output of this aggregate (a position in the aggregates).
    Output(usize),
    /// The hidden column at this position of the arrangement.
    Hidden(usize),
    /// The output of this aggregate, unless the hidden column isn't NULL.
    OutputOrHidden(usize, usize),
    /// Not there: an arrangement of its own, the n-th after the `Last` one.
    Own(usize),
}

/// An aggregate's result as a function of cells.
#[derive(Clone, Copy, Debug)]
pub enum Result {
    /// The count in this cell.
    Count(usize),
    /// NULL if the count is 0, else the sum.
    Sum {
        /// Cell of the sum.
        sum: usize,
        /// Cell of the count.
        count: usize,
    },
    /// NULL if the count is 0, else sum / count.
    Avg {
        /// Cell of the sum.
        sum: usize,
        /// Cell of the count.
        count: usize,
    },
    /// The record in this cell.
    Record(usize),
    /// The least or greatest value in this cell.
    Extreme {
        /// Cell of the values.
        values: usize,
        /// Greatest rather than least.
        max: bool,
    },
    /// The moments in this cell, as bytes; NULL if there are no values.
    Moments(usize),
    /// NULL if the count is 0, else whether all are true.
    BoolAnd {
        /// Cell of the trues.
        trues: usize,
        /// Cell of the count.
        count: usize,
    },
    /// NULL if the count is 0, else whether any is true.
    BoolOr {
        /// Cell of the trues.
        trues: usize,
        /// Cell of the count.
        count: usize,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Key columns of the input.
    pub keys: Vec<usize>,
    /// The aggregates.
    pub aggregates: Vec<Aggregate>,
    /// Cell 0 counts the rows of the group.
    pub cells: Vec<Cell>,
    /// One per cell.
    pub stored: Vec<Stored>,
    /// One per aggregate.
    pub results: Vec<Result>,
    /// Columns of the `Last` arrangement.
    pub schema: SchemaRef,
    /// Columns of the input.
    pub input: SchemaRef,
    /// Columns of the output.
    pub output: SchemaRef,
}

/// Position of the cell that counts a group's rows.
pub const ROWS: usize = 0;

impl Layout {
    /// The layout of an [`Op::Aggregate`] node.
    pub fn of(node: &Node) -> Layout {
        let Op::Aggregate { keys, aggregates } = &node.op else {
            unreachable!("called for aggregates only")
        };
        let input = &node.inputs[0];
        let mut cells = vec![Cell::Count(Scope {
            column: None,
            filter: None,
        })];
        let results = aggregates
            .iter()
            .map(|a| result_of(a, &input.schema, input.append_only, &mut cells))
            .collect();
        let mut layout = Layout {
            keys: keys.clone(),
            aggregates: aggregates.clone(),
            cells,
            stored: Vec::new(),
            results,
            schema: Arc::new(Schema::empty()),
            input: input.schema.clone(),
            output: node.schema.clone(),
        };
        layout.place();
        layout
    }

    /// The type of the values that `cell` looks at.
    pub fn value_type(&self, cell: &Cell) -> DataType {
        let scope = cell.scope();
        match scope.column {
            Some(c) => self.input.field(c).data_type().clone(),
            None => DataType::Null,
        }
    }

    /// Decides where each cell is stored and makes the arrangement's schema.
    fn place(&mut self) {
        let mut fields: Vec<Field> = self
            .keys
            .iter()
            .map(|k| self.input.field(*k).clone())
            .collect();
        fields.extend(
            self.aggregates
                .iter()
                .map(|a| a.output.clone().with_nullable(true)),
        );
        let mut own = 0;
        for (i, cell) in self.cells.iter().enumerate() {
            let shown = self.results.iter().position(|r| match r {
                Result::Count(c) | Result::Record(c) | Result::Moments(c) => *c == i,
                Result::Sum { sum, .. } => *sum == i,
                _ => false,
            });
            let hidden = fields.len();
            let (stored, field) = match (cell, shown) {
                (Cell::Values { .. }, _) => {
                    own += 1;
                    (Stored::Own(own - 1), None)
                }
                (Cell::Count(_), Some(a)) => (Stored::Output(a), None),
                (Cell::Record { .. } | Cell::Moments { .. }, Some(a)) => (Stored::Output(a), None),
                (Cell::Record { .. } | Cell::Moments { .. }, None) => {
                    unreachable!("made for one aggregate")
                }
                (Cell::Count(_), None) => {
                    (Stored::Hidden(hidden), Some((i, "$count", DataType::Int64)))
                }
                (Cell::Trues(_), _) => {
                    (Stored::Hidden(hidden), Some((i, "$trues", DataType::Int64)))
                }
                (Cell::Sum(_, Number::Float), _) | (Cell::Sum(..), None) => {
                    (Stored::Hidden(hidden), Some((i, "$sum", DataType::Binary)))
                }
                (Cell::Sum(..), Some(a)) => (
                    Stored::OutputOrHidden(a, hidden),
                    Some((i, "$sum", DataType::Binary)),
                ),
            };
            self.stored.push(stored);
            if let Some((i, name, t)) = field {
                fields.push(Field::new(format!("{name}{i}"), t, true));
            }
        }
        self.schema = Arc::new(Schema::new(fields));
    }

    /// The cells and aggregates, without names.
    fn describe(&self) -> String {
        let aggregates: Vec<String> = self
            .aggregates
            .iter()
            .map(|a| {
                let (function, t) = (a.function, a.output.data_type());
                format!("{function:?} {:?} {:?} {t}", a.column, a.filter)
                    + &a.second.map_or(String::new(), |s| format!(" second {s}"))
            })
            .collect();
        format!("cells {:?} aggregates {aggregates:?}", self.cells)
    }

    /// The arrangements: the `Last` one, then one `Add` per [`Cell::Values`].
    pub fn arrangements(&self) -> Vec<ArrangementSpec> {
        let mut out = vec![ArrangementSpec {
            kind: ArrangementKind::Last,
            schema: self.schema.clone(),
            key_columns: self.keys.len(),
            name: "groups".into(),
            fingerprint: format!("groups v1 keys {:?} {}", self.keys, self.describe()),
            input: None,
        }];
        for cell in &self.cells {
            if let Cell::Values { scope } = cell {
                let mut fields: Vec<Field> = self
                    .keys
                    .iter()
                    .map(|k| self.input.field(*k).clone())
                    .collect();
                let column = scope.column.expect("min and max have an argument");
                let value = self.input.field(column);
                fields.push(value.clone().with_nullable(true));
                out.push(ArrangementSpec {
                    kind: ArrangementKind::Add,
                    schema: Arc::new(Schema::new(fields)),
                    key_columns: self.keys.len(),
                    name: format!("values of {}", value.name()),
                    fingerprint: format!("values v1 keys {:?} {scope:?}", self.keys),
                    input: None,
                });
            }
        }
        out
    }
}

impl Cell {
    /// The rows it looks at.
    pub fn scope(&self) -> Scope {
        match self {
            Cell::Count(s) | Cell::Trues(s) | Cell::Sum(s, _) => *s,
            Cell::Record { scope, .. } | Cell::Values { scope } => *scope,
            Cell::Moments { scope, .. } => *scope,
        }
    }

    /// The column of the pairs' other value.
    pub fn second(&self) -> Option<usize> {
        match self {
            Cell::Moments { second, .. } => *second,
            _ => None,
        }
    }
}

/// How numbers of a type are added up; `None`: no sum of this type is kept.
pub fn number_of(t: &DataType) -> Option<Number> {
    match t {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64 => Some(Number::Int),
        DataType::Decimal128(_, _) => Some(Number::Decimal),
        DataType::Float32 | DataType::Float64 => Some(Number::Float),
        _ => None,
    }
}

/// True if [`Op::Aggregate`] can keep `function` of values of type `input` with results of type `output`.
pub fn supports(function: AggregateFunction, input: &DataType, output: &DataType) -> bool {
    let integer = matches!(output, DataType::Int16 | DataType::Int32 | DataType::Int64);
    let decimal = matches!(output, DataType::Decimal128(_, _));
    let float = matches!(output, DataType::Float32 | DataType::Float64);
    match function {
        AggregateFunction::CountStar | AggregateFunction::Count => *output == DataType::Int64,
        AggregateFunction::Sum => match number_of(input) {
            Some(Number::Int) => integer || matches!(output, DataType::Decimal128(_, s) if *s == 0),
            Some(Number::Decimal) => match (input, output) {
                (DataType::Decimal128(_, a), DataType::Decimal128(_, b)) => a == b,
                _ => false,
            },
            Some(Number::Float) => float,
            None => false,
        },
        AggregateFunction::Avg => match number_of(input) {
            Some(Number::Int | Number::Decimal) => decimal,
            Some(Number::Float) => float,
            None => false,
        },
        AggregateFunction::Moments => {
            let known = match input {
                DataType::Int8 | DataType::Float32 => false,
                t => {
                    t.is_signed_integer()
                        || matches!(number_of(t), Some(Number::Decimal | Number::Float))
                }
            };
            known && *output == DataType::Binary
        }
        AggregateFunction::Min | AggregateFunction::Max => {
            input == output && super::extremes::ordered(input)
        }
        AggregateFunction::BoolAnd | AggregateFunction::BoolOr => {
            *input == DataType::Boolean && *output == DataType::Boolean
        }
    }
}

fn result_of(a: &Aggregate, input: &Schema, append_only: bool, cells: &mut Vec<Cell>) -> Result {
    let scope = Scope {
        column: a.column,
        filter: a.filter,
    };
    let count_scope = Scope {
        column: a.column.filter(|c| input.field(*c).is_nullable()),
        filter: a.filter,
    };
    let mut cell = |c: Cell| match cells.iter().position(|x| *x == c) {
        Some(i) => i,
        None => {
            cells.push(c);
            cells.len() - 1
        }
    };
    let sum = |cell: &mut dyn FnMut(Cell) -> usize| {
        let column = a.column.expect("sum and avg have an argument");
        let t = input.field(column).data_type();
        let number = number_of(t)
            .unwrap_or_else(|| panic!("no sum of {t} is kept: the planner must not ask for it"));
        cell(Cell::Sum(scope, number))
    };
    match a.function {
        AggregateFunction::CountStar | AggregateFunction::Count => {
            Result::Count(cell(Cell::Count(count_scope)))
        }
        AggregateFunction::Sum => Result::Sum {
            sum: sum(&mut cell),
            count: cell(Cell::Count(count_scope)),
        },
        AggregateFunction::Avg => Result::Avg {
            sum: sum(&mut cell),
            count: cell(Cell::Count(count_scope)),
        },
        AggregateFunction::Min | AggregateFunction::Max => {
            let max = a.function == AggregateFunction::Max;
            if append_only {
                Result::Record(cell(Cell::Record { scope, max }))
            } else {
                Result::Extreme {
                    values: cell(Cell::Values { scope }),
                    max,
                }
            }
        }
        AggregateFunction::Moments => {
            let column = a.column.expect("moments have an argument");
            let t = input.field(column).data_type();
            Result::Moments(cell(Cell::Moments {
                scope,
                second: a.second,
                number: number_of(t).unwrap_or_else(|| panic!("no moments of {t} are kept")),
            }))
        }
        AggregateFunction::BoolAnd => Result::BoolAnd {
            trues: cell(Cell::Trues(scope)),
            count: cell(Cell::Count(count_scope)),
        },
        AggregateFunction::BoolOr => Result::BoolOr {
            trues: cell(Cell::Trues(scope)),
            count: cell(Cell::Count(count_scope)),
        },
    }
}
