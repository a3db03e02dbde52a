//! Area `callback`: a service waits inside its callbacks, for egress that takes nothing and for a snapshot that goes
//! through a recorded publication with small terms. The node crashes meanwhile and replays the log.

use std::collections::VecDeque;

use harrier_archive::SyncLevel;
use harrier_ringbuf::Rng;

use crate::faults::Plan;
use crate::node::{self, Scenario};
use crate::report::Outcome;

/// Length of a snapshot, bytes.
pub const SNAPSHOT_LENGTH: usize = 10 << 20;
/// End of the faults, virtual ns.
const FAULTS_END_NS: i64 = 1_000_000_000;

/// Runs one seed.
pub fn run(seed: u64, sync_level: SyncLevel, keep_lines: bool) -> Outcome {
    let mut rng = Rng::new(seed ^ 0xCA11_0000_0000_0001);
    let orders = 40;
    let scenario = Scenario {
        sync_level,
        keep_lines,
        orders,
        pause_ns: 2_000_000,
        long_answer_period: 1,
        window: orders as usize,
        faults_end_ns: FAULTS_END_NS,
        has_visitors: false,
        services: 1,
        is_service_apart: false,
        commands: VecDeque::new(),
        snapshot_order: Some(1 + rng.below(orders)),
        snapshot_length: SNAPSHOT_LENGTH,
        plan: Plan::draw_for_callbacks(&mut rng, FAULTS_END_NS, sync_level > SyncLevel::None),
    };
    node::run(seed, scenario)
}
