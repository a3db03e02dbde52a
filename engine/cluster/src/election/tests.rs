//! Tests of the election: one rig holds one member and plays the others.

mod ballots;
mod follows;
mod leads;
mod random;
mod rules;

use harrier_protocol::semantic_version;

use super::*;
use crate::codec::{AppendPosition, CanvassPosition, CommitPosition, JOINED_FLAG, RequestVote, Vote};
use crate::recording_log::TermRange;

const OURS: i32 = semantic_version(1, 0, 64);
const FOREIGN: i32 = semantic_version(1, 0, 0);

/// A member with id 0 of a cluster of three, or of one.
struct Rig {
    election: Election,
    reports: Reports,
    terms: Vec<TermRange>,
    actions: Actions,
}

impl Rig {
    fn with(members: &[i32], node: NodeTerms, terms: &[(i64, i64, i64)], append: i64) -> Self {
        let settings = Settings {
            member_id: 0,
            appointed_leader: None,
            app_version: semantic_version(1, 2, 0),
            protocol_version: OURS,
            catchup_window: 64,
            is_log_trusted: true,
        };
        let mut reports = Reports::new(members, 0);
        reports.own.append = append;
        reports.own.recording_id = Some(7);
        let range = |&(leadership_term_id, base, end): &(i64, i64, i64)| TermRange {
            leadership_term_id,
            base: Some(base),
            end: Some(end).filter(|end| *end != -1),
        };
        Self {
            election: Election::new(settings, node),
            reports,
            terms: terms.iter().map(range).collect(),
            actions: Actions::new(),
        }
    }

    /// A member of three whose log ends in term 1 at 640, of which 320 is committed.
    fn new() -> Self {
        Self::bound_to(1)
    }

    /// The same, after a vote in a term.
    fn bound_to(term: i64) -> Self {
        let node = NodeTerms { candidate: term, voted: term };
        let mut rig = Self::with(&[0, 1, 2], node, &[(0, 0, 320), (1, 320, -1)], 640);
        rig.reports.own.commit = 320;
        rig
    }

    /// The same in CANVASS.
    fn canvassing() -> Self {
        let mut rig = Self::new();
        rig.on(Input::Trigger(Trigger::NodeStarted));
        assert_eq!(rig.state(), State::Canvass);
        rig
    }

    fn on(&mut self, input: Input) -> Vec<Action> {
        self.actions.clear();
        self.election.on(input, &self.terms[..], &mut self.reports, &mut self.actions);
        self.actions.as_slice().to_vec()
    }

    fn hear(&mut self, message: MemberMessage) -> Vec<Action> {
        self.on(Input::Message(message))
    }

    fn fire(&mut self, kind: TimerKind) -> Vec<Action> {
        assert!(self.election.is_timer_running(kind), "{kind:?} does not run in {:?}", self.state());
        self.on(Input::Timer(kind))
    }

    fn done(&mut self, completion: Completion) -> Vec<Action> {
        let epoch = self.election.epoch();
        self.on(Input::Done(Done { epoch, completion }))
    }

    /// Ends the last request for node-state.dat.
    fn persisted(&mut self) -> Vec<Action> {
        let (candidate_term_id, voted_term_id) = (self.election.candidate_term(), self.election.voted_term());
        self.done(Completion::Persisted { candidate_term_id, voted_term_id })
    }

    /// Ends a write of an open term at the end of the log.
    fn term_written(&mut self, term_id: i64) -> Vec<Action> {
        if self.terms.iter().all(|term| term.leadership_term_id != term_id) {
            let base = self.reports.own.append;
            if let Some(last) = self.terms.last_mut() {
                last.end = Some(base);
            }
            self.terms.push(TermRange { leadership_term_id: term_id, base: Some(base), end: None });
        }
        self.done(Completion::TermWritten { term_id })
    }

    fn state(&self) -> State {
        self.election.state()
    }

    /// Has the vote of both others for term 2.
    fn voted_for() -> Self {
        let mut rig = Self::canvassing();
        rig.hear(canvass(1, 1, 640));
        rig.hear(canvass(2, 1, 640));
        rig.fire(TimerKind::Nomination);
        rig.persisted();
        rig.hear(vote(1, 2, true, (1, 640)));
        rig.hear(vote(2, 2, true, (1, 640)));
        rig
    }

    /// Becomes leader-elect of term 2 with the vote of both others; its log is published.
    fn elected() -> Self {
        let mut rig = Self::voted_for();
        assert_eq!(rig.state(), State::LeaderLogReplication);
        rig.persisted();
        rig.reports.own.publication = 640;
        rig.done(Completion::LogPublished { session_id: 5 });
        rig
    }

