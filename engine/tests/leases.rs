//! Leases on a composed node: claims, denials, waits, fences, limits, and restarts.

use std::time::Duration;

use harrier::cluster::client::{ClusterClientContext, EgressListener};
use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};
use harrier::lease::client::{LeaseInfo, PinInfo};
use harrier::lease::codec::{Event, Process, Request};
use harrier::lease::{
    BlockError, Cancel, CheckError, Checker, ClaimError, Claimer, Fence, LeaseClientContext, LeaseSettings,
    PinError, PolledClaimer, ReleaseError, Tenure, Token, Tracker, TrackerState, Unanswered,
};
use harrier::leases::{BlockingLeaseClient, LeaseTracker, fenced, lease_service};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use harrier::{BlockingClusterClient, ClusterCommand, Node, ServiceFactory};

const PATIENCE_NS: i64 = 60_000_000_000;
pub const LONG: Duration = Duration::from_secs(3_600);

/// Stores received messages and returns them on request.
#[derive(Default)]
struct Keeper {
    kept: Vec<String>,
}

impl ClusteredService for Keeper {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        let kept = &mut self.kept;
        snapshot
            .read_to_end(cluster, &mut |message| kept.push(String::from_utf8_lossy(message).into_owned()))?;
        Ok(())
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        _: i64,
        message: &[u8],
        _: &Header<'_>,
    ) {
        let Some(session) = session else { return };
        if message == b"tell" {
            let answer = format!("kept {}", self.kept.join(", "));
            cluster.retry(|cluster| cluster.send_to_session(session.id, answer.as_bytes())).unwrap();
        } else {
            self.kept.push(String::from_utf8_lossy(message).into_owned());
        }
    }

    fn on_timer_event(&mut self, _: &mut Cluster<'_>, correlation_id: i64, _: i64) {
        self.kept.push(format!("timer {correlation_id}"));
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        for text in &self.kept {
            cluster.retry(|_| Ok(snapshot.offer(text.as_bytes())?))?;
        }
        Ok(())
    }
}

fn services(settings: LeaseSettings) -> Vec<ServiceFactory> {
    let keeper: ServiceFactory = Box::new(|| Box::new(Keeper::default()));
    vec![lease_service(settings).unwrap(), fenced(keeper, settings).unwrap()]
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
    while !condition() {
        assert!(SystemClock.now().ns < deadline_ns, "{what} did not come");
        std::thread::yield_now();
    }
}

/// A cluster in a separate directory, with a lease client.
pub struct Rig {
    pub cluster: crate::support::Cluster,
    settings: LeaseSettings,
    base: tempfile::TempDir,
}

impl Rig {
    pub fn new(settings: LeaseSettings) -> Self {
        let base = tempfile::Builder::new().prefix("harrier-leases-").tempdir_in("/dev/shm").unwrap();
        Self { cluster: crate::support::Cluster::new(base.path()).unwrap(), settings, base }
    }

    pub fn start(&self) -> Node {
        self.cluster.start(services(self.settings)).unwrap()
    }

    pub fn context(&self) -> LeaseClientContext {
        let context = self.cluster.context();
        let ingress = context.members.split(',').nth(1).unwrap().to_owned();
        let egress = "aeron:udp?endpoint=127.0.0.1:0|term-length=64k";
        let mut context = LeaseClientContext::new(ClusterClientContext::new(format!("0={ingress}"), egress));
        // Restarts on a busy host are slow.
        context.timeout_ns = PATIENCE_NS;
        context
    }

    pub fn client(&self) -> BlockingLeaseClient {
        BlockingLeaseClient::connect(self.cluster.aeron_directory(), self.context()).unwrap()
    }
}

fn snapshot(node: &Node) {
    let before = node.snapshot_count().unwrap();
    node.command(ClusterCommand::Snapshot).unwrap();
    until("the snapshot", || node.is_command_done().unwrap());
    assert_eq!(node.snapshot_count().unwrap(), before + 1, "{:?}", node.failures());
}

