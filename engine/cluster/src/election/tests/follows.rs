//! Following a leader (spec 04 §5.2 states 9 to 16, §5.4, spec 07 §1, §3, §4, §11, §12, §20, §31).

use super::*;
use crate::codec::NewLeadershipTerm;

#[test]
fn what_an_announcement_asks_for() {
    let log = LogEnd { term: 1, append: 640, fixed: 320 };
    let base = announcement(1, 4, 640);
    let with = |log_term, next, next_base, next_end, term_base| NewLeadershipTerm {
        log_leadership_term_id: log_term,
        next_leadership_term_id: next,
        next_term_base_log_position: next_base,
        next_log_position: next_end,
        term_base_log_position: term_base,
        ..base
    };
    let cases = [
        (with(0, 1, 320, 640, 960), Course::Recanvass),
        (with(1, 4, 640, -1, 640), Course::Replay),
        (with(1, 2, 480, 960, 960), Course::Truncate { to: 480 }),
        // spec 07 §3
        (with(1, 2, 288, 960, 960), Course::RefuseTruncation { at: 288 }),
        (with(1, 2, 320, 960, 960), Course::Truncate { to: 320 }),
        (with(1, 2, 960, 1_280, 1_280), Course::Replicate { term: 1, base: None, stop: 960 }),
        (with(1, 2, 640, 960, 960), Course::Replicate { term: 2, base: Some(640), stop: 960 }),
        (with(1, 2, 640, 640, 960), Course::Replicate { term: 2, base: Some(640), stop: 640 }),
        (with(1, 2, 640, -1, 960), Course::Stay),
        (with(1, -1, -1, -1, 960), Course::NextTermUnknown),
        // Forged: a term that does not follow, and an end before its begin.
        (with(1, 5, 640, 960, 960), Course::NextTermUnknown),
        (with(1, 2, 640, 608, 960), Course::NextTermUnknown),
    ];
    for (message, expected) in cases {
        assert_eq!(course(log, &message), expected, "{message:?}");
    }
    // A fresh member begins with the leader's first term, and never writes a negative one (spec 07 §31).
    let fresh = LogEnd { term: -1, append: 0, fixed: 0 };
    let first = with(-1, 0, 0, 320, 640);
    assert_eq!(course(fresh, &first), Course::Replicate { term: 0, base: Some(0), stop: 320 });
    assert_eq!(course(fresh, &with(-1, 3, 320, 640, 640)), Course::StartsAbove { start: 320 });
    let unrecorded = NewLeadershipTerm { leader_recording_id: -1, ..first };
    assert_eq!(course(fresh, &unrecorded), Course::Stay);
}

#[test]
fn a_lower_leader_is_refused_and_then_disturbed() {
    // spec 07 §1
    let mut rig = Rig::bound_to(3);
    rig.on(Input::Trigger(Trigger::NodeStarted));
    let actions = rig.hear(term(1, 2, 640));
    assert!(has(&actions, |action| matches!(
        action,
        Action::Record(Reason::LowerLeaderRefused { term_id: 2, bound: 3, .. })
    )));
    assert!(!has(&actions, |action| *action == Action::LeaderHeard), "spec 07 §15");
    assert_eq!((rig.state(), rig.election.leader()), (State::Canvass, None));
    // An adequate leader stops the clock; without one the member stands at once.
    rig.hear(commit(2, 3, 640));
    assert!(!rig.election.is_timer_running(TimerKind::Stand));
    rig.hear(term(1, 2, 640));
    rig.fire(TimerKind::Stand);
    let actions = rig.persisted();
    assert_eq!((rig.state(), rig.election.candidate_term()), (State::CandidateBallot, 4));
    assert!(has(&actions, |action| matches!(
        action,
        Action::Send { message: MemberMessage::RequestVote(RequestVote { candidate_term_id: 4, .. }), .. }
    )));
}

