//! Random queries of standard SQL over two small tables, for comparing two servers.
//!
//! Everything that a query leaves open (order, float rounding by the order of addition) is left out, so that two
//! correct servers answer alike; errors must be alike too, by SQLSTATE.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Statements that make and fill the tables `a` and `b`.
pub fn tables(rng: &mut ChaCha8Rng) -> Vec<String> {
    let mut statements = vec![
        "CREATE TABLE a (i integer, b bigint, n numeric(10,2), t text, o boolean, d date, ts timestamp)".to_owned(),
        "CREATE TABLE b (i integer, s smallint, t text, f double precision, d date)".to_owned(),
    ];
    let null = |rng: &mut ChaCha8Rng, value: String| {
        if rng.random_range(0..6) == 0 {
            "NULL".into()
        } else {
            value
        }
    };
    for _ in 0..25 {
        let day = rng.random_range(1..29);
        let values = [
            rng.random_range(-4..9).to_string(),
            rng.random_range(-3_000_000_000i64..3_000_000_000)
                .to_string(),
            format!(
                "{}.{:02}",
                rng.random_range(-50..50),
                rng.random_range(0..100)
            ),
            ["'x'", "'Yy'", "''", "'a longer text'", "'12'", "' é'"]
                .choose(rng)
                .expect("not empty")
                .to_string(),
            ["true", "false"]
                .choose(rng)
                .expect("not empty")
                .to_string(),
            format!("'2024-02-{day:02}'"),
            format!(
                "'2024-02-{day:02} {:02}:30:00.{}'",
                rng.random_range(0..24),
                rng.random_range(0..10)
            ),
        ];
        let values: Vec<String> = values.into_iter().map(|v| null(rng, v)).collect();
        statements.push(format!("INSERT INTO a VALUES ({})", values.join(", ")));
        let values = [
            rng.random_range(-4..9).to_string(),
            rng.random_range(-300..300).to_string(),
            ["'x'", "'yY'", "''", "'12'"]
                .choose(rng)
                .expect("not empty")
                .to_string(),
            ["0.5", "-2.25", "1e10", "'NaN'", "3"]
                .choose(rng)
                .expect("not empty")
                .to_string(),
            format!("'2024-02-{:02}'", rng.random_range(1..29)),
        ];
        let values: Vec<String> = values.into_iter().map(|v| null(rng, v)).collect();
        statements.push(format!("INSERT INTO b VALUES ({})", values.join(", ")));
    }
    statements
}

/// Types that expressions are made of.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Whole,
    Exact,
    Text,
    Truth,
    Day,
    Moment,
}

const TYPES: [Type; 6] = [
    Type::Whole,
    Type::Exact,
    Type::Text,
    Type::Truth,
    Type::Day,
    Type::Moment,
];

struct Maker<'a> {
    rng: &'a mut ChaCha8Rng,
    /// Columns in scope: name and type.
    columns: Vec<(String, Type)>,
}