#[derive(Default)]
struct Heard {
    texts: Vec<String>,
    stale: Vec<(i64, u64, u64)>,
}

impl EgressListener for Heard {
    fn on_message(&mut self, _: i64, _: i64, message: &[u8]) {
        match Event::decode(message) {
            Ok(Event::FenceStale { correlation_id, token, current_token, log_position, application }) => {
                assert!(log_position > 0 && application == "db");
                self.stale.push((correlation_id, token, current_token));
            }
            Ok(_) => {}
            Err(_) => self.texts.push(String::from_utf8_lossy(message).into_owned()),
        }
    }
}

/// Returns the state of the service behind the fence.
fn kept(client: &mut BlockingClusterClient, heard: &mut Heard) -> String {
    heard.texts.clear();
    client.offer(b"tell", heard).unwrap();
    client.wait(heard, |heard| !heard.texts.is_empty()).unwrap();
    heard.texts[0].clone()
}

fn fence_of(tenure: Tenure, unit: &str) -> Fence {
    Fence { application: "db".into(), unit: unit.into(), token: tenure.token }
}

fn offer_fenced(
    client: &mut BlockingClusterClient,
    heard: &mut Heard,
    correlation_id: i64,
    fence: &Fence,
    payload: &[u8],
) {
    let mut buffer = Vec::new();
    fence.wrap(correlation_id, payload, &mut buffer);
    client.offer(&buffer, heard).unwrap();
}

#[test]
fn one_unit_leads_and_others_are_denied_until_it_steps_down() {
    let rig = Rig::new(LeaseSettings::default());
    let node = rig.start();
    let client = rig.client();
    let before_ns = SystemClock.now().ns;
    let tenure = client.claim_leadership("db", "db/0", LONG).unwrap();
    let after_ns = SystemClock.now().ns;
    // Spec 05 L1.
    let long_ns = LONG.as_nanos() as i64;
    assert!((before_ns..=after_ns).contains(&(tenure.guaranteed_until_ns - long_ns)));
    assert_eq!(client.claim_leadership("db", "db/1", LONG), Err(ClaimError::Denied));
    let again = client.claim_leadership("db", "db/0", Duration::from_millis(1)).unwrap();
    assert_eq!(again.token, tenure.token, "spec 05 L4");

    // Spec 05 L9.
    let (holder, other) = (client.leadership_check("db", "db/0"), client.leadership_check("db", "db/1"));
    let mut fence = Fence::default();
    holder.check(Some(&mut fence)).unwrap();
    assert_eq!(fence, fence_of(tenure, "db/0"));
    let mut local = Fence::default();
    holder.check_local(Some(&mut local)).unwrap();
    assert_eq!(local, fence);
    assert_eq!(other.check(Some(&mut fence)), Err(CheckError::NotHeld));
    assert_eq!((other.check_local(None), fence.unit.as_str()), (Err(CheckError::NotHeld), "db/0"));

    // Spec 05 L7, L8: every waiter is woken, and a wait for a free lease returns immediately.
    client.block_until_leadership_released("cache", &Cancel::new()).unwrap();
    let waiting: Vec<_> = (0..3).map(|_| wait_in_thread(&rig.client())).collect();
    let cancel = Cancel::new();
    cancel.cancel();
    let cancelled = client.block_until_leadership_released("db", &cancel);
    assert_eq!(cancelled, Err(BlockError::BlockCancelled));
    let stale = client.release("db", "db/0", tenure.token - 1);
    assert_eq!(stale, Err(ReleaseError::Stale { current: tenure.token }));
    client.release("db", "db/0", tenure.token).unwrap();
    client.release("db", "db/0", tenure.token).unwrap();
    assert!(waiting.into_iter().all(|thread| thread.join().unwrap() == Ok(())));
    assert_eq!(holder.check_local(None), Err(CheckError::NotHeld));
    assert_eq!(holder.check(None), Err(CheckError::NotHeld));

    let next = client.claim_leadership("db", "db/1", LONG).unwrap();
    assert!(next.token > tenure.token);
    let late = client.release("db", "db/0", tenure.token);
    assert_eq!(late, Err(ReleaseError::Stale { current: next.token }));
    drop((holder, other, client));
    node.stop().unwrap();
}

