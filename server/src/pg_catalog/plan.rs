//! A bound catalog query: names are column numbers, types are known.
//!
//! Invariant: `Column { depth, index }` counts scopes outwards; within a SELECT, the columns of its
//! FROM items lie side by side, followed by [`SLOTS`] places for aggregates, windows and
//! set-returning calls of its select list.

use super::functions::Function;
use super::relations::Definition;
use super::value::{Ty, Value};

/// Places after the columns of FROM.
pub const SLOTS: usize = 64;

/// A scalar expression.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A constant.
    Const(Value),
    /// A column of this query (depth 0) or of one around it.
    Column { depth: usize, index: usize },
    /// `$n`, from 0.
    Param(usize),
    /// NOT
    Not(Box<Expr>),
    /// AND
    And(Box<Expr>, Box<Expr>),
    /// OR
    Or(Box<Expr>, Box<Expr>),
    /// An operator. `alike`: both sides compare as the same kind of value.
    Binary {
        op: Op,
        left: Box<Expr>,
        right: Box<Expr>,
        alike: bool,
    },
    /// IS NULL
    IsNull(Box<Expr>),
    /// IS TRUE, IS FALSE
    Is(Box<Expr>, bool),
    /// IS DISTINCT FROM
    Distinct(Box<Expr>, Box<Expr>),
    /// CASE; conditions are whole conditions.
    Case {
        branches: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    /// CAST
    Cast(Box<Expr>, Ty),
    /// IN (list)
    In(Box<Expr>, Vec<Expr>),
    /// `op ANY (array)`, `op ALL (array)`
    AnyAll {
        left: Box<Expr>,
        op: Op,
        all: bool,
        right: Box<Expr>,
    },
    /// `op ANY (query)`; IN (query)
    AnyAllQuery {
        left: Box<Expr>,
        op: Op,
        all: bool,
        query: Box<Plan>,
    },
    /// EXISTS
    Exists(Box<Plan>),
    /// (query)
    Scalar(Box<Plan>),
    /// ARRAY(query)
    ArrayQuery(Box<Plan>),
    /// ARRAY[…]
    Array(Vec<Expr>),
    /// `array[index]`; `base` is the first index.
    Subscript {
        array: Box<Expr>,
        index: Box<Expr>,
        base: i64,
    },
    /// A function.
    Call {
        function: &'static Function,
        args: Vec<Expr>,
    },
}

/// How a pattern is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// POSIX's.
    Regex,
    /// LIKE's, with its escape if it has one.
    Like(Option<char>),
}

/// Operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Concat,
    BitAnd,
    /// `~`, LIKE and their variants.
    Match {
        pattern: Pattern,
        insensitive: bool,
        negated: bool,
    },
}

/// A query.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names and types of the result.
    pub columns: Vec<(String, Ty)>,
    /// What gives rows.
    pub body: Body,
    /// The order of the rows.
    pub order: Vec<Order>,
    /// LIMIT
    pub limit: Option<Expr>,
    /// OFFSET
    pub offset: Option<Expr>,
}

/// What gives rows.
#[derive(Clone, Debug)]
pub enum Body {
    /// SELECT
    Select(Box<Select>),
    /// UNION and friends
    Set {
        op: SetOp,
        all: bool,
        left: Box<Plan>,
        right: Box<Plan>,
    },
    /// VALUES
    Values(Vec<Vec<Expr>>),
}

/// Set operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SetOp {
    Union,
    Intersect,
    Except,
}

/// One key of ORDER BY.
#[derive(Clone, Debug)]
pub struct Order {
    /// Output column, or the select's `keys[n - outputs]`.
    pub key: usize,
    /// DESC
    pub descending: bool,
    /// NULLS FIRST
    pub nulls_first: bool,
}

/// SELECT.
#[derive(Clone, Debug)]
pub struct Select {
    /// FROM, comma by comma.
    pub sources: Vec<Source>,
    /// Columns of FROM.
    pub width: usize,
    /// Conjuncts of WHERE, each with the number of sources that must be joined before it; `None`: all.
    pub filters: Vec<(Option<usize>, Expr)>,
    /// GROUP BY; `None` without one.
    pub group: Option<Vec<Expr>>,
    /// Aggregates with their slots.
    pub aggregates: Vec<(usize, Aggregate)>,
    /// HAVING
    pub having: Option<Expr>,
    /// Window functions with their slots.
    pub windows: Vec<(usize, Window)>,
    /// Set-returning calls of the select list with their slots.
    pub expansions: Vec<(usize, Expr)>,
    /// The select list.
    pub outputs: Vec<Expr>,
    /// Further keys of ORDER BY.
    pub keys: Vec<Expr>,
    /// DISTINCT
    pub distinct: bool,
    /// DISTINCT ON
    pub distinct_on: Vec<Expr>,
}

