//! Open files: each connection needs a file descriptor, and the system's limit is often far below the configured
//! connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::callers::connection_slots::LINE;

/// Descriptors kept for files, listeners, the admin side and the runtimes.
const RESERVED: u64 = 64;
/// The divisor of the share of connections that one address may have when fewer fit than are configured.
const PART: usize = 4;

/// Raises the process's limit as far as possible without privileges. Returns how many connections from tenants fit into
/// it: each may need a second descriptor for a connection to GatePay.
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
    let left = limit.saturating_sub(RESERVED);
    // Connections that wait for a slot. Where descriptors are scarce, fewer may wait.
    let line = (LINE as u64).min(left / 4);
    let both = (left - line).max(2);
    usize::try_from(both / 2).unwrap_or(usize::MAX)
}

/// How many connections one address may have if only `fit` of the `wanted` connections fit: the configured share, or a
/// quarter of `fit` if that is more. So a shop can work, and no address takes every slot.
pub fn of_one_address(configured: usize, wanted: usize, fit: usize) -> usize {
    if fit >= wanted {
        return configured;
    }
    let same_part = configured.saturating_mul(fit) / wanted.max(1);
    same_part.max(fit / PART).clamp(1, configured)
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
    fn with_few_descriptors_there_are_few_connections_and_of_one_address_fewer() {
        assert_eq!(fit(110), 17);
        assert_eq!(of_one_address(1_000, 10_000, 17), 4);
        assert_eq!(of_one_address(1_000, 10_000, 5_000), 1_000);
        assert_eq!(of_one_address(1_000, 10_000, 10_000), 1_000);
        assert_eq!(
            of_one_address(9_000, 10_000, 100),
            90,
            "as it is configured"
        );
        assert_eq!(of_one_address(1_000, 10_000, 1), 1);
        assert_eq!(of_one_address(2, 10_000, 5_000), 2, "never more");
    }

    #[test]
    fn the_limit_is_raised_to_what_it_may_be() {
        room_for_connections();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
