//! A few seeds of every area, the same trace for the same seed, and planted bugs that are found.

use harrier_archive::SyncLevel;
use harrier_ringbuf::planted::{self, Bug};
use harrier_sim::area::Area;
use harrier_sim::bugs;
use harrier_sim::election::walk::{Bounds, walk};
use harrier_sim::report::Summary;

fn run(area: Area, sync_level: SyncLevel, seeds: std::ops::Range<u64>) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        summary.add(&area.run(seed, sync_level, false));
    }
    assert!(summary.is_good(), "{}", summary.table("failed", sync_level as u32));
    summary
}

#[test]
fn acknowledged_messages_survive_crashes_of_the_process() {
    let summary = run(Area::Node, SyncLevel::None, 1..13);
    assert_eq!(summary.messages, 12_000);
    for name in ["process crashed", "session went on in a new term", "timer fired", "datagram lost"] {
        assert!(summary.coverage.get(name) > 0, "no {name}");
    }
}

#[test]
fn acknowledged_messages_survive_crashes_of_the_machine() {
    let summary = run(Area::Node, SyncLevel::Data, 1..9);
    run(Area::Node, SyncLevel::All, 100..108);
    for name in ["machine crashed", "crash lost a sector", "crash lost a directory entry"] {
        assert!(summary.coverage.get(name) > 0, "no {name}");
    }
}

#[test]
fn callbacks_wait_while_the_others_go_on() {
    let summary = run(Area::Callback, SyncLevel::None, 1..9);
    for name in ["callback waited", "snapshot finished", "process crashed"] {
        assert!(summary.coverage.get(name) > 0, "no {name}");
    }
}

#[test]
fn what_must_hold_of_leases_holds() {
    let summary = run(Area::Lease, SyncLevel::None, 1..9);
    for name in
        ["claim granted", "claim denied", "lease renewed", "lease extended by a new term", "timer early"]
    {
        assert!(summary.coverage.get(name) > 0, "no {name}");
    }
}

#[test]
fn streams_flow_under_all_faults() {
    let summary = run(Area::Streams, SyncLevel::None, 1..25);
    for name in [
        "data sent again",
        "datagram lost",
        "untethered reader came back",
        "driver killed",
        "datagram to a group of several hosts",
        "NAK of a group answered",
        "publication of answers added",
    ] {
        assert!(summary.coverage.get(name) > 0, "no {name}");
    }
}

#[test]
fn elections_keep_what_is_committed() {
    let summary = run(Area::Election, SyncLevel::None, 1..1_001);
    for name in ["07 §1 lower leader refused", "07 §31 leader's log starts above", "LEADER_READY to CLOSED"]
    {
        assert!(summary.coverage.get(name) > 0, "no {name}");
    }
    assert!(summary.coverage.get("inputs") >= 200 * summary.seeds);
    assert!(summary.coverage.get("elections") >= 2 * summary.seeds);
    assert_eq!(summary.coverage.get("transition that no rule names"), 0);
}

#[test]
fn a_walk_finds_two_leaders_of_a_term() {
    let bounds = Bounds { states: 20_000, depth: 8 };
    let walked = walk(&bounds);
    assert_eq!(walked.failure, None);
    assert!(walked.states > 10_000 && walked.depth >= 4, "{}", walked.line());
    planted::plant(Some(Bug::MinorityElected));
    let walked = walk(&bounds);
    planted::plant(None);
    assert!(walked.failure.is_some(), "{}", walked.line());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (area, level) in [
        (Area::Node, SyncLevel::Data),
        (Area::Callback, SyncLevel::None),
        (Area::Lease, SyncLevel::None),
        (Area::Streams, SyncLevel::None),
        (Area::Election, SyncLevel::None),
    ] {
        for seed in 20..23 {
            let (first, second) = (area.run(seed, level, false), area.run(seed, level, false));
            assert_eq!(first.trace_hash, second.trace_hash, "{area:?} seed {seed}");
            assert_ne!(first.trace_hash, area.run(seed + 1_000, level, false).trace_hash);
        }
    }
}

#[test]
fn planted_bugs_are_found() {
    // These two take long; the bugs command finds them.
    let takes_long = |bug: &Bug| matches!(bug, Bug::TornCatalogEntry | Bug::ImageOutlivesSender);
    for bug in Bug::ALL.into_iter().filter(|bug| !takes_long(bug)) {
        // A queue that is not empty at a snapshot is rare.
        let seeds = if bugs::area_of(bug) == Area::Election { 500 } else { 300 };
        let found = bugs::find(bug, 1, seeds);
        assert!(found.is_some(), "{} was not found", bug.name());
    }
}
