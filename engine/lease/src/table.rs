//! The lease table: a state machine on (log position, timestamp, request), without clock and I/O (spec 05 L1–L11, L22,
//! L23).
//!
//! The lease service has a table, and so has each service that accepts fences. The same log and equal [`LeaseSettings`]
//! keep the tables equal, byte for byte in a snapshot.

mod apply;
mod pages;
mod pins;
mod slots;
mod snapshot;
#[cfg(test)]
mod tests;

pub use apply::Outcome;
pub use snapshot::{SnapshotStateError, TableReader};

pub(crate) use slots::{Index, Slots, hash};

use harrier_cluster::codec::TimeUnit;
use harrier_ringbuf::planted::{Bug, is_planted};

use crate::codec::{MAX_NAME_LENGTH, Process};
use crate::settings::{InvalidLeaseSetting, LeaseSettings};
use pins::Pins;

/// First correlation id of the timers of leases; the slot is added to it (spec 05 L21).
pub const TIMER_BASE: i64 = 0x4C53_0000_0000_0000;
/// Expiry that is reported for a pinned lease.
pub const NEVER: i64 = i64::MAX;
/// Marks a slot without a timer.
const NO_TIMER: i64 = i64::MAX;

/// A name in memory that was allocated at start.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    length: u8,
    bytes: [u8; MAX_NAME_LENGTH],
}

impl Name {
    pub(crate) const EMPTY: Self = Self { length: 0, bytes: [0; MAX_NAME_LENGTH] };

    /// Stores a name that was checked before.
    pub(crate) fn set(&mut self, name: &str) {
        let length = name.len().min(MAX_NAME_LENGTH);
        self.bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.length = length as u8;
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// An application with a holder, or with pins for the next one.
#[derive(Clone, Copy)]
struct Lease {
    application: Name,
    /// Empty without a holder.
    unit: Name,
    token: u64,
    expiry: i64,
    duration: i64,
    /// Cluster time of the holder's last claim.
    claimed: i64,
    /// Process that holds the lease (spec 05 L23).
    process_id: u64,
    process_started_ms: i64,
    process_name: Name,
    pin_count: u32,
    first_pin: u32,
}

impl Lease {
    const NONE: Self = Self {
        application: Name::EMPTY,
        unit: Name::EMPTY,
        token: 0,
        expiry: 0,
        duration: 0,
        claimed: 0,
        process_id: 0,
        process_started_ms: 0,
        process_name: Name::EMPTY,
        pin_count: 0,
        first_pin: pins::NONE,
    };

    fn has_holder(&self) -> bool {
        self.unit.length > 0
    }

    fn process(&self) -> Process<'_> {
        let (id, started_ms) = (self.process_id, self.process_started_ms);
        Process { id, started_ms, name: self.process_name.as_str() }
    }

    fn set_process(&mut self, process: &Process<'_>) {
        (self.process_id, self.process_started_ms) = (process.id, process.started_ms);
        self.process_name.set(process.name);
    }
}

/// A tenure that is over: the waiters of the slot's application must be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedTenure {
    /// Slot of the lease.
    pub slot: usize,
    /// Fencing token of the tenure.
    pub token: u64,
}

/// A cluster timer that is to be set, or set again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerRequest {
    /// Correlation id of the timer.
    pub correlation_id: i64,
    /// Deadline of the timer, cluster time.
    pub deadline: i64,
}

/// Effects of an event besides its answer. A copy that only judges fences ignores them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effects {
    /// A tenure that ended here.
    pub ended: Option<EndedTenure>,
    /// A timer to be set.
    pub timer: Option<TimerRequest>,
}

