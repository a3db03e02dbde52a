use std::collections::{BTreeMap, BTreeSet};

use harrier_cluster::codec::TimeUnit;
use proptest::prelude::*;

use super::*;
use crate::codec::{AnswerCode, Event, Request};

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
    Request::Claim { correlation_id: 1, duration_ns: ms * MS, application, unit }
}

/// Code, token and expiry of an answer.
fn told(outcome: Outcome) -> (AnswerCode, u64, i64) {
    match outcome {
        Outcome::Answer { code, token, expiry, .. } => (code, token, expiry),
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
    // Spec 05 L22: 1.5 ms are 2 units, their thousandth is at least 1. One more for what 1,000 does not tell: claimed at
    // 1,000.9 ms and over at 2,001 ms, 1,000 ms would have lasted less than a thousandth longer than they are.
    let mut table = table();
    let request =
        Request::Claim { correlation_id: 1, duration_ns: MS + MS / 2, application: "a", unit: "a/0" };
    assert_eq!(told(table.apply(32, &request).0), (AnswerCode::Granted, 32, 1_004));
    let own = told(table.apply(64, &claim("b", "b/0", 2_001)).0);
    assert_eq!(own, (AnswerCode::Granted, 64, 1_000 + 2_001 + 4));
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
    // Spec 05 L4: same token, expiry never earlier.
    assert_eq!(told(table.apply(96, &claim("a", "a/0", 10)).0), (AnswerCode::Granted, 32, 2_002));
    assert_eq!(told(table.apply(96, &claim("a", "a/0", 1_000)).0), (AnswerCode::Granted, 32, 2_502));
    // Spec 05 L5: over before its timer; a new tenure, also for the same unit, and the old one's end is told.
    table.advance(2_502);
    let (outcome, effects) = table.apply(128, &claim("a", "a/0", 1_000));
    assert_eq!(told(outcome), (AnswerCode::Granted, 128, 3_504));
    assert_eq!(effects.ended, Some(EndedTenure { slot: 0, token: 32 }));
}

#[test]
fn a_short_extension_does_not_shorten_what_a_new_term_gives() {
    // Spec 05 L4 and L11: the guarantee of 60 s stands although 1 s was claimed after it.
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
    // Spec 05 L11: a new leader whose clock is fast deposes nobody, and a lease that was over stays over.
    let mut table = table();
    table.apply(32, &claim("a", "a/0", 1_000));
    table.apply(64, &claim("b", "b/0", 10_000));
    table.advance(2_002);
    table.on_new_term(1_000_000, TimeUnit::Millis);
    assert_eq!((table.current_token("a"), table.current_token("b")), (0, 64));
    let expiry = told(table.apply(96, &claim("b", "b/1", 1)).0).2;
    assert_eq!(expiry, 1_010_011);
    // Never earlier, and time never steps back (spec 05 L22).
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
    // Idempotent (spec 05 L8).
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
    // Without a holder: for the next one.
    assert_eq!(told(table.apply(32, &pin("m")).0).0, AnswerCode::Pinned);
    assert_eq!(told(table.apply(32, &pin("m")).0).0, AnswerCode::Pinned);
    assert_eq!(told(table.apply(64, &claim("a", "a/0", 100)).0), (AnswerCode::Granted, 64, NEVER));
    table.apply(96, &pin("n"));
    table.advance(10_000);
    assert!(table.is_current("a", 64));
    assert_eq!(told(table.apply(128, &claim("a", "a/1", 100)).0), (AnswerCode::Denied, 64, NEVER));
    // Its timer finds it alive and is not set again: there is no end to wait for.
    assert_eq!(table.on_timer(TIMER_BASE), Some(Effects::default()));
    assert_eq!(table.apply(160, &unpin("m")).1, Effects::default());
    // With the last pin gone expiry is judged now.
    let (outcome, effects) = table.apply(192, &unpin("n"));
    assert_eq!(told(outcome).0, AnswerCode::Unpinned);
    assert_eq!(effects.ended, Some(EndedTenure { slot: 0, token: 64 }));
    assert_eq!(told(table.apply(224, &unpin("n")).0).0, AnswerCode::Unpinned);
    assert!(table.is_empty());
    // Or later, when there is time left: then by its timer.
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
    // What is over makes room when its timer fires.
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
    let timer = |effects: Effects| effects.timer.map(|own| (own.correlation_id - TIMER_BASE, own.deadline));
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
    // Early, as after a change of leader: alive, so set again.
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
    let names: Vec<String> = (0..200).map(|own| format!("application-{own}")).collect();
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
    // Cut short anywhere, between records and within one.
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
        newer[length][6] = 2;
        let error = restored(small(), &newer).err().unwrap();
        assert!(error.to_string().contains("version 2 instead of 1"), "{error}");
    }
    let one = LeaseSettings { max_leases: 1, ..small() };
    let error = restored(one, &good).err().unwrap().to_string();
    assert!(error.contains("2 leases") && error.contains("max_leases=1"), "{error}");
}

