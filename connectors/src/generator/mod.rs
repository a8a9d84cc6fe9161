//! Rows made up by the server, deterministic by seed: for demos, tests and bug reports.
//!
//! Invariant: row `i` is a function of the options and `i` alone, so the number of rows given is all there
//! is to an offset.

pub mod kinds;
pub mod nexmark;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use tidemill_zset::Delta;
use tidemill_zset::schema::SqlType;

use crate::files::options::batch_rows;
use crate::options::{COMMON_OPTIONS, check_names, choice, integer, malformed, missing};
use crate::queue::{BatchSender, StopSignal};
use crate::source::{ConnectorError, Offsets, Source, SourceBatch, SourceSpec};
use kinds::Kind;

/// Key of the only offset entry: a version byte and the number of rows given.
const OFFSET_KEY: &[u8] = b"r";
const OFFSET_VERSION: u8 = 1;
/// With a rate, rows come at least this often.
const TICK: Duration = Duration::from_millis(10);

/// The options of a generator, checked.
#[derive(Clone, Debug)]
pub struct GeneratorOptions {
    kind: Kind,
    /// Rows per second; `None`: as fast as it can.
    rate: Option<f64>,
    /// Rows in all.
    rows: u64,
    batch_rows: usize,
}

impl GeneratorOptions {
    /// Checks and reads the options of `spec`, and that its columns are the kind's.
    pub fn parse(spec: &SourceSpec) -> Result<Self, ConnectorError> {
        let options = GeneratorOptions::of(&spec.options)?;
        let given = options.kind.columns();
        for field in spec.schema.fields() {
            let names = || {
                let all = given.fields().iter();
                let all: Vec<String> = all
                    .map(|f| format!("{} {}", f.name(), SqlType::of(f)))
                    .collect();
                format!("The generator gives: {}.", all.join(", "))
            };
            let known =
                given
                    .field_with_name(field.name())
                    .map_err(|_| ConnectorError::Option {
                        message: format!("the generator has no column \"{}\"", field.name()),
                        hint: names(),
                    })?;
            if SqlType::of(known) != SqlType::of(field) {
                return Err(ConnectorError::Option {
                    message: format!(
                        "column \"{}\" is declared as {}, but the generator gives {}",
                        field.name(),
                        SqlType::of(field),
                        SqlType::of(known)
                    ),
                    hint: names(),
                });
            }
        }
        Ok(options)
    }

    fn of(o: &BTreeMap<String, String>) -> Result<Self, ConnectorError> {
        const KINDS: [&str; 4] = ["counter", "words", "bank", "nexmark"];
        let kind = choice(o, "kind", &KINDS)?
            .ok_or_else(|| missing("kind", "kind = 'counter' | 'words' | 'bank' | 'nexmark'"))?;
        let mut known = vec!["kind", "seed", "rate", "rows"];
        known.extend(match kind {
            1 => Some("distinct"),
            2 => Some("accounts"),
            3 => Some("table"),
            _ => None,
        });
        check_names(o, COMMON_OPTIONS, &known)?;
        let seed = integer(o, "seed", 0, 0, u32::MAX as u64)?;
        let kind = match kind {
            0 => Kind::Counter,
            1 => Kind::Words {
                seed,
                distinct: integer(o, "distinct", 10_000, 1, 100_000_000)?,
            },
            2 => Kind::Bank {
                seed,
                accounts: integer(o, "accounts", 1_000, 2, 1_000_000_000)?,
            },
            _ => Kind::Nexmark {
                seed,
                table: match choice(o, "table", &["person", "auction", "bid"])? {
                    Some(0) => nexmark::Table::Person,
                    Some(1) => nexmark::Table::Auction,
                    Some(_) => nexmark::Table::Bid,
                    None => return Err(missing("table", "table = 'person' | 'auction' | 'bid'")),
                },
            },
        };
        let rate = match o.get("rate") {
            None => None,
            Some(text) => {
                let rate: Option<f64> = text.trim().parse().ok();
                let rate = rate.filter(|r| r.is_finite() && *r >= 0.0);
                let rate =
                    rate.ok_or_else(|| malformed("rate", text, "a number of rows per second"))?;
                (rate > 0.0).then_some(rate)
            }
        };
        Ok(GeneratorOptions {
            kind,
            rate,
            rows: integer(o, "rows", u64::MAX, 0, u64::MAX)?,
            batch_rows: batch_rows(o.get("epoch_rows_max")),
        })
    }
}

