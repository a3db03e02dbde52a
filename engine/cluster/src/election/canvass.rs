//! CANVASS and NOMINATE: members learn whose log is best before anybody stands (spec 04 §5.2, states 1 and 2).

use crate::codec::{CanvassPosition, Role};

use super::{
    Action, Delay, Election, Intent, MemberMessage, NO_LEADER, Reason, State, Terms, TimerKind, Turn,
};

impl Election {
    pub(super) fn enter_canvass<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.see_log_term(turn);
        self.set_role(Role::Follower, turn);
        self.leader = None;
        self.adopted = NO_LEADER;
        self.has_deadline_passed = false;
        turn.reports.reset(self.log_term);
        let delay = if self.is_extended_canvass { Delay::StartupCanvass } else { Delay::SinceLeaderHeard };
        self.arm(TimerKind::Canvass, delay, turn);
        self.send_canvass(turn);
        self.arm(TimerKind::Status, Delay::StatusInterval, turn);
    }

    /// Tells the other members where the own log ends.
    pub(super) fn send_canvass<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let message = self.canvass_position(turn);
        self.canvassed_term = message.log_leadership_term_id;
        turn.push(Action::Broadcast(MemberMessage::CanvassPosition(message)));
    }

    pub(super) fn canvass_position<T: Terms + ?Sized>(&self, turn: &Turn<'_, T>) -> CanvassPosition {
        CanvassPosition {
            log_leadership_term_id: self.log_term,
            log_position: turn.reports.own.append,
            leadership_term_id: self.leadership_term,
            follower_member_id: self.settings.member_id,
            protocol_version: self.settings.protocol_version,
        }
    }

    pub(super) fn on_status<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        match self.state {
            State::Canvass | State::Nominate => self.send_canvass(turn),
            State::CandidateBallot => self.request_votes(turn),
            _ => return,
        }
        self.arm(TimerKind::Status, Delay::StatusInterval, turn);
    }

    pub(super) fn on_canvass_deadline<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.has_deadline_passed = true;
        self.check_canvass(turn);
    }

    /// Moves on when all members would vote for the own log, or after the deadline a quorum would.
    pub(super) fn check_canvass<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let log = self.log(turn);
        let is_candidate = turn.reports.is_unanimous(log, self.graceful_leader)
            || (self.has_deadline_passed && turn.reports.is_quorum_candidate(log));
        if is_candidate && self.may_stand(turn) {
            self.enter(State::Nominate, turn);
        }
    }

    /// A member does not stand when another one is appointed, when its log may lack what was synced, or when it does lack
    /// what was committed (spec 04 §5.9, spec 07 §6).
    fn may_stand<T: Terms + ?Sized>(&self, turn: &mut Turn<'_, T>) -> bool {
        if self.settings.appointed_leader.is_some_and(|leader| leader != self.settings.member_id)
            || !self.is_trusted
        {
            return false;
        }
        let (append, commit) = (turn.reports.own.append, turn.reports.own.known_commit());
        let is_complete = append >= commit || self.is_guard_lifted;
        if !is_complete {
            turn.record(Reason::LacksCommitted { append, commit });
        }
        is_complete
    }

    pub(super) fn enter_nominate<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.intent = Intent::Nothing;
        let rank = turn.reports.rank(self.log(turn));
        self.arm(TimerKind::Nomination, Delay::Nomination { rank, attempt: self.attempt }, turn);
        self.arm(TimerKind::Status, Delay::StatusInterval, turn);
    }

    /// Stands at the end of the delay.
    pub(super) fn stand<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        if self.may_stand(turn) {
            self.raise_term(false, turn);
        } else {
            self.enter(State::Canvass, turn);
        }
    }

    /// Only a leader was heard whom this member must not follow: it stands, which ends the lower term. A member that may not
    /// lead asks for votes all the same, and never counts them (spec 07 §1).
    pub(super) fn stand_against_lower<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let is_prodding = !self.may_stand(turn);
        self.raise_term(is_prodding, turn);
    }

    fn raise_term<T: Terms + ?Sized>(&mut self, is_prodding: bool, turn: &mut Turn<'_, T>) {
        let Some(term) = self.candidate_term.checked_add(1) else {
            return turn.push(Action::Fatal(Reason::TermsExhausted));
        };
        self.enter(State::Nominate, turn);
        self.disarm(TimerKind::Nomination, turn);
        self.is_prodding = is_prodding;
        self.candidate_term = term;
        self.persist(Intent::Stand, turn.reports.own.commit, turn);
    }
}
