//! Placeholder.
use super::Exit;
use clap::Args;
/// Sign.
#[derive(Args)]
pub(crate) struct Sign {}
impl Sign {
    pub(crate) fn run(self) -> Exit {
        Exit::Failed
    }
}
