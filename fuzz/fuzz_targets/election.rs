//! Inputs of an election: messages of other members, timers, ends of requests, and triggers, in any order.
#![no_main]

use harrier_cluster::codec::{
    AppendPosition, CanvassPosition, CommitPosition, ConsensusMessage, NewLeadershipTerm, RequestVote, StopCatchup,
    Vote,
};
use harrier_cluster::election::{
    Action, Actions, CatchupRequest, Completion, Done, Election, Input, MemberMessage, NodeTerms, Observation,
    Reports, Settings, TimerKind, Trigger,
};
use harrier_cluster::recording_log::TermRange;
use libfuzzer_sys::fuzz_target;

/// Takes numbers from the bytes; zeros behind their end.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Mostly small terms, and extremes.
    fn term(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            253 => 1 << 20,
            byte => i64::from(byte % 9) - 1,
        }
    }

    /// Mostly plausible positions, and extremes.
    fn position(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            253 => -1,
            byte => i64::from(byte % 32) * 32,
        }
    }

    fn member(&mut self) -> i32 {
        i32::from(self.byte() % 4)
    }
}

fn new_leadership_term(s: &mut Source<'_>) -> NewLeadershipTerm {
    NewLeadershipTerm {
        log_leadership_term_id: s.term(),
        next_leadership_term_id: s.term(),
        next_term_base_log_position: s.position(),
        next_log_position: s.position(),
        leadership_term_id: s.term(),
        term_base_log_position: s.position(),
        log_position: s.position(),
        leader_recording_id: i64::from(s.byte() % 3) - 1,
        timestamp: 0,
        leader_member_id: s.member(),
        log_session_id: i32::from(s.byte()),
        app_version: i32::from(s.byte() % 2) << 16,
        is_startup: s.byte() % 2 == 0,
        commit_position: s.position(),
    }
}

fn message(s: &mut Source<'_>) -> MemberMessage {
    let protocol_version = i32::from(s.byte() % 2) * 64;
    match s.byte() % 8 {
        0 => MemberMessage::CanvassPosition(CanvassPosition {
            log_leadership_term_id: s.term(),
            log_position: s.position(),
            leadership_term_id: s.term(),
            follower_member_id: s.member(),
            protocol_version,
        }),
        1 => MemberMessage::RequestVote(RequestVote {
            log_leadership_term_id: s.term(),
            log_position: s.position(),
            candidate_term_id: s.term(),
            candidate_member_id: s.member(),
            protocol_version,
        }),
        2 => MemberMessage::Vote(Vote {
            candidate_term_id: s.term(),
            log_leadership_term_id: s.term(),
            log_position: s.position(),
            candidate_member_id: s.member(),
            follower_member_id: s.member(),
            vote: s.byte() % 2 == 0,
        }),
        3 => MemberMessage::NewLeadershipTerm(new_leadership_term(s)),
        4 => MemberMessage::AppendPosition(AppendPosition {
            leadership_term_id: s.term(),
            log_position: s.position(),
            follower_member_id: s.member(),
            flags: s.byte(),
        }),
        5 => MemberMessage::CommitPosition(CommitPosition {
            leadership_term_id: s.term(),
            log_position: s.position(),
            leader_member_id: s.member(),
        }),
        6 => MemberMessage::CatchupPosition(CatchupRequest {
            leadership_term_id: s.term(),
            log_position: s.position(),
            follower_member_id: s.member(),
        }),
        _ => MemberMessage::StopCatchup(StopCatchup {
            leadership_term_id: s.term(),
            follower_member_id: s.member(),
        }),
    }
}

/// True when the owner would hand the message in: it drops what no member can send.
fn is_plausible(message: &MemberMessage) -> bool {
    match *message {
        MemberMessage::CanvassPosition(own) => ConsensusMessage::CanvassPosition(own).is_plausible(),
        MemberMessage::RequestVote(own) => ConsensusMessage::RequestVote(own).is_plausible(),
        MemberMessage::Vote(own) => ConsensusMessage::Vote(own).is_plausible(),
        MemberMessage::NewLeadershipTerm(own) => ConsensusMessage::NewLeadershipTerm(own).is_plausible(),
        MemberMessage::AppendPosition(own) => ConsensusMessage::AppendPosition(own).is_plausible(),
        MemberMessage::CommitPosition(own) => ConsensusMessage::CommitPosition(own).is_plausible(),
        MemberMessage::CatchupPosition(own) => own.leadership_term_id >= -1 && own.log_position >= 0,
        MemberMessage::StopCatchup(own) => ConsensusMessage::StopCatchup(own).is_plausible(),
    }
}

