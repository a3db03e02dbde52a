//! Canvass, nomination and ballots (spec 04 §5.2 states 0 to 4, §5.3, spec 07 §1, §6, §7, §29).

use super::*;

#[test]
fn the_only_member_leads_without_a_ballot() {
    let mut rig = Rig::with(&[0], NodeTerms { candidate: -1, voted: -1 }, &[], 0);
    rig.on(Input::Trigger(Trigger::NodeStarted));
    assert_eq!((rig.state(), rig.election.candidate_term()), (State::LeaderLogReplication, 0));
    rig.persisted();
    rig.done(Completion::LogPublished { session_id: 1 });
    rig.term_written(0);
    rig.done(Completion::Recording { recording_id: 0 });
    rig.done(Completion::Joined);
    rig.done(Completion::TermEventAppended);
    assert_eq!((rig.state(), rig.election.leader()), (State::Closed, Some(0)));
    // A recording that is stopped from outside starts an election that extends it.
    rig.on(Input::Trigger(Trigger::RecordingStopped { end_of_stream: false }));
    rig.done(Completion::Prepared);
    assert_eq!((rig.state(), rig.election.candidate_term()), (State::LeaderLogReplication, 1));
}

#[test]
fn a_canvass_ends_with_all_members_or_with_a_quorum_after_its_deadline() {
    // Reports of members 1 and 2, the deadline, and whether member 0 at (1, 640) is nominated.
    type Log = Option<(i64, i64)>;
    let cases: [(Log, Log, bool, bool); 8] = [
        (Some((1, 640)), Some((1, 640)), false, true),
        (Some((0, 9_600)), Some((1, 320)), false, true),
        (Some((1, 640)), None, false, false),
        (Some((1, 640)), None, true, true),
        (None, None, true, false),
        (Some((1, 672)), Some((1, 640)), false, false),
        (Some((2, 32)), Some((1, 640)), true, true),
        (Some((1, 672)), Some((2, 32)), true, false),
    ];
    for (first, second, deadline, is_nominated) in cases {
        let mut rig = Rig::canvassing();
        for (member, log) in [(1, first), (2, second)] {
            if let Some((log_term, position)) = log {
                rig.hear(canvass(member, log_term, position));
            }
        }
        if deadline && rig.state() == State::Canvass {
            rig.fire(TimerKind::Canvass);
        }
        assert_eq!(rig.state() == State::Nominate, is_nominated, "{first:?} {second:?} {deadline}");
    }
}

#[test]
fn the_best_log_stands_first_and_lower_ids_before_equal_ones() {
    let rank = |logs: [(i64, i64); 2]| {
        let mut rig = Rig::canvassing();
        rig.hear(canvass(1, logs[0].0, logs[0].1));
        let mut actions = rig.hear(canvass(2, logs[1].0, logs[1].1));
        if rig.state() == State::Canvass {
            actions = rig.fire(TimerKind::Canvass);
        }
        actions.iter().find_map(|action| match action {
            Action::SetTimer { delay: Delay::Nomination { rank, attempt: 0 }, .. } => Some(*rank),
            _ => None,
        })
    };
    assert_eq!(rank([(1, 640), (1, 640)]), Some(0));
    assert_eq!(rank([(1, 672), (1, 640)]), Some(1));
}

#[test]
fn votes_wait_for_the_disk() {
    // spec 07 §1
    let mut rig = Rig::canvassing();
    let actions = rig.hear(request(1, 2, (1, 640)));
    assert_eq!((rig.state(), votes(&actions)), (State::FollowerBallot, vec![]));
    assert!(has(&actions, |action| matches!(
        action,
        Action::Persist { candidate_term_id: 2, voted_term_id: 2, .. }
    )));
    // A repetition while the vote is on its way to the disk draws no answer.
    assert_eq!(votes(&rig.hear(request(1, 2, (1, 640)))), vec![]);
    assert_eq!(votes(&rig.persisted()), vec![(1, true)]);
    // The candidate's repetition is answered with YES again, another candidate of the term with NO (spec 07 §7).
    assert_eq!(votes(&rig.hear(request(1, 2, (1, 640)))), vec![(1, true)]);
    assert_eq!(votes(&rig.hear(request(2, 2, (1, 9_600)))), vec![(2, false)]);
}

#[test]
fn a_higher_candidate_replaces_a_vote_that_is_not_durable() {
    let mut rig = Rig::canvassing();
    rig.hear(request(1, 2, (1, 640)));
    rig.hear(request(2, 3, (1, 640)));
    let first = Completion::Persisted { candidate_term_id: 2, voted_term_id: 2 };
    assert_eq!(votes(&rig.done(first)), vec![]);
    assert_eq!(votes(&rig.persisted()), vec![(2, true)]);
}

