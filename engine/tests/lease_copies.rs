//! The lease service's table and the copy behind a fence are identical at every position of the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harrier::cluster::client::ClusterClientContext;
use harrier::cluster::codec::CloseReason;
use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, LeadershipTerm, ServiceFailure, SnapshotImage,
    SnapshotPublication,
};
use harrier::lease::table::LeaseTable;
use harrier::lease::{Cancel, Claimer, FencedService, LeaseClientContext, LeaseService, LeaseSettings};
use harrier::leases::BlockingLeaseClient;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use harrier::services::EchoService;
use harrier::{ClusterCommand, Node, ServiceFactory};

/// Lease tables of the services at each position of the log, in all runs of the node.
type States = Arc<Mutex<BTreeMap<i64, Vec<(i32, Vec<u8>)>>>>;

/// A service that records its table after every event.
struct Probe<S> {
    service: S,
    table: fn(&S) -> &LeaseTable,
    states: States,
}

impl<S> Probe<S> {
    fn note(&self, cluster: &Cluster<'_>) {
        let mut state = Vec::new();
        let written = (self.table)(&self.service).write_state(&mut |record| -> Result<(), ServiceFailure> {
            state.extend_from_slice(record);
            Ok(())
        });
        assert!(written.is_ok());
        let mut states = self.states.lock().unwrap();
        states.entry(cluster.log_position()).or_default().push((cluster.service_id(), state));
    }
}

impl<S: ClusteredService> ClusteredService for Probe<S> {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        self.service.on_start(cluster, snapshot)?;
        self.note(cluster);
        Ok(())
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: &ClientSession, timestamp: i64) {
        self.service.on_session_open(cluster, session, timestamp);
        self.note(cluster);
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: &ClientSession,
        timestamp: i64,
        reason: CloseReason,
    ) {
        self.service.on_session_close(cluster, session, timestamp, reason);
        self.note(cluster);
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        timestamp: i64,
        message: &[u8],
        header: &Header<'_>,
    ) {
        self.service.on_session_message(cluster, session, timestamp, message, header);
        self.note(cluster);
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        self.service.on_timer_event(cluster, correlation_id, timestamp);
        self.note(cluster);
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        self.service.on_take_snapshot(cluster, snapshot)
    }

    fn on_new_leadership_term_event(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        self.service.on_new_leadership_term_event(cluster, term);
        self.note(cluster);
    }
}

fn services(states: &States) -> Vec<ServiceFactory> {
    let settings = LeaseSettings { max_leases: 6, max_pins: 4, max_waiters: 8, ..LeaseSettings::default() };
    let (original, copy) = (states.clone(), states.clone());
    vec![
        Box::new(move || {
            let service = LeaseService::new(settings).unwrap();
            Box::new(Probe { service, table: LeaseService::table, states: original })
        }),
        Box::new(move || {
            let service = FencedService::new(EchoService, settings).unwrap();
            Box::new(Probe { service, table: FencedService::table, states: copy })
        }),
    ]
}

/// An event is seen by the service and by the copy, again in each life that replays it. At the end of a life one may be
/// ahead of the other.
fn check(states: &States) {
    let states = states.lock().unwrap();
    let mut by_both = 0;
    for (position, seen) in states.iter() {
        assert!(seen.iter().all(|(_, state)| *state == seen[0].1), "tables differ at {position}");
        by_both += usize::from([0, 1].iter().all(|id| seen.iter().any(|(service_id, _)| service_id == id)));
    }
    assert!(by_both > 40, "{by_both} of {} positions", states.len());
}

fn work(client: &BlockingLeaseClient) {
    let (long, short) = (Duration::from_secs(3_600), Duration::from_millis(20));
    for turn in 0..10_u32 {
        let application = ["a", "b", "c", "d", "e", "f", "g", "h"][turn as usize % 8];
        let unit = ["u/0", "u/1"][turn as usize % 2];
        // Some claims are denied, some find no room, some leases expire by their timers. Only the first lease is long,
        // and no client waits for it.
        let duration = if turn % 8 == 0 { long } else { short };
        let claimed = client.claim_leadership(application, unit, duration).ok();
        let _full = client.pin(application, "entity");
        if turn % 3 == 1 {
            client.unpin(application, "entity").unwrap();
            client.block_until_leadership_released(application, &Cancel::new()).unwrap();
        }
        if let Some(tenure) = claimed.filter(|_| turn % 4 == 3) {
            let _over = client.release(application, unit, tenure.token);
        }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline_ns = SystemClock.now().ns + 60_000_000_000;
    while !condition() {
        assert!(SystemClock.now().ns < deadline_ns, "{what} did not come");
        std::thread::yield_now();
    }
}

fn snapshot(node: &Node) {
    node.command(ClusterCommand::Snapshot).unwrap();
    until("the snapshot", || node.is_command_done().unwrap());
    assert_eq!(node.snapshot_count().unwrap(), 1);
}

#[test]
fn the_table_and_its_copy_are_the_same_at_every_position_in_every_life() {
    let base = tempfile::Builder::new().prefix("harrier-leases-").tempdir_in("/dev/shm").unwrap();
    let cluster = crate::support::Cluster::new(base.path()).unwrap();
    let ingress = cluster.context().members.split(',').nth(1).unwrap().to_owned();
    let egress = "aeron:udp?endpoint=127.0.0.1:0|term-length=64k";
    let mut context = LeaseClientContext::new(ClusterClientContext::new(format!("0={ingress}"), egress));
    context.timeout_ns = 60_000_000_000;
    let states = States::default();
    let mut node = cluster.start(services(&states)).unwrap();
    let client = BlockingLeaseClient::connect(cluster.aeron_directory(), context).unwrap();
    work(&client);
    for life in 1..4 {
        if life == 2 {
            snapshot(&node);
        }
        work(&client);
        node.stop().unwrap();
        node = cluster.start(services(&states)).unwrap();
    }
    drop(client);
    node.stop().unwrap();
    check(&states);
}
