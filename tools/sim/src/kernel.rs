//! What all simulated hosts share: time, randomness, the network, disks, and who dies when.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use harrier_ringbuf::shared_thread::ProcessDeath;
use harrier_ringbuf::{Now, Rng};

use crate::disk::Disk;
use crate::network::Network;
use crate::streams::Wire;
use crate::trace::{Coverage, Trace};

/// A simulated host by its number.
pub type HostId = usize;

/// Milliseconds since the epoch at which every run begins.
const EPOCH_START_MS: i64 = 1_700_000_000_000;

/// At which of its calls a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// After so many calls to storage, network and memory.
    AtCall(u64),
    /// After so many syncs, when all that was written since the last one has been carried out and is not safe.
    AtSync {
        /// Counts only syncs of the archive's catalog.
        only_catalog: bool,
        /// Syncs that are still carried out.
        left: u64,
    },
}

/// How slow a disk is, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPace {
    /// Longest delay of an operation.
    pub operation_ns: u64,
    /// Longest delay of a sync.
    pub sync_ns: u64,
}

impl DiskPace {
    /// A good disk.
    pub const CALM: Self = Self { operation_ns: 30_000, sync_ns: 400_000 };
}

/// One host.
pub struct Host {
    /// Its files.
    pub disk: Disk,
    /// How slow its disk is now.
    pub disk_pace: DiskPace,
    /// How far its calendar is off, ms.
    pub epoch_offset_ms: i64,
    /// Its process's death.
    pub death: Option<Death>,
    /// Set from the death of a process until the next one begins: its remains do nothing.
    pub is_dead: bool,
    /// The system does not run its process until then, virtual ns.
    pub stalled_until_ns: i64,
    monotonic_origin_ns: i64,
    /// How much faster its clocks run than virtual time, millionths.
    drift_ppm: i64,
    /// Whose clocks it reads: of processes on one machine the first one's.
    machine: HostId,
}

/// Millionths in one.
const MILLION: i64 = 1_000_000;

impl Host {
    /// Time that passes on its clocks in so much virtual time, ns. A run is far shorter than overflow is away.
    fn elapsed_ns(&self, virtual_ns: i64) -> i64 {
        virtual_ns + (virtual_ns * self.drift_ppm).div_euclid(MILLION)
    }

    /// The first moment of virtual time at which its monotonic clock shows `monotonic_ns`.
    fn virtual_ns(&self, monotonic_ns: i64) -> i64 {
        let elapsed_ns = monotonic_ns.saturating_sub(self.monotonic_origin_ns);
        if self.drift_ppm == 0 {
            return elapsed_ns;
        }
        let virtual_ns = i128::from(elapsed_ns) * i128::from(MILLION);
        let rate = i128::from(MILLION + self.drift_ppm);
        i64::try_from(-(-virtual_ns).div_euclid(rate)).unwrap_or(i64::MAX)
    }
}

/// The state behind all seams.
pub struct State {
    /// Virtual time, ns.
    pub now_ns: i64,
    /// Randomness of delays and of what crashes leave.
    pub rng: Rng,
    /// Hosts by number.
    pub hosts: Vec<Host>,
    /// The network between them.
    pub network: Network,
    /// Who looks at all that is on it, in runs that check the frames of streams.
    pub wire: Option<Wire>,
    /// Hash of what happened.
    pub trace: Trace,
    /// Counts of what happened.
    pub coverage: Coverage,
    /// Times at which a host's file operation completes, virtual ns.
    pub wakes: BTreeSet<(i64, HostId)>,
    /// Hosts with a file operation that has just completed.
    pub woken: Vec<bool>,
}

impl State {
    /// Until when a process is not run; nothing when it is.
    pub fn stalled_until_ns(&self, host: HostId) -> Option<i64> {
        let until_ns = self.hosts[host].stalled_until_ns;
        (self.now_ns < until_ns).then_some(until_ns)
    }

    /// Adds an event to the trace.
    pub fn note(&mut self, what: &'static str, numbers: &[u64]) {
        self.trace.add(self.now_ns, what, numbers);
    }

