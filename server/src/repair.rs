//! `tidemill repair`: makes a new manifest for a data directory that doesn't open, and says first what that costs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tidemill_storage::{SledState, StoreError, UsedCopy, plan_repair, repair};

/// Options of `tidemill repair`.
#[derive(Args, Clone, Debug)]
pub struct RepairOptions {
    /// The data directory, which no server may have open.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Do it; without this it is only said what would be done.
    #[arg(long)]
    pub yes: bool,
}

/// Says what a repair of the directory does, and does it with `--yes`.
pub fn run(options: RepairOptions) -> anyhow::Result<()> {
    let dir = &options.data_dir;
    let plan = plan_repair(dir)?;
    let damage = match &plan.sled {
        SledState::Sound { epoch } => {
            println!(
                "{}: nothing to repair: the manifest opens, and its last epoch is {}",
                dir.display(),
                words(*epoch)
            );
            return Ok(());
        }
        SledState::Missing => "it is missing".to_string(),
        SledState::Damaged(why) => why.clone(),
        SledState::Cut { epoch, committed } => format!(
            "the end of its log can't be read: its last epoch is {}, the last one that was committed {committed}",
            words(*epoch)
        ),
    };
    println!("{}: the manifest is damaged: {damage}", dir.display());
    match &plan.copy {
        Some(copy) => println!(
            "It can be made anew from {}, written {} ago when the last epoch was {}.",
            copy.path.display(),
            age(copy),
            words(plan.epoch)
        ),
        None => println!(
            "What can be read of it can be kept, as of epoch {}.",
            words(plan.epoch)
        ),
    }
    println!(
        "Lost: every write, every object and every view's change that was committed after that. Sources go on from their \
         offsets of that epoch and read again what came later; file sinks are cut back to it. A subscriber that \
         has seen later times can't resume."
    );
    if !plan.missing.is_empty() {
        let files: Vec<String> = plan
            .missing
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        bail!(
            "{} of the files that it needs are missing or have another length, so a repair can't help: restore the directory from a \
             backup. The files: {}",
            files.len(),
            files.join(", ")
        );
    }
    if !options.yes {
        println!("Nothing has been changed. To do it: {}", command(dir, true));
        return Ok(());
    }
    match repair(dir)? {
        Some(aside) => println!(
            "Done. The damaged manifest was put aside as {}.",
            aside.display()
        ),
        None => println!("Done."),
    }
    Ok(())
}

/// An error of opening `dir` with what can be done about it.
pub fn explain(dir: &Path, e: StoreError) -> anyhow::Error {
    if !matches!(e, StoreError::Corrupt { .. } | StoreError::Sled { .. }) {
        return e.into();
    }
    if e.is_out_of_space() {
        let advice = "make room on the disk (or raise the limit of a file's size) and start again: nothing is damaged";
        return anyhow::anyhow!("{e}\nhint: {advice}");
    }
    let advice = match plan_repair(dir) {
        Ok(plan) if plan.missing.is_empty() && !matches!(plan.sled, SledState::Sound { .. }) => {
            format!(
                "restore the directory from a backup, or see what `{}` would save",
                command(dir, false)
            )
        }
        _ => "restore the directory from a backup".to_string(),
    };
    anyhow::anyhow!("{e}\nhint: {advice}")
}

fn command(dir: &Path, yes: bool) -> String {
    let yes = if yes { " --yes" } else { "" };
    format!("tidemill repair --data-dir {}{yes}", dir.display())
}

fn words(epoch: Option<i64>) -> String {
    epoch.map_or_else(|| "none".into(), |e| e.to_string())
}

fn age(copy: &UsedCopy) -> String {
    let age = copy.written.elapsed().unwrap_or(Duration::ZERO).as_secs();
    match age {
        0..120 => format!("{age} seconds"),
        120..7_200 => format!("{} minutes", age / 60),
        7_200..172_800 => format!("{} hours", age / 3_600),
        _ => format!("{} days", age / 86_400),
    }
}
