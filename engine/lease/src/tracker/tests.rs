use std::collections::BTreeMap;

use super::*;
use crate::claimer::ProcessIdentity;
use crate::errors::{BlockError, HeldUnit, ReleaseError, Unanswered};

const SECOND: i64 = 1_000_000_000;
const D: i64 = 10 * SECOND;

/// A claimer whose answers a test writes.
#[derive(Default)]
struct Script {
    next: i64,
    claims: Vec<(RequestId, String, String, i64, i64)>,
    blocks: Vec<(RequestId, String)>,
    releases: Vec<(RequestId, u64)>,
    cancelled: Vec<RequestId>,
    claim_answers: BTreeMap<RequestId, Result<Tenure, ClaimError>>,
    block_answers: BTreeMap<RequestId, Result<(), BlockError>>,
    release_answers: BTreeMap<RequestId, Result<(), ReleaseError>>,
}

impl Script {
    fn id(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    fn grant(&mut self, token: u64) {
        let (id, _, _, duration_ns, now_ns) = self.claims.last().unwrap();
        let guaranteed_until_ns = now_ns + duration_ns;
        self.claim_answers.insert(*id, Ok(Tenure { token, guaranteed_until_ns }));
    }

    fn refuse(&mut self, error: ClaimError) {
        self.claim_answers.insert(self.claims.last().unwrap().0, Err(error));
    }

    fn unblock(&mut self, outcome: Result<(), BlockError>) {
        self.block_answers.insert(self.blocks.last().unwrap().0, outcome);
    }
}

impl PolledClaimer for Script {
    fn start_claim(
        &mut self,
        application: &str,
        unit: &str,
        duration_ns: i64,
        now_ns: i64,
    ) -> Result<RequestId, ClaimError> {
        let id = self.id();
        self.claims.push((id, application.into(), unit.into(), duration_ns, now_ns));
        Ok(id)
    }

    fn poll_claim(&mut self, id: RequestId) -> Option<Result<Tenure, ClaimError>> {
        self.claim_answers.remove(&id)
    }

    fn start_block(&mut self, application: &str, _: i64) -> Result<RequestId, BlockError> {
        let id = self.id();
        self.blocks.push((id, application.into()));
        Ok(id)
    }

    fn poll_block(&mut self, id: RequestId) -> Option<Result<(), BlockError>> {
        self.block_answers.remove(&id)
    }

    fn start_release(&mut self, _: &str, _: &str, token: u64, _: i64) -> Result<RequestId, ReleaseError> {
        let id = self.id();
        self.releases.push((id, token));
        Ok(id)
    }

    fn poll_release(&mut self, id: RequestId) -> Option<Result<(), ReleaseError>> {
        self.release_answers.remove(&id)
    }

    fn cancel(&mut self, id: RequestId) {
        self.cancelled.push(id);
    }
}

struct Rig {
    tracker: PolledTracker,
    script: Script,
}

impl Rig {
    fn new() -> Self {
        Self { tracker: PolledTracker::new("eu/db/3", D).unwrap(), script: Script::default() }
    }

    fn run(&mut self, now_ns: i64) {
        while self.tracker.do_work(&mut self.script, now_ns) > 0 {}
    }

    /// Creates a rig whose unit leads since `now_ns`.
    fn leading(now_ns: i64) -> Self {
        let mut rig = Self::new();
        rig.run(now_ns);
        rig.script.grant(32);
        rig.run(now_ns);
        rig
    }

