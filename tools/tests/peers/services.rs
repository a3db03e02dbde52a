//! Two services of ours, one of them leases, on the released consensus module: timers, fences, snapshots and restarts.

use std::path::Path;
use std::time::Duration;

use harrier::lease::codec::Event;
use harrier::lease::{
    Cancel, CheckError, Checker, ClaimError, Claimer, Fence, LeaseClientContext, LeaseSettings, Token,
};
use harrier::leases::{BlockingLeaseClient, fenced, lease_service};
use harrier::{ServiceNode, ServiceNodeContext};

use crate::peers::containers::{ABORT, ACTIVE, NEUTRAL, SNAPSHOT, SNAPSHOTS, STATE, Session, TOGGLE};
use crate::peers::java;
use crate::peers::members::{send, state, tally};
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{PATIENCE_NS, cluster, directory, until};

const LONG: Duration = Duration::from_secs(3_600);

/// The released member with services of ours beside it.
struct World {
    member: Process,
    services: ServiceNode,
    session: Session,
    leases: BlockingLeaseClient,
}

impl World {
    fn start(home: &Path, members: &str, port: u16) -> Self {
        let arguments = [home.to_str().unwrap(), members, "none"];
        let properties = ["aeron.cluster.service.count=2".to_owned()];
        let mut member =
            Process::start("java member", &mut java::program(&properties, "peertest.Member", &arguments));
        assert_eq!(member.line(), "ready");
        let context = ServiceNodeContext::new(home.join("aeron"), home.join("cluster"));
        let settings = LeaseSettings::default();
        let services = vec![(0, lease_service(settings).unwrap()), (1, fenced(tally(), settings).unwrap())];
        let services = ServiceNode::launch(&context, services).unwrap();
        let session = Session::open(&home.join("aeron"), port);
        let mut context = LeaseClientContext::new(cluster::context(&format!("0=127.0.0.1:{port}")));
        // A request without an answer fails the test, so the timeout tolerates a stalled machine.
        context.timeout_ns = PATIENCE_NS;
        let leases = BlockingLeaseClient::connect(home.join("aeron"), context).unwrap();
        Self { member, services, session, leases }
    }

    fn take_snapshot(&mut self) {
        self.session.set(TOGGLE, SNAPSHOT);
        self.session.await_value(SNAPSHOTS, 1);
        self.session.await_value(TOGGLE, NEUTRAL);
        self.session.await_value(STATE, ACTIVE);
    }

    /// Terminates the cluster without another snapshot.
    fn abort(mut self) {
        self.session.set(TOGGLE, ABORT);
        assert!(self.member.wait().success(), "{}", self.member.errors());
        until("the end of the services", || self.services.is_ending().then_some(()));
        self.leases.close();
    }

    /// Sends a message inside a fence. Returns the answer of the service, or the token that made the fence stale.
    fn send_fenced(&mut self, fence: &Fence, text: &str) -> Result<String, u64> {
        let mut message = Vec::new();
        fence.wrap(9, text.as_bytes(), &mut message);
        match self.session.answer_to(&message) {
            answer if harrier::lease::codec::is_ours(&answer) => match Event::decode(&answer) {
                Ok(Event::FenceStale { correlation_id: 9, current_token, .. }) => Err(current_token),
                other => panic!("{other:?}"),
            },
            answer => Ok(String::from_utf8(answer).unwrap()),
        }
    }
}

#[test]
fn our_services_hold_leases_on_the_released_consensus_module() {
    if !java::is_available() {
        return;
    }
    let home = directory("services");
    let ports: Vec<u16> = (0..5).map(|_| free_port()).collect();
    let endpoints: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let members = format!("0,{}", endpoints.join(","));
    let mut world = World::start(home.path(), &members, ports[0]);

    let first = world.leases.claim_leadership("gateway", "gateway/0", LONG).unwrap();
    let denied = world.leases.claim_leadership("gateway", "gateway/1", LONG);
    assert_eq!(denied, Err(ClaimError::Denied));
    // A lease that expires by a timer of the released module.
    world.leases.claim_leadership("short", "short/0", Duration::from_millis(300)).unwrap();
    world.leases.block_until_leadership_released("short", &Cancel::new()).unwrap();
    let fence = Fence { application: "gateway".into(), unit: "gateway/0".into(), token: first.token };
    assert!(world.send_fenced(&fence, "an order").unwrap().starts_with("1 "));
    send(&mut world.session, "before the snapshot", 50);
    world.take_snapshot();
    let tallied = send(&mut world.session, "behind the snapshot", 50);
    world.abort();

    // Snapshot and log restore the leases and the state behind the fence.
    let mut world = World::start(home.path(), &members, ports[0]);
    assert_eq!(state(&mut world.session), tallied);
    world.leases.leadership_check("gateway", "gateway/0").check(None).unwrap();
    world.leases.release("gateway", "gateway/0", first.token).unwrap();
    let second = world.leases.claim_leadership("gateway", "gateway/1", LONG).unwrap();
    assert!(second.token > first.token);
    assert_eq!(world.send_fenced(&fence, "a late order"), Err(second.token));
    assert_eq!(state(&mut world.session), tallied, "the service never saw the late order");
    let held = world.leases.leadership_check("gateway", "gateway/0").check(None);
    assert_eq!(held, Err(CheckError::NotHeld));
    world.abort();
}
