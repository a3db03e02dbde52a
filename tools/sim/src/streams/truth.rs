//! Messages that were sent, and what their readers must see.

use std::collections::BTreeMap;

use harrier_ringbuf::assembly::ImageFragmentAssembler;

use super::plan::{Flow, Role};
use crate::history::Violation;
use crate::kernel::HostId;

/// Phase of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Phase {
    /// Faults happen.
    #[default]
    Storm,
    /// There are no more faults; streams flow.
    Calm,
    /// Nothing more is sent; messages are read.
    Draining,
    /// Publications are closed.
    Ending,
    /// All is closed.
    Closed,
}

/// A message that a publication has accepted.
#[derive(Debug, Clone, Copy)]
struct Message {
    begin: i64,
    end: i64,
    length: usize,
    at_ns: i64,
}

/// A session.
#[derive(Debug)]
struct Sent {
    flow: usize,
    messages: Vec<Message>,
    is_revoked: bool,
}

/// A reader's view of an image since it joined.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) session_id: i32,
    pub(super) correlation_id: i64,
    pub(super) joined: i64,
    /// Number of the next message.
    next: Option<usize>,
    pub(super) has_ended: bool,
    pub(super) assembler: ImageFragmentAssembler,
}

impl Reading {
    pub(super) fn new(session_id: i32, correlation_id: i64, joined: i64) -> Self {
        let assembler = ImageFragmentAssembler::new();
        Self { session_id, correlation_id, joined, next: None, has_ended: false, assembler }
    }
}

/// Progress of a listener.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Time at which the latest message that it has read was sent, virtual ns.
    pub(super) read_of_ns: i64,
    /// It has lost an image although its stream went on.
    pub(super) has_lost_image: bool,
    /// It has an image.
    pub(super) has_image: bool,
}

/// Everything that was sent.
pub(super) struct Truth {
    pub(super) now_ns: i64,
    pub(super) phase: Phase,
    /// Senders are slow, so that the slowest reader can follow.
    pub(super) is_gentle: bool,
    pub(super) flows: Vec<Flow>,
    sessions: BTreeMap<i32, Sent>,
    /// Progress by flow and listener.
    pub(super) progress: BTreeMap<(usize, usize), Progress>,
    /// Session of a flow's present publication.
    pub(super) present: BTreeMap<usize, i32>,
    /// Ids of a flow's reader that others need to request or to respond: the registration id of a subscription that
    /// awaits responses, or the correlation id of the image of requests.
    pub(super) known: BTreeMap<usize, i64>,
    /// Time of the last disturbance after which a host's driver and clients may lose each other, virtual ns.
    pub(super) upset_ns: Vec<i64>,
    /// Number of messages that were read.
    pub(super) read: u64,
    /// Number of publications that hosts have added.
    pub(super) additions: Vec<Vec<i64>>,
    pub(super) violations: Vec<Violation>,
}

