//! What a simple statement takes before the first row of it is read.
//!
//! * `bound`: from its text to a typed plan.
//! * `direct`: from that to steps that find rows by an index, with the rules that can change such a plan.
//! * `by_all_rules`: what DataFusion's rules alone take for the same plan, all of them.
//!
//! `cargo bench -p tidemill-bench --bench statements`

use std::fmt;

use divan::Bencher;
use tidemill_bench::tables::Tables;
use tidemill_planner::ast::{self, Statement};
use tidemill_planner::direct::Direct;
use tidemill_planner::query::{Planner, QueryPlan, SessionContextInfo};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A statement under the name of what it is.
struct Simple(&'static str, &'static str);

impl fmt::Display for Simple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const STATEMENTS: &[Simple] = &[
    Simple("by_key", "SELECT v FROM a WHERE k = 5"),
    Simple(
        "first_rows",
        "SELECT k, s, v FROM a WHERE k > 5 AND s LIKE 'w%' ORDER BY k LIMIT 10",
    ),
    // As an UPDATE computes them: all old columns and all new ones.
    Simple(
        "new_values",
        "SELECT k, s, v, n, f, l, j, k, upper(s), v + 1, n * 2, f, l, j FROM a WHERE k = 5",
    ),
];

fn plan(of: &Simple) -> QueryPlan {
    let parsed = ast::parse(of.1).expect("it is SQL").pop();
    let Some(Statement::Query { query, .. }) = parsed.map(|p| p.statement) else {
        panic!("a query")
    };
    let session = SessionContextInfo::default();
    let plan = Planner::new().plan_query(&Tables::default(), &session, &query, &[]);
    plan.expect("the tables are there")
}

#[divan::bench(args = STATEMENTS)]
fn bound(of: &Simple) -> QueryPlan {
    plan(of)
}

#[divan::bench(args = STATEMENTS)]
fn direct(bencher: Bencher, of: &Simple) {
    let plan = plan(of);
    bencher.bench_local(|| Direct::of(&plan).expect("steps over one scan"));
}

#[divan::bench(args = STATEMENTS)]
fn by_all_rules(bencher: Bencher, of: &Simple) {
    let plan = plan(of);
    bencher.bench_local(|| plan.optimised().expect("a plan"));
}

fn main() {
    divan::main();
}
