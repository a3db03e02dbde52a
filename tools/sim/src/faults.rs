//! What goes wrong in a run, and when: drawn from the seed.

use harrier_ringbuf::Rng;

use crate::kernel::{DiskPace, HostId, Kernel};
use crate::network::{Link, SendFaults};

/// Faults end here, virtual ns; what follows must heal.
pub const FAULTS_END_NS: i64 = 10_000_000_000;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Datagrams are lost, doubled and reordered.
    Noise { from: HostId, to: HostId, loss_ppm: u64, duplicate_ppm: u64, jitter_ns: u64, latency_ns: u64 },
    /// Nothing passes in one direction.
    Cut { from: HostId, to: HostId, duration_ns: i64 },
    /// Everything is held back and arrives at once.
    Burst { from: HostId, to: HostId, duration_ns: i64 },
    /// The system has no room for sends.
    NoRoom { host: HostId, short_ppm: u64, queue_capacity: usize },
    /// The disk is slow.
    SlowDisk { operation_ns: u64, sync_ns: u64 },
    /// The calendar of a host jumps.
    ClockJump { host: HostId, delta_ms: i64 },
    /// The node's process dies at one of its next calls.
    ProcessCrash { within_calls: u64, down_ns: i64 },
    /// The node's machine loses its power at one of its next calls.
    MachineCrash { within_calls: u64, down_ns: i64 },
    /// A link, a host's sends or the disk are well again.
    Heal,
}

impl Fault {
    /// Name for reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Noise { .. } => "fault: noise on a link",
            Self::Cut { .. } => "fault: link cut one way",
            Self::Burst { .. } => "fault: link held back",
            Self::NoRoom { .. } => "fault: no room for sends",
            Self::SlowDisk { .. } => "fault: slow disk",
            Self::ClockJump { .. } => "fault: calendar jumped",
            Self::ProcessCrash { .. } => "fault: process crash",
            Self::MachineCrash { .. } => "fault: machine crash",
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
    /// Draws a plan of at least three kinds of fault. Machines crash only when `machine_crashes` says that the node is
    /// made for it.
    pub fn draw(rng: &mut Rng, machine_crashes: bool) -> Self {
        let mut faults = Vec::new();
        let mut kinds: Vec<u64> = (0..KINDS).collect();
        for index in (1..kinds.len()).rev() {
            kinds.swap(index, rng.below(index as u64 + 1) as usize);
        }
        // Crashes are the point: nearly all runs have some.
        for _ in 0..rng.below(4) {
            faults.push((rng.below(FAULTS_END_NS as u64) as i64, draw_crash(rng, machine_crashes, 3_000)));
        }
        if rng.chance(1, 3) {
            faults.push((0, draw_crash(rng, machine_crashes, 300)));
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

    /// No faults at all.
    pub fn none() -> Self {
        Self { faults: Vec::new(), next: 0 }
    }

    /// The next fault that is due.
    pub fn due(&mut self, now_ns: i64) -> Option<Fault> {
        let (at, fault) = *self.faults.get(self.next)?;
        if at > now_ns {
            return None;
        }
        self.next += 1;
        Some(fault)
    }

    /// All faults with their times.
    pub fn faults(&self) -> &[(i64, Fault)] {
        &self.faults
    }
}

fn draw_crash(rng: &mut Rng, machine_crashes: bool, within: u64) -> Fault {
    let within_calls = rng.below(within);
    let down_ns = 10_000_000 + rng.below(600_000_000) as i64;
    if machine_crashes && rng.chance(2, 3) {
        Fault::MachineCrash { within_calls, down_ns }
    } else {
        Fault::ProcessCrash { within_calls, down_ns }
    }
}

fn draw_fault(rng: &mut Rng, kind: u64, faults: &mut Vec<(i64, Fault)>) {
    let at = rng.below(FAULTS_END_NS as u64) as i64;
    let (from, to) = if rng.chance(1, 2) { (0, 1) } else { (1, 0) };
    let mut heals_after_ns = None;
    let fault = match kind {
        0 => {
            heals_after_ns = Some(rng.below(4_000_000_000) as i64);
            Fault::Noise {
                from,
                to,
                loss_ppm: [0, 10_000, 50_000, 200_000][rng.below(4) as usize],
                duplicate_ppm: [0, 10_000, 100_000][rng.below(3) as usize],
                jitter_ns: [0, 100_000, 5_000_000][rng.below(3) as usize],
                latency_ns: [20_000, 1_000_000, 20_000_000][rng.below(3) as usize],
            }
        }
        1 => Fault::Cut { from, to, duration_ns: rng.below(2_000_000_000) as i64 },
        2 => Fault::Burst { from, to, duration_ns: rng.below(300_000_000) as i64 },
        3 => {
            heals_after_ns = Some(rng.below(3_000_000_000) as i64);
            Fault::NoRoom {
                host: from,
                short_ppm: rng.below(500_000),
                queue_capacity: 1 + rng.below(4) as usize,
            }
        }
        4 => {
            heals_after_ns = Some(rng.below(2_000_000_000) as i64);
            Fault::SlowDisk {
                operation_ns: rng.below(5_000_000),
                sync_ns: rng.below(60_000_000),
            }
        }
        _ => Fault::ClockJump { host: from, delta_ms: rng.below(4_000) as i64 - 2_000 },
    };
    faults.push((at, fault));
    if let Some(after_ns) = heals_after_ns {
        faults.push(((at + after_ns).min(FAULTS_END_NS), Fault::Heal));
    }
}

/// Brings about all faults but crashes, which are their scenario's.
pub fn apply(kernel: &Kernel, fault: &Fault) {
    let mut state = kernel.state();
    state.fault(fault.name(), &[]);
    let now_ns = state.now_ns;
    match *fault {
        Fault::Noise { from, to, loss_ppm, duplicate_ppm, jitter_ns, latency_ns } => {
            let link = state.network.link_mut(from, to);
            *link = Link { loss_ppm, duplicate_ppm, jitter_ns, latency_ns, ..*link };
        }
        Fault::Cut { from, to, duration_ns } => {
            state.network.link_mut(from, to).cut_until_ns = now_ns + duration_ns;
        }
        Fault::Burst { from, to, duration_ns } => {
            state.network.link_mut(from, to).held_until_ns = now_ns + duration_ns;
        }
        Fault::NoRoom { host, short_ppm, queue_capacity } => {
            *state.network.send_faults_mut(host) = SendFaults { short_ppm, queue_capacity };
        }
        Fault::SlowDisk { operation_ns, sync_ns } => {
            state.hosts[0].disk_pace = DiskPace { operation_ns, sync_ns };
        }
        Fault::ClockJump { host, delta_ms } => state.hosts[host].epoch_offset_ms += delta_ms,
        Fault::Heal => {
            for (from, to) in [(0, 1), (1, 0)] {
                *state.network.link_mut(from, to) = Link::CALM;
            }
            for host in 0..2 {
                *state.network.send_faults_mut(host) = SendFaults::default();
            }
            state.hosts[0].disk_pace = DiskPace::CALM;
        }
        Fault::ProcessCrash { .. } | Fault::MachineCrash { .. } => {}
    }
}
