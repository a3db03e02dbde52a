//! The clients of a node: the main client sends its orders until all are answered, and visitors come and go.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use harrier::services::orders::{Order as BookOrder, Request, Side};
use harrier_client::{Aeron, Context};
use harrier_cluster::client::{ClusterClient, ClusterClientContext, ClusterClientError, EgressListener};
use harrier_cluster::codec::EventCode;
use harrier_ringbuf::{Agent, AgentError, Now, Rng};

use crate::history::History;
use crate::kernel::Kernel;
use crate::ledger::{Answer, Order};
use crate::memory::SimMemory;

/// Addresses of the node and workload of a client.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Directory of the client's driver.
    pub aeron_directory: String,
    /// `0=host:port`.
    pub ingress_endpoints: String,
    /// Channel on which clients receive egress.
    pub egress_channel: String,
    /// Number of orders of the main client.
    pub orders: u64,
    /// Longest pause between two orders, ns.
    pub pause_ns: u64,
    /// Most orders that may be unanswered.
    pub window: usize,
    /// Length of the longest order, bytes.
    pub longest: usize,
    /// Period of long answers, in answers; 0 for none.
    pub long_answer_period: u64,
    /// Number of the order with which the service writes a snapshot.
    pub snapshot_order: Option<u64>,
    /// Number of services of the node.
    pub services: usize,
    /// End of the visits, virtual ns.
    pub visitors_until_ns: i64,
}

/// Progress of the clients, for the scenario.
#[derive(Debug, Default)]
pub struct Progress {
    /// Number of orders that have been answered.
    pub answered: u64,
    /// Number of offers of the main client.
    pub offers: u64,
    /// Session of the main client; -1 before it has one.
    pub session_id: i64,
    /// True when all orders are answered and no visitor is left.
    pub is_done: bool,
}

/// Time after which orders without an answer are sent again, ns.
const PATIENCE_NS: i64 = 1_500_000_000;

/// Pause after an offer that was refused, ns.
const RETRY_NS: i64 = 100_000;

/// Interval at which a visitor checks whether it has waited long enough, ns.
const VISITOR_LOOK_NS: i64 = 20_000_000;

struct Heard {
    answers: VecDeque<(i64, Answer)>,
    leaders: u64,
}

impl EgressListener for Heard {
    fn on_message(&mut self, session_id: i64, _timestamp: i64, message: &[u8]) {
        if let Some(answer) = Answer::decode(message) {
            self.answers.push_back((session_id, answer));
        }
    }

    fn on_new_leader(&mut self, _: i64, _: i32, _: &str) {
        self.leaders += 1;
    }

    fn on_session_event(&mut self, _: EventCode, _: &str) {}
}

struct Visitor {
    client: ClusterClient,
    wanted: u64,
    sent: u64,
    answered: u64,
    next_ns: i64,
    closes_by_service: bool,
}

/// All clients of one host, which share one connection to its driver.
pub struct Clients {
    workload: Workload,
    kernel: Kernel,
    history: Rc<RefCell<History>>,
    progress: Rc<RefCell<Progress>>,
    memory: SimMemory,
    rng: Rng,
    aeron: Option<Aeron>,
    main: Option<ClusterClient>,
    visitor: Option<Visitor>,
    heard: Heard,
    orders: Vec<BookOrder>,
    next_sequence: u64,
    applied: u64,
    last_answer: u64,
    next_offer: u64,
    next_send_ns: i64,
    last_progress_ns: i64,
    next_visit_ns: i64,
    virtual_ns: i64,
    now_ns: i64,
    bytes: Vec<u8>,
}

fn random_order(rng: &mut Rng, number: u64) -> BookOrder {
    let side = if rng.chance(1, 2) { Side::Buy } else { Side::Sell };
    let (price, quantity) = (1_000 + rng.below(20) as i64, 1 + rng.below(50) as i64);
    let known = 1 + rng.below(number.max(1));
    match rng.below(10) {
        0..6 => BookOrder::Limit { id: number, side, price, quantity },
        6 => BookOrder::ImmediateOrCancel { id: number, side, price, quantity },
        7 => BookOrder::Reduce { id: known, quantity: 1 },
        _ => BookOrder::Cancel { id: known },
    }
}

impl Clients {
    /// Creates clients that have not started.
    pub fn new(
        workload: Workload,
        kernel: Kernel,
        memory: SimMemory,
        history: Rc<RefCell<History>>,
        progress: Rc<RefCell<Progress>>,
        mut rng: Rng,
    ) -> Self {
        progress.borrow_mut().session_id = -1;
        let orders = (1..=workload.orders).map(|number| random_order(&mut rng, number)).collect();
        Self {
            workload,
            kernel,
            history,
            progress,
            memory,
            rng,
            aeron: None,
            main: None,
            visitor: None,
            heard: Heard { answers: VecDeque::new(), leaders: 0 },
            orders,
            next_sequence: 1,
            applied: 0,
            last_answer: 0,
            next_offer: 1,
            next_send_ns: 0,
            last_progress_ns: 0,
            next_visit_ns: 0,
            virtual_ns: 0,
            now_ns: 0,
            bytes: Vec::new(),
        }
    }

