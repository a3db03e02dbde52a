//! Faults of a run and their times, drawn from the seed.

use harrier_ringbuf::Rng;

use crate::kernel::{Death, DiskPace, HostId, Kernel};
use crate::network::{Link, SendFaults};

/// End of the faults, virtual ns; afterwards everything must recover.
pub const FAULTS_END_NS: i64 = 10_000_000_000;

/// Time in which streams recover from faults of the network, ns.
pub const AFTERMATH_NS: i64 = 500_000_000;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Datagrams of a link are lost, doubled and reordered.
    Noise {
        /// Sending host.
        from: HostId,
        /// Receiving host.
        to: HostId,
        /// Faults of the link.
        link: Link,
    },
    /// Nothing passes in one direction.
    Cut {
        /// Sending host.
        from: HostId,
        /// Receiving host.
        to: HostId,
        /// Duration, ns.
        duration_ns: i64,
    },
    /// All datagrams are held back and arrive at once.
    Burst {
        /// Sending host.
        from: HostId,
        /// Receiving host.
        to: HostId,
        /// Duration, ns.
        duration_ns: i64,
    },
    /// The system has no room for sends.
    NoRoom {
        /// The host.
        host: HostId,
        /// Faults of its sends.
        sends: SendFaults,
    },
    /// The node's disk is slow.
    SlowDisk {
        /// Delays of the disk.
        pace: DiskPace,
    },
    /// The calendar clock of a host jumps.
    ClockJump {
        /// The host.
        host: HostId,
        /// Size of the jump, ms.
        delta_ms: i64,
    },
    /// The node dies at one of its next calls.
    Crash {
        /// True when its machine crashes, false when only the process dies.
        of_machine: bool,
        /// Call at which it dies.
        death: Death,
        /// Time for which it stays down, ns.
        down_ns: i64,
    },
    /// A service that is a process of its own dies.
    ServiceCrash {
        /// Time for which the node, which ends because of it, stays down, ns.
        down_ns: i64,
    },
    /// A client's process dies at one of its next calls.
    ClientCrash {
        /// The client's host.
        host: HostId,
        /// True when its machine crashes, whose monotonic clock then starts anew; false when only the process dies.
        of_machine: bool,
        /// Number of calls before it dies.
        calls: u64,
        /// Time for which it stays down, ns.
        down_ns: i64,
    },
    /// The system does not run a process for a while.
    Stall {
        /// Process that is not run.
        host: HostId,
        /// Duration, ns.
        duration_ns: i64,
    },
    /// Long datagrams do not pass in one direction.
    ShortMtu {
        /// Sending host.
        from: HostId,
        /// Receiving host.
        to: HostId,
        /// Length of the longest datagram that passes, bytes.
        max_length: usize,
    },
    /// Links, sends and the disk have no more faults.
    Heal,
}

impl Fault {
    /// Virtual time until which datagrams may not arrive, ns; `i64::MAX` until the fault is healed.
    pub fn disturbs_network_until(&self, now_ns: i64) -> Option<i64> {
        match *self {
            Self::Noise { .. } | Self::NoRoom { .. } | Self::ShortMtu { .. } => Some(i64::MAX),
            Self::Cut { duration_ns, .. }
            | Self::Burst { duration_ns, .. }
            | Self::Stall { duration_ns, .. } => Some(now_ns + duration_ns + AFTERMATH_NS),
            Self::Heal
            | Self::SlowDisk { .. }
            | Self::ClockJump { .. }
            | Self::Crash { .. }
            | Self::ServiceCrash { .. }
            | Self::ClientCrash { .. } => None,
        }
    }

    /// Name of the fault in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Noise { .. } => "fault: noise on a link",
            Self::Cut { .. } => "fault: link cut one way",
            Self::Burst { .. } => "fault: link held back",
            Self::NoRoom { .. } => "fault: no room for sends",
            Self::SlowDisk { .. } => "fault: slow disk",
            Self::ClockJump { .. } => "fault: calendar jumped",
            Self::Crash { of_machine: false, .. } => "fault: process crash",
            Self::Crash { of_machine: true, .. } => "fault: machine crash",
            Self::ServiceCrash { .. } => "fault: service crash",
            Self::ClientCrash { of_machine: false, .. } => "fault: process crash of a unit",
            Self::ClientCrash { of_machine: true, .. } => "fault: machine crash of a unit",
            Self::Stall { .. } => "fault: process not run",
            Self::ShortMtu { .. } => "fault: link with a short MTU",
            Self::Heal => "healed",
        }
    }
}

