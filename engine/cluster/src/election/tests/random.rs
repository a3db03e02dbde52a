//! Whatever is put in, an election stays in order: actions fit, terms and votes never go back, and only what it asked for
//! changes its state.

use harrier_ringbuf::Rng;

use super::*;
use crate::codec::StopCatchup;

fn number(rng: &mut Rng) -> i64 {
    match rng.below(12) {
        0 => -1,
        1 => i64::MAX - 31,
        n => 32 * (n as i64 - 2) * 5,
    }
}

fn message(rng: &mut Rng) -> MemberMessage {
    let from = rng.below(4) as i32;
    let (term_id, position) = (rng.below(7) as i64 - 1, number(rng));
    let log = (rng.below(6) as i64 - 1, number(rng));
    match rng.below(9) {
        0 => canvass(from, log.0, log.1),
        1 => request(from, term_id.max(0), log),
        2 | 3 => vote(from, term_id.max(0), rng.chance(2, 3), log),
        4 => MemberMessage::NewLeadershipTerm(crate::codec::NewLeadershipTerm {
            log_leadership_term_id: log.0,
            next_term_base_log_position: number(rng),
            next_log_position: number(rng),
            commit_position: number(rng),
            ..announcement(from, term_id.max(0), position)
        }),
        5 => append(from, term_id, position, [0, 1, 0x20][rng.below(3) as usize]),
        6 => commit(from, term_id, position),
        7 => MemberMessage::CatchupPosition(CatchupRequest {
            leadership_term_id: term_id,
            log_position: position,
            follower_member_id: from,
        }),
        _ => MemberMessage::StopCatchup(StopCatchup {
            leadership_term_id: term_id,
            follower_member_id: from % 2,
        }),
    }
}

/// Mostly the completion that the member waits for.
fn completion(rng: &mut Rng, rig: &Rig) -> Completion {
    let own = rig.reports.own;
    let position = if rng.chance(1, 8) { number(rng) } else { own.append };
    let all = [
        Completion::Prepared,
        Completion::Truncated { position },
        Completion::Replicated { position: rig.election.replication.stop },
        Completion::SourceStartsAbove { position },
        Completion::Replayed { position },
        Completion::LogPublished { session_id: 4 },
        Completion::Recording { recording_id: 7 },
        Completion::Joined,
        Completion::TermEventAppended,
        Completion::Subscribed,
        Completion::ImageAvailable { join_position: position },
        Completion::LiveDestinationAdded,
        Completion::TermWritten { term_id: rig.election.leadership_term() },
        Completion::Failed,
    ];
    let wanted = match rig.election.wait {
        Wait::Prepared => 0,
        Wait::Truncated => 1,
        Wait::Replicated => 2,
        Wait::Replayed => 4,
        Wait::LogPublished => 5,
        Wait::Recording => 6,
        Wait::Joined => 7,
        Wait::TermEvent => 8,
        Wait::Subscribed => 9,
        Wait::Image => 10,
        Wait::LiveDestination => 11,
        Wait::TermWritten | Wait::TermClosed => 12,
        Wait::Nothing | Wait::Commit => 13,
    };
    all[if rng.chance(7, 8) { wanted } else { rng.below(all.len() as u64) as usize }]
}

/// A message that helps a member of this state on.
fn helpful(rng: &mut Rng, rig: &Rig) -> MemberMessage {
    let from = 1 + rng.below(2) as i32;
    let (term_id, append_position) = (rig.election.leadership_term(), rig.reports.own.append.min(1 << 40));
    match rng.below(6) {
        0 => canvass(from, rig.election.log_term(), append_position),
        1 => vote(from, rig.election.candidate_term(), true, (rig.election.log_term(), append_position)),
        2 => MemberMessage::NewLeadershipTerm(crate::codec::NewLeadershipTerm {
            log_leadership_term_id: rig.election.log_term(),
            next_term_base_log_position: append_position,
            next_log_position: append_position + 320,
            log_position: append_position + 64 * rng.below(2) as i64,
            commit_position: append_position,
            ..announcement(from, rig.election.candidate_term(), append_position + 320 * rng.below(2) as i64)
        }),
        3 => append(from, term_id, append_position, JOINED_FLAG),
        4 => commit(rig.election.leader().unwrap_or(from), term_id, append_position),
        _ => MemberMessage::StopCatchup(StopCatchup { leadership_term_id: term_id, follower_member_id: 0 }),
    }
}

