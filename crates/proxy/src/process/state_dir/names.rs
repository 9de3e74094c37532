//! The names of the files in the state folder.

pub(super) const LOCK: &str = "lock";
/// Marks a used folder, so that a first start is distinguished from a start after a lost handover.
pub(super) const USED: &str = "used";
/// The stamp watermark. Every run writes the file, so a folder that has it was used too.
pub(super) const MARK: &str = "mark";
/// The replay memory that is handed over.
pub(super) const MEMORY: &str = "replay";
/// The statement that no process ever served.
pub(super) const NEVER_SERVED: &str = "never-served";
/// The manual suspensions.
pub(super) const SUSPENDED: &str = "suspended";
/// The names of all files.
pub(super) const FILES: [&str; 6] = [LOCK, USED, MARK, MEMORY, NEVER_SERVED, SUSPENDED];