    fn denied(now_ns: i64) -> Self {
        let mut rig = Self::new();
        rig.run(now_ns);
        rig.script.refuse(ClaimError::Denied);
        rig.run(now_ns);
        rig
    }
}

#[test]
fn l12_the_first_claim_is_made_at_once_for_twice_the_duration() {
    let mut rig = Rig::new();
    assert_eq!((rig.tracker.application_name(), rig.tracker.claim_duration_ns()), ("eu/db", D));
    rig.run(5);
    let claim = (RequestId(1), "eu/db".to_owned(), "eu/db/3".to_owned(), 2 * D, 5);
    assert_eq!(rig.script.claims, [claim]);
    assert!(PolledTracker::new("db", D).is_err() && PolledTracker::new("db/0", 0).is_err());
}

#[test]
fn l13_a_leader_renews_at_half_time_counted_from_the_start_of_the_call() {
    let mut rig = Rig::new();
    let (leader, minion) = (rig.tracker.wait_leader(0), rig.tracker.wait_minion(0));
    rig.run(0);
    // The answer takes its time: it does not count.
    rig.script.grant(32);
    rig.run(3 * SECOND);
    assert_eq!((leader.answer(), minion.answer()), (Some(true), None));
    assert_eq!(rig.tracker.state(), TrackerState::Leader);
    assert_eq!(rig.tracker.next_deadline(), Some(D));
    rig.run(D - 1);
    assert_eq!(rig.script.claims.len(), 1);
    rig.run(D);
    assert_eq!(rig.script.claims.len(), 2);
    assert_eq!(rig.script.claims[1].4, D);
    rig.script.grant(32);
    rig.run(D + 1);
    rig.run(2 * D - 1);
    assert_eq!(rig.script.claims.len(), 2);
    rig.run(2 * D);
    assert_eq!((rig.script.claims.len(), minion.answer()), (3, None));
    assert_eq!(rig.tracker.fence(2 * D).unwrap().token, 32);
}

#[test]
fn l14_a_minion_waits_once_and_then_claims_again() {
    let mut rig = Rig::new();
    let (leader, minion) = (rig.tracker.wait_leader(0), rig.tracker.wait_minion(0));
    rig.run(0);
    rig.script.refuse(ClaimError::Denied);
    rig.run(1);
    rig.run(100 * D);
    assert_eq!((leader.answer(), minion.answer()), (None, Some(false)));
    assert_eq!(rig.tracker.state(), TrackerState::Minion);
    assert_eq!((rig.script.claims.len(), rig.script.blocks.len()), (1, 1));
    assert_eq!(rig.script.blocks[0].1, "eu/db");
    // Also after an error of the wait.
    for outcome in [Ok(()), Err(BlockError::TooManyWaiters { limit: 1 })] {
        let before = rig.script.claims.len();
        let is_error = outcome.is_err();
        rig.script.unblock(outcome);
        rig.run(100 * D);
        assert_eq!(rig.script.claims.len(), before + usize::from(!is_error));
        if is_error {
            // Retries are paced: the refusal may persist.
            let at = rig.tracker.next_deadline().unwrap();
            assert_eq!(at, 100 * D + D / 4);
            rig.run(at - 1);
            assert_eq!(rig.script.claims.len(), before);
            rig.run(at);
            assert_eq!(rig.script.claims.len(), before + 1);
        }
        rig.script.refuse(ClaimError::Denied);
        rig.run(101 * D);
        assert_eq!(rig.script.blocks.len(), before + 1);
    }
    rig.script.unblock(Ok(()));
    rig.run(101 * D);
    rig.script.grant(64);
    rig.run(101 * D);
    assert_eq!((leader.answer(), rig.tracker.state()), (Some(true), TrackerState::Leader));
}

#[test]
fn l15_any_other_error_stops_the_tracker() {
    for error in [
        ClaimError::Unanswered(Unanswered::TimedOut { timeout_ns: 1 }),
        ClaimError::Unanswered(Unanswered::Closed),
        ClaimError::TooManyLeases { limit: 4 },
    ] {
        let mut rig = Rig::leading(0);
        let minion = rig.tracker.wait_minion(0);
        rig.run(D);
        let claim = rig.tracker.claim_leader(D);
        rig.script.refuse(error.clone());
        rig.run(D);
        assert_eq!((minion.answer(), claim.answer()), (Some(false), Some(false)));
        assert!(rig.tracker.is_stopped());
        let text = rig.tracker.failure().unwrap().to_string();
        assert_eq!(text, format!("leadership failure: {error}"));
        assert_eq!(rig.tracker.claim_leader(D).answer(), Some(false));
        assert_eq!(rig.tracker.wait_leader(D).answer(), Some(false));
        assert_eq!(rig.tracker.wait_minion(D).answer(), Some(false));
        rig.run(9 * D);
        assert_eq!((rig.script.claims.len(), rig.script.blocks.len()), (2, 0));
    }
}

#[test]
fn l16_a_true_claim_guarantees_the_duration() {
    let mut rig = Rig::new();
    let first = rig.tracker.claim_leader(0);
    rig.run(0);
    assert_eq!(first.answer(), None);
    rig.script.grant(32);
    rig.run(SECOND);
    assert_eq!(first.answer(), Some(true));
    assert_eq!(rig.tracker.claim_leader(D - 1).answer(), Some(true));
    // Renewal is due: it is done first.
    let due = rig.tracker.claim_leader(D + 5);
    assert_eq!(due.answer(), None);
    rig.run(D + 5);
    rig.script.grant(32);
    rig.run(D + 6);
    assert_eq!(due.answer(), Some(true));
    // Another one has taken over.
    let lost = rig.tracker.claim_leader(3 * D);
    rig.run(3 * D);
    rig.script.refuse(ClaimError::Denied);
    rig.run(3 * D);
    assert_eq!((due.answer(), lost.answer()), (Some(true), Some(false)));
    assert_eq!(rig.tracker.claim_leader(3 * D).answer(), Some(false), "a minion says so at once");
}

#[test]
fn l16_an_answer_that_came_too_late_is_renewed_before_it_counts() {
    let mut rig = Rig::new();
    rig.run(0);
    let late = rig.tracker.claim_leader(D + 1);
    rig.script.grant(32);
    rig.run(D + 2);
    assert_eq!((late.answer(), rig.script.claims.len()), (None, 2));
    rig.script.grant(32);
    rig.run(D + 3);
    assert_eq!(late.answer(), Some(true));
}

#[test]
fn l17_waits_resolve_when_things_change() {
    let mut rig = Rig::leading(0);
    assert_eq!(rig.tracker.wait_leader(1).answer(), Some(true));
    let minion = rig.tracker.wait_minion(1);
    rig.run(D);
    rig.script.grant(32);
    rig.run(D + 1);
    assert_eq!(minion.answer(), None, "it stays through renewals");
    // A renewal without an answer: leadership is over with its guarantee.
    rig.run(2 * D);
    let claim = rig.tracker.claim_leader(2 * D);
    rig.run(3 * D - 1);
    assert_eq!((minion.answer(), claim.answer()), (None, None));
    rig.run(3 * D);
    assert_eq!((minion.answer(), claim.answer()), (Some(false), Some(false)));
    assert_eq!((rig.tracker.state(), rig.tracker.fence(3 * D)), (TrackerState::Minion, None));
    assert_eq!(rig.tracker.wait_minion(3 * D).answer(), Some(false));
    let leader = rig.tracker.wait_leader(3 * D);
    // The claim stays pending until its answer arrives.
    rig.script.grant(32);
    rig.run(3 * D);
    rig.script.grant(96);
    rig.run(3 * D + 1);
    assert_eq!((leader.answer(), rig.tracker.state()), (Some(true), TrackerState::Leader));
    assert_eq!(rig.tracker.wait_minion(3 * D + 1).answer(), None);
    assert_eq!(Rig::denied(0).tracker.wait_minion(0).answer(), Some(false));
}

#[test]
fn l17_another_tenure_ends_the_wait_for_the_first() {
    let mut rig = Rig::leading(0);
    let minion = rig.tracker.wait_minion(0);
    rig.run(D);
    rig.script.grant(64);
    rig.run(D);
    assert_eq!(minion.answer(), Some(false));
    assert_eq!(rig.tracker.state(), TrackerState::Leader);
}

#[test]
fn l18_answers_do_not_change() {
    let mut rig = Rig::leading(0);
    let (claim, leader) = (rig.tracker.claim_leader(0), rig.tracker.wait_leader(0));
    assert!(claim.wait() && leader.wait());
    rig.run(D);
    rig.script.refuse(ClaimError::Denied);
    rig.run(D);
    assert!(claim.wait() && leader.wait() && claim.ready().is_ready());
}

#[test]
fn stopping_leaves_nothing_behind() {
    let mut rig = Rig::denied(0);
    let leader = rig.tracker.wait_leader(0);
    rig.tracker.stop(true);
    assert_eq!((leader.answer(), rig.tracker.state()), (Some(false), TrackerState::Stopping));
    rig.run(1);
    assert!(rig.tracker.is_stopped());
    assert_eq!(rig.script.cancelled, [rig.script.blocks[0].0]);
    assert!(rig.script.releases.is_empty(), "a minion has nothing to release");

    // A pending claim may still be granted; its lease is released.
    let mut rig = Rig::leading(0);
    rig.run(D);
    rig.tracker.stop(true);
    rig.tracker.stop(false);
    rig.run(D);
    assert_eq!(rig.tracker.state(), TrackerState::Stopping);
    rig.script.grant(32);
    rig.run(D);
    assert_eq!(rig.script.releases.len(), 1);
    assert_eq!(rig.script.releases[0].1, 32);
    assert!(!rig.tracker.is_stopped());
    rig.script.release_answers.insert(rig.script.releases[0].0, Err(ReleaseError::Stale { current: 9 }));
    rig.run(D);
    assert!(rig.tracker.is_stopped() && rig.tracker.failure().is_none());

    let mut rig = Rig::leading(0);
    rig.run(D);
    rig.tracker.stop(false);
    rig.run(D);
    assert!(rig.tracker.is_stopped() && rig.script.releases.is_empty());
    assert_eq!(rig.script.cancelled, [rig.script.claims[1].0]);
    assert_eq!(rig.tracker.wait_leader(D).answer(), Some(false));
}

fn held(process_id: u64, claimed: i64) -> ClaimError {
    let holder = ProcessIdentity { id: process_id, started_ms: 0, name: format!("pid {process_id}") };
    ClaimError::UnitHeld(Box::new(HeldUnit { unit: "eu/db/3".into(), holder, claimed }))
}

#[test]
fn l23_a_tracker_waits_for_the_lease_of_a_predecessor_that_has_died() {
    let mut rig = Rig::new();
    rig.run(0);
    let mut now_ns = 0;
    for _ in 0..3 {
        rig.script.refuse(held(4, 17));
        rig.run(now_ns);
        assert_eq!((rig.tracker.state(), rig.tracker.rival().unwrap().holder.id), (TrackerState::Minion, 4));
        let next_ns = rig.tracker.next_deadline().unwrap();
        assert_eq!(next_ns, now_ns + D / PAUSES_IN_DURATION);
        now_ns = next_ns;
        rig.run(now_ns);
    }
    rig.script.grant(64);
    rig.run(now_ns);
    assert_eq!(rig.tracker.state(), TrackerState::Leader);
    assert!(rig.tracker.rival().is_none() && rig.script.blocks.is_empty());
}

#[test]
fn l23_a_tracker_stops_when_a_living_process_holds_its_unit() {
    let mut rig = Rig::new();
    rig.run(0);
    let leads = rig.tracker.wait_leader(0);
    rig.script.refuse(held(4, 17));
    rig.run(0);
    // A third process is no proof that the first one lives.
    let mut now_ns = rig.tracker.next_deadline().unwrap();
    rig.run(now_ns);
    rig.script.refuse(held(5, 19));
    rig.run(now_ns);
    assert_eq!((rig.tracker.state(), leads.answer()), (TrackerState::Minion, None));
    now_ns = rig.tracker.next_deadline().unwrap();
    rig.run(now_ns);
    rig.script.refuse(held(5, 20));
    rig.run(now_ns);
    assert_eq!((rig.tracker.state(), leads.answer()), (TrackerState::Stopped, Some(false)));
    let failure = rig.tracker.failure().unwrap().to_string();
    assert!(failure.contains("unit eu/db/3 is held by another process: pid 5"), "{failure}");
}
