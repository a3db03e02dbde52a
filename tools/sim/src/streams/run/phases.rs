//! Checks after the last fault, and the end of a run.

use super::super::books::recorded_errors;
use super::super::plan::ListenerPlan;
use super::super::{CLOSING_NS, DRAINING_NS, FAULTS_END_NS, RESUME_NS};
use super::{Phase, Run};
use crate::report::Outcome;

/// Time for readers to see the end of streams before they are closed too, ns.
const ENDING_NS: i64 = 1_500_000_000;

/// Time without messages after which readers that nobody waits for are helped, ns.
const OUTRUN_NS: i64 = 1_000_000_000;

impl Run {
    pub(super) fn go(&mut self) {
        while !self.is_violated() {
            self.step();
            let (now_ns, phase) = (self.now_ns(), self.truth.borrow().phase);
            let age_ns = now_ns - self.phase_ns;
            match phase {
                Phase::Storm if now_ns > FAULTS_END_NS => self.begin_calm(),
                Phase::Storm => {}
                Phase::Calm => self.check_resumed(age_ns),
                Phase::Draining => self.check_drained(age_ns),
                Phase::Ending if age_ns > ENDING_NS => self.enter(Phase::Closed),
                Phase::Ending => {}
                Phase::Closed if self.is_closed() => return self.check_left(),
                Phase::Closed if age_ns > CLOSING_NS => self.tell_left(),
                Phase::Closed => {}
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase_ns = self.now_ns();
        self.truth().phase = phase;
        self.kernel.state().note("phase", &[phase as u64]);
        // All processes must check the new phase.
        let now_ns = self.phase_ns;
        for host in &mut self.kernel.state().hosts {
            host.stalled_until_ns = host.stalled_until_ns.min(now_ns);
        }
        for process in 0..self.processes.len() {
            self.world.wake(process);
        }
    }

    /// The last fault is over: processes that are down start.
    fn begin_calm(&mut self) {
        let now_ns = self.now_ns();
        for process in 0..self.processes.len() {
            let own = &mut self.processes[process];
            if let Some(at) = &mut own.starts_at_ns {
                *at = (*at).min(now_ns);
            } else if own.down_ns.take().is_some() {
                self.kernel.state().hosts[process].death = None;
            }
        }
        for host in 0..self.scenario.hosts {
            let upset_ns = self.truth.borrow().upset_ns[host].min(now_ns);
            self.truth().upset_ns[host] = upset_ns;
        }
        self.enter(Phase::Calm);
    }

    /// Returns the listeners of a stream that must get messages that are sent now.
    fn must_hear(&self, flow: usize) -> Vec<(usize, ListenerPlan)> {
        let truth = self.truth.borrow();
        let plan = &truth.flows[flow];
        let has_lost = |number: usize| {
            truth.progress.get(&(flow, number)).is_some_and(|progress| progress.has_lost_image)
        };
        // A listener that may not rejoin after it has lost an image may miss everything.
        let leaves = |listener: &ListenerPlan| listener.rejects || listener.life_ns > 0;
        let may_be_lost = (0..plan.listeners.len()).any(has_lost) || plan.listeners.iter().any(leaves);
        let is_missed = !plan.rejoins && may_be_lost;
        if plan.is_refused || is_missed {
            return Vec::new();
        }
        let listeners = plan.listeners.iter().cloned().enumerate();
        // A listener that was left behind and may not rejoin is out.
        let is_out = |listener: &ListenerPlan| !listener.is_tethered && !plan.rejoins;
        let hears =
            |listener: &ListenerPlan| !listener.is_stuck && !listener.is_out_of_reach && !listener.is_unheard;
        listeners.filter(|(_, listener)| hears(listener) && !is_out(listener)).collect()
    }

    /// Checks that every stream flows to all its listeners.
    fn check_resumed(&mut self, age_ns: i64) {
        let mut waiting = Vec::new();
        // Listeners that nobody waits for may be too late for everything that they could still ask for, each time
        // that they join. When their senders slow down, they have to catch up.
        let mut is_outrun = true;
        for flow in 0..self.scenario.flows.len() {
            for (number, listener) in self.must_hear(flow) {
                let truth = self.truth.borrow();
                let progress = truth.progress.get(&(flow, number)).copied().unwrap_or_default();
                if progress.read_of_ns <= self.phase_ns {
                    waiting.push((flow, number));
                    is_outrun &= listener.may_be_outrun;
                }
            }
        }
        if !waiting.is_empty() && is_outrun && age_ns > OUTRUN_NS && !self.truth.borrow().is_gentle {
            self.hit("readers that nobody waits for were outrun");
            self.truth().is_gentle = true;
        }
        if waiting.is_empty() {
            self.hit(match age_ns / 1_000_000_000 {
                0 => "streams flowed again within a second",
                1 => "streams flowed again within two seconds",
                2 => "streams flowed again within three seconds",
                3 => "streams flowed again within four seconds",
                _ => "streams flowed again later",
            });
            self.enter(Phase::Draining);
        } else if age_ns > RESUME_NS {
            let text = format!("{waiting:?} (flow, listener) got nothing for {age_ns} ns without faults");
            self.violate("progress", text);
        }
    }

    /// Checks that listeners which keep their images have read all messages.
    fn check_drained(&mut self, age_ns: i64) {
        let unread: usize = self.unread.borrow().iter().sum();
        if age_ns > 0 && unread == 0 {
            let next = if self.closes_writers_first { Phase::Ending } else { Phase::Closed };
            self.enter(next);
        } else if age_ns > DRAINING_NS {
            self.violate("progress", format!("{unread} messages are not read after {age_ns} ns"));
        }
    }

    fn is_closed(&self) -> bool {
        (0..self.scenario.hosts).all(|host| {
            let state = self.kernel.state();
            let Some(observer) = &self.observers[host] else { return false };
            state.network.open_sockets(host) == 0 && self.books.is_empty(host, observer.counters(), &state)
        })
    }

    fn tell_left(&mut self) {
        for host in 0..self.scenario.hosts {
            let Some(observer) = &self.observers[host] else { continue };
            let text = self.books.left(host, observer.counters(), &self.kernel.state());
            if let Some(text) = text {
                self.violate("memory", text);
            }
        }
        if !self.is_violated() {
            self.violate("memory", "sockets are still open");
        }
    }

    /// Everything is closed: the counters of the drivers must equal what was on the wire.
    fn check_left(&mut self) {
        for host in 0..self.scenario.hosts {
            let Some(observer) = &self.observers[host] else { continue };
            let errors = recorded_errors(host, &self.memories[host]);
            let mut state = self.kernel.state();
            let state = &mut *state;
            self.books.gather(host, observer.counters(), &mut state.coverage);
            let tally = state.wire.as_ref().map(|wire| wire.tally(host)).unwrap_or_default();
            let was_upset = self.truth.borrow().upset_ns[host] > 0;
            let refuses = self.scenario.flows.iter().any(|flow| flow.is_refused);
            let mut truth = self.truth.borrow_mut();
            for text in self.books.differences(
                host,
                observer.counters(),
                &tally,
                (&errors, refuses, was_upset, self.are_sends_short),
            ) {
                truth.violate("counters", text);
            }
        }
    }

    pub(super) fn finish(mut self, seed: u64) -> Outcome {
        for process in 0..self.processes.len() {
            self.world.kill(process);
        }
        self.observers.clear();
        self.remains.borrow_mut().clear();
        let mut state = self.kernel.state();
        let truth = self.truth.borrow();
        let mut violations = truth.violations.clone();
        if let Some(wire) = state.wire.take() {
            violations.extend(wire.violations);
        }
        let (now_ns, read) = (state.now_ns, truth.read);
        state.trace.add(now_ns, "end", &[read]);
        let mut lines = state.trace.take_lines();
        if self.scenario.keep_lines {
            let faults = self.scenario.plan.faults().iter().map(|fault| format!("{fault:?}"));
            let flows = self.scenario.flows.iter().map(|flow| format!("{flow:#?}"));
            lines.splice(0..0, flows.chain(faults));
        }
        Outcome {
            seed,
            trace_hash: state.trace.hash(),
            virtual_ns: now_ns,
            messages: read,
            violations,
            coverage: std::mem::take(&mut state.coverage),
            lines,
        }
    }
}
