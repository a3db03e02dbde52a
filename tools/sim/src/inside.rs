//! Counters of a host's parts at the end of a life: they show rare branches of the driver, and errors of all parts.

use std::cell::RefCell;
use std::rc::Rc;

use harrier_client::{Aeron, Context};
use harrier_driver::system_counters::SystemCounter;

use crate::history::History;
use crate::kernel::{HostId, Kernel};
use crate::memory::SimMemory;

/// System counters that tell of rare branches, by host.
const BRANCHES: [(SystemCounter, [&str; 2]); 13] = [
    (SystemCounter::NaksSent, ["node driver: NAKs sent", "client driver: NAKs sent"]),
    (SystemCounter::NaksReceived, ["node driver: NAKs received", "client driver: NAKs received"]),
    (SystemCounter::RetransmitsSent, ["node driver: retransmits", "client driver: retransmits"]),
    (
        SystemCounter::RetransmitOverflow,
        ["node driver: retransmit overflow", "client driver: retransmit overflow"],
    ),
    (SystemCounter::FlowControlUnderRuns, ["node driver: under runs", "client driver: under runs"]),
    (SystemCounter::FlowControlOverRuns, ["node driver: over runs", "client driver: over runs"]),
    (
        SystemCounter::SenderFlowControlLimits,
        ["node driver: flow control limits", "client driver: flow control limits"],
    ),
    (SystemCounter::ShortSends, ["node driver: short sends", "client driver: short sends"]),
    (SystemCounter::HeartbeatsSent, ["node driver: heartbeats sent", "client driver: heartbeats sent"]),
    (SystemCounter::InvalidPackets, ["node driver: invalid packets", "client driver: invalid packets"]),
    (SystemCounter::ClientTimeouts, ["node driver: client timeouts", "client driver: client timeouts"]),
    (
        SystemCounter::UnblockedPublications,
        ["node driver: unblocked publications", "client driver: unblocked publications"],
    ),
    (SystemCounter::Errors, ["node driver: errors", "client driver: errors"]),
];

/// Labels of error counters of archive and consensus module.
const ERRORS: [&str; 3] = ["Archive Errors", "Cluster Errors", "Cluster Container Errors"];

/// Adds a host's counters to the coverage. Unless some are expected, errors that the parts have recorded break a rule: no
/// other fault here is one that a driver, an archive or a consensus module may complain of.
pub fn harvest(
    kernel: &Kernel,
    host: HostId,
    memory: &SimMemory,
    aeron_directory: &str,
    history: &Rc<RefCell<History>>,
    are_errors_expected: bool,
) {
    let now = kernel.now(host);
    let Ok(aeron) = Aeron::connect(Context::new(aeron_directory), memory.clone(), &now) else { return };
    let counters = aeron.counters();
    for (counter, names) in BRANCHES {
        let value = counters.value(counter as i32);
        if value > 0 {
            kernel.state().coverage.add(names[host.min(1)], value as u64);
        }
        if counter == SystemCounter::Errors && value > 0 && !are_errors_expected {
            history.borrow_mut().violate("recorded errors", format!("{value} in a driver's error log"));
        }
    }
    counters.for_each(&mut |id, _, _, label| {
        let is_error = ERRORS.iter().any(|name| label.starts_with(name));
        if is_error && counters.value(id) > 0 && !are_errors_expected {
            history.borrow_mut().violate("recorded errors", format!("{} {label}", counters.value(id)));
        }
    });
}
