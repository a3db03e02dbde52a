//! Undo log: a leader takes back entries that it has appended and that are not committed (spec 04 §4.8, spec 07 §8, §28).

use std::collections::VecDeque;

use super::session::LoggedSession;
use super::timers::TimerKey;
use super::{LoggedState, Term};

/// Changes that wait for their commit at most. A leader appends no further event while the log is full.
const CAPACITY: usize = 4_096;
/// Closed sessions for which there is room without allocation.
const CLOSED_CAPACITY: usize = 64;

/// Change that restores the state before one entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undo {
    SessionOpened(i64),
    /// The session is at the same end of the queue of closed sessions.
    SessionClosed,
    /// The timer with the deadline that it had.
    TimerFired(i64, TimerKey),
    /// A timer that its service has cancelled since it fired.
    TimerCancelled,
    StateWas(LoggedState),
    TermWas(Term),
}

/// Uncommitted changes in the order of their positions.
#[derive(Debug)]
pub(super) struct UndoLog {
    changes: VecDeque<(i64, Undo)>,
    closed: VecDeque<LoggedSession>,
}

impl UndoLog {
    pub(super) fn new() -> Self {
        Self { changes: VecDeque::with_capacity(CAPACITY), closed: VecDeque::with_capacity(CLOSED_CAPACITY) }
    }

    pub(super) fn has_room(&self) -> bool {
        self.changes.len() < CAPACITY
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds the change of the entry before `position`.
    pub(super) fn push(&mut self, position: i64, undo: Undo) {
        let last = self.changes.back().map_or(i64::MIN, |(last, _)| *last);
        assert!(self.has_room() && position > last, "undo at {position} follows {last}");
        self.changes.push_back((position, undo));
    }

    /// Adds the close of a session.
    pub(super) fn push_closed(&mut self, position: i64, session: LoggedSession) {
        self.push(position, Undo::SessionClosed);
        self.closed.push_back(session);
    }

    /// Makes a timer stay away after a rollback, because its service has cancelled it.
    pub(super) fn cancel_timer(&mut self, correlation_id: i64) {
        for (_, undo) in &mut self.changes {
            if matches!(undo, Undo::TimerFired(id, _) if *id == correlation_id) {
                *undo = Undo::TimerCancelled;
            }
        }
    }

    /// Removes the oldest change if it is committed at `position`, and returns it.
    #[inline]
    pub(super) fn pop_committed(&mut self, position: i64) -> Option<Undo> {
        if self.changes.front().is_none_or(|(changed, _)| *changed > position) {
            return None;
        }
        let (_, undo) = self.changes.pop_front()?;
        if undo == Undo::SessionClosed {
            self.closed.pop_front();
        }
        Some(undo)
    }

    /// Removes the newest change and returns it, with the session if it was a close.
    pub(super) fn pop_newest(&mut self) -> Option<(Undo, Option<LoggedSession>)> {
        let (_, undo) = self.changes.pop_back()?;
        let session = if undo == Undo::SessionClosed { self.closed.pop_back() } else { None };
        Some((undo, session))
    }
}
