//! State that all simulated hosts share: time, random numbers, the network, disks, and deaths of processes.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use harrier_ringbuf::shared_thread::ProcessDeath;
use harrier_ringbuf::{Now, Rng};

use crate::disk::Disk;
use crate::network::Network;
use crate::streams::Wire;
use crate::trace::{Coverage, Trace};

/// Number of a simulated host.
pub type HostId = usize;

/// Milliseconds since the epoch at which every run begins.
const EPOCH_START_MS: i64 = 1_700_000_000_000;

/// Call at which a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process dies after so many calls to storage, network and memory.
    AtCall(u64),
    /// The process dies after so many syncs, when all writes since the last sync have been carried out and are not
    /// durable.
    AtSync {
        /// True to count only syncs of the archive's catalog.
        only_catalog: bool,
        /// Number of syncs that are still carried out.
        left: u64,
    },
}

/// Delays of a disk, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPace {
    /// Longest delay of an operation, ns.
    pub operation_ns: u64,
    /// Longest delay of a sync, ns.
    pub sync_ns: u64,
}

impl DiskPace {
    /// Delays of a good disk.
    pub const CALM: Self = Self { operation_ns: 30_000, sync_ns: 400_000 };
}

/// One host.
pub struct Host {
    /// Files of the host.
    pub disk: Disk,
    /// Present delays of its disk.
    pub disk_pace: DiskPace,
    /// Error of its calendar clock, ms.
    pub epoch_offset_ms: i64,
    /// Planned death of its process.
    pub death: Option<Death>,
    /// True from the death of a process until the next one begins: remains of the dead process do nothing.
    pub is_dead: bool,
    /// Virtual time until which the system does not run its process, ns.
    pub stalled_until_ns: i64,
    monotonic_origin_ns: i64,
    /// Lead of its clocks over virtual time, millionths.
    drift_ppm: i64,
    /// Host whose clocks it reads: processes on one machine read those of the first process.
    machine: HostId,
}

/// Number of millionths in one.
const MILLION: i64 = 1_000_000;

impl Host {
    /// Returns the time that its clocks show for a time span in virtual time, ns. A run is far too short for an
    /// overflow.
    fn elapsed_ns(&self, virtual_ns: i64) -> i64 {
        virtual_ns + (virtual_ns * self.drift_ppm).div_euclid(MILLION)
    }

    /// Returns the first virtual time at which its monotonic clock shows `monotonic_ns`.
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
    /// Random numbers for delays and for the effects of crashes.
    pub rng: Rng,
    /// Hosts, by number.
    pub hosts: Vec<Host>,
    /// The network between them.
    pub network: Network,
    /// Checker of all frames on the network, in runs that check streams.
    pub wire: Option<Wire>,
    /// Hash of the events.
    pub trace: Trace,
    /// Counts of the events.
    pub coverage: Coverage,
    /// Times at which a host's file operation completes, virtual ns.
    pub wakes: BTreeSet<(i64, HostId)>,
    /// Hosts for which a file operation has just completed.
    pub woken: Vec<bool>,
}

impl State {
    /// Returns the time until which a process is not run; `None` when it is run.
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

/// Counts down; returns true when nothing was left.
fn count_down(left: &mut u64) -> bool {
    let is_last = *left == 0;
    *left = left.saturating_sub(1);
    is_last
}

/// Handle of the simulated world; clones share it.
#[derive(Clone)]
pub struct Kernel(Arc<Mutex<State>>);

impl Kernel {
    /// Creates a world of `host_count` hosts whose random numbers follow from `seed`.
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

    /// Locks the state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time of a host.
    pub fn now(&self, host: HostId) -> Now {
        let state = self.state();
        let own = &state.hosts[state.hosts[host].machine];
        let elapsed_ns = own.elapsed_ns(state.now_ns);
        Now {
            ns: elapsed_ns + own.monotonic_origin_ns,
            epoch_ms: EPOCH_START_MS + elapsed_ns / 1_000_000 + own.epoch_offset_ms,
        }
    }

    /// Returns the virtual time of a host's monotonic time.
    pub fn virtual_ns(&self, host: HostId, monotonic_ns: i64) -> i64 {
        let state = self.state();
        state.hosts[state.hosts[host].machine].virtual_ns(monotonic_ns)
    }

    /// Lets the clocks of a host run faster or slower than virtual time by so many millionths.
    pub fn set_drift(&self, host: HostId, drift_ppm: i64) {
        self.state().hosts[host].drift_ppm = drift_ppm;
    }

    /// Restarts the machine of a host, and its monotonic clock.
    pub fn restart_clock(&self, host: HostId) {
        let mut state = self.state();
        let origin_ns = state.rng.below(1_000_000_000_000) as i64;
        state.hosts[host].monotonic_origin_ns = origin_ns;
    }

    /// Puts `process` on the machine of another process: both read the same clocks.
    pub fn put_on_machine_of(&self, process: HostId, other: HostId) {
        self.state().hosts[process].machine = other;
    }

    /// Returns the machine of a process.
    pub fn machine_of(&self, process: HostId) -> HostId {
        self.state().hosts[process].machine
    }

    /// Counts a call of a host's process. The call at which the process dies does not return.
    pub fn enter(&self, host: HostId) {
        let is_last = match &mut self.state().hosts[host].death {
            Some(Death::AtCall(left)) => count_down(left),
            _ => false,
        };
        if is_last {
            self.die(host);
        }
    }

    /// Counts a sync; returns true when the process must [`die`](Self::die) instead of completing it.
    pub fn is_last_sync(&self, host: HostId, is_of_catalog: bool) -> bool {
        match &mut self.state().hosts[host].death {
            Some(Death::AtSync { only_catalog, left }) if is_of_catalog || !*only_catalog => count_down(left),
            _ => false,
        }
    }

    /// Ends the process of a host inside a call.
    pub fn die(&self, host: HostId) -> ! {
        let mut state = self.state();
        state.hosts[host].death = None;
        state.hosts[host].is_dead = true;
        drop(state);
        resume_unwind(Box::new(ProcessDeath))
    }

    /// True when the process of a host is dead, so that its remains must do nothing.
    pub fn is_dead(&self, host: HostId) -> bool {
        self.state().hosts[host].is_dead
    }
}
