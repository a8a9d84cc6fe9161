//! `workloads NAME…`: runs benchmarks and appends their results to `bench/RESULTS.md`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use tidemill_bench::generate::Scale;
use tidemill_bench::{
    Setting, batch, joins, latency, load, nexmark, point, restart, rounds, shapes, workers,
};

/// Benchmarks of the real server: durable, over the wire, beside its neighbours where they are installed.
#[derive(Parser)]
struct Args {
    /// wordcount, bank, orders, latency, point, restart, subscribers, views, beside, updates, windows, joins, rounds, wide, skew, nexmark, workers, or all
    #[arg(required = true)]
    workloads: Vec<String>,
    /// Fraction of the full data (10 million words, 1 million transfers, 2 million orders and events)
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Worker threads of the server, but for the workload `workers`
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Tiny data, no peers, nothing written to the results: only checks that the workloads run
    #[arg(long)]
    smoke: bool,
    /// Where data sets and scratch files go
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
}

const ALL: [&str; 17] = [
    "wordcount",
    "bank",
    "orders",
    "latency",
    "point",
    "restart",
    "subscribers",
    "views",
    "beside",
    "updates",
    "windows",
    "joins",
    "rounds",
    "wide",
    "skew",
    "nexmark",
    "workers",
];

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.dir)?;
    let dir = args.dir.canonicalize()?;
    let scratch = dir.join(format!("scratch-{}", std::process::id()));
    let setting = Setting {
        data: dir.join("data"),
        scratch: scratch.clone(),
        scale: Scale(if args.smoke { 0.002 } else { args.scale }),
        workers: args.workers,
        smoke: args.smoke,
    };
    let names: Vec<&str> = match &args.workloads[..] {
        [one] if one == "all" => ALL.to_vec(),
        names => names.iter().map(String::as_str).collect(),
    };
    let mut failed = Vec::new();
    for name in names {
        let outcome = match name {
            "wordcount" => batch::word_count(&setting).await,
            "bank" => batch::bank(&setting).await,
            "orders" => batch::orders(&setting).await,
            "latency" => latency::latency(&setting).await,
            "point" => point::point(&setting).await,
            "restart" => restart::restart(&setting).await,
            "subscribers" => load::subscribers(&setting).await,
            "views" => load::views(&setting).await,
            "beside" => load::beside(&setting).await,
            "updates" => load::updates(&setting).await,
            "windows" => load::windows(&setting).await,
            "joins" => joins::joins(&setting).await,
            "rounds" => rounds::rounds(&setting).await,
            "wide" => shapes::wide(&setting).await,
            "skew" => shapes::skew(&setting).await,
            "nexmark" => nexmark::nexmark(&setting).await,
            "workers" => workers::workers(&setting).await,
            other => bail!("there is no workload {other}: {}", ALL.join(", ")),
        };
        match outcome {
            Ok(report) => report.publish(args.smoke)?,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                failed.push(name);
            }
        }
        let _ = std::fs::remove_dir_all(&scratch);
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
