//! Adapter from a blocking claimer to a polled one, for trackers.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use harrier_lease::{
    BlockError, Cancel, ClaimError, Claimer, PolledClaimer, ReleaseError, RequestId, Tenure, Unanswered,
};

use super::calls::Calls;

/// Makes a [`PolledClaimer`] of any [`Claimer`] by calling it on threads of its own, so that a
/// [`LeaseTracker`](super::LeaseTracker) works with a claimer of the application.
///
/// Each request under way has a thread; a tracker has at most one claim and one wait. Dropping the adapter cancels its
/// waits and does not wait for its threads: a claimer must return from a wait soon after its [`Cancel`] is cancelled.
///
/// ```no_run
/// use std::time::Duration;
/// use harrier::lease::{BlockError, Cancel, ClaimError, Claimer, Tenure};
/// use harrier::leases::{LeaseTracker, ThreadedClaimer};
///
/// struct OurClaimer;
///
/// impl Claimer for OurClaimer {
///     fn claim_leadership(&self, application: &str, unit: &str, _: Duration) -> Result<Tenure, ClaimError> {
///         Err(ClaimError::Custom(format!("no store holds a lease of {application} for {unit}")))
///     }
///
///     fn block_until_leadership_released(&self, _: &str, _: &Cancel) -> Result<(), BlockError> {
///         Ok(())
///     }
/// }
///
/// let claimer = ThreadedClaimer::new(OurClaimer);
/// let tracker = LeaseTracker::start("db/0", Duration::from_secs(10), claimer).unwrap();
/// ```
pub struct ThreadedClaimer<C> {
    claimer: Arc<C>,
    calls: Calls,
}

impl<C: Claimer + Send + Sync + 'static> ThreadedClaimer<C> {
    /// Wraps a claimer.
    pub fn new(claimer: C) -> Self {
        Self { claimer: Arc::new(claimer), calls: Calls::default() }
    }

    /// Calls the claimer on a thread. A thread that cannot be started fails the request.
    #[expect(clippy::disallowed_methods, reason = "the claimer blocks, so it needs a thread of its own")]
    fn call<V: Send + 'static, E: From<Unanswered> + Send + 'static>(
        &self,
        call: impl FnOnce(&C) -> Result<V, E> + Send + 'static,
    ) -> Receiver<Result<V, E>> {
        let (sender, receiver): (SyncSender<Result<V, E>>, _) = mpsc::sync_channel(1);
        let (claimer, outcome) = (self.claimer.clone(), sender.clone());
        let thread = std::thread::Builder::new().name("lease-claimer".into());
        let started = thread.spawn(move || {
            // The tracker may have dropped the request.
            let _forgotten = outcome.try_send(call(&claimer));
        });
        if let Err(error) = started {
            let refused = Unanswered::Refused(format!("no thread for the claimer: {error}"));
            let _forgotten = sender.try_send(Err(refused.into()));
        }
        receiver
    }
}

impl<C: Claimer + Send + Sync + 'static> PolledClaimer for ThreadedClaimer<C> {
    fn start_claim(
        &mut self,
        application: &str,
        unit: &str,
        duration_ns: i64,
        _now_ns: i64,
    ) -> Result<RequestId, ClaimError> {
        let (application, unit) = (application.to_owned(), unit.to_owned());
        let duration = Duration::from_nanos(duration_ns.max(0) as u64);
        let outcome = self.call(move |claimer| claimer.claim_leadership(&application, &unit, duration));
        Ok(self.calls.add_claim(outcome))
    }

    fn poll_claim(&mut self, id: RequestId) -> Option<Result<Tenure, ClaimError>> {
        self.calls.poll_claim(id)
    }

    fn start_block(&mut self, application: &str, _now_ns: i64) -> Result<RequestId, BlockError> {
        let (application, cancel) = (application.to_owned(), Cancel::new());
        let given_up = cancel.clone();
        let outcome =
            self.call(move |claimer| claimer.block_until_leadership_released(&application, &given_up));
        Ok(self.calls.add_block(outcome, cancel))
    }

    fn poll_block(&mut self, id: RequestId) -> Option<Result<(), BlockError>> {
        self.calls.poll_block(id)
    }

    fn start_release(
        &mut self,
        application: &str,
        unit: &str,
        token: u64,
        _now_ns: i64,
    ) -> Result<RequestId, ReleaseError> {
        let (application, unit) = (application.to_owned(), unit.to_owned());
        let outcome = self.call(move |claimer| claimer.release_leadership(&application, &unit, token));
        Ok(self.calls.add_release(outcome))
    }

    fn poll_release(&mut self, id: RequestId) -> Option<Result<(), ReleaseError>> {
        self.calls.poll_release(id)
    }

    fn cancel(&mut self, id: RequestId) {
        self.calls.cancel(id);
    }
}
