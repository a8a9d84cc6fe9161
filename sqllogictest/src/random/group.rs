//! GROUP BY and aggregates.

use rand::Rng;

use super::query::listed;
use super::{Item, Maker, Type, Type::*};

impl Maker<'_> {
    /// SELECT with aggregates, over the innermost scope.
    pub(super) fn grouped(&mut self, types: &[Type], from: &str, filter: &str) -> String {
        let mut keys: Vec<Item> = vec![];
        for _ in 0..self.one_of(&[0, 1, 1, 1, 2, 2, 3]) {
            if let Some(key) = self.key()
                && keys.iter().all(|k| k.text != key.text)
            {
                keys.push(key);
            }
        }
        let mut calls: Vec<Item> = vec![];
        for of in types.iter().copied().chain([Big]) {
            if let Some(text) = self.aggregate(of) {
                calls.push(Item {
                    text,
                    of,
                    plain: false,
                });
            }
        }
        let texts: Vec<&str> = keys.iter().map(|k| k.text.as_str()).collect();
        let kind = self.rng.random_range(0..8);
        // Correlated subqueries with several sets of keys are refused (docs/sql.md).
        let kind = if self.scopes.len() > 1 { 7 } else { kind };
        let by = match (keys.len(), kind) {
            (0, _) => String::new(),
            (_, 0) => format!(" GROUP BY ROLLUP ({})", texts.join(", ")),
            (n, 1) if n > 1 => format!(" GROUP BY CUBE ({})", texts.join(", ")),
            (n, 2) if n > 1 => format!(
                " GROUP BY GROUPING SETS (({}), ({}), ())",
                texts.join(", "),
                texts[0]
            ),
            (n, 3) if n > 1 => {
                format!(" GROUP BY {}, ROLLUP ({})", texts[0], texts[1..].join(", "))
            }
            _ => format!(" GROUP BY {}", texts.join(", ")),
        };
        let mut scope = keys.clone();
        scope.extend(calls.iter().cloned());
        let before = self.scopes.pop();
        self.scopes.push(scope.clone());
        let having = match self.chance(4) {
            true => format!(" HAVING {}", self.truth(1)),
            false => String::new(),
        };
        let windows = self.chance(8);
        let mut outputs = vec![];
        for of in types {
            outputs.push(match self.rng.random_range(0..4) {
                0 if windows => self.window_call(*of, &scope),
                0 => self.expression(*of, 1),
                _ => match scope.iter().rfind(|c| c.of == *of) {
                    Some(c) => c.text.clone(),
                    None => self.leaf(*of),
                },
            });
        }
        self.scopes.pop();
        self.scopes.extend(before);
        let distinct = if self.chance(12) { "DISTINCT " } else { "" };
        format!(
            "SELECT {distinct}{} FROM {from}{filter}{by}{having}",
            listed(&outputs)
        )
    }

    /// A grouping key: a column, or an expression with one.
    fn key(&mut self) -> Option<Item> {
        let scope = self.scopes.last()?.clone();
        let fitting: Vec<&Item> = scope.iter().filter(|c| c.of != Json).collect();
        if fitting.is_empty() {
            return None;
        }
        let column = self.one_of(&fitting).clone();
        if !self.chance(3) {
            return Some(column);
        }
        let budget = std::mem::take(&mut self.budget);
        let other = self.local(|maker| maker.expression(column.of, 1));
        self.budget = budget;
        let text = match column.of {
            Int => format!("({} + {other})", column.text),
            Text => format!("upper({})", column.text),
            Moment => format!("{}::date", column.text),
            _ => format!("coalesce({}, {other})", column.text),
        };
        let of = if column.of == Moment { Day } else { column.of };
        Some(Item {
            text,
            of,
            plain: false,
        })
    }

    /// Runs `f` with the innermost scope only: what it writes belongs to the innermost query.
    fn local(&mut self, f: impl FnOnce(&mut Self) -> String) -> String {
        let own = self.scopes.pop().unwrap_or_default();
        let outer = std::mem::take(&mut self.scopes);
        self.scopes.push(own);
        let text = f(self);
        let own = self.scopes.pop().unwrap_or_default();
        self.scopes = outer;
        self.scopes.push(own);
        text
    }

    /// An aggregate of type `of`, if there is one.
    pub(super) fn aggregate(&mut self, of: Type) -> Option<String> {
        let budget = match self.chance(6) {
            true => self.budget,
            false => std::mem::take(&mut self.budget),
        };
        let text = self.local(|maker| maker.call(of));
        self.budget = budget;
        (!text.is_empty()).then_some(text)
    }

    fn call(&mut self, of: Type) -> String {
        let filter = match self.chance(5) {
            true => format!(" FILTER (WHERE {})", self.truth(1)),
            false => String::new(),
        };
        let distinct = self.one_of(&["", "", "", "DISTINCT "]);
        let extreme = self.one_of(&["min", "max"]);
        match of {
            Big => match self.rng.random_range(0..4) {
                0 => format!("count(*){filter}"),
                1 => {
                    let t = self.some_type();
                    format!("count({distinct}{}){filter}", self.expression(t, 1))
                }
                _ => format!("sum({distinct}{}){filter}", self.expression(Int, 1)),
            },
            Num => match self.rng.random_range(0..4) {
                0 => format!("sum({distinct}{}){filter}", self.expression(Num, 1)),
                1 => format!("sum({distinct}{}){filter}", self.expression(Big, 1)),
                2 => format!(
                    "round(avg({distinct}{}){filter}, 3)",
                    self.expression(Int, 1)
                ),
                _ => format!("{extreme}({}){filter}", self.expression(Num, 1)),
            },
            Float => match self.rng.random_range(0..3) {
                0 => format!("sum({distinct}{}){filter}", self.expression(Float, 1)),
                1 => format!("avg({}){filter}", self.expression(Float, 1)),
                _ => format!("{extreme}({}){filter}", self.expression(Float, 1)),
            },
            Truth => {
                let function = self.one_of(&["bool_and", "bool_or", "every"]);
                format!("{function}({}){filter}", self.expression(Truth, 1))
            }
            Text if self.chance(3) => {
                let x = self.expression(Text, 1);
                format!("string_agg({distinct}{x}, ',' ORDER BY {x}){filter}")
            }
            Ints => {
                let x = self.expression(Int, 1);
                format!("array_agg({distinct}{x} ORDER BY {x}){filter}")
            }
            Json => String::new(),
            Int if self.chance(4) => format!("bit_or({}){filter}", self.expression(Int, 1)),
            _ => format!("{extreme}({}){filter}", self.expression(of, 1)),
        }
    }
}
