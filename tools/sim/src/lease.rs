//! Area `lease`: a node with the lease service and a service that accepts fences, and units on hosts of their own.
//! Their clocks are off by seconds and drift. Nodes and units crash, are cut off and restart; the checkers judge them
//! in virtual time (spec 05).

mod beliefs;
mod plan;
mod recorder;
mod roles;
mod run;
mod truth;
mod unit;
mod watched;
mod witness;

pub use run::{Scenario, run};

use harrier_lease::LeaseSettings;

/// Number of applications that units lead.
pub const APPLICATIONS: usize = 3;
/// Number of units of each application.
pub const UNITS: usize = 3;
/// Number of all units.
const ALL_UNITS: usize = APPLICATIONS * UNITS;
/// Number of a unit among all units.
pub type UnitId = u8;

/// Small limits, which some runs reach.
const SETTINGS: LeaseSettings = LeaseSettings {
    max_leases: 4,
    max_waiters: 18,
    max_pins: 3,
    min_duration_ns: 1_000_000,
    max_duration_ns: 60_000_000_000,
    drift_divisor: 1_000,
};

const NAMES: [&str; APPLICATIONS] = ["a", "b", "c"];
const UNIT_NAMES: [&str; ALL_UNITS] = ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2", "c/0", "c/1", "c/2"];

fn application_name(application: usize) -> &'static str {
    NAMES[application]
}

fn unit_name(unit: UnitId) -> &'static str {
    UNIT_NAMES[usize::from(unit)]
}

fn application_of(name: &str) -> usize {
    NAMES.iter().position(|candidate| *candidate == name).unwrap_or_default()
}

fn place_of(unit: &str) -> Option<UnitId> {
    UNIT_NAMES.iter().position(|candidate| *candidate == unit).map(|index| index as UnitId)
}

/// Encodes the message of a leader: its application, its token, and a number.
fn encode_write(application: usize, token: u64, number: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (place, word) in bytes.chunks_exact_mut(8).zip([application as u64, token, number]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Returns application and token of a leader's message.
fn write_of(payload: &[u8]) -> Option<(usize, u64)> {
    let word = |at: usize| Some(u64::from_le_bytes(*payload.get(at..)?.first_chunk()?));
    let application = word(0)? as usize;
    (payload.len() == 24 && application < APPLICATIONS).then_some((application, word(8)?))
}

/// Names of the faults, states and branches that enough seeds must hit.
pub const EXPECTED: [&str; 54] = [
    "application pinned",
    "check without an answer",
    "check: held",
    "check: not held",
    "claim denied",
    "claim refused: unit held by another process",
    "claim granted",
    "claim refused: too many leases",
    "claim ticket false",
    "claim ticket true",
    "claim without an answer",
    "client told that its fence is stale",
    "crash while starting",
    "datagram cut off",
    "datagram doubled",
    "datagram held back",
    "datagram lost",
    "datagram overtook another",
    "expiry woke who waited",
    "fault: calendar jumped",
    "fault: machine crash",
    "fault: machine crash of a unit",
    "fault: process crash",
    "fault: process crash of a unit",
    "fault: slow disk",
    "fenced message passed",
    "fenced message refused",
    "leader kept its tenure through a restart",
    "leader ticket false",
    "leader ticket true",
    "leadership term",
    "lease extended by a new term",
    "lease released",
    "lease renewed",
    "leases listed",
    "minion ticket",
    "operator: snapshot taken",
    "pin refused, or not answered",
    "release of a stale token",
    "session lost, and another opened",
    "session timed out",
    "session went on in a new term",
    "snapshot loaded by a service",
    "snapshot taken with waiters",
    "table full",
    "takeover by another unit",
    "timer early",
    "timer of a lease that is gone",
    "timer on time",
    "wait ended by a release",
    "wait for a tenure that is over",
    "wait given up",
    "wait refused: too many waiters",
    "wait registered again",
];
