//! Placeholder.
use clap::Args;
use super::Exit;
/// Call.
#[derive(Args)]
pub(crate) struct Call {}
impl Call {
    pub(crate) fn run(self) -> Exit { Exit::Failed }
}
