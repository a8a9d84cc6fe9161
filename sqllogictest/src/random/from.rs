//! FROM: tables, joins of every kind, subqueries, LATERAL, set-returning functions.

use rand::Rng;

use super::{Item, Maker, Table, Type, Type::*};

/// What a FROM clause gives: its text and what it brings into scope.
pub(super) struct From {
    pub text: String,
    pub items: Vec<Item>,
}

fn items(alias: &str, columns: &[(String, Type)]) -> Vec<Item> {
    let item = |(name, of): &(String, Type)| Item {
        text: format!("{alias}.{name}"),
        of: *of,
        plain: true,
    };
    columns.iter().map(item).collect()
}

impl Maker<'_> {
    fn some_table(&mut self) -> Table {
        if !self.named.is_empty() && self.chance(2) {
            let named = self.named.clone();
            return self.one_of(&named);
        }
        let tables = self.tables;
        self.one_of(tables)
    }

    /// One relation under an alias.
    fn relation(&mut self, depth: usize) -> From {
        if depth > 0 && self.chance(4) && self.afford() {
            let types: Vec<Type> = (0..self.rng.random_range(1..4))
                .map(|_| self.some_type())
                .collect();
            let query = self.apart(|maker| maker.query(&types, depth - 1));
            let alias = self.alias();
            let columns: Vec<(String, Type)> = types
                .iter()
                .enumerate()
                .map(|(i, t)| (format!("c{}", i + 1), *t))
                .collect();
            return From {
                text: format!("({query}) AS {alias}"),
                items: items(&alias, &columns),
            };
        }
        let table = self.some_table();
        let alias = self.alias();
        From {
            text: format!("{} AS {alias}", table.name),
            items: items(&alias, &table.columns),
        }
    }

    /// Runs `f` where the columns of outer queries aren't in scope.
    fn apart(&mut self, f: impl FnOnce(&mut Self) -> String) -> String {
        let scopes = std::mem::take(&mut self.scopes);
        let text = f(self);
        self.scopes = scopes;
        text
    }

    /// A FROM clause; the scope stays as it is.
    pub(super) fn from(&mut self, depth: usize) -> From {
        let mut from = self.relation(depth);
        if self.chance(14)
            && let Some(joined) = self.using()
        {
            // With a third table the merged columns' names would be ambiguous.
            return joined;
        }
        let more = self.one_of(&[0, 0, 0, 1, 1, 1, 2, 3]);
        for _ in 0..more {
            from = self.join(from, depth);
        }
        if self.chance(10) {
            from = self.set_returning(from);
        }
        if depth > 0 && self.chance(10) && self.afford() {
            from = self.lateral(from);
        }
        from
    }

    /// Two tables by the columns that they share.
    fn using(&mut self) -> Option<From> {
        let tables = self.tables;
        let (left, right) = (self.one_of(tables), self.one_of(tables));
        let shared: Vec<(String, Type)> = left
            .columns
            .iter()
            .filter(|c| right.columns.contains(c) && !matches!(c.1, Json))
            .cloned()
            .collect();
        if shared.is_empty() || left.name == right.name {
            return None;
        }
        let kind = self.one_of(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let (l, r) = (self.alias(), self.alias());
        let (text, merged) = match self.chance(2) {
            true => (
                format!("{} AS {l} NATURAL {kind} {} AS {r}", left.name, right.name),
                shared,
            ),
            false => {
                let one = self.one_of(&shared);
                (
                    format!(
                        "{} AS {l} {kind} {} AS {r} USING ({})",
                        left.name, right.name, one.0
                    ),
                    vec![one],
                )
            }
        };
        let mut all = items(&l, &left.columns);
        all.extend(items(&r, &right.columns));
        let merged = merged.into_iter().map(|(name, of)| Item {
            text: name,
            of,
            plain: false,
        });
        all.extend(merged);
        Some(From { text, items: all })
    }

    fn join(&mut self, left: From, depth: usize) -> From {
        let right = match self.chance(6) {
            // A join in parentheses on the right side.
            true => {
                let inner = self.relation(depth);
                let inner = self.plain_join(inner, depth);
                From {
                    text: format!("({})", inner.text),
                    items: inner.items,
                }
            }
            false => self.relation(depth),
        };
        self.joined(left, right)
    }

    fn plain_join(&mut self, left: From, depth: usize) -> From {
        let right = self.relation(depth);
        self.joined(left, right)
    }

    fn joined(&mut self, left: From, right: From) -> From {
        let kind = self.one_of(&[
            "JOIN",
            "JOIN",
            "LEFT JOIN",
            "LEFT JOIN",
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
            "FULL JOIN",
            "CROSS JOIN",
        ]);
        let on = match kind {
            "CROSS JOIN" => String::new(),
            _ => format!(" ON {}", self.condition(&left.items, &right.items, kind)),
        };
        let text = format!("{} {kind} {}{on}", left.text, right.text);
        let mut all = left.items;
        all.extend(right.items);
        From { text, items: all }
    }

    /// A join condition: mostly an equality, sometimes with more, sometimes without one.
    fn condition(&mut self, left: &[Item], right: &[Item], kind: &str) -> String {
        let mut pairs = vec![];
        for l in left {
            for r in right {
                let alike = l.of == r.of
                    || matches!(
                        (l.of, r.of),
                        (Int, Big) | (Big, Int) | (Int, Num) | (Num, Int)
                    );
                if alike && !matches!(l.of, Json | Truth) {
                    pairs.push((l.text.clone(), r.text.clone()));
                }
            }
        }
        let mut parts = vec![];
        // A full join without an equality isn't PostgreSQL.
        let equal = kind == "FULL JOIN" || !self.chance(5);
        if equal && !pairs.is_empty() {
            for _ in 0..self.one_of(&[1, 1, 1, 2]) {
                let (l, r) = self.one_of(&pairs);
                parts.push(format!("{l} = {r}"));
            }
        }
        if kind == "FULL JOIN" && parts.is_empty() {
            return "true".into();
        }
        if parts.is_empty() || self.chance(3) {
            let mut scope = left.to_vec();
            scope.extend_from_slice(right);
            let budget = std::mem::take(&mut self.budget);
            self.scopes.push(scope);
            parts.push(self.truth(1));
            self.scopes.pop();
            self.budget = budget;
        }
        parts.join(" AND ")
    }

    fn set_returning(&mut self, from: From) -> From {
        self.scopes.push(from.items.clone());
        let call = match self.chance(3) {
            true => format!("generate_series(1, least({}, 3))", self.leaf(Int)),
            false => format!("unnest({})", self.expression(Ints, 1)),
        };
        self.scopes.pop();
        let alias = self.alias();
        let mut all = from.items;
        let (join, on) = self.one_of(&[
            ("CROSS JOIN LATERAL", ""),
            ("LEFT JOIN LATERAL", " ON true"),
        ]);
        let mut columns = vec![("x".to_owned(), Int)];
        let ordinality = match self.chance(3) {
            true => {
                columns.push(("n".to_owned(), Big));
                " WITH ORDINALITY"
            }
            false => "",
        };
        let names: Vec<&str> = columns.iter().map(|c| c.0.as_str()).collect();
        let text = format!(
            "{} {join} {call}{ordinality} AS {alias}({}){on}",
            from.text,
            names.join(", ")
        );
        all.extend(items(&alias, &columns));
        From { text, items: all }
    }

    fn lateral(&mut self, from: From) -> From {
        let types = [self.some_type(), Int];
        self.scopes.push(from.items.clone());
        let mut query = self.subquery(&types);
        self.scopes.pop();
        if self.chance(3) {
            query.push_str(" ORDER BY 1, 2 LIMIT 2");
        }
        let alias = self.alias();
        let columns: Vec<(String, Type)> = vec![("c1".into(), types[0]), ("c2".into(), types[1])];
        let (join, on) = self.one_of(&[
            ("CROSS JOIN LATERAL", ""),
            ("LEFT JOIN LATERAL", " ON true"),
        ]);
        let text = format!("{} {join} ({query}) AS {alias}{on}", from.text);
        let mut all = from.items;
        all.extend(items(&alias, &columns));
        From { text, items: all }
    }
}