/// An aggregate call.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// Which.
    pub kind: AggregateKind,
    /// Its arguments; none: `count(*)`.
    pub args: Vec<Expr>,
    /// DISTINCT
    pub distinct: bool,
    /// FILTER
    pub filter: Option<Expr>,
    /// ORDER BY inside: expression, descending.
    pub order: Vec<(Expr, bool)>,
}

/// Aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AggregateKind {
    Count,
    Min,
    Max,
    Sum,
    StringAgg,
    ArrayAgg,
    And,
    Or,
}

/// `row_number()`, `rank()` or an aggregate OVER (PARTITION BY … ORDER BY …).
#[derive(Clone, Debug)]
pub struct Window {
    /// PARTITION BY
    pub partition: Vec<Expr>,
    /// ORDER BY: expression, descending.
    pub order: Vec<(Expr, bool)>,
}

/// An item of FROM.
#[derive(Clone, Debug)]
pub enum Source {
    /// A relation of the catalog.
    Relation(&'static Definition),
    /// A query; `lateral` sees the items to its left.
    Derived { plan: Box<Plan>, lateral: bool },
    /// WITH RECURSIVE: the rows of `base`, then those of `step` as long as it gives new ones.
    Recursive {
        base: Box<Plan>,
        step: Box<Plan>,
        all: bool,
        number: usize,
    },
    /// Inside a step: the rows of the round before.
    Working { number: usize, width: usize },
    /// A set-returning function, always lateral.
    Function {
        expr: Expr,
        columns: usize,
        ordinality: bool,
    },
    /// A join; its columns start at `at`.
    Join {
        left: Box<Source>,
        right: Box<Source>,
        kind: JoinKind,
        on: Vec<Expr>,
        at: usize,
    },
}

/// Joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

impl Source {
    /// Its number of columns.
    pub fn width(&self) -> usize {
        match self {
            Source::Relation(definition) => definition.columns.len(),
            Source::Derived { plan, .. } | Source::Recursive { base: plan, .. } => {
                plan.columns.len()
            }
            Source::Working { width, .. } => *width,
            Source::Function {
                columns,
                ordinality,
                ..
            } => columns + usize::from(*ordinality),
            Source::Join { left, right, .. } => left.width() + right.width(),
        }
    }

    /// True if it reads the items to its left.
    pub fn is_lateral(&self) -> bool {
        match self {
            Source::Relation(_) | Source::Recursive { .. } | Source::Working { .. } => false,
            Source::Derived { lateral, .. } => *lateral,
            Source::Function { .. } => true,
            Source::Join { left, right, .. } => left.is_lateral() || right.is_lateral(),
        }
    }
}

impl Expr {
    /// The largest own column number in it; `None` where a query inside could read any.
    pub fn reach(&self) -> Option<usize> {
        let all = |parts: &[&Expr]| {
            parts
                .iter()
                .try_fold(0, |most, part| Some(most.max(part.reach()?)))
        };
        match self {
            Expr::Const(_) | Expr::Param(_) => Some(0),
            Expr::Column { depth: 0, index } => Some(index + 1),
            Expr::Column { .. } => Some(0),
            Expr::Not(a) | Expr::IsNull(a) | Expr::Is(a, _) | Expr::Cast(a, _) => a.reach(),
            Expr::And(a, b) | Expr::Or(a, b) | Expr::Distinct(a, b) => all(&[a, b]),
            Expr::Binary { left, right, .. } | Expr::AnyAll { left, right, .. } => {
                all(&[left, right])
            }
            Expr::Subscript { array, index, .. } => all(&[array, index]),
            Expr::In(a, list) => all(&std::iter::once(a.as_ref()).chain(list).collect::<Vec<_>>()),
            Expr::Array(list) | Expr::Call { args: list, .. } => {
                all(&list.iter().collect::<Vec<_>>())
            }
            Expr::Case {
                branches,
                otherwise,
            } => {
                let mut parts: Vec<&Expr> = otherwise.iter().map(AsRef::as_ref).collect();
                parts.extend(branches.iter().flat_map(|(when, then)| [when, then]));
                all(&parts)
            }
            Expr::AnyAllQuery { .. } | Expr::Exists(_) | Expr::Scalar(_) | Expr::ArrayQuery(_) => {
                None
            }
        }
    }

    /// The smallest own column number in it, where it has one and no query inside.
    pub fn low(&self) -> Option<usize> {
        match self {
            Expr::Column { depth: 0, index } => Some(*index),
            Expr::Cast(a, _) => a.low(),
            _ => None,
        }
    }

    /// Splits a condition at its ANDs.
    pub fn conjuncts(self, into: &mut Vec<Expr>) {
        match self {
            Expr::And(a, b) => {
                a.conjuncts(into);
                b.conjuncts(into);
            }
            other => into.push(other),
        }
    }
}
