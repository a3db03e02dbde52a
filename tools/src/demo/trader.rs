//! The client of the demonstration: it sends orders, checks each answer against its own book, and measures.

use std::path::Path;

use harrier::client::{Aeron, ClientError, Context};
use harrier::cluster::client::{ClusterClient, ClusterClientContext, ClusterClientError, EgressListener};
use harrier::driver::context::DriverContext;
use harrier::driver::{ExecutorMode, HostDriver, StartError};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::idle::IdleStrategy;
use harrier::ringbuf::runner::ThreadPace;
use harrier::ringbuf::{Clock, SharedThread};
use harrier::services::book::Book;
use harrier::services::orders::{MESSAGE_LENGTH, Order, Reply, Request, Status};
use hdrhistogram::Histogram;
use thiserror::Error;

use super::report::Tally;
use crate::CommandError;
use crate::orders::{Flow, FlowOrder};

/// Sequence number of a request for a digest, which is no order.
const DIGEST_SEQUENCE: u64 = u64::MAX;
/// Longest round trip that is measured, ns.
const HIGHEST_NS: u64 = 60_000_000_000;
/// Longest time for the first connection.
const CONNECT_LIMIT_NS: i64 = 20_000_000_000;
/// Longest time without an answer outside of an outage.
const SILENCE_LIMIT_NS: i64 = 20_000_000_000;

/// Reason why trading ends early.
#[derive(Debug, Error)]
pub(super) enum TraderError {
    /// The client's own driver did not start.
    #[error("the client's media driver: {0}")]
    Driver(#[from] StartError),
    /// The client has lost its driver.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The session is lost.
    #[error(transparent)]
    Cluster(#[from] ClusterClientError),
    /// An answer differs from the client's own book.
    #[error("answer {index} is {got}, the client's own book says {wanted}")]
    Answer { index: usize, got: String, wanted: String },
    /// The node has ended.
    #[error("{0}")]
    Node(String),
    /// There was no answer for too long.
    #[error("no answer within {limit_ns} ns")]
    Silent { limit_ns: i64 },
    /// The book that came back differs from the one that was lost.
    #[error(
        "digest {digest:016x} of the node's book after its restart; the acknowledged orders give {expected:016x}"
    )]
    Digest { digest: u64, expected: u64 },
    /// A signal has arrived.
    #[error("interrupted")]
    Interrupted,
    /// An agent of the client's driver has failed.
    #[error("the client's media driver has ended")]
    DriverEnded,
}

impl From<TraderError> for CommandError {
    fn from(error: TraderError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// State that the answers change. It is separate from the connection so that both can be borrowed at once.
struct Ledger<'a> {
    flow: &'a [FlowOrder],
    book: Book,
    tally: Tally,
    sent_ns: Vec<i64>,
    acknowledged: usize,
    digest: Option<u64>,
    failure: Option<TraderError>,
    new_leaders: usize,
}

/// An outage of the node.
#[derive(Debug, Clone, Copy)]
struct Outage {
    acknowledged_before: usize,
    acknowledged_at_reconnect: Option<usize>,
}

pub(super) struct Trader<'a> {
    thread: SharedThread,
    aeron: Aeron,
    client: ClusterClient,
    ledger: Ledger<'a>,
    sent: usize,
    leaders_seen: usize,
    is_digest_wanted: bool,
    outage: Option<Outage>,
    last_progress_ns: i64,
    now_ns: i64,
    /// Round trips with one order outstanding, ns.
    pub(super) one_at_a_time: Histogram<u64>,
    /// Round trips with many outstanding orders, ns.
    pub(super) windowed: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HIGHEST_NS, 3).expect("bounds that a histogram can have")
}

