//! Page size: the kernel's huge pages, which the allocator asks for.

use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};

/// While this lives, memory that the process touches first comes in pages of the usual size.
///
/// Requests take some hundredths less time with huge pages. Reading the configuration takes no less, and the start of a
/// process would round each region that it touches up to 2 MiB: some 20 MiB in all.
pub struct SmallPages {
    /// Whether they were in use before.
    had_huge: bool,
}

impl SmallPages {
    /// Begins it. A kernel that has no such switch goes on as before.
    pub fn begin() -> Self {
        let is_off = transparent_huge_pages_are_disabled().unwrap_or(true);
        Self {
            had_huge: !is_off && disable_transparent_huge_pages(true).is_ok(),
        }
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        if self.had_huge {
            // What could be switched off can be switched on.
            let _on = disable_transparent_huge_pages(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_off_while_it_lives_and_as_before_behind_it() {
        let is_off = || transparent_huge_pages_are_disabled().unwrap();
        let before = is_off();
        {
            let _outer = SmallPages::begin();
            drop(SmallPages::begin());
            assert!(is_off(), "one within another ends nothing");
        }
        assert_eq!(is_off(), before);
    }
}
