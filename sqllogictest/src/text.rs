//! How results are written in `.slt` files.

use std::collections::HashMap;

use tidemill_tests::client::Row;

/// Replaces epochs by t1, t2, … in the order of their first appearance.
#[derive(Default)]
pub struct Times(HashMap<String, usize>);

impl Times {
    fn name(&mut self, time: &str) -> String {
        let next = self.0.len() + 1;
        format!("t{}", self.0.entry(time.to_owned()).or_insert(next))
    }

    /// One line per row: values separated by a space, `NULL`, `(empty)`, and `\n` for a line break.
    pub fn lines(&mut self, rows: &[Row], times: Option<usize>) -> Vec<String> {
        rows.iter().map(|row| self.line(row, times)).collect()
    }

    fn line(&mut self, row: &Row, times: Option<usize>) -> String {
        let mut values = Vec::with_capacity(row.len());
        for (i, value) in row.iter().enumerate() {
            values.push(match value.as_deref() {
                None => "NULL".to_owned(),
                Some("") => "(empty)".to_owned(),
                Some(time) if times == Some(i) => self.name(time),
                Some(text) => text.replace('\n', "\\n").replace('\t', "\\t"),
            });
        }
        values.join(" ")
    }
}

/// A line with runs of white space as one space, as the comparison sees it.
pub fn normal(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
