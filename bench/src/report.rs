//! Results as a Markdown table: printed, and appended to `bench/RESULTS.md`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;

use crate::measure::{Cost, machine};
use crate::plot::bars;

/// One workload's results.
pub struct Report {
    title: String,
    reference: Option<f64>,
    costs: Vec<(String, Cost, String)>,
    notes: Vec<String>,
}

impl Report {
    /// An empty report.
    pub fn new(title: impl Into<String>) -> Report {
        Report {
            title: title.into(),
            reference: None,
            costs: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a line of costs; `rows` are what it processed.
    pub fn cost(&mut self, name: impl Into<String>, cost: Cost, rows: usize) {
        let rate = format!("{:.2}", rows as f64 / 1e6 / cost.cpu_s.max(1e-9));
        self.costs.push((name.into(), cost, rate));
    }

    /// Makes the line of that name the reference of the ratios.
    pub fn compare_with(&mut self, name: &str) {
        self.reference = self
            .costs
            .iter()
            .find(|(n, _, _)| n == name)
            .map(|(_, c, _)| c.cpu_s);
    }

    /// Adds a sentence.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("\n### {}\n\n", self.title);
        if !self.costs.is_empty() {
            text.push_str("| | wall s | CPU s | M rows per CPU s | peak MB | written MB | CPU ratio |\n|---|---|---|---|---|---|---|\n");
        }
        for (name, cost, rate) in &self.costs {
            let ratio = self
                .reference
                .map_or(String::new(), |r| format!("{:.2}", cost.cpu_s / r));
            let _ = writeln!(
                text,
                "| {name} | {:.2} | {:.2} | {rate} | {:.0} | {:.0} | {ratio} |",
                cost.wall_s, cost.cpu_s, cost.peak_mb, cost.written_mb
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
        if self.costs.len() > 1 {
            let values: Vec<_> = self
                .costs
                .iter()
                .map(|(name, cost, _)| (name.clone(), cost.cpu_s))
                .collect();
            let name: String = self
                .title
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .collect();
            std::fs::create_dir_all(here.join("plots"))?;
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
            .open(path)?;
        write!(
            file,
            "{text}\n`workloads {}`; {}\n",
            command.join(" "),
            machine()
        )?;
        Ok(())
    }
}
