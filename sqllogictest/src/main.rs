//! `slt-complete --tidemill FILES…` or `slt-complete 'host=… dbname=…' FILES…`: fills in the expectations of `.slt` files.

use std::path::Path;

use anyhow::{Context, Result};
use tidemill_sqllogictest::complete::complete;
use tidemill_tests::{Options, Server};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let target = args
        .next()
        .context("usage: slt-complete --tidemill|CONFIG FILES…")?;
    let mut failed = false;
    for (n, file) in args.enumerate() {
        let scratch = std::env::temp_dir().join(format!("slt-complete-{}-{n}", std::process::id()));
        let input = scratch.join("input");
        std::fs::create_dir_all(&input)?;
        if target == "--tidemill" {
            let server = Server::start(&scratch.join("data"), &Options::default())?;
            let config = format!(
                "host=127.0.0.1 port={} user=tidemill dbname=tidemill",
                server.port()
            );
            failed |= report(&file, complete(Path::new(&file), &config, &input).await);
        } else {
            // One database per file, so that files don't see each other.
            let (server, name) = (format!("{target} dbname=postgres"), format!("slt_{n}"));
            let admin = tidemill_tests::Sql::connect_to(&server, 0).await?;
            admin
                .run(&format!("CREATE DATABASE {name} TEMPLATE template0"))
                .await?;
            failed |= report(
                &file,
                complete(Path::new(&file), &format!("{target} dbname={name}"), &input).await,
            );
        }
        let _ = std::fs::remove_dir_all(&scratch);
    }
    anyhow::ensure!(!failed, "some files were left as they were");
    Ok(())
}

/// Prints the outcome of one file; true if it failed.
fn report(file: &str, outcome: Result<()>) -> bool {
    match &outcome {
        Ok(()) => println!("{file}"),
        Err(error) => println!(
            "{file}: {}",
            error
                .chain()
                .map(|e| e.to_string())
                .collect::<Vec<_>>()
                .join(": ")
        ),
    }
    outcome.is_err()
}
