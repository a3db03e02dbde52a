//! Messages of other members: who may send what, and which state they concern.

use harrier_protocol::semantic_version_major;
use harrier_ringbuf::planted::{Bug, is_planted};

use crate::codec::{
    AppendPosition, CanvassPosition, CommitPosition, NewLeadershipTerm, RequestVote, StopCatchup,
};
use crate::recording_log::MAX_TERM_GAP;

use super::{
    Action, CatchupRequest, Delay, Election, MemberMessage, Reason, State, Terms, TimerKind, Turn, Wait,
};

impl MemberMessage {
    /// Id of the sender; `None` for StopCatchup, which does not name it.
    pub fn sender(&self) -> Option<i32> {
        match self {
            Self::CanvassPosition(message) => Some(message.follower_member_id),
            Self::RequestVote(message) => Some(message.candidate_member_id),
            Self::Vote(message) => Some(message.follower_member_id),
            Self::NewLeadershipTerm(message) => Some(message.leader_member_id),
            Self::AppendPosition(message) => Some(message.follower_member_id),
            Self::CommitPosition(message) => Some(message.leader_member_id),
            Self::CatchupPosition(message) => Some(message.follower_member_id),
            Self::StopCatchup(_) => None,
        }
    }
}

impl Election {
    pub(super) fn on_message<T: Terms + ?Sized>(&mut self, message: MemberMessage, turn: &mut Turn<'_, T>) {
        if let MemberMessage::NewLeadershipTerm(term) = &message
            && !self.is_compatible(term.app_version)
        {
            let (member_id, version) = (term.leader_member_id, term.app_version);
            return turn.push(Action::Fatal(Reason::IncompatibleVersion { member_id, version }));
        }
        if let Some(member_id) = message.sender() {
            if turn.reports.of(member_id).is_none() {
                return turn.record(Reason::UnknownMember { member_id });
            }
            if member_id == self.settings.member_id {
                return turn.record(Reason::OwnIdUsed);
            }
            turn.reports.on_heard(member_id);
        }
        if let MemberMessage::CanvassPosition(CanvassPosition {
            follower_member_id: id,
            protocol_version,
            ..
        })
        | MemberMessage::RequestVote(RequestVote { candidate_member_id: id, protocol_version, .. }) =
            message
        {
            turn.reports.on_version(id, protocol_version);
        }
        if self.state == State::Init {
            return;
        }
        match message {
            MemberMessage::CanvassPosition(message) => self.on_canvass_position(&message, turn),
            MemberMessage::RequestVote(message) => self.on_request_vote(&message, turn),
            MemberMessage::Vote(message) => self.on_vote(&message, turn),
            MemberMessage::NewLeadershipTerm(message) => self.on_new_leadership_term(&message, turn),
            MemberMessage::AppendPosition(message) => self.on_append_position(&message, turn),
            MemberMessage::CommitPosition(message) => self.on_commit_position(&message, turn),
            MemberMessage::CatchupPosition(message) => self.on_catchup_position(&message, turn),
            MemberMessage::StopCatchup(message) => self.on_stop_catchup(&message, turn),
        }
    }

    /// Versions of one major part work together (spec 04 §4.13); 0 means that the sender did not tell.
    fn is_compatible(&self, version: i32) -> bool {
        version == 0 || semantic_version_major(version) == semantic_version_major(self.settings.app_version)
    }

    /// False for a term that no number of ballots explains; it is recorded.
    pub(super) fn is_credible<T: Terms + ?Sized>(
        &self,
        member_id: i32,
        term_id: i64,
        turn: &mut Turn<'_, T>,
    ) -> bool {
        let known = self.candidate_term.max(self.leadership_term).max(self.log_term).max(-1);
        let is_credible = term_id.saturating_sub(known) <= MAX_TERM_GAP;
        if !is_credible {
            turn.record(Reason::TermTooHigh { member_id, term_id });
        }
        is_credible
    }

    fn on_canvass_position<T: Terms + ?Sized>(&mut self, message: &CanvassPosition, turn: &mut Turn<'_, T>) {
        let member_id = message.follower_member_id;
        let log_term = message.log_leadership_term_id;
        if !self.is_credible(member_id, log_term, turn) {
            return;
        }
        self.hear_graceful(member_id);
        if self.state == State::Closed {
            return self.steady_canvass(message, turn);
        }
        turn.reports.on_canvass(message);
        if self.state == State::Canvass {
            return self.check_canvass(turn);
        }
        if !self.state.is_leading() {
            return;
        }
        if log_term > self.leadership_term {
            if !is_planted(Bug::LeaderElectStays) {
                turn.record(Reason::HigherTerm { member_id, term_id: log_term });
                self.restart(false, turn);
            }
            return;
        }
        self.tell_term(member_id, log_term, turn);
        self.lead_progress(turn);
    }

    fn on_append_position<T: Terms + ?Sized>(&mut self, message: &AppendPosition, turn: &mut Turn<'_, T>) {
        if message.leadership_term_id > self.leadership_term {
            return;
        }
        let is_new_leader = self.state.is_leading() && self.state != State::LeaderLogReplication;
        let is_leading = self.leader == Some(self.settings.member_id);
        let has_caught_up = turn.reports.on_append_position(message, is_new_leader);
        if has_caught_up && is_leading {
            self.end_catchup(message, turn);
        }
        if self.state.is_leading() {
            self.lead_progress(turn);
        }
    }

