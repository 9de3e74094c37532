//! A gate at which threads wait until a test lets them through: answers are held for as long as a test needs them held, and
//! for no fixed time.

use std::sync::{Condvar, Mutex};

pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn open() -> Self {
        Self::being(true)
    }

    pub(crate) fn closed() -> Self {
        Self::being(false)
    }

    fn being(is_open: bool) -> Self {
        Self {
            is_open: Mutex::new(is_open),
            opened: Condvar::new(),
        }
    }

    /// Holds the threads that come from now on.
    pub(crate) fn hold(&self) {
        *self.is_open.lock().expect("nobody panicked") = false;
    }

    /// Lets those through that wait, and those that come.
    pub(crate) fn let_through(&self) {
        *self.is_open.lock().expect("nobody panicked") = true;
        self.opened.notify_all();
    }

    /// Waits while the gate is closed.
    pub(crate) fn pass(&self) {
        let is_open = self.is_open.lock().expect("nobody panicked");
        drop(self.opened.wait_while(is_open, |is_open| !*is_open));
    }
}
