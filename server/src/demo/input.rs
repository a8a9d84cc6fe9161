//! What the demo writes: files of words and of transfers, from a fixed seed, and what they add up to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::source_dir;

const VOCABULARY: [&str; 8] = [
    "tide", "mill", "water", "wheel", "moon", "grain", "sluice", "ebb",
];
const ACCOUNTS: u32 = 20;
const PER_FILE: usize = 25;

/// What was written in all.
#[derive(Default)]
pub struct Truth {
    /// Occurrences of each word.
    pub words: BTreeMap<String, i64>,
    /// Transfers.
    pub transfers: i64,
    /// Bytes of all files.
    pub bytes: usize,
}

/// Makes the directories of both sources.
pub fn make_directories(root: &Path) -> anyhow::Result<()> {
    for source in ["words", "bank"] {
        let dir = source_dir(root, source);
        std::fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    Ok(())
}

/// A thread that writes the files.
pub struct Writer {
    thread: JoinHandle<anyhow::Result<Truth>>,
}

impl Writer {
    /// Writes `files` files of each kind, one pair every `pace`; `halfway` becomes true in the middle.
    pub fn start(root: PathBuf, files: usize, pace: Duration, halfway: Arc<AtomicBool>) -> Writer {
        let thread = std::thread::spawn(move || {
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let mut truth = Truth::default();
            for number in 0..files {
                let words = words(&mut rng, &mut truth);
                put(
                    &source_dir(&root, "words"),
                    &format!("{number:03}.csv"),
                    &words,
                    &mut truth,
                )?;
                let transfers = transfers(&mut rng, &mut truth);
                put(
                    &source_dir(&root, "bank"),
                    &format!("{number:03}.jsonl"),
                    &transfers,
                    &mut truth,
                )?;
                if number == files / 2 {
                    halfway.store(true, Ordering::Release);
                }
                std::thread::sleep(pace);
            }
            Ok(truth)
        });
        Writer { thread }
    }

    /// Waits for the last file.
    pub fn finish(self) -> anyhow::Result<Truth> {
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the demo's writer panicked"))?
    }
}

fn words(rng: &mut ChaCha8Rng, truth: &mut Truth) -> String {
    let mut text = String::from("word\n");
    for _ in 0..PER_FILE {
        let word = VOCABULARY[rng.random_range(0..VOCABULARY.len())];
        *truth.words.entry(word.into()).or_insert(0) += 1;
        text.push_str(word);
        text.push('\n');
    }
    text
}

fn transfers(rng: &mut ChaCha8Rng, truth: &mut Truth) -> String {
    let mut text = String::new();
    for _ in 0..PER_FILE {
        let from = rng.random_range(0..ACCOUNTS);
        let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let amount = rng.random_range(1..1_000);
        truth.transfers += 1;
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            r#"{{"events":[{{"account":{from},"amount":-{amount},"type":"debit"}},{{"account":{to},"amount":{amount},"type":"credit"}}]}}"#
        );
    }
    text
}

/// Writes beside the directory's readers' sight, then renames: a file appears whole.
fn put(dir: &Path, name: &str, text: &str, truth: &mut Truth) -> anyhow::Result<()> {
    truth.bytes += text.len();
    let hidden = dir.join(format!(".{name}"));
    std::fs::write(&hidden, text).with_context(|| format!("can't write {}", hidden.display()))?;
    std::fs::rename(&hidden, dir.join(name))
        .with_context(|| format!("can't rename {}", hidden.display()))?;
    Ok(())
}
