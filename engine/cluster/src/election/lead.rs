//! A leader-elect: its log reaches a quorum, its term is known to one, and its followers join (spec 04 §5.2, states 5 to 8).

use crate::codec::{CommitPosition, NewLeadershipTerm, Role};

use super::{
    Action, Delay, Election, Intent, MemberMessage, NO_LEADER, State, Terms, TimerKind, Turn, Wait,
    new_leadership_term,
};

impl Election {
    /// State 5. The own election binds this member before others hear of it (spec 07 §1).
    pub(super) fn enter_leader_log_replication<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.set_role(Role::Leader, turn);
        self.leader = Some(self.settings.member_id);
        self.leadership_term = self.candidate_term;
        self.voted_term = self.candidate_term;
        self.adopted = super::Adopted { term_base: turn.reports.own.append, ..NO_LEADER };
        self.last_commit_sent = 0;
        turn.reports.begin_term();
        self.persist(Intent::Lead, turn.reports.own.commit, turn);
    }

    pub(super) fn publish_log<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.wait = Wait::LogPublished;
        turn.push(Action::PublishLog {
            term_id: self.leadership_term,
            position: self.adopted.term_base,
            epoch: self.epoch,
        });
    }

    pub(super) fn on_log_published<T: Terms + ?Sized>(&mut self, session_id: i32, turn: &mut Turn<'_, T>) {
        self.wait = Wait::Nothing;
        self.adopted.log_session = session_id;
        self.lead_heartbeat(turn);
        self.lead_progress(turn);
    }

    /// State 6. The own TERM entry comes first, then the commit position, then the replay: services never apply what another
    /// leader may still truncate (spec 07 §2).
    pub(super) fn enter_leader_replay<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.wait = Wait::TermWritten;
        turn.push(Action::WriteTerm {
            term_id: self.leadership_term,
            base: self.adopted.term_base,
            epoch: self.epoch,
        });
        self.lead_heartbeat(turn);
    }

    pub(super) fn on_own_term_written<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.wait = Wait::Commit;
        self.lead_progress(turn);
    }

    /// State 7.
    pub(super) fn enter_leader_init<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.record(turn);
        self.lead_heartbeat(turn);
    }

    /// State 8.
    pub(super) fn enter_leader_ready<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.lead_heartbeat(turn);
        self.lead_progress(turn);
    }

    /// A report or an own position changed.
    pub(super) fn lead_progress<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let (term, base) = (self.leadership_term, self.adopted.term_base);
        if self.adopted.log_session == -1 {
            return;
        }
        let commit = self.told_commit(turn);
        if commit > self.last_commit_sent {
            self.tell_commit(commit, turn);
        }
        match (self.state, self.wait) {
            (State::LeaderLogReplication, Wait::Nothing)
                if turn.reports.quorum_position(term, turn.terms) >= base =>
            {
                self.enter(State::LeaderReplay, turn);
            }
            (State::LeaderReplay, Wait::Commit) if commit >= base => self.replay_own(turn),
            (State::LeaderReady, Wait::Nothing) if turn.reports.is_quorum_ready(term, base, turn.terms) => {
                self.wait = Wait::TermEvent;
                turn.push(Action::AppendTermEvent { epoch: self.epoch });
            }
            _ => {}
        }
    }

    fn replay_own<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let (from, to) = (turn.reports.own.commit, self.adopted.term_base);
        if from >= to {
            return self.enter(State::LeaderInit, turn);
        }
        self.wait = Wait::Replayed;
        self.arm(TimerKind::Progress, Delay::HeartbeatTimeout, turn);
        turn.push(Action::Replay { from, to, epoch: self.epoch });
    }

    /// Repeats the term and the commit position to all others.
    pub(super) fn lead_heartbeat<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        if self.adopted.log_session == -1 {
            return;
        }
        let message = self.term_for(self.log_term, turn);
        for index in 0..turn.reports.all().len() {
            let member_id = turn.reports.all()[index].member_id;
            self.note_term_sent(member_id, &message, turn);
        }
        turn.push(Action::Broadcast(new_leadership_term(message)));
        let commit = self.told_commit(turn);
        if commit > 0 && commit >= self.last_commit_sent {
            self.tell_commit(commit, turn);
        }
        turn.reports.on_heartbeat();
        self.arm(TimerKind::Heartbeat, Delay::HeartbeatInterval, turn);
    }

    /// Answers a member with what it lacks.
    pub(super) fn tell_term<T: Terms + ?Sized>(&self, member_id: i32, log_term: i64, turn: &mut Turn<'_, T>) {
        if self.adopted.log_session == -1 {
            return;
        }
        let message = self.term_for(log_term, turn);
        self.note_term_sent(member_id, &message, turn);
        turn.send(member_id, new_leadership_term(message));
    }

    fn note_term_sent<T: Terms + ?Sized>(
        &self,
        member_id: i32,
        message: &NewLeadershipTerm,
        turn: &mut Turn<'_, T>,
    ) {
        let base = message.term_base_log_position;
        turn.reports.on_new_leadership_term_sent(member_id, message.commit_position, base);
    }

    /// Commit position that a leader-elect may send (spec 07 §2), bytes.
    fn told_commit<T: Terms + ?Sized>(&self, turn: &Turn<'_, T>) -> i64 {
        let has_term = self.log_term == self.leadership_term;
        turn.reports.commit_position(self.leadership_term, has_term, turn.terms)
    }

    fn tell_commit<T: Terms + ?Sized>(&mut self, log_position: i64, turn: &mut Turn<'_, T>) {
        self.last_commit_sent = log_position;
        let message = CommitPosition {
            leadership_term_id: self.leadership_term,
            log_position,
            leader_member_id: self.settings.member_id,
        };
        turn.push(Action::Broadcast(MemberMessage::CommitPosition(message)));
    }

    /// NewLeadershipTerm for a member whose log ends in `log_term` (spec 04 §5.5). A leader whose recording.log does not
    /// know the following term names the first later one it knows (spec 07 §31).
    pub(super) fn term_for<T: Terms + ?Sized>(&self, log_term: i64, turn: &Turn<'_, T>) -> NewLeadershipTerm {
        let own = turn.reports.own;
        let is_steady = self.state == State::Closed;
        let (next, next_base, next_end) = if log_term >= self.leadership_term {
            (-1, -1, -1)
        } else if let Some(next) = turn.terms.first_after(log_term) {
            let open_end = if is_steady { -1 } else { own.append };
            (next.leadership_term_id, next.base.unwrap_or(-1), next.end.unwrap_or(open_end))
        } else {
            (self.leadership_term, self.adopted.term_base, -1)
        };
        let commit = if is_steady { own.commit } else { self.told_commit(turn) };
        NewLeadershipTerm {
            log_leadership_term_id: log_term,
            next_leadership_term_id: next,
            next_term_base_log_position: next_base,
            next_log_position: next_end,
            leadership_term_id: self.leadership_term,
            term_base_log_position: self.adopted.term_base,
            log_position: if is_steady { own.publication } else { self.adopted.term_base },
            leader_recording_id: own.recording_id.unwrap_or(-1),
            timestamp: 0,
            leader_member_id: self.settings.member_id,
            log_session_id: self.adopted.log_session,
            app_version: self.settings.app_version,
            is_startup: !is_steady && self.is_node_startup && self.state != State::LeaderLogReplication,
            commit_position: commit,
        }
    }
}
