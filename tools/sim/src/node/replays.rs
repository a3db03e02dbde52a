//! Checks after a run: the same log gives the same state again, with and without snapshots.

use std::path::Path;

use harrier_archive::SyncLevel;
use harrier_cluster::tool;

use super::{HEALING_NS, NODE, Run, SEGMENT_LENGTH};
use crate::faults::Fault;
use crate::kernel::Death;
use crate::snapshot;
use crate::storage::SimStorage;

impl Run {
    /// Replays the log into fresh services, once after the latest snapshot and once alone. Both must reach the same
    /// state.
    pub(super) fn replay_twice_more(&mut self) {
        self.restart();
        self.check_agreement();
        self.is_log_alone = true;
        self.restart();
        self.check_agreement();
        self.compare_module_snapshots();
        self.check_snapshot();
    }

    /// Crashes the node and waits until it leads again.
    fn restart(&mut self) {
        if self.is_violated() {
            return;
        }
        let digest = self.history().digest();
        let terms = self.history().terms();
        let of_machine = self.scenario.sync_level > SyncLevel::None;
        self.death = Some(Fault::Crash { of_machine, death: Death::AtCall(0), down_ns: 50_000_000 });
        let events = self.history().events().len();
        self.on_death();
        let deadline_ns = self.kernel.state().now_ns + HEALING_NS;
        while !self.is_violated() && self.histories.iter().any(|history| history.borrow().terms() == terms) {
            self.step();
            if self.kernel.state().now_ns > deadline_ns {
                let cursor = self.history().cursor;
                self.violate("progress", format!("the last replay ended after {cursor} of {events} events"));
            }
        }
        self.kernel.state().note("replayed", &[digest]);
    }

    /// Checks that all services have seen the same events and have the same state.
    fn check_agreement(&self) {
        for other in &self.histories[1..] {
            let (first, other) = (self.histories[0].borrow(), other.borrow());
            let (own, others) = (first.events(), other.events());
            let differ = own.iter().zip(others).position(|(other, others)| other != others);
            let text = match differ {
                Some(at) => format!("event {at} is {:?} and {:?}", own[at], others[at]),
                None if own.len() != others.len() || first.digest() != other.digest() => {
                    format!("{} and {} events", own.len(), others.len())
                }
                None => continue,
            };
            drop((first, other));
            return self.violate("agreement", text);
        }
    }

    /// Removes all snapshots from recording.log, so that the node begins with the log.
    pub(super) fn forget_snapshots(&self) -> Result<(), String> {
        let now = self.kernel.now(NODE);
        let mut storage = SimStorage::new(self.kernel.clone(), NODE);
        let directory = Path::new("/var/node/cluster");
        while tool::invalidate_latest_snapshot(&self.node_memory, &mut storage, directory, &now)
            .map_err(|error| error.to_string())?
        {
            self.kernel.state().coverage.hit("snapshot forgotten for the log alone");
        }
        Ok(())
    }

    fn check_snapshot(&self) {
        if self.scenario.snapshot_order.is_none() || self.is_violated() {
            return;
        }
        let snapshot = self.history().snapshot;
        let lives = self.history().incarnation;
        let Some(snapshot) = snapshot else {
            // An order that a replay applied first is answered without a snapshot. The last two lives are replays
            // too.
            if lives > 3 {
                return self.kernel.state().coverage.hit("snapshot overtaken by a crash");
            }
            return self.violate("snapshot", "was never finished");
        };
        let directory = Path::new("/var/node/archive");
        let length = self.scenario.snapshot_length;
        let state = self.kernel.state();
        let disk = &state.hosts[NODE].disk;
        if let Err(error) = snapshot::verify(disk, directory, &snapshot, length, SEGMENT_LENGTH) {
            self.violate("snapshot", error);
        }
    }
}
