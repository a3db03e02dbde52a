//! Leading (spec 04 §5.2 states 5 to 8 and 17, §5.5, spec 07 §2, §5, §6, §13, §14, §21).

use super::*;
use crate::codec::{CATCHUP_FLAG, NewLeadershipTerm};

/// The announcement to `to`, or to all for `None`.
fn told(actions: &[Action], to: Option<i32>) -> Option<NewLeadershipTerm> {
    actions.iter().find_map(|action| match (action, to) {
        (Action::Send { to: other, message: MemberMessage::NewLeadershipTerm(own) }, Some(to))
            if *other == to =>
        {
            Some(*own)
        }
        (Action::Broadcast(MemberMessage::NewLeadershipTerm(own)), None) => Some(*own),
        _ => None,
    })
}

fn commit_told(actions: &[Action]) -> Option<i64> {
    actions.iter().find_map(|action| match action {
        Action::Broadcast(MemberMessage::CommitPosition(own)) => Some(own.log_position),
        _ => None,
    })
}

#[test]
fn nothing_is_announced_before_the_own_election_is_durable() {
    // spec 07 §1
    let mut rig = Rig::canvassing();
    rig.hear(canvass(1, 1, 640));
    rig.hear(canvass(2, 1, 640));
    rig.fire(TimerKind::Nomination);
    rig.persisted();
    rig.hear(vote(1, 2, true, (1, 640)));
    let actions = rig.hear(vote(2, 2, true, (1, 640)));
    assert!(has(&actions, |action| matches!(action, Action::Persist { voted_term_id: 2, .. })));
    assert!(!has(&actions, |action| matches!(action, Action::PublishLog { .. })));
    assert!(has(&rig.persisted(), |action| matches!(action, Action::PublishLog { position: 640, .. })));
    assert_eq!(told(&rig.hear(canvass(1, 1, 640)), Some(1)), None);
    let actions = rig.done(Completion::LogPublished { session_id: 5 });
    let announced = told(&actions, None).unwrap();
    assert_eq!((announced.leadership_term_id, announced.term_base_log_position), (2, 640));
    assert_eq!((announced.log_session_id, announced.commit_position), (5, 0));
}

#[test]
fn older_entries_are_committed_when_a_quorum_knows_the_term() {
    // spec 07 §2: the votes put both logs at 640, and still nothing is committed.
    let mut rig = Rig::elected();
    assert_eq!(rig.state(), State::LeaderReplay);
    let actions = rig.term_written(2);
    assert_eq!(commit_told(&actions), None);
    assert!(!has(&actions, |action| matches!(action, Action::Replay { .. })));
    assert_eq!(commit_told(&rig.hear(canvass(1, 1, 640))), None);
    let actions = rig.hear(canvass(1, 2, 640));
    assert_eq!(commit_told(&actions), Some(640));
    assert!(has(&actions, |action| matches!(action, Action::Replay { from: 320, to: 640, .. })));
}

#[test]
fn a_foreign_member_counts_by_its_position() {
    let mut rig = Rig::elected();
    rig.term_written(2);
    assert_eq!(commit_told(&rig.hear(foreign_canvass(1, 1, 640))), Some(640));
}

#[test]
fn waits_do_not_silence_a_leader() {
    // spec 07 §14
    let mut rig = Rig::elected();
    rig.term_written(2);
    rig.hear(canvass(1, 2, 640));
    for completion in [
        Completion::Replayed { position: 640 },
        Completion::Recording { recording_id: 7 },
        Completion::Joined,
    ] {
        let actions = rig.fire(TimerKind::Heartbeat);
        assert!(told(&actions, None).is_some(), "{:?}", rig.state());
        assert_eq!(commit_told(&actions), Some(640), "{:?}", rig.state());
        rig.done(completion);
    }
    assert_eq!(rig.state(), State::LeaderReady);
    assert!(told(&rig.fire(TimerKind::Heartbeat), None).is_some());
}

#[test]
fn who_counts_as_ready() {
    // spec 07 §21. Messages of member 1 in LEADER_READY, and whether the first event is appended.
    let cases: [(&[MemberMessage], bool); 8] = [
        (&[append(1, 2, 640, JOINED_FLAG)], true),
        (&[append(1, 2, 608, JOINED_FLAG)], false),
        (&[append(1, 1, 640, JOINED_FLAG)], false),
        (&[append(1, 2, 640, 0)], false),
        (&[append(1, 2, 640, JOINED_FLAG | CATCHUP_FLAG), canvass(1, 2, 640)], true),
        (&[canvass(1, 2, 640)], false),
        // A foreign member without our flag: its last canvass tells that it is no report of a replication.
        (&[foreign_canvass(1, 1, 640), append(1, 2, 640, 0)], true),
        (&[foreign_canvass(1, 0, 640), append(1, 2, 640, 0)], false),
    ];
    for (messages, is_ready) in cases {
        let mut rig = Rig::elected();
        rig.term_written(2);
        rig.hear(canvass(2, 2, 640));
        rig.reports.own.commit = 640;
        rig.done(Completion::Replayed { position: 640 });
        rig.done(Completion::Recording { recording_id: 7 });
        rig.done(Completion::Joined);
        assert_eq!(rig.state(), State::LeaderReady);
        let mut is_appended = false;
        for message in messages {
            let actions = rig.hear(*message);
            is_appended |= has(&actions, |action| matches!(action, Action::AppendTermEvent { .. }));
        }
        assert_eq!(is_appended, is_ready, "{messages:?}");
    }
}

