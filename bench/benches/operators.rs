//! What each operator costs, by itself: a query is compiled, its operators are stepped in one thread over empty state.
//!
//! * `bulk`: one epoch of 100,000 rows into fresh state, per row.
//! * `changed_row`: one row comes or goes per epoch, over states of several sizes: the cost must not follow the size.
//!
//! `cargo bench -p tidemill-bench --bench operators [-- FILTER]`

use std::cell::RefCell;
use std::fmt;

use divan::Bencher;
use divan::counter::ItemsCount;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_bench::stepped::Stepped;
use tidemill_bench::tables::{A, B, C, Tables, keys};
use tidemill_zset::{CollectionId, Delta};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: usize = 100_000;
const KEYS: i64 = 10_000;

/// A query under the name of the operator that it is about.
struct Query(&'static str, &'static str);

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const QUERIES: &[Query] = &[
    Query("filter", "SELECT k, v FROM a WHERE v % 2 = 0"),
    Query("project", "SELECT k + 1, v * 2, upper(s) FROM a"),
    Query("unnest", "SELECT k, unnest(l) FROM a"),
    Query(
        "json_fields",
        "SELECT j ->> 'kind', (j ->> 'amount')::bigint FROM a",
    ),
    // Two elements per row, as in the workload `bank`.
    Query(
        "json_elements",
        "SELECT (e ->> 'account_id')::bigint, (e ->> 'amount')::bigint, e ->> 'event_type' \
         FROM (SELECT jsonb_array_elements(events) AS e FROM c) x",
    ),
    Query(
        "json_elements_twice",
        "WITH e AS (SELECT (e ->> 'account_id')::bigint AS account, (e ->> 'amount')::bigint AS amount, e ->> 'event_type' AS kind \
         FROM (SELECT jsonb_array_elements(events) AS e FROM c) x) \
         SELECT account, amount FROM e WHERE kind = 'credit' UNION ALL SELECT account, amount FROM e WHERE kind = 'debit'",
    ),
    Query("union_all", "SELECT k FROM a UNION ALL SELECT k FROM b"),
    Query("distinct", "SELECT DISTINCT s FROM a"),
    Query("count_by_bigint", "SELECT k, count(*) FROM a GROUP BY k"),
    Query("count_by_text", "SELECT s, count(*) FROM a GROUP BY s"),
    Query(
        "sum_avg_bigint",
        "SELECT k, sum(v), avg(v) FROM a GROUP BY k",
    ),
    Query("sum_numeric", "SELECT k, sum(n) FROM a GROUP BY k"),
    Query("sum_double", "SELECT k, sum(f) FROM a GROUP BY k"),
    Query("min_max", "SELECT k, min(v), max(v) FROM a GROUP BY k"),
    Query(
        "count_distinct",
        "SELECT k, count(DISTINCT v) FROM a GROUP BY k",
    ),
    Query("inner_join", "SELECT a.k, v, w FROM a JOIN b ON a.k = b.k"),
    Query(
        "left_join",
        "SELECT a.k, v, w FROM a LEFT JOIN b ON a.k = b.k",
    ),
    Query(
        "full_join",
        "SELECT a.k, v, w FROM a FULL JOIN b ON a.k = b.k",
    ),
    Query(
        "semi_join",
        "SELECT k FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k)",
    ),
    Query(
        "anti_join",
        "SELECT k FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k)",
    ),
    Query(
        "join_with_filter",
        "SELECT a.k, w FROM a JOIN b ON a.k = b.k AND a.v < b.w",
    ),
    Query(
        "top_3_per_key",
        "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) AS r FROM a) AS x WHERE r <= 3",
    ),
    Query(
        "rank_3_per_key",
        "SELECT k, v, r FROM (SELECT k, v, rank() OVER (PARTITION BY k ORDER BY v) AS r FROM a) AS x WHERE r <= 3",
    ),
    Query(
        "first_10_with_ties",
        "SELECT k, v FROM a ORDER BY v FETCH FIRST 10 ROWS WITH TIES",
    ),
    Query(
        "array_agg",
        "SELECT k, array_agg(v ORDER BY v) FROM a GROUP BY k",
    ),
];

/// Rows of `a` and `c`, and one row of `b` per key.
fn inputs(rows: usize, distinct: i64) -> Vec<(CollectionId, Delta)> {
    let tables = Tables::default();
    let a = tables.a(keys(rows, distinct)).into_iter().map(|d| (A, d));
    let b = tables.b(0..distinct).into_iter().map(|d| (B, d));
    let c = tables.c(rows, distinct).into_iter().map(|d| (C, d));
    b.chain(a).chain(c).collect()
}

fn stepped(query: &Query) -> Stepped {
    Stepped::new(&Tables::default(), query.1).expect("the query can be maintained")
}

#[divan::bench(args = QUERIES, sample_count = 10, sample_size = 1)]
fn bulk(bencher: Bencher, query: &Query) {
    let inputs = inputs(ROWS, KEYS);
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| stepped(query))
        .bench_local_values(|mut query| {
            let outcome = query.epoch(&inputs);
            (query, outcome)
        });
}

/// A row of `a` goes in one epoch and comes back in the next.
fn changed_row(bencher: Bencher, query: &Query, rows: usize) {
    let inputs = inputs(rows, rows as i64 / 10);
    let of_a: Vec<&Delta> = inputs.iter().filter(|i| i.0 == A).map(|i| &i.1).collect();
    let state = RefCell::new(stepped(query));
    state.borrow_mut().epoch(&inputs);
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut away: Option<Delta> = None;
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        let delta = away.take().unwrap_or_else(|| {
            let piece = of_a[random.random_range(0..of_a.len())];
            let row = piece.slice(random.random_range(0..piece.len()), 1);
            away = Some(row.clone());
            row.negate()
        });
        state.borrow_mut().epoch(&[(A, delta)])
    });
}

#[divan::bench(args = QUERIES)]
fn changed_row_of_10k(bencher: Bencher, query: &Query) {
    changed_row(bencher, query, 10_000);
}

#[divan::bench(args = QUERIES)]
fn changed_row_of_1m(bencher: Bencher, query: &Query) {
    changed_row(bencher, query, 1_000_000);
}

fn main() {
    divan::main();
}