pub type Waiting = std::thread::JoinHandle<Result<(), BlockError>>;

/// Waits for the release of "db" in a thread, once the service has the wait.
pub fn wait_in_thread(client: &BlockingLeaseClient) -> Waiting {
    let client = client.clone();
    #[expect(clippy::disallowed_methods, reason = "blocking calls block their thread")]
    std::thread::spawn(move || client.block_until_leadership_released("db", &Cancel::new()))
}

#[test]
fn a_lease_that_is_not_renewed_expires_and_wakes_who_waits() {
    let rig = Rig::new(LeaseSettings::default());
    let node = rig.start();
    let client = rig.client();
    let first = client.claim_leadership("db", "db/0", Duration::from_millis(300)).unwrap();
    client.block_until_leadership_released("db", &Cancel::new()).unwrap();
    // Spec 05 L1: not before its guarantee.
    assert!(SystemClock.now().ns >= first.guaranteed_until_ns);
    let second = client.claim_leadership("db", "db/1", LONG).unwrap();
    assert!(second.token > first.token);
    drop(client);
    node.stop().unwrap();
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    // Spec 05 L6. Without a node, a request that is refused immediately was not sent.
    let rig = Rig::new(LeaseSettings::default());
    let client = rig.client();
    for (application, unit, duration, field) in [
        ("", "db/0", LONG, "application"),
        ("d b", "db/0", LONG, "application"),
        ("db", "db\u{7}", LONG, "unit"),
        ("db", &"x".repeat(129), LONG, "unit"),
        ("db", "db/0", Duration::ZERO, "duration"),
        ("db", "db/0", Duration::from_secs(86_401), "duration"),
        ("db", "db/0", Duration::MAX, "duration"),
    ] {
        let error = client.claim_leadership(application, unit, duration).unwrap_err();
        assert!(matches!(&error, ClaimError::Invalid(invalid) if invalid.field == field), "{error}");
    }
    let error = client.block_until_leadership_released("", &Cancel::new()).unwrap_err();
    assert!(matches!(error, BlockError::Invalid(_)), "{error}");
    assert!(matches!(client.release("db", "", 1), Err(ReleaseError::Invalid(_))));
    assert!(matches!(client.pin("db", " "), Err(PinError::Invalid(_))));
    assert!(matches!(client.leadership_check("", "").check(None), Err(CheckError::Invalid(_))));
    assert!(matches!(client.leadership_check("", "").check_local(None), Err(CheckError::Invalid(_))));
    assert!(LeaseTracker::start("db", LONG, client.polled()).is_err());
}

#[test]
fn without_a_cluster_nothing_can_be_inferred() {
    // Spec 05 L3.
    let rig = Rig::new(LeaseSettings::default());
    let mut context = rig.context();
    context.timeout_ns = 50_000_000;
    let client = BlockingLeaseClient::connect(rig.cluster.aeron_directory(), context).unwrap();
    let error = client.claim_leadership("db", "db/0", Duration::from_millis(10)).unwrap_err();
    let unanswered = ClaimError::Unanswered(Unanswered::Closed);
    assert!(
        matches!(
            &error,
            ClaimError::Unanswered(Unanswered::NotConnected { timeout_ns: 50_000_000, reason })
                if !reason.is_empty()
        ),
        "{error}"
    );
    // Closing the client wakes waiting threads.
    let waiting = wait_in_thread(&client);
    let tracker = LeaseTracker::start("db/0", Duration::from_millis(10), client.polled()).unwrap();
    let ticket = tracker.wait_leader();
    assert!(!ticket.wait(), "spec 05 L15");
    assert!(tracker.failure().unwrap().to_string().starts_with("leadership failure: "));
    assert!(tracker.stop(true).is_err());
    assert_ne!(error, unanswered);
    drop(client);
    assert!(!waiting.is_finished(), "its clone keeps the client alive");
}

