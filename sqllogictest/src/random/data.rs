//! The tables, their first rows, and transactions that change them.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::{Table, Type, Type::*};

/// Rows per table above which there are more deletions than insertions.
const ROWS_AIM: usize = 12;

fn table(name: &str, columns: &[(&str, Type)]) -> Table {
    Table {
        name: name.into(),
        columns: columns.iter().map(|(n, t)| ((*n).into(), *t)).collect(),
    }
}

/// The tables that all queries are made of. Columns of one name have one type, for USING and NATURAL.
pub fn tables() -> Vec<Table> {
    vec![
        table(
            "a",
            &[
                ("i", Int),
                ("b", Big),
                ("n", Num),
                ("t", Text),
                ("o", Truth),
                ("d", Day),
                ("ts", Moment),
            ],
        ),
        table(
            "b",
            &[
                ("i", Int),
                ("s", Int),
                ("t", Text),
                ("f", Float),
                ("d", Day),
            ],
        ),
        table(
            "c",
            &[
                ("k", Int),
                ("i", Int),
                ("l", Ints),
                ("e", Span),
                ("j", Json),
            ],
        ),
        table("e", &[("t", Text), ("o", Truth), ("n", Num)]),
    ]
}

/// Statements that make the tables.
pub fn create() -> Vec<String> {
    let made = tables().into_iter().map(|t| {
        let columns: Vec<String> = t
            .columns
            .iter()
            .map(|(name, of)| {
                let key = if name == "k" { " PRIMARY KEY" } else { "" };
                format!("{name} {}{key}", of.name())
            })
            .collect();
        format!("CREATE TABLE {} ({})", t.name, columns.join(", "))
    });
    made.collect()
}

/// The tables' contents as far as changes must know them: how many rows, and the keys of `c`.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Rows of each table; the caller counts them after each transaction.
    pub rows: [usize; 4],
    next_key: i32,
}

/// A value of type `of` as a literal.
fn value(rng: &mut ChaCha8Rng, of: Type) -> String {
    if rng.random_range(0..6) == 0 {
        return "NULL".into();
    }
    let pick = |rng: &mut ChaCha8Rng, choices: &[&str]| {
        choices.choose(rng).expect("not empty").to_string()
    };
    match of {
        Int => rng.random_range(-3..7).to_string(),
        Big => pick(rng, &["-3000000000", "0", "5", "6", "4000000001", "7"]),
        Num => format!(
            "{}.{}",
            rng.random_range(-4..7),
            pick(rng, &["00", "50", "25", "10", "99"])
        ),
        Float => pick(
            rng,
            &[
                "0.5",
                "-2.25",
                "1e10",
                "'NaN'",
                "3",
                "0",
                "'-Infinity'",
                "6",
            ],
        ),
        Text => pick(
            rng,
            &[
                "'x'",
                "'Yy'",
                "''",
                "'a longer text than twelve'",
                "'12'",
                "'é'",
                "'-4'",
                "'yy'",
            ],
        ),
        Truth => pick(rng, &["true", "false"]),
        Day => format!("'2024-02-{:02}'", rng.random_range(24..30)),
        Moment => format!(
            "'2024-02-{:02} {}'",
            rng.random_range(26..30),
            pick(rng, &["00:00:00", "12:30:00.5", "23:59:59"])
        ),
        Span => pick(
            rng,
            &["'1 day'", "'2 hours'", "'3 mons'", "'-1 day'", "'00:30:00'"],
        ),
        Ints => pick(
            rng,
            &["'{}'", "'{1,2}'", "'{2,2,3}'", "'{NULL,1}'", "'{5}'"],
        ),
        Json => pick(
            rng,
            &[
                "'{\"n\": 1, \"t\": \"x\"}'",
                "'{\"n\": null}'",
                "'[1, 2]'",
                "'{\"n\": \"x\", \"l\": [3]}'",
                "'null'",
            ],
        ),
    }
}

/// The statements of one transaction: inserts with copies, updates of join keys, deletes, sometimes a whole table.
pub fn transaction(rng: &mut ChaCha8Rng, contents: &mut Contents) -> Vec<String> {
    let tables = tables();
    let count = [1, 1, 1, 2, 3, 5].choose(rng).copied().expect("not empty");
    (0..count)
        .map(|_| statement(rng, &tables, contents))
        .collect()
}

/// INSERT of some rows into table number `at`.
fn insert(rng: &mut ChaCha8Rng, table: &Table, at: usize, contents: &mut Contents) -> String {
    let n = rng.random_range(1..6);
    let mut rows = vec![];
    for _ in 0..n {
        let values: Vec<String> = table
            .columns
            .iter()
            .map(|(name, of)| match name.as_str() {
                "k" => {
                    contents.next_key += 1;
                    contents.next_key.to_string()
                }
                _ => value(rng, *of),
            })
            .collect();
        rows.push(format!("({})", values.join(", ")));
        if table.name != "c" && rng.random_range(0..4) == 0 {
            rows.push(rows[0].clone());
        }
    }
    contents.rows[at] += rows.len();
    format!("INSERT INTO {} VALUES {}", table.name, rows.join(", "))
}

/// A condition that some rows fulfil.
fn some_rows(rng: &mut ChaCha8Rng, table: &Table) -> String {
    let fitting: Vec<&(String, Type)> = table
        .columns
        .iter()
        .filter(|c| !matches!(c.1, Json | Float | Ints))
        .collect();
    let (name, of) = fitting
        .choose(rng)
        .expect("every table has a comparable column");
    let comparison = ["=", "<=", ">", "IS NOT DISTINCT FROM"]
        .choose(rng)
        .expect("not empty");
    match value(rng, *of) {
        null if null == "NULL" => format!("{name} IS NULL"),
        literal => format!("{name} {comparison} {literal}"),
    }
}

fn statement(rng: &mut ChaCha8Rng, tables: &[Table], contents: &mut Contents) -> String {
    let at = rng.random_range(0..tables.len());
    let table = &tables[at];
    let full = contents.rows[at] > ROWS_AIM;
    match rng.random_range(0..20) {
        0..=8 if !full => insert(rng, table, at, contents),
        0..=10 => {
            let filter = some_rows(rng, table);
            contents.rows[at] = contents.rows[at].saturating_sub(contents.rows[at] / 2);
            format!("DELETE FROM {} WHERE {filter}", table.name)
        }
        11 => {
            contents.rows[at] = 0;
            match rng.random_range(0..3) {
                0 => format!("TRUNCATE {}", table.name),
                _ => format!("DELETE FROM {}", table.name),
            }
        }
        12 if table.name != "c" && contents.rows[at] < 8 => {
            contents.rows[at] *= 2;
            format!("INSERT INTO {0} SELECT * FROM {0}", table.name)
        }
        13 => "UPDATE a SET i = i + 1, b = b - 1 WHERE i < 4".into(),
        14 => "UPDATE b SET i = s, s = i".into(),
        _ => {
            let changed: Vec<&(String, Type)> =
                table.columns.iter().filter(|c| c.0 != "k").collect();
            let (name, of) = changed.choose(rng).expect("there is another column");
            let to = value(rng, *of);
            format!(
                "UPDATE {} SET {name} = {to} WHERE {}",
                table.name,
                some_rows(rng, table)
            )
        }
    }
}