/// Fills in the bytes of a message.
pub(super) fn fill(bytes: &mut Vec<u8>, session_id: i32, number: usize, length: usize) {
    bytes.clear();
    let mut word = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(session_id as u32);
    while bytes.len() < length {
        word = word.rotate_left(23).wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ 0xA5;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(length);
}

impl Truth {
    pub(super) fn new(flows: Vec<Flow>, hosts: usize) -> Self {
        Self {
            now_ns: 0,
            phase: Phase::Storm,
            is_gentle: false,
            flows,
            sessions: BTreeMap::new(),
            progress: BTreeMap::new(),
            present: BTreeMap::new(),
            known: BTreeMap::new(),
            upset_ns: vec![i64::MIN / 2; hosts],
            read: 0,
            additions: vec![Vec::new(); hosts],
            violations: Vec::new(),
        }
    }

    pub(super) fn violate(&mut self, checker: &'static str, text: impl Into<String>) {
        if self.violations.len() < 20 {
            self.violations.push(Violation { checker, text: text.into() });
        }
    }

    /// From now on the processes of a host may take each other for dead.
    pub(super) fn upset(&mut self, host: HostId, until_ns: i64) {
        self.upset_ns[host] = self.upset_ns[host].max(until_ns);
    }

    /// A publication was added.
    pub(super) fn begin(&mut self, flow: usize, session_id: i32) {
        self.present.insert(flow, session_id);
        let is_exclusive = self.flows[flow].is_exclusive;
        let new = Sent { flow, messages: Vec::new(), is_revoked: false };
        // A shared publication may continue where its last client stopped.
        let sent = self.sessions.entry(session_id).or_insert(new);
        if sent.flow != flow || is_exclusive && !sent.messages.is_empty() {
            self.violate("sessions", format!("session {session_id} of flow {flow} was given twice"));
        }
    }

    /// A publication is closed.
    pub(super) fn end(&mut self, flow: usize, session_id: i32, is_revoked: bool) {
        if self.present.get(&flow) == Some(&session_id) {
            self.present.remove(&flow);
        }
        if let Some(sent) = self.sessions.get_mut(&session_id) {
            sent.is_revoked |= is_revoked;
        }
    }

    /// Returns the id that the channel of a publication has to name; `None` as long as there is none.
    pub(super) fn named(&self, role: Role) -> Option<i64> {
        match role {
            Role::Alone => None,
            Role::Request { response } => self.known.get(&response).copied(),
            Role::Response { request } => self.known.get(&request).copied(),
        }
    }

    /// Returns the number of the next message of a session.
    pub(super) fn next_number(&self, session_id: i32) -> usize {
        self.sessions.get(&session_id).map_or(0, |sent| sent.messages.len())
    }

    /// A publication has accepted a message; `framed` is its length in the log.
    pub(super) fn sent(&mut self, session_id: i32, end: i64, framed: i64, length: usize) {
        let at_ns = self.now_ns;
        let Some(sent) = self.sessions.get_mut(&session_id) else { return };
        let begin = end - framed;
        let last = sent.messages.last().map_or(0, |message| message.end);
        sent.messages.push(Message { begin, end, length, at_ns });
        if begin < last {
            self.violate("offer", format!("message at {begin} of {session_id} after one up to {last}"));
        }
    }

    /// A reader got a message that ends at `position`; returns true when it has missed others before.
    pub(super) fn check(
        &mut self,
        (flow, listener): (usize, usize),
        reading: &mut Reading,
        payload: &[u8],
        position: i64,
        bytes: &mut Vec<u8>,
    ) -> bool {
        let session_id = reading.session_id;
        let who = format_args!("listener {listener} of flow {flow}, session {session_id}");
        let Some(sent) = self.sessions.get(&session_id).filter(|sent| sent.flow == flow) else {
            let text = format!("{who}: nobody sends this session");
            self.violate("sessions", text);
            return false;
        };
        let Ok(number) = sent.messages.binary_search_by_key(&position, |message| message.end) else {
            let text = format!("{who}: no message ends at {position}");
            self.violate("order", text);
            return false;
        };
        let message = sent.messages[number];
        let first = sent.messages.partition_point(|message| message.begin < reading.joined);
        let expected = reading.next.unwrap_or(first);
        fill(bytes, session_id, number, message.length);
        let plan = &self.flows[flow];
        let broken = if number < expected {
            Some(("order", format!("{who}: message {number} instead of {expected} came once more")))
        } else if number > expected && plan.listeners[listener].is_reliable {
            let joined = reading.joined;
            Some(("gap", format!("{who}: message {number} instead of {expected}, joined at {joined}")))
        } else if *payload != bytes[..] {
            Some(("bytes", format!("{who}: message {number} at {position} is not what was sent")))
        } else {
            None
        };
        reading.next = Some(number + 1);
        self.read += 1;
        let progress = self.progress.entry((flow, listener)).or_default();
        progress.read_of_ns = progress.read_of_ns.max(message.at_ns);
        if let Some((checker, text)) = broken {
            self.violate(checker, text);
        }
        number > expected
    }

    /// Returns the messages of a session that a reader has not got yet although it joined before them.
    pub(super) fn unread(&self, reading: &Reading) -> usize {
        let Some(sent) = self.sessions.get(&reading.session_id) else { return 0 };
        let first = sent.messages.partition_point(|message| message.begin < reading.joined);
        sent.messages.len() - reading.next.unwrap_or(first).min(sent.messages.len())
    }

    /// A reader has reached the end of a stream: it must have all of it, unless the stream was cut short.
    pub(super) fn check_end(&mut self, (flow, listener): (usize, usize), reading: &Reading) {
        let session_id = reading.session_id;
        let is_revoked = self.sessions.get(&session_id).is_none_or(|sent| sent.is_revoked);
        let unread = self.unread(reading);
        if unread > 0 && !is_revoked && self.flows[flow].listeners[listener].is_reliable {
            let text = format!(
                "listener {listener} of flow {flow}: session {session_id} ended, {unread} messages are missing"
            );
            self.violate("gap", text);
        }
    }
}