impl<'a> Trader<'a> {
    /// Starts a driver on this thread and opens a session.
    pub(super) fn connect(scratch: &Path, endpoints: &str, flow: &'a Flow) -> Result<Self, TraderError> {
        let directory = scratch.join("client-driver");
        let now = SystemClock.now();
        let mut context = DriverContext::new(&directory);
        context.seed = now.ns as u64;
        let driver = HostDriver::on_host(context, ExecutorMode::Inline, &now)?;
        let thread = SharedThread::new(
            Box::new(ThreadPace::new(SystemClock, IdleStrategy::Yield)),
            driver.handle.error_sink(),
        );
        thread.install(driver.into_agents()).map_err(|error| TraderError::Node(error.to_string()))?;
        let aeron = Aeron::connect(Context::new(directory), MappedMemory, &now)?;
        let mut context = ClusterClientContext::new(endpoints, "aeron:udp?endpoint=127.0.0.1:0");
        context.client_name = "harrier-demo".into();
        context.message_timeout_ns = CONNECT_LIMIT_NS;
        let client = ClusterClient::new(context)?;
        let count = flow.orders.len();
        let ledger = Ledger {
            flow: &flow.orders,
            book: Book::default(),
            tally: Tally::new(flow.first_pass),
            sent_ns: vec![0; count],
            acknowledged: 0,
            digest: None,
            failure: None,
            new_leaders: 0,
        };
        let mut trader = Self {
            thread,
            aeron,
            client,
            ledger,
            sent: 0,
            leaders_seen: 0,
            is_digest_wanted: false,
            outage: None,
            last_progress_ns: now.ns,
            now_ns: now.ns,
            one_at_a_time: histogram(),
            windowed: histogram(),
        };
        while !trader.client.is_connected() {
            trader.step(0, 0)?;
        }
        Ok(trader)
    }

    /// Runs one pass: driver, answers, and new orders while fewer than `window` are outstanding and `end` is not
    /// reached.
    pub(super) fn step(&mut self, window: usize, end: usize) -> Result<(), TraderError> {
        self.thread.run_once();
        if self.thread.ended_count() > 0 {
            return Err(TraderError::DriverEnded);
        }
        let now = SystemClock.now();
        self.now_ns = now.ns;
        self.aeron.do_work(&now)?;
        let before = self.ledger.acknowledged;
        self.client.poll(&mut self.aeron, &now, &mut self.ledger)?;
        if let Some(failure) = self.ledger.failure.take() {
            return Err(failure);
        }
        self.measure(before, window);
        self.watch_silence(window)?;
        if self.ledger.new_leaders != self.leaders_seen && self.client.is_connected() {
            // Messages in flight may be lost: the book recognises repeated orders.
            self.leaders_seen = self.ledger.new_leaders;
            self.sent = self.ledger.acknowledged;
            if let Some(outage) = &mut self.outage {
                outage.acknowledged_at_reconnect = Some(self.sent);
            }
        }
        self.send(window, end)
    }

    fn measure(&mut self, before: usize, window: usize) {
        let histogram = if window == 1 { &mut self.one_at_a_time } else { &mut self.windowed };
        if before == self.ledger.acknowledged {
            return;
        }
        let now_ns = SystemClock.now().ns;
        self.last_progress_ns = now_ns;
        for sent_ns in &self.ledger.sent_ns[before..self.ledger.acknowledged] {
            histogram.saturating_record((now_ns - sent_ns).max(1) as u64);
        }
    }

    fn watch_silence(&mut self, window: usize) -> Result<(), TraderError> {
        if window == 0 || self.ledger.digest.is_some() {
            self.last_progress_ns = self.now_ns;
        }
        if self.now_ns - self.last_progress_ns > SILENCE_LIMIT_NS {
            return Err(TraderError::Silent { limit_ns: SILENCE_LIMIT_NS });
        }
        Ok(())
    }

    fn send(&mut self, window: usize, end: usize) -> Result<(), TraderError> {
        while self.sent < end && self.sent - self.ledger.acknowledged < window {
            let request =
                Request { sequence: self.sent as u64 + 1, order: self.ledger.flow[self.sent].order };
            self.ledger.sent_ns[self.sent] = SystemClock.now().ns;
            if !self.offer(&request)? {
                return Ok(());
            }
            self.sent += 1;
        }
        if self.is_digest_wanted && self.sent == self.ledger.acknowledged {
            let request = Request { sequence: DIGEST_SEQUENCE, order: Order::Digest };
            self.is_digest_wanted = !self.offer(&request)?;
        }
        Ok(())
    }