    /// Counts and traces a fault.
    pub fn fault(&mut self, what: &'static str, numbers: &[u64]) {
        self.coverage.hit(what);
        self.note(what, numbers);
    }
}

/// True when nothing was left.
fn count_down(left: &mut u64) -> bool {
    let is_last = *left == 0;
    *left = left.saturating_sub(1);
    is_last
}

/// A handle on the simulated world; clones share it.
#[derive(Clone)]
pub struct Kernel(Arc<Mutex<State>>);

impl Kernel {
    /// A world of `host_count` hosts whose randomness follows `seed`.
    pub fn new(host_count: usize, seed: u64, keep_lines: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x51D0_0000_0000_0001);
        let hosts = (0..host_count)
            .map(|host| Host {
                machine: host,
                disk: Disk::default(),
                disk_pace: DiskPace::CALM,
                epoch_offset_ms: rng.below(2_000) as i64 - 1_000,
                death: None,
                is_dead: false,
                stalled_until_ns: 0,
                monotonic_origin_ns: rng.below(1_000_000_000_000) as i64,
                drift_ppm: 0,
            })
            .collect();
        let network = Network::new(host_count, rng.fork());
        Self(Arc::new(Mutex::new(State {
            now_ns: 0,
            rng,
            hosts,
            network,
            wire: None,
            trace: Trace::new(keep_lines),
            coverage: Coverage::default(),
            wakes: BTreeSet::new(),
            woken: vec![false; host_count],
        })))
    }

    /// The state, for a moment.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host's time.
    pub fn now(&self, host: HostId) -> Now {
        let state = self.state();
        let own = &state.hosts[state.hosts[host].machine];
        let elapsed_ns = own.elapsed_ns(state.now_ns);
        Now {
            ns: elapsed_ns + own.monotonic_origin_ns,
            epoch_ms: EPOCH_START_MS + elapsed_ns / 1_000_000 + own.epoch_offset_ms,
        }
    }

    /// Virtual time of a host's monotonic time.
    pub fn virtual_ns(&self, host: HostId, monotonic_ns: i64) -> i64 {
        let state = self.state();
        state.hosts[state.hosts[host].machine].virtual_ns(monotonic_ns)
    }

    /// Has a host's clocks run faster than virtual time by so many millionths, or slower.
    pub fn set_drift(&self, host: HostId, drift_ppm: i64) {
        self.state().hosts[host].drift_ppm = drift_ppm;
    }

    /// A host's machine starts anew, and its monotonic clock with it.
    pub fn restart_clock(&self, host: HostId) {
        let mut state = self.state();
        let origin_ns = state.rng.below(1_000_000_000_000) as i64;
        state.hosts[host].monotonic_origin_ns = origin_ns;
    }

    /// Makes `process` a process on the machine of another: both read the same clocks.
    pub fn put_on_machine_of(&self, process: HostId, other: HostId) {
        self.state().hosts[process].machine = other;
    }

    /// The machine of a process.
    pub fn machine_of(&self, process: HostId) -> HostId {
        self.state().hosts[process].machine
    }

    /// Counts a call of a host's process; the call at which it dies does not return.
    pub fn enter(&self, host: HostId) {
        let is_last = match &mut self.state().hosts[host].death {
            Some(Death::AtCall(left)) => count_down(left),
            _ => false,
        };
        if is_last {
            self.die(host);
        }
    }

    /// Counts a sync; true when the process must [`die`](Self::die) instead of being given it.
    pub fn is_last_sync(&self, host: HostId, is_of_catalog: bool) -> bool {
        match &mut self.state().hosts[host].death {
            Some(Death::AtSync { only_catalog, left }) if is_of_catalog || !*only_catalog => count_down(left),
            _ => false,
        }
    }

    /// The death of a host's process, in the midst of a call.
    pub fn die(&self, host: HostId) -> ! {
        let mut state = self.state();
        state.hosts[host].death = None;
        state.hosts[host].is_dead = true;
        drop(state);
        resume_unwind(Box::new(ProcessDeath))
    }

    /// Whether a host's process is dead, so that what is left of it must do nothing.
    pub fn is_dead(&self, host: HostId) -> bool {
        self.state().hosts[host].is_dead
    }
}
