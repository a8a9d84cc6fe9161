//! Measures the join operator alone, CPU time of one thread: orders ⋈ customers in epochs of 100k rows, and the cost of one changed
//! row as the state grows. Run with `cargo bench -p tidemill-bench --bench join`;
//! with a number, so many rounds of the first measurement only, for a profiler.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_bench::stepped::operator;
use tidemill_dataflow::operator::{Operator, Output};
use tidemill_dataflow::plan::{JoinKind, Node, Op};
use tidemill_zset::{CollectionId, Delta};

const CUSTOMERS: i64 = 100_000;
const EPOCH_ROWS: usize = 100_000;
const BATCH_ROWS: usize = 8192;

fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    let field = |(name, t): &(&str, DataType)| Field::new(*name, t.clone(), true);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

fn join(kind: JoinKind, left: SchemaRef, right: SchemaRef) -> Box<dyn Operator> {
    join_on(kind, vec![(0, 0)], None, left, right)
}

fn join_on(
    kind: JoinKind,
    on: Vec<(usize, usize)>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    left: SchemaRef,
    right: SchemaRef,
) -> Box<dyn Operator> {
    let input = |schema: SchemaRef| Node {
        op: Op::Input {
            collection: CollectionId(0),
            columns: (0..schema.fields().len()).collect(),
        },
        inputs: vec![],
        schema,
        append_only: true,
    };
    let fields = match kind {
        JoinKind::Semi | JoinKind::Anti => left.fields().to_vec(),
        _ => [left.fields().to_vec(), right.fields().to_vec()].concat(),
    };
    let node = Node {
        op: Op::Join {
            kind,
            on,
            null_equals_null: false,
            filter,
        },
        inputs: vec![input(left), input(right)],
        schema: Arc::new(Schema::new(fields)),
        append_only: true,
    };
    operator(&node, true).expect("joins have operators")
}

/// CPU time of this thread in nanoseconds: other processes on the machine don't count.
fn cpu_ns() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split_whitespace().next().and_then(|n| n.parse().ok());
    first.unwrap_or(0.0)
}

/// Pushes batches in epochs and returns nanoseconds per row, and rows out.
fn feed(
    join: &mut dyn Operator,
    port: usize,
    batches: &[RecordBatch],
    epoch: &mut i64,
) -> (f64, usize) {
    let (mut rows, mut rows_out, mut in_epoch) = (0, 0, 0);
    let start = cpu_ns();
    let mut out = Output::default();
    for batch in batches {
        join.push(port, Delta::insert(batch.clone()), &mut out);
        rows += batch.num_rows();
        in_epoch += batch.num_rows();
        if in_epoch >= EPOCH_ROWS {
            *epoch += 1;
            join.finish(*epoch, &mut out);
            rows_out += out.rows.iter().map(Delta::len).sum::<usize>();
            out = Output::default();
            in_epoch = 0;
        }
    }
    *epoch += 1;
    join.finish(*epoch, &mut out);
    rows_out += out.rows.iter().map(Delta::len).sum::<usize>();
    ((cpu_ns() - start) / rows as f64, rows_out)
}

