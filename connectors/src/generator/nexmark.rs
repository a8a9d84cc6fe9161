//! The tables of the Nexmark benchmark, from the crate `nexmark`.

use std::sync::Arc;

use ::nexmark::EventGenerator;
use ::nexmark::config::NexmarkConfig;
use ::nexmark::event::{Event, EventType};
use arrow::array::{
    ArrayRef, Int64Builder, RecordBatch, StringViewBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::SchemaRef;
use tidemill_zset::schema::SqlType;

use super::columns_of;

/// Time of the first event: 2024-01-01, in milliseconds since the Unix epoch. Fixed, so that runs repeat.
const FIRST_EVENT_MS: u64 = 1_704_067_200_000;
/// Events between the sequences of neighbouring seeds; a multiple of the benchmark's 50 events per round.
const EVENTS_PER_SEED: usize = 50_000_000_000;

/// One of the three tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// People who sell and bid.
    Person,
    /// Things for sale.
    Auction,
    /// Bids for them.
    Bid,
}

impl Table {
    /// Its columns.
    pub fn columns(self) -> SchemaRef {
        use SqlType::{Int8, Text, Timestamp};
        match self {
            Table::Person => columns_of(&[
                ("id", Int8),
                ("name", Text),
                ("email_address", Text),
                ("credit_card", Text),
                ("city", Text),
                ("state", Text),
                ("date_time", Timestamp),
                ("extra", Text),
            ]),
            Table::Auction => columns_of(&[
                ("id", Int8),
                ("item_name", Text),
                ("description", Text),
                ("initial_bid", Int8),
                ("reserve", Int8),
                ("date_time", Timestamp),
                ("expires", Timestamp),
                ("seller", Int8),
                ("category", Int8),
                ("extra", Text),
            ]),
            Table::Bid => columns_of(&[
                ("auction", Int8),
                ("bidder", Int8),
                ("price", Int8),
                ("channel", Text),
                ("url", Text),
                ("date_time", Timestamp),
                ("extra", Text),
            ]),
        }
    }

    /// Rows `from..to`.
    pub fn batch(self, seed: u64, from: u64, to: u64) -> RecordBatch {
        let config = NexmarkConfig {
            base_time: FIRST_EVENT_MS,
            first_event_id: seed as usize * EVENTS_PER_SEED,
            ..NexmarkConfig::default()
        };
        let kind = match self {
            Table::Person => EventType::Person,
            Table::Auction => EventType::Auction,
            Table::Bid => EventType::Bid,
        };
        let events = EventGenerator::new(config)
            .with_type_filter(kind)
            .with_offset(from);
        let mut rows = Rows::default();
        for event in events.take((to - from) as usize) {
            rows.push(event);
        }
        RecordBatch::try_new(self.columns(), rows.finish(self)).expect("its own columns")
    }
}

/// Columns under construction; which stands for what depends on the table.
#[derive(Default)]
struct Rows {
    integers: [Int64Builder; 5],
    texts: [StringViewBuilder; 6],
    times: [TimestampMicrosecondBuilder; 2],
}

impl Rows {
    fn push(&mut self, event: Event) {
        let (integers, texts, times) = match event {
            Event::Person(p) => (
                vec![p.id],
                vec![
                    p.name,
                    p.email_address,
                    p.credit_card,
                    p.city,
                    p.state,
                    p.extra,
                ],
                vec![p.date_time],
            ),
            Event::Auction(a) => (
                vec![a.id, a.initial_bid, a.reserve, a.seller, a.category],
                vec![a.item_name, a.description, a.extra],
                vec![a.date_time, a.expires],
            ),
            Event::Bid(b) => (
                vec![b.auction, b.bidder, b.price],
                vec![b.channel, b.url, b.extra],
                vec![b.date_time],
            ),
        };
        for (column, v) in self.integers.iter_mut().zip(integers) {
            column.append_value(v as i64);
        }
        for (column, v) in self.texts.iter_mut().zip(texts) {
            column.append_value(v);
        }
        for (column, ms) in self.times.iter_mut().zip(times) {
            column.append_value(ms as i64 * 1000);
        }
    }

    /// The columns in the order of [`Table::columns`].
    fn finish(mut self, table: Table) -> Vec<ArrayRef> {
        let mut integer = self.integers.iter_mut();
        let mut text = self.texts.iter_mut();
        let mut time = self.times.iter_mut();
        let has_more = "as many builders as columns of the type";
        let columns = table.columns();
        let mut extra = None;
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for field in columns.fields() {
            arrays.push(match SqlType::of(field) {
                SqlType::Int8 => Arc::new(integer.next().expect(has_more).finish()),
                SqlType::Timestamp => Arc::new(time.next().expect(has_more).finish()),
                _ => {
                    let array: ArrayRef = Arc::new(text.next().expect(has_more).finish());
                    extra = Some(array.clone());
                    array
                }
            });
        }
        debug_assert!(extra.is_some_and(|e| e.len() == arrays[0].len()));
        arrays
    }
}
