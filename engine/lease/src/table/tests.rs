use std::collections::BTreeSet;

use harrier_cluster::codec::TimeUnit;

use super::*;
use crate::codec::{AnswerCode, Event, Process, Request};

mod model;

const MS: i64 = 1_000_000;

fn small() -> LeaseSettings {
    LeaseSettings { max_leases: 4, max_waiters: 4, max_pins: 3, ..LeaseSettings::default() }
}

fn table() -> LeaseTable {
    let mut table = LeaseTable::new(small()).unwrap();
    table.on_new_term(1_000, TimeUnit::Millis);
    table
}

fn claim<'a>(application: &'a str, unit: &'a str, ms: i64) -> Request<'a> {
    claim_by(7, application, unit, ms)
}

/// A claim of the process with an id.
fn claim_by<'a>(id: u64, application: &'a str, unit: &'a str, ms: i64) -> Request<'a> {
    let process = Process { id, started_ms: 5, name: "pid 1 on host" };
    Request::Claim { correlation_id: 1, duration_ns: ms * MS, application, unit, process }
}

/// Returns code, token and expiry of an answer.
fn told(outcome: Outcome) -> (AnswerCode, u64, i64) {
    match outcome {
        Outcome::Answer { code, token, expiry, .. } => (code, token, expiry),
        Outcome::UnitHeld { token, expiry, .. } => (AnswerCode::UnitHeld, token, expiry),
        other => panic!("{other:?}"),
    }
}

fn records(table: &LeaseTable) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut put = |record: &crate::codec::Record<'_>| {
        let mut buffer = vec![0; crate::codec::MAX_MESSAGE_LENGTH];
        let length = record.encode(&mut buffer).unwrap();
        buffer.truncate(length);
        messages.push(buffer);
        Ok::<(), ()>(())
    };
    let records = table.write_records(0, &mut put).unwrap();
    put(&crate::codec::Record::End { records }).unwrap();
    messages
}

fn restored(settings: LeaseSettings, messages: &[Vec<u8>]) -> Result<LeaseTable, SnapshotStateError> {
    let mut table = LeaseTable::new(settings).unwrap();
    let mut reader = TableReader::default();
    for message in messages {
        reader.on_record(&mut table, message, &mut |_| Ok(()))?;
    }
    reader.finish()?;
    Ok(table)
}

#[test]
fn a_lease_lasts_its_duration_and_the_allowance_rounded_up() {
    // Spec 05 L22: 1.5 ms are 2 units, and a thousandth of them is at least 1 unit; one more unit is added because
    // timestamps are rounded down.
    let mut table = table();
    let request = Request::Claim {
        correlation_id: 1,
        duration_ns: MS + MS / 2,
        application: "a",
        unit: "a/0",
        process: Process::UNNAMED,
    };
    assert_eq!(told(table.apply(32, &request).0), (AnswerCode::Granted, 32, 1_004));
    let answer = told(table.apply(64, &claim("b", "b/0", 2_001)).0);
    assert_eq!(answer, (AnswerCode::Granted, 64, 1_000 + 2_001 + 4));
    table.advance(1_003);
    assert!(table.is_current("a", 32));
    table.advance(1_004);
    assert!(!table.is_current("a", 32), "spec 05 L5: over at its expiry");
}

#[test]
fn a_holder_extends_and_another_is_denied() {
    let mut table = table();
    assert_eq!(told(table.apply(32, &claim("a", "a/0", 1_000)).0), (AnswerCode::Granted, 32, 2_002));
    assert_eq!(told(table.apply(64, &claim("a", "a/1", 9_000)).0), (AnswerCode::Denied, 32, 2_002));
    table.advance(1_500);
    // Spec 05 L4: the token is the same, and the expiry never moves earlier.
    assert_eq!(told(table.apply(96, &claim("a", "a/0", 10)).0), (AnswerCode::Granted, 32, 2_002));
    assert_eq!(told(table.apply(96, &claim("a", "a/0", 1_000)).0), (AnswerCode::Granted, 32, 2_502));
    // Spec 05 L5: the lease is over before its timer fires. A new tenure begins, also for the same unit, and the end
    // of the old one is reported.
    table.advance(2_502);
    let (outcome, effects) = table.apply(128, &claim("a", "a/0", 1_000));
    assert_eq!(told(outcome), (AnswerCode::Granted, 128, 3_504));
    assert_eq!(effects.ended, Some(EndedTenure { slot: 0, token: 32 }));
}