    fn offer(&mut self, request: &Request) -> Result<bool, TraderError> {
        match self.client.offer(&request.encode()) {
            Ok(_) => Ok(true),
            Err(ClusterClientError::NotConnected | ClusterClientError::Offer(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The node has just been killed.
    pub(super) fn begin_outage(&mut self) {
        self.outage =
            Some(Outage { acknowledged_before: self.ledger.acknowledged, acknowledged_at_reconnect: None });
    }

    /// True when the session continues: an order that was sent to the new node is answered.
    pub(super) fn has_outage_ended(&self) -> bool {
        let reconnected = self.outage.and_then(|outage| outage.acknowledged_at_reconnect);
        reconnected.is_some_and(|count| self.ledger.acknowledged > count)
    }

    /// Number of orders acknowledged since the node was killed.
    pub(super) fn acknowledged_since_kill(&self) -> usize {
        self.outage.map_or(0, |outage| self.ledger.acknowledged - outage.acknowledged_before)
    }

    /// Asks for the digest of the node's book when nothing is outstanding.
    pub(super) fn ask_digest(&mut self) {
        self.ledger.digest = None;
        self.is_digest_wanted = true;
    }

    /// Returns the node's digest and the one computed here.
    pub(super) fn digests(&self) -> Option<(u64, u64)> {
        self.ledger.digest.map(|digest| (digest, self.ledger.book.digest()))
    }

    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.ledger.acknowledged
    }

    pub(super) fn now_ns(&self) -> i64 {
        self.now_ns
    }

    pub(super) fn tally(&self) -> Tally {
        self.ledger.tally
    }

    /// Ends the session and the client's driver.
    pub(super) fn close(&mut self) {
        self.client.close();
        for _ in 0..100 {
            self.thread.run_once();
        }
        self.aeron.close();
        self.thread.close();
    }
}

impl EgressListener for Ledger<'_> {
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, message: &[u8]) {
        debug_assert_eq!(message.len(), MESSAGE_LENGTH);
        let Ok(reply) = Reply::decode(message) else {
            let got = format!("{} bytes that are no reply", message.len());
            self.failure.get_or_insert(TraderError::Answer {
                index: self.acknowledged,
                got,
                wanted: "a reply".into(),
            });
            return;
        };
        if reply.sequence == DIGEST_SEQUENCE {
            self.digest = Some(reply.digest);
            return;
        }
        let index = reply.sequence as usize - 1;
        if index < self.acknowledged {
            // The order was answered before the crash and sent again after it.
            return;
        }
        if index > self.acknowledged {
            self.failure.get_or_insert(TraderError::Answer {
                index,
                got: "early".into(),
                wanted: format!("answer {}", self.acknowledged),
            });
            return;
        }
        self.check(index, &reply);
    }

    fn on_new_leader(&mut self, _leadership_term_id: i64, _leader_member_id: i32, _endpoints: &str) {
        self.new_leaders += 1;
    }
}

impl Ledger<'_> {
    fn check(&mut self, index: usize, reply: &Reply) {
        let FlowOrder { order, named } = self.flow[index];
        let outcome = self.book.apply(&order);
        let is_repeated = reply.status == Status::Repeated;
        let got = (reply.status, reply.filled, reply.first_match);
        let wanted = (outcome.status, outcome.filled, outcome.first_match);
        if !is_repeated && got != wanted {
            self.failure.get_or_insert(TraderError::Answer {
                index,
                got: format!("{got:?}"),
                wanted: format!("{wanted:?}"),
            });
            return;
        }
        let is_first_pass = self.tally.is_first_pass(index);
        self.tally.add(&order, named, &outcome, is_repeated, is_first_pass);
        self.acknowledged += 1;
    }
}
