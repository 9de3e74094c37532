//! Placeholder.
use clap::Args;
use super::Exit;
/// Sign.
#[derive(Args)]
pub(crate) struct Sign {}
impl Sign {
    pub(crate) fn run(self) -> Exit { Exit::Failed }
}
