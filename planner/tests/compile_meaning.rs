//! A compiled plan means what its query means: each query of the list, on random tables, gives the same rows
//! as a batch plan and as the plain meaning of its dataflow's nodes.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::data::{self, Tables};
use support::queries::QUERIES;
use support::reference;
use tidemill_planner::catalog::CatalogView;
use tidemill_planner::compile::{compile, order};
use tidemill_zset::CollectionId;

#[tokio::test]
async fn plans_mean_what_queries_mean() {
    let seed = std::env::var("TIDEMILL_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(7);
    println!("TIDEMILL_SEED={seed}");
    let only = std::env::var("TIDEMILL_QUERY").ok();
    let tables = Tables::new();
    let mut failures = vec![];
    for round in 0..4u64 {
        let mut random = ChaCha8Rng::seed_from_u64(seed + round);
        let contents: BTreeMap<CollectionId, RecordBatch> = tables
            .relations
            .iter()
            .map(|r| {
                let rows: Vec<_> = (0..random.random_range(0..=20 * round))
                    .map(|_| data::row(&r.columns, &mut random))
                    .collect();
                (r.id, data::batch(&r.columns, &rows))
            })
            .collect();
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().sql_parser.dialect = datafusion_common::config::Dialect::PostgreSQL;
        let context = SessionContext::new_with_config(config);
        for r in &tables.relations {
            let table =
                MemTable::try_new(r.columns.clone(), vec![vec![contents[&r.id].clone()]]).unwrap();
            context
                .register_table(r.name.as_str(), Arc::new(table))
                .unwrap();
        }
        for (name, sql) in QUERIES
            .iter()
            .filter(|(n, _)| only.as_ref().is_none_or(|o| o == n))
        {
            let state = context.state();
            let plan = match state.create_logical_plan(sql).await {
                Ok(plan) => plan,
                Err(e) => {
                    failures.push(format!("{name}: not planned: {e}"));
                    continue;
                }
            };
            let plan = state
                .analyzer()
                .execute_and_check(plan, state.config_options(), |_, _| {})
                .unwrap();
            let columns = Arc::new(plan.schema().as_arrow().clone());
            let wanted = match context
                .execute_logical_plan(order::canonical(plan.clone()).unwrap())
                .await
            {
                Ok(frame) => frame.collect().await,
                Err(e) => Err(e),
            };
            let wanted = match wanted {
                Ok(batches) => data::texts(&batches),
                Err(e) => {
                    failures.push(format!("{name}: not executed: {e}"));
                    continue;
                }
            };
            let view = match compile(&plan, &columns, &|scan| {
                tables.resolve(None, scan.table_name.table())
            }) {
                Ok(view) => view,
                Err(e) => {
                    failures.push(format!("{name}: not compiled: {e:?}"));
                    continue;
                }
            };
            if only.is_some() && round == 0 {
                let c = order::canonical(plan.clone()).unwrap();
                println!("{}", c.display_indent());
                let p = state.create_physical_plan(&c).await.unwrap();
                println!(
                    "{}",
                    datafusion::physical_plan::displayable(p.as_ref()).indent(false)
                );
                println!("{}\n{}", view.logical.display_indent(), view.plan.explain());
            }
            let have = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                data::texts(&[reference::evaluate(&view.plan.root, &|id| {
                    contents[&id].clone()
                })])
            }));
            match have {
                Err(_) => failures.push(format!("{name}: panicked\n{}", view.plan.explain())),
                Ok(have) if have != wanted => failures.push(format!(
                    "{name}: {} rows, wanted {}\nhave   {:?}\nwanted {:?}\n{}",
                    have.len(),
                    wanted.len(),
                    have.iter()
                        .filter(|r| !wanted.contains(r))
                        .take(3)
                        .collect::<Vec<_>>(),
                    wanted
                        .iter()
                        .filter(|r| !have.contains(r))
                        .take(3)
                        .collect::<Vec<_>>(),
                    view.plan.explain()
                )),
                Ok(_) => {}
            }
        }
        if !failures.is_empty() {
            break;
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n---\n")
    );
}
