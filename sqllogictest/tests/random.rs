//! Random queries answered alike by Tidemill, as SELECT and as view, and by a PostgreSQL 15, where one is installed.
//!
//! Every run takes the same queries; those that fail on some rows, and views under changes, run on demand.
//! `TIDEMILL_SEED=n` chooses other queries and demands all, `TIDEMILL_ROUNDS` says how many, and `TIDEMILL_DEPTH` how deep they nest.

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use tidemill_sqllogictest::postgres::Postgres;
use tidemill_sqllogictest::random::compare::{
    Answer, Differences, STATEMENT_MAX, alike, answer, run as run_statement, side_by_side,
};
use tidemill_sqllogictest::random::data::{self, Contents};
use tidemill_sqllogictest::random::{self, Table, Taste};
use tidemill_tests::seed::rounds;
use tidemill_tests::{Multiset, Options, Scratch, Seed, Server, Sql, Subscription, run};

/// Queries of a run without `TIDEMILL_ROUNDS`.
const QUERIES: usize = 100;
/// Views that are kept up to date together, and transactions that change what is below them.
const VIEWS: usize = 12;
const TRANSACTIONS: usize = 25;
/// Every so many transactions the server is killed and started again.
const RESTART_EVERY: usize = 9;

/// Runs what takes long and looks for the unknown, if the environment asks for it.
fn on_demand<F>(body: impl FnOnce(Scratch) -> F)
where
    F: Future<Output = Result<()>>,
{
    match std::env::var_os("TIDEMILL_SEED") {
        Some(_) => run(body),
        None => eprintln!("skipped: on demand, with TIDEMILL_SEED=n"),
    }
}

/// The seed of every run, or another if the environment says so.
fn seed(what: &str) -> Seed {
    match std::env::var_os("TIDEMILL_SEED") {
        Some(_) => Seed::new(what),
        None => Seed(7),
    }
}

fn taste(failing: bool) -> Taste {
    let depth = std::env::var("TIDEMILL_DEPTH")
        .ok()
        .and_then(|d| d.parse().ok());
    Taste {
        failing,
        depth: depth.unwrap_or(2),
    }
}

/// Both servers, with the same tables.
struct Pair {
    server: Server,
    sql: Sql,
    reference: Option<(Postgres, Sql)>,
}

impl Pair {
    async fn start(scratch: &Scratch, workers: usize) -> Result<Pair> {
        let server = Server::start(&scratch.data(), &Options::workers(workers))?;
        let sql = server.connect().await?;
        let reference = match Postgres::start()? {
            None => None,
            Some(postgres) => {
                let session = postgres.connect().await?;
                let limit = STATEMENT_MAX.as_millis();
                session
                    .run(&format!("SET statement_timeout = {limit}"))
                    .await?;
                session.run("SET client_min_messages = error").await?;
                Some((postgres, session))
            }
        };
        let pair = Pair {
            server,
            sql,
            reference,
        };
        for statement in data::create() {
            pair.change(&statement).await?;
        }
        Ok(pair)
    }

    async fn change(&self, statement: &str) -> Result<()> {
        if let Some((_, reference)) = &self.reference {
            reference.run(statement).await.context("PostgreSQL")?;
        }
        self.sql.run(statement).await
    }

    async fn transaction(
        &self,
        rng: &mut ChaCha8Rng,
        contents: &mut Contents,
    ) -> Result<Vec<String>> {
        let mut statements = data::transaction(rng, contents);
        if statements.len() > 1 {
            statements.insert(0, "BEGIN".into());
            statements.push("COMMIT".into());
        }
        for statement in &statements {
            self.change(statement).await?;
        }
        for (rows, table) in contents.rows.iter_mut().zip(data::tables()) {
            *rows = self
                .sql
                .number(&format!("SELECT count(*) FROM {}", table.name))
                .await? as usize;
        }
        Ok(statements)
    }

