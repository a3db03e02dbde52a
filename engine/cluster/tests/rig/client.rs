//! A client that sends exact messages and records the answers.

use std::path::Path;

use harrier_client::{Aeron, Context, ExclusivePublication, Subscription};
use harrier_cluster::codec::{Egress, EventCode, Ingress, PROTOCOL_VERSION, SessionHeader};
use harrier_platform::{MappedMemory, PausingClock};
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::{Clock, SharedThread};

/// Egress that a client has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Event { session_id: i64, correlation_id: i64, code: EventCode, detail: String },
    Message(String),
    NewLeader { term_id: i64, endpoints: String },
    Challenge { correlation_id: i64, session_id: i64, challenge: Vec<u8> },
    Admin { correlation_id: i64, request_type: i32, code: i32, message: String },
}

/// A client on the node's own driver.
pub struct RawClient {
    aeron: Aeron,
    ids: (i64, i64),
    ingress: Option<ExclusivePublication>,
    egress: Option<Subscription>,
    assembler: FragmentAssembler,
    pub heard: Vec<Heard>,
    pub session_id: i64,
    pub term_id: i64,
}

impl RawClient {
    /// A client of the driver in a directory.
    pub fn new(driver: &Path, ingress_port: u16) -> Self {
        let now = PausingClock.now();
        let context = Context::new(driver);
        let mut aeron = Aeron::connect(context, MappedMemory, &now).unwrap();
        let egress = aeron.add_subscription("aeron:udp?endpoint=127.0.0.1:0", 102).unwrap();
        let channel = format!("aeron:udp?term-length=64k|endpoint=127.0.0.1:{ingress_port}");
        let ingress = aeron.add_exclusive_publication(&channel, 101).unwrap();
        Self {
            aeron,
            ids: (ingress, egress),
            ingress: None,
            egress: None,
            assembler: FragmentAssembler::new(),
            heard: Vec::new(),
            session_id: -1,
            term_id: -1,
        }
    }

    pub fn poll(&mut self) {
        if self.aeron.do_work(&PausingClock.now()).is_err() {
            return;
        }
        if self.ingress.is_none() {
            self.ingress = self.aeron.exclusive_publication(self.ids.0).unwrap();
        }
        if self.egress.is_none() {
            self.egress = self.aeron.subscription(self.ids.1).unwrap();
        }
        let Some(egress) = &mut self.egress else { return };
        let (assembler, heard) = (&mut self.assembler, &mut self.heard);
        let (session_id, term_id) = (&mut self.session_id, &mut self.term_id);
        egress.poll(10, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| {
                let Some(message) = Egress::decode(message).unwrap() else { return };
                if let Egress::SessionEvent {
                    session_id: opened_id,
                    leadership_term_id,
                    code: EventCode::Ok,
                    ..
                } = message
                {
                    (*session_id, *term_id) = (opened_id, leadership_term_id);
                }
                heard.push(owned(&message));
            });
        });
    }

    /// Follows the leader with a new ingress stream and its term.
    pub fn follow(&mut self, term_id: i64, ingress_port: u16) {
        self.term_id = term_id;
        self.ingress = None;
        let channel = format!("aeron:udp?term-length=64k|endpoint=127.0.0.1:{ingress_port}");
        self.ids.0 = self.aeron.add_exclusive_publication(&channel, 101).unwrap();
    }

    /// Response channel of the client, once its port is known.
    fn response_channel(&self) -> Option<String> {
        self.egress.as_ref()?.resolved_channel(self.aeron.counters())
    }

    pub fn send(&mut self, request: &Ingress<'_>) -> bool {
        let mut bytes = vec![0; 8_192];
        let length = request.encode(&mut bytes).unwrap();
        self.send_bytes(&bytes[..length])
    }

    /// Sends raw bytes; false when back-pressured.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.ingress.as_mut().is_some_and(|ingress| ingress.offer(bytes).is_ok())
    }

    /// Requests a session. Returns false when back-pressured.
    pub fn connect(&mut self, correlation_id: i64, version: i32, credentials: &[u8]) -> bool {
        let Some(channel) = self.response_channel() else { return false };
        self.send(&Ingress::Connect {
            correlation_id,
            response_stream_id: 102,
            version,
            response_channel: &channel,
            credentials,
            client_info: "name=raw",
        })
    }

    pub fn connect_normally(&mut self) -> bool {
        self.connect(7, PROTOCOL_VERSION, b"")
    }

    pub fn message(&mut self, text: &str) -> bool {
        let header =
            SessionHeader { leadership_term_id: self.term_id, session_id: self.session_id, timestamp: 0 };
        self.send(&Ingress::Message { header, payload: text.as_bytes() })
    }

    pub fn keep_alive(&mut self) -> bool {
        let (leadership_term_id, session_id) = (self.term_id, self.session_id);
        self.send(&Ingress::KeepAlive { leadership_term_id, session_id })
    }

    pub fn admin(&mut self, correlation_id: i64, request_type: i32) -> bool {
        let (leadership_term_id, session_id) = (self.term_id, self.session_id);
        self.send(&Ingress::Admin { leadership_term_id, session_id, correlation_id, request_type })
    }

    pub fn has_heard(&self, text: &str) -> bool {
        self.heard.contains(&Heard::Message(text.to_owned()))
    }

    /// The last event of a kind.
    pub fn event(&self, wanted: EventCode) -> Option<(i64, String)> {
        self.heard.iter().rev().find_map(|heard| match heard {
            Heard::Event { session_id, code, detail, .. } if *code == wanted => {
                Some((*session_id, detail.clone()))
            }
            _ => None,
        })
    }
}

