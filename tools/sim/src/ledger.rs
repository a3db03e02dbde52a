//! The service under test: an order book that reports all events to the checkers, sets timers, sends messages to
//! itself and sends long answers.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use harrier::services::book::Book;
use harrier::services::book_snapshot::{self, BookReader};
use harrier::services::orders::{MESSAGE_LENGTH, Request};
use harrier_cluster::codec::{CloseReason, Role};
use harrier_cluster::service::{
    ClientSession, Cluster, ClusterError, ClusteredService, Header, LeadershipTerm, ServiceFailure,
    SnapshotImage, SnapshotPublication,
};

use crate::history::{Event, EventKind, History};
use crate::kernel::Kernel;
use crate::snapshot::{self, SnapshotPlace};
use crate::trace::hash_bytes;

/// Number of messages to the log of which the service waits before one.
const FORWARDS_PER_WAIT: u64 = 4;
/// Time that the service waits before such a message, ns.
const FORWARD_WAIT_NS: i64 = 20_000_000;
/// Length of the header before the order in a message and in an answer, bytes.
const HEADER_LENGTH: usize = 24;
/// Length of an answer without filling, bytes.
pub const ANSWER_LENGTH: usize = 32;
/// Number of orders after which the digest covers the whole book.
const BOOK_DIGEST_PERIOD: u64 = 100;

/// A message of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Number that the sender gave this offer.
    pub offer: u64,
    /// Number that the sender gave the order; a repeated order keeps it.
    pub sequence: u64,
    /// Delay of a timer with this number, ms; 0 for none.
    pub timer_ms: u16,
    /// Services that send a message to all services: bit 0 is the first service, bit 1 the second.
    pub forwarders: u8,
    /// The service ends the session.
    pub closes: bool,
    /// The service writes a snapshot when it leads and none has been finished.
    pub is_snapshot: bool,
    /// Length of the answer, bytes.
    pub answer_length: u32,
}

impl Order {
    /// Writes the header of the message.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend_from_slice(&self.offer.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.timer_ms.to_le_bytes());
        bytes.push(self.forwarders);
        bytes.push(u8::from(self.closes) | u8::from(self.is_snapshot) << 1);
        bytes.extend_from_slice(&self.answer_length.to_le_bytes());
    }

    /// Reads the header of a message.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            offer: u64::from_le_bytes(*bytes.first_chunk()?),
            sequence: u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?),
            timer_ms: u16::from_le_bytes(*bytes.get(16..)?.first_chunk()?),
            forwarders: *bytes.get(18)?,
            closes: *bytes.get(19)? & 1 != 0,
            is_snapshot: *bytes.get(19)? & 2 != 0,
            answer_length: u32::from_le_bytes(*bytes.get(20..)?.first_chunk()?),
        })
    }
}

/// An answer of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Number of the offer that is answered.
    pub offer: u64,
    /// Number of the session's last order that was applied.
    pub applied: u64,
    /// Position of the log.
    pub position: i64,
    /// Digest of the service.
    pub digest: u64,
}

impl Answer {
    fn encode(&self, bytes: &mut Vec<u8>, length: usize) {
        bytes.clear();
        for word in [self.offer, self.applied, self.position as u64, self.digest] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize(length.max(ANSWER_LENGTH), 0);
    }

    /// Reads an answer.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self { offer: word(0)?, applied: word(8)?, position: word(16)? as i64, digest: word(24)? })
    }
}

/// Most services of a node. The first one answers, sets timers and closes sessions; all see everything.
pub const MAX_SERVICES: usize = 2;

/// A service of one life of a node.
pub struct Ledger {
    service_id: usize,
    service_count: usize,
    history: Rc<RefCell<History>>,
    kernel: Kernel,
    book: Book,
    digest: u64,
    /// Added to the digest with the next event.
    pending_digest: u64,
    applied: BTreeMap<i64, u64>,
    timers: BTreeMap<i64, i64>,
    /// Messages in flight, by the service that sends them.
    forwarded: [VecDeque<u64>; MAX_SERVICES],
    snapshots: Option<SnapshotPlace>,
    scratch: Vec<u8>,
}

impl Ledger {
    /// Creates a service without state, one of `service_count`. It writes snapshots when there is a place for them.
    pub fn new(
        (service_id, service_count): (usize, usize),
        history: Rc<RefCell<History>>,
        kernel: Kernel,
        snapshots: Option<SnapshotPlace>,
    ) -> Self {
        Self {
            service_id,
            service_count,
            history,
            kernel,
            book: Book::default(),
            digest: 0,
            pending_digest: 0,
            applied: BTreeMap::new(),
            timers: BTreeMap::new(),
            forwarded: Default::default(),
            snapshots,
            scratch: Vec::new(),
        }
    }

