//! Placeholder.
use super::Exit;
use clap::Args;
/// Explain.
#[derive(Args)]
pub(crate) struct Explain {}
impl Explain {
    pub(crate) fn run(self) -> Exit {
        Exit::Failed
    }
}
