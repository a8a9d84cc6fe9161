//! Expressions by type.

use rand::Rng;

use super::{Item, Maker, Type, Type::*};

impl Maker<'_> {
    /// Something in scope of type `of`; names of outer queries only now and then.
    fn column(&mut self, of: Type) -> Option<String> {
        let (inner, outer) = self.scopes.split_last()?;
        let own: Vec<&Item> = inner.iter().filter(|c| c.of == of).collect();
        let further: Vec<&Item> = outer
            .iter()
            .flatten()
            .filter(|c| c.of == of && c.plain)
            .collect();
        let from_outer =
            !further.is_empty() && (own.is_empty() || self.rng.random_range(0..3) == 0);
        let choices = if from_outer { further } else { own };
        match choices.len() {
            0 => None,
            n => Some(choices[self.rng.random_range(0..n)].text.clone()),
        }
    }

    /// A column or a literal.
    pub(super) fn leaf(&mut self, of: Type) -> String {
        if !self.chance(4)
            && let Some(column) = self.column(of)
        {
            return column;
        }
        if self.chance(12) {
            return format!("NULL::{}", of.name());
        }
        self.literal(of)
    }

    pub(super) fn literal(&mut self, of: Type) -> String {
        match of {
            Int => self.rng.random_range(0..8).to_string(),
            Big => format!("{}::bigint", self.rng.random_range(-3i64..4_000_000_002)),
            Num => format!(
                "{}.{}",
                self.rng.random_range(0..7),
                self.one_of(&["0", "25", "5", "99"])
            ),
            Float => format!(
                "{}::double precision",
                self.one_of(&["0.5", "'NaN'", "3", "'Infinity'", "-2.25"])
            ),
            Text => self.one_of(&["'x'", "'a'", "''", "'12'", "'yy'"]).into(),
            Truth => self.one_of(&["true", "false", "NULL::boolean"]).into(),
            Day => self
                .one_of(&["DATE '2024-02-26'", "DATE '2024-03-01'"])
                .into(),
            Moment => self
                .one_of(&[
                    "TIMESTAMP '2024-02-27 12:30:00.5'",
                    "TIMESTAMP '2024-02-29 23:59:59'",
                ])
                .into(),
            Span => self
                .one_of(&[
                    "INTERVAL '1 day'",
                    "INTERVAL '2 hours'",
                    "INTERVAL '3 mons'",
                ])
                .into(),
            Ints => self
                .one_of(&["ARRAY[1, 2]", "'{}'::integer[]", "ARRAY[3, NULL]"])
                .into(),
            Json => self
                .one_of(&["'{\"n\": 4}'::jsonb", "'[1, 2, 3]'::jsonb"])
                .into(),
        }
    }

    /// An expression of type `of`.
    pub(super) fn expression(&mut self, of: Type, depth: usize) -> String {
        if depth == 0 {
            return self.leaf(of);
        }
        let d = depth - 1;
        match self.rng.random_range(0..14) {
            0 => return self.leaf(of),
            1 => {
                return format!(
                    "coalesce({}, {})",
                    self.expression(of, d),
                    self.expression(of, d)
                );
            }
            2 => {
                return format!(
                    "CASE WHEN {} THEN {} ELSE {} END",
                    self.expression(Truth, d),
                    self.expression(of, d),
                    self.expression(of, d)
                );
            }
            3 if !matches!(of, Json | Span | Num | Ints) => {
                return format!("nullif({}, {})", self.expression(of, d), self.leaf(of));
            }
            4 if of != Json && self.taste.depth > 0 && self.afford() => return self.scalar(of),
            5 if matches!(of, Int | Text | Day | Big | Moment) => {
                let function = self.one_of(&["greatest", "least"]);
                return format!("{function}({}, {})", self.expression(of, d), self.leaf(of));
            }
            6 if self.taste.failing => return self.failing(of, d),
            _ => {}
        }
        match of {
            Int => self.int(d),
            Big => match self.rng.random_range(0..3) {
                0 => format!(
                    "({} + {})",
                    self.expression(Big, d),
                    self.expression(Int, d)
                ),
                1 => format!("{}::bigint", self.expression(Int, d)),
                _ => format!("({} - {})", self.expression(Big, d), self.leaf(Big)),
            },
            Num => match self.rng.random_range(0..6) {
                0 => format!("round({}, 1)", self.expression(Num, d)),
                1 => format!("{}::numeric(12,3)", self.expression(Int, d)),
                2 => format!("trunc({})", self.expression(Num, d)),
                3 => format!("({} * {})", self.expression(Num, d), self.leaf(Int)),
                4 => format!("abs({})", self.expression(Num, d)),
                _ => {
                    let operator = self.one_of(&["+", "-"]);
                    format!(
                        "({} {operator} {})",
                        self.expression(Num, d),
                        self.expression(Num, d)
                    )
                }
            },
            Float => match self.rng.random_range(0..4) {
                0 => format!("{}::double precision", self.expression(Int, d)),
                1 => format!("abs({})", self.expression(Float, d)),
                _ => format!("({} + {})", self.expression(Float, d), self.leaf(Float)),
            },
            Text => self.text(d),
            Truth => self.truth(d),
            Day => match self.rng.random_range(0..3) {
                0 => format!("{}::date", self.expression(Moment, d)),
                _ => {
                    let operator = self.one_of(&["+", "-"]);
                    format!(
                        "({} {operator} {})",
                        self.expression(Day, d),
                        self.rng.random_range(0..5)
                    )
                }
            },
            Moment => match self.rng.random_range(0..4) {
                0 => format!("{}::timestamp", self.expression(Day, d)),
                1 => {
                    let unit = self.one_of(&["hour", "day", "month"]);
                    format!("date_trunc('{unit}', {})", self.expression(Moment, d))
                }
                _ => {
                    let operator = self.one_of(&["+", "-"]);
                    format!(
                        "({} {operator} {})",
                        self.expression(Moment, d),
                        self.leaf(Span)
                    )
                }
            },
            Span => match self.rng.random_range(0..2) {
                0 => format!("({} - {})", self.leaf(Moment), self.leaf(Moment)),
                _ => self.leaf(Span),
            },
            Ints => match self.rng.random_range(0..4) {
                0 => format!(
                    "array_append({}, {})",
                    self.expression(Ints, d),
                    self.leaf(Int)
                ),
                1 => format!("({} || {})", self.expression(Ints, d), self.leaf(Ints)),
                2 => format!("ARRAY[{}, {}]", self.expression(Int, d), self.leaf(Int)),
                _ if self.taste.depth > 0 && self.afford() => self.array_of_rows(),
                _ => self.leaf(Ints),
            },
            Json => self.leaf(Json),
        }
    }

    fn int(&mut self, d: usize) -> String {
        match self.rng.random_range(0..10) {
            0 => format!("length({})", self.expression(Text, d)),
            1 => format!("abs({})", self.expression(Int, d)),
            2 => format!(
                "({} - {})",
                self.expression(Day, d),
                self.expression(Day, d)
            ),
            3 => {
                let divisor = self.one_of(&["2", "3", "-7", "nullif(i, 0)"]);
                let divisor = match divisor.contains('i') {
                    true => format!("nullif({}, 0)", self.leaf(Int)),
                    false => divisor.into(),
                };
                format!("({} / {divisor})", self.expression(Int, d))
            }
            4 => format!("({} % 5)", self.expression(Int, d)),
            5 => format!("cardinality({})", self.expression(Ints, d)),
            6 => format!(
                "({})[{}]",
                self.expression(Ints, d),
                self.rng.random_range(0..4)
            ),
            7 => format!("({} * {})", self.expression(Int, d), self.leaf(Int)),
            _ => {
                let operator = self.one_of(&["+", "-"]);
                format!(
                    "({} {operator} {})",
                    self.expression(Int, d),
                    self.expression(Int, d)
                )
            }
        }
    }

    fn text(&mut self, d: usize) -> String {
        match self.rng.random_range(0..8) {
            0 => format!("upper({})", self.expression(Text, d)),
            1 => format!("{}::text", self.expression(Int, d)),
            2 => format!("{}::text", self.leaf(Truth)),
            3 => format!("substr({}, 1, 2)", self.expression(Text, d)),
            4 => format!("{}::text", self.expression(Moment, d)),
            5 => match self.column(Json) {
                Some(j) => format!("({j} ->> '{}')", self.one_of(&["n", "t"])),
                None => self.leaf(Text),
            },
            6 => format!("concat({}, {})", self.expression(Text, d), self.leaf(Int)),
            _ => format!(
                "({} || {})",
                self.expression(Text, d),
                self.expression(Text, d)
            ),
        }
    }

    /// A condition.
    pub(super) fn truth(&mut self, d: usize) -> String {
        match self.rng.random_range(0..16) {
            0 | 1 => format!(
                "({} AND {})",
                self.expression(Truth, d),
                self.expression(Truth, d)
            ),
            2 => format!(
                "({} OR NOT {})",
                self.expression(Truth, d),
                self.expression(Truth, d)
            ),
            3 => {
                let of = self.some_type();
                let not = self.one_of(&["", "NOT "]);
                format!("({} IS {not}NULL)", self.expression(of, d))
            }
            4 => format!(
                "({} LIKE '%{}%')",
                self.expression(Text, d),
                self.one_of(&["x", "1", "y"])
            ),
            5 => format!(
                "({} IN ({}, {}))",
                self.expression(Int, d),
                self.leaf(Int),
                self.leaf(Int)
            ),
            6 => format!(
                "({} NOT IN ({}, {}))",
                self.expression(Text, d),
                self.leaf(Text),
                self.leaf(Text)
            ),
            7 => {
                let test = self.one_of(&["IS TRUE", "IS NOT TRUE", "IS UNKNOWN", "IS NOT FALSE"]);
                format!("({} {test})", self.expression(Truth, d))
            }
            8 => format!(
                "({} = ANY ({}))",
                self.expression(Int, d),
                self.expression(Ints, d)
            ),
            9 => format!(
                "({} BETWEEN {} AND {})",
                self.expression(Int, d),
                self.leaf(Int),
                self.leaf(Int)
            ),
            10..=12 if self.taste.depth > 0 && self.afford() => self.quantified(d),
            10 => format!(
                "({} < {})",
                self.expression(Int, d),
                self.expression(Num, d)
            ),
            _ => {
                let of = self.some_type();
                let operator = self.one_of(&["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM"]);
                format!(
                    "({} {operator} {})",
                    self.expression(of, d),
                    self.expression(of, d)
                )
            }
        }
    }

    /// EXISTS, IN, ANY, ALL.
    fn quantified(&mut self, d: usize) -> String {
        let not = self.one_of(&["", "NOT "]);
        match self.rng.random_range(0..5) {
            0 | 1 => {
                let of = self.some_type();
                format!("({not}EXISTS ({}))", self.subquery(&[of]))
            }
            2 | 3 => {
                let of = self.one_of(&[Int, Text, Day, Big]);
                let of_rows = if of == Big { Int } else { of };
                format!(
                    "({} {not}IN ({}))",
                    self.expression(of, d),
                    self.subquery(&[of_rows])
                )
            }
            _ => {
                let of = self.one_of(&[Int, Text, Num]);
                let operator = self.one_of(&["=", "<>", "<", ">="]);
                let all = self.one_of(&["ANY", "ALL", "SOME"]);
                format!(
                    "({} {operator} {all} ({}))",
                    self.expression(of, d),
                    self.subquery(&[of])
                )
            }
        }
    }

    /// A subquery that gives one value.
    fn scalar(&mut self, of: Type) -> String {
        if self.chance(3) {
            // The first row of a total order.
            return format!("({} ORDER BY 1 LIMIT 1)", self.subquery(&[of]));
        }
        match self.one_aggregate(of) {
            Some(query) => format!("({query})"),
            None => self.leaf(of),
        }
    }

    fn array_of_rows(&mut self) -> String {
        format!("ARRAY({} ORDER BY 1)", self.subquery(&[Int]))
    }

    /// An expression that fails on some rows, now and then in a branch that isn't taken.
    fn failing(&mut self, of: Type, d: usize) -> String {
        let fails = match of {
            Int => match self.rng.random_range(0..3) {
                0 => format!("(12 / {})", self.expression(Int, d)),
                1 => format!("{}::integer", self.expression(Text, d)),
                _ => format!("({} * 1000000000)", self.expression(Int, d)),
            },
            Big => format!("({} * 4000000000)", self.expression(Big, d)),
            Day => format!("{}::date", self.expression(Text, d)),
            Num => format!("{}::numeric(12,2)", self.expression(Text, d)),
            _ => return self.leaf(of),
        };
        match self.chance(2) {
            true => format!("CASE WHEN {} THEN {fails} END", self.expression(Truth, d)),
            false => fails,
        }
    }
}