    fn see(&mut self, cluster: &Cluster<'_>, kind: EventKind, session_id: i64, detail: u64, timestamp: i64) {
        let event = Event { position: cluster.log_position(), kind, session_id, detail, timestamp };
        let state = std::mem::take(&mut self.pending_digest);
        for word in [event.position as u64, session_id as u64, detail, timestamp as u64, state] {
            self.digest = (self.digest ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        }
        self.history.borrow_mut().on_event(event, self.digest);
        self.kernel.state().note("event", &[event.position as u64, session_id as u64, detail]);
    }

    fn violate(&self, checker: &'static str, text: String) {
        self.history.borrow_mut().violate(checker, text);
    }

    /// Repeats a call until it is not back-pressured.
    fn insist(
        &self,
        cluster: &mut Cluster<'_>,
        what: &'static str,
        mut call: impl FnMut(&mut Cluster<'_>) -> Result<(), ClusterError>,
    ) {
        loop {
            match call(cluster) {
                Ok(()) => return,
                Err(error) if error.is_retryable() => cluster.idle(0),
                // A client may have left its session, or its stream may not be back yet; neither is a fault.
                Err(ClusterError::Offer(_) | ClusterError::UnknownSession(_)) => return,
                Err(error) => return self.violate("service", format!("{what}: {error}")),
            }
        }
    }

    fn apply(&mut self, cluster: &mut Cluster<'_>, session_id: i64, order: Order, message: &[u8]) {
        let last = self.applied.entry(session_id).or_default();
        let is_next = order.sequence == *last + 1;
        if is_next {
            *last = order.sequence;
            let request = message.get(HEADER_LENGTH..HEADER_LENGTH + MESSAGE_LENGTH);
            match request.map(Request::decode) {
                Some(Ok(request)) => {
                    self.book.apply(&request.order);
                    if order.sequence.is_multiple_of(BOOK_DIGEST_PERIOD) {
                        self.pending_digest ^= self.book.digest();
                    }
                }
                _ => self.violate("intact", format!("offer {} holds no order", order.offer)),
            }
            self.follow_up(cluster, session_id, order);
        }
        if self.service_id > 0 {
            return;
        }
        if order.is_snapshot && cluster.role() == Role::Leader {
            self.write_snapshot(cluster);
        }
        let answer = Answer {
            offer: order.offer,
            applied: self.applied[&session_id],
            position: cluster.log_position(),
            digest: self.digest,
        };
        let mut bytes = std::mem::take(&mut self.scratch);
        answer.encode(&mut bytes, order.answer_length as usize);
        self.insist(cluster, "answer", |cluster| cluster.send_to_session(session_id, &bytes).map(drop));
        self.scratch = bytes;
    }

    fn follow_up(&mut self, cluster: &mut Cluster<'_>, session_id: i64, order: Order) {
        let is_first = self.service_id == 0;
        if order.timer_ms > 0 {
            let id = session_id << 32 | order.sequence as i64;
            let deadline = cluster.time() + i64::from(order.timer_ms);
            self.timers.insert(id, deadline);
            if is_first {
                self.insist(cluster, "timer", |cluster| cluster.schedule_timer(id, deadline));
            }
        }
        for service_id in 0..self.service_count {
            if order.forwarders >> service_id & 1 == 0 {
                continue;
            }
            let number = (service_id as u64) << 56 | (session_id as u64) << 32 | order.sequence;
            self.forwarded[service_id].push_back(number);
            if service_id == self.service_id {
                if order.sequence.is_multiple_of(FORWARDS_PER_WAIT) && cluster.role() == Role::Leader {
                    wait_before_forward(cluster);
                }
                self.insist(cluster, "forward", |cluster| cluster.offer(&number.to_le_bytes()).map(drop));
            }
        }
        if order.closes && is_first {
            self.insist(cluster, "close", |cluster| cluster.close_client_session(session_id));
        }
    }

    fn write_snapshot(&self, cluster: &mut Cluster<'_>) {
        let Some(place) = &self.snapshots else { return };
        if self.history.borrow().snapshot.is_some() {
            return;
        }
        self.kernel.state().coverage.hit("snapshot begun");
        match snapshot::write(place, cluster) {
            Ok(written) => {
                self.kernel.state().coverage.hit("snapshot finished");
                self.history.borrow_mut().snapshot = Some(written);
            }
            Err(error) => self.violate("snapshot", error),
        }
    }

    fn tell_owed(&self) {
        self.history.borrow_mut().owed =
            self.timers.len() + self.forwarded.iter().map(VecDeque::len).sum::<usize>();
    }
}

/// Lets time pass before a message to the log. A snapshot that begins meanwhile has the message in its queue, which is rare
/// otherwise.
fn wait_before_forward(cluster: &mut Cluster<'_>) {
    let until_ns = cluster.now().ns + FORWARD_WAIT_NS;
    while cluster.now().ns < until_ns {
        cluster.idle(0);
    }
}

/// Content of a snapshot besides the book: events seen, digests, then lists with their lengths.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> Result<u64, ServiceFailure> {
        let (word, rest) = self.0.split_first_chunk().ok_or("the ledger's snapshot is cut")?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*word))
    }
}

