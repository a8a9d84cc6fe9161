//! Random queries of standard SQL, and random changes of the tables below them, for comparing two servers.
//!
//! Two correct servers must answer alike, so what SQL leaves open is left out: ties are broken by all columns, floats
//! add up exactly in every order, averages are rounded, and text doesn't depend on a locale.
//!
//! [`data`] has the tables and their changes, `expr` expressions by type, `query`, `from` and `group` what stands around
//! them; [`compare`] compares.

pub mod compare;
pub mod data;
mod expr;
mod from;
mod group;
mod query;

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Types that expressions are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// integer
    Int,
    /// bigint
    Big,
    /// numeric
    Num,
    /// double precision
    Float,
    /// text
    Text,
    /// boolean
    Truth,
    /// date
    Day,
    /// timestamp
    Moment,
    /// interval
    Span,
    /// integer[]
    Ints,
    /// jsonb
    Json,
}

use Type::*;

/// The types of outputs, the frequent ones more than once.
const TYPES: [Type; 16] = [
    Int, Int, Int, Int, Big, Num, Num, Float, Text, Text, Text, Truth, Day, Moment, Span, Ints,
];

impl Type {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Int => "integer",
            Big => "bigint",
            Num => "numeric(12,2)",
            Float => "double precision",
            Text => "text",
            Truth => "boolean",
            Day => "date",
            Moment => "timestamp",
            Span => "interval",
            Ints => "integer[]",
            Json => "jsonb",
        }
    }
}

/// A relation that queries may read.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Names and types of its columns.
    pub columns: Vec<(String, Type)>,
}

/// Something in scope: the text of a column, a grouping key or a call, and its type.
#[derive(Clone, Debug)]
struct Item {
    text: String,
    of: Type,
    /// A plain column: subqueries may name it.
    plain: bool,
}

/// What a [`Maker`] may write.
#[derive(Clone, Copy, Debug)]
pub struct Taste {
    /// Expressions that fail on some rows.
    pub failing: bool,
    /// How deep queries nest.
    pub depth: usize,
}

/// Writes queries.
pub struct Maker<'a> {
    rng: &'a mut ChaCha8Rng,
    tables: &'a [Table],
    taste: Taste,
    /// What is in scope, from the outermost query to the innermost.
    scopes: Vec<Vec<Item>>,
    /// Relations of WITH.
    named: Vec<Table>,
    /// Aliases so far.
    aliases: usize,
    /// How many more subqueries there may be, so that queries stay readable.
    budget: usize,
}

impl<'a> Maker<'a> {
    /// A maker of queries over `tables`.
    pub fn new(rng: &'a mut ChaCha8Rng, tables: &'a [Table], taste: Taste) -> Maker<'a> {
        let budget = rng.random_range(0..4);
        Maker {
            rng,
            tables,
            taste,
            scopes: vec![],
            named: vec![],
            aliases: 0,
            budget,
        }
    }

    /// True once in `n` times.
    fn chance(&mut self, n: usize) -> bool {
        self.rng.random_range(0..n) == 0
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices.choose(self.rng).expect("not empty").clone()
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("q{}", self.aliases)
    }

    fn some_type(&mut self) -> Type {
        self.one_of(&TYPES)
    }

    /// True if a subquery may be written; it is counted.
    fn afford(&mut self) -> bool {
        let can = self.budget > 0;
        self.budget -= usize::from(can);
        can
    }
}

/// One query, and the types of its output columns, named c1, c2, ….
pub fn query(rng: &mut ChaCha8Rng, tables: &[Table], taste: Taste) -> (String, Vec<Type>) {
    let mut maker = Maker::new(rng, tables, taste);
    let types: Vec<Type> = (0..maker.rng.random_range(1..4))
        .map(|_| maker.some_type())
        .collect();
    (maker.query(&types, taste.depth), types)
}
