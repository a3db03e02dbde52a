//! The run of one seed: virtual time, faults, and the judgement at the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use harrier_cluster::election::{Actions, Done, Input, MemberMessage, TimerKind, Trigger};
use harrier_ringbuf::Rng;

use super::coverage::Counts;
use super::member::Member;
use super::truth::Truth;
use super::{ENTRY, MEMBERS, Scenario, timeline};
use crate::report::Outcome;
use crate::trace::Trace;

/// Time between two duty cycles of a member.
const CYCLE: u64 = 5;

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Deliver { to: usize, message: MemberMessage },
    Timer { index: usize, life: u32, kind: TimerKind, generation: u32 },
    Written { index: usize, life: u32 },
    Done { index: usize, life: u32, done: Done },
    Work { index: usize, life: u32 },
    Start { index: usize },
    Unblock,
    Fault,
    Client,
    Heal,
}

struct Item {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything of a run.
pub(super) struct World {
    pub(super) plan: Scenario,
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) members: Vec<Member>,
    pub(super) blocked: [[bool; MEMBERS]; MEMBERS],
    pub(super) is_healed: bool,
    pub(super) truth: Truth,
    pub(super) coverage: Counts,
    pub(super) actions: Actions,
    pub(super) inputs: u64,
    pub(super) sessions: i32,
    pub(super) next_id: u64,
    pub(super) lines: Vec<String>,
    queue: BinaryHeap<Reverse<Item>>,
    order: u64,
    trace: Trace,
}