/// Faults in the order of their times.
#[derive(Debug, Clone)]
pub struct Plan {
    faults: Vec<(i64, Fault)>,
    next: usize,
}

const KINDS: u64 = 6;

impl Plan {
    /// Draws a plan with at least three kinds of faults. Machines crash only when `machine_crashes` is true, that is
    /// when the node is configured to survive it.
    pub fn draw(rng: &mut Rng, machine_crashes: bool) -> Self {
        let mut faults = Vec::new();
        let mut kinds: Vec<u64> = (0..KINDS).collect();
        for index in (1..kinds.len()).rev() {
            kinds.swap(index, rng.below(index as u64 + 1) as usize);
        }
        // Crashes are the purpose: nearly all runs have some.
        for _ in 0..rng.below(4) {
            faults.push((rng.below(FAULTS_END_NS as u64) as i64, draw_crash(rng, machine_crashes, 3_000)));
        }
        // At the first start most data on the disk is not durable yet.
        let early = match rng.below(4) {
            0 => Some(Death::AtCall(rng.below(300))),
            1 if machine_crashes => Some(Death::AtSync { only_catalog: false, left: rng.below(16) }),
            2 if machine_crashes => Some(Death::AtSync { only_catalog: true, left: rng.below(4) }),
            _ => None,
        };
        if let Some(death) = early {
            faults.push((0, Fault::Crash { of_machine: machine_crashes, death, down_ns: 10_000_000 }));
        }
        for kind in kinds.into_iter().take(3 + rng.below(3) as usize) {
            for _ in 0..1 + rng.below(3) {
                draw_fault(rng, kind, &mut faults);
            }
        }
        faults.push((FAULTS_END_NS, Fault::Heal));
        faults.sort_by_key(|(at, _)| *at);
        Self { faults, next: 0 }
    }

    /// Draws a plan for callbacks that wait: a slow client, a slow disk, and usually a crash in between.
    pub fn draw_for_callbacks(rng: &mut Rng, end_ns: i64, machine_crashes: bool) -> Self {
        let mut faults = Vec::new();
        if rng.chance(2, 3) {
            faults.push((rng.below(120_000_000) as i64, draw_crash(rng, machine_crashes, 4_000)));
        }
        for _ in 0..rng.below(3) {
            let at = rng.below(200_000_000) as i64;
            let duration_ns = rng.below(50_000_000) as i64;
            faults.push((at, Fault::Cut { from: 1, to: 0, duration_ns }));
        }
        if rng.chance(1, 2) {
            let link =
                Link { latency_ns: 20_000 + rng.below(2_000_000), loss_ppm: rng.below(20_000), ..Link::CALM };
            faults.push((rng.below(50_000_000) as i64, Fault::Noise { from: 0, to: 1, link }));
        }
        faults.push((end_ns, Fault::Heal));
        faults.sort_by_key(|(at, _)| *at);
        Self { faults, next: 0 }
    }

    /// Creates a plan of these faults, which may be in any order.
    pub fn of(mut faults: Vec<(i64, Fault)>) -> Self {
        faults.sort_by_key(|(at, _)| *at);
        Self { faults, next: 0 }
    }

    /// Adds deaths of the process of a service.
    pub fn with_service_crashes(mut self, rng: &mut Rng) -> Self {
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(FAULTS_END_NS as u64) as i64;
            let down_ns = 10_000_000 + rng.below(400_000_000) as i64;
            self.faults.push((at, Fault::ServiceCrash { down_ns }));
        }
        self.faults.sort_by_key(|(at, _)| *at);
        self
    }

    /// Creates a plan without faults.
    pub fn none() -> Self {
        Self { faults: Vec::new(), next: 0 }
    }

    /// Returns the next fault that is due.
    pub fn due(&mut self, now_ns: i64) -> Option<Fault> {
        let (at, fault) = *self.faults.get(self.next)?;
        if at > now_ns {
            return None;
        }
        self.next += 1;
        Some(fault)
    }

    /// Returns all faults with their times.
    pub fn faults(&self) -> &[(i64, Fault)] {
        &self.faults
    }
}