/// The rules in their plainest form.
#[derive(Default)]
struct Model {
    time: i64,
    applications: BTreeMap<usize, Application>,
}

#[derive(Default)]
struct Application {
    /// Unit, token, expiry, duration.
    holder: Option<(usize, u64, i64, i64)>,
    pins: BTreeSet<usize>,
}

impl Model {
    fn live(&self, application: usize) -> Option<(usize, u64, i64, i64)> {
        let own = self.applications.get(&application)?;
        own.holder.filter(|holder| !own.pins.is_empty() || holder.2 > self.time)
    }

    fn end_if_over(&mut self, application: usize) {
        if self.live(application).is_none()
            && let Some(own) = self.applications.get_mut(&application)
        {
            own.holder = None;
            if own.pins.is_empty() {
                self.applications.remove(&application);
            }
        }
    }

    fn claim(&mut self, token: u64, application: usize, unit: usize, ms: i64) -> (AnswerCode, u64) {
        self.end_if_over(application);
        if !self.applications.contains_key(&application) && self.applications.len() == 4 {
            return (AnswerCode::TooManyLeases, 0);
        }
        let expiry = self.time + ms + (ms + 999) / 1_000 + 1;
        let own = self.applications.entry(application).or_default();
        let (holder, token, before, duration) = *own.holder.get_or_insert((unit, token, expiry, ms));
        if holder != unit {
            return (AnswerCode::Denied, token);
        }
        let (expiry, duration) = if expiry > before { (expiry, ms) } else { (before, duration) };
        own.holder = Some((unit, token, expiry, duration));
        (AnswerCode::Granted, token)
    }

    fn new_term(&mut self, timestamp: i64) {
        let begin = self.time.max(timestamp);
        let applications: Vec<usize> = self.applications.keys().copied().collect();
        for application in applications {
            if self.live(application).is_some()
                && let Some((_, _, expiry, ms)) =
                    self.applications.get_mut(&application).and_then(|own| own.holder.as_mut())
            {
                *expiry = (*expiry).max(begin + *ms + (*ms + 999) / 1_000 + 1);
            }
        }
        self.time = begin;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Advance(i64),
    Claim(usize, usize, i64),
    Release(usize, usize, bool),
    Check(usize, usize),
    Wait(usize, bool),
    Pin(usize, usize),
    Unpin(usize, usize),
    Term(i64),
    StrayTimer(usize),
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (-50_i64..2_000).prop_map(Step::Advance),
        6 => (0_usize..6, 0_usize..3, 1_i64..3_000).prop_map(|(a, u, ms)| Step::Claim(a, u, ms)),
        2 => (0_usize..6, 0_usize..3, any::<bool>()).prop_map(|(a, u, own)| Step::Release(a, u, own)),
        1 => (0_usize..6, 0_usize..3).prop_map(|(a, u)| Step::Check(a, u)),
        1 => (0_usize..6, any::<bool>()).prop_map(|(a, own)| Step::Wait(a, own)),
        2 => (0_usize..6, 0_usize..3).prop_map(|(a, e)| Step::Pin(a, e)),
        2 => (0_usize..6, 0_usize..3).prop_map(|(a, e)| Step::Unpin(a, e)),
        1 => (-100_i64..5_000).prop_map(Step::Term),
        1 => (0_usize..6).prop_map(Step::StrayTimer),
        1 => Just(Step::Snapshot),
    ]
}