    /// What the query should give, from PostgreSQL or, where there is none, `otherwise`.
    async fn wanted(&self, query: &str, otherwise: &Answer) -> Option<Answer> {
        let Some((_, reference)) = &self.reference else {
            return Some(otherwise.clone());
        };
        let wanted = answer(reference, query).await;
        match &wanted {
            // Not PostgreSQL's SQL (FULL JOIN needs an equality, types it can't find), or too slow for it.
            Err(f) if ["0A000", "57014"].contains(&f.sqlstate.as_str()) => None,
            Err(f) if f.sqlstate.starts_with("42") => None,
            _ => Some(wanted),
        }
    }
}

async fn queries(scratch: Scratch, failing: bool) -> Result<()> {
    let mut rng = seed("random queries").rng(u64::from(failing));
    let pair = Pair::start(&scratch, 1).await?;
    let mut contents = Contents::default();
    let tables = data::tables();
    let mut differences = Differences::default();
    for n in 0..rounds(QUERIES) {
        if n % 10 == 0 {
            pair.transaction(&mut rng, &mut contents).await?;
            pair.transaction(&mut rng, &mut contents).await?;
        }
        let (query, _) = random::query(&mut rng, &tables, taste(failing));
        let got = answer(&pair.sql, &query).await;
        let Some(want) = pair.wanted(&query, &got).await else {
            differences.count("not PostgreSQL");
            continue;
        };
        // Which of several rows fails first, and whether one fails that isn't needed, is open.
        let comparable = !failing || want.is_ok() && got.is_ok();
        differences.count(if want.is_ok() { "rows" } else { "errors" });
        if comparable && !alike(&want, &got) {
            differences.add(
                &query,
                side_by_side(("PostgreSQL", &want), ("SELECT", &got)),
            );
            continue;
        }
        if want.is_err() && !failing {
            differences.add(
                &query,
                side_by_side(("PostgreSQL", &want), ("SELECT", &got)),
            );
            continue;
        }
        match run_statement(&pair.sql, &format!("CREATE MATERIALIZED VIEW v AS {query}")).await {
            Err(f) => differences.add(&query, format!("  no view: {f}")),
            Ok(()) => {
                let view = answer(&pair.sql, "SELECT * FROM v").await;
                if !alike(&got, &view) {
                    differences.add(&query, side_by_side(("SELECT", &got), ("view", &view)));
                }
                run_statement(&pair.sql, "DROP MATERIALIZED VIEW v").await?;
            }
        }
    }
    differences.check()
}

/// A view under test.
struct View {
    name: String,
    query: String,
    /// PostgreSQL has its rows; not where computing them, or those of a view before it, took too long.
    judged: bool,
    /// A stream of its changes, now and then.
    changes: Option<Subscription>,
    /// A difference was found: one is enough.
    done: bool,
}