fn owned(message: &Egress<'_>) -> Heard {
    match *message {
        Egress::Message { payload, .. } => Heard::Message(String::from_utf8_lossy(payload).into_owned()),
        Egress::SessionEvent { session_id, correlation_id, code, detail, .. } => {
            Heard::Event { session_id, correlation_id, code, detail: detail.to_owned() }
        }
        Egress::NewLeader { leadership_term_id, ingress_endpoints, .. } => {
            Heard::NewLeader { term_id: leadership_term_id, endpoints: ingress_endpoints.to_owned() }
        }
        Egress::Challenge { correlation_id, session_id, challenge } => {
            Heard::Challenge { correlation_id, session_id, challenge: challenge.to_vec() }
        }
        Egress::AdminResponse { correlation_id, request_type, code, message, .. } => {
            Heard::Admin { correlation_id, request_type, code, message: message.to_owned() }
        }
    }
}

impl super::Node {
    /// Connects a client; returns its number.
    pub fn connect(&mut self, ingress_port: u16) -> usize {
        let number = self.add_client(ingress_port);
        self.until("the session", |node| node.clients[number].connect_normally().then_some(()));
        self.until("the session's OK", |node| node.clients[number].event(EventCode::Ok));
        number
    }

    pub fn add_client(&mut self, ingress_port: u16) -> usize {
        self.clients.push(RawClient::new(&self.directory.join("node"), ingress_port));
        self.clients.len() - 1
    }

    /// Connects a client through a driver that outlives the node.
    pub fn connect_from(&mut self, listener: SharedThread, ingress_port: u16) -> usize {
        self.listener = Some(listener);
        self.clients.push(RawClient::new(&self.directory.join("clients"), ingress_port));
        let number = self.clients.len() - 1;
        self.until("the session", |node| node.clients[number].connect_normally().then_some(()));
        self.until("the session's OK", |node| node.clients[number].event(EventCode::Ok));
        number
    }

    pub fn send(&mut self, client: usize, text: &str) {
        self.until("room", |node| node.clients[client].message(text).then_some(()));
    }

    /// Sends a message and awaits its echo.
    pub fn exchange(&mut self, client: usize, text: &str) {
        self.send(client, text);
        self.until(text, |node| node.clients[client].has_heard(text).then_some(()));
    }

    /// The state of the services, which must be equal.
    pub fn state(&mut self, client: usize) -> String {
        self.clients[client].heard.clear();
        self.send(client, "state");
        self.until("the state", |node| match node.clients[client].heard.last() {
            Some(Heard::Message(text)) if text.contains(':') => Some(text.clone()),
            _ => None,
        })
    }
}