#[test]
fn each_limit_says_which_one_it_is() {
    let settings = LeaseSettings { max_leases: 2, max_waiters: 1, max_pins: 1, ..LeaseSettings::default() };
    let rig = Rig::new(settings);
    let node = rig.start();
    let client = rig.client();
    for application in ["db", "cache"] {
        client.claim_leadership(application, "x/0", LONG).unwrap();
    }
    let error = client.claim_leadership("more", "x/0", LONG).unwrap_err();
    assert_eq!(error, ClaimError::TooManyLeases { limit: 2 });
    assert_eq!(client.pin("more", "m"), Err(PinError::TooManyLeases { limit: 2 }));
    client.pin("db", "m").unwrap();
    assert_eq!(client.pin("db", "n"), Err(PinError::TooManyPins { limit: 1 }));
    // Calls of one client reach the service in order.
    let mut polled = client.polled();
    let wait = polled.start_block("db", SystemClock.now().ns).unwrap();
    let error = client.block_until_leadership_released("cache", &Cancel::new()).unwrap_err();
    assert_eq!(error, BlockError::TooManyWaiters { limit: 1 });
    client.unpin("db", "m").unwrap();
    let leases = client.list().unwrap().leases;
    let token = leases.iter().find(|lease| lease.application == "db").unwrap().token;
    client.release("db", "x/0", token).unwrap();
    let mut outcome = None;
    until("the wake-up", || {
        outcome = polled.poll_block(wait);
        outcome.is_some()
    });
    assert_eq!(outcome, Some(Ok(())));
    drop(polled);
    drop(client);
    node.stop().unwrap();
}

#[test]
fn a_fenced_message_of_an_older_tenure_never_reaches_the_service() {
    // Spec 05 L10, L20: live, in the replay of the log, and after a snapshot.
    let rig = Rig::new(LeaseSettings::default());
    let node = rig.start();
    let client = rig.client();
    let mut heard = Heard::default();
    let mut writer = rig.cluster.connect().unwrap();
    let first = client.claim_leadership("db", "db/0", LONG).unwrap();
    let old = fence_of(first, "db/0");
    offer_fenced(&mut writer, &mut heard, 1, &old, b"one");
    writer.offer(b"unfenced", &mut heard).unwrap();
    assert_eq!(kept(&mut writer, &mut heard), "kept one, unfenced");
    client.release("db", "db/0", first.token).unwrap();
    offer_fenced(&mut writer, &mut heard, 2, &old, b"nobody leads");
    // The stale fence is reported before the next claim, which uses another session.
    writer.wait(&mut heard, |heard| !heard.stale.is_empty()).unwrap();
    let second = client.claim_leadership("db", "db/1", LONG).unwrap();
    offer_fenced(&mut writer, &mut heard, 3, &old, b"deposed");
    offer_fenced(&mut writer, &mut heard, 4, &fence_of(second, "db/1"), b"two");
    let foreign = Fence { token: 0, ..old.clone() };
    offer_fenced(&mut writer, &mut heard, 5, &foreign, b"no token");
    // A truncated envelope is invalid and does not reach the service.
    let mut cut = Vec::new();
    fence_of(second, "db/1").wrap(6, b"cut", &mut cut);
    writer.offer(&cut[..cut.len() - 1], &mut heard).unwrap();
    assert_eq!(kept(&mut writer, &mut heard), "kept one, unfenced, two");
    let stale = [(2, first.token, 0), (3, first.token, second.token), (5, 0, second.token)];
    assert_eq!(heard.stale, stale);
    writer.close();

    // Recovery from the log only.
    node.stop().unwrap();
    let node = rig.start();
    let mut writer = rig.cluster.connect().unwrap();
    assert_eq!(kept(&mut writer, &mut heard), "kept one, unfenced, two");
    offer_fenced(&mut writer, &mut heard, 7, &old, b"deposed");
    offer_fenced(&mut writer, &mut heard, 8, &fence_of(second, "db/1"), b"three");
    assert_eq!(kept(&mut writer, &mut heard), "kept one, unfenced, two, three");
    snapshot(&node);
    writer.close();
    node.stop().unwrap();

    // Recovery from the snapshot: the table, then the service's state.
    let node = rig.start();
    let mut writer = rig.cluster.connect().unwrap();
    heard.stale.clear();
    offer_fenced(&mut writer, &mut heard, 9, &old, b"deposed");
    offer_fenced(&mut writer, &mut heard, 10, &fence_of(second, "db/1"), b"four");
    assert_eq!(kept(&mut writer, &mut heard), "kept one, unfenced, two, three, four");
    assert_eq!(heard.stale, [(9, first.token, second.token)]);
    writer.close();
    drop(client);
    node.stop().unwrap();
}

