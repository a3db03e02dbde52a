//! What can be simulated.

use harrier_archive::SyncLevel;

use crate::node::Scenario;
use crate::report::Outcome;
use crate::{callback, node};

/// An area of simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// A whole node with its clients.
    Node,
    /// A service that waits inside its callbacks.
    Callback,
}

impl Area {
    /// Runs one seed; with `keep_lines` the outcome has the events as text.
    pub fn run(self, seed: u64, sync_level: SyncLevel, keep_lines: bool) -> Outcome {
        match self {
            Self::Node => node::run(seed, Scenario::draw(seed, sync_level, keep_lines)),
            Self::Callback => callback::run(seed, sync_level, keep_lines),
        }
    }
}
