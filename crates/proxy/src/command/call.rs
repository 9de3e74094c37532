//! Placeholder.
use super::Exit;
use clap::Args;
/// Call.
#[derive(Args)]
pub(crate) struct Call {}
impl Call {
    pub(crate) fn run(self) -> Exit {
        Exit::Failed
    }
}
