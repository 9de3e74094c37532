//! Host: the name of this machine.

use std::fs;

/// The name that the kernel has for this machine; in a container that is the pod's. Empty if it cannot be read.
pub fn name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
