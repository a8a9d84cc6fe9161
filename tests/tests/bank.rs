//! Transfers as JSON messages of two events each: at every time, all balances sum to zero.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::Rng;
use tidemill_tests::files::append;
use tidemill_tests::wait::pace;
use tidemill_tests::{Options, Scratch, Seed, Server, Subscription, eventually, run};

const MESSAGES: usize = 4_000;
const ACCOUNTS: i64 = 50;
const WRITES: usize = 80;

/// Declares the pipeline: unnest, two grouped sums, a full join.
async fn declare(server: &Server, input: &Path) -> Result<()> {
    let sql = server.connect().await?;
    let path = input.display();
    sql.run(&format!(
        "CREATE SOURCE transfers (events jsonb) WITH (connector = 'files', path = '{path}', format = 'jsonl', \
         commit_interval = '10ms', persistent_id = 'transfers')"
    ))
    .await?;
    sql.run(
        "CREATE VIEW events AS SELECT (e ->> 'account_id')::bigint AS account, (e ->> 'amount')::bigint AS amount, \
         e ->> 'event_type' AS kind FROM (SELECT jsonb_array_elements(events) AS e FROM transfers) AS x",
    )
    .await?;
    sql.run("CREATE MATERIALIZED VIEW credits AS SELECT account, sum(amount) AS s FROM events WHERE kind = 'credit' GROUP BY account").await?;
    sql.run("CREATE MATERIALIZED VIEW debits AS SELECT account, sum(amount) AS s FROM events WHERE kind = 'debit' GROUP BY account").await?;
    sql.run(
        "CREATE MATERIALIZED VIEW balances AS SELECT coalesce(c.account, d.account) AS account, \
         coalesce(c.s, 0) + coalesce(d.s, 0) AS balance FROM credits AS c FULL JOIN debits AS d ON c.account = d.account",
    )
    .await?;
    sql.run("CREATE MATERIALIZED VIEW total AS SELECT sum(balance) AS t FROM balances")
        .await
}

/// At every time that the subscription has seen, the balances sum to zero.
fn balanced(subscription: &Subscription) -> Result<()> {
    for (time, state) in subscription.states() {
        let mut sum = 0;
        for (row, n) in &state.0 {
            ensure!(*n == 1, "{row} has multiplicity {n} at {time}");
            sum += row.split('|').nth(1).unwrap_or("").parse::<i64>()?;
        }
        ensure!(sum == 0, "the balances sum to {sum} at {time}");
    }
    Ok(())
}

async fn transfers(scratch: Scratch, workers: usize, kill: bool) -> Result<()> {
    let mut rng = Seed::new("bank").rng(0);
    let input = scratch.dir("input");
    let mut server = Server::start(&scratch.data(), &Options::workers(workers))?;
    declare(&server, &input).await?;
    let sql = server.connect().await?;
    let mut subscription = Subscription::open(&sql, "balances").await?;

    let mut truth: BTreeMap<i64, i64> = BTreeMap::new();
    let start = Instant::now();
    for write in 0..WRITES {
        let mut text = String::new();
        for _ in 0..MESSAGES / WRITES {
            let (from, to, amount) = (
                rng.random_range(0..ACCOUNTS),
                rng.random_range(0..ACCOUNTS),
                rng.random_range(1..1000),
            );
            text.push_str(&format!(
                "{{\"events\":[{{\"account_id\":{from},\"amount\":-{amount},\"event_type\":\"debit\"}},\
                 {{\"account_id\":{to},\"amount\":{amount},\"event_type\":\"credit\"}}]}}\n"
            ));
            *truth.entry(from).or_default() -= amount;
            *truth.entry(to).or_default() += amount;
        }
        pace(start, write as u32, Duration::from_millis(20)).await;
        append(
            &input.join(format!("part-{}.jsonl", write % 4)),
            text.as_bytes(),
        )?;
        if kill && write == WRITES / 2 {
            // What came before the kill stays valid: the stream up to its last progress time is resumed.
            server.restart(&Options::workers(workers))?;
        }
    }
    let sql = server.connect().await?;
    let want: Vec<String> = truth
        .iter()
        .map(|(account, balance)| format!("{account}|{balance}"))
        .collect();
    let want: Vec<&str> = want.iter().map(String::as_str).collect();
    if kill {
        while let Ok(Some(_)) = subscription.next().await {}
        balanced(&subscription)?;
        let mut rest = match subscription.frontier {
            i64::MIN => Subscription::open(&sql, "balances").await?,
            p => {
                let mut rest = Subscription::resume(&sql, "balances", p).await?;
                let known = subscription.changes.iter().filter(|c| c.time < p);
                known.for_each(|c| rest.sum.add(&c.row, c.diff));
                rest.changes = subscription
                    .changes
                    .iter()
                    .filter(|c| c.time < p)
                    .cloned()
                    .collect();
                rest
            }
        };
        rest.until_rows(&want).await?;
        balanced(&rest)?;
    } else {
        subscription.until_rows(&want).await?;
        balanced(&subscription)?;
        ensure!(
            subscription.states().len() > 3,
            "the input came in more than one epoch"
        );
    }
    ensure!(sql.value("SELECT t FROM total").await? == "0");
    let lines = eventually("the view equals the truth", async || {
        let lines = sql
            .lines("SELECT account, balance FROM balances ORDER BY account")
            .await?;
        Ok((lines == want).then_some(lines))
    })
    .await?;
    ensure!(lines.len() == truth.len());
    Ok(())
}

#[test]
fn one_worker() {
    run(|scratch| transfers(scratch, 1, false));
}

#[test]
fn two_workers() {
    run(|scratch| transfers(scratch, 2, false));
}

#[test]
fn through_a_kill() {
    run(|scratch| transfers(scratch, 2, true));
}