fn input(rng: &mut Rng, rig: &Rig) -> Input {
    let epoch = rig.election.epoch();
    match rng.below(14) {
        0 => Input::Message(message(rng)),
        1..=3 | 10..=13 => Input::Message(helpful(rng, rig)),
        4 | 5 => Input::Timer(TimerKind::ALL[rng.below(TimerKind::COUNT as u64) as usize]),
        6 | 7 => {
            let epoch = if rng.chance(1, 8) { epoch.wrapping_sub(1) } else { epoch };
            Input::Done(Done { epoch, completion: completion(rng, rig) })
        }
        8 => Input::Observed(match rng.below(5) {
            0 => Observation::Appended,
            1 => Observation::Consumed,
            2 => Observation::Replicating { position: number(rng) },
            3 => Observation::MemberSilent { member_id: rng.below(4) as i32 },
            _ => Observation::CatchupFailed { member_id: rng.below(4) as i32 },
        }),
        _ => Input::Trigger(match rng.below(12) {
            0 => Trigger::LeaderSilent,
            1 => Trigger::QuorumLost,
            2 => Trigger::LogClosed { end_of_stream: rng.chance(1, 2) },
            3 => Trigger::RecordingStopped { end_of_stream: rng.chance(1, 2) },
            _ => Trigger::GuardLifted,
        }),
    }
}

#[test]
fn any_input_keeps_terms_and_promises() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut rig = Rig::canvassing();
        let mut yes: Option<(i64, i32)> = None;
        for _ in 0..300 {
            let before = (rig.election.candidate_term(), rig.election.voted_term());
            let input = match rng.below(6) {
                0 => Input::Done(Done {
                    epoch: 0,
                    completion: Completion::Persisted {
                        candidate_term_id: before.0,
                        voted_term_id: before.1,
                    },
                }),
                _ => input(&mut rng, &rig),
            };
            let actions = match input {
                Input::Done(Done { completion: Completion::TermWritten { term_id }, .. }) => {
                    rig.term_written(term_id)
                }
                input => rig.on(input),
            };
            // The owner's part: what was read is committed.
            for action in &actions {
                if let Action::Replay { to, .. } = action {
                    rig.reports.own.commit = rig.reports.own.commit.max(*to);
                }
            }
            let after = (rig.election.candidate_term(), rig.election.voted_term());
            assert!(after.0 >= before.0 && after.1 >= before.1, "{input:?}: {before:?} to {after:?}");
            assert!(after.0 >= after.1, "seed {seed} {input:?}");
            for action in &actions {
                if let Action::Send { message: MemberMessage::Vote(vote), .. } = action
                    && vote.vote
                {
                    let given = (vote.candidate_term_id, vote.candidate_member_id);
                    assert!(yes.is_none_or(|last| last == given || last.0 < given.0), "seed {seed}");
                    assert!(rig.election.durable.voted >= given.0, "seed {seed}: a vote before the disk");
                    yes = Some(given);
                }
                if let Action::WriteTerm { term_id, .. } = action {
                    assert!(*term_id >= 0, "seed {seed}: a negative term");
                }
            }
            let leads = rig.election.role() == Role::Leader;
            assert_eq!(leads && rig.state() != State::Init, rig.election.leader() == Some(0), "seed {seed}");
            seen.insert(rig.state());
        }
    }
    assert_eq!(
        seen.len(),
        17,
        "all states but FOLLOWER_READY, which lasts no longer than an input: {seen:?}"
    );
}
