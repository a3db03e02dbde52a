//! A tracker with a dedicated thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use harrier_lease::{
    Fence, HeldUnit, InvalidInput, PolledClaimer, PolledTracker, Resolver, Ticket, Tracker, TrackerError,
    TrackerState,
};
use harrier_platform::SystemClock;
use harrier_ringbuf::idle::{Backoff, IdleStrategy};
use harrier_ringbuf::runner::{AgentRunner, ThreadPace};
use harrier_ringbuf::{Agent, AgentError, Clock, Now, SharedThread};
use thiserror::Error;

/// Errors of starting a tracker.
#[derive(Debug, Error)]
pub enum TrackerStartError {
    /// Invalid name or duration.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The system cannot start another thread.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Keeps one unit the leader of its application, with any polled claimer (spec 05 L12–L18); a
/// [`ThreadedClaimer`](super::ThreadedClaimer) makes one of a blocking claimer. Dropping the tracker stops it without a
/// release.
///
/// ```no_run
/// use std::time::Duration;
/// use harrier::lease::Tracker;
/// use harrier::leases::{BlockingLeaseClient, LeaseTracker};
///
/// # fn run(client: BlockingLeaseClient) {
/// let tracker = LeaseTracker::start("db/0", Duration::from_secs(10), client.polled()).unwrap();
/// assert!(tracker.wait_leader().wait());
/// while tracker.claim_leader().wait() {
///     // Leads for ten more seconds at least.
/// }
/// tracker.stop(true).unwrap();
/// # }
/// ```
pub struct LeaseTracker {
    tracker: Arc<Mutex<PolledTracker>>,
    application: String,
    duration: Duration,
    ended: Ticket,
    runner: Option<AgentRunner>,
}

fn lock(tracker: &Mutex<PolledTracker>) -> MutexGuard<'_, PolledTracker> {
    tracker.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl LeaseTracker {
    /// Starts a tracker of a unit.
    ///
    /// # Errors
    /// See [`TrackerStartError`].
    pub fn start(
        unit: &str,
        duration: Duration,
        claimer: impl PolledClaimer + Send + 'static,
    ) -> Result<Self, TrackerStartError> {
        Self::run(PolledTracker::new(unit, to_ns(duration))?, duration, claimer)
    }

    /// Like [`start`](Self::start), for a unit whose name does not contain its application.
    ///
    /// # Errors
    /// See [`TrackerStartError`].
    pub fn start_of(
        application: &str,
        unit: &str,
        duration: Duration,
        claimer: impl PolledClaimer + Send + 'static,
    ) -> Result<Self, TrackerStartError> {
        Self::run(PolledTracker::of(application, unit, to_ns(duration))?, duration, claimer)
    }

    fn run(
        tracker: PolledTracker,
        duration: Duration,
        claimer: impl PolledClaimer + Send + 'static,
    ) -> Result<Self, TrackerStartError> {
        let application = tracker.application_name().to_owned();
        let tracker = Arc::new(Mutex::new(tracker));
        let (resolver, ended) = Ticket::new();
        let agent = TrackerAgent { tracker: tracker.clone(), claimer, ended: Some(resolver), deadline: None };
        let runner = AgentRunner::start("lease-tracker", move || {
            let idle = IdleStrategy::Backoff(Backoff::new(10, 20, 1_000, 500_000));
            let pace = Box::new(ThreadPace::new(SystemClock, idle));
            let thread = SharedThread::new(pace, Box::new(|_, _| ()));
            thread.install(vec![Box::new(agent)]).map_err(|error| error.to_string())?;
            Ok(thread)
        })?;
        Ok(Self { tracker, application, duration, ended, runner: Some(runner) })
    }

    /// State of the tracker's unit.
    pub fn state(&self) -> TrackerState {
        lock(&self.tracker).state()
    }

    /// Fence of the current tenure while leadership is guaranteed.
    pub fn fence(&self) -> Option<Fence> {
        lock(&self.tracker).fence(SystemClock.now().ns)
    }

    /// End of the guarantee that the unit leads, monotonic ns; `None` without a guarantee.
    pub fn guaranteed_until_ns(&self) -> Option<i64> {
        lock(&self.tracker).tenure(SystemClock.now().ns).map(|tenure| tenure.guaranteed_until_ns)
    }

    /// Resolves when the tracker has stopped, also after a failure.
    pub fn stopped(&self) -> Ticket {
        self.ended.clone()
    }

    /// Process that holds the unit and may have died; the tracker waits for its lease to expire (spec 05 L23).
    pub fn rival(&self) -> Option<HeldUnit> {
        lock(&self.tracker).rival().cloned()
    }

    /// Reason why the tracker failed (spec 05 L15).
    pub fn failure(&self) -> Option<TrackerError> {
        lock(&self.tracker).failure().cloned()
    }

    /// Stops the tracker and waits for its thread. With `release` the unit steps down first.
    ///
    /// # Errors
    /// Reason why the tracker had stopped by itself.
    pub fn stop(mut self, release: bool) -> Result<(), TrackerError> {
        lock(&self.tracker).stop(release);
        self.ended.wait();
        self.runner = None;
        self.failure().map_or(Ok(()), Err)
    }
}

impl Drop for LeaseTracker {
    fn drop(&mut self) {
        lock(&self.tracker).stop(false);
        if self.runner.is_some() {
            // Cancels the wait for a release before the thread ends.
            self.ended.wait();
        }
    }
}

impl Tracker for LeaseTracker {
    fn application_name(&self) -> &str {
        &self.application
    }

    fn claim_duration(&self) -> Duration {
        self.duration
    }

    fn claim_leader(&self) -> Ticket {
        lock(&self.tracker).claim_leader(SystemClock.now().ns)
    }

    fn wait_leader(&self) -> Ticket {
        lock(&self.tracker).wait_leader(SystemClock.now().ns)
    }

    fn wait_minion(&self) -> Ticket {
        lock(&self.tracker).wait_minion(SystemClock.now().ns)
    }
}

/// Runs on the tracker's thread.
struct TrackerAgent<C> {
    tracker: Arc<Mutex<PolledTracker>>,
    claimer: C,
    ended: Option<Resolver>,
    deadline: Option<i64>,
}

impl<C: PolledClaimer> Agent for TrackerAgent<C> {
    fn role_name(&self) -> &str {
        "lease-tracker"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        let mut work_count = self.claimer.do_work(now);
        let mut tracker = lock(&self.tracker);
        work_count += tracker.do_work(&mut self.claimer, now.ns);
        self.deadline = tracker.next_deadline();
        if !tracker.is_stopped() {
            return Ok(work_count);
        }
        drop(tracker);
        if let Some(ended) = self.ended.take() {
            ended.resolve(true);
        }
        Err(AgentError::terminated("the tracker has stopped"))
    }

    fn next_deadline(&self) -> Option<i64> {
        self.deadline
    }
}
