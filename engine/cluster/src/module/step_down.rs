//! Loss of the lead (spec 04 §4.8, §5.6; spec 07 §27, §28).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::Core;
use super::counters::{node_toggle, toggle};
use super::electing::Electing;
use super::leading::Leading;
use super::response::{Event, LeaderFacts};
use super::state::LoggedState;
use crate::codec::{EventCode, Role};

/// Text for clients whose sessions end with a leadership.
const ELECTION: &str = "election";

impl Leading {
    /// True when the archive no longer records the log, so that nothing can be committed (spec 07 §17).
    pub(super) fn has_lost_recording<M: Memory, S: Storage>(&self, core: &Core<M, S>) -> bool {
        self.stopped_position.is_some() || self.recorded_position(core).is_none()
    }

    /// Takes back what is not committed, ends the sessions that only this leadership knows, and enters an election. All
    /// streams of the leadership are closed.
    pub(super) fn step_down<M: Memory, S: Storage>(
        mut self: Box<Self>,
        core: &mut Core<M, S>,
        reason: &str,
    ) -> Electing {
        let (appended, stopped) =
            (self.log.position(), self.stopped_position.unwrap_or(core.commit_position));
        core.record_error(&format!(
            "WARN: election: {reason} at {stopped}; the log was appended up to {appended} and committed up to {}",
            core.commit_position
        ));
        // The recording counter has gone. What was recorded until then is committed, because a single member is its own
        // quorum (spec 07 §49).
        let recorded = stopped.min(appended);
        if recorded > core.commit_position {
            core.commit(recorded);
        }
        self.end_uncommitted_sessions(core);
        let told = self.links.iter().filter(|(_, link)| !link.owes_open_event);
        core.told_sessions.extend(told.map(|(session_id, _)| *session_id));
        let position = core.commit_position;
        core.state.roll_back(position);
        if core.state.state() != LoggedState::Snapshot {
            core.snapshot = None;
        }
        // A termination behind the commit position belongs to the term that has ended (spec 07 §16).
        core.termination_position = core.termination_position.filter(|end| *end <= position);
        core.counters.control_toggle.set_ordered(toggle::INACTIVE);
        core.counters.node_toggle.set_ordered(node_toggle::INACTIVE);
        core.counters.role.set_ordered(Role::Follower as i64);
        core.show_state();
        Electing::again(core, self.recording.recording_id)
    }

    /// Tells the clients of sessions that are not in the committed log that their sessions are closed (spec 04 §3.5).
    fn end_uncommitted_sessions<M: Memory, S: Storage>(&mut self, core: &Core<M, S>) {
        let leader: LeaderFacts = core.leader_facts();
        for (id, link) in &mut self.links {
            let session = core.state.session(*id);
            let Some(session) = session.filter(|own| own.opened_position > core.commit_position) else {
                continue;
            };
            let correlation_id = session.correlation_id;
            let code = EventCode::Closed;
            link.response
                .send_event(leader, &Event { session_id: *id, correlation_id, code, detail: ELECTION });
        }
        for session in &mut self.pending {
            session.send_event(leader, EventCode::Closed, ELECTION);
        }
    }
}
