//! The row codec, key hashes and consolidation, per row of a batch of 8,192.
//!
//! `cargo bench -p tidemill-bench --bench codec`

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tidemill_bench::tables::{A, Tables, keys};
use tidemill_zset::codec::{decode, encode};
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::delta::schema_of;
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{Delta, Diffs};

const ROWS: usize = 8_192;

/// Column numbers of table `a`.
const COLUMNS: &[&str] = &["k", "s", "n", "f", "l", "j"];

fn rows() -> RecordBatch {
    let mut deltas = Tables::default().a(keys(ROWS, 1_000));
    deltas.remove(0).rows
}

fn one(column: &str) -> RecordBatch {
    let rows = rows();
    let index = rows.schema().index_of(column).expect("a column of a");
    rows.project(&[index]).expect("it is there")
}

#[divan::bench(args = COLUMNS)]
fn encode_column(bencher: Bencher, column: &str) {
    let batch = one(column);
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        out.clear();
        encode(&batch, &mut out);
        out.len()
    });
}

#[divan::bench(args = COLUMNS)]
fn decode_column(bencher: Bencher, column: &str) {
    let batch = one(column);
    let mut bytes = Vec::new();
    encode(&batch, &mut bytes);
    let size = BytesCount::new(bytes.len());
    bencher
        .counter(ItemsCount::new(ROWS))
        .counter(size)
        .bench(|| decode(&batch.schema(), &bytes).expect("as it was encoded"));
}

#[divan::bench(args = COLUMNS)]
fn hash_column(bencher: Bencher, column: &str) {
    let columns: Vec<ArrayRef> = one(column).columns().to_vec();
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench(|| hash_columns(&columns, ROWS));
}

/// Half of the rows are retracted again.
#[divan::bench(args = COLUMNS)]
fn consolidate_column(bencher: Bencher, column: &str) {
    let batch = one(column);
    let diffs: Vec<i64> = (0..ROWS as i64 / 2).map(|_| -1).collect();
    let deltas = [
        Delta::insert(batch.clone()),
        Delta::new(batch.slice(0, ROWS / 2), Diffs::from(diffs)),
    ];
    let schema = schema_of(
        batch
            .schema()
            .fields()
            .iter()
            .map(|f| f.as_ref().clone())
            .collect(),
    );
    bencher
        .counter(ItemsCount::new(ROWS + ROWS / 2))
        .bench(|| consolidate(&schema, &deltas));
}

/// All columns of a batch at once, as a block of a run holds them.
#[divan::bench]
fn encode_and_decode_table() -> usize {
    let batch = rows();
    let mut bytes = Vec::new();
    encode(&batch, &mut bytes);
    let size = Buffer::from(bytes.clone()).len();
    decode(&Tables::default().schema(A), &bytes).expect("as it was encoded");
    size
}

fn main() {
    divan::main();
}
