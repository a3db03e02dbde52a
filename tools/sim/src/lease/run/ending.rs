//! Rules that a run checks as time passes, and its end.

use harrier_archive::SyncLevel;

use super::{ALL_UNITS, CALM_NS, DRAINING_NS, NODE, NODE_DRIVER, Run, SECOND_NS, WAKING_NS};
use crate::faults::{FAULTS_END_NS, Fault};
use crate::inside;
use crate::kernel::Death;
use crate::lease::{APPLICATIONS, UNITS, application_name};
use crate::report::Outcome;

/// Time in which a unit has a session with a restarted node and an answer again, ns.
const RECOVERY_NS: i64 = 200_000_000;

impl Run {
    pub(super) fn go(&mut self) {
        while !self.is_violated() {
            self.step();
            self.check_waits();
            let now_ns = self.now_ns();
            if now_ns <= FAULTS_END_NS {
                continue;
            }
            if self.granted_before.is_none() {
                let granted = self.truth().granted;
                self.granted_before = Some(granted);
            }
            self.forget_deaths();
            if now_ns <= FAULTS_END_NS + CALM_NS {
                continue;
            }
            if !self.truth.borrow().is_draining {
                self.truth().is_draining = true;
                self.check_grants();
            }
            if self.is_settled() {
                break;
            }
            if now_ns > FAULTS_END_NS + CALM_NS + DRAINING_NS {
                self.tell_unsettled();
            }
        }
        self.replay_twice_more();
    }

    /// Cancels deaths at calls that were not made.
    fn forget_deaths(&mut self) {
        if self.starts_at_ns.is_none() && self.death.take().is_some() {
            self.kernel.state().hosts[NODE].death = None;
        }
        for own in &mut self.units {
            if own.starts_at_ns.is_none() && own.death.take().is_some() {
                self.kernel.state().hosts[own.place.host].death = None;
            }
        }
    }

