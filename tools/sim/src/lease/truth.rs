//! The truth about leases in virtual time, whatever clocks show: what the log has granted, what units were told, and
//! the rules between them (spec 05, "What must hold").

use std::collections::{BTreeMap, BTreeSet};

use harrier_lease::RequestId;

use super::beliefs::Beliefs;
use super::{APPLICATIONS, UnitId};
use crate::history::Violation;

/// Holder of an application's lease, by the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holder {
    /// The unit; `None` without a holder.
    pub unit: Option<UnitId>,
    /// Fencing token; 0 without a holder.
    pub token: u64,
}

/// The lease table after an event of the log.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// Time at which a service first saw the event, virtual ns.
    at_ns: i64,
    holders: [Holder; APPLICATIONS],
}

/// A process of a unit.
pub type Life = (UnitId, u64);

/// A wait for release of a unit's process that has not ended.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// The application.
    pub application: usize,
    /// Tenure for which the log registered it last.
    registered: u64,
    /// Time at which that tenure was over, virtual ns.
    pub over_ns: Option<i64>,
    has_been_over: bool,
}

/// Decisions of the two tables about a message with a fence.
#[derive(Debug, Clone, Copy, Default)]
struct Verdicts {
    by_lease_service: Option<bool>,
    by_fenced_service: Option<bool>,
}

/// One of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Table of the lease service.
    Leases,
    /// Copy of the service that accepts fences.
    Fences,
}

/// Knowledge about a run.
#[derive(Debug, Default)]
pub struct Truth {
    /// Virtual time, kept by the run.
    pub now_ns: i64,
    /// Broken rules.
    pub violations: Vec<Violation>,
    /// Guarantees that units have.
    pub beliefs: Beliefs,
    moments: Vec<Moment>,
    /// Highest token of each application.
    newest: [u64; APPLICATIONS],
    highest_token: u64,
    /// Last leader of each application.
    last_units: [Option<UnitId>; APPLICATIONS],
    fenced: BTreeMap<i64, Verdicts>,
    /// Hashes of the table, by log position.
    tables: BTreeMap<i64, u64>,
    sessions: BTreeMap<i64, Life>,
    /// Sessions that have ended in the log.
    ended: BTreeSet<i64>,
    /// Processes that were denied the lease and have not claimed it since.
    denied: BTreeMap<UnitId, u64>,
    /// Process and token of the latest grant that a client has heard of, by application.
    granted_to: BTreeMap<usize, (Life, u64)>,
    waits: BTreeMap<(Life, i64), Waiting>,
    /// Waits that ended while a callback of a service was still reporting its effects.
    unproven: Vec<(Life, Waiting)>,
    /// Number of granted claims, by application.
    pub granted: [u64; APPLICATIONS],
    /// Number of answers of all kinds.
    pub answers: u64,
    /// Units begin nothing new and release what they have.
    pub is_draining: bool,
}

impl Truth {
    /// Records a broken rule.
    pub fn violate(&mut self, checker: &'static str, text: impl Into<String>) {
        if self.violations.len() < 20 {
            self.violations.push(Violation { checker, text: text.into() });
        }
    }

    /// Returns the holder of an application's lease, by all events that services have seen.
    pub fn holder(&self, application: usize) -> Holder {
        self.moments.last().map_or(Holder::default(), |moment| moment.holders[application])
    }

    /// No lease is held.
    pub fn is_free(&self) -> bool {
        (0..APPLICATIONS).all(|application| self.holder(application).unit.is_none())
    }

    /// The lease service has seen a new event; these units hold leases after it. Returns how many of them took over
    /// from another unit.
    pub fn on_moment(&mut self, holders: [Holder; APPLICATIONS]) -> usize {
        let mut takeovers = 0;
        for (application, holder) in holders.into_iter().enumerate() {
            let before = self.holder(application);
            if holder.token != before.token {
                self.end_tenure(application, before);
                takeovers += usize::from(self.begin_tenure(application, holder));
            } else if holder.unit != before.unit {
                self.violate("tokens", format!("{holder:?} and {before:?} of application {application}"));
            }
        }
        self.moments.push(Moment { at_ns: self.now_ns, holders });
        for application in 0..APPLICATIONS {
            self.check_guarantees(application);
        }
        for (life, wait) in std::mem::take(&mut self.unproven) {
            if wait.registered == self.holder(wait.application).token {
                self.violate(
                    "wake-up",
                    format!("{life:?} was told of a release, but nothing is over: {wait:?}"),
                );
            }
        }
        takeovers
    }

