//! Results as a Markdown table: printed, and appended to `bench/RESULTS.md`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::measure::{Cost, machine};
use crate::plot::bars;

/// What one system cost.
struct Line {
    name: String,
    cost: Cost,
    /// Millions of rows per CPU second.
    rate: f64,
    /// CPU seconds of what it is compared with.
    reference: Option<f64>,
}

/// One workload's results.
pub struct Report {
    title: String,
    lines: Vec<Line>,
    notes: Vec<String>,
}

/// Results go to the sources that the program was built from, which may have been a clone that isn't there any more.
fn gone(here: &Path) -> String {
    format!(
        "writing the results into {}, which this program was built from: build it again where they belong",
        here.display()
    )
}

impl Report {
    /// An empty report.
    pub fn new(title: impl Into<String>) -> Report {
        Report {
            title: title.into(),
            lines: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a line of costs; `rows` are what it processed.
    pub fn cost(&mut self, name: impl Into<String>, cost: Cost, rows: usize) {
        self.lines.push(Line {
            name: name.into(),
            rate: rows as f64 / 1e6 / cost.cpu_s.max(1e-9),
            cost,
            reference: None,
        });
    }

    /// Adds a line of costs that is compared with a reference of its own.
    pub fn cost_beside(
        &mut self,
        name: impl Into<String>,
        cost: Cost,
        rows: usize,
        reference: &Cost,
    ) {
        self.cost(name, cost, rows);
        if let Some(line) = self.lines.last_mut() {
            line.reference = Some(reference.cpu_s);
        }
    }

    /// Makes the line of that name the reference of all lines.
    pub fn compare_with(&mut self, name: &str) {
        let reference = self.lines.iter().find(|l| l.name == name);
        let reference = reference.map(|l| l.cost.cpu_s);
        for line in &mut self.lines {
            line.reference = reference;
        }
    }

    /// Adds a sentence.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("\n### {}\n\n", self.title);
        if !self.lines.is_empty() {
            text.push_str("| | wall s | CPU s | M rows per CPU s | peak MB | written MB | CPU ratio |\n|---|---|---|---|---|---|---|\n");
        }
        for line in &self.lines {
            let ratio = line
                .reference
                .map_or(String::new(), |r| format!("{:.2}", line.cost.cpu_s / r));
            let _ = writeln!(
                text,
                "| {} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {ratio} |",
                line.name,
                line.cost.wall_s,
                line.cost.cpu_s,
                line.rate,
                line.cost.peak_mb,
                line.cost.written_mb
            );
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }

    /// Prints the report and, unless it is a smoke run, appends it to `bench/RESULTS.md` with the command.
    pub fn publish(&self, smoke: bool) -> Result<()> {
        let text = self.markdown();
        println!("{text}");
        if smoke {
            return Ok(());
        }
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        if self.lines.len() > 1 {
            let values: Vec<_> = self
                .lines
                .iter()
                .map(|line| (line.name.clone(), line.cost.cpu_s))
                .collect();
            let name: String = self
                .title
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .collect();
            std::fs::create_dir_all(here.join("plots")).with_context(|| gone(here))?;
            let path = here
                .join("plots")
                .join(format!("{}.svg", name.to_lowercase()));
            std::fs::write(
                path,
                bars(&format!("{}: CPU seconds", self.title), "s", &values),
            )?;
        }
        let command: Vec<String> = std::env::args().skip(1).collect();
        let path = here.join("RESULTS.md");
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| gone(here))?;
        write!(
            file,
            "{text}\n`workloads {}`; {}\n",
            command.join(" "),
            machine()
        )?;
        Ok(())
    }
}