const APPLICATIONS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const NAMES: [&str; 3] = ["x/0", "x/1", "x/2"];

/// A table, a copy that only judges fences, the model, and the timers of the consensus module.
struct Run {
    table: LeaseTable,
    copy: LeaseTable,
    model: Model,
    timers: BTreeMap<i64, i64>,
    position: i64,
    tokens: BTreeMap<usize, u64>,
}

impl Run {
    fn apply(&mut self, request: &Request<'_>) -> (Outcome, Effects) {
        self.position += 32;
        let own = self.table.apply(self.position, request);
        assert_eq!(own, self.copy.apply(self.position, request));
        self.set(own.1);
        own
    }

    fn set(&mut self, effects: Effects) {
        if let Some(timer) = effects.timer {
            self.timers.insert(timer.correlation_id, timer.deadline);
        }
    }

    fn fire(&mut self, correlation_id: i64) {
        self.timers.remove(&correlation_id);
        let effects = self.table.on_timer(correlation_id).unwrap();
        assert_eq!(self.copy.on_timer(correlation_id), Some(effects));
        self.set(effects);
    }

    fn step(&mut self, step: &Step) {
        let token_of = |own: &Self, application| own.model.live(application).map_or(0, |own| own.1);
        let (code, token) = match *step {
            Step::Advance(by) => {
                let time = self.model.time + by;
                self.model.time = self.model.time.max(time);
                self.table.advance(time);
                self.copy.advance(time);
                let now = self.model.time;
                let due: Vec<i64> =
                    self.timers.iter().filter(|(_, own)| **own <= now).map(|(id, _)| *id).collect();
                due.into_iter().for_each(|id| self.fire(id));
                // The model has no timers: what is over makes room at the same moment.
                (0..6).for_each(|application| self.model.end_if_over(application));
                return;
            }
            Step::Term(by) => {
                let time = self.model.time + by;
                self.model.new_term(time);
                self.table.on_new_term(time, TimeUnit::Millis);
                self.copy.on_new_term(time, TimeUnit::Millis);
                return;
            }
            Step::StrayTimer(slot) => return self.fire(TIMER_BASE + slot as i64),
            Step::Snapshot => {
                let messages = records(&self.table);
                self.table = restored(small(), &messages).unwrap();
                assert_eq!(records(&self.table), messages);
                return;
            }
            Step::Claim(application, unit, ms) => {
                let own = self.apply(&claim(APPLICATIONS[application], NAMES[unit], ms));
                let wanted = self.model.claim(self.position as u64, application, unit, ms);
                let (code, token, _) = told(own.0);
                assert_eq!((code, token), wanted);
                if code == AnswerCode::Granted {
                    let before = self.tokens.insert(application, token).unwrap_or(0);
                    assert!(token >= before, "a token went down");
                }
                return;
            }
            Step::Release(application, unit, is_own) => {
                let token = if is_own { token_of(self, application) } else { 1 };
                let unit_name = NAMES[unit];
                let own = self.apply(&Request::Release {
                    correlation_id: 1,
                    token,
                    application: APPLICATIONS[application],
                    unit: unit_name,
                });
                self.model.end_if_over(application);
                let wanted = match self.model.live(application) {
                    Some((holder, current, _, _)) if holder != unit || current != token => {
                        (AnswerCode::Stale, current)
                    }
                    _ => {
                        if let Some(own) = self.model.applications.get_mut(&application) {
                            own.holder = None;
                        }
                        self.model.end_if_over(application);
                        (AnswerCode::Released, token)
                    }
                };
                let (code, token, _) = told(own.0);
                assert_eq!((code, token), wanted);
                return;
            }
            Step::Wait(application, is_own) => {
                let token = if is_own { 0 } else { 1 };
                let own = self.apply(&Request::Wait {
                    correlation_id: 1,
                    token,
                    application: APPLICATIONS[application],
                });
                self.model.end_if_over(application);
                let is_waiting = matches!(own.0, Outcome::Wait { .. });
                assert_eq!(is_waiting, is_own && self.model.live(application).is_some());
                return;
            }
            Step::Check(application, unit) => {
                let (application_name, unit_name) = (APPLICATIONS[application], NAMES[unit]);
                let own = self.apply(&Request::Check {
                    correlation_id: 1,
                    application: application_name,
                    unit: unit_name,
                });
                self.model.end_if_over(application);
                let (code, token, _) = told(own.0);
                let wanted = self.model.live(application);
                let is_held = wanted.is_some_and(|own| own.0 == unit);
                assert_eq!(code == AnswerCode::Held, is_held);
                assert_eq!(token, wanted.map_or(0, |own| own.1));
                return;
            }
            Step::Pin(application, entity) => {
                let own = self.apply(&Request::Pin {
                    correlation_id: 1,
                    application: APPLICATIONS[application],
                    entity: NAMES[entity],
                });
                self.model.end_if_over(application);
                let count: usize = self.model.applications.values().map(|own| own.pins.len()).sum();
                let is_there = self.model.applications.get(&application);
                let code = if is_there.is_some_and(|own| own.pins.contains(&entity)) {
                    AnswerCode::Pinned
                } else if count == 3 {
                    AnswerCode::TooManyPins
                } else if is_there.is_none() && self.model.applications.len() == 4 {
                    AnswerCode::TooManyLeases
                } else {
                    self.model.applications.entry(application).or_default().pins.insert(entity);
                    AnswerCode::Pinned
                };
                (told(own.0).0, code)
            }
            Step::Unpin(application, entity) => {
                let own = self.apply(&Request::Unpin {
                    correlation_id: 1,
                    application: APPLICATIONS[application],
                    entity: NAMES[entity],
                });
                if let Some(own) = self.model.applications.get_mut(&application) {
                    own.pins.remove(&entity);
                }
                self.model.end_if_over(application);
                (told(own.0).0, AnswerCode::Unpinned)
            }
        };
        assert_eq!(code, token);
    }

    fn check(&self) {
        for (application, name) in APPLICATIONS.iter().enumerate() {
            let wanted = self.model.live(application).map(|own| (NAMES[own.0], own.1));
            assert_eq!(self.table.holder(name), wanted, "{name}");
            let Some(slot) = self.table.find(name) else { continue };
            if self.table.is_live(slot) && self.table.leases[slot].pin_count == 0 {
                let timer = self.timers.get(&(TIMER_BASE + slot as i64));
                let expiry = self.table.leases[slot].expiry;
                assert!(timer.is_some_and(|deadline| *deadline <= expiry), "{name} has no timer");
            }
        }
        assert_eq!(self.table.len(), self.copy.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_table_follows_the_rules(steps in proptest::collection::vec(step(), 1..120)) {
        let mut run = Run {
            table: table(),
            copy: table(),
            model: Model { time: 1_000, ..Model::default() },
            timers: BTreeMap::new(),
            position: 0,
            tokens: BTreeMap::new(),
        };
        for step in &steps {
            run.step(step);
            run.check();
        }
        prop_assert_eq!(records(&run.table), records(&run.copy));
    }
}