#[test]
fn a_member_that_lacks_committed_entries_disturbs_without_winning() {
    // spec 07 §1 and §6 together
    let mut rig = Rig::bound_to(3);
    rig.reports.own.notified = 960;
    rig.on(Input::Trigger(Trigger::NodeStarted));
    rig.hear(term(1, 2, 640));
    rig.fire(TimerKind::Stand);
    rig.persisted();
    assert_eq!(rig.state(), State::CandidateBallot);
    rig.hear(vote(1, 4, true, (1, 640)));
    rig.hear(vote(2, 4, true, (1, 640)));
    rig.fire(TimerKind::Ballot);
    assert_eq!(rig.state(), State::Canvass);
}

#[test]
fn committed_entries_are_not_truncated() {
    // spec 07 §3
    let mut rig = Rig::canvassing();
    let actions = rig.hear(term(1, 2, 288));
    assert!(has(&actions, |action| matches!(
        action,
        Action::Fatal(Reason::CommittedWouldBeTruncated { position: 288, commit: 320, .. })
    )));
    let mut rig = Rig::canvassing();
    let actions = rig.hear(term(1, 2, 480));
    assert!(has(&actions, |action| matches!(action, Action::Truncate { term_id: 1, position: 480, .. })));
    assert_eq!(rig.state(), State::Init);
    rig.reports.own.append = 480;
    rig.terms[1].end = Some(480);
    let actions = rig.done(Completion::Truncated { position: 480 });
    assert!(has(&actions, |action| matches!(action, Action::Prepare { .. })));
    rig.done(Completion::Prepared);
    assert_eq!((rig.state(), rig.election.log_term()), (State::Canvass, 1));
    // What can be restored is a bound, too.
    let mut rig = Rig::canvassing();
    rig.reports.own.floor = 512;
    assert!(has(&rig.hear(term(1, 2, 480)), |action| matches!(action, Action::Fatal(_))));
}

#[test]
fn a_term_is_written_before_its_first_byte() {
    // spec 07 §4: before a replication, and before a join.
    let mut rig = Rig::canvassing();
    let message = NewLeadershipTerm {
        next_leadership_term_id: 2,
        next_term_base_log_position: 640,
        next_log_position: 960,
        ..announcement(1, 4, 960)
    };
    let actions = rig.hear(MemberMessage::NewLeadershipTerm(message));
    assert!(has(&actions, |action| matches!(action, Action::WriteTerm { term_id: 2, base: 640, .. })));
    assert!(!has(&actions, |action| matches!(action, Action::Replicate { .. })));
    let actions = rig.term_written(2);
    assert!(has(&actions, |action| matches!(
        action,
        Action::Replicate { source: 1, recording_id: 3, stop: 960, .. }
    )));
    rig.reports.own.append = 960;
    let actions = rig.done(Completion::Replicated { position: 960 });
    assert!(has(&actions, |action| matches!(action, Action::CloseTerm { term_id: 2, position: 960, .. })));
    rig.terms[2].end = Some(960);
    rig.done(Completion::TermWritten { term_id: 2 });
    assert_eq!((rig.state(), rig.election.log_term()), (State::Canvass, 2));

    let mut rig = Rig::canvassing();
    let actions = rig.hear(term(1, 2, 640));
    assert!(has(&actions, |action| matches!(action, Action::WriteTerm { term_id: 2, base: 640, .. })));
    assert!(
        !has(&actions, |action| matches!(action, Action::Send { .. })),
        "nothing vouches for the term yet"
    );
    let actions = rig.term_written(2);
    assert!(has(&actions, |action| matches!(
        action,
        Action::Send {
            to: 1,
            message: MemberMessage::CanvassPosition(CanvassPosition { log_leadership_term_id: 2, .. })
        }
    )));
}

