//! The names of the files in the state folder.

pub(super) const LOCK: &str = "lock";
/// Marks a folder that was in use, so that a first start is told apart from one whose hand-over was lost.
pub(super) const USED: &str = "used";
/// Written by every run, so that a folder that has it was used too.
pub(super) const MARK: &str = "mark";
/// What is handed over.
pub(super) const MEMORY: &str = "replay";
/// That no process ever served.
pub(super) const NEVER_SERVED: &str = "never-served";
/// The name of the file.
pub(super) const SUSPENDED: &str = "suspended";
/// Every name.
pub(super) const FILES: [&str; 6] = [LOCK, USED, MARK, MEMORY, NEVER_SERVED, SUSPENDED];