impl Maker<'_> {
    fn one_of(&mut self, choices: &[&str]) -> String {
        choices.choose(self.rng).expect("not empty").to_string()
    }

    fn column(&mut self, of: Type) -> Option<String> {
        let fitting: Vec<&(String, Type)> = self.columns.iter().filter(|c| c.1 == of).collect();
        fitting.choose(self.rng).map(|c| c.0.clone())
    }

    fn leaf(&mut self, of: Type) -> String {
        if self.rng.random_range(0..4) != 0
            && let Some(column) = self.column(of)
        {
            return column;
        }
        match of {
            Type::Whole => self.rng.random_range(-3..12).to_string(),
            Type::Exact => format!(
                "{}.{}",
                self.rng.random_range(-9..10),
                self.rng.random_range(0..10)
            ),
            Type::Text => self.one_of(&["'x'", "'a'", "''", "'12'"]),
            Type::Truth => self.one_of(&["true", "false", "NULL::boolean"]),
            Type::Day => self.one_of(&["DATE '2024-02-10'", "DATE '2024-03-01'"]),
            Type::Moment => self.one_of(&[
                "TIMESTAMP '2024-02-10 12:00:00'",
                "TIMESTAMP '2024-02-29 23:59:59.5'",
            ]),
        }
    }

    fn expression(&mut self, of: Type, depth: usize) -> String {
        if depth == 0 {
            return self.leaf(of);
        }
        let d = depth - 1;
        let choice = self.rng.random_range(0..10);
        match (of, choice) {
            (_, 0) => self.leaf(of),
            (_, 1) => format!(
                "coalesce({}, {})",
                self.expression(of, d),
                self.expression(of, d)
            ),
            (_, 2) => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                self.expression(Type::Truth, d),
                self.expression(of, d),
                self.expression(of, d)
            ),
            (Type::Whole, 3) => format!("length({})", self.expression(Type::Text, d)),
            (Type::Whole, 4) => format!("abs({})", self.expression(of, d)),
            (Type::Whole, 5) => format!(
                "({} - {})",
                self.expression(Type::Day, d),
                self.expression(Type::Day, d)
            ),
            (Type::Whole, 6) => format!(
                "({} / {})",
                self.expression(of, d),
                self.one_of(&["2", "3", "-7", "i"])
                    .replace('i', &self.leaf(of))
            ),
            (Type::Whole, _) => {
                let operator = self.one_of(&["+", "-", "*", "%"]);
                format!(
                    "({} {operator} {})",
                    self.expression(of, d),
                    if operator == "%" {
                        "5".into()
                    } else {
                        self.expression(of, d)
                    }
                )
            }
            (Type::Exact, 3) => format!("round({}, 1)", self.expression(of, d)),
            (Type::Exact, 4) => format!("{}::numeric(12,3)", self.expression(Type::Whole, d)),
            (Type::Exact, 5) => format!("trunc({})", self.expression(of, d)),
            (Type::Exact, _) => format!(
                "({} {} {})",
                self.expression(of, d),
                self.one_of(&["+", "-", "*"]),
                self.expression(of, d)
            ),
            (Type::Text, 3) => format!("upper({})", self.expression(of, d)),
            (Type::Text, 4) => format!("{}::text", self.expression(Type::Whole, d)),
            (Type::Text, 5) => format!("{}::text", self.expression(Type::Exact, d)),
            (Type::Text, 6) => format!("substr({}, 1, 2)", self.expression(of, d)),
            (Type::Text, 7) => format!("{}::text", self.expression(Type::Moment, d)),
            (Type::Text, _) => {
                format!("({} || {})", self.expression(of, d), self.expression(of, d))
            }
            (Type::Truth, 3) => format!(
                "({} AND {})",
                self.expression(of, d),
                self.expression(of, d)
            ),
            (Type::Truth, 4) => format!(
                "({} OR NOT {})",
                self.expression(of, d),
                self.expression(of, d)
            ),
            (Type::Truth, 5) => format!("({} IS NULL)", self.expression(Type::Text, d)),
            (Type::Truth, 6) => format!(
                "({} LIKE '%{}%')",
                self.expression(Type::Text, d),
                self.one_of(&["x", "1", "y"])
            ),
            (Type::Truth, 7) => format!(
                "({} IN ({}, {}))",
                self.expression(Type::Whole, d),
                self.leaf(Type::Whole),
                self.leaf(Type::Whole)
            ),
            (Type::Truth, _) => {
                let of = *TYPES.choose(self.rng).expect("not empty");
                let operator = self.one_of(&["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"]);
                format!(
                    "({} {operator} {})",
                    self.expression(of, d),
                    self.expression(of, d)
                )
            }
            (Type::Day, 3 | 4) => format!("{}::date", self.expression(Type::Moment, d)),
            (Type::Day, _) => format!(
                "({} {} {})",
                self.expression(of, d),
                self.one_of(&["+", "-"]),
                self.rng.random_range(0..40)
            ),
            (Type::Moment, 3) => format!("{}::timestamp", self.expression(Type::Day, d)),
            (Type::Moment, 4) => {
                let unit = self.one_of(&["hour", "day", "month"]);
                format!("date_trunc('{unit}', {})", self.expression(of, d))
            }
            (Type::Moment, _) => {
                let interval = self.one_of(&["1 hour", "1 day", "1 month", "90 minutes"]);
                format!(
                    "({} {} INTERVAL '{interval}')",
                    self.expression(of, d),
                    self.one_of(&["+", "-"])
                )
            }
        }
    }

    fn any(&mut self, depth: usize) -> String {
        let of = *TYPES.choose(self.rng).expect("not empty");
        self.expression(of, depth)
    }

    fn aggregate(&mut self) -> String {
        match self.rng.random_range(0..9) {
            0 => "count(*)".into(),
            1 => format!("count({})", self.any(1)),
            2 => format!("sum({})", self.expression(Type::Whole, 1)),
            3 => format!("sum({})", self.expression(Type::Exact, 1)),
            4 => format!("avg({})", self.expression(Type::Whole, 1)),
            5 => format!("min({})", self.expression(Type::Text, 1)),
            6 => format!("max({})", self.expression(Type::Moment, 1)),
            7 => format!("count(DISTINCT {})", self.expression(Type::Whole, 1)),
            _ => format!(
                "sum({}) FILTER (WHERE {})",
                self.expression(Type::Whole, 0),
                self.expression(Type::Truth, 1)
            ),
        }
    }
}

