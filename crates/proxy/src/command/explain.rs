//! Placeholder.
use clap::Args;
use super::Exit;
/// Explain.
#[derive(Args)]
pub(crate) struct Explain {}
impl Explain {
    pub(crate) fn run(self) -> Exit { Exit::Failed }
}
