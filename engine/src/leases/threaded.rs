//! Adapter from a blocking claimer to a polled one, for trackers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use harrier_lease::{
    BlockError, Cancel, ClaimError, Claimer, PolledClaimer, ReleaseError, RequestId, Tenure, Unanswered,
};

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
    next: i64,
    claims: BTreeMap<RequestId, Receiver<Result<Tenure, ClaimError>>>,
    blocks: BTreeMap<RequestId, (Receiver<Result<(), BlockError>>, Cancel)>,
    releases: BTreeMap<RequestId, Receiver<Result<(), ReleaseError>>>,
}

impl<C: Claimer + Send + Sync + 'static> ThreadedClaimer<C> {
    /// Wraps a claimer.
    pub fn new(claimer: C) -> Self {
        let (claims, blocks, releases) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { claimer: Arc::new(claimer), next: 0, claims, blocks, releases }
    }

    fn next_id(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
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

/// Takes the outcome of a call. A claimer that panicked counts as closed.
fn poll<V, E: From<Unanswered>>(outcome: &Receiver<Result<V, E>>) -> Option<Result<V, E>> {
    match outcome.try_recv() {
        Ok(outcome) => Some(outcome),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => Some(Err(Unanswered::Closed.into())),
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
        let id = self.next_id();
        let outcome = self.call(move |claimer| claimer.claim_leadership(&application, &unit, duration));
        self.claims.insert(id, outcome);
        Ok(id)
    }

    fn poll_claim(&mut self, id: RequestId) -> Option<Result<Tenure, ClaimError>> {
        let outcome = poll(self.claims.get(&id)?)?;
        self.claims.remove(&id);
        Some(outcome)
    }

    fn start_block(&mut self, application: &str, _now_ns: i64) -> Result<RequestId, BlockError> {
        let (application, cancel) = (application.to_owned(), Cancel::new());
        let given_up = cancel.clone();
        let id = self.next_id();
        let outcome =
            self.call(move |claimer| claimer.block_until_leadership_released(&application, &given_up));
        self.blocks.insert(id, (outcome, cancel));
        Ok(id)
    }

    fn poll_block(&mut self, id: RequestId) -> Option<Result<(), BlockError>> {
        let outcome = poll(&self.blocks.get(&id)?.0)?;
        self.blocks.remove(&id);
        Some(outcome)
    }

    fn start_release(
        &mut self,
        application: &str,
        unit: &str,
        token: u64,
        _now_ns: i64,
    ) -> Result<RequestId, ReleaseError> {
        let (application, unit) = (application.to_owned(), unit.to_owned());
        let id = self.next_id();
        let outcome = self.call(move |claimer| claimer.release_leadership(&application, &unit, token));
        self.releases.insert(id, outcome);
        Ok(id)
    }

    fn poll_release(&mut self, id: RequestId) -> Option<Result<(), ReleaseError>> {
        let outcome = poll(self.releases.get(&id)?)?;
        self.releases.remove(&id);
        Some(outcome)
    }

    fn cancel(&mut self, id: RequestId) {
        self.claims.remove(&id);
        self.releases.remove(&id);
        if let Some((_, cancel)) = self.blocks.remove(&id) {
            cancel.cancel();
        }
    }
}

impl<C> Drop for ThreadedClaimer<C> {
    fn drop(&mut self) {
        self.blocks.values().for_each(|(_, cancel)| cancel.cancel());
    }
}