/// One query, its output columns named c1, c2, …, and how many they are.
pub fn query(rng: &mut ChaCha8Rng) -> (String, usize) {
    let columns = |alias: &str, of: &[(&str, Type)]| -> Vec<(String, Type)> {
        of.iter()
            .map(|(name, t)| (format!("{alias}.{name}"), *t))
            .collect()
    };
    use Type::*;
    let a = [
        ("i", Whole),
        ("n", Exact),
        ("t", Text),
        ("o", Truth),
        ("d", Day),
        ("ts", Moment),
    ];
    let b = [("i", Whole), ("s", Whole), ("t", Text), ("d", Day)];
    let joined = rng.random_range(0..2) == 0;
    let mut scope = columns("a", &a);
    let mut from = "a".to_owned();
    if joined {
        scope.extend(columns("b", &b));
        let kind = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]
            .choose(rng)
            .expect("not empty");
        let on = [
            "a.i = b.i",
            "a.i = b.i AND a.t = b.t",
            "a.t = b.t",
            "a.d = b.d",
        ]
        .choose(rng)
        .expect("not empty");
        from = format!("a {kind} b ON {on}");
    }
    let mut maker = Maker {
        rng,
        columns: scope,
    };
    let filter = if maker.rng.random_range(0..2) == 0 {
        format!(" WHERE {}", maker.expression(Truth, 2))
    } else {
        String::new()
    };
    let mut outputs = Vec::new();
    let mut tail = String::new();
    match maker.rng.random_range(0..4) {
        0 => {
            outputs = (0..maker.rng.random_range(1..4))
                .map(|_| maker.aggregate())
                .collect()
        }
        1 => {
            let keys: Vec<String> = (0..maker.rng.random_range(1..3))
                .map(|_| maker.any(1))
                .collect();
            let keys: Vec<String> = keys
                .into_iter()
                .filter(|k| k.contains('.') && k.contains(|c: char| c.is_alphabetic()))
                .collect();
            outputs.extend(keys.iter().cloned());
            outputs.extend((0..maker.rng.random_range(1..3)).map(|_| maker.aggregate()));
            if !keys.is_empty() {
                let numbers: Vec<String> = (1..=keys.len()).map(|n| n.to_string()).collect();
                tail = format!(" GROUP BY {}", numbers.join(", "));
            }
        }
        _ => outputs.extend((0..maker.rng.random_range(1..4)).map(|_| maker.any(2))),
    }
    let distinct = if tail.is_empty() && maker.rng.random_range(0..6) == 0 {
        "DISTINCT "
    } else {
        ""
    };
    let named: Vec<String> = outputs
        .iter()
        .enumerate()
        .map(|(i, o)| format!("{o} AS c{}", i + 1))
        .collect();
    (
        format!(
            "SELECT {distinct}{} FROM {from}{filter}{tail}",
            named.join(", ")
        ),
        named.len(),
    )
}
