//! Worlds: the same script, played so that another part of the system gives the answers.

/// When a query's materialized view is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Views {
    /// Never: queries run as SELECT.
    Never,
    /// When the query is reached: from the data that is there.
    After,
    /// After the last definition before the query: the data flows through the view.
    Before,
}

/// A world.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Its name, also the label for `onlyif` and `skipif`.
    pub name: &'static str,
    /// How queries are answered.
    pub views: Views,
    /// INSERTs of several rows become one INSERT, hence one epoch, per row.
    pub row_per_epoch: bool,
    /// Kill and restart the server after every so many steps; restarts alternate between 1 and 2 workers.
    pub restart_every: Option<usize>,
    /// `--workers`
    pub workers: usize,
}

/// All worlds.
pub const WORLDS: [World; 5] = [
    World {
        name: "select",
        views: Views::Never,
        row_per_epoch: false,
        restart_every: None,
        workers: 1,
    },
    World {
        name: "view-after",
        views: Views::After,
        row_per_epoch: false,
        restart_every: None,
        workers: 1,
    },
    World {
        name: "view-before",
        views: Views::Before,
        row_per_epoch: false,
        restart_every: None,
        workers: 1,
    },
    World {
        name: "row-per-epoch",
        views: Views::Before,
        row_per_epoch: true,
        restart_every: None,
        workers: 2,
    },
    World {
        name: "restart",
        views: Views::Before,
        row_per_epoch: false,
        restart_every: Some(1),
        workers: 1,
    },
];

/// `INSERT … VALUES (…), (…)` as one INSERT per row; anything else as it is.
pub fn split_insert(sql: &str) -> Vec<String> {
    let whole = || vec![sql.to_owned()];
    let upper = sql.to_ascii_uppercase();
    if !upper.trim_start().starts_with("INSERT")
        || upper.contains("RETURNING")
        || upper.contains("SELECT")
    {
        return whole();
    }
    let Some(values) = upper.find("VALUES") else {
        return whole();
    };
    // `(VALUES …)` is a query.
    if upper[..values].trim_end().ends_with('(') {
        return whole();
    }
    let (head, tail) = sql.split_at(values + "VALUES".len());
    let (mut rows, mut depth, mut quoted, mut start) = (Vec::new(), 0, false, 0);
    for (at, c) in tail.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '(' | '[' if !quoted => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            ')' | ']' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    rows.push(format!("{head} {}", &tail[start..=at]));
                }
            }
            c if depth == 0 && !quoted && !c.is_whitespace() && c != ',' && c != ';' => {
                return whole();
            }
            _ => {}
        }
    }
    if rows.is_empty() { whole() } else { rows }
}

#[cfg(test)]
mod tests {
    use super::split_insert;

    #[test]
    fn inserts_are_split_by_row() {
        assert_eq!(
            split_insert("INSERT INTO t VALUES (1, 'a),('), (f(2), NULL)"),
            [
                "INSERT INTO t VALUES (1, 'a),(')",
                "INSERT INTO t VALUES (f(2), NULL)"
            ]
        );
        assert_eq!(
            split_insert("INSERT INTO t (a) VALUES (1)"),
            ["INSERT INTO t (a) VALUES (1)"]
        );
        for whole in [
            "INSERT INTO t SELECT 1",
            "DELETE FROM t",
            "INSERT INTO t VALUES (1), (2) RETURNING a",
            "INSERT INTO t (VALUES (1), (2))",
        ] {
            assert_eq!(split_insert(whole), [whole]);
        }
    }
}