#[test]
fn a_short_extension_does_not_shorten_what_a_new_term_gives() {
    // Spec 05 L4 and L11: the guarantee of 60 s is kept although 1 s was claimed after it.
    let mut table = table();
    table.apply(32, &claim("a", "a/0", 60_000));
    table.advance(2_000);
    table.apply(64, &claim("a", "a/0", 1_000));
    table.on_new_term(500_000, TimeUnit::Millis);
    table.advance(500_000 + 60_060);
    assert!(table.is_current("a", 32));
    table.advance(500_000 + 60_061);
    assert!(!table.is_current("a", 32));
}

#[test]
fn a_new_term_gives_each_live_lease_its_duration_again() {
    // Spec 05 L11: a new leader with a fast clock deposes no holder, and an expired lease stays expired.
    let mut table = table();
    table.apply(32, &claim("a", "a/0", 1_000));
    table.apply(64, &claim("b", "b/0", 10_000));
    table.advance(2_002);
    table.on_new_term(1_000_000, TimeUnit::Millis);
    assert_eq!((table.current_token("a"), table.current_token("b")), (0, 64));
    let expiry = told(table.apply(96, &claim("b", "b/1", 1)).0).2;
    assert_eq!(expiry, 1_010_011);
    // The expiry never moves earlier, and time never steps back (spec 05 L22).
    table.on_new_term(5, TimeUnit::Millis);
    assert_eq!(told(table.apply(96, &claim("b", "b/1", 1)).0).2, 1_010_011);
    assert_eq!(table.time(), 1_000_000);
}

#[test]
fn release_ends_a_tenure_once() {
    let mut table = table();
    table.apply(32, &claim("a", "a/0", 1_000));
    let release = |token, unit| Request::Release { correlation_id: 1, token, application: "a", unit };
    assert_eq!(told(table.apply(64, &release(31, "a/0")).0), (AnswerCode::Stale, 32, 0));
    assert_eq!(told(table.apply(64, &release(32, "a/1")).0), (AnswerCode::Stale, 32, 0));
    let (outcome, effects) = table.apply(64, &release(32, "a/0"));
    assert_eq!(told(outcome), (AnswerCode::Released, 32, 0));
    assert_eq!(effects.ended, Some(EndedTenure { slot: 0, token: 32 }));
    // The request is idempotent (spec 05 L8).
    let (outcome, effects) = table.apply(96, &release(32, "a/0"));
    assert_eq!((told(outcome).0, effects), (AnswerCode::Released, Effects::default()));
    assert!(table.is_empty());
    table.apply(128, &claim("a", "a/1", 1_000));
    assert_eq!(told(table.apply(160, &release(32, "a/0")).0), (AnswerCode::Stale, 128, 0));
    assert_eq!(table.holder("a"), Some(("a/1", 128)));
}