    /// Checks spec 05 L1: the log confirms every guarantee.
    fn check_guarantees(&mut self, application: usize) {
        let holder = self.holder(application);
        if let Some((unit, token, until_ns)) = self.beliefs.contradicting(application, holder, self.now_ns) {
            let (now_ns, left_ns) = (self.now_ns, until_ns - self.now_ns);
            self.violate(
                "guarantee",
                format!("{unit:?} leads {application} with {token} for {left_ns} ns, at {now_ns} the log has {holder:?}"),
            );
        }
    }

    fn end_tenure(&mut self, application: usize, before: Holder) {
        if before.unit.is_none() {
            return;
        }
        let now_ns = self.now_ns;
        for wait in self.waits.values_mut() {
            if wait.application == application && wait.registered == before.token {
                wait.over_ns.get_or_insert(now_ns);
                wait.has_been_over = true;
            }
        }
    }

    /// Begins a tenure; returns true when another unit led before.
    fn begin_tenure(&mut self, application: usize, holder: Holder) -> bool {
        if holder.unit.is_none() {
            return false;
        }
        if holder.token <= self.highest_token {
            let highest = self.highest_token;
            self.violate("tokens", format!("{holder:?} of application {application} after {highest}"));
        }
        self.check_denied(application, holder);
        self.highest_token = self.highest_token.max(holder.token);
        self.newest[application] = self.newest[application].max(holder.token);
        let before = std::mem::replace(&mut self.last_units[application], holder.unit);
        before.is_some() && before != holder.unit
    }

    /// Checks spec 05 L2: a unit that was denied the lease and has not claimed it since does not get it. Claims that
    /// dead processes have in flight may still be granted.
    fn check_denied(&mut self, application: usize, holder: Holder) {
        let Some((unit, life)) = holder.unit.and_then(|unit| Some((unit, *self.denied.get(&unit)?))) else {
            return;
        };
        let is_haunted = self.sessions.iter().any(|(session_id, session)| {
            session.0 == unit && session.1 != life && !self.ended.contains(session_id)
        });
        if !is_haunted {
            self.violate("denial", format!("{unit:?} is granted {application} after a denial: {holder:?}"));
        }
    }

    /// Checks that both tables are equal at each position, in every life.
    pub fn on_table(&mut self, position: i64, hash: u64) {
        let before = *self.tables.entry(position).or_insert(hash);
        if before != hash {
            self.violate("tables", format!("the table at {position} has the hashes {before:x} and {hash:x}"));
        }
    }

    /// A table has judged a message with a fence; both tables must judge equally, in every life.
    pub fn on_fenced(&mut self, position: i64, table: Table, passes: bool) {
        let own = self.fenced.entry(position).or_default();
        let slot = match table {
            Table::Leases => &mut own.by_lease_service,
            Table::Fences => &mut own.by_fenced_service,
        };
        let before = slot.replace(passes);
        let own = *own;
        let differs = matches!((own.by_lease_service, own.by_fenced_service), (Some(a), Some(b)) if a != b);
        if differs || before.is_some_and(|before| before != passes) {
            self.violate("fences", format!("the message at {position}: {own:?}, before {before:?}"));
        }
    }

    /// A message is about to pass the fence: no newer tenure may have begun (spec 05 L10).
    pub fn on_passed(&mut self, application: usize, token: u64) {
        let newest = self.newest[application];
        if token != self.holder(application).token || token < newest {
            self.violate("fences", format!("a message of {token} passes, {newest} has begun"));
        }
    }

    /// A process has opened a session.
    pub fn on_session(&mut self, session_id: i64, life: Life) {
        self.sessions.insert(session_id, life);
    }

    /// A session has ended in the log.
    pub fn on_session_ended(&mut self, session_id: i64) {
        self.ended.insert(session_id);
    }

    /// A process claims the lease.
    pub fn on_claim(&mut self, unit: UnitId) {
        self.denied.remove(&unit);
    }

    /// A claim was granted.
    pub fn on_granted(&mut self, life: Life, application: usize, token: u64, until_ns: i64) {
        let unit = life.0;
        self.granted[application] += 1;
        self.answers += 1;
        self.granted_to.insert(application, (life, token));
        self.believe(unit, application, token, until_ns);
    }

    /// A unit has a guarantee that it leads until a time.
    pub fn believe(&mut self, unit: UnitId, application: usize, token: u64, until_ns: i64) {
        self.beliefs.put(unit, application, token, until_ns);
        if let Some((first, second)) = self.beliefs.overlapping(application, self.now_ns) {
            let now_ns = self.now_ns;
            self.violate("overlap", format!("{first:?} and {second:?} lead {application} at {now_ns}"));
        }
        self.check_guarantees(application);
    }

