//! Clients of the lease service: their processes, their ends, and claimers of the application.

use std::time::Duration;

use harrier::lease::{
    BlockError, Cancel, ClaimError, Claimer, LeaseSettings, ProcessIdentity, Tenure, Tracker, Unanswered,
};
use harrier::leases::{BlockingLeaseClient, LeaseTracker, ThreadedClaimer};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;

use crate::leases::{LONG, Rig, until, wait_in_thread};

#[test]
fn a_unit_belongs_to_one_process() {
    let rig = Rig::new(LeaseSettings::default());
    let node = rig.start();
    let first = rig.client();
    let tenure = first.claim_leadership("db", "db/0", LONG).unwrap();
    // Another client of this process extends the same lease.
    assert_eq!(rig.client().claim_leadership("db", "db/0", LONG).unwrap().token, tenure.token);
    let mut context = rig.context();
    context.process = ProcessIdentity { id: 1, started_ms: 0, name: "pid 1 on elsewhere".into() };
    let other = BlockingLeaseClient::connect(rig.cluster.aeron_directory(), context).unwrap();
    let Err(ClaimError::UnitHeld(held)) = other.claim_leadership("db", "db/0", LONG) else { panic!() };
    assert_eq!(held.unit, "db/0");
    let name = format!("pid {} on ", std::process::id());
    assert!(held.holder.name.starts_with(&name) && held.holder.started_ms > 0, "{held}");
    // The holder is alive: a tracker of the other process learns that from its next claim and stops.
    let tracker = LeaseTracker::start("db/0", Duration::from_secs(2), other.polled()).unwrap();
    until("the first refusal", || tracker.rival().is_some());
    until("the second refusal", || {
        first.claim_leadership("db", "db/0", LONG).unwrap();
        tracker.failure().is_some()
    });
    let failure = tracker.stop(false).unwrap_err().to_string();
    assert!(failure.starts_with("leadership failure: unit db/0 is held by another process"), "{failure}");
    drop((first, other));
    node.stop().unwrap();
}

#[test]
fn a_client_is_closed_from_another_thread() {
    let rig = Rig::new(LeaseSettings::default());
    let node = rig.start();
    let client = rig.client();
    client.claim_leadership("db", "db/0", LONG).unwrap();
    let waiting = wait_in_thread(&client);
    client.close();
    client.close();
    assert_eq!(waiting.join().unwrap(), Err(BlockError::Unanswered(Unanswered::Closed)));
    let late = client.claim_leadership("db", "db/0", LONG);
    assert_eq!(late, Err(ClaimError::Unanswered(Unanswered::Closed)));
    node.stop().unwrap();
}

#[test]
fn a_wait_for_release_fails_once_the_service_is_gone() {
    let rig = Rig::new(LeaseSettings::default());
    let node = rig.start();
    let mut context = rig.context();
    (context.unreachable_timeout_ns, context.rewait_ns) = (500_000_000, 100_000_000);
    let client = BlockingLeaseClient::connect(rig.cluster.aeron_directory(), context).unwrap();
    client.claim_leadership("db", "db/0", LONG).unwrap();
    let waiting = wait_in_thread(&client);
    node.stop().unwrap();
    let outcome = waiting.join().unwrap();
    assert!(matches!(outcome, Err(BlockError::Unanswered(_))), "{outcome:?}");
}

/// An application's claimer.
struct Theirs {
    claims: std::sync::atomic::AtomicU32,
}

impl Claimer for Theirs {
    fn claim_leadership(&self, _: &str, unit: &str, duration: Duration) -> Result<Tenure, ClaimError> {
        match self.claims.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Err(ClaimError::Denied),
            1 => {
                let guaranteed_until_ns = SystemClock.now().ns + duration.as_nanos() as i64;
                Ok(Tenure { token: 5, guaranteed_until_ns })
            }
            _ => Err(ClaimError::Custom(format!("the store forgot {unit}"))),
        }
    }

    fn block_until_leadership_released(&self, _: &str, _: &Cancel) -> Result<(), BlockError> {
        Ok(())
    }
}

#[test]
fn a_tracker_works_with_a_claimer_of_the_application() {
    let claimer = ThreadedClaimer::new(Theirs { claims: 0.into() });
    let tracker = LeaseTracker::start("db/0", Duration::from_millis(50), claimer).unwrap();
    until("the failure", || tracker.failure().is_some());
    assert!(!tracker.wait_leader().wait());
    assert_eq!(tracker.stop(true).unwrap_err().to_string(), "leadership failure: the store forgot db/0");
}