    /// Checks that every application gets leaders when there are no faults.
    fn check_grants(&mut self) {
        let granted = self.truth().granted;
        let before = self.granted_before.unwrap_or_default();
        for application in 0..APPLICATIONS {
            if granted[application] == before[application] {
                let (name, seconds) = (application_name(application), CALM_NS / SECOND_NS);
                self.violate("progress", format!("nobody led {name} in {seconds} s without faults"));
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.starts_at_ns.is_none()
            && self.operator.is_done()
            && self.units.iter().all(|unit| unit.starts_at_ns.is_none() && unit.standing.borrow().is_done)
            && self.truth.borrow().is_free()
            && self.histories.iter().all(|history| history.borrow().has_caught_up())
    }

    fn tell_unsettled(&mut self) {
        let open: Vec<&str> = self
            .units
            .iter()
            .filter(|unit| !unit.standing.borrow().is_done)
            .map(|unit| unit.place.name())
            .collect();
        let truth = self.truth.borrow();
        let holders: Vec<_> = (0..APPLICATIONS).map(|application| truth.holder(application)).collect();
        let waits: Vec<_> = truth.waits().collect();
        drop(truth);
        self.violate("progress", format!("units {open:?} have not ended, {holders:?} hold, {waits:?} wait"));
    }

    /// Spec 05, "What must hold", 4.
    fn check_waits(&mut self) {
        let mut truth = self.truth.borrow_mut();
        let now_ns = truth.now_ns;
        let late = truth.waits().find(|((unit, _), wait)| {
            let unit = usize::from(*unit);
            let connected_ns = self.units[unit].standing.borrow().connected_ns.unwrap_or(i64::MAX);
            let calm_ns = self.calm.since_ns(unit).max(connected_ns);
            wait.over_ns.is_some_and(|over_ns| now_ns > over_ns.max(calm_ns).saturating_add(WAKING_NS))
        });
        if let Some((life, wait)) = late {
            truth.violate("wake-up", format!("{life:?} was not woken until {now_ns}: {wait:?}"));
        }
    }

    /// Records a new leadership term, and the trackers that still lead in it.
    pub(super) fn note_term(&mut self) {
        let now_ns = self.now_ns();
        if self.starts_at_ns.is_some() || self.terms() == self.terms_before {
            return;
        }
        self.calm.on_term(now_ns);
        for unit in 0..ALL_UNITS {
            let Some(token) = self.led_with[unit] else { continue };
            let holder = self.truth().holder(unit / UNITS);
            if holder.token != token {
                self.led_with[unit] = None;
            } else if now_ns > self.calm.since_ns(unit).saturating_add(2 * SECOND_NS) {
                self.led_with[unit] = None;
                if self.units[unit].standing.borrow().leads_with == Some(token) {
                    self.kernel.state().coverage.hit("leader kept its tenure through a restart");
                }
            }
        }
    }

    /// Checks spec 05, "What must hold", 3: a unit that renews loses nothing to a restart that is shorter than its
    /// claim. It renews at half time, so at least half of the claim is left when the node dies.
    pub(super) fn check_keepers(&mut self) {
        for unit in 0..ALL_UNITS {
            let Some((lost_ns, claimed_ns)) = self.units[unit].standing.borrow_mut().lost.take() else {
                continue;
            };
            let since_ns = lost_ns - claimed_ns - claimed_ns / 500 - RECOVERY_NS;
            let Some((count, outage_ns)) = self.calm.outages(unit, since_ns) else { continue };
            if count == 0 || count == 1 && outage_ns.saturating_add(RECOVERY_NS) < claimed_ns / 2 {
                let name = self.units[unit].place.name();
                let text = format!(
                    "{name} lost at {lost_ns} what it claimed for {claimed_ns} ns; the node was away {outage_ns} ns"
                );
                self.violate("kept", text);
            }
        }
    }

    /// Replays the log into fresh services, once after the latest snapshot and once alone. Both must reach the same
    /// state.
    fn replay_twice_more(&mut self) {
        self.restart();
        self.is_log_alone = true;
        self.restart();
    }

    fn restart(&mut self) {
        if self.is_violated() {
            return;
        }
        let terms = self.terms();
        let of_machine = self.scenario.sync_level > SyncLevel::None;
        self.death = Some(Fault::Crash { of_machine, death: Death::AtCall(0), down_ns: 50_000_000 });
        self.on_node_death();
        let deadline_ns = self.now_ns() + DRAINING_NS;
        let is_behind = |run: &Self| {
            let mut histories = run.histories.iter().map(|history| history.borrow());
            histories.any(|history| history.terms() == terms || !history.has_caught_up())
        };
        while !self.is_violated() && is_behind(self) {
            self.step();
            if self.now_ns() > deadline_ns {
                self.violate("progress", "the last replay did not end");
            }
        }
    }

    pub(super) fn finish(mut self, seed: u64) -> Outcome {
        let history = self.histories[0].clone();
        inside::harvest(&self.kernel, NODE, &self.memory, NODE_DRIVER, &history, false);
        self.world.kill(NODE);
        for own in &self.units {
            let driver = format!("/dev/shm/unit{}", own.life);
            inside::harvest(&self.kernel, own.place.host, &own.memory, &driver, &history, false);
            self.world.kill(own.place.host);
        }
        let mut truth = self.truth.take();
        for history in &self.histories {
            truth.violations.append(&mut history.borrow_mut().violations);
        }
        self.units.clear();
        let history = history.borrow();
        let (digest, terms) = (history.digest(), history.terms() as u64);
        let mut state = self.kernel.state();
        state.coverage.add("events of the log", history.events().len() as u64);
        let now_ns = state.now_ns;
        state.trace.add(now_ns, "end", &[digest, terms]);
        Outcome {
            seed,
            trace_hash: state.trace.hash(),
            virtual_ns: now_ns,
            messages: truth.answers,
            violations: truth.violations,
            coverage: std::mem::take(&mut state.coverage),
            lines: state.trace.take_lines(),
        }
    }
}