#[test]
fn a_leader_of_another_make_does_not_take_a_sign_of_life_for_a_join() {
    // spec 07 §21
    let mut rig = Rig::canvassing();
    rig.hear(foreign_canvass(1, 1, 640));
    rig.hear(term(1, 2, 640));
    let actions = rig.term_written(2);
    assert!(has(&actions, |action| matches!(
        action,
        Action::Send {
            to: 1,
            message: MemberMessage::CanvassPosition(CanvassPosition { log_leadership_term_id: 1, .. })
        }
    )));
}

#[test]
fn a_replication_that_ends_early_or_stalls_begins_anew() {
    // spec 07 §12
    for is_stalled in [false, true] {
        let mut rig = Rig::canvassing();
        let message = NewLeadershipTerm {
            next_leadership_term_id: 2,
            next_log_position: 960,
            ..announcement(1, 4, 640)
        };
        let message = NewLeadershipTerm { term_base_log_position: 960, ..message };
        rig.hear(MemberMessage::NewLeadershipTerm(message));
        rig.term_written(2);
        rig.on(Input::Observed(Observation::Replicating { position: 704 }));
        if is_stalled {
            rig.fire(TimerKind::Progress);
        } else {
            rig.done(Completion::Replicated { position: 704 });
        }
        assert_eq!(rig.state(), State::Init);
        rig.done(Completion::Prepared);
        assert_eq!(rig.state(), State::Canvass);
    }
}

#[test]
fn a_purged_leader_is_not_asked_again() {
    // spec 07 §31
    let mut rig = Rig::canvassing();
    let message = NewLeadershipTerm { next_log_position: 960, ..announcement(1, 4, 640) };
    let message = NewLeadershipTerm {
        next_leadership_term_id: 2,
        term_base_log_position: 960,
        log_position: 960,
        ..message
    };
    rig.hear(MemberMessage::NewLeadershipTerm(message));
    rig.term_written(2);
    rig.done(Completion::SourceStartsAbove { position: 800 });
    rig.done(Completion::Prepared);
    let epoch = rig.election.epoch();
    let again = NewLeadershipTerm { log_leadership_term_id: 2, ..message };
    let again = NewLeadershipTerm { next_leadership_term_id: 4, next_term_base_log_position: 960, ..again };
    for _ in 0..5 {
        rig.hear(MemberMessage::NewLeadershipTerm(again));
    }
    assert_eq!((rig.state(), rig.election.epoch()), (State::Canvass, epoch));
    assert_eq!(rig.election.leader(), Some(1));
}

#[test]
fn a_replay_stops_at_the_commit_position() {
    // spec 07 §11
    let mut rig = Rig::canvassing();
    rig.hear(term(1, 2, 640));
    rig.term_written(2);
    let actions = rig.hear(commit(1, 2, 480));
    assert!(has(&actions, |action| matches!(action, Action::Replay { from: 320, to: 480, .. })));
    rig.reports.own.commit = 480;
    rig.done(Completion::Replayed { position: 480 });
    assert_eq!(rig.state(), State::FollowerReplay);
    let actions = rig.hear(commit(1, 2, 960));
    assert!(has(&actions, |action| matches!(action, Action::Replay { from: 480, to: 640, .. })));
    rig.fire(TimerKind::Progress);
    assert_eq!(rig.state(), State::Init);
}

#[test]
fn a_follower_that_hears_nothing_while_it_waits_canvasses_again() {
    // spec 07 §11
    let mut rig = Rig::canvassing();
    rig.hear(term(1, 2, 640));
    rig.term_written(2);
    rig.fire(TimerKind::Deadline);
    assert_eq!(rig.state(), State::Canvass);
}

#[test]
fn a_log_that_begins_elsewhere_is_not_joined() {
    // spec 04 §5.10
    let mut rig = Rig::canvassing();
    rig.reports.own.commit = 640;
    rig.hear(term(1, 2, 640));
    rig.term_written(2);
    assert_eq!(rig.state(), State::FollowerLogInit);
    rig.done(Completion::Subscribed);
    let actions = rig.done(Completion::ImageAvailable { join_position: 672 });
    assert!(has(&actions, |action| matches!(action, Action::Record(Reason::JoinPositionDiffers { .. }))));
    assert_eq!(rig.state(), State::Init);
}

