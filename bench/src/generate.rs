//! Deterministic data sets: the same bytes for the same scale, on every machine.
//!
//! The distributions are those that published measurements of neighbouring systems use: words by Zipf(1.0) over
//! a vocabulary, transfers between accounts, orders by Zipf(0.9) over customers, and Nexmark's events.

use std::fs::{File, create_dir_all};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How much data: 1.0 is ten million words, a million transfers, two million orders, two million events.
#[derive(Clone, Copy, Debug)]
pub struct Scale(pub f64);

impl Scale {
    /// That fraction of `full` rows, at least one hundred.
    pub fn rows(self, full: usize) -> usize {
        self.of(full).max(100)
    }

    fn of(self, full: usize) -> usize {
        ((full as f64 * self.0) as usize).max(1)
    }
}

const VOCABULARY: usize = 100_000;
const ACCOUNTS: u32 = 10_000;
const CUSTOMERS: usize = 100_000;
const REGIONS: u32 = 50;

/// Samples ranks 0.. with probability proportional to 1 / (rank + 1)^s.
pub struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    /// Over `n` ranks with exponent `s`.
    pub fn new(n: usize, s: f64) -> Zipf {
        let mut sum = 0.0;
        let cumulative = (1..=n).map(|rank| {
            sum += (rank as f64).powf(-s);
            sum
        });
        Zipf {
            cumulative: cumulative.collect(),
        }
    }

    /// One rank.
    pub fn sample(&self, rng: &mut impl Rng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let at: f64 = rng.random::<f64>() * total;
        self.cumulative
            .partition_point(|c| *c < at)
            .min(self.cumulative.len() - 1)
    }
}

fn writer(dir: &Path, name: String) -> Result<BufWriter<File>> {
    create_dir_all(dir)?;
    Ok(BufWriter::with_capacity(
        1 << 20,
        File::create(dir.join(name))?,
    ))
}

/// Makes `dir/name` by `make` unless a complete one is there.
fn once(
    dir: &Path,
    name: &str,
    scale: Scale,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let path = dir.join(format!("{name}-{}", scale.0));
    let complete = path.join(".complete");
    if !complete.exists() {
        let _ = std::fs::remove_dir_all(&path);
        create_dir_all(&path)?;
        make(&path)?;
        File::create(complete)?;
    }
    Ok(path)
}

/// `words/part-NNN.csv`: one column with a header. Returns the directory above, and the number of rows.
pub fn words(dir: &Path, scale: Scale) -> Result<(PathBuf, usize)> {
    let files = scale.of(100).min(100);
    let rows = scale.of(10_000_000) / files;
    let path = once(dir, "words", scale, |path| {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = std::collections::HashSet::new();
        let mut vocabulary: Vec<String> = Vec::new();
        while vocabulary.len() < VOCABULARY {
            let length = rng.random_range(3..=12);
            let word: String = (0..length)
                .map(|_| rng.random_range(b'a'..=b'z') as char)
                .collect();
            if word != "word" && seen.insert(word.clone()) {
                vocabulary.push(word);
            }
        }
        let zipf = Zipf::new(VOCABULARY, 1.0);
        for file in 0..files {
            let mut out = writer(&path.join("words"), format!("part-{file:03}.csv"))?;
            out.write_all(b"word\n")?;
            for _ in 0..rows {
                out.write_all(vocabulary[zipf.sample(&mut rng)].as_bytes())?;
                out.write_all(b"\n")?;
            }
            out.flush()?;
        }
        Ok(())
    })?;
    Ok((path, rows * files))
}

