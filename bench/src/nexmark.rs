//! Nexmark: the queries that the dialect maintains, each over the events of the standard generator, beside neighbouring systems.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tidemill_tests::{Sql, eventually};

use crate::batch::ASK_EVERY;
use crate::measure::{Cost, of_process};
use crate::report::Report;
use crate::{Setting, generate, peers};

/// Rows of a source in an epoch.
const EPOCH_ROWS: usize = 100_000;

/// Runs of each query on each system, of which the median counts: most take a few tenths of a second, and the machine is shared.
const ROUNDS: usize = 3;

/// Name, what it finds, and the query, which the programs in `bench/peers` have too; some only DuckDB's ([`peers::nexmark`]). Event times are
/// milliseconds.
const QUERIES: [(&str, &str, &str); 13] = [
    (
        "q0",
        "all bids",
        "SELECT auction, bidder, price, date_time FROM bid",
    ),
    (
        "q1",
        "currency",
        "SELECT auction, bidder, 0.908 * price AS price, date_time FROM bid",
    ),
    (
        "q2",
        "some auctions",
        "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    ),
    (
        "q3",
        "local sellers",
        "SELECT p.name, p.city, p.state, a.id FROM auction AS a JOIN person AS p ON a.seller = p.id \
         WHERE a.category = 10 AND p.state IN ('or', 'id', 'ca')",
    ),
    (
        "q4",
        "average of winning bids",
        "SELECT category, avg(final) AS price FROM (SELECT a.id, a.category, max(b.price) AS final FROM auction AS a JOIN bid AS b \
         ON a.id = b.auction WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category) AS w GROUP BY category",
    ),
    (
        "q5",
        "hot items",
        "WITH c AS (SELECT auction, w, count(*) AS num FROM bid, generate_series(date_time / 2000 - 4, date_time / 2000) AS w GROUP BY auction, w) \
         SELECT c.auction, c.num, c.w FROM c JOIN (SELECT w, max(num) AS m FROM c GROUP BY w) AS x ON c.w = x.w AND c.num >= x.m",
    ),
    (
        "q7",
        "highest bid per window",
        "SELECT b.auction, b.price, b.bidder, b.date_time FROM bid AS b JOIN (SELECT max(price) AS price, date_time / 10000 AS w \
         FROM bid GROUP BY date_time / 10000) AS m ON b.price = m.price AND b.date_time / 10000 = m.w",
    ),
    (
        "q8",
        "new users who sell",
        "SELECT p.id, p.name, p.w FROM (SELECT id, name, date_time / 10000 AS w FROM person GROUP BY id, name, date_time / 10000) AS p \
         JOIN (SELECT seller, date_time / 10000 AS w FROM auction GROUP BY seller, date_time / 10000) AS a ON p.id = a.seller AND p.w = a.w",
    ),
    (
        "q9",
        "winning bids",
        "SELECT id, seller, bidder, price, bid_time FROM (SELECT a.id, a.seller, b.bidder, b.price, b.date_time AS bid_time, \
         row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS r FROM auction AS a JOIN bid AS b ON a.id = b.auction \
         WHERE b.date_time BETWEEN a.date_time AND a.expires) AS x WHERE r = 1",
    ),
    (
        "q16",
        "bidders and auctions per channel",
        "SELECT channel, date_time / 86400000 AS day, max(date_time / 60000) AS minute, count(*) AS bids, count(*) FILTER (WHERE price < 10000) AS low, \
         count(DISTINCT bidder) AS bidders, count(DISTINCT bidder) FILTER (WHERE price < 10000) AS low_bidders, \
         count(DISTINCT auction) AS auctions, count(DISTINCT auction) FILTER (WHERE price < 10000) AS low_auctions \
         FROM bid GROUP BY channel, date_time / 86400000",
    ),
    (
        "q17",
        "bids per auction and day",
        "SELECT auction, date_time / 86400000 AS day, count(*) AS bids, min(price) AS lo, max(price) AS hi, sum(price) AS total FROM bid GROUP BY auction, date_time / 86400000",
    ),
    (
        "q18",
        "last bid of each bidder",
        "SELECT auction, bidder, price, channel, date_time FROM (SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS r \
         FROM bid) AS x WHERE r <= 1",
    ),
    (
        "q19",
        "ten highest bids per auction",
        "SELECT auction, bidder, price, channel, date_time, r FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS r \
         FROM bid) AS x WHERE r <= 10",
    ),
];

const SOURCES: [(&str, &str); 3] = [
    (
        "person",
        "id bigint, name text, email_address text, credit_card text, city text, state text, date_time bigint, extra text",
    ),
    (
        "auction",
        "id bigint, item_name text, description text, initial_bid bigint, reserve bigint, date_time bigint, expires bigint, \
         seller bigint, category bigint, extra text",
    ),
    (
        "bid",
        "auction bigint, bidder bigint, price bigint, channel text, url text, date_time bigint, extra text",
    ),
];

async fn rows_read(sql: &Sql) -> Result<i64> {
    sql.number("SELECT coalesce(sum(rows + errors), 0)::bigint FROM tidemill.sources")
        .await
}

/// The sources that a query reads: name and columns.
fn sources_of(query: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    SOURCES.iter().filter(move |(source, _)| {
        query.contains(&format!("FROM {source}")) || query.contains(&format!("JOIN {source}"))
    })
}

/// Rows of the files that a query reads, each file's header not counted.
fn rows_of(data: &Path, query: &str) -> Result<i64> {
    let mut rows = 0;
    for (source, _) in sources_of(query) {
        for file in std::fs::read_dir(data.join(source))?.flatten() {
            let text = std::fs::read(file.path())?;
            rows += text.iter().filter(|b| **b == b'\n').count() as i64 - 1;
        }
    }
    Ok(rows)
}

/// A query on a server of its own that reads so many rows: its costs and the rows of its answer.
async fn tidemill(setting: &Setting, data: &Path, query: &str, rows: i64) -> Result<(Cost, i64)> {
    let start = Instant::now();
    let (server, sql) = setting.started().await?;
    for (source, columns) in sources_of(query) {
        let dir = data.join(source);
        let path = dir.display();
        sql.run(&format!(
            "CREATE SOURCE {source} ({columns}) WITH (connector = 'files', path = '{path}', format = 'csv', header = true, \
             epoch_rows_max = {EPOCH_ROWS})"
        ))
        .await?;
    }
    sql.run(&format!("CREATE MATERIALIZED VIEW q AS {query}"))
        .await?;
    eventually("all events", async || {
        let done = rows_read(&sql).await? == rows;
        if !done {
            tokio::time::sleep(ASK_EVERY).await;
        }
        Ok(done.then_some(()))
    })
    .await?;
    let answer = sql.number("SELECT count(*) FROM q").await?;
    Ok((of_process(server.pid(), start)?, answer))
}

/// The run of at least one that took the median of CPU seconds.
fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s));
    costs.swap_remove(costs.len() / 2)
}

