//! File descriptors: every connection is one, and the system's limit on them is often far below what is configured.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::slots::LINE;

/// Kept for files, listeners, the admin side, and what runtimes need; and for connections that wait for a slot.
const RESERVED: u64 = 64 + LINE as u64;

/// Raises the process's limit as far as it may without privileges, and says how many connections from tenants fit
/// into it: each may need one to GatePay as well.
pub fn room_for_connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, fit)
}

fn fit(limit: u64) -> usize {
    let both = limit.saturating_sub(RESERVED).max(2);
    usize::try_from(both / 2).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_leaves_room_for_one_to_gatepay() {
        assert_eq!(fit(1024), 448);
        assert_eq!(fit(20_128), 10_000);
        assert_eq!(fit(0), 1, "better one than none");
    }

    #[test]
    fn the_limit_is_raised_to_what_it_may_be() {
        room_for_connections();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