/// `bank/part-NNN.jsonl`: messages of a debit and a credit.
pub fn bank(dir: &Path, scale: Scale) -> Result<(PathBuf, usize)> {
    let rows = scale.of(1_000_000) / 10;
    let path = once(dir, "bank", scale, |path| {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for file in 0..10 {
            let mut out = writer(&path.join("bank"), format!("part-{file:03}.jsonl"))?;
            for _ in 0..rows {
                let from = rng.random_range(0..ACCOUNTS);
                let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
                let amount = rng.random_range(1..=10_000);
                writeln!(
                    out,
                    "{{\"events\":[{{\"account_id\":{from},\"amount\":-{amount},\"event_type\":\"debit\"}},\
                     {{\"account_id\":{to},\"amount\":{amount},\"event_type\":\"credit\"}}]}}"
                )?;
            }
            out.flush()?;
        }
        Ok(())
    })?;
    Ok((path, rows * 10))
}

/// `customers/part-000.csv` and `orders/part-NNN.csv`.
pub fn orders(dir: &Path, scale: Scale) -> Result<(PathBuf, usize)> {
    let rows = scale.of(2_000_000) / 20;
    let customers = scale.of(CUSTOMERS);
    let path = once(dir, "orders", scale, |path| {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut out = writer(&path.join("customers"), "part-000.csv".into())?;
        out.write_all(b"customer_id,name,region\n")?;
        for id in 0..customers {
            writeln!(
                out,
                "{id},customer-{id},region-{:02}",
                rng.random_range(0..REGIONS)
            )?;
        }
        out.flush()?;
        let zipf = Zipf::new(customers, 0.9);
        let mut id = 0;
        for file in 0..20 {
            let mut out = writer(&path.join("orders"), format!("part-{file:03}.csv"))?;
            out.write_all(b"order_id,customer_id,amount\n")?;
            for _ in 0..rows {
                let customer = zipf.sample(&mut rng) * 7919 % customers;
                writeln!(out, "{id},{customer},{}", rng.random_range(1..100_000))?;
                id += 1;
            }
            out.flush()?;
        }
        Ok(())
    })?;
    Ok((path, rows * 20))
}

/// `person`, `auction`, `bid`: CSV files of Nexmark's generator, texts without commas.
pub fn nexmark(dir: &Path, scale: Scale) -> Result<(PathBuf, usize)> {
    const FILES: usize = 10;
    let events = scale.of(2_000_000) / FILES;
    let path = once(dir, "nexmark", scale, |path| {
        let mut generator = EventGenerator::new(NexmarkConfig {
            base_time: 1_436_918_400_000,
            ..Default::default()
        });
        for file in 0..FILES {
            let name = format!("part-{file:03}.csv");
            let mut person = writer(&path.join("person"), name.clone())?;
            let mut auction = writer(&path.join("auction"), name.clone())?;
            let mut bid = writer(&path.join("bid"), name)?;
            writeln!(
                person,
                "id,name,email_address,credit_card,city,state,date_time,extra"
            )?;
            writeln!(
                auction,
                "id,item_name,description,initial_bid,reserve,date_time,expires,seller,category,extra"
            )?;
            writeln!(bid, "auction,bidder,price,channel,url,date_time,extra")?;
            for event in generator.by_ref().take(events) {
                match event {
                    Event::Person(e) => writeln!(
                        person,
                        "{},{},{},{},{},{},{},{}",
                        e.id,
                        e.name,
                        e.email_address,
                        e.credit_card,
                        e.city,
                        e.state,
                        e.date_time,
                        e.extra
                    )?,
                    Event::Auction(e) => writeln!(
                        auction,
                        "{},{},{},{},{},{},{},{},{},{}",
                        e.id,
                        e.item_name,
                        e.description,
                        e.initial_bid,
                        e.reserve,
                        e.date_time,
                        e.expires,
                        e.seller,
                        e.category,
                        e.extra
                    )?,
                    Event::Bid(e) => writeln!(
                        bid,
                        "{},{},{},{},{},{},{}",
                        e.auction, e.bidder, e.price, e.channel, e.url, e.date_time, e.extra
                    )?,
                }
            }
            person.flush()?;
            auction.flush()?;
            bid.flush()?;
        }
        Ok(())
    })?;
    Ok((path, events * FILES))
}