    fn new_client(&self) -> Result<ClusterClient, ClusterClientError> {
        let mut context = ClusterClientContext::new(
            self.workload.ingress_endpoints.clone(),
            self.workload.egress_channel.clone(),
        );
        context.keepalive_interval_ns = 500_000_000;
        ClusterClient::new(context)
    }

    fn violate(&self, checker: &'static str, text: String) {
        self.history.borrow_mut().violate(checker, text);
    }

    fn work(&mut self, now: &Now) -> Result<usize, String> {
        let Some(mut aeron) = self.aeron.take() else {
            let context = Context::new(&self.workload.aeron_directory).client_name("clients");
            self.aeron = Aeron::connect(context, self.memory.clone(), now).ok();
            return Ok(usize::from(self.aeron.is_some()));
        };
        let mut work_count = aeron.do_work(now).map_err(|error| error.to_string())?;
        while aeron.poll_event().is_some() {}
        work_count += self.run_main(&mut aeron, now)?;
        work_count += self.run_visitor(&mut aeron, now)?;
        self.aeron = Some(aeron);
        let mut progress = self.progress.borrow_mut();
        progress.answered = self.applied;
        progress.is_done = self.applied == self.workload.orders
            && self.visitor.is_none()
            && self.virtual_ns >= self.workload.visitors_until_ns;
        Ok(work_count)
    }

    fn run_main(&mut self, aeron: &mut Aeron, now: &Now) -> Result<usize, String> {
        let Some(mut main) = self.main.take() else {
            self.main = Some(self.new_client().map_err(|error| error.to_string())?);
            return Ok(1);
        };
        let leaders = self.heard.leaders;
        let mut work_count = match main.poll(aeron, now, &mut self.heard) {
            Ok(work_count) => work_count,
            Err(error) => {
                if main.session_id() != -1 {
                    let text = format!("session {} was lost: {error}", main.session_id());
                    self.violate("session", text);
                }
                self.kernel.state().coverage.hit("client had to connect again");
                return Ok(1);
            }
        };
        self.progress.borrow_mut().session_id = main.session_id();
        while let Some((session_id, answer)) = self.heard.answers.pop_front() {
            self.on_answer(session_id, &answer, now);
        }
        if self.heard.leaders > leaders {
            self.kernel.state().coverage.hit("session went on in a new term");
            self.next_sequence = self.applied + 1;
            self.last_progress_ns = now.ns;
        }
        if main.is_connected() {
            if self.applied + 1 < self.next_sequence && now.ns > self.last_progress_ns + PATIENCE_NS {
                self.kernel.state().coverage.hit("orders sent again");
                self.next_sequence = self.applied + 1;
                self.last_progress_ns = now.ns;
            }
            work_count += self.send_orders(&mut main, now)?;
        } else {
            self.last_progress_ns = now.ns;
        }
        self.main = Some(main);
        Ok(work_count)
    }

    fn send_orders(&mut self, main: &mut ClusterClient, now: &Now) -> Result<usize, String> {
        let mut work_count = 0;
        while now.ns >= self.next_send_ns
            && self.next_sequence <= self.workload.orders
            && self.next_sequence <= self.applied + self.workload.window as u64
        {
            let sequence = self.next_sequence;
            if !self.offer(main, sequence, self.orders[sequence as usize - 1], false)? {
                self.next_send_ns = now.ns + RETRY_NS;
                break;
            }
            self.next_sequence += 1;
            self.progress.borrow_mut().offers += 1;
            // Most orders are sent one by one, some at once.
            let pause_ns = if self.rng.chance(1, 3) { 0 } else { self.rng.below(self.workload.pause_ns) };
            self.next_send_ns = now.ns + pause_ns as i64;
            work_count += 1;
        }
        Ok(work_count)
    }