impl Ledger {
    fn write_state(&self) -> Vec<u8> {
        let mut words = vec![self.history.borrow().cursor as u64, self.digest, self.pending_digest];
        words.push(self.applied.len() as u64);
        words.extend(self.applied.iter().flat_map(|(id, last)| [*id as u64, *last]));
        words.push(self.timers.len() as u64);
        words.extend(self.timers.iter().flat_map(|(id, deadline)| [*id as u64, *deadline as u64]));
        for forwarded in &self.forwarded {
            words.push(forwarded.len() as u64);
            words.extend(forwarded);
        }
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn read_state(&mut self, state: &[u8]) -> Result<(), ServiceFailure> {
        let mut words = Words(state);
        let seen = words.next()? as usize;
        (self.digest, self.pending_digest) = (words.next()?, words.next()?);
        for _ in 0..words.next()? {
            self.applied.insert(words.next()? as i64, words.next()?);
        }
        for _ in 0..words.next()? {
            self.timers.insert(words.next()? as i64, words.next()? as i64);
        }
        for service_id in 0..MAX_SERVICES {
            for _ in 0..words.next()? {
                self.forwarded[service_id].push_back(words.next()?);
            }
        }
        self.history.borrow_mut().on_loaded(seen, self.digest);
        self.tell_owed();
        Ok(())
    }
}

impl ClusteredService for Ledger {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        let (mut state, mut reader, mut failure) = (None, BookReader::default(), None);
        snapshot.read_to_end(cluster, &mut |message| {
            if state.is_none() {
                state = Some(message.to_vec());
            } else if let Err(error) = reader.on_message(message) {
                failure = Some(error);
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        self.book = reader.finish()?;
        self.read_state(&state.ok_or("the ledger's snapshot is empty")?)?;
        self.kernel.state().coverage.hit("snapshot loaded by the service");
        Ok(())
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        let position = cluster.log_position();
        let mut hash = 0_u64;
        let mut put = |message: &[u8]| {
            hash = (hash.rotate_left(7) ^ hash_bytes(message)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            cluster.retry(|_| Ok(snapshot.offer(message)?)).map(drop)
        };
        put(&self.write_state())?;
        book_snapshot::write(&self.book, &mut put)?;
        self.history.borrow_mut().on_snapshot_taken(position, hash);
        self.kernel.state().coverage.hit("snapshot taken by the service");
        Ok(())
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: &ClientSession, timestamp: i64) {
        self.see(cluster, EventKind::Open, session.id, 0, timestamp);
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: &ClientSession,
        timestamp: i64,
        reason: CloseReason,
    ) {
        self.see(cluster, EventKind::Close(reason), session.id, 0, timestamp);
        self.kernel.state().coverage.hit(match reason {
            CloseReason::ClientAction => "session closed by its client",
            CloseReason::ServiceAction => "session closed by the service",
            CloseReason::Timeout => "session timed out",
        });
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        timestamp: i64,
        message: &[u8],
        _: &Header<'_>,
    ) {
        let detail = hash_bytes(message);
        let Some(id) = session.map(|session| session.id) else {
            self.see(cluster, EventKind::Forwarded, 0, detail, timestamp);
            let number = message.first_chunk().map(|word| u64::from_le_bytes(*word));
            let sender = number.map_or(0, |number| number >> 56) as usize % MAX_SERVICES;
            if number != self.forwarded[sender].pop_front() {
                self.violate("forwarded", format!("message {number:?} of the service is not the next one"));
            }
            self.kernel.state().coverage.hit("message of the service");
            return self.tell_owed();
        };
        let Some(order) = Order::decode(message) else {
            return self.violate("intact", format!("a message of {} bytes", message.len()));
        };
        self.see(cluster, EventKind::Message { offer: order.offer }, id, detail, timestamp);
        self.apply(cluster, id, order, message);
        self.tell_owed();
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        self.see(cluster, EventKind::Timer, 0, correlation_id as u64, timestamp);
        match self.timers.remove(&correlation_id) {
            None => self.violate("timers", format!("timer {correlation_id:#x} fired, but was not set")),
            Some(deadline) if timestamp < deadline => {
                self.violate(
                    "timers",
                    format!("timer {correlation_id:#x} fired at {timestamp}, not {deadline}"),
                );
            }
            Some(_) => self.kernel.state().coverage.hit("timer fired"),
        }
        self.tell_owed();
    }

    fn on_new_leadership_term_event(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        self.see(cluster, EventKind::Term, 0, term.leadership_term_id as u64, term.timestamp);
        self.kernel.state().coverage.hit("leadership term");
    }
}
