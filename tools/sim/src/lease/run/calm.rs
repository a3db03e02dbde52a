//! Times since when nothing has disturbed a unit and its path to the node.

use super::super::ALL_UNITS;
use crate::faults::{AFTERMATH_NS, Fault};

/// Marks a unit that is disturbed until told otherwise.
const NEVER: i64 = i64::MAX;

/// Times of the last disturbances, virtual ns.
#[derive(Debug, Default)]
pub(super) struct Calm {
    network_ns: [i64; ALL_UNITS],
    unit_ns: [i64; ALL_UNITS],
    disk_ns: i64,
    node_ns: i64,
    /// Times in which the node did not lead: from its death until it led again.
    outages: Vec<(i64, i64)>,
}

impl Calm {
    /// A fault begins.
    pub(super) fn on_fault(&mut self, fault: &Fault, now_ns: i64) {
        let until_ns = fault.disturbs_network_until(now_ns).unwrap_or(now_ns);
        match *fault {
            Fault::Noise { from, to, .. } | Fault::Cut { from, to, .. } | Fault::Burst { from, to, .. } => {
                self.disturb(from.max(to), until_ns);
            }
            Fault::NoRoom { host: 0, .. } => (1..=ALL_UNITS).for_each(|host| self.disturb(host, until_ns)),
            Fault::NoRoom { host, .. } => self.disturb(host, until_ns),
            Fault::SlowDisk { .. } => self.disk_ns = NEVER,
            Fault::Heal => {
                for own in self.network_ns.iter_mut().chain([&mut self.disk_ns]) {
                    *own = (*own).min(now_ns + AFTERMATH_NS);
                }
            }
            Fault::ClockJump { .. }
            | Fault::Stall { .. }
            | Fault::ShortMtu { .. }
            | Fault::Crash { .. }
            | Fault::ServiceCrash { .. }
            | Fault::ClientCrash { .. } => {}
        }
    }

    fn disturb(&mut self, host: usize, until_ns: i64) {
        let own = &mut self.network_ns[host - 1];
        *own = (*own).max(until_ns);
    }

    pub(super) fn on_unit_start(&mut self, unit: usize, now_ns: i64) {
        self.unit_ns[unit] = now_ns;
    }

    pub(super) fn on_unit_death(&mut self, unit: usize) {
        self.unit_ns[unit] = NEVER;
    }

    pub(super) fn on_node_death(&mut self, now_ns: i64) {
        // A node that dies again before it leads was not available in between.
        if self.node_ns != NEVER {
            self.outages.push((now_ns, NEVER));
        }
        self.node_ns = NEVER;
    }

    /// The node leads.
    pub(super) fn on_term(&mut self, now_ns: i64) {
        if self.node_ns != NEVER {
            return;
        }
        self.node_ns = now_ns;
        if let Some((_, until_ns)) = self.outages.last_mut() {
            *until_ns = now_ns;
        }
    }

    /// Returns the time since when nothing has disturbed a unit and its path to the node.
    pub(super) fn since_ns(&self, unit: usize) -> i64 {
        self.network_ns[unit].max(self.unit_ns[unit]).max(self.disk_ns).max(self.node_ns)
    }

    /// Returns how often and how long the node was down since then, when nothing else disturbed the unit.
    pub(super) fn outages(&self, unit: usize, since_ns: i64) -> Option<(usize, i64)> {
        let is_calm = self.network_ns[unit].max(self.unit_ns[unit]).max(self.disk_ns) < since_ns;
        let within = self.outages.iter().filter(|(_, until_ns)| *until_ns >= since_ns);
        let longest = within.clone().map(|(from_ns, until_ns)| until_ns.saturating_sub(*from_ns)).max();
        is_calm.then_some((within.count(), longest.unwrap_or_default()))
    }
}