/// The columns that the kind gives.
pub fn default_columns(options: &BTreeMap<String, String>) -> Result<SchemaRef, ConnectorError> {
    Ok(GeneratorOptions::of(options)?.kind.columns())
}

/// A source of made-up rows.
pub struct GeneratorSource {
    options: GeneratorOptions,
    schema: SchemaRef,
    given: u64,
}

impl GeneratorSource {
    /// Opens it at `offsets`.
    pub fn open(spec: SourceSpec, offsets: Offsets) -> Result<Self, ConnectorError> {
        Ok(GeneratorSource {
            options: GeneratorOptions::parse(&spec)?,
            schema: spec.schema,
            given: given(&offsets)?,
        })
    }

    /// Rows `from..to` with the declared columns.
    fn batch(&self, from: u64, to: u64) -> RecordBatch {
        select(&self.options.kind.batch(from, to), &self.schema)
    }
}

fn given(offsets: &Offsets) -> Result<u64, ConnectorError> {
    let Some((_, value)) = offsets.iter().find(|(k, _)| k == OFFSET_KEY) else {
        return Ok(0);
    };
    match value.split_first() {
        Some((&OFFSET_VERSION, rows)) if rows.len() == 8 => {
            let rows: [u8; 8] = rows.try_into().expect("eight bytes");
            Ok(u64::from_le_bytes(rows))
        }
        _ => Err(ConnectorError::Io(
            "a source offset can't be read: it is damaged or of a newer version".into(),
        )),
    }
}

/// The columns of `schema`, which are among those of `batch`.
fn select(batch: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let columns = schema
        .fields()
        .iter()
        .map(|f| {
            batch
                .column_by_name(f.name())
                .expect("checked when opened")
                .clone()
        })
        .collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .expect("the types were checked when opened")
}

impl Source for GeneratorSource {
    fn run(mut self: Box<Self>, out: BatchSender, stop: StopSignal) -> Result<(), ConnectorError> {
        out.stop_with(&stop);
        let (start, first) = (Instant::now(), self.given);
        while self.given < self.options.rows && !stop.is_stopped() {
            let left = self.options.rows - self.given;
            let mut rows = left.min(self.options.batch_rows as u64);
            if let Some(rate) = self.options.rate {
                let due = (start.elapsed().as_secs_f64() * rate) as u64 - (self.given - first);
                rows = rows.min(due);
                if rows == 0 {
                    let next = (self.given - first + 1) as f64 / rate;
                    let wait = Duration::from_secs_f64(next).saturating_sub(start.elapsed());
                    out.waiting("the time of the next row".into());
                    stop.wait(wait.max(TICK));
                    continue;
                }
            }
            let to = self.given + rows;
            let batch = self.batch(self.given, to);
            self.given = to;
            let mut value = vec![OFFSET_VERSION];
            value.extend_from_slice(&to.to_le_bytes());
            let sent = out.send(SourceBatch {
                bytes: batch.get_array_memory_size() as u64,
                rows: Some(Delta::insert(batch)),
                columns: None,
                errors: None,
                origin: 0,
                retract: Vec::new(),
                offsets: vec![(OFFSET_KEY.to_vec(), Some(value))],
            });
            if sent.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// See [`crate::source::reread`].
pub fn reread(
    spec: &SourceSpec,
    from: Offsets,
    to: Offsets,
    out: BatchSender,
    stop: StopSignal,
) -> Result<(), ConnectorError> {
    out.stop_with(&stop);
    let mut from = given(&from)?;
    let source = GeneratorSource::open(spec.clone(), to)?;
    while from < source.given {
        let to = source.given.min(from + source.options.batch_rows as u64);
        let batch = source.batch(from, to);
        from = to;
        let sent = out.send(SourceBatch {
            bytes: batch.get_array_memory_size() as u64,
            rows: Some(Delta::insert(batch)),
            columns: None,
            errors: None,
            origin: 0,
            retract: Vec::new(),
            offsets: Vec::new(),
        });
        if sent.is_err() {
            break;
        }
    }
    Ok(())
}

/// A schema of the given columns.
pub(crate) fn columns_of(columns: &[(&str, SqlType)]) -> SchemaRef {
    let fields = columns.iter().map(|(n, t)| FieldRef::new(t.field(n, true)));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