async fn views(scratch: Scratch, failing: bool, workers: usize) -> Result<()> {
    let mut rng = seed("random views").rng(10 + workers as u64 + u64::from(failing));
    let mut pair = Pair::start(&scratch, workers).await?;
    let mut contents = Contents::default();
    let mut tables = data::tables();
    let mut views: Vec<View> = vec![];
    let mut differences = Differences::default();
    // PostgreSQL stores the rows too, as views upon views would be computed anew for each; but what fails can't be stored.
    let kind = match failing {
        true => "VIEW",
        false => "MATERIALIZED VIEW",
    };
    for n in 0..rounds(TRANSACTIONS) {
        while views.len() < VIEWS.min(VIEWS / 2 + n / 2) {
            let (query, types) = random::query(&mut rng, &tables, taste(failing));
            let name = format!("v{}", views.len());
            if let Some((_, reference)) = &pair.reference
                && let Err(f) =
                    run_statement(reference, &format!("CREATE {kind} {name} AS {query}")).await
            {
                differences.count("not PostgreSQL");
                if f.sqlstate != "0A000" {
                    eprintln!("{f}: {query}");
                }
                continue;
            }
            if let Err(f) = run_statement(
                &pair.sql,
                &format!("CREATE MATERIALIZED VIEW {name} AS {query}"),
            )
            .await
            {
                differences.add(&query, format!("  no view: {f}"));
                if let Some((_, reference)) = &pair.reference {
                    run_statement(reference, &format!("DROP {kind} {name}")).await?;
                }
                continue;
            }
            let columns = types
                .iter()
                .enumerate()
                .map(|(i, t)| (format!("c{}", i + 1), *t))
                .collect();
            tables.push(Table {
                name: name.clone(),
                columns,
            });
            views.push(View {
                name,
                query,
                judged: true,
                changes: None,
                done: false,
            });
        }
        let statements = pair.transaction(&mut rng, &mut contents).await?;
        if n % RESTART_EVERY == RESTART_EVERY - 1 {
            let other = 1 + (n / RESTART_EVERY + workers) % 2;
            pair.server.restart(&Options::workers(other))?;
            pair.sql = pair.server.connect().await?;
            views.iter_mut().for_each(|v| v.changes = None);
        }
        if let Some((_, reference)) = pair.reference.as_ref().filter(|_| !failing) {
            for i in 0..views.len() {
                let refresh = format!("REFRESH MATERIALIZED VIEW {}", views[i].name);
                if views[i].judged && run_statement(reference, &refresh).await.is_err() {
                    differences.count("too slow for PostgreSQL");
                    views[i..].iter_mut().for_each(|v| v.judged = false);
                }
            }
        }
        for (i, view) in views.iter_mut().enumerate().filter(|(_, v)| !v.done) {
            let got = answer(&pair.sql, &format!("SELECT * FROM {}", view.name)).await;
            let select = answer(&pair.sql, &view.query).await;
            let after = || format!("  epoch {n}, {}, after {statements:?}", view.name);
            if !alike(&got, &select) {
                differences.add(
                    &view.query,
                    side_by_side(("SELECT", &select), ("view", &got)) + "\n" + &after(),
                );
                view.done = true;
                continue;
            }
            let stored = format!("SELECT * FROM {}", view.name);
            let of_reference = if failing { &view.query } else { &stored };
            if view.judged
                && let Some(want) = pair.wanted(of_reference, &got).await
                && (!failing || want.is_ok() && got.is_ok())
                && !alike(&want, &got)
            {
                differences.add(
                    &view.query,
                    side_by_side(("PostgreSQL", &want), ("view", &got)) + "\n" + &after(),
                );
                view.done = true;
                continue;
            }
            differences.count("compared");
            if failing || i % 3 != 0 {
                continue;
            }
            let changes = match &mut view.changes {
                Some(changes) => changes,
                none => none.insert(Subscription::open(&pair.sql, &view.name).await?),
            };
            let rows = pair
                .sql
                .lines(&format!("SELECT * FROM {}", view.name))
                .await?;
            let want = Multiset::of_lines(rows);
            if changes.sum != want {
                changes.until(&view.query, |s| s.sum == want).await?;
            }
            well_formed(changes).with_context(|| view.query.clone())?;
        }
    }
    differences.check()
}

/// Within one time each row comes once, and what goes comes before what is new; nothing is ever there less than once.
fn well_formed(stream: &mut Subscription) -> Result<()> {
    let changes = std::mem::take(&mut stream.changes);
    for of_one_time in changes.chunk_by(|a, b| a.time == b.time) {
        let mut rows: Vec<_> = of_one_time.iter().map(|c| &c.row).collect();
        rows.sort();
        rows.dedup();
        ensure!(
            rows.len() == of_one_time.len(),
            "a row twice in {of_one_time:?}"
        );
        ensure!(
            of_one_time.is_sorted_by_key(|c| c.diff > 0),
            "not retractions first: {of_one_time:?}"
        );
    }
    ensure!(
        stream.sum.negative().is_empty(),
        "{:?}",
        stream.sum.negative()
    );
    Ok(())
}

#[test]
fn random_selects() {
    run(|scratch| queries(scratch, false));
}

#[test]
fn random_selects_that_fail() {
    on_demand(|scratch| queries(scratch, true));
}

#[test]
fn random_views_under_change() {
    on_demand(|scratch| views(scratch, false, 1));
}

#[test]
fn random_views_under_change_by_two_workers() {
    on_demand(|scratch| views(scratch, false, 2));
}

#[test]
fn random_views_that_fail_and_heal() {
    on_demand(|scratch| views(scratch, true, 1));
}
