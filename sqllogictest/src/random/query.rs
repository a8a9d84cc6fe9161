//! SELECT, set operations, WITH, LIMIT, DISTINCT ON.

use rand::Rng;

use super::{Item, Maker, Table, Type, Type::*};

impl Maker<'_> {
    /// A query with columns c1, c2, … of these types.
    pub(super) fn query(&mut self, types: &[Type], depth: usize) -> String {
        if depth > 0 && self.chance(8) {
            return self.with(types, depth - 1);
        }
        let ordinals: Vec<String> = (1..=types.len()).map(|i| i.to_string()).collect();
        let order = ordinals.join(", ");
        if self.chance(14) {
            return self.distinct_on(types, depth, &order);
        }
        let body = self.body(types, depth);
        if self.chance(7) {
            let offset = match self.chance(2) {
                true => format!(" OFFSET {}", self.rng.random_range(0..4)),
                false => String::new(),
            };
            return format!(
                "{body} ORDER BY {order} LIMIT {}{offset}",
                self.rng.random_range(0..7)
            );
        }
        body
    }

    /// A query that an ORDER BY may follow.
    fn body(&mut self, types: &[Type], depth: usize) -> String {
        if depth == 0 || !self.chance(5) {
            return self.select(types, depth);
        }
        let operator = self.one_of(&[
            "UNION",
            "UNION ALL",
            "EXCEPT",
            "EXCEPT ALL",
            "INTERSECT",
            "INTERSECT ALL",
        ]);
        let left = self.query(types, depth - 1);
        let right = self.query(types, depth - 1);
        format!("({left}) {operator} ({right})")
    }

    fn with(&mut self, types: &[Type], depth: usize) -> String {
        let before = self.named.len();
        let mut parts = vec![];
        for _ in 0..self.one_of(&[1, 1, 2]) {
            let own: Vec<Type> = (0..self.rng.random_range(1..4))
                .map(|_| self.some_type())
                .collect();
            let query = self.query(&own, depth);
            let name = self.alias();
            let columns: Vec<(String, Type)> = own
                .iter()
                .enumerate()
                .map(|(i, t)| (format!("w{}", i + 1), *t))
                .collect();
            let names: Vec<&str> = columns.iter().map(|c| c.0.as_str()).collect();
            parts.push(format!("{name}({}) AS ({query})", names.join(", ")));
            self.named.push(Table { name, columns });
        }
        let body = self.body(types, depth);
        self.named.truncate(before);
        format!("WITH {} {body}", parts.join(", "))
    }

    fn distinct_on(&mut self, types: &[Type], depth: usize, order: &str) -> String {
        let from = self.from(depth);
        self.scopes.push(from.items);
        let filter = self.filter();
        let outputs: Vec<String> = types.iter().map(|t| self.expression(*t, 1)).collect();
        self.scopes.pop();
        format!(
            "SELECT DISTINCT ON (c1) * FROM (SELECT {} FROM {}{filter}) AS {} ORDER BY {order}",
            listed(&outputs),
            from.text,
            self.alias()
        )
    }

    /// One SELECT.
    pub(super) fn select(&mut self, types: &[Type], depth: usize) -> String {
        let from = self.from(depth);
        self.scopes.push(from.items);
        let filter = self.filter();
        let text = match self.rng.random_range(0..10) {
            0..=2 => self.grouped(types, &from.text, &filter),
            3 => self.windowed(types, &format!("{}{filter}", from.text)),
            kind => {
                let distinct = if kind == 4 { "DISTINCT " } else { "" };
                let outputs: Vec<String> = types.iter().map(|t| self.expression(*t, 2)).collect();
                format!(
                    "SELECT {distinct}{} FROM {}{filter}",
                    listed(&outputs),
                    from.text
                )
            }
        };
        self.scopes.pop();
        text
    }

    /// A correlated subquery that an ORDER BY may follow.
    pub(super) fn subquery(&mut self, types: &[Type]) -> String {
        let from = self.from(0);
        self.scopes.push(from.items);
        let filter = match self.chance(4) {
            true => String::new(),
            false => format!(" WHERE {}", self.correlation()),
        };
        let text = match self.rng.random_range(0..6) {
            0 => self.grouped(types, &from.text, &filter),
            kind => {
                let distinct = if kind == 1 { "DISTINCT " } else { "" };
                let outputs: Vec<String> = types.iter().map(|t| self.expression(*t, 1)).collect();
                format!(
                    "SELECT {distinct}{} FROM {}{filter}",
                    listed(&outputs),
                    from.text
                )
            }
        };
        self.scopes.pop();
        text
    }

    /// A subquery that gives one row: an aggregate.
    pub(super) fn one_aggregate(&mut self, of: Type) -> Option<String> {
        let from = self.from(0);
        self.scopes.push(from.items);
        let call = self.aggregate(of);
        let filter = match self.chance(4) {
            true => String::new(),
            false => format!(" WHERE {}", self.correlation()),
        };
        self.scopes.pop();
        Some(format!("SELECT {} FROM {}{filter}", call?, from.text))
    }

    /// A condition that ties the innermost query to those around it.
    fn correlation(&mut self) -> String {
        let (inner, outer) = self.scopes.split_last().expect("inside a query");
        let mut pairs = vec![];
        for own in inner {
            for other in outer.iter().flatten().filter(|o| o.plain && o.of == own.of) {
                if !matches!(own.of, Json | Truth | Ints) {
                    pairs.push((own.text.clone(), other.text.clone()));
                }
            }
        }
        if pairs.is_empty() || self.chance(5) {
            return self.truth(1);
        }
        let (l, r) = self.one_of(&pairs);
        let operator = self.one_of(&["=", "=", "=", "=", "<", ">=", "IS NOT DISTINCT FROM"]);
        match self.chance(3) {
            true => format!("{l} {operator} {r} AND {}", self.truth(1)),
            false => format!("{l} {operator} {r}"),
        }
    }

    fn filter(&mut self) -> String {
        match self.chance(2) {
            true => format!(" WHERE {}", self.truth(2)),
            false => String::new(),
        }
    }

    /// SELECT with window functions.
    fn windowed(&mut self, types: &[Type], source: &str) -> String {
        let scope = self.scopes.last().cloned().unwrap_or_default();
        let mut outputs = vec![];
        for of in types {
            let call = match self.chance(4) {
                true => self.leaf(*of),
                false => self.window_call(*of, &scope),
            };
            outputs.push(call);
        }
        format!("SELECT {} FROM {source}", listed(&outputs))
    }

    pub(super) fn window_call(&mut self, of: Type, scope: &[Item]) -> String {
        let partition: Vec<String> = match self.rng.random_range(0..3) {
            0 => vec![],
            n => (0..n).filter_map(|_| self.any_column(scope)).collect(),
        };
        let partition = match partition.is_empty() {
            true => String::new(),
            false => format!("PARTITION BY {} ", partition.join(", ")),
        };
        let total: Vec<String> = scope
            .iter()
            .map(|c| match c.of {
                Json => format!("{}::text", c.text),
                _ => c.text.clone(),
            })
            .collect();
        let total = format!("ORDER BY {}", total.join(", "));
        let some = match self.any_column(scope) {
            Some(c) => format!(
                "ORDER BY {c}{}",
                self.one_of(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"])
            ),
            None => total.clone(),
        };
        let x = self.leaf(of);
        let choice = self.rng.random_range(0..8);
        let (call, order) = match (of, choice) {
            (Big, 0) => ("row_number()".into(), total),
            (Big, 1) => (self.one_of(&["rank()", "dense_rank()"]).into(), some),
            (Big, 2) => (format!("count({})", self.leaf(Text)), some),
            (Big, 3..=5) => {
                let filter = match self.chance(3) {
                    true => format!(" FILTER (WHERE {})", self.leaf(Truth)),
                    false => String::new(),
                };
                let (order, frame) = self.frame(&total, &some, scope);
                return format!(
                    "sum({}){filter} OVER ({partition}{order}{frame})",
                    self.leaf(Int)
                );
            }
            (Int, 0) => (format!("ntile({})", self.rng.random_range(1..4)), total),
            (Num, 0) => (format!("round(avg({}), 3)", self.leaf(Int)), String::new()),
            (Num, 1) => {
                return format!("round(avg({}) OVER ({partition}{some}), 3)", self.leaf(Int));
            }
            (Truth | Ints | Json, _) | (_, 2..=4) => {
                let n = self.rng.random_range(0..3);
                let function = self.one_of(&["lag", "lead"]);
                let default = match self.chance(3) {
                    true => format!(", {}", self.literal(of)),
                    false => String::new(),
                };
                (format!("{function}({x}, {n}{default})"), total)
            }
            (_, 5) => {
                let (order, frame) = self.frame(&total, &some, scope);
                let function = self.one_of(&["min", "max"]);
                return format!("{function}({x}) OVER ({partition}{order}{frame})");
            }
            (_, 6) => {
                let call = self.one_of(&["first_value", "last_value"]);
                (format!("{call}({x})"), total)
            }
            (_, _) => (format!("nth_value({x}, 2)"), total),
        };
        if call.starts_with("round(") {
            return x;
        }
        format!("{call} OVER ({partition}{order})")
    }

    /// An order and a frame over which an aggregate has one answer.
    fn frame(&mut self, total: &str, some: &str, scope: &[Item]) -> (String, String) {
        let (n, m) = (self.rng.random_range(0..3), self.rng.random_range(0..3));
        let bounds = self.one_of(&[
            format!("BETWEEN {n} PRECEDING AND {m} FOLLOWING"),
            format!("BETWEEN UNBOUNDED PRECEDING AND {m} PRECEDING"),
            format!("BETWEEN {n} FOLLOWING AND UNBOUNDED FOLLOWING"),
            "UNBOUNDED PRECEDING".into(),
            "BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING".into(),
        ]);
        let ints: Vec<String> = scope
            .iter()
            .filter(|c| c.of == Int)
            .map(|c| c.text.clone())
            .collect();
        match self.rng.random_range(0..5) {
            0 => (some.into(), String::new()),
            1 if !ints.is_empty() => (
                format!("ORDER BY {}", self.one_of(&ints)),
                format!(" RANGE {bounds}"),
            ),
            2 => (some.into(), format!(" GROUPS {bounds}")),
            3 => (String::new(), String::new()),
            _ => (total.into(), format!(" ROWS {bounds}")),
        }
    }

    fn any_column(&mut self, scope: &[Item]) -> Option<String> {
        let fitting: Vec<String> = scope
            .iter()
            .filter(|c| !matches!(c.of, Json))
            .map(|c| c.text.clone())
            .collect();
        (!fitting.is_empty()).then(|| self.one_of(&fitting))
    }
}

/// `e AS c1, f AS c2, …`
pub(super) fn listed(outputs: &[String]) -> String {
    let named: Vec<String> = outputs
        .iter()
        .enumerate()
        .map(|(i, o)| format!("{o} AS c{}", i + 1))
        .collect();
    named.join(", ")
}
