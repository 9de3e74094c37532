//! Send lock: a lock of the state folder, between a process that has left the folder and goes on with its admitted calls, and
//! the next one, in which operators halt and suspend.
//!
//! The last process holds it shared from its reading of the halts until a call's first bytes are with the kernel. The next
//! process takes it alone while it writes: once the file is there, no byte that the file forbids is sent.

use std::fs::File;
use std::io;
use std::path::Path;

/// The lock, until it is dropped.
pub struct SendLock(File);

impl SendLock {
    /// Waits until no process sends by an older state of the folder, and keeps the others from sending.
    pub fn alone(folder: &Path) -> io::Result<Self> {
        let folder = File::open(folder)?;
        folder.lock()?;
        Ok(Self(folder))
    }

    /// Waits until nothing is being written that may forbid a call.
    pub fn shared(folder: &Path) -> io::Result<Self> {
        let folder = File::open(folder)?;
        folder.lock_shared()?;
        Ok(Self(folder))
    }
}

impl Drop for SendLock {
    /// A child process that was made a moment ago has a copy of the descriptor, and would hold the lock beyond the close.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}