/// All leases and pins of a cluster.
///
/// ```
/// use harrier_cluster::codec::TimeUnit;
/// use harrier_lease::codec::{Process, Request};
/// use harrier_lease::table::{LeaseTable, Outcome};
/// use harrier_lease::LeaseSettings;
///
/// let mut table = LeaseTable::new(LeaseSettings::default()).unwrap();
/// table.on_new_term(1_000, TimeUnit::Millis);
/// table.advance(2_000);
/// let (application, unit) = ("db", "db/0");
/// let process = Process { id: 7, started_ms: 0, name: "pid 1 on host-a" };
/// let claim = Request::Claim { correlation_id: 1, duration_ns: 30_000_000_000, application, unit, process };
/// let (outcome, effects) = table.apply(96, &claim);
/// // 30 s, the allowance for drift, a thousandth of them, and a unit for the timestamp's rounding.
/// assert!(matches!(outcome, Outcome::Answer { token: 96, expiry: 32_031, .. }));
/// assert_eq!(effects.timer.unwrap().deadline, 32_031);
/// assert!(table.is_current("db", 96) && !table.is_current("db", 64));
/// ```
pub struct LeaseTable {
    settings: LeaseSettings,
    time_unit: TimeUnit,
    /// Highest timestamp so far (spec 05 L22).
    time: i64,
    slots: Slots,
    index: Index,
    leases: Box<[Lease]>,
    /// Deadline of each slot's timer. A timer outlives its lease and serves the next one.
    timers: Box<[i64]>,
    timer_count: usize,
    pins: Pins,
}

impl LeaseTable {
    /// Creates an empty table, and allocates all its memory.
    ///
    /// # Errors
    ///
    /// Invalid setting.
    pub fn new(settings: LeaseSettings) -> Result<Self, InvalidLeaseSetting> {
        settings.validate()?;
        let limit = settings.max_leases;
        Ok(Self {
            settings,
            time_unit: TimeUnit::Millis,
            time: i64::MIN,
            slots: Slots::new(limit),
            index: Index::new(limit),
            leases: vec![Lease::NONE; limit].into_boxed_slice(),
            timers: vec![NO_TIMER; limit].into_boxed_slice(),
            timer_count: 0,
            pins: Pins::new(settings.max_pins),
        })
    }

    /// Settings of the table.
    pub fn settings(&self) -> &LeaseSettings {
        &self.settings
    }

    /// Highest timestamp so far.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// Number of applications with a holder or a pin.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True when no application has a holder or a pin.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the timestamp of an event of the log; a lower one than before counts as the highest (spec 05 L22).
    #[inline]
    pub fn advance(&mut self, timestamp: i64) {
        self.time = self.time.max(timestamp);
    }

    /// Begins a new leadership term: each live lease lasts its whole duration again, because the new leader's clock
    /// may be fast (spec 05 L11). A lease is live if it was at the last event before the term.
    pub fn on_new_term(&mut self, timestamp: i64, time_unit: TimeUnit) {
        if time_unit != self.time_unit {
            self.change_unit(time_unit);
        }
        let begin = self.time.max(timestamp);
        for slot in self.slots.taken_from(0) {
            let lease = &self.leases[slot];
            let is_live = lease.has_holder() && (lease.pin_count > 0 || lease.expiry > self.time);
            if is_live && !is_planted(Bug::LeaseNotExtended) {
                let end = extended(begin, lease.duration, self.settings.drift_divisor);
                self.leases[slot].expiry = lease.expiry.max(end);
            }
        }
        self.time = begin;
    }

    /// A timer has fired, early, late or for a lease that is gone: L5 decides (spec 05 L21). Returns `None` when it
    /// is not a timer of leases.
    pub fn on_timer(&mut self, correlation_id: i64) -> Option<Effects> {
        let slot = usize::try_from(correlation_id.checked_sub(TIMER_BASE)?).ok()?;
        if slot > u32::MAX as usize {
            return None;
        }
        let mut effects = Effects::default();
        if slot >= self.slots.limit() {
            return Some(effects);
        }
        self.timer_count -= usize::from(self.timers[slot] != NO_TIMER);
        self.timers[slot] = NO_TIMER;
        if self.slots.is_taken(slot) {
            self.settle(slot, &mut effects);
        }
        // A pinned lease that is past its time has no end to wait for.
        if self.slots.is_taken(slot) && self.leases[slot].has_holder() && self.leases[slot].expiry > self.time
        {
            self.arm(slot, &mut effects);
        }
        Some(effects)
    }

    /// True when the tenure with a token is the present one of its application (spec 05 L10).
    #[inline]
    pub fn is_current(&self, application: &str, token: u64) -> bool {
        token != 0 && self.current_token(application) == token
    }

    /// Returns the token of an application's present tenure; 0 without one.
    pub fn current_token(&self, application: &str) -> u64 {
        match self.find(application) {
            Some(slot) if self.is_live(slot) => self.leases[slot].token,
            _ => 0,
        }
    }

