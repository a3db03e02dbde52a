//! Reports and quorums, and messages that nobody should send (spec 04 §5.3, spec 07 §2, §13, §20).

use super::*;
use crate::codec::{CATCHUP_FLAG, NewLeadershipTerm};

/// Terms of a leader of term 3: 0 to 320, 2 to 640, 3 from there; its log ends at 960.
fn terms() -> Vec<TermRange> {
    let range = |leadership_term_id, base, end| TermRange { leadership_term_id, base: Some(base), end };
    vec![range(0, 0, Some(320)), range(2, 320, Some(640)), range(3, 640, None)]
}

fn reports(members: &[i32]) -> Reports {
    let mut reports = Reports::new(members, 0);
    reports.own.append = 960;
    reports.own.publication = 960;
    reports
}

fn take(reports: &mut Reports, message: MemberMessage) {
    match message {
        MemberMessage::CanvassPosition(own) => reports.on_canvass(&own),
        MemberMessage::AppendPosition(own) => {
            reports.on_append_position(&own, false);
        }
        MemberMessage::CatchupPosition(own) => reports.on_catchup_position(&own),
        other => panic!("not a report: {other:?}"),
    }
}

#[test]
fn positions_count_up_to_where_the_branches_part() {
    // spec 07 §2
    let ask = MemberMessage::CatchupPosition(CatchupRequest {
        leadership_term_id: 3,
        log_position: 640,
        follower_member_id: 1,
    });
    let cases: [(&[MemberMessage], i64); 10] = [
        (&[append(1, 3, 800, 0)], 800),
        (&[append(1, 3, 9_600, 0)], 960),
        (&[canvass(1, 3, 800)], 800),
        (&[canvass(1, 2, 800)], 640),
        (&[canvass(1, 2, 480)], 480),
        (&[canvass(1, 1, 800)], 320),
        (&[canvass(1, 0, 800)], 320),
        (&[append(1, 2, 800, CATCHUP_FLAG)], 640),
        (&[ask, append(1, 2, 800, CATCHUP_FLAG)], 800),
        (&[ask, canvass(1, 2, 800), append(1, 2, 800, CATCHUP_FLAG)], 640),
    ];
    for (messages, expected) in cases {
        let mut reports = reports(&[0, 1, 2]);
        messages.iter().for_each(|message| take(&mut reports, *message));
        assert_eq!(reports.quorum_position(3, &terms()[..]), expected, "{messages:?}");
    }
}

#[test]
fn a_quorum_is_more_than_half_and_active() {
    for (members, quorum) in [(1, 1), (3, 2), (5, 3), (7, 4)] {
        let ids: Vec<i32> = (0..members).collect();
        let mut reports = reports(&ids);
        assert_eq!(reports.quorum(), quorum);
        for member in 1..quorum as i32 {
            assert!(!reports.has_active_quorum());
            assert_eq!(reports.quorum_position(3, &terms()[..]), 0);
            take(&mut reports, append(member, 3, 900 + i64::from(member), 0));
        }
        assert!(reports.has_active_quorum());
        assert_eq!(reports.quorum_position(3, &terms()[..]), if members == 1 { 960 } else { 901 });
        if members > 1 {
            reports.on_silent(1);
            assert!(!reports.has_active_quorum());
            assert_eq!(reports.quorum_position(3, &terms()[..]), 0);
        }
    }
}

#[test]
fn a_leader_elect_tells_nothing_before_its_own_term_is_durable() {
    let mut reports = reports(&[0, 1, 2]);
    take(&mut reports, canvass(1, 3, 960));
    take(&mut reports, canvass(2, 3, 960));
    assert_eq!(reports.commit_position(3, false, &terms()[..]), 0);
    assert_eq!(reports.commit_position(3, true, &terms()[..]), 960);
    take(&mut reports, canvass(1, 2, 960));
    take(&mut reports, canvass(2, 2, 960));
    assert_eq!(reports.commit_position(3, true, &terms()[..]), 0);
    assert_eq!(reports.quorum_position(3, &terms()[..]), 640);
}

