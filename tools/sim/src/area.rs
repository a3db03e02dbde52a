//! Areas of simulation.

use harrier_archive::SyncLevel;

use crate::node::Scenario;
use crate::report::Outcome;
use crate::{callback, election, lease, node, streams};

/// An area of simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// A whole node with its clients.
    Node,
    /// A service that waits inside its callbacks.
    Callback,
    /// A lease service with units that claim, hold, wait and write behind fences.
    Lease,
    /// Media drivers that exchange streams.
    Streams,
    /// Pure elections over a model log and a model network.
    Election,
}

impl Area {
    /// Names of the faults, states and rare branches that enough seeds must hit.
    pub fn expected(self) -> &'static [&'static str] {
        match self {
            Self::Node | Self::Callback => &[],
            Self::Lease => &lease::EXPECTED,
            Self::Streams => &streams::EXPECTED,
            Self::Election => &election::EXPECTED,
        }
    }

    /// Runs one seed; with `keep_lines` the outcome contains the events as text.
    pub fn run(self, seed: u64, sync_level: SyncLevel, keep_lines: bool) -> Outcome {
        match self {
            Self::Node => node::run(seed, Scenario::draw(seed, sync_level, keep_lines)),
            Self::Callback => callback::run(seed, sync_level, keep_lines),
            Self::Lease => lease::run(seed, lease::Scenario::draw(seed, sync_level, keep_lines)),
            Self::Streams => streams::run(seed, streams::Scenario::draw(seed, keep_lines)),
            Self::Election => election::run(seed, election::Scenario::draw(seed, keep_lines)),
        }
    }
}
