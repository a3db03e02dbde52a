//! The state that all members of a cluster share. It follows from the log and from what the services send, and from
//! nothing else (spec 04 §4.2, §4.5–§4.8).

mod parts;
pub(super) mod pending_messages;
mod restore;
mod session;
#[cfg(test)]
mod tests;
pub(super) mod timers;
mod undo;

use std::collections::BTreeMap;

use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::position::FRAME_ALIGNMENT;

use crate::codec::{CloseReason, ClusterAction, LogMessage};
pub(super) use parts::Part;
use pending_messages::PendingMessages;
pub(super) use session::LoggedSession;
use timers::Timers;
use undo::{Undo, UndoLog};

/// State of the cluster that the log determines (spec 04 §4.9, §4.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoggedState {
    Active,
    Suspended,
    /// A snapshot is taken at the position of the last entry.
    Snapshot,
}

/// A leadership term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) id: i64,
    /// Log position at which the term begins, bytes.
    pub(super) base: i64,
}

/// Origin of an entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// This member leads and has appended the entry. The entry may still be rolled back.
    Appended,
    /// This member has read the entry. Only committed entries are read.
    Read,
}

/// Change that an entry of the log has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    SessionOpened { session_id: i64 },
    SessionClosed { session_id: i64 },
    Snapshot { position: i64 },
    StateChanged(LoggedState),
    TermStarted(Term),
}

/// A request of a service. Services send the same requests on all members, so these are not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServiceCommand<'a> {
    Enqueue { service_id: usize, payload: &'a [u8] },
    CloseSession { session_id: i64 },
    ScheduleTimer { correlation_id: i64, deadline: i64 },
    CancelTimer { correlation_id: i64 },
}

/// Change that a request of a service has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServiceEffect {
    None,
    /// The leader must append the close of a session.
    SessionClosing {
        session_id: i64,
    },
    /// The message was not taken: the service is unknown, or too much of it waits.
    Refused,
}

/// The shared state, and the means to take back what is not committed.
#[derive(Debug)]
pub(super) struct ClusterState {
    sessions: BTreeMap<i64, LoggedSession>,
    next_session_id: i64,
    next_committed_session_id: i64,
    timers: Timers,
    pending_messages: Vec<PendingMessages>,
    state: LoggedState,
    term: Term,
    /// Greatest timestamp in the log, in the unit of the cluster's clock.
    time: i64,
    /// Position after the last entry, bytes.
    position: i64,
    committed: i64,
    undo: UndoLog,
}

impl ClusterState {
    /// Creates the state of an empty log.
    pub(super) fn new(services: usize) -> Self {
        Self {
            sessions: BTreeMap::new(),
            next_session_id: 1,
            next_committed_session_id: 1,
            timers: Timers::default(),
            pending_messages: (0..services).map(PendingMessages::new).collect(),
            state: LoggedState::Active,
            term: Term { id: -1, base: 0 },
            time: i64::MIN,
            position: 0,
            committed: 0,
            undo: UndoLog::new(),
        }
    }

    pub(super) fn state(&self) -> LoggedState {
        self.state
    }

    pub(super) fn term(&self) -> Term {
        self.term
    }

    /// Greatest timestamp in the log so far; the minimum for none.
    #[inline]
    pub(super) fn time(&self) -> i64 {
        self.time
    }

    pub(super) fn timers(&self) -> &Timers {
        &self.timers
    }

    pub(super) fn session(&self, session_id: i64) -> Option<&LoggedSession> {
        self.sessions.get(&session_id)
    }