#[test]
fn pins_keep_a_lease_from_expiring() {
    let mut table = table();
    let pin = |entity| Request::Pin { correlation_id: 1, application: "a", entity };
    let unpin = |entity| Request::Unpin { correlation_id: 1, application: "a", entity };
    // A pin without a holder applies to the next holder.
    assert_eq!(told(table.apply(32, &pin("m")).0).0, AnswerCode::Pinned);
    assert_eq!(told(table.apply(32, &pin("m")).0).0, AnswerCode::Pinned);
    assert_eq!(told(table.apply(64, &claim("a", "a/0", 100)).0), (AnswerCode::Granted, 64, NEVER));
    table.apply(96, &pin("n"));
    table.advance(10_000);
    assert!(table.is_current("a", 64));
    assert_eq!(told(table.apply(128, &claim("a", "a/1", 100)).0), (AnswerCode::Denied, 64, NEVER));
    // The timer finds the lease alive and is not set again: there is no end to wait for.
    assert_eq!(table.on_timer(TIMER_BASE), Some(Effects::default()));
    assert_eq!(table.apply(160, &unpin("m")).1, Effects::default());
    // Removing the last pin evaluates the expiry immediately.
    let (outcome, effects) = table.apply(192, &unpin("n"));
    assert_eq!(told(outcome).0, AnswerCode::Unpinned);
    assert_eq!(effects.ended, Some(EndedTenure { slot: 0, token: 64 }));
    assert_eq!(told(table.apply(224, &unpin("n")).0).0, AnswerCode::Unpinned);
    assert!(table.is_empty());
    // With time left, the timer ends the lease later.
    table.apply(256, &pin("m"));
    table.apply(288, &claim("a", "a/0", 100));
    table.on_timer(TIMER_BASE);
    let effects = table.apply(320, &unpin("m")).1;
    assert_eq!((effects.ended, effects.timer), (None, None), "the claim has set it");
    table.advance(10_102);
    assert_eq!(table.on_timer(TIMER_BASE).unwrap().ended, Some(EndedTenure { slot: 0, token: 288 }));
}

#[test]
fn limits_say_which_one_was_reached() {
    let mut table = table();
    for name in ["a", "b", "c", "d"] {
        assert_eq!(told(table.apply(32, &claim(name, "x/0", 1_000)).0).0, AnswerCode::Granted);
    }
    let (outcome, _) = table.apply(64, &claim("e", "x/0", 1_000));
    let Outcome::Answer { code: AnswerCode::TooManyLeases, limit: 4, detail: "max_leases", .. } = outcome
    else {
        panic!("{outcome:?}");
    };
    for entity in ["1", "2", "3"] {
        table.apply(96, &Request::Pin { correlation_id: 1, application: "a", entity });
    }
    let (outcome, _) = table.apply(96, &Request::Pin { correlation_id: 1, application: "b", entity: "4" });
    let Outcome::Answer { code: AnswerCode::TooManyPins, limit: 3, detail: "max_pins", .. } = outcome else {
        panic!("{outcome:?}");
    };
    let again = Request::Pin { correlation_id: 1, application: "a", entity: "2" };
    assert_eq!(told(table.apply(96, &again).0).0, AnswerCode::Pinned);
    // A lease that is over makes room when its timer fires.
    table.advance(5_000);
    table.on_timer(TIMER_BASE + 1).unwrap();
    assert_eq!(told(table.apply(128, &claim("e", "x/0", 1_000)).0).0, AnswerCode::Granted);
}