/// Time-independent facts of all leases.
fn facts(client: &BlockingLeaseClient) -> Vec<(String, String, u64, u32)> {
    let leases = client.list().unwrap().leases;
    leases
        .into_iter()
        .map(|LeaseInfo { application, unit, token, pins, .. }| (application, unit, token, pins))
        .collect()
}

#[test]
fn leases_pins_and_waits_survive_restarts() {
    let rig = Rig::new(LeaseSettings::default());
    let mut node = rig.start();
    let client = rig.client();
    let db = client.claim_leadership("db", "db/0", LONG).unwrap();
    client.claim_leadership("cache", "cache/0", LONG).unwrap();
    client.pin("cache", "backup").unwrap();
    client.pin("next", "backup").unwrap();
    let before = facts(&client);
    assert_eq!(before.len(), 3);
    assert!(before.contains(&("next".into(), String::new(), 0, 1)));
    let waiting = wait_in_thread(&client);
    for is_snapshot in [false, true, false] {
        if is_snapshot {
            snapshot(&node);
        }
        node.stop().unwrap();
        node = rig.start();
        assert_eq!(facts(&client), before);
        assert!(client.leadership_check("db", "db/0").check(None).is_ok());
        assert_eq!(client.claim_leadership("db", "db/1", LONG), Err(ClaimError::Denied));
        let again = client.claim_leadership("db", "db/0", LONG).unwrap();
        assert_eq!(again.token, db.token);
        assert!(!waiting.is_finished());
    }
    let pins = client.pinned().unwrap();
    let pin = |application: &str| PinInfo { application: application.into(), entity: "backup".into() };
    assert_eq!(pins, [pin("cache"), pin("next")]);
    // A restart loses no wake-up.
    client.release("db", "db/0", db.token).unwrap();
    waiting.join().unwrap().unwrap();
    drop(client);
    node.stop().unwrap();
}

#[test]
fn a_lease_expires_after_a_restart_and_wakes_who_waited_before_it() {
    let rig = Rig::new(LeaseSettings::default());
    let mut node = rig.start();
    let client = rig.client();
    for is_snapshot in [false, true] {
        let duration = Duration::from_millis(700);
        let first = client.claim_leadership("db", "db/0", duration).unwrap();
        let waiting = wait_in_thread(&client);
        if is_snapshot {
            snapshot(&node);
        }
        node.stop().unwrap();
        node = rig.start();
        waiting.join().unwrap().unwrap();
        let second = client.claim_leadership("db", "db/1", duration).unwrap();
        assert!(second.token > first.token);
        client.release("db", "db/1", second.token).unwrap();
    }
    drop(client);
    node.stop().unwrap();
}