fn completion(s: &mut Source<'_>, election: &Election) -> Completion {
    let position = s.position().max(0);
    match s.byte() % 15 {
        0 => Completion::Prepared,
        1 => Completion::Persisted {
            candidate_term_id: election.candidate_term(),
            voted_term_id: election.voted_term(),
        },
        2 => Completion::Truncated { position },
        3 => Completion::TermWritten { term_id: election.leadership_term() },
        4 => Completion::Replicated { position },
        5 => Completion::SourceStartsAbove { position },
        6 => Completion::Replayed { position },
        7 => Completion::LogPublished { session_id: i32::from(s.byte()) },
        8 => Completion::Recording { recording_id: 7 },
        9 => Completion::Joined,
        10 => Completion::TermEventAppended,
        11 => Completion::Subscribed,
        12 => Completion::ImageAvailable { join_position: position },
        13 => Completion::LiveDestinationAdded,
        _ => Completion::Failed,
    }
}

fn input(s: &mut Source<'_>, election: &Election) -> Input {
    match s.byte() % 8 {
        0..=2 => Input::Message(message(s)),
        3 => Input::Timer(TimerKind::ALL[usize::from(s.byte()) % TimerKind::COUNT]),
        4 | 5 => Input::Done(Done { epoch: election.epoch(), completion: completion(s, election) }),
        6 => Input::Observed(match s.byte() % 5 {
            0 => Observation::Appended,
            1 => Observation::Consumed,
            2 => Observation::Replicating { position: s.position().max(0) },
            3 => Observation::MemberSilent { member_id: s.member() },
            _ => Observation::CatchupFailed { member_id: s.member() },
        }),
        _ => Input::Trigger(match s.byte() % 7 {
            0 => Trigger::LeaderSilent,
            1 => Trigger::QuorumLost,
            2 => Trigger::LogClosed { end_of_stream: true },
            3 => Trigger::RecordingStopped { end_of_stream: false },
            4 => Trigger::GuardLifted,
            5 => Trigger::LogTrusted,
            _ => Trigger::NodeStarted,
        }),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let s = &mut Source(bytes);
    let settings = Settings {
        member_id: 0,
        appointed_leader: None,
        app_version: 0,
        protocol_version: 64,
        catchup_window: 64,
        is_log_trusted: s.byte() % 8 != 0,
    };
    let members = if s.byte() % 8 == 0 { &[0][..] } else { &[0, 1, 2][..] };
    let node = NodeTerms { candidate: i64::from(s.byte() % 4) - 1, voted: -1 };
    let mut election = Election::new(settings, node);
    let mut reports = Reports::new(members, 0);
    let mut terms: Vec<TermRange> = Vec::new();
    let mut actions = Actions::new();
    reports.own.append = s.position().max(0) % 1_024;
    reports.own.recording_id = Some(7);
    election.on(Input::Trigger(Trigger::NodeStarted), &terms[..], &mut reports, &mut actions);
    while !s.0.is_empty() {
        let input = input(s, &election);
        if let Input::Message(message) = &input
            && !is_plausible(message)
        {
            continue;
        }
        let before = (election.candidate_term(), election.voted_term());
        actions.clear();
        election.on(input, &terms[..], &mut reports, &mut actions);
        let after = (election.candidate_term(), election.voted_term());
        assert!(after.0 >= before.0 && after.1 >= before.1 && after.0 >= after.1, "terms went back");
        for action in actions.as_slice() {
            match *action {
                Action::WriteTerm { term_id, base, .. } => {
                    assert!(term_id >= 0, "a negative term");
                    if terms.last().is_none_or(|last| last.leadership_term_id < term_id) {
                        terms.push(TermRange { leadership_term_id: term_id, base: Some(base), end: None });
                    }
                }
                Action::Truncate { position, .. } => {
                    assert!(position >= reports.own.commit, "committed log would be truncated");
                }
                Action::Replay { from, to, .. } => assert!(from < to, "a replay of nothing"),
                _ => {}
            }
        }
    }
});