#[test]
fn a_leader_elect_gives_way() {
    // spec 07 §5
    let cases = [
        (term(1, 3, 640), true),
        (term(1, 1, 640), false),
        (commit(1, 3, 640), true),
        (request(1, 3, (1, 640)), true),
        (request(1, 3, (1, 608)), false),
        (request(1, 2, (1, 9_600)), false),
        (canvass(1, 3, 640), true),
        (canvass(1, 2, 640), false),
    ];
    for (message, gives_way) in cases {
        let mut rig = Rig::elected();
        rig.hear(message);
        assert_eq!(rig.state() == State::Init, gives_way, "{message:?}");
    }
    let mut rig = Rig::voted_for();
    rig.on(Input::Observed(Observation::MemberSilent { member_id: 1 }));
    assert_eq!(rig.state(), State::LeaderLogReplication);
    rig.on(Input::Observed(Observation::MemberSilent { member_id: 2 }));
    assert_eq!(rig.state(), State::Init, "fewer than a quorum are heard");
}

#[test]
fn a_leader_elect_without_progress_gives_way_to_members_that_are_bound() {
    let mut rig = Rig::elected();
    rig.term_written(2);
    let actions = rig.hear(request(1, 7, (1, 320)));
    assert_eq!((votes(&actions), rig.state()), (vec![(1, false)], State::LeaderReplay));
    rig.fire(TimerKind::Stand);
    rig.done(Completion::Prepared);
    assert_eq!((rig.state(), rig.election.candidate_term()), (State::Canvass, 7));
}

#[test]
fn a_steady_leader_answers_each_canvass_with_what_is_missing() {
    // spec 04 §5.5: log term of the member, then the next term with its base and end.
    let cases = [(-1, (0, 0, 320)), (0, (1, 320, 640)), (1, (2, 640, -1)), (2, (-1, -1, -1))];
    let mut rig = Rig::leading();
    rig.reports.own.publication = 960;
    for (log_term, next) in cases {
        let answer = told(&rig.hear(canvass(1, log_term, 320)), Some(1)).unwrap();
        assert_eq!(answer.log_leadership_term_id, log_term);
        let told =
            (answer.next_leadership_term_id, answer.next_term_base_log_position, answer.next_log_position);
        assert_eq!(told, next, "{log_term}");
        assert_eq!((answer.log_position, answer.commit_position), (960, 640));
        assert!(!answer.is_startup);
    }
}

#[test]
fn a_canvass_of_a_later_term_is_judged_by_what_is_committed() {
    // spec 07 §6
    let mut rig = Rig::leading();
    let actions = rig.hear(canvass(1, 3, 608));
    assert!(has(&actions, |action| matches!(action, Action::Record(Reason::LogOutranksCommitted { .. }))));
    assert_eq!(rig.state(), State::Closed);
    let actions = rig.hear(canvass(1, 3, 640));
    assert!(has(&actions, |action| matches!(action, Action::Begun(Reason::CanvassOfLaterTerm { .. }))));
    assert_eq!((rig.state(), rig.election.role()), (State::Init, Role::Follower));
}

#[test]
fn steady_members_enter_elections_for_the_named_reasons() {
    // spec 04 §4.5, spec 07 §17
    let leaves = |mut rig: Rig, input: Input| {
        let actions = rig.on(input);
        actions.iter().find_map(|action| match action {
            Action::Begun(reason) => Some(*reason),
            _ => None,
        })
    };
    let cases = [
        (Input::Trigger(Trigger::LeaderSilent), Reason::LeaderHeartbeatTimeout),
        (Input::Trigger(Trigger::QuorumLost), Reason::InactiveFollowerQuorum),
        (Input::Trigger(Trigger::LogClosed { end_of_stream: true }), Reason::LogDisconnected),
        (Input::Trigger(Trigger::RecordingStopped { end_of_stream: true }), Reason::RecordingStopped),
        (Input::Message(request(2, 3, (0, 0))), Reason::HigherTerm { member_id: 2, term_id: 3 }),
        (Input::Message(term(2, 3, 640)), Reason::HigherTerm { member_id: 2, term_id: 3 }),
        (Input::Message(commit(2, 3, 640)), Reason::HigherTerm { member_id: 2, term_id: 3 }),
    ];
    for (input, reason) in cases {
        assert_eq!(leaves(Rig::leading(), input), Some(reason), "{input:?}");
        assert_eq!(leaves(Rig::following(), input), Some(reason), "{input:?}");
    }
    for message in [request(2, 2, (9, 9_600)), term(2, 2, 0), commit(2, 1, 0), canvass(2, 0, 0)] {
        assert_eq!(leaves(Rig::following(), Input::Message(message)), None, "{message:?}");
    }
}

#[test]
fn catch_up_is_served_from_the_election_on_and_ends_once() {
    // spec 07 §13
    let ask = |term_id| {
        MemberMessage::CatchupPosition(CatchupRequest {
            leadership_term_id: term_id,
            log_position: 640,
            follower_member_id: 1,
        })
    };
    let mut rig = Rig::elected();
    let starts = |actions: &[Action]| {
        has(actions, |action| *action == Action::StartCatchup { member_id: 1, position: 640 })
    };
    assert!(!starts(&rig.hear(ask(1))));
    assert!(starts(&rig.hear(ask(2))));
    let actions = rig.hear(append(1, 2, 640, CATCHUP_FLAG));
    assert!(has(&actions, |action| matches!(
        action,
        Action::Send { to: 1, message: MemberMessage::StopCatchup(_) }
    )));
    // A member that does not lead answers nothing, and INIT stops every replay.
    rig.hear(ask(2));
    let actions = rig.hear(commit(2, 9, 640));
    assert!(has(&actions, |action| *action == Action::StopCatchup { member_id: 1 }));
    assert!(!starts(&rig.hear(ask(2))));
    assert!(rig.hear(append(1, 2, 640, CATCHUP_FLAG)).is_empty());
}
