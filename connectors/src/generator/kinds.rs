//! The kinds of made-up rows.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringViewBuilder};
use arrow::datatypes::SchemaRef;
use tidemill_zset::hash::mix;
use tidemill_zset::schema::SqlType;

use super::{columns_of, nexmark};
use crate::text::output;

/// What is made up.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `n`: 0, 1, 2, …
    Counter,
    /// `word`: some much more often than others.
    Words {
        /// Chooses the sequence.
        seed: u64,
        /// Different words.
        distinct: u64,
    },
    /// `events`: a transfer, as a debit and a credit.
    Bank {
        /// Chooses the sequence.
        seed: u64,
        /// Accounts, numbered from 0.
        accounts: u64,
    },
    /// One table of the Nexmark benchmark.
    Nexmark {
        /// Chooses the sequence.
        seed: u64,
        /// Which table.
        table: nexmark::Table,
    },
}

impl Kind {
    /// All columns that it gives.
    pub fn columns(&self) -> SchemaRef {
        match self {
            Kind::Counter => columns_of(&[("n", SqlType::Int8)]),
            Kind::Words { .. } => columns_of(&[("word", SqlType::Text)]),
            Kind::Bank { .. } => columns_of(&[("events", SqlType::Jsonb)]),
            Kind::Nexmark { table, .. } => table.columns(),
        }
    }

    /// Rows `from..to`.
    pub fn batch(&self, from: u64, to: u64) -> RecordBatch {
        let column: arrow::array::ArrayRef = match *self {
            Kind::Counter => Arc::new(Int64Array::from_iter_values(from as i64..to as i64)),
            Kind::Words { seed, distinct } => {
                let mut words = StringViewBuilder::with_capacity((to - from) as usize);
                let mut text = String::new();
                for row in from..to {
                    text.clear();
                    word(skewed(random(seed, row), distinct), &mut text);
                    words.append_value(&text);
                }
                Arc::new(words.finish())
            }
            Kind::Bank { seed, accounts } => {
                let mut events = StringViewBuilder::with_capacity((to - from) as usize);
                let mut text = Vec::new();
                for row in from..to {
                    text.clear();
                    transfer(seed, row, accounts, &mut text);
                    events.append_value(std::str::from_utf8(&text).expect("written as ASCII"));
                }
                Arc::new(events.finish())
            }
            Kind::Nexmark { seed, table } => return table.batch(seed, from, to),
        };
        RecordBatch::try_new(self.columns(), vec![column]).expect("one column of its type")
    }
}

/// A random number that belongs to a row.
fn random(seed: u64, row: u64) -> u64 {
    mix(mix(seed.wrapping_add(1)) ^ row)
}

/// Spreads a random number over `0..distinct`, so that k comes about as often as all of k+1..2k+2 together.
fn skewed(random: u64, distinct: u64) -> u64 {
    let unit = (random >> 11) as f64 / (1u64 << 53) as f64;
    ((distinct as f64 + 1.0).powf(unit) as u64).clamp(1, distinct) - 1
}

/// The word of a number: syllables, the shortest for the smallest.
fn word(mut number: u64, out: &mut String) {
    const CONSONANTS: &[u8] = b"tnrslmdkbpgvfz";
    const VOWELS: &[u8] = b"aeiou";
    let syllables = (CONSONANTS.len() * VOWELS.len()) as u64;
    loop {
        let s = (number % syllables) as usize;
        out.push(CONSONANTS[s % CONSONANTS.len()] as char);
        out.push(VOWELS[s / CONSONANTS.len()] as char);
        number /= syllables;
        if number == 0 {
            return;
        }
        number -= 1;
    }
}

/// `[{"account_id":…,"amount":-x,"event_type":"debit"},{…,"amount":x,"event_type":"credit"}]`
fn transfer(seed: u64, row: u64, accounts: u64, out: &mut Vec<u8>) {
    let r = random(seed, row);
    let from = r % accounts;
    let to = (from + 1 + mix(r) % (accounts - 1)) % accounts;
    let amount = 1 + (mix(r ^ 1) % 1000) as i64;
    for (open, account, amount, kind) in [
        ("[{\"account_id\":", from, -amount, "debit"),
        (",{\"account_id\":", to, amount, "credit"),
    ] {
        out.extend_from_slice(open.as_bytes());
        output::integer(account as i64, out);
        out.extend_from_slice(b",\"amount\":");
        output::integer(amount, out);
        out.extend_from_slice(b",\"event_type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\"}");
    }
    out.push(b']');
}