impl World {
    fn new(seed: u64, plan: Scenario) -> Self {
        let members = (0..plan.members).map(|index| Member::new(index, &plan)).collect();
        Self {
            rng: Rng::new(seed),
            now: 0,
            members,
            blocked: [[false; MEMBERS]; MEMBERS],
            is_healed: false,
            truth: Truth::default(),
            coverage: Counts::new(),
            actions: Actions::new(),
            inputs: 0,
            sessions: 0,
            next_id: 0,
            lines: Vec::new(),
            queue: BinaryHeap::with_capacity(256),
            order: 0,
            trace: Trace::new(false),
            plan,
        }
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Item { at, order: self.order, event }));
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.plan.keep_lines {
            let text = text();
            self.lines.push(format!("{:>6} ms ** {text}", self.now));
        }
    }

    pub(super) fn trace(&mut self, index: usize, input: &Input) {
        let member = &self.members[index];
        let facts = [
            index as u64,
            u64::from(member.election.state().code()),
            member.disk.end() as u64,
            self.actions.as_slice().len() as u64,
        ];
        self.trace.add(self.now as i64, "input", &facts);
        if self.plan.keep_lines {
            let line = timeline::input(self.now, index, input);
            self.lines.push(line);
        }
    }

    /// Runs an event; one of a member that stands still waits until it goes on.
    fn handle(&mut self, event: Event) {
        let place = match event {
            Event::Deliver { to, .. } => Some((to, None)),
            Event::Timer { index, life, .. }
            | Event::Written { index, life }
            | Event::Done { index, life, .. }
            | Event::Work { index, life } => Some((index, Some(life))),
            _ => None,
        };
        if let Some((index, life)) = place {
            let member = &self.members[index];
            if !member.is_up || life.is_some_and(|life| life != member.life) {
                return;
            }
            if member.paused_until > self.now {
                let until = member.paused_until;
                return self.at(until, event);
            }
        }
        match event {
            Event::Deliver { to, message } => self.deliver(to, message),
            Event::Timer { index, kind, generation, .. } => {
                if self.members[index].timers[kind as usize] == generation {
                    self.feed(index, Input::Timer(kind));
                }
            }
            Event::Written { index, .. } => self.on_written(index),
            Event::Done { index, done, .. } => self.on_done(index, done),
            Event::Work { index, life } => {
                self.work(index);
                self.at(self.now + CYCLE, Event::Work { index, life });
            }
            Event::Start { index } => self.start(index),
            Event::Unblock => self.blocked = [[false; MEMBERS]; MEMBERS],
            Event::Fault => self.fault(),
            Event::Client => {
                let index = self.rng.below(self.plan.members as u64) as usize;
                self.offer(index);
                let gap = 4 + self.rng.below(12);
                self.at(self.now + gap, Event::Client);
            }
            Event::Heal => self.heal(),
        }
    }

    fn start(&mut self, index: usize) {
        if self.members[index].is_up || self.members[index].has_ended {
            return;
        }
        let (plan, now) = (&self.plan, self.now);
        self.members[index].start(index, plan, now);
        let life = self.members[index].life;
        self.note(|| format!("member {index} starts"));
        self.truth.on_quiet(index, &self.members[index]);
        self.feed(index, Input::Trigger(Trigger::NodeStarted));
        self.at(now + 1, Event::Work { index, life });
    }

    fn crash(&mut self, index: usize) {
        let member = &mut self.members[index];
        if !member.is_up {
            return;
        }
        // Some of the writes under way reach the disk.
        let finished = self.rng.below(member.writes.len() as u64 + 1);
        for _ in 0..finished {
            if let Some((write, _)) = member.writes.pop_front() {
                member.apply(write);
            }
        }
        member.is_up = false;
        member.publication = None;
        self.coverage.hit("fault: crash");
        self.note(|| format!("member {index} crashes"));
        let at = self.now + 5 + self.rng.below(200);
        self.at(at, Event::Start { index });
    }

    fn fault(&mut self) {
        if self.is_healed {
            return;
        }
        let count = self.plan.members as u64;
        let index = self.rng.below(count) as usize;
        match self.rng.below(if self.plan.has_wipes { 13 } else { 10 }) {
            0..=2 => self.crash(index),
            3 => (0..self.plan.members).for_each(|index| {
                if self.rng.chance(1, 2) {
                    self.crash(index);
                }
            }),
            4 => {
                let until = self.now + 10 + self.rng.below(3 * self.plan.timeout);
                self.members[index].paused_until = until;
                self.coverage.hit("fault: pause");
                self.note(|| format!("member {index} stands still until {until} ms"));
            }
            5 => {
                let other = self.rng.below(count) as usize;
                self.block("fault: one-way partition", |from, to| from == index && to == other);
            }
            6 => {
                let other = self.rng.below(count) as usize;
                let is_pair = |from, to| (from, to) == (index, other) || (to, from) == (index, other);
                self.block("fault: pair partition", is_pair);
            }
            7 => self.block("fault: isolation", |from, to| from == index || to == index),
            8 => {
                let group = self.rng.next_u64();
                self.block("fault: group partition", |from, to| (group >> from) & 1 != (group >> to) & 1);
            }
            9 => {
                let leader = self.members.iter().position(Member::leads).unwrap_or(index);
                self.crash(leader);
            }
            _ => {
                // The survivor stands still while the others begin anew.
                self.members[index].paused_until = self.now + 4 * self.plan.timeout;
                for other in (0..self.plan.members).filter(|other| *other != index) {
                    if self.rng.chance(2, 3) {
                        self.wipe(other);
                    }
                }
            }
        }
        let gap = 1 + self.rng.below(2 * self.plan.fault_gap);
        self.at(self.now + gap, Event::Fault);
    }

    fn block(&mut self, name: &'static str, is_blocked: impl Fn(usize, usize) -> bool) {
        for from in 0..self.plan.members {
            for to in 0..self.plan.members {
                self.blocked[from][to] |= from != to && is_blocked(from, to);
            }
        }
        self.coverage.hit(name);
        let blocked = self.blocked;
        self.note(|| format!("{name}: {blocked:?}"));
        let at = self.now + 20 + self.rng.below(400);
        self.at(at, Event::Unblock);
    }

    /// A member loses its disk. An operator starts it anew, or with half of its log from an old backup.
    fn wipe(&mut self, index: usize) {
        self.crash(index);
        self.truth.is_void = true;
        let is_restored = self.rng.chance(1, 3);
        let member = &mut self.members[index];
        member.writes.clear();
        if is_restored {
            member.disk.restore_half();
        } else {
            member.disk = super::model_log::Disk::new();
        }
        self.coverage.hit(if is_restored { "fault: old backup" } else { "fault: lost disk" });
        self.note(|| format!("member {index} loses its disk, restored: {is_restored}"));
    }

    fn heal(&mut self) {
        self.is_healed = true;
        self.blocked = [[false; MEMBERS]; MEMBERS];
        self.note(|| "everything heals".to_owned());
        for index in 0..self.plan.members {
            self.members[index].paused_until = 0;
            self.start(index);
        }
    }

    /// The leader of the highest term; one of a lower term may not know yet that it was deposed.
    fn leader(&self) -> Option<usize> {
        let leading = (0..self.members.len()).filter(|index| self.members[*index].leads());
        leading.max_by_key(|index| self.members[*index].election.leadership_term())
    }

    /// True when the cluster has made progress since it healed.
    fn has_progress(&self, committed: i64) -> bool {
        self.leader().is_some_and(|leader| self.members[leader].reports.own.commit > committed)
    }

    /// True when every member that can follow follows.
    fn is_whole(&self) -> bool {
        let Some(index) = self.leader() else { return false };
        let leader = &self.members[index];
        let term = leader.election.leadership_term();
        self.members.iter().all(|member| {
            let is_in = member.leads() || member.follows();
            (is_in && member.election.leadership_term() == term) || member.disk.end() < leader.disk.start
        })
    }

    fn run_until(&mut self, end: u64, is_done: impl Fn(&Self) -> bool) {
        while let Some(Reverse(item)) = self.queue.pop() {
            if item.at > end {
                self.queue.push(Reverse(item));
                self.now = end;
                return;
            }
            self.now = item.at;
            self.handle(item.event);
            if !self.truth.violations.is_empty() || is_done(self) {
                return;
            }
        }
    }

    /// After everything has healed, a leader commits and all follow, in bounded time.
    fn judge(&mut self) {
        let is_judged = !self.truth.is_void && self.plan.appointed.is_none();
        if !is_judged || !self.truth.violations.is_empty() {
            return;
        }
        let (before, bound) = (self.committed(), self.plan.progress_bound());
        let end = self.now + bound;
        self.run_until(end, |world| world.has_progress(before));
        if !self.has_progress(before) && self.truth.violations.is_empty() {
            return self.stuck("progress", bound);
        }
        let end = self.now + bound + 6 * self.plan.timeout;
        self.run_until(end, Self::is_whole);
        if !self.is_whole() && self.truth.violations.is_empty() {
            return self.stuck("all follow", bound);
        }
        self.judge_end();
    }

    fn stuck(&mut self, checker: &'static str, bound: u64) {
        let states: Vec<_> = self
            .members
            .iter()
            .map(|member| (member.election.state().name(), member.disk.end(), member.reports.own.commit))
            .collect();
        self.truth.fail(checker, format!("not within {bound} ms after healing: {states:?}"));
    }

    fn judge_end(&mut self) {
        let Some(leader) = self.leader() else { return };
        let log = &self.members[leader].disk.log;
        let kept = self.truth.acknowledged;
        if log.len() < kept || log[..kept] != self.truth.committed[..kept] {
            let text =
                format!("leader {leader} ends at {}, acknowledged is {}", log.len(), kept as i64 * ENTRY);
            self.truth.fail("acknowledged entries are kept", text);
        }
        for index in 0..self.members.len() {
            self.truth.on_quiet(index, &self.members[index]);
            let rounds = self.members[index].rounds;
            if rounds > 30 {
                let text = format!("member {index} began {rounds} rounds without an end");
                self.truth.fail("elections end", text);
            }
        }
    }
}

/// Runs one seed.
pub fn run(seed: u64, plan: Scenario) -> Outcome {
    let mut world = World::new(seed, plan);
    for index in 0..world.plan.members {
        let at = world.rng.below(20);
        world.at(at, Event::Start { index });
    }
    let first = 100 + world.rng.below(200);
    world.at(first, Event::Fault);
    world.at(5, Event::Client);
    let healing = world.plan.healing;
    world.at(healing, Event::Heal);
    world.run_until(healing, |_| false);
    world.judge();
    let mut coverage = world.coverage.finish();
    coverage.add("inputs", world.inputs);
    coverage.add("elections", world.truth.elections());
    Outcome {
        seed,
        trace_hash: world.trace.hash(),
        virtual_ns: world.now as i64 * 1_000_000,
        messages: world.truth.acknowledged as u64,
        violations: std::mem::take(&mut world.truth.violations),
        coverage,
        lines: world.lines,
    }
}
