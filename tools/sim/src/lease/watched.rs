//! A lease client that reports every answer to the checkers.

use std::cell::RefCell;
use std::rc::Rc;

use harrier_lease::{BlockError, ClaimError, LeaseClient, PolledClaimer, ReleaseError, RequestId, Tenure};

use super::truth::{Life, Truth};
use super::unit::Place;
use crate::kernel::Kernel;

/// Claimer of trackers, and of units that claim by themselves.
pub struct Watched<'a> {
    pub(super) client: &'a mut LeaseClient,
    pub(super) truth: &'a Rc<RefCell<Truth>>,
    pub(super) kernel: &'a Kernel,
    pub(super) place: Place,
    pub(super) life: u64,
}

impl Watched<'_> {
    fn life(&self) -> Life {
        (self.place.unit_id(), self.life)
    }

    fn hit(&self, what: &'static str) {
        self.kernel.state().coverage.hit(what);
    }
}

impl PolledClaimer for Watched<'_> {
    fn start_claim(
        &mut self,
        application: &str,
        unit: &str,
        duration_ns: i64,
        now_ns: i64,
    ) -> Result<RequestId, ClaimError> {
        self.truth.borrow_mut().on_claim(self.place.unit_id());
        self.client.start_claim(application, unit, duration_ns, now_ns)
    }

    fn poll_claim(&mut self, id: RequestId) -> Option<Result<Tenure, ClaimError>> {
        let outcome = self.client.poll_claim(id)?;
        let (unit, application) = (self.place.unit_id(), self.place.application);
        match &outcome {
            Ok(tenure) => {
                self.hit("claim granted");
                let until_ns = self.kernel.virtual_ns(self.place.host, tenure.guaranteed_until_ns);
                self.kernel.state().note("granted", &[unit.into(), tenure.token, until_ns as u64]);
                let mut truth = self.truth.borrow_mut();
                if truth.beliefs.until_ns(unit, application, tenure.token) > truth.now_ns {
                    self.hit("lease renewed");
                }
                truth.on_granted(self.life(), application, tenure.token, until_ns);
            }
            Err(ClaimError::Denied) => {
                self.hit("claim denied");
                self.truth.borrow_mut().on_denied(self.life(), application);
            }
            Err(ClaimError::UnitHeld(_)) => {
                self.hit("claim refused: unit held by another process");
                self.truth.borrow_mut().on_unit_held(self.life(), application);
            }
            Err(ClaimError::TooManyLeases { .. }) => self.hit("claim refused: too many leases"),
            Err(_) => self.hit("claim without an answer"),
        }
        Some(outcome)
    }

    fn start_block(&mut self, application: &str, now_ns: i64) -> Result<RequestId, BlockError> {
        let id = self.client.start_block(application, now_ns)?;
        let application = super::application_of(application);
        self.truth.borrow_mut().on_wait_begun(self.life(), id, application);
        Ok(id)
    }

    fn poll_block(&mut self, id: RequestId) -> Option<Result<(), BlockError>> {
        let outcome = self.client.poll_block(id)?;
        self.hit(match &outcome {
            Ok(()) => "wait ended by a release",
            Err(BlockError::TooManyWaiters { .. }) => "wait refused: too many waiters",
            Err(_) => "wait without an answer",
        });
        self.truth.borrow_mut().on_wait_ended(self.life(), id, outcome.is_ok());
        Some(outcome)
    }

    fn start_release(
        &mut self,
        application: &str,
        unit: &str,
        token: u64,
        now_ns: i64,
    ) -> Result<RequestId, ReleaseError> {
        let own = (self.place.unit_id(), self.place.application);
        self.truth.borrow_mut().beliefs.release(own.0, own.1, token);
        self.client.start_release(application, unit, token, now_ns)
    }

    fn poll_release(&mut self, id: RequestId) -> Option<Result<(), ReleaseError>> {
        let outcome = self.client.poll_release(id)?;
        self.hit(match &outcome {
            Ok(()) => "lease released",
            Err(ReleaseError::Stale { .. }) => "release of a stale token",
            Err(_) => "release without an answer",
        });
        Some(outcome)
    }

    fn cancel(&mut self, id: RequestId) {
        self.truth.borrow_mut().on_wait_ended(self.life(), id, false);
        self.client.cancel(id);
    }
}
