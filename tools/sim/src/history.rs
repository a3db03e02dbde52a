//! Events that the services of a node have seen, over all its lives, and the rules for them.

use std::collections::BTreeMap;

use harrier_cluster::codec::CloseReason;

use crate::snapshot::Snapshot;

/// Kind of an event of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A leadership term began.
    Term,
    /// A session was opened.
    Open,
    /// A session was closed.
    Close(CloseReason),
    /// A client has sent a message; the number counts its sender's offers.
    Message {
        /// Number that the sender gave the offer.
        offer: u64,
    },
    /// The service itself has sent a message.
    Forwarded,
    /// A timer fired.
    Timer,
}

/// One event of the log as the service has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Position of the log after it.
    pub position: i64,
    /// Kind of the event.
    pub kind: EventKind,
    /// Session of the event; 0 for none.
    pub session_id: i64,
    /// Term, timer, or hash of the payload.
    pub detail: u64,
    /// Cluster time.
    pub timestamp: i64,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Name of the checker that found it.
    pub checker: &'static str,
    /// Description of the fault.
    pub text: String,
}

#[derive(Debug, Clone, Copy, Default)]
struct SessionFacts {
    last_offer: u64,
    is_closed: bool,
}

/// Time in which the last message of a client arrives over a network without faults, ns.
const GOODBYE_NS: i64 = 1_000_000_000;

/// A client that ended its session.
#[derive(Debug, Clone, Copy)]
struct Goodbye {
    incarnation: u64,
    at_ns: i64,
}

/// All events, and the rules that were broken.
#[derive(Debug, Default)]
pub struct History {
    events: Vec<Event>,
    digests: Vec<u64>,
    by_offer: BTreeMap<(i64, u64), usize>,
    sessions: BTreeMap<i64, SessionFacts>,
    goodbyes: BTreeMap<i64, Goodbye>,
    network_is_calm_from_ns: i64,
    /// Number of the node's present life, from 1.
    pub incarnation: u64,
    /// Number of events that the present life has seen.
    pub cursor: usize,
    /// Number of timers that are set and messages of the service that it waits for, in the present life.
    pub owed: usize,
    /// Hashes of the service's snapshots, by the log positions at which they were taken.
    taken: BTreeMap<i64, u64>,
    terms: usize,
    /// The snapshot that was written completely.
    pub snapshot: Option<Snapshot>,
    /// Broken rules; the first one is the important one.
    pub violations: Vec<Violation>,
}

impl History {
    /// Records a broken rule.
    pub fn violate(&mut self, checker: &'static str, text: impl Into<String>) {
        if self.violations.len() < 20 {
            self.violations.push(Violation { checker, text: text.into() });
        }
    }

    /// Begins a new life, which must see all events from the start.
    pub fn begin_life(&mut self) {
        self.incarnation += 1;
        self.cursor = 0;
        self.owed = 0;
    }

    /// Returns all events.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The present life begins with a snapshot that was taken after `seen` events; `digest` is its state.
    pub fn on_loaded(&mut self, seen: usize, digest: u64) {
        let expected = seen.checked_sub(1).map_or(Some(0), |last| self.digests.get(last).copied());
        if expected != Some(digest) {
            self.violate("snapshot", format!("of {seen} events has state {digest:x}, not {expected:x?}"));
        }
        self.cursor = seen;
    }

    /// The service has written its state. It must be the same, byte for byte, from the log alone and from an earlier
    /// snapshot.
    pub fn on_snapshot_taken(&mut self, position: i64, hash: u64) {
        let before = *self.taken.entry(position).or_insert(hash);
        if before != hash {
            self.violate("snapshot", format!("at {position} had the hash {before:x}, now {hash:x}"));
        }
    }

    /// The service has seen an event; `digest` is its state after it.
    pub fn on_event(&mut self, event: Event, digest: u64) {
        let index = self.cursor;
        self.cursor += 1;
        match self.events.get(index).copied() {
            Some(before) if before != event => {
                self.violate("replay", format!("event {index} was {before:?}, now it is {event:?}"));
            }
            Some(_) if self.digests[index] != digest => {
                let before = self.digests[index];
                self.violate("digest", format!("state after event {index} was {before:x}, now {digest:x}"));
            }
            Some(_) => {}
            None => {
                self.check_new(index, event);
                self.terms += usize::from(event.kind == EventKind::Term);
                self.events.push(event);
                self.digests.push(digest);
            }
        }
    }