    /// Only a leader ends a catch-up; each report that shows its end causes another StopCatchup (spec 07 §13).
    fn end_catchup<T: Terms + ?Sized>(&mut self, message: &AppendPosition, turn: &mut Turn<'_, T>) {
        let member_id = message.follower_member_id;
        turn.push(Action::StopCatchup { member_id });
        let stop =
            StopCatchup { leadership_term_id: message.leadership_term_id, follower_member_id: member_id };
        turn.send(member_id, MemberMessage::StopCatchup(stop));
    }

    /// A leader replays its recording from state 5 on (spec 07 §13).
    fn on_catchup_position<T: Terms + ?Sized>(&mut self, message: &CatchupRequest, turn: &mut Turn<'_, T>) {
        let is_leader = self.leader == Some(self.settings.member_id);
        if !is_leader || message.leadership_term_id != self.leadership_term {
            return;
        }
        turn.reports.on_catchup_position(message);
        turn.push(Action::StartCatchup {
            member_id: message.follower_member_id,
            position: message.log_position,
        });
    }

    fn on_commit_position<T: Terms + ?Sized>(&mut self, message: &CommitPosition, turn: &mut Turn<'_, T>) {
        let (member_id, term_id) = (message.leader_member_id, message.leadership_term_id);
        if !self.is_credible(member_id, term_id, turn) {
            return;
        }
        self.hear_leader(member_id, term_id, turn);
        if self.leader == Some(member_id) && term_id == self.leadership_term {
            return self.learn_commit(message.log_position, turn);
        }
        self.yield_to(member_id, term_id, turn);
    }

    /// A leader of a higher term ends a leadership, a following and a steady state (spec 04 §4.5, spec 07 §5, §20).
    pub(super) fn yield_to<T: Terms + ?Sized>(
        &mut self,
        member_id: i32,
        term_id: i64,
        turn: &mut Turn<'_, T>,
    ) {
        if term_id <= self.leadership_term {
            return;
        }
        let reason = Reason::HigherTerm { member_id, term_id };
        match self.state {
            State::Closed => self.leave_steady(reason, turn),
            state if state.is_leading() && is_planted(Bug::LeaderElectStays) => {}
            state if state.is_leading() || state.is_following() => {
                turn.record(reason);
                self.restart(false, turn);
            }
            _ => {}
        }
    }

    /// Notes that a leader lives whom this member may follow (spec 07 §15); one that rule 1 refuses does not count.
    pub(super) fn hear_leader<T: Terms + ?Sized>(
        &mut self,
        member_id: i32,
        term_id: i64,
        turn: &mut Turn<'_, T>,
    ) {
        self.hear_graceful(member_id);
        let bound = self.log_term.max(self.voted_term);
        if term_id < bound || (self.state == State::Closed && term_id < self.leadership_term) {
            return;
        }
        turn.push(Action::LeaderHeard);
        if self.state == State::Canvass {
            self.disarm(TimerKind::Stand, turn);
        }
        if self.state == State::Canvass && !self.is_extended_canvass {
            self.has_deadline_passed = false;
            self.arm(TimerKind::Canvass, Delay::SinceLeaderHeard, turn);
        }
    }

    /// The old leader is back: unanimity needs it again (spec 04 §5.1).
    pub(super) fn hear_graceful(&mut self, member_id: i32) {
        if self.graceful_leader == Some(member_id) {
            self.graceful_leader = None;
        }
    }

    /// The adopted leader tells its commit position.
    pub(super) fn learn_commit<T: Terms + ?Sized>(&mut self, position: i64, turn: &mut Turn<'_, T>) {
        self.notified = self.notified.max(position);
        turn.reports.own.notified = turn.reports.own.notified.max(position);
        match self.state {
            State::FollowerReplay => {
                if self.wait == Wait::Commit {
                    self.arm(TimerKind::Deadline, Delay::HeartbeatTimeout, turn);
                }
                self.check_replay(turn);
            }
            State::FollowerCatchup => self.check_catchup(turn),
            _ => {}
        }
    }

    /// StopCatchup counts when it answers the term of the last flagged report, or the leader's term (spec 07 §13).
    fn on_stop_catchup<T: Terms + ?Sized>(&mut self, message: &StopCatchup, turn: &mut Turn<'_, T>) {
        let is_for_own = message.follower_member_id == self.settings.member_id;
        if !is_for_own || message.leadership_term_id != self.leadership_term {
            return;
        }
        match self.state {
            State::FollowerCatchup => {
                self.is_catchup_over = true;
                turn.push(Action::RemoveCatchupDestination);
                self.check_catchup(turn);
            }
            State::Closed if self.leader != Some(self.settings.member_id) => {
                turn.push(Action::RemoveCatchupDestination);
            }
            _ => {}
        }
    }

    pub(super) fn on_new_leadership_term<T: Terms + ?Sized>(
        &mut self,
        message: &NewLeadershipTerm,
        turn: &mut Turn<'_, T>,
    ) {
        let (member_id, term_id) = (message.leader_member_id, message.leadership_term_id);
        if !self.is_credible(member_id, term_id, turn) {
            return;
        }
        self.hear_leader(member_id, term_id, turn);
        if self.leader == Some(member_id)
            && term_id == self.leadership_term
            && self.state > State::FollowerBallot
        {
            return self.hear_adopted(message, turn);
        }
        match self.state {
            State::Canvass => self.follow(message, turn),
            State::Nominate if self.intent == super::Intent::Nothing => self.follow(message, turn),
            State::CandidateBallot | State::FollowerBallot if term_id >= self.candidate_term => {
                self.follow(message, turn);
            }
            _ => self.yield_to(member_id, term_id, turn),
        }
    }
}