    /// Returns unit and token of an application's holder.
    pub fn holder(&self, application: &str) -> Option<(&str, u64)> {
        let slot = self.find(application).filter(|slot| self.is_live(*slot))?;
        Some((self.leases[slot].unit.as_str(), self.leases[slot].token))
    }

    /// Process that holds the lease at a slot, and cluster time of its last claim (spec 05 L23).
    pub(crate) fn process_at(&self, slot: usize) -> (Process<'_>, i64) {
        (self.leases[slot].process(), self.leases[slot].claimed)
    }

    fn find(&self, application: &str) -> Option<usize> {
        let bytes = application.as_bytes();
        self.index.find(hash(0, bytes), |slot| self.leases[slot].application.as_bytes() == bytes)
    }

    /// A lease is over when its expiry is at or before now, unless it is pinned (spec 05 L5).
    fn is_live(&self, slot: usize) -> bool {
        let lease = &self.leases[slot];
        lease.has_holder() && (lease.pin_count > 0 || lease.expiry > self.time)
    }

    /// Ends a tenure that is over.
    fn settle(&mut self, slot: usize, effects: &mut Effects) {
        if self.leases[slot].has_holder() && !self.is_live(slot) {
            self.end(slot, effects);
        }
    }

    fn end(&mut self, slot: usize, effects: &mut Effects) {
        let lease = &mut self.leases[slot];
        effects.ended = Some(EndedTenure { slot, token: lease.token });
        lease.unit.length = 0;
        (lease.token, lease.expiry, lease.duration, lease.claimed) = (0, 0, 0, 0);
        lease.set_process(&Process::UNNAMED);
        self.free_if_unused(slot);
    }

    fn free_if_unused(&mut self, slot: usize) {
        let lease = &self.leases[slot];
        if !lease.has_holder() && lease.pin_count == 0 {
            self.index.remove(hash(0, lease.application.as_bytes()), slot);
            self.slots.give_back(slot);
        }
    }

    /// Returns a slot for an application that has none.
    fn open(&mut self, application: &str) -> Option<usize> {
        let slot = self.slots.take()?;
        self.leases[slot] = Lease::NONE;
        self.leases[slot].application.set(application);
        self.index.insert(hash(0, application.as_bytes()), slot);
        Some(slot)
    }

    /// Sets the slot's timer, unless it fires early enough anyway.
    fn arm(&mut self, slot: usize, effects: &mut Effects) {
        let deadline = self.leases[slot].expiry;
        if deadline >= self.timers[slot] {
            return;
        }
        self.timer_count += usize::from(self.timers[slot] == NO_TIMER);
        self.timers[slot] = deadline;
        effects.timer = Some(TimerRequest { correlation_id: TIMER_BASE + slot as i64, deadline });
    }

    /// Counts all times in another unit from now on, rounding up.
    fn change_unit(&mut self, time_unit: TimeUnit) {
        let (old, new) = (unit_ns(self.time_unit), unit_ns(time_unit));
        let convert = |time: i64| match time {
            i64::MIN | i64::MAX => time,
            time if old >= new => time.saturating_mul(old / new),
            time => ceiling(time, new / old),
        };
        self.time_unit = time_unit;
        self.time = convert(self.time);
        for slot in 0..self.slots.limit() {
            self.timers[slot] = convert(self.timers[slot]);
            let lease = &mut self.leases[slot];
            (lease.expiry, lease.duration) = (convert(lease.expiry), convert(lease.duration));
            lease.claimed = convert(lease.claimed);
        }
    }
}

/// Duration of one unit, ns.
pub(crate) fn unit_ns(time_unit: TimeUnit) -> i64 {
    match time_unit {
        TimeUnit::Millis => 1_000_000,
        TimeUnit::Micros => 1_000,
        TimeUnit::Nanos => 1,
    }
}

/// Divides and rounds up; `divisor` is positive.
fn ceiling(value: i64, divisor: i64) -> i64 {
    value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)
}

/// A timestamp is rounded down: the event may have been later by this.
const STAMP_UNIT: i64 = 1;

/// Returns the end of a lease of `duration` from `time` on, with the allowance of at least one unit (spec 05 L11,
/// L22).
fn extended(time: i64, duration: i64, drift_divisor: i64) -> i64 {
    let allowance = ceiling(duration, drift_divisor).max(1) + STAMP_UNIT;
    // The result stays below the end of time, which means "never".
    time.saturating_add(duration).saturating_add(allowance).min(NEVER - 1)
}
