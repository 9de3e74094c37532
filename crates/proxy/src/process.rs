//! The process: its clock, its threads, its state folder, its shutdown, and the kernel's figures about it.

pub mod clock;
pub mod drain;
pub(crate) mod file_access;
pub mod files;
pub mod heartbeat;
pub mod host;
pub mod page_size;
pub mod panic_hook;
pub(crate) mod predecessor;
pub mod send_lock;
pub mod shutdown;
pub mod state_dir;
pub mod systemd;
pub mod thread_index;
pub mod timestamp;
pub mod usage;
pub mod watermark;
pub mod yielding;
