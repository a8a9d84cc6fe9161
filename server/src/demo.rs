//! `tidemill demo`: the whole story in less than a minute, everything embedded.

use clap::Args;

/// Options of `tidemill demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoOptions {
    /// Leave the server running at the end.
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo.
pub fn demo(options: DemoOptions) -> anyhow::Result<()> {
    let _ = options;
    anyhow::bail!("the demo is being written")
}
