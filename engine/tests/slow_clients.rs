//! A client that does not read its egress loses its session and does not block others.

use std::sync::{Arc, Mutex};

use harrier::client::{Aeron, Context};
use harrier::cluster::client::{ClientState, ClusterClient, EgressListener};
use harrier::cluster::codec::CloseReason;
use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotPublication,
};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use harrier::{BlockingClusterClient, ServiceFactory};

const PATIENCE_NS: i64 = 60_000_000_000;
const ROUND_TRIPS: usize = 5_000;
/// Attempts at a time comparison, which the host may disturb.
const ATTEMPTS: usize = 5;

#[derive(Default)]
struct Echoes(usize);

impl EgressListener for Echoes {
    fn on_message(&mut self, _: i64, _: i64, _: &[u8]) {
        self.0 += 1;
    }
}

/// Echoes messages and records the ids of sessions that the service side closed.
struct Echo {
    closed: Arc<Mutex<Vec<i64>>>,
}

impl ClusteredService for Echo {
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        _: i64,
        message: &[u8],
        _: &Header<'_>,
    ) {
        let _unheard = cluster.reply(session.unwrap().id, message);
    }

    fn on_session_close(
        &mut self,
        _: &mut Cluster<'_>,
        session: &ClientSession,
        _: i64,
        reason: CloseReason,
    ) {
        if reason == CloseReason::ServiceAction {
            self.closed.lock().unwrap().push(session.id);
        }
    }

    fn on_take_snapshot(
        &mut self,
        _: &mut Cluster<'_>,
        _: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        Ok(())
    }
}

/// A client that sends but does not read once connected.
struct Deaf {
    aeron: Aeron,
    client: ClusterClient,
    sent: usize,
}

impl Deaf {
    fn connect(cluster: &crate::support::Cluster) -> Self {
        let context = Context::new(cluster.aeron_directory());
        let mut aeron = Aeron::connect(context, MappedMemory, &SystemClock.now()).unwrap();
        let mut client = ClusterClient::new(cluster.client_context()).unwrap();
        until("the session", || {
            let now = SystemClock.now();
            aeron.do_work(&now).unwrap();
            client.poll(&mut aeron, &now, &mut Echoes::default()).unwrap();
            client.state() == ClientState::Connected
        });
        Self { aeron, client, sent: 0 }
    }

    fn send(&mut self) {
        self.aeron.do_work(&SystemClock.now()).unwrap();
        self.sent += usize::from(self.client.offer(&[7; 1_000]).is_ok());
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
    while !condition() {
        assert!(SystemClock.now().ns < deadline_ns, "{what} did not come");
        std::thread::yield_now();
    }
}

/// The 99th percentile of round trips, ns, while a non-reading client sends too.
fn p99_ns(client: &mut BlockingClusterClient, mut deaf: Option<&mut Deaf>) -> i64 {
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    let mut echoes = Echoes::default();
    for _ in 0..ROUND_TRIPS {
        if let Some(deaf) = &mut deaf {
            deaf.send();
        }
        let (begin, awaited) = (SystemClock.now().ns, echoes.0 + 1);
        client.offer(b"a message of thirty-two bytes...", &mut echoes).unwrap();
        client.wait(&mut echoes, |echoes| echoes.0 >= awaited).unwrap();
        times.push(SystemClock.now().ns - begin);
    }
    times.sort_unstable();
    times[ROUND_TRIPS * 99 / 100]
}

#[test]
fn a_client_that_does_not_read_loses_its_session_and_others_keep_their_pace() {
    let base = tempfile::Builder::new().prefix("harrier-slow-").tempdir_in("/dev/shm").unwrap();
    let cluster = crate::support::Cluster::new(base.path()).unwrap();
    let closed = Arc::new(Mutex::new(Vec::new()));
    let of_service = closed.clone();
    let echo: ServiceFactory = Box::new(move || Box::new(Echo { closed: of_service }));
    let node = cluster.start(vec![echo]).unwrap();
    let mut client = cluster.connect().unwrap();
    let mut ratios = Vec::new();
    for _ in 0..ATTEMPTS {
        let alone = p99_ns(&mut client, None);
        let mut deaf = Deaf::connect(&cluster);
        let beside = p99_ns(&mut client, Some(&mut deaf));
        assert!(deaf.sent > 100, "{} messages fill no egress", deaf.sent);
        let session_id = deaf.client.session_id();
        until("the end of the session", || closed.lock().unwrap().contains(&session_id));
        ratios.push(beside as f64 / alone as f64);
        if ratios.last().is_some_and(|ratio| *ratio <= 2.0) {
            client.close();
            node.stop().unwrap();
            return;
        }
    }
    panic!("a client that does not read slows the others down: p99 by {ratios:?}");
}
