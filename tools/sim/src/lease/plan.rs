//! Faults between units and their node.

use harrier_ringbuf::Rng;

use super::ALL_UNITS;
use crate::faults::{FAULTS_END_NS, Fault, Plan};
use crate::kernel::{Death, DiskPace};
use crate::network::{Link, SendFaults};

/// Greatest drift of a clock, millionths: two clocks differ by less than one in a thousand.
const MOST_DRIFT_PPM: u64 = 499;

/// Draws the lead of a host's clocks over virtual time, millionths.
pub(super) fn draw_drift_ppm(rng: &mut Rng) -> i64 {
    let most = MOST_DRIFT_PPM as i64;
    match rng.below(4) {
        0 => most,
        1 => -most,
        _ => rng.below(2 * MOST_DRIFT_PPM + 1) as i64 - most,
    }
}

/// Draws the faults of a seed. Machines crash only when `machine_crashes` is true, that is when the node is
/// configured to survive it.
pub(super) fn draw(rng: &mut Rng, machine_crashes: bool) -> Plan {
    let mut faults = vec![(FAULTS_END_NS, Fault::Heal)];
    let at = |rng: &mut Rng| rng.below(FAULTS_END_NS as u64) as i64;
    for _ in 0..rng.below(5) {
        let when = at(rng);
        faults.push((when, draw_node_crash(rng, machine_crashes, 2_000)));
        // A node that restarts often has another date.
        if rng.chance(1, 2) {
            faults.push((when, Fault::ClockJump { host: 0, delta_ms: rng.below(6_000) as i64 - 2_500 }));
        }
    }
    if rng.chance(1, 6) {
        let death = Death::AtCall(rng.below(300));
        faults.push((0, Fault::Crash { of_machine: machine_crashes, death, down_ns: 10_000_000 }));
    }
    for _ in 0..rng.below(6) {
        let host = 1 + rng.below(ALL_UNITS as u64) as usize;
        let down_ns = 10_000_000 + rng.below(1_500_000_000) as i64;
        let (of_machine, calls) = (rng.chance(1, 2), rng.below(100));
        faults.push((at(rng), Fault::ClientCrash { host, of_machine, calls, down_ns }));
    }
    for _ in 0..2 + rng.below(5) {
        let when = at(rng);
        draw_fault(rng, when, &mut faults);
    }
    Plan::of(faults)
}

fn draw_node_crash(rng: &mut Rng, machine_crashes: bool, within: u64) -> Fault {
    let death = if machine_crashes && rng.chance(1, 3) {
        Death::AtSync { only_catalog: false, left: rng.below(24) }
    } else {
        Death::AtCall(rng.below(within))
    };
    let longest_ns = if rng.chance(1, 3) { 2_000_000_000 } else { 300_000_000 };
    let down_ns = 10_000_000 + rng.below(longest_ns) as i64;
    Fault::Crash { of_machine: machine_crashes && rng.chance(2, 3), death, down_ns }
}

fn draw_fault(rng: &mut Rng, at: i64, faults: &mut Vec<(i64, Fault)>) {
    let unit = 1 + rng.below(ALL_UNITS as u64) as usize;
    let (from, to) = if rng.chance(1, 2) { (0, unit) } else { (unit, 0) };
    let mut heals_after_ns = None;
    match rng.below(8) {
        0 | 1 => {
            heals_after_ns = Some(rng.below(3_000_000_000) as i64);
            let link = Link::noisy(rng, [0, 100_000, 5_000_000], [20_000, 1_000_000, 20_000_000]);
            faults.push((at, Fault::Noise { from, to, link }));
        }
        2 => faults.push((at, Fault::Cut { from, to, duration_ns: rng.below(3_000_000_000) as i64 })),
        3 => {
            // This cuts both directions.
            let duration_ns = rng.below(4_000_000_000) as i64;
            faults.push((at, Fault::Cut { from, to, duration_ns }));
            faults.push((at, Fault::Cut { from: to, to: from, duration_ns }));
        }
        4 => faults.push((at, Fault::Burst { from, to, duration_ns: rng.below(900_000_000) as i64 })),
        5 => {
            heals_after_ns = Some(rng.below(2_000_000_000) as i64);
            let sends =
                SendFaults { short_ppm: rng.below(500_000), queue_capacity: 1 + rng.below(4) as usize };
            faults.push((at, Fault::NoRoom { host: from, sends }));
        }
        6 => {
            heals_after_ns = Some(rng.below(2_000_000_000) as i64);
            let pace = DiskPace { operation_ns: rng.below(5_000_000), sync_ns: rng.below(60_000_000) };
            faults.push((at, Fault::SlowDisk { pace }));
        }
        _ => {
            let host = if rng.chance(1, 2) { 0 } else { unit };
            faults.push((at, Fault::ClockJump { host, delta_ms: rng.below(6_000) as i64 - 3_000 }));
        }
    }
    if let Some(after_ns) = heals_after_ns {
        faults.push(((at + after_ns).min(FAULTS_END_NS), Fault::Heal));
    }
}
