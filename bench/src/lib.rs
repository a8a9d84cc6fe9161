//! Benchmarks of the real server, durable and over the wire.
//!
//! * [`generate`]: deterministic data sets.
//! * [`measure`]: costs from the operating system.
//! * [`peers`]: neighbouring systems on the same data.
//! * [`batch`]: a data set through a pipeline, as fast as it goes.
//! * [`latency`]: how long a change takes to be seen.
//! * [`load`]: many views, many subscribers, updates and deletes.
//! * [`nexmark`]: the auction queries.
//! * [`plot`]: bar charts.
//! * [`point`]: reads by key, index and range.
//! * [`report`]: tables for people and for `bench/RESULTS.md`.
//! * [`restart`]: time to the first answers after kill -9.
//! * [`rounds`]: recursive queries, and WITH queries named more than once.
//! * [`shapes`]: wide rows, a hot key.
//! * [`workers`]: one worker and two.
//! * [`stepped`], [`tables`]: a query's operators by themselves, and rows for them, for `bench/benches/`.
//!
//! The program `workloads` runs them: `cargo run --release -p tidemill-bench --bin workloads -- --help`.

pub mod batch;
pub mod generate;
pub mod joins;
pub mod latency;
pub mod load;
pub mod measure;
pub mod nexmark;
pub mod peers;
pub mod plot;
pub mod point;
pub mod report;
pub mod restart;
pub mod rounds;
pub mod shapes;
pub mod stepped;
pub mod tables;
pub mod workers;

use std::path::PathBuf;

use anyhow::Result;
use tidemill_tests::{Options, Server, Sql};

/// True under `cargo bench`; else a benchmark only shows, at a tiny scale, that it still runs.
pub fn benching() -> bool {
    std::env::args().any(|a| a == "--bench")
}

/// What all workloads share.
pub struct Setting {
    /// Where data sets are kept between runs.
    pub data: PathBuf,
    /// A directory of this run, emptied before.
    pub scratch: PathBuf,
    /// Size of the data.
    pub scale: generate::Scale,
    /// `--workers` of the server.
    pub workers: usize,
    /// Only keep the program alive: small, no peers, nothing appended to the results.
    pub smoke: bool,
}

impl Setting {
    /// A server on a fresh directory.
    pub fn server(&self) -> Result<Server> {
        let data = self.scratch.join("data");
        let _ = std::fs::remove_dir_all(&data);
        std::fs::create_dir_all(&self.scratch)?;
        Server::start(&data, &Options::workers(self.workers))
    }

    /// A server on a fresh directory, and a session.
    pub async fn started(&self) -> Result<(Server, Sql)> {
        let server = self.server()?;
        let sql = server.connect().await?;
        Ok((server, sql))
    }
}
