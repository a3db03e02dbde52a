//! An active and a standby market gateway on one lease: the active one stops without a word, the other takes over with a
//! new token, and the order book refuses what the old one still sends.
//!
//! ```text
//! cargo run --release -p harrier --example gateway
//! ```

mod support;

use std::path::Path;
use std::time::Duration;

use harrier::BlockingClusterClient;
use harrier::cluster::client::EgressListener;
use harrier::lease::codec::Event;
use harrier::lease::{Fence, LeaseClientContext, LeaseSettings, Tracker};
use harrier::leases::{BlockingLeaseClient, LeaseTracker, fenced, lease_service};
use harrier::services::BookService;
use harrier::services::orders::{Order, Reply, Request, Side, Status};
use support::{Base, Outcome};

/// Leadership is guaranteed for this long whenever a gateway asks.
const DURATION: Duration = Duration::from_millis(300);

/// The fate of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The book took it.
    Accepted,
    /// The book refused it for a reason of its own.
    Rejected(Status),
    /// The book never saw it, because the token of its sender was no longer the token of the leader.
    Stale {
        /// Token of the present leader; 0 without one.
        current_token: u64,
    },
}

#[derive(Default)]
struct Heard {
    answer: Option<Answer>,
}

impl EgressListener for Heard {
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, message: &[u8]) {
        if let Ok(Event::FenceStale { current_token, .. }) = Event::decode(message) {
            self.answer = Some(Answer::Stale { current_token });
        } else if let Ok(reply) = Reply::decode(message) {
            self.answer = Some(match reply.status {
                Status::Accepted => Answer::Accepted,
                status => Answer::Rejected(status),
            });
        }
    }
}

/// One gateway: a tracker that keeps it the leader, and a session for its orders.
struct Gateway {
    tracker: Option<LeaseTracker>,
    orders: BlockingClusterClient,
    sequence: u64,
}

impl Gateway {
    fn start(cluster: &support::Cluster, unit: &str) -> Outcome<Self> {
        let mut context = LeaseClientContext::new(cluster.client_context());
        // A tracker ends when it is not answered for so long.
        context.timeout_ns = 60_000_000_000;
        let leases = BlockingLeaseClient::connect(cluster.aeron_directory(), context)?;
        let tracker = LeaseTracker::start(unit, DURATION, leases.polled())?;
        Ok(Self { tracker: Some(tracker), orders: cluster.connect()?, sequence: 0 })
    }

    /// Waits until this gateway is the leader and returns its proof of that.
    fn lead(&self) -> Outcome<Fence> {
        let tracker = self.tracker.as_ref().ok_or("it has stopped")?;
        loop {
            if !tracker.wait_leader().wait() {
                return Err("the tracker has stopped".into());
            }
            // Between the ticket and this line the lease may have been lost again.
            if let Some(fence) = tracker.fence() {
                return Ok(fence);
            }
        }
    }

    /// Sends an order that the book sees. The fence is that of the gateway's tenure at the moment of sending.
    fn send_as_leader(&mut self, id: u64) -> Outcome<(Fence, Answer)> {
        loop {
            let fence = self.lead()?;
            match self.send(&fence, id)? {
                // Its process was held up for longer than its lease.
                Answer::Stale { .. } => {}
                answer => return Ok((fence, answer)),
            }
        }
    }

    /// Stops renewing the lease without telling anyone, as a process that hangs would.
    fn hang(&mut self) {
        self.tracker = None;
    }

    /// Sends an order under a fence: the book sees it only if that tenure is the present one at the order's place in the log.
    fn send(&mut self, fence: &Fence, id: u64) -> Outcome<Answer> {
        self.sequence += 1;
        let order = Order::Limit { id, side: Side::Buy, price: 100, quantity: 1 };
        let (mut message, mut heard) = (Vec::new(), Heard::default());
        fence.wrap(id as i64, &Request { sequence: self.sequence, order }.encode(), &mut message);
        self.orders.offer(&message, &mut heard)?;
        self.orders.wait(&mut heard, |heard| heard.answer.is_some())?;
        heard.answer.ok_or_else(|| "no answer".into())
    }
}

/// The outcome of the example.
#[derive(Debug, PartialEq, Eq)]
pub struct Story {
    /// Tokens of the first and of the second tenure.
    pub tokens: (u64, u64),
    /// The order of the active gateway.
    pub active: Answer,
    /// The order of the gateway that took over.
    pub successor: Answer,
    /// The order that the old one sent when it woke up.
    pub late: Answer,
}

/// Runs both gateways through a take-over.
pub fn run(base: &Path) -> Outcome<Story> {
    let mut cluster = support::Cluster::new(base)?;
    cluster.fresh_timestamps = true;
    let settings =
        LeaseSettings { max_leases: 1_024, max_waiters: 1_024, max_pins: 64, ..Default::default() };
    let book = fenced(Box::new(|| Box::new(BookService::default())), settings)?;
    let node = cluster.start(vec![lease_service(settings)?, book])?;

    let mut active = Gateway::start(&cluster, "gateway/0")?;
    let (first, accepted) = active.send_as_leader(1)?;
    let mut standby = Gateway::start(&cluster, "gateway/1")?;

    active.hang();
    let (mut second, successor) = standby.send_as_leader(2)?;
    // The old one still believes in its fence; the log does not.
    let mut late = active.send(&first, 3)?;
    while standby.tracker.as_ref().and_then(LeaseTracker::fence).as_ref() != Some(&second) {
        second = standby.lead()?;
        late = active.send(&first, 3)?;
    }

    if let Some(tracker) = standby.tracker.take() {
        tracker.stop(true)?;
    }
    active.orders.close();
    standby.orders.close();
    node.stop()?;
    Ok(Story { tokens: (first.token, second.token), active: accepted, successor, late })
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    let base = Base::new("gateway")?;
    let story = run(base.path())?;
    println!("gateway/0 led with token {}; its order: {:?}", story.tokens.0, story.active);
    println!("it hung; gateway/1 took over with token {}; its order: {:?}", story.tokens.1, story.successor);
    println!("the late order of gateway/0: {:?}", story.late);
    Ok(())
}