    /// A unit was told without asking the log that it leads.
    pub fn on_told_locally(&mut self, unit: UnitId, application: usize, token: u64) {
        let holder = self.holder(application);
        if holder.unit != Some(unit) || holder.token != token {
            self.violate(
                "local",
                format!("{unit:?} leads {application} with {token}, the log has {holder:?}"),
            );
        }
    }

    /// A claim was denied: the unit certainly does not hold the lease (spec 05 L2).
    pub fn on_denied(&mut self, (unit, life): Life, application: usize) {
        self.answers += 1;
        self.denied.insert(unit, life);
        let holder = self.holder(application);
        if holder.unit == Some(unit) {
            self.violate("denial", format!("{unit:?} was denied {application}, it holds {holder:?}"));
        }
    }

    /// A claim was refused because another process holds the unit's lease (spec 05 L23). A process is never refused the
    /// tenure that it was granted.
    pub fn on_unit_held(&mut self, life: Life, application: usize) {
        self.answers += 1;
        let holder = self.holder(application);
        if self.granted_to.get(&application) == Some(&(life, holder.token)) && holder.unit == Some(life.0) {
            self.violate(
                "unit held",
                format!("{life:?} was refused its own tenure of {application}, {holder:?}"),
            );
        }
    }

    /// A check that began at a time was answered; the answer must be true at some moment since then (spec 05 L9).
    pub fn on_checked(&mut self, unit: UnitId, application: usize, began_ns: i64, token: Option<u64>) {
        self.answers += 1;
        let from = self.moments.partition_point(|moment| moment.at_ns < began_ns);
        let is_so = self.moments[from..].iter().any(|moment| {
            let holder = moment.holders[application];
            match token {
                Some(token) => holder.unit == Some(unit) && holder.token == token,
                None => holder.unit != Some(unit),
            }
        });
        if !is_so {
            let now_ns = self.now_ns;
            self.violate(
                "linearizability",
                format!("{unit:?} held {application} with {token:?} never from {began_ns} to {now_ns}"),
            );
        }
    }

    /// A message was rejected; the present tenure had this token.
    pub fn on_stale(&mut self, unit: UnitId, application: usize, token: u64, current: u64) {
        self.answers += 1;
        let until_ns = self.beliefs.until_ns(unit, application, token);
        if until_ns > self.now_ns || token == current {
            self.violate(
                "fences",
                format!("{unit:?} leads {application} with {token} until {until_ns}, but was refused for {current}"),
            );
        }
    }

    /// A wait for release begins.
    pub fn on_wait_begun(&mut self, life: Life, id: RequestId, application: usize) {
        let waiting = Waiting { application, registered: 0, over_ns: None, has_been_over: false };
        self.waits.insert((life, id.0), waiting);
    }

    /// The lease service has registered a wait of a session; the state is that after the registration. Returns true
    /// when the wait was registered already.
    pub fn on_wait_registered(&mut self, session_id: i64, correlation_id: i64, token: u64) -> bool {
        let now_ns = self.now_ns;
        let Some(life) = self.sessions.get(&session_id).copied() else { return false };
        let Some(application) = self.waits.get(&(life, correlation_id)).map(|waiting| waiting.application)
        else {
            return false;
        };
        let holder = self.holder(application);
        let Some(own) = self.waits.get_mut(&(life, correlation_id)) else { return false };
        let was_registered = own.registered != 0;
        // A client that has not heard of the end of its wait asks again.
        own.registered = if token == 0 { holder.token } else { token };
        if holder.unit.is_none() || own.registered != holder.token {
            own.over_ns.get_or_insert(now_ns);
            own.has_been_over = true;
        } else {
            own.over_ns = None;
        }
        was_registered
    }

    /// A wait has ended with a release, with an error, or by its caller.
    pub fn on_wait_ended(&mut self, life: Life, id: RequestId, is_released: bool) {
        let Some(own) = self.waits.remove(&(life, id.0)) else { return };
        self.answers += u64::from(is_released);
        if is_released && !own.has_been_over {
            self.unproven.push((life, own));
        }
    }

    /// A process has died.
    pub fn on_death(&mut self, life: Life) {
        self.denied.remove(&life.0);
        self.waits.retain(|(wait, _), _| *wait != life);
    }

    /// Returns the waits that have not ended.
    pub fn waits(&self) -> impl Iterator<Item = (Life, Waiting)> {
        self.waits.iter().map(|((life, _), waiting)| (*life, *waiting))
    }
}