#[test]
fn a_catch_up_ends_at_the_end_or_close_to_it_for_long_enough() {
    // spec 07 §13
    let mut reports = reports(&[0, 1, 2]);
    let report = |reports: &mut Reports, position| match append(1, 3, position, CATCHUP_FLAG) {
        MemberMessage::AppendPosition(own) => reports.on_append_position(&own, false),
        _ => false,
    };
    assert!(report(&mut reports, 960), "even without a replay on record");
    let ask = CatchupRequest { leadership_term_id: 3, log_position: 640, follower_member_id: 1 };
    reports.on_catchup_position(&ask);
    for round in 1..=3 {
        let last = reports.own.publication;
        reports.own.publication += 320;
        let ends = report(&mut reports, last);
        assert_eq!(ends, round == 3, "round {round}");
        reports.on_heartbeat();
    }
    // Three reports within one heartbeat do not end it.
    reports.on_catchup_position(&ask);
    for _ in 0..3 {
        let last = reports.own.publication;
        reports.own.publication += 320;
        assert!(!report(&mut reports, last));
    }
}

#[test]
fn forged_messages_change_nothing() {
    let old = NewLeadershipTerm { app_version: semantic_version(2, 0, 0), ..announcement(1, 2, 640) };
    let far = 3 + (1 << 20);
    let cases = [
        (canvass(7, 1, 640), Reason::UnknownMember { member_id: 7 }),
        (request(7, 2, (1, 640)), Reason::UnknownMember { member_id: 7 }),
        (term(7, 2, 640), Reason::UnknownMember { member_id: 7 }),
        (canvass(0, 1, 640), Reason::OwnIdUsed),
        (commit(0, 2, 640), Reason::OwnIdUsed),
        (canvass(1, far, 640), Reason::TermTooHigh { member_id: 1, term_id: far }),
        (request(1, 2, (far, 640)), Reason::TermTooHigh { member_id: 1, term_id: far }),
        (term(1, far, 640), Reason::TermTooHigh { member_id: 1, term_id: far }),
        (commit(1, i64::MAX, 640), Reason::TermTooHigh { member_id: 1, term_id: i64::MAX }),
    ];
    for (message, reason) in cases {
        for mut rig in [Rig::canvassing(), Rig::elected(), Rig::leading(), Rig::following()] {
            let before = rig.election.clone();
            assert_eq!(rig.hear(message), [Action::Record(reason)], "{message:?}");
            assert_eq!(rig.election, before);
        }
    }
    // spec 07 §20: an incompatible application ends the node, whatever the state.
    for mut rig in [Rig::new(), Rig::canvassing(), Rig::leading()] {
        let actions = rig.hear(MemberMessage::NewLeadershipTerm(old));
        assert!(matches!(actions[..], [Action::Fatal(Reason::IncompatibleVersion { member_id: 1, .. })]));
    }
}

#[test]
fn terms_end_before_they_wrap() {
    let node = NodeTerms { candidate: i64::MAX, voted: -1 };
    let mut rig = Rig::with(&[0], node, &[], 0);
    let actions = rig.on(Input::Trigger(Trigger::NodeStarted));
    assert!(has(&actions, |action| *action == Action::Fatal(Reason::TermsExhausted)));
}

#[test]
fn init_hears_nothing() {
    let mut rig = Rig::following();
    rig.on(Input::Trigger(Trigger::LeaderSilent));
    assert_eq!(rig.state(), State::Init);
    let before = rig.election.clone();
    for message in [canvass(1, 2, 640), request(1, 3, (2, 640)), term(1, 3, 640), commit(1, 3, 640)] {
        assert!(rig.hear(message).is_empty(), "{message:?}");
    }
    assert_eq!(rig.election, before);
}

#[test]
fn the_file_is_a_view_of_terms() {
    use crate::recording_log::RecordingLog;
    use harrier_ringbuf::heap::HeapStorage;
    let mut storage = HeapStorage::new();
    let mut log = RecordingLog::open(&mut storage, std::path::Path::new("/c"), None).unwrap();
    assert_eq!((log.last(), log.first_after(-1), log.end_of(0, 64)), (None, None, 64));
    for term in terms() {
        log.ensure_coherent(7, term, (0, 0), 5).unwrap();
    }
    assert_eq!(log.last().map(|term| term.leadership_term_id), Some(3));
    assert_eq!(log.get(1).and_then(|term| term.end), Some(320), "a gap is written as an empty term");
    assert_eq!(log.first_after(0).map(|term| term.leadership_term_id), Some(1));
    assert_eq!((log.end_of(0, 960), log.end_of(2, 960), log.end_of(3, 960)), (320, 640, 960));
}