#[test]
fn bad_input_is_refused_with_the_field() {
    let mut table = table();
    for (request, field) in [
        (claim("", "a/0", 10), "application"),
        (claim("a b", "a/0", 10), "application"),
        (claim("a", "", 10), "unit"),
        (claim("a", "a/0", 0), "duration"),
        (claim("a", "a/0", 86_400_001), "duration"),
        (Request::Pin { correlation_id: 1, application: "a", entity: "\n" }, "entity"),
        (Request::List { correlation_id: 1, cursor: -1 }, "cursor"),
        (Request::Pinned { correlation_id: 1, cursor: -1 }, "cursor"),
        (Request::Wait { correlation_id: 1, token: 0, application: "" }, "application"),
    ] {
        let (outcome, effects) = table.apply(32, &request);
        let Outcome::Answer { code: AnswerCode::Invalid, detail, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(detail.starts_with(field), "{detail}");
        assert_eq!(effects, Effects::default());
    }
    assert!(table.is_empty());
}

#[test]
fn timers_are_set_again_only_when_they_must() {
    // Spec 05 L21.
    let mut table = table();
    let timer =
        |effects: Effects| effects.timer.map(|timer| (timer.correlation_id - TIMER_BASE, timer.deadline));
    assert_eq!(timer(table.apply(32, &claim("a", "a/0", 1_000)).1), Some((0, 2_002)));
    table.advance(1_500);
    assert_eq!(timer(table.apply(64, &claim("a", "a/0", 1_000)).1), None, "it fires early enough");
    let release = Request::Release { correlation_id: 1, token: 32, application: "a", unit: "a/0" };
    table.apply(96, &release);
    assert_eq!(
        timer(table.apply(128, &claim("b", "b/0", 1_000)).1),
        None,
        "the slot's timer serves the next"
    );
    table.apply(160, &Request::Release { correlation_id: 1, token: 128, application: "b", unit: "b/0" });
    assert_eq!(timer(table.apply(192, &claim("c", "c/0", 100)).1), Some((0, 1_602)), "it would be late");
    table.apply(224, &claim("c", "c/0", 1_000));
    // The timer fires early, as after a change of leader. The lease is alive, so the timer is set again.
    assert_eq!(timer(table.on_timer(TIMER_BASE).unwrap()), Some((0, 2_502)));
    table.advance(2_502);
    let effects = table.on_timer(TIMER_BASE).unwrap();
    assert_eq!((effects.ended.unwrap().token, effects.timer), (192, None));
    assert_eq!(table.on_timer(TIMER_BASE), Some(Effects::default()), "for a lease that is gone");
    assert_eq!(table.on_timer(TIMER_BASE + 4), Some(Effects::default()), "beyond the limit");
    assert_eq!((table.on_timer(0), table.on_timer(-1), table.on_timer(i64::MIN)), (None, None, None));
}

#[test]
fn pages_list_everything_once() {
    let settings = LeaseSettings { max_leases: 300, max_pins: 300, ..LeaseSettings::default() };
    let mut table = LeaseTable::new(settings).unwrap();
    table.on_new_term(1_000, TimeUnit::Millis);
    let names: Vec<String> = (0..200).map(|number| format!("application-{number}")).collect();
    for (index, name) in names.iter().enumerate() {
        table.apply(32 + index as i64, &claim(name, "unit/0", 1_000));
        table.apply(32, &Request::Pin { correlation_id: 1, application: name, entity: "e" });
    }
    let mut buffer = vec![0; 1_000];
    let (mut listed, mut pinned, mut from) = (BTreeSet::new(), BTreeSet::new(), 0);
    while let Ok(cursor) = usize::try_from(from) {
        let length = table.write_leases(cursor, 7, &mut buffer);
        let Ok(Event::Leases { correlation_id: 7, time: 1_000, next_cursor, entries, .. }) =
            Event::decode(&buffer[..length])
        else {
            panic!();
        };
        from = next_cursor;
        for entry in entries {
            assert_eq!((entry.unit, entry.pins, entry.expiry), ("unit/0", 1, NEVER));
            assert!(listed.insert(entry.application.to_owned()));
        }
    }
    from = 0;
    while let Ok(cursor) = usize::try_from(from) {
        let length = table.write_pins(cursor, 7, &mut buffer);
        let Ok(Event::Pins { next_cursor, entries, .. }) = Event::decode(&buffer[..length]) else { panic!() };
        from = next_cursor;
        pinned.extend(entries.map(|entry| entry.application.to_owned()));
    }
    let names: BTreeSet<String> = names.into_iter().collect();
    assert_eq!((listed, pinned), (names.clone(), names));
}

#[test]
fn another_time_unit_converts_all_times() {
    let mut table = table();
    table.apply(32, &claim("a", "a/0", 1_000));
    table.on_new_term(1_000_000, TimeUnit::Micros);
    assert_eq!(told(table.apply(64, &claim("a", "a/1", 1)).0).2, 2_002_000);
    table.on_new_term(0, TimeUnit::Millis);
    assert_eq!(told(table.apply(64, &claim("a", "a/1", 1)).0).2, 2_002);
}

#[test]
fn snapshots_that_cannot_be_are_refused() {
    let mut table = table();
    table.apply(32, &claim("a", "a/0", 1_000));
    table.apply(64, &claim("b", "b/0", 1_000));
    table.apply(96, &Request::Pin { correlation_id: 1, application: "b", entity: "e" });
    let good = records(&table);
    assert_eq!(records(&restored(small(), &good).unwrap()), good);
    // The records are cut short anywhere, between records and within one.
    for length in 0..good.len() {
        assert_eq!(restored(small(), &good[..length]).err(), Some(SnapshotStateError::Cut(length as i64)));
        let mut cut = good.clone();
        cut[length].pop();
        assert!(matches!(restored(small(), &cut), Err(SnapshotStateError::Undecodable { .. })));
        let mut missing = good.clone();
        missing.remove(length);
        assert!(restored(small(), &missing).is_err(), "{length}");
        let mut twice = good.clone();
        twice.insert(length, good[length].clone());
        assert!(restored(small(), &twice).is_err(), "{length}");
        if length > 0 {
            let mut swapped = good.clone();
            swapped.swap(length - 1, length);
            assert!(restored(small(), &swapped).is_err(), "{length}");
        }
        let mut newer = good.clone();
        newer[length][6] = 3;
        let error = restored(small(), &newer).err().unwrap();
        assert!(error.to_string().contains("version 3 instead of 2"), "{error}");
    }
    let one = LeaseSettings { max_leases: 1, ..small() };
    let error = restored(one, &good).err().unwrap().to_string();
    assert!(error.contains("2 leases") && error.contains("max_leases=1"), "{error}");
}

#[test]
fn l23_only_the_process_that_holds_a_unit_extends_its_lease() {
    let mut table = table();
    let (outcome, _) = table.apply(32, &claim_by(7, "a", "a/0", 100));
    assert_eq!(told(outcome).0, AnswerCode::Granted);
    table.advance(1_050);
    let (outcome, effects) = table.apply(64, &claim_by(8, "a", "a/0", 500));
    assert_eq!(told(outcome), (AnswerCode::UnitHeld, 32, 1_102));
    assert_eq!(effects, Effects::default(), "a refused claim changes nothing");
    let Outcome::UnitHeld { slot, .. } = outcome else { panic!() };
    assert_eq!(table.process_at(slot), (Process { id: 7, started_ms: 5, name: "pid 1 on host" }, 1_000));
    // Another unit is denied for any process.
    assert_eq!(told(table.apply(96, &claim_by(7, "a", "a/1", 100)).0).0, AnswerCode::Denied);
    // The holder extends, and the next refusal shows that it is alive.
    assert_eq!(told(table.apply(128, &claim_by(7, "a", "a/0", 100)).0), (AnswerCode::Granted, 32, 1_152));
    assert_eq!(table.process_at(slot).1, 1_050);
    // A snapshot keeps the process.
    let restored = restored(small(), &records(&table)).unwrap();
    assert_eq!(restored.process_at(slot), table.process_at(slot));
    // Once the lease is over, the other process begins a tenure of its own.
    table.advance(1_152);
    assert_eq!(told(table.apply(160, &claim_by(8, "a", "a/0", 100)).0).1, 160);
    assert_eq!(table.process_at(slot).0.id, 8);
}

#[test]
fn l23_the_name_of_a_process_has_a_limit() {
    let name = "x".repeat(129);
    let process = Process { id: 1, started_ms: 0, name: &name };
    let request =
        Request::Claim { correlation_id: 1, duration_ns: MS, application: "a", unit: "a/0", process };
    let (outcome, _) = table().apply(32, &request);
    let Outcome::Answer { code: AnswerCode::Invalid, detail, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(detail, "process: at most 128 bytes");
}
