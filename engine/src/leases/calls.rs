//! Calls under way whose outcomes arrive through channels.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError};

use harrier_lease::{BlockError, Cancel, ClaimError, ReleaseError, RequestId, Tenure, Unanswered};

type Outcome<V, E> = Receiver<Result<V, E>>;

/// Claims, waits and releases under way. Dropping them cancels the waits.
#[derive(Default)]
pub(super) struct Calls {
    last_id: i64,
    claims: BTreeMap<RequestId, Outcome<Tenure, ClaimError>>,
    blocks: BTreeMap<RequestId, (Outcome<(), BlockError>, Cancel)>,
    releases: BTreeMap<RequestId, Outcome<(), ReleaseError>>,
}

/// Takes the outcome of a call if there is one. A call whose other end is gone counts as closed.
pub(super) fn poll<V, E: From<Unanswered>>(outcome: &Outcome<V, E>) -> Option<Result<V, E>> {
    match outcome.try_recv() {
        Ok(outcome) => Some(outcome),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => Some(Err(Unanswered::Closed.into())),
    }
}

impl Calls {
    fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    /// Adds a claim.
    pub(super) fn add_claim(&mut self, outcome: Outcome<Tenure, ClaimError>) -> RequestId {
        let id = self.next_id();
        self.claims.insert(id, outcome);
        id
    }

    /// Adds a wait, which `cancel` gives up.
    pub(super) fn add_block(&mut self, outcome: Outcome<(), BlockError>, cancel: Cancel) -> RequestId {
        let id = self.next_id();
        self.blocks.insert(id, (outcome, cancel));
        id
    }

    /// Adds a release.
    pub(super) fn add_release(&mut self, outcome: Outcome<(), ReleaseError>) -> RequestId {
        let id = self.next_id();
        self.releases.insert(id, outcome);
        id
    }

    /// Takes the outcome of a claim.
    pub(super) fn poll_claim(&mut self, id: RequestId) -> Option<Result<Tenure, ClaimError>> {
        let outcome = poll(self.claims.get(&id)?)?;
        self.claims.remove(&id);
        Some(outcome)
    }

    /// Takes the outcome of a wait.
    pub(super) fn poll_block(&mut self, id: RequestId) -> Option<Result<(), BlockError>> {
        let outcome = poll(&self.blocks.get(&id)?.0)?;
        self.blocks.remove(&id);
        Some(outcome)
    }

    /// Takes the outcome of a release.
    pub(super) fn poll_release(&mut self, id: RequestId) -> Option<Result<(), ReleaseError>> {
        let outcome = poll(self.releases.get(&id)?)?;
        self.releases.remove(&id);
        Some(outcome)
    }

    /// Forgets a call, and cancels it if it is a wait.
    pub(super) fn cancel(&mut self, id: RequestId) {
        self.claims.remove(&id);
        self.releases.remove(&id);
        if let Some((_, cancel)) = self.blocks.remove(&id) {
            cancel.cancel();
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.blocks.values().for_each(|(_, cancel)| cancel.cancel());
    }
}