fn draw_crash(rng: &mut Rng, machine_crashes: bool, within: u64) -> Fault {
    let death = if machine_crashes && rng.chance(1, 3) {
        Death::AtSync { only_catalog: rng.chance(1, 4), left: rng.below(24) }
    } else {
        Death::AtCall(rng.below(within))
    };
    let down_ns = 10_000_000 + rng.below(600_000_000) as i64;
    Fault::Crash { of_machine: machine_crashes && rng.chance(2, 3), death, down_ns }
}

fn draw_fault(rng: &mut Rng, kind: u64, faults: &mut Vec<(i64, Fault)>) {
    let at = rng.below(FAULTS_END_NS as u64) as i64;
    let (from, to) = if rng.chance(1, 2) { (0, 1) } else { (1, 0) };
    let mut heals_after_ns = None;
    let fault = match kind {
        0 => {
            heals_after_ns = Some(rng.below(4_000_000_000) as i64);
            let link = Link::noisy(rng, [0, 100_000, 5_000_000], [20_000, 1_000_000, 20_000_000]);
            Fault::Noise { from, to, link }
        }
        1 => Fault::Cut { from, to, duration_ns: rng.below(2_000_000_000) as i64 },
        2 => Fault::Burst { from, to, duration_ns: rng.below(300_000_000) as i64 },
        3 => {
            heals_after_ns = Some(rng.below(3_000_000_000) as i64);
            let sends =
                SendFaults { short_ppm: rng.below(500_000), queue_capacity: 1 + rng.below(4) as usize };
            Fault::NoRoom { host: from, sends }
        }
        4 => {
            heals_after_ns = Some(rng.below(2_000_000_000) as i64);
            let pace = DiskPace { operation_ns: rng.below(5_000_000), sync_ns: rng.below(60_000_000) };
            Fault::SlowDisk { pace }
        }
        _ => Fault::ClockJump { host: from, delta_ms: rng.below(4_000) as i64 - 2_000 },
    };
    faults.push((at, fault));
    if let Some(after_ns) = heals_after_ns {
        faults.push(((at + after_ns).min(FAULTS_END_NS), Fault::Heal));
    }
}

/// Applies a fault. Crashes are applied by their scenario.
pub fn apply(kernel: &Kernel, fault: &Fault) {
    let mut state = kernel.state();
    state.fault(fault.name(), &[]);
    let now_ns = state.now_ns;
    match *fault {
        Fault::Noise { from, to, link: noise } => {
            let link = state.network.link_mut(from, to);
            let Link { cut_until_ns, held_until_ns, max_length, .. } = *link;
            *link = Link { cut_until_ns, held_until_ns, max_length, ..noise };
        }
        Fault::Cut { from, to, duration_ns } => {
            state.network.link_mut(from, to).cut_until_ns = now_ns + duration_ns;
        }
        Fault::Burst { from, to, duration_ns } => {
            state.network.link_mut(from, to).held_until_ns = now_ns + duration_ns;
        }
        Fault::NoRoom { host, sends } => *state.network.send_faults_mut(host) = sends,
        Fault::SlowDisk { pace } => state.hosts[0].disk_pace = pace,
        Fault::ClockJump { host, delta_ms } => state.hosts[host].epoch_offset_ms += delta_ms,
        Fault::Stall { host, duration_ns } => state.hosts[host].stalled_until_ns = now_ns + duration_ns,
        Fault::ShortMtu { from, to, max_length } => {
            state.network.link_mut(from, to).max_length = max_length;
        }
        Fault::Heal => {
            state.network.heal();
            state.hosts[0].disk_pace = DiskPace::CALM;
        }
        Fault::Crash { .. } | Fault::ServiceCrash { .. } | Fault::ClientCrash { .. } => {}
    }
}