#[test]
fn a_service_without_a_lease_table_in_its_snapshot_does_not_start_behind_a_fence() {
    let rig = Rig::new(LeaseSettings::default());
    let keeper = || -> ServiceFactory { Box::new(|| Box::new(Keeper::default())) };
    let node = rig.cluster.start(vec![keeper()]).unwrap();
    let mut writer = rig.cluster.connect().unwrap();
    writer.offer(b"one", &mut Heard::default()).unwrap();
    assert_eq!(kept(&mut writer, &mut Heard::default()), "kept one");
    snapshot(&node);
    writer.close();
    node.stop().unwrap();
    let behind_a_fence = fenced(keeper(), rig.settings).unwrap();
    let node = Node::launch(rig.cluster.context(), vec![behind_a_fence]).unwrap();
    until("the end", || node.is_ending());
    let failures = node.failures().join("; ");
    assert!(failures.contains("record 0 of the lease table"), "{failures}");
    assert!(node.stop().is_err());
}

#[test]
fn garbage_changes_nothing() {
    let rig = Rig::new(LeaseSettings::default());
    let node = rig.start();
    let client = rig.client();
    client.claim_leadership("db", "db/0", LONG).unwrap();
    let before = facts(&client);
    let mut raw = rig.cluster.connect().unwrap();
    let mut good = vec![0; 512];
    let process = Process::UNNAMED;
    let request =
        Request::Claim { correlation_id: 1, duration_ns: 1 << 40, application: "evil", unit: "e/0", process };
    let length = request.encode(&mut good).unwrap();
    good.truncate(length);
    let mut heard = Heard::default();
    for length in 1..good.len() {
        raw.offer(&good[..length], &mut heard).unwrap();
    }
    for (at, byte) in [(0, 200), (2, 200), (4, 0), (6, 0), (40, 255), (43, 255), (good.len() - 1, 0xFF)] {
        let mut bad = good.clone();
        bad[at] = byte;
        raw.offer(&bad, &mut heard).unwrap();
    }
    let mut bad = good.clone();
    bad[44] = b' ';
    raw.offer(&bad, &mut heard).unwrap();
    raw.offer(&[0xFF; 3_000], &mut heard).unwrap();
    assert_eq!(facts(&client), before);
    raw.close();
    node.stop().unwrap();
    // The replay gives the same result.
    let node = rig.start();
    assert_eq!(facts(&client), before);
    drop(client);
    node.stop().unwrap();
}

#[test]
fn a_tracker_takes_over_from_one_that_steps_down() {
    let rig = Rig::new(LeaseSettings::default());
    let node = rig.start();
    let (first, second) = (rig.client(), rig.client());
    let duration = Duration::from_secs(20);
    let leader = LeaseTracker::start("db/0", duration, first.polled()).unwrap();
    assert!(leader.wait_leader().wait());
    assert_eq!((leader.application_name(), leader.claim_duration()), ("db", duration));
    let minion = LeaseTracker::start("db/1", duration, second.polled()).unwrap();
    assert!(!minion.wait_minion().wait() && !minion.claim_leader().wait());
    assert!(leader.claim_leader().wait());
    let old = leader.fence().unwrap();
    assert!(leader.guaranteed_until_ns().is_some() && minion.fence().is_none());
    let (leads, deposed) = (minion.wait_leader(), leader.wait_minion());
    leader.stop(true).unwrap();
    assert!(leads.wait() && !deposed.wait());
    assert_eq!(minion.state(), TrackerState::Leader);
    assert!(minion.fence().unwrap().token > old.token);
    // Without a release the lease is left to expire.
    minion.stop(false).unwrap();
    assert_eq!(facts(&first)[0].1, "db/1");
    drop((first, second));
    node.stop().unwrap();
    rig.base.close().unwrap();
}