    /// All sessions in the order of their ids.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &LoggedSession> {
        self.sessions.values()
    }

    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the next message of a service that is to be appended, with its session id.
    #[inline]
    pub(super) fn next_to_append(&self, service_id: usize) -> Option<(i64, &[u8])> {
        self.pending_messages.get(service_id)?.next_to_append()
    }

    /// Returns a new session id. Ids are not given back, so a rollback leaves gaps (spec 07 §8).
    pub(super) fn take_session_id(&mut self) -> i64 {
        let id = self.next_session_id;
        self.next_session_id += 1;
        id
    }

    /// False while so much is uncommitted that the leader must wait before it appends another event.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.undo.has_room()
    }

    /// Carries out an entry of the log; `position` is the position after it, bytes.
    ///
    /// # Panics
    /// When the position is not aligned or not behind that of the entry before.
    #[inline]
    pub(super) fn apply(&mut self, entry: &LogMessage<'_>, position: i64, origin: Origin) -> Effect {
        if position <= self.position || position & (FRAME_ALIGNMENT as i64 - 1) != 0 {
            out_of_order(position, self.position);
        }
        self.position = position;
        let LogMessage::Session { header, .. } = *entry else {
            return self.apply_event(entry, position, origin);
        };
        self.observe(header.timestamp);
        if header.session_id < 0 {
            self.apply_service_message(header.session_id, position, origin);
        }
        Effect::None
    }

    #[inline]
    fn observe(&mut self, timestamp: i64) {
        self.time = self.time.max(timestamp);
    }

    fn apply_service_message(&mut self, session_id: i64, position: i64, origin: Origin) {
        let service_id = PendingMessages::service_of(session_id);
        let Some(messages) = self.pending_messages.get_mut(service_id) else { return };
        match origin {
            Origin::Appended => messages.on_appended(session_id, position),
            Origin::Read => messages.on_read(session_id),
        }
    }

    fn apply_event(&mut self, entry: &LogMessage<'_>, position: i64, origin: Origin) -> Effect {
        assert!(
            origin == Origin::Appended || self.undo.is_empty(),
            "entry before {position} is read, but appended entries are neither committed nor rolled back"
        );
        match *entry {
            LogMessage::Session { .. } => Effect::None,
            LogMessage::SessionOpen {
                correlation_id,
                session_id,
                timestamp,
                response_stream_id,
                response_channel,
                principal,
                ..
            } => {
                self.observe(timestamp);
                let session = LoggedSession {
                    id: session_id,
                    correlation_id,
                    opened_position: position,
                    response_stream_id,
                    response_channel: response_channel.to_owned(),
                    principal: principal.to_vec(),
                    close_reason: None,
                };
                self.open_session(session, position, origin)
            }
            LogMessage::SessionClose { session_id, timestamp, reason, .. } => {
                self.observe(timestamp);
                self.close_session(session_id, reason, position, origin)
            }
            LogMessage::Timer { correlation_id, timestamp, .. } => {
                self.observe(timestamp);
                self.fire_timer(correlation_id, position, origin);
                Effect::None
            }
            LogMessage::Action { action, timestamp, flags, .. } => {
                self.observe(timestamp);
                self.act(action, flags, position, origin)
            }
            LogMessage::NewLeadershipTerm {
                leadership_term_id, term_base_log_position, timestamp, ..
            } => {
                self.observe(timestamp);
                let term = Term { id: leadership_term_id, base: term_base_log_position };
                self.push_undo(position, origin, Undo::TermWas(self.term));
                self.term = term;
                Effect::TermStarted(term)
            }
        }
    }

    fn push_undo(&mut self, position: i64, origin: Origin, undo: Undo) {
        if origin == Origin::Appended {
            self.undo.push(position, undo);
        }
    }

    fn open_session(&mut self, session: LoggedSession, position: i64, origin: Origin) -> Effect {
        let session_id = session.id;
        self.sessions.insert(session_id, session);
        self.next_session_id = self.next_session_id.max(session_id.saturating_add(1));
        match origin {
            Origin::Appended => self.undo.push(position, Undo::SessionOpened(session_id)),
            Origin::Read => self.commit_session(session_id),
        }
        Effect::SessionOpened { session_id }
    }

    fn commit_session(&mut self, session_id: i64) {
        self.next_committed_session_id = self.next_committed_session_id.max(session_id.saturating_add(1));
    }

    fn close_session(
        &mut self,
        session_id: i64,
        reason: CloseReason,
        position: i64,
        origin: Origin,
    ) -> Effect {
        let Some(mut session) = self.sessions.remove(&session_id) else { return Effect::None };
        if origin == Origin::Appended {
            session.close_reason = Some(reason);
            self.undo.push_closed(position, session);
        }
        Effect::SessionClosed { session_id }
    }

    fn fire_timer(&mut self, correlation_id: i64, position: i64, origin: Origin) {
        match origin {
            Origin::Read => self.timers.on_read(correlation_id),
            Origin::Appended => {
                if !is_planted(Bug::TimerFiresTwice)
                    && let Some(key) = self.timers.remove(correlation_id)
                {
                    self.undo.push(position, Undo::TimerFired(correlation_id, key));
                }
            }
        }
    }

    fn act(&mut self, action: ClusterAction, flags: i32, position: i64, origin: Origin) -> Effect {
        let (state, effect) = match action {
            ClusterAction::Suspend => (LoggedState::Suspended, Effect::StateChanged(LoggedState::Suspended)),
            ClusterAction::Resume => (LoggedState::Active, Effect::StateChanged(LoggedState::Active)),
            ClusterAction::Snapshot if flags == 0 => (LoggedState::Snapshot, Effect::Snapshot { position }),
            // Only standbys take this snapshot.
            ClusterAction::Snapshot => return Effect::None,
        };
        self.push_undo(position, origin, Undo::StateWas(self.state));
        self.state = state;
        effect
    }

    /// Ends the snapshot that the log has asked for: it was taken, or it has failed.
    pub(super) fn end_snapshot(&mut self) {
        if self.state == LoggedState::Snapshot {
            self.state = LoggedState::Active;
        }
    }

    /// Carries out a request of a service.
    pub(super) fn on_service(&mut self, command: ServiceCommand<'_>) -> ServiceEffect {
        match command {
            ServiceCommand::Enqueue { service_id, payload } => {
                let messages = self.pending_messages.get_mut(service_id);
                let is_taken = messages.is_some_and(|messages| messages.enqueue(payload));
                if is_taken { ServiceEffect::None } else { ServiceEffect::Refused }
            }
            ServiceCommand::CloseSession { session_id } => {
                let Some(session) = self.sessions.get_mut(&session_id) else { return ServiceEffect::None };
                session.close_reason.get_or_insert(CloseReason::ServiceAction);
                ServiceEffect::SessionClosing { session_id }
            }
            ServiceCommand::ScheduleTimer { correlation_id, deadline } => {
                self.timers.schedule(correlation_id, deadline);
                ServiceEffect::None
            }
            ServiceCommand::CancelTimer { correlation_id } => {
                self.timers.remove(correlation_id);
                self.undo.cancel_timer(correlation_id);
                ServiceEffect::None
            }
        }
    }

    /// Lets each service that has sent fewer messages than the log has of it continue behind the log, and calls `report`
    /// with its id.
    pub(super) fn skip_logged_messages(&mut self, mut report: impl FnMut(usize)) {
        for (service_id, messages) in self.pending_messages.iter_mut().enumerate() {
            if messages.catch_up_with_log() {
                report(service_id);
            }
        }
    }

    /// Takes note that the log is committed up to a position, bytes.
    #[inline]
    pub(super) fn commit(&mut self, position: i64) {
        if position < self.committed {
            out_of_order(position, self.committed);
        }
        self.committed = position;
        for messages in &mut self.pending_messages {
            messages.on_committed(position);
        }
        while let Some(undo) = self.undo.pop_committed(position) {
            if let Undo::SessionOpened(session_id) = undo {
                self.commit_session(session_id);
            }
        }
    }

    /// Takes back all appended entries behind a position, bytes: the entries up to it are committed, and the others will
    /// never be (spec 04 §4.8).
    pub(super) fn roll_back(&mut self, position: i64) {
        self.commit(position);
        while let Some((undo, closed)) = self.undo.pop_newest() {
            match undo {
                Undo::SessionOpened(session_id) => {
                    self.sessions.remove(&session_id);
                }
                // A session that was opened behind the position has never existed (spec 07 §8).
                Undo::SessionClosed => {
                    if let Some(session) = closed.filter(|session| session.opened_position <= position) {
                        self.sessions.insert(session.id, session);
                    }
                }
                Undo::TimerFired(correlation_id, key) => self.timers.restore(correlation_id, key),
                Undo::TimerCancelled => {}
                Undo::StateWas(state) => self.state = state,
                Undo::TermWas(term) => self.term = term,
            }
        }
        for messages in &mut self.pending_messages {
            messages.roll_back();
        }
        self.position = self.position.min(position);
    }
}

#[cold]
#[inline(never)]
fn out_of_order(position: i64, last: i64) -> ! {
    panic!("log position {position} cannot follow {last}")
}