/// Each query on Tidemill and, but for smoke runs, on its neighbours, which have to find as many rows: [`ROUNDS`] times, all of them in
/// turn.
pub async fn nexmark(setting: &Setting) -> Result<Report> {
    let (data, events) = generate::nexmark(&setting.data, setting.scale)?;
    let mut report = Report::new(format!(
        "Nexmark, {events} events, {} worker(s)",
        setting.workers
    ));
    for (name, what, query) in QUERIES {
        let of_query = |e: anyhow::Error| e.context(name);
        let rounds = if setting.smoke { 1 } else { ROUNDS };
        let rows = rows_of(&data, query)?;
        if !setting.smoke {
            // As for DuckDB: a run that reads the files from disk, which may have left memory while others ran.
            tidemill(setting, &data, query, rows)
                .await
                .map_err(of_query)?;
        }
        let (mut own, mut others) = (Vec::new(), Vec::<(&str, Vec<Cost>)>::new());
        let mut answer = 0;
        for round in 0..rounds {
            let (cost, found) = tidemill(setting, &data, query, rows)
                .await
                .map_err(of_query)?;
            anyhow::ensure!(
                round == 0 || found == answer,
                "{name}: {found} rows, {answer} before"
            );
            answer = found;
            own.push(cost);
            if setting.smoke {
                continue;
            }
            let (scratch, workers) = (&setting.scratch, setting.workers);
            for peer in peers::nexmark(name, &data, scratch, workers, EPOCH_ROWS) {
                let line = format!("{name}: {}", peer.name);
                match peer.outcome {
                    Ok((spent, found)) => {
                        if found != answer {
                            report.note(format!("**{line} gave {found} rows, not {answer}.**"));
                        }
                        match others.iter_mut().find(|(other, _)| *other == peer.name) {
                            Some((_, costs)) => costs.push(spent),
                            None => others.push((peer.name, vec![spent])),
                        }
                    }
                    Err(error) if round == 0 => {
                        report.note(format!("**{line}: not measured ({error:#}).**"));
                    }
                    Err(_) => {}
                }
            }
        }
        report.note(format!("{name} ({what}): {answer} rows."));
        let cost = median(own);
        report.cost_beside(
            format!("{name}: Tidemill"),
            cost.clone(),
            rows as usize,
            &cost,
        );
        for (peer, costs) in others {
            report.cost_beside(
                format!("{name}: {peer}"),
                median(costs),
                rows as usize,
                &cost,
            );
        }
    }
    Ok(report)
}