    /// Leads term 2; members 1 and 2 follow.
    fn leading() -> Self {
        let mut rig = Self::elected();
        rig.term_written(2);
        rig.hear(canvass(1, 2, 640));
        rig.reports.own.commit = 640;
        rig.done(Completion::Replayed { position: 640 });
        rig.done(Completion::Recording { recording_id: 7 });
        rig.done(Completion::Joined);
        rig.hear(append(1, 2, 640, JOINED_FLAG));
        rig.hear(append(2, 2, 640, JOINED_FLAG));
        rig.done(Completion::TermEventAppended);
        assert_eq!((rig.state(), rig.election.role()), (State::Closed, Role::Leader));
        rig
    }

    /// Follows member 1 in term 2.
    fn following() -> Self {
        let mut rig = Self::canvassing();
        rig.hear(term(1, 2, 640));
        rig.term_written(2);
        rig.hear(commit(1, 2, 640));
        rig.reports.own.commit = 640;
        rig.done(Completion::Replayed { position: 640 });
        rig.done(Completion::Subscribed);
        rig.done(Completion::ImageAvailable { join_position: 640 });
        rig.done(Completion::Recording { recording_id: 7 });
        rig.done(Completion::Joined);
        assert_eq!((rig.state(), rig.election.role()), (State::Closed, Role::Follower));
        rig
    }
}

fn canvass(from: i32, log_term: i64, position: i64) -> MemberMessage {
    MemberMessage::CanvassPosition(CanvassPosition {
        log_leadership_term_id: log_term,
        log_position: position,
        leadership_term_id: log_term,
        follower_member_id: from,
        protocol_version: OURS,
    })
}

fn foreign_canvass(from: i32, log_term: i64, position: i64) -> MemberMessage {
    MemberMessage::CanvassPosition(CanvassPosition {
        log_leadership_term_id: log_term,
        log_position: position,
        leadership_term_id: log_term,
        follower_member_id: from,
        protocol_version: FOREIGN,
    })
}

fn request(from: i32, candidate_term: i64, log: (i64, i64)) -> MemberMessage {
    MemberMessage::RequestVote(RequestVote {
        log_leadership_term_id: log.0,
        log_position: log.1,
        candidate_term_id: candidate_term,
        candidate_member_id: from,
        protocol_version: OURS,
    })
}

fn vote(from: i32, term: i64, yes: bool, log: (i64, i64)) -> MemberMessage {
    MemberMessage::Vote(Vote {
        candidate_term_id: term,
        log_leadership_term_id: log.0,
        log_position: log.1,
        candidate_member_id: 0,
        follower_member_id: from,
        vote: yes,
    })
}

fn append(from: i32, term: i64, position: i64, flags: u8) -> MemberMessage {
    MemberMessage::AppendPosition(AppendPosition {
        leadership_term_id: term,
        log_position: position,
        follower_member_id: from,
        flags,
    })
}

fn commit(from: i32, term: i64, position: i64) -> MemberMessage {
    MemberMessage::CommitPosition(CommitPosition {
        leadership_term_id: term,
        log_position: position,
        leader_member_id: from,
    })
}

/// A leader of `term` whose term begins at `base` answers a member whose log ends in term 1.
fn term(from: i32, term_id: i64, base: i64) -> MemberMessage {
    MemberMessage::NewLeadershipTerm(announcement(from, term_id, base))
}

fn announcement(from: i32, term_id: i64, base: i64) -> crate::codec::NewLeadershipTerm {
    crate::codec::NewLeadershipTerm {
        log_leadership_term_id: 1,
        next_leadership_term_id: term_id,
        next_term_base_log_position: base,
        next_log_position: -1,
        leadership_term_id: term_id,
        term_base_log_position: base,
        log_position: base,
        leader_recording_id: 3,
        timestamp: 0,
        leader_member_id: from,
        log_session_id: 9,
        app_version: semantic_version(1, 0, 0),
        is_startup: false,
        commit_position: 0,
    }
}

/// The votes among actions: receiver and YES or NO.
fn votes(actions: &[Action]) -> Vec<(i32, bool)> {
    let pick = |action: &Action| match action {
        Action::Send { to, message: MemberMessage::Vote(vote) } => Some((*to, vote.vote)),
        _ => None,
    };
    actions.iter().filter_map(pick).collect()
}

fn has(actions: &[Action], is_wanted: impl Fn(&Action) -> bool) -> bool {
    actions.iter().any(is_wanted)
}
