//! Processes of peers.

use std::process::Child;

/// A process that ends with its owner.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