#[test]
fn a_voter_refuses_what_is_stale_worse_or_incomplete() {
    // Request, answer, candidate term afterwards.
    type Case = (MemberMessage, Vec<(i32, bool)>, i64);
    let cases: [Case; 5] = [
        (request(1, 1, (1, 640)), vec![(1, false)], 1),
        (request(1, 0, (5, 9_600)), vec![(1, false)], 1),
        (request(1, 2, (1, 608)), vec![(1, false)], 2),
        // spec 07 §6: a later term, but less than the own commit position.
        (request(1, 3, (2, 288)), vec![(1, false)], 3),
        // Further above than any number of ballots explains.
        (request(1, 2 + (1 << 20), (1, 640)), vec![], 1),
    ];
    for (message, answer, candidate_term) in cases {
        let mut rig = Rig::canvassing();
        assert_eq!(votes(&rig.hear(message)), answer, "{message:?}");
        assert_eq!(rig.election.candidate_term(), candidate_term, "{message:?}");
        assert_eq!(rig.state(), State::Canvass);
    }
}

#[test]
fn an_operator_lifts_the_guard_for_one_election() {
    let mut rig = Rig::canvassing();
    rig.on(Input::Trigger(Trigger::GuardLifted));
    rig.hear(request(1, 3, (2, 288)));
    assert_eq!(votes(&rig.persisted()), vec![(1, true)]);
}

#[test]
fn a_candidate_asks_again_and_leads_when_nobody_else_can_answer() {
    let mut rig = Rig::canvassing();
    rig.hear(canvass(1, 1, 640));
    rig.hear(canvass(2, 1, 640));
    let asked = |actions: &[Action]| {
        actions
            .iter()
            .filter(|action| matches!(action, Action::Send { message: MemberMessage::RequestVote(_), .. }))
            .count()
    };
    assert_eq!(asked(&rig.fire(TimerKind::Nomination)), 0, "the term is not durable");
    assert_eq!(asked(&rig.persisted()), 2);
    rig.hear(vote(1, 2, true, (1, 640)));
    assert_eq!(rig.state(), State::CandidateBallot);
    // spec 07 §7: only who has not answered is asked again; a NO after YES is a repetition's.
    assert_eq!(asked(&rig.fire(TimerKind::Status)), 1);
    rig.hear(vote(1, 2, false, (1, 640)));
    rig.on(Input::Observed(Observation::MemberSilent { member_id: 2 }));
    assert_eq!(rig.state(), State::LeaderLogReplication);
    assert_eq!(rig.election.voted_term(), 2);
}

#[test]
fn one_no_or_too_few_yes_lose_a_ballot() {
    for answers in [[Some(true), Some(false)], [None, None], [Some(false), None]] {
        let mut rig = Rig::canvassing();
        rig.hear(canvass(1, 1, 640));
        rig.hear(canvass(2, 1, 640));
        rig.fire(TimerKind::Nomination);
        rig.persisted();
        for (member, answer) in [1, 2].into_iter().zip(answers) {
            if let Some(yes) = answer {
                rig.hear(vote(member, 2, yes, (1, 640)));
            }
        }
        assert_eq!(rig.state(), State::CandidateBallot, "{answers:?}");
        rig.fire(TimerKind::Ballot);
        assert_eq!(rig.state(), State::Canvass, "{answers:?}");
    }
}

#[test]
fn a_leader_that_ended_its_log_is_not_waited_for() {
    // spec 07 §18
    let mut rig = Rig::following();
    rig.on(Input::Trigger(Trigger::LogClosed { end_of_stream: true }));
    rig.done(Completion::Prepared);
    rig.hear(canvass(2, 2, 640));
    assert_eq!(rig.state(), State::Nominate, "member 1 led and ended its log");
    let mut rig = Rig::following();
    rig.on(Input::Trigger(Trigger::LogClosed { end_of_stream: false }));
    rig.done(Completion::Prepared);
    rig.hear(canvass(2, 2, 640));
    assert_eq!(rig.state(), State::Canvass);
}

#[test]
fn members_that_may_lack_what_was_recorded_neither_stand_nor_vote() {
    let mut rig = Rig::new();
    rig.election.is_trusted = false;
    rig.on(Input::Trigger(Trigger::NodeStarted));
    rig.hear(canvass(1, 1, 640));
    rig.hear(canvass(2, 1, 640));
    assert_eq!(rig.state(), State::Canvass);
    assert_eq!(votes(&rig.hear(request(1, 2, (1, 640)))), vec![]);
    rig.on(Input::Trigger(Trigger::LogTrusted));
    rig.hear(canvass(1, 1, 640));
    assert_eq!(rig.state(), State::Nominate);
}

#[test]
fn only_the_appointed_member_stands() {
    // spec 04 §5.9
    let mut rig = Rig::new();
    rig.election.settings.appointed_leader = Some(2);
    rig.on(Input::Trigger(Trigger::NodeStarted));
    rig.hear(canvass(1, 1, 640));
    rig.hear(canvass(2, 1, 640));
    assert_eq!(rig.state(), State::Canvass);
    rig.hear(request(2, 2, (1, 640)));
    assert_eq!(rig.state(), State::FollowerBallot);
}