fn batches(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Vec<RecordBatch> {
    let whole = RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema");
    let starts = (0..whole.num_rows()).step_by(BATCH_ROWS);
    starts
        .map(|s| {
            let piece = whole.slice(s, BATCH_ROWS.min(whole.num_rows() - s));
            // A copy, as a reader would make it.
            arrow::compute::concat_batches(schema, [&piece]).expect("one batch")
        })
        .collect()
}

fn orders_and_customers(kind: JoinKind, text_key: bool) {
    let orders_count = if tidemill_bench::benching() {
        2_000_000
    } else {
        20_000
    };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let key_type = match text_key {
        true => DataType::Utf8View,
        false => DataType::Int64,
    };
    let key = |ids: Vec<i64>| -> ArrayRef {
        match text_key {
            true => Arc::new(StringViewArray::from_iter_values(
                ids.iter().map(|i| format!("customer number {i}")),
            )),
            false => Arc::new(Int64Array::from(ids)),
        }
    };
    let customers = schema(&[("id", key_type.clone()), ("region", DataType::Utf8View)]);
    let regions = (0..CUSTOMERS).map(|i| format!("region-{}", i % 50));
    let customer_batches = batches(
        &customers,
        vec![
            key((0..CUSTOMERS).collect()),
            Arc::new(StringViewArray::from_iter_values(regions)),
        ],
    );
    let orders = schema(&[("customer_id", key_type), ("amount", DataType::Int32)]);
    // About Zipf(0.9): the inverse of its continuous distribution function.
    let ids = (0..orders_count).map(|_| {
        let u: f64 = rng.random();
        (((u * ((CUSTOMERS as f64).powf(0.1) - 1.0) + 1.0).powf(10.0)) as i64 - 1)
            .clamp(0, CUSTOMERS - 1)
            * 7919
            % CUSTOMERS
    });
    let order_batches = batches(
        &orders,
        vec![
            key(ids.collect()),
            Arc::new(Int32Array::from_iter_values(
                (0..orders_count).map(|i| i % 1000),
            )),
        ],
    );
    let mut operator = join(kind, orders, customers);
    let mut epoch = 0;
    let (customers_ns, _) = feed(operator.as_mut(), 1, &customer_batches, &mut epoch);
    let (orders_ns, rows) = feed(operator.as_mut(), 0, &order_batches, &mut epoch);
    println!(
        "{kind:?}, {} key: {customers_ns:.0} ns per customer, {orders_ns:.0} ns per order, {rows} rows, {} MB",
        if text_key { "text" } else { "bigint" },
        operator.state_bytes() / 1_000_000
    );
}

/// One changed row per epoch, with `rows` rows on each side.
fn one_row(rows: i64) {
    let schema = schema(&[("id", DataType::Int64), ("v", DataType::Int64)]);
    let side = |from: i64, n: i64| {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + n));
        batches(&schema, vec![ids.clone(), ids])
    };
    let mut operator = join(JoinKind::Left, schema.clone(), schema.clone());
    let mut epoch = 0;
    feed(operator.as_mut(), 0, &side(0, rows), &mut epoch);
    let (load_ns, _) = feed(operator.as_mut(), 1, &side(0, rows), &mut epoch);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    const CHANGES: u32 = 20_000;
    let start = cpu_ns();
    let mut slowest = 0;
    for _ in 0..CHANGES {
        let started = Instant::now();
        let row = side(rng.random_range(0..rows), 1).remove(0);
        let mut out = Output::default();
        operator.push(0, Delta::insert(row.clone()).negate(), &mut out);
        operator.push(0, Delta::insert(row), &mut out);
        epoch += 1;
        operator.finish(epoch, &mut out);
        slowest = slowest.max(started.elapsed().as_micros());
    }
    println!(
        "{rows} rows per side: {load_ns:.0} ns per row to load the second, {:.1} us per epoch of one updated row, slowest {slowest} us",
        (cpu_ns() - start) / 1_000.0 / f64::from(CHANGES)
    );
}

/// Every row against every row under a condition that few pairs pass.
fn no_key(rows: i64) {
    let schema = schema(&[("id", DataType::Int64), ("v", DataType::Int64)]);
    let side = || {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        batches(&schema, vec![ids.clone(), ids])
    };
    let column = |i: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new("v", i)) };
    let condition = BinaryExpr::new(column(1), Binary::Lt, column(3));
    let end: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::Int64(Some(3))));
    let few = BinaryExpr::new(column(3), Binary::Lt, end);
    let filter = BinaryExpr::new(Arc::new(condition), Binary::And, Arc::new(few));
    let filter: Arc<dyn PhysicalExpr> = Arc::new(filter);
    let mut operator = join_on(
        JoinKind::Left,
        vec![],
        Some(filter),
        schema.clone(),
        schema.clone(),
    );
    let mut epoch = 0;
    feed(operator.as_mut(), 0, &side(), &mut epoch);
    let (ns, _) = feed(operator.as_mut(), 1, &side(), &mut epoch);
    println!(
        "no key, {rows} x {rows} rows: {:.2} ns per pair",
        ns / rows as f64
    );
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok());
    if let Some(rounds) = rounds {
        for _ in 0..rounds {
            orders_and_customers(JoinKind::Inner, false);
        }
        return;
    }
    orders_and_customers(JoinKind::Inner, false);
    orders_and_customers(JoinKind::Inner, true);
    for kind in [JoinKind::Left, JoinKind::Full, JoinKind::Semi] {
        orders_and_customers(kind, false);
    }
    let sizes: &[i64] = match tidemill_bench::benching() {
        true => &[10_000, 100_000, 1_000_000, 10_000_000],
        false => &[1_000],
    };
    no_key(sizes[0]);
    for rows in sizes {
        one_row(*rows);
    }
}
