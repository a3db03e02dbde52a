//! Ballots: who votes for whom, and when a candidate leads (spec 04 §5.2 states 3 and 4, §5.4, spec 07 §1, §6, §7).

use harrier_ringbuf::planted::{Bug, is_planted};

use crate::codec::{RequestVote, Role, Vote};

use super::action::MAX_ATTEMPT;
use super::{Action, Delay, Election, Intent, MemberMessage, Reason, State, Terms, TimerKind, Turn};

/// Answer of a member to a RequestVote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Repeats the YES that it gave.
    Again,
    /// Its term is not above the own one.
    Stale,
    /// The own log is better.
    WorseLog,
    /// The candidate lacks what is committed.
    LacksCommitted,
    /// A leader-elect gives way, and votes in the next round.
    GiveWay,
    /// Votes YES.
    Yes,
    /// Does not answer.
    Silent,
}

impl Election {
    pub(super) fn enter_candidate_ballot<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.set_role(Role::Candidate, turn);
        turn.reports.clear_votes();
        self.arm(TimerKind::Ballot, Delay::ElectionTimeout, turn);
        self.request_votes(turn);
        self.arm(TimerKind::Status, Delay::StatusInterval, turn);
    }

    /// Asks the members that have not answered yet (spec 07 §7).
    pub(super) fn request_votes<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let request = RequestVote {
            log_leadership_term_id: self.log_term,
            log_position: turn.reports.own.append,
            candidate_term_id: self.candidate_term,
            candidate_member_id: self.settings.member_id,
            protocol_version: self.settings.protocol_version,
        };
        let (reports, actions) = (&*turn.reports, &mut *turn.actions);
        for report in reports.others().filter(|report| report.vote.is_none()) {
            actions.push(Action::Send { to: report.member_id, message: MemberMessage::RequestVote(request) });
        }
    }

    pub(super) fn on_vote<T: Terms + ?Sized>(&mut self, vote: &Vote, turn: &mut Turn<'_, T>) {
        let is_of_ballot = self.state == State::CandidateBallot
            && vote.candidate_term_id == self.candidate_term
            && vote.candidate_member_id == self.settings.member_id;
        if !is_of_ballot {
            return;
        }
        turn.reports.on_vote(vote);
        self.count_votes(false, turn);
    }

    pub(super) fn on_ballot_end<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        if self.state == State::FollowerBallot {
            return self.enter(State::Canvass, turn);
        }
        self.count_votes(true, turn);
        if self.state == State::CandidateBallot {
            self.attempt = (self.attempt + 1).min(MAX_ATTEMPT);
            self.enter(State::Canvass, turn);
        }
    }

    /// Leads with a quorum of YES and no NO, when nobody is left who may still answer, or the ballot is over (spec 07, F3).
    fn count_votes<T: Terms + ?Sized>(&mut self, is_over: bool, turn: &mut Turn<'_, T>) {
        let (yes, no) = turn.reports.votes();
        let quorum = turn.reports.quorum() - usize::from(is_planted(Bug::MinorityElected));
        let is_complete = is_over || turn.reports.are_silent_inactive(self.graceful_leader);
        if yes >= quorum && no == 0 && is_complete && !self.is_prodding {
            self.enter(State::LeaderLogReplication, turn);
        }
    }

    /// A member fell silent: a ballot or a leadership may depend on it.
    pub(super) fn on_member_silent<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        match self.state {
            State::CandidateBallot => self.count_votes(false, turn),
            State::LeaderLogReplication if !turn.reports.has_active_quorum() => {
                turn.record(Reason::InactiveFollowerQuorum);
                self.restart(false, turn);
            }
            _ => {}
        }
    }

    pub(super) fn on_request_vote<T: Terms + ?Sized>(
        &mut self,
        request: &RequestVote,
        turn: &mut Turn<'_, T>,
    ) {
        let (member_id, term_id) = (request.candidate_member_id, request.candidate_term_id);
        if !self.is_credible(member_id, term_id, turn)
            || !self.is_credible(member_id, request.log_leadership_term_id, turn)
        {
            return;
        }
        if self.state == State::Closed {
            if term_id > self.leadership_term {
                self.leave_steady(Reason::HigherTerm { member_id, term_id }, turn);
            }
            return;
        }
        if term_id >= self.voted_term && self.state == State::Canvass {
            self.disarm(TimerKind::Stand, turn);
        }
        match self.verdict(request, turn) {
            Verdict::Again => self.send_vote(member_id, term_id, true, turn),
            Verdict::Stale => self.send_vote(member_id, term_id, false, turn),
            Verdict::WorseLog => {
                self.refuse(request, turn);
                if self.state.is_leading() {
                    self.tell_term(member_id, request.log_leadership_term_id, turn);
                    self.doubt_leadership(turn);
                }
            }
            Verdict::LacksCommitted => {
                let (position, commit) = (request.log_position, turn.reports.own.known_commit());
                turn.record(Reason::CandidateLacksCommitted { member_id, position, commit });
                self.refuse(request, turn);
            }
            Verdict::GiveWay => {
                turn.record(Reason::HigherTerm { member_id, term_id });
                self.restart(false, turn);
            }
            Verdict::Yes => self.promise(request, turn),
            Verdict::Silent => {}
        }
    }

    /// A candidate of a higher term may be bound not to follow this leader-elect, whatever its log. Without progress the
    /// leader-elect gives way, and stands in a higher term itself (spec 07 §5).
    fn doubt_leadership<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        if !self.is_armed(TimerKind::Stand) && !is_planted(Bug::LeaderElectStays) {
            self.arm(TimerKind::Stand, Delay::ElectionTimeout, turn);
        }
    }

    fn verdict<T: Terms + ?Sized>(&self, request: &RequestVote, turn: &Turn<'_, T>) -> Verdict {
        let (candidate, term_id) = (request.candidate_member_id, request.candidate_term_id);
        let theirs = (request.log_leadership_term_id, request.log_position);
        if term_id <= self.candidate_term {
            let was_chosen = self.chosen == Some((term_id, candidate));
            let is_pending = self.intent == Intent::Vote { candidate } && self.voted_term == term_id;
            return match (was_chosen && !is_planted(Bug::RepeatedVoteRefused), is_pending) {
                (true, _) => Verdict::Again,
                (false, true) => Verdict::Silent,
                (false, false) => Verdict::Stale,
            };
        }
        if self.log(turn) > theirs && !is_planted(Bug::WorseLogElected) {
            return Verdict::WorseLog;
        }
        let is_guarded = !self.is_guard_lifted && !is_planted(Bug::LackingCandidateElected);
        if is_guarded && request.log_position < turn.reports.own.known_commit() {
            return Verdict::LacksCommitted;
        }
        match self.state {
            state if state.is_leading() && is_planted(Bug::LeaderElectStays) => Verdict::Silent,
            state if state.is_leading() => Verdict::GiveWay,
            state if state.is_open_to_votes() && self.is_trusted => Verdict::Yes,
            _ => Verdict::Silent,
        }
    }

    /// Answers NO and raises the own candidate term. The refusal binds nothing, so it does not wait for the disk.
    fn refuse<T: Terms + ?Sized>(&mut self, request: &RequestVote, turn: &mut Turn<'_, T>) {
        self.candidate_term = request.candidate_term_id;
        if matches!(self.intent, Intent::Stand) {
            // The term in which this member was about to stand is no longer the highest one.
            self.intent = Intent::Nothing;
        }
        self.persist(self.intent, request.log_position, turn);
        self.send_vote(request.candidate_member_id, request.candidate_term_id, false, turn);
        match self.state {
            // It was about to stand, or stands, in a lower term.
            State::Nominate if !self.is_armed(TimerKind::Nomination) => self.enter(State::Canvass, turn),
            State::CandidateBallot => self.enter(State::Canvass, turn),
            _ => {}
        }
    }

    /// Binds this member to the candidate; the vote is sent when it is durable (spec 07 §1).
    fn promise<T: Terms + ?Sized>(&mut self, request: &RequestVote, turn: &mut Turn<'_, T>) {
        self.candidate_term = request.candidate_term_id;
        self.voted_term = request.candidate_term_id;
        let candidate = request.candidate_member_id;
        self.enter(State::FollowerBallot, turn);
        self.persist(Intent::Vote { candidate }, request.log_position, turn);
        if is_planted(Bug::VoteBeforeDisk) {
            self.cast_vote(candidate, turn);
        }
    }

    pub(super) fn persist<T: Terms + ?Sized>(
        &mut self,
        intent: Intent,
        position: i64,
        turn: &mut Turn<'_, T>,
    ) {
        self.intent = intent;
        turn.push(Action::Persist {
            candidate_term_id: self.candidate_term,
            voted_term_id: self.voted_term,
            position,
            epoch: self.epoch,
        });
        if intent == Intent::Stand && is_planted(Bug::StandBeforeDisk) {
            self.enter(State::CandidateBallot, turn);
        }
    }

    /// Terms became durable: does what waited for them.
    pub(super) fn on_persisted<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let has_candidate = self.durable.candidate >= self.candidate_term;
        let has_voted = self.durable.voted >= self.voted_term;
        match self.intent {
            Intent::Stand if has_candidate && self.state == State::Nominate => {
                self.intent = Intent::Nothing;
                self.enter(State::CandidateBallot, turn);
            }
            Intent::Vote { candidate } if has_voted => self.cast_vote(candidate, turn),
            Intent::Lead if has_voted && self.state == State::LeaderLogReplication => {
                self.intent = Intent::Nothing;
                self.publish_log(turn);
            }
            _ => {}
        }
    }

    fn cast_vote<T: Terms + ?Sized>(&mut self, candidate: i32, turn: &mut Turn<'_, T>) {
        self.intent = Intent::Nothing;
        self.chosen = Some((self.voted_term, candidate));
        self.send_vote(candidate, self.voted_term, true, turn);
    }

    fn send_vote<T: Terms + ?Sized>(
        &self,
        candidate_member_id: i32,
        candidate_term_id: i64,
        vote: bool,
        turn: &mut Turn<'_, T>,
    ) {
        let message = Vote {
            candidate_term_id,
            log_leadership_term_id: self.log_term,
            log_position: turn.reports.own.append,
            candidate_member_id,
            follower_member_id: self.settings.member_id,
            vote,
        };
        turn.send(candidate_member_id, MemberMessage::Vote(message));
    }
}
