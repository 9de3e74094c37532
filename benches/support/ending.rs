//! Ending the proxy in order.

use std::process::Command;

use crate::binary::Running;

impl Running {
    /// Ends the process in order, and waits until it has.
    pub(crate) fn end(mut self) {
        let id = self.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status();
        assert!(told.unwrap().success());
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}