    /// Offers an order; returns false when the stream takes nothing now.
    fn offer(
        &mut self,
        client: &mut ClusterClient,
        sequence: u64,
        order: BookOrder,
        closes: bool,
    ) -> Result<bool, String> {
        let period = self.workload.long_answer_period;
        let is_long = period > 0 && sequence.is_multiple_of(period);
        let by_first = u8::from(sequence.is_multiple_of(11));
        let by_second = u8::from(self.workload.services > 1 && sequence.is_multiple_of(5));
        let forwarders = by_first | by_second << 1;
        let head = Order {
            offer: self.next_offer,
            sequence,
            timer_ms: if sequence.is_multiple_of(7) { 1 + (sequence % 300) as u16 } else { 0 },
            forwarders,
            closes,
            is_snapshot: self.workload.snapshot_order == Some(sequence),
            answer_length: if is_long { 7_000 } else { 0 },
        };
        let mut bytes = std::mem::take(&mut self.bytes);
        head.encode(&mut bytes);
        bytes.extend_from_slice(&Request { sequence, order }.encode());
        let filling = match self.rng.below(20) {
            0 => self.rng.below(self.workload.longest as u64) as usize,
            _ => self.rng.below(200) as usize,
        };
        bytes.resize(bytes.len() + filling, sequence as u8);
        let outcome = client.offer(&bytes);
        self.bytes = bytes;
        match outcome {
            Ok(_) => {
                self.kernel.state().note("offer", &[self.next_offer, sequence]);
                self.next_offer += 1;
                Ok(true)
            }
            Err(ClusterClientError::NotConnected | ClusterClientError::Offer(_)) => {
                self.kernel.state().coverage.hit("offer refused");
                Ok(false)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn on_answer(&mut self, session_id: i64, answer: &Answer, now: &Now) {
        let own = self.progress.borrow().session_id;
        self.history.borrow_mut().on_answer(session_id, answer.offer, answer.position, answer.digest);
        if session_id != own {
            return;
        }
        if answer.offer <= self.last_answer {
            let text = format!("answer to offer {} after that to {}", answer.offer, self.last_answer);
            self.violate("answers", text);
        }
        self.last_answer = answer.offer;
        if answer.applied > self.applied {
            self.last_progress_ns = now.ns;
            self.applied = answer.applied;
            self.next_sequence = self.next_sequence.max(self.applied + 1);
        }
    }

    fn run_visitor(&mut self, aeron: &mut Aeron, now: &Now) -> Result<usize, String> {
        let Some(mut visitor) = self.visitor.take() else {
            if self.virtual_ns < self.next_visit_ns || self.virtual_ns >= self.workload.visitors_until_ns {
                return Ok(0);
            }
            self.visitor = Some(Visitor {
                client: self.new_client().map_err(|error| error.to_string())?,
                wanted: 1 + self.rng.below(5),
                sent: 0,
                answered: 0,
                next_ns: 0,
                closes_by_service: self.rng.chance(1, 3),
            });
            return Ok(1);
        };
        let mut heard = Heard { answers: VecDeque::new(), leaders: 0 };
        let outcome = visitor.client.poll(aeron, now, &mut heard);
        let session_id = visitor.client.session_id();
        for (_, answer) in heard.answers {
            self.history.borrow_mut().on_answer(session_id, answer.offer, answer.position, answer.digest);
            visitor.answered = visitor.answered.max(answer.applied);
        }
        let Ok(mut work_count) = outcome else {
            // The service has closed the session, it has timed out while the node was down, or the node has never
            // admitted it: all of these happen.
            self.leave();
            return Ok(1);
        };
        if heard.leaders > 0 {
            visitor.sent = visitor.answered;
        }
        if visitor.client.is_connected() && now.ns >= visitor.next_ns {
            if visitor.sent < visitor.wanted {
                let closes = visitor.closes_by_service && visitor.sent + 1 == visitor.wanted;
                let order = BookOrder::Cancel { id: u64::MAX };
                if self.offer(&mut visitor.client, visitor.sent + 1, order, closes)? {
                    visitor.sent += 1;
                    visitor.next_ns = now.ns + self.rng.below(30_000_000) as i64;
                }
                work_count += 1;
            } else if visitor.answered == visitor.wanted && !visitor.closes_by_service {
                let term_id = visitor.client.leadership_term_id();
                self.history.borrow_mut().on_goodbye(session_id, term_id, self.virtual_ns);
                visitor.client.close();
                self.kernel.state().note("goodbye", &[session_id as u64]);
                self.leave();
                return Ok(1);
            } else if now.ns > visitor.next_ns + 2 * PATIENCE_NS {
                visitor.sent = visitor.answered;
            }
        }
        self.visitor = Some(visitor);
        Ok(work_count)
    }

    fn leave(&mut self) {
        self.next_visit_ns = self.virtual_ns + self.rng.below(400_000_000) as i64;
    }
}

impl Agent for Clients {
    fn role_name(&self) -> &str {
        "clients"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.virtual_ns = self.kernel.state().now_ns;
        self.now_ns = now.ns;
        self.work(now).map_err(AgentError::terminated)
    }

    fn next_deadline(&self) -> Option<i64> {
        let mut next_ns = self.aeron.as_ref().map_or(self.now_ns + 1_000_000, Aeron::next_deadline);
        let has_room = self.next_sequence <= self.applied + self.workload.window as u64;
        let is_connected = self.main.as_ref().is_some_and(ClusterClient::is_connected);
        if is_connected && has_room && self.next_sequence <= self.workload.orders {
            next_ns = next_ns.min(self.next_send_ns);
        }
        let visit_ns = match &self.visitor {
            Some(visitor) if visitor.next_ns > self.now_ns => visitor.next_ns,
            Some(_) => self.now_ns + VISITOR_LOOK_NS,
            None if self.virtual_ns >= self.workload.visitors_until_ns => i64::MAX,
            None => self.now_ns + (self.next_visit_ns - self.virtual_ns).max(0),
        };
        Some(next_ns.min(visit_ns))
    }
}
