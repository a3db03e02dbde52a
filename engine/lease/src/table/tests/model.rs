//! The table beside the rules in their plainest form.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

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
        let entry = self.applications.get(&application)?;
        entry.holder.filter(|holder| !entry.pins.is_empty() || holder.2 > self.time)
    }

    fn end_if_over(&mut self, application: usize) {
        if self.live(application).is_none()
            && let Some(entry) = self.applications.get_mut(&application)
        {
            entry.holder = None;
            if entry.pins.is_empty() {
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
        let entry = self.applications.entry(application).or_default();
        let (holder, token, before, duration) = *entry.holder.get_or_insert((unit, token, expiry, ms));
        if holder != unit {
            return (AnswerCode::Denied, token);
        }
        let (expiry, duration) = if expiry > before { (expiry, ms) } else { (before, duration) };
        entry.holder = Some((unit, token, expiry, duration));
        (AnswerCode::Granted, token)
    }

    fn new_term(&mut self, timestamp: i64) {
        let begin = self.time.max(timestamp);
        let applications: Vec<usize> = self.applications.keys().copied().collect();
        for application in applications {
            if self.live(application).is_some()
                && let Some((_, _, expiry, ms)) = self
                    .applications
                    .get_mut(&application)
                    .and_then(|application| application.holder.as_mut())
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
        2 => (0_usize..6, 0_usize..3, any::<bool>()).prop_map(|(a, u, is_own)| Step::Release(a, u, is_own)),
        1 => (0_usize..6, 0_usize..3).prop_map(|(a, u)| Step::Check(a, u)),
        1 => (0_usize..6, any::<bool>()).prop_map(|(a, is_own)| Step::Wait(a, is_own)),
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
        let outcome = self.table.apply(self.position, request);
        assert_eq!(outcome, self.copy.apply(self.position, request));
        self.set(outcome.1);
        outcome
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
        match *step {
            Step::Advance(by) => self.pass(by),
            Step::Term(by) => {
                let time = self.model.time + by;
                self.model.new_term(time);
                self.table.on_new_term(time, TimeUnit::Millis);
                self.copy.on_new_term(time, TimeUnit::Millis);
            }
            Step::StrayTimer(slot) => self.fire(TIMER_BASE + slot as i64),
            Step::Snapshot => {
                let messages = records(&self.table);
                self.table = restored(small(), &messages).unwrap();
                assert_eq!(records(&self.table), messages);
            }
            Step::Claim(application, unit, ms) => self.claim(application, unit, ms),
            Step::Release(application, unit, is_own) => self.release(application, unit, is_own),
            Step::Wait(application, is_own) => {
                let token = if is_own { 0 } else { 1 };
                let name = APPLICATIONS[application];
                let outcome = self.apply(&Request::Wait { correlation_id: 1, token, application: name });
                self.model.end_if_over(application);
                let is_waiting = matches!(outcome.0, Outcome::Wait { .. });
                assert_eq!(is_waiting, is_own && self.model.live(application).is_some());
            }
            Step::Check(application, unit) => self.check_unit(application, unit),
            Step::Pin(application, entity) => self.pin(application, entity),
            Step::Unpin(application, entity) => {
                let (name, entity_name) = (APPLICATIONS[application], NAMES[entity]);
                let outcome =
                    self.apply(&Request::Unpin { correlation_id: 1, application: name, entity: entity_name });
                if let Some(entry) = self.model.applications.get_mut(&application) {
                    entry.pins.remove(&entity);
                }
                self.model.end_if_over(application);
                assert_eq!(told(outcome.0).0, AnswerCode::Unpinned);
            }
        }
    }

    fn pass(&mut self, by: i64) {
        let time = self.model.time + by;
        self.model.time = self.model.time.max(time);
        self.table.advance(time);
        self.copy.advance(time);
        let now = self.model.time;
        let due: Vec<i64> =
            self.timers.iter().filter(|(_, deadline)| **deadline <= now).map(|(id, _)| *id).collect();
        due.into_iter().for_each(|id| self.fire(id));
        // The model has no timers: an expired lease is freed immediately.
        (0..6).for_each(|application| self.model.end_if_over(application));
    }

    fn claim(&mut self, application: usize, unit: usize, ms: i64) {
        let outcome = self.apply(&claim(APPLICATIONS[application], NAMES[unit], ms));
        let wanted = self.model.claim(self.position as u64, application, unit, ms);
        let (code, token, _) = told(outcome.0);
        assert_eq!((code, token), wanted);
        if code == AnswerCode::Granted {
            let before = self.tokens.insert(application, token).unwrap_or(0);
            assert!(token >= before, "a token went down");
        }
    }

    fn release(&mut self, application: usize, unit: usize, is_own: bool) {
        let token = if is_own { self.model.live(application).map_or(0, |holder| holder.1) } else { 1 };
        let (name, unit_name) = (APPLICATIONS[application], NAMES[unit]);
        let request = Request::Release { correlation_id: 1, token, application: name, unit: unit_name };
        let outcome = self.apply(&request);
        self.model.end_if_over(application);
        let wanted = match self.model.live(application) {
            Some((holder, current, _, _)) if holder != unit || current != token => {
                (AnswerCode::Stale, current)
            }
            _ => {
                if let Some(entry) = self.model.applications.get_mut(&application) {
                    entry.holder = None;
                }
                self.model.end_if_over(application);
                (AnswerCode::Released, token)
            }
        };
        let (code, token, _) = told(outcome.0);
        assert_eq!((code, token), wanted);
    }

    fn check_unit(&mut self, application: usize, unit: usize) {
        let (name, unit_name) = (APPLICATIONS[application], NAMES[unit]);
        let outcome = self.apply(&Request::Check { correlation_id: 1, application: name, unit: unit_name });
        self.model.end_if_over(application);
        let (code, token, _) = told(outcome.0);
        let wanted = self.model.live(application);
        assert_eq!(code == AnswerCode::Held, wanted.is_some_and(|holder| holder.0 == unit));
        assert_eq!(token, wanted.map_or(0, |holder| holder.1));
    }

    fn pin(&mut self, application: usize, entity: usize) {
        let (name, entity_name) = (APPLICATIONS[application], NAMES[entity]);
        let outcome = self.apply(&Request::Pin { correlation_id: 1, application: name, entity: entity_name });
        self.model.end_if_over(application);
        let count: usize = self.model.applications.values().map(|application| application.pins.len()).sum();
        let is_there = self.model.applications.get(&application);
        let code = if is_there.is_some_and(|application| application.pins.contains(&entity)) {
            AnswerCode::Pinned
        } else if count == 3 {
            AnswerCode::TooManyPins
        } else if is_there.is_none() && self.model.applications.len() == 4 {
            AnswerCode::TooManyLeases
        } else {
            self.model.applications.entry(application).or_default().pins.insert(entity);
            AnswerCode::Pinned
        };
        assert_eq!(told(outcome.0).0, code);
    }

    fn check(&self) {
        for (application, name) in APPLICATIONS.iter().enumerate() {
            let wanted = self.model.live(application).map(|holder| (NAMES[holder.0], holder.1));
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
