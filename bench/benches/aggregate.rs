//! How long an aggregate of the shape of word count takes: `SELECT word, count(*) GROUP BY word` over
//! Zipf-distributed words, in epochs. Prints nanoseconds of CPU per input row for push and finish.
//! `sums`: instead `SELECT number, count(*), sum(number), avg(number) GROUP BY number`.
//! `demand`: with output rows.
//!
//!     cargo bench -p tidemill-bench --bench aggregate -- [sums] [demand]

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use rand::distr::Distribution;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_bench::stepped::operator;
use tidemill_dataflow::operator::Output;
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, Node, Op};
use tidemill_zset::{CollectionId, Delta};

const WORDS: usize = 100_000;
const BATCHES_PER_EPOCH: usize = 12;
const BATCH_ROWS: usize = 8_192;

/// Words by the inverse of Zipf's cumulative distribution.
struct Zipf(Vec<f64>);

impl Distribution<usize> for Zipf {
    fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> usize {
        let at = rng.random::<f64>() * self.0[self.0.len() - 1];
        self.0.partition_point(|c| *c < at)
    }
}

fn node(sums: bool) -> Node {
    let key = match sums {
        true => Field::new("number", DataType::Int64, true),
        false => Field::new("word", DataType::Utf8View, true),
    };
    let aggregate = |function, column, t| Aggregate {
        function,
        column,
        second: None,
        filter: None,
        output: Field::new(format!("{function:?}"), t, true),
    };
    let mut aggregates = vec![aggregate(
        AggregateFunction::CountStar,
        None,
        DataType::Int64,
    )];
    if sums {
        let decimal = |scale| DataType::Decimal128(38, scale);
        aggregates.push(aggregate(AggregateFunction::Sum, Some(0), decimal(0)));
        aggregates.push(aggregate(AggregateFunction::Avg, Some(0), decimal(16)));
    }
    let input = Node {
        op: Op::Input {
            collection: CollectionId(1),
            columns: vec![0],
        },
        inputs: vec![],
        schema: Arc::new(Schema::new(vec![key.clone()])),
        append_only: true,
    };
    let mut fields = vec![key];
    fields.extend(aggregates.iter().map(|a| a.output.clone()));
    Node {
        op: Op::Aggregate {
            keys: vec![0],
            aggregates,
        },
        inputs: vec![input],
        schema: Arc::new(Schema::new(fields)),
        append_only: false,
    }
}

/// CPU time of this thread so far; on a busy machine elapsed time says little.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    let first = stat.split(' ').next().unwrap_or_default();
    Duration::from_nanos(first.parse().expect("nanoseconds on a CPU"))
}

fn main() {
    let epochs = if tidemill_bench::benching() { 100 } else { 4 };
    let demand = std::env::args().any(|a| a == "demand");
    let sums = std::env::args().any(|a| a == "sums");
    let node = node(sums);
    let mut operator = operator(&node, demand).expect("an aggregate");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut total = 0.0;
    let zipf = Zipf(
        (1..=WORDS)
            .map(|r| {
                total += 1.0 / r as f64;
                total
            })
            .collect(),
    );
    let batches: Vec<RecordBatch> = (0..epochs * BATCHES_PER_EPOCH / 4)
        .map(|_| {
            let ranks = (0..BATCH_ROWS).map(|_| zipf.sample(&mut rng));
            let column: ArrayRef = match sums {
                true => Arc::new(Int64Array::from_iter_values(ranks.map(|r| r as i64))),
                false => {
                    let words = ranks.map(|r| Some(format!("word{r}")));
                    Arc::new(StringViewArray::from_iter(words))
                }
            };
            RecordBatch::try_new(node.inputs[0].schema.clone(), vec![column]).expect("one column")
        })
        .collect();
    let (mut push, mut finish) = (Duration::ZERO, Duration::ZERO);
    let (mut rows, mut changed, mut out_rows) = (0, 0, 0);
    let mut all = batches.iter().cycle();
    for epoch in 1..=epochs {
        let mut out = Output::default();
        let start = cpu_time();
        for batch in all.by_ref().take(BATCHES_PER_EPOCH) {
            rows += batch.num_rows();
            operator.push(0, Delta::insert(batch.clone()), &mut out);
        }
        push += cpu_time() - start;
        let start = cpu_time();
        operator.finish(epoch as i64, &mut out);
        finish += cpu_time() - start;
        changed += out.changes.iter().map(|c| c.delta.len()).sum::<usize>();
        out_rows += out.rows.iter().map(Delta::len).sum::<usize>();
    }
    let ns = |d: Duration, n: usize| d.as_nanos() as f64 / n as f64;
    println!("rows {rows}, changed groups {changed}, output rows {out_rows}");
    println!("push {:.1} ns/row", ns(push, rows));
    println!("finish {:.1} ns/changed group", ns(finish, changed));
    println!("together {:.1} ns/row", ns(push + finish, rows));
    println!("state {} bytes", operator.state_bytes());
}