    fn check_new(&mut self, index: usize, event: Event) {
        if let Some(last) = self.events.last().copied()
            && (event.position <= last.position || event.timestamp < last.timestamp)
        {
            self.violate("order", format!("{event:?} after {last:?}"));
        }
        let id = event.session_id;
        match event.kind {
            EventKind::Open => {
                if self.sessions.insert(id, SessionFacts::default()).is_some() {
                    self.violate("sessions", format!("session {id} was opened twice"));
                }
            }
            EventKind::Close(reason) => self.check_close(id, reason),
            EventKind::Message { offer } => {
                self.by_offer.insert((id, offer), index);
                match self.sessions.get_mut(&id) {
                    Some(session) if session.is_closed => {
                        self.violate("sessions", format!("message {offer} of the closed session {id}"));
                    }
                    None => self.violate("sessions", format!("message of unknown session {id}")),
                    Some(session) => {
                        let last = std::mem::replace(&mut session.last_offer, offer);
                        if offer <= last {
                            let text = format!("session {id}: offer {offer} applied after {last}");
                            self.violate("exactly-once", text);
                        }
                    }
                }
            }
            EventKind::Term | EventKind::Forwarded | EventKind::Timer => {}
        }
    }

    fn check_close(&mut self, id: i64, reason: CloseReason) {
        match self.sessions.get_mut(&id) {
            Some(session) if !session.is_closed => session.is_closed = true,
            _ => self.violate("sessions", format!("session {id} was closed twice, or never opened")),
        }
        let is_undisturbed =
            self.goodbyes.get(&id).is_some_and(|goodbye| goodbye.incarnation == self.incarnation);
        if reason == CloseReason::Timeout && is_undisturbed {
            self.violate("close", format!("the close of session {id} was lost: it was timed out"));
        }
    }

    /// A client has ended its session. It expects the session to be closed when the network has no faults and the
    /// node's present life leads the term that the client knows.
    pub fn on_goodbye(&mut self, session_id: i64, term_id: i64, now_ns: i64) {
        let term = self.events.iter().rev().find(|event| event.kind == EventKind::Term);
        let is_known = self.has_caught_up() && term.is_some_and(|term| term.detail == term_id as u64);
        if is_known && now_ns >= self.network_is_calm_from_ns {
            self.goodbyes.insert(session_id, Goodbye { incarnation: self.incarnation, at_ns: now_ns });
        }
    }

    /// The network is disturbed until `until_ns`: a message that was sent just now may not arrive before its sender
    /// is gone.
    pub fn on_disturbance(&mut self, now_ns: i64, until_ns: i64) {
        self.network_is_calm_from_ns = self.network_is_calm_from_ns.max(until_ns);
        self.goodbyes.retain(|_, goodbye| goodbye.at_ns + GOODBYE_NS < now_ns);
    }

    /// All links have recovered; streams recover by `calm_from_ns`.
    pub fn on_heal(&mut self, calm_from_ns: i64) {
        self.network_is_calm_from_ns = calm_from_ns;
    }

    /// A client got the answer to an offer, with the service's digest.
    pub fn on_answer(&mut self, session_id: i64, offer: u64, position: i64, digest: u64) {
        let Some(index) = self.by_offer.get(&(session_id, offer)).copied() else {
            return self
                .violate("acknowledged", format!("offer {offer} of {session_id} was answered, not applied"));
        };
        if self.events[index].position != position || self.digests[index] != digest {
            self.violate("acknowledged", format!("answer to offer {offer} is not that of event {index}"));
        }
    }

    /// Whether a session has been closed in the log.
    pub fn is_closed(&self, session_id: i64) -> bool {
        self.sessions.get(&session_id).is_some_and(|session| session.is_closed)
    }

    /// Sessions that are open, in the log.
    pub fn open_sessions(&self) -> impl Iterator<Item = i64> {
        self.sessions.iter().filter(|(_, session)| !session.is_closed).map(|(id, _)| *id)
    }

    /// Whether the present life has been shown all there is.
    pub fn has_caught_up(&self) -> bool {
        self.cursor == self.events.len()
    }

    /// Digest after the last event.
    pub fn digest(&self) -> u64 {
        self.digests.last().copied().unwrap_or(0)
    }

    /// Number of leadership terms.
    pub fn terms(&self) -> usize {
        self.terms
    }
}
