//! Input files as users write them, and the change files that a sink writes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::changes::Multiset;

/// A file that appears whole: written under a temporary name, then renamed.
pub fn drop_file(dir: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.tmp"));
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, &path)?;
    Ok(path)
}

/// Appends to a file, which is made if missing.
pub fn append(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    Ok(file.write_all(content)?)
}

/// One line of a JSON-lines sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkLine {
    /// The epoch.
    pub time: i64,
    /// Multiplicity change.
    pub diff: i64,
    /// Values as text, in the file's order.
    pub row: Vec<Option<String>>,
}

/// A JSON-lines sink's file: complete lines only, times never going back. Flat objects without escapes in
/// keys, which is all that the tests' sinks hold.
pub fn read_sink(path: &Path) -> Result<Vec<SinkLine>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut lines: Vec<SinkLine> = Vec::new();
    for raw in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
        let line = sink_line(raw.trim_end()).with_context(|| format!("sink line {raw:?}"))?;
        if let Some(last) = lines.last() {
            ensure!(
                line.time >= last.time,
                "the sink's time goes back from {} to {}",
                last.time,
                line.time
            );
        }
        lines.push(line);
    }
    Ok(lines)
}

/// The sum of a sink's lines.
pub fn sum_sink(lines: &[SinkLine]) -> Multiset {
    let mut sum = Multiset::default();
    for line in lines {
        sum.add(&line.row, line.diff);
    }
    sum
}

fn sink_line(raw: &str) -> Result<SinkLine> {
    let body = raw
        .strip_prefix('{')
        .and_then(|r| r.strip_suffix('}'))
        .context("not an object")?;
    let (mut time, mut diff, mut row) = (None, None, Vec::new());
    for (key, value) in fields(body)? {
        match key.as_str() {
            "time" => time = value.and_then(|v| v.parse().ok()),
            "diff" => diff = value.and_then(|v| v.parse().ok()),
            _ => row.push(value),
        }
    }
    Ok(SinkLine {
        time: time.context("no time")?,
        diff: diff.context("no diff")?,
        row,
    })
}

/// `"key":value,…` where a value is a number, a word or a string with simple escapes.
fn fields(body: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut out = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (key, after) = string(rest)?;
        let after = after
            .trim_start()
            .strip_prefix(':')
            .context("no colon")?
            .trim_start();
        let (value, after) = if after.starts_with('"') {
            let (value, after) = string(after)?;
            (Some(value), after)
        } else {
            let end = after.find(',').unwrap_or(after.len());
            let word = after[..end].trim();
            ((word != "null").then(|| word.to_owned()), &after[end..])
        };
        out.push((key, value));
        rest = after
            .trim_start()
            .strip_prefix(',')
            .unwrap_or("")
            .trim_start();
    }
    Ok(out)
}

fn string(text: &str) -> Result<(String, &str)> {
    let inner = text.strip_prefix('"').context("no quote")?;
    let mut value = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &inner[at + 1..])),
            '\\' => value.push(match chars.next().context("cut escape")?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            c => value.push(c),
        }
    }
    anyhow::bail!("no closing quote")
}
