//! What both programs share: arguments, rows of CSV files, and the end of the dataflow.
//!
//! Lines are split where a search for bytes finds commas, several times faster than a CSV library does it, so that what is
//! measured is the dataflow. Quoted fields, which Nexmark's files don't have, are refused.

use std::fmt::Debug;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{bail, Context, Result};

/// The arguments of both programs.
#[derive(Clone)]
pub struct Args {
    /// q0, q1, …
    pub query: String,
    /// The directory of `person`, `auction` and `bid`.
    pub data: PathBuf,
    /// Where the result's changes go, if anywhere.
    pub out: Option<PathBuf>,
    /// Rows of each source in an epoch.
    pub epoch_rows: usize,
    /// Worker threads.
    pub threads: usize,
}

impl Args {
    /// Reads `QUERY DATA_DIR OUT|- EPOCH_ROWS THREADS`.
    pub fn parse() -> Result<Args> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [query, data, out, epoch_rows, threads] = &args[..] else {
            bail!("arguments: QUERY DATA_DIR OUT|- EPOCH_ROWS THREADS");
        };
        let positive = |text: &str| -> Result<usize> {
            let number = text.parse().with_context(|| text.to_owned())?;
            anyhow::ensure!(number > 0, "{text} isn't positive");
            Ok(number)
        };
        Ok(Args {
            query: query.clone(),
            data: data.into(),
            out: (out != "-").then(|| out.into()),
            epoch_rows: positive(epoch_rows)?,
            threads: positive(threads)?,
        })
    }
}

/// The rows of a source's CSV files, one file after the other.
pub struct Rows {
    files: std::vec::IntoIter<PathBuf>,
    open: Option<BufReader<File>>,
    line: Vec<u8>,
}

impl Rows {
    /// Those of file `index` and each `of`-th after it, without their headers.
    pub fn open(data: &Path, source: &str, index: usize, of: usize) -> Result<Rows> {
        let dir = data.join(source);
        let mut files = std::fs::read_dir(&dir)
            .with_context(|| dir.display().to_string())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<PathBuf>>>()?;
        files.sort();
        let files: Vec<PathBuf> = files.into_iter().skip(index).step_by(of).collect();
        Ok(Rows {
            files: files.into_iter(),
            open: None,
            line: Vec::new(),
        })
    }

    /// Hands up to `max` rows to `row`; false when there are no more.
    pub fn feed(
        &mut self,
        max: usize,
        mut row: impl FnMut(&mut Fields) -> Result<()>,
    ) -> Result<bool> {
        let mut read = 0;
        while read < max {
            let Some(file) = &mut self.open else {
                let Some(path) = self.files.next() else {
                    return Ok(false);
                };
                let file = File::open(&path).with_context(|| path.display().to_string())?;
                let mut file = BufReader::with_capacity(1 << 18, file);
                self.line.clear();
                file.read_until(b'\n', &mut self.line)?; // the header
                self.open = Some(file);
                continue;
            };
            self.line.clear();
            if file.read_until(b'\n', &mut self.line)? == 0 {
                self.open = None;
                continue;
            }
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            let described = || String::from_utf8_lossy(line).into_owned();
            if memchr::memchr(b'"', line).is_some() {
                bail!("quoted fields aren't read here: {}", described());
            }
            row(&mut Fields(Some(line))).with_context(described)?;
            read += 1;
        }
        Ok(true)
    }
}

/// The fields of a row, read from the left, as far as they are needed.
pub struct Fields<'a>(Option<&'a [u8]>);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<&'a [u8]> {
        let rest = self.0.context("a field is missing")?;
        let (field, rest) = match memchr::memchr(b',', rest) {
            Some(comma) => (&rest[..comma], Some(&rest[comma + 1..])),
            None => (rest, None),
        };
        self.0 = rest;
        Ok(field)
    }

    /// Leaves out `n` fields.
    pub fn skip(&mut self, n: usize) -> Result<()> {
        for _ in 0..n {
            self.next()?;
        }
        Ok(())
    }

    /// The next field, a number: there are no negative ones.
    pub fn number(&mut self) -> Result<u64> {
        let field = self.next()?;
        let digit = |n: u64, b: &u8| {
            let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
            n.checked_mul(10)?.checked_add(digit)
        };
        let number = field.iter().try_fold(0, digit);
        number.filter(|_| !field.is_empty()).context("not a number")
    }

    /// The next field, a text.
    pub fn text(&mut self) -> Result<String> {
        Ok(std::str::from_utf8(self.next()?)?.to_owned())
    }
}

/// The end of the dataflow: counts the rows of the result.
///
/// Changes are added up and not kept, which is less than a view that can be read has to do.
#[derive(Clone)]
pub struct Sink {
    rows: Arc<AtomicI64>,
    out: Option<Arc<Mutex<BufWriter<File>>>>,
}

impl Sink {
    /// Writes the changes too if `out` is there, which is for checks.
    pub fn new(out: Option<&Path>) -> Result<Sink> {
        let out = out
            .map(|path| Ok::<_, anyhow::Error>(BufWriter::new(File::create(path)?)))
            .transpose()?;
        Ok(Sink {
            rows: Arc::default(),
            out: out.map(|out| Arc::new(Mutex::new(out))),
        })
    }

    /// Takes rows and how many there are of each, more or, below zero, fewer.
    pub fn take<R: Debug>(&self, changes: impl Iterator<Item = (R, i64)>) {
        let mut rows = 0;
        for (row, diff) in changes {
            rows += diff;
            if let Some(out) = &self.out {
                let mut out = out.lock().expect("no thread has panicked");
                writeln!(out, "{row:?}\t{diff}").expect("the file can be written");
            }
        }
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Prints how many rows there are.
    pub fn finish(self) -> Result<()> {
        if let Some(out) = &self.out {
            out.lock().expect("no thread has panicked").flush()?;
        }
        println!("{}", self.rows.load(Ordering::Relaxed));
        Ok(())
    }
}