#[test]
fn a_catch_up_ends_when_the_leader_says_so_and_all_is_read() {
    // spec 07 §13
    let mut rig = Rig::canvassing();
    rig.reports.own.commit = 640;
    let behind = NewLeadershipTerm { log_position: 960, commit_position: 960, ..announcement(1, 2, 640) };
    rig.hear(MemberMessage::NewLeadershipTerm(behind));
    rig.term_written(2);
    assert_eq!(rig.state(), State::FollowerCatchupInit);
    let actions = rig.done(Completion::Subscribed);
    assert!(has(&actions, |action| matches!(
        action,
        Action::Send {
            to: 1,
            message: MemberMessage::CatchupPosition(CatchupRequest { log_position: 640, .. })
        }
    )));
    rig.done(Completion::ImageAvailable { join_position: 640 });
    rig.done(Completion::Recording { recording_id: 7 });
    assert_eq!(rig.election.consume_limit(&rig.reports.own), None, "spec 07 §9");
    rig.done(Completion::Joined);
    assert_eq!(rig.state(), State::FollowerCatchup);
    rig.reports.own.append = 960;
    let actions = rig.on(Input::Observed(Observation::Appended));
    assert!(has(&actions, |action| matches!(
        action,
        Action::Send { message: MemberMessage::AppendPosition(AppendPosition { flags: 1, .. }), .. }
    )));
    assert_eq!(rig.election.consume_limit(&rig.reports.own), Some(960));
    rig.reports.own.commit = 928;
    let actions = rig.on(Input::Observed(Observation::Consumed));
    assert!(has(&actions, |action| matches!(action, Action::AddLiveDestination { .. })));
    rig.done(Completion::LiveDestinationAdded);
    rig.reports.own.commit = 960;
    rig.on(Input::Observed(Observation::Consumed));
    assert_eq!(rig.state(), State::FollowerCatchup);
    let stop = crate::codec::StopCatchup { leadership_term_id: 2, follower_member_id: 0 };
    rig.reports.own.is_snapshotting = true;
    rig.hear(MemberMessage::StopCatchup(stop));
    assert_eq!(rig.state(), State::FollowerCatchup, "spec 07 §28");
    rig.reports.own.is_snapshotting = false;
    let actions = rig.on(Input::Observed(Observation::Consumed));
    assert_eq!(rig.state(), State::Closed);
    assert!(has(&actions, |action| matches!(
        action,
        Action::Send {
            message: MemberMessage::AppendPosition(AppendPosition { flags: JOINED_FLAG, .. }),
            ..
        }
    )));
}

#[test]
fn a_follower_gives_way_to_a_higher_leader_in_every_state() {
    // spec 07 §20, spec 04 §4.5
    for message in [term(2, 3, 640), commit(2, 3, 640)] {
        let mut rig = Rig::canvassing();
        rig.hear(term(1, 2, 640));
        rig.term_written(2);
        rig.hear(message);
        assert_eq!(rig.state(), State::Init);
        let mut rig = Rig::following();
        let actions = rig.hear(message);
        assert!(has(&actions, |action| matches!(
            action,
            Action::Begun(Reason::HigherTerm { term_id: 3, .. })
        )));
    }
}

#[test]
fn late_completions_are_ignored() {
    let mut rig = Rig::canvassing();
    rig.hear(term(1, 2, 640));
    rig.term_written(2);
    let old = rig.election.epoch();
    rig.hear(term(2, 3, 640));
    let before = rig.election.clone();
    for completion in [Completion::Prepared, Completion::Joined, Completion::Failed] {
        rig.on(Input::Done(Done { epoch: old, completion }));
    }
    assert_eq!(rig.election, before);
    rig.done(Completion::Prepared);
    assert_eq!(rig.state(), State::Canvass);
}
