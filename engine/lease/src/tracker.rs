//! Keeping leadership: a state machine over any claimer (spec 05 L12–L18).

use thiserror::Error;

use crate::claimer::{Fence, PolledClaimer, RequestId, Tenure};
use crate::errors::{ClaimError, HeldUnit};
use crate::names::{InvalidInput, application_of, check_name};
use crate::ticket::{Resolver, Ticket};

#[cfg(test)]
mod tests;

/// Reason why a tracker failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TrackerError {
    /// A claim failed in a way that says nothing about leadership (spec 05 L15), or another living process holds the
    /// unit (spec 05 L23).
    #[error("leadership failure: {0}")]
    Leadership(#[from] ClaimError),
}

/// Number of claims within the guaranteed duration that a tracker makes while it cannot wait for release.
const PAUSES_IN_DURATION: i64 = 4;

/// A tracker's view of its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackerState {
    /// The first claim has no answer yet.
    Starting,
    /// The unit leads.
    Leader,
    /// The unit does not lead, or cannot know that it does.
    Minion,
    /// The tracker is releasing its lease.
    Stopping,
    /// The tracker has stopped.
    Stopped,
}

/// Progress of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// In the next duty cycle.
    Now,
    /// Waits for a pending claim, because its lease must be released.
    WithRelease,
    Releasing(RequestId),
    Done,
}

struct ClaimTicket {
    resolver: Resolver,
    issued_ns: i64,
}

/// Keeps one unit the leader of its application as long as possible. Call [`do_work`](Self::do_work) in a
/// duty cycle, with a claimer. All times are ns of the caller's monotonic clock.
///
/// ```
/// use harrier_lease::{PolledTracker, TrackerState};
///
/// let tracker = PolledTracker::new("db/0", 10_000_000_000).unwrap();
/// assert_eq!((tracker.application_name(), tracker.state()), ("db", TrackerState::Starting));
/// ```
pub struct PolledTracker {
    unit: String,
    application: String,
    duration_ns: i64,
    state: TrackerState,
    stop: Stop,
    tenure: Option<Tenure>,
    renew_at_ns: i64,
    /// A claim under way, and when it was begun.
    claim: Option<(RequestId, i64)>,
    block: Option<RequestId>,
    /// After a wait that ended with an error the next claim is not made before: a service without room for waiters
    /// would be asked without end.
    claim_at_ns: i64,
    /// Process that held the unit when this tracker last claimed (spec 05 L23).
    rival: Option<Box<HeldUnit>>,
    claim_tickets: Vec<ClaimTicket>,
    leader_tickets: Vec<Resolver>,
    minion_tickets: Vec<Resolver>,
    failure: Option<TrackerError>,
}

impl PolledTracker {
    /// Creates a tracker for a unit whose name contains its application (spec 05 L12). A true claim ticket guarantees
    /// `duration_ns`; the tracker claims twice that.
    ///
    /// # Errors
    /// Invalid name or duration.
    pub fn new(unit: &str, duration_ns: i64) -> Result<Self, InvalidInput> {
        Self::of(application_of(unit)?, unit, duration_ns)
    }

    /// Like [`new`](Self::new), for a unit whose name does not contain its application.
    ///
    /// # Errors
    /// Invalid name or duration.
    pub fn of(application: &str, unit: &str, duration_ns: i64) -> Result<Self, InvalidInput> {
        check_name("application", application)?;
        check_name("unit", unit)?;
        if !(1..=i64::MAX / 4).contains(&duration_ns) {
            return Err(InvalidInput { field: "duration", rule: "must be positive" });
        }
        Ok(Self {
            unit: unit.to_owned(),
            application: application.to_owned(),
            duration_ns,
            state: TrackerState::Starting,
            stop: Stop::No,
            tenure: None,
            renew_at_ns: i64::MIN,
            claim: None,
            block: None,
            claim_at_ns: i64::MIN,
            rival: None,
            claim_tickets: Vec::new(),
            leader_tickets: Vec::new(),
            minion_tickets: Vec::new(),
            failure: None,
        })
    }

    /// The application.
    pub fn application_name(&self) -> &str {
        &self.application
    }

    /// The unit.
    pub fn unit_name(&self) -> &str {
        &self.unit
    }

    /// Duration that a true claim ticket guarantees, ns.
    pub fn claim_duration_ns(&self) -> i64 {
        self.duration_ns
    }

    /// The tracker's view of its unit.
    pub fn state(&self) -> TrackerState {
        self.state
    }

    /// True once it has stopped.
    pub fn is_stopped(&self) -> bool {
        self.state == TrackerState::Stopped
    }

    /// Reason why the tracker failed.
    pub fn failure(&self) -> Option<&TrackerError> {
        self.failure.as_ref()
    }

    /// The present tenure, while the unit leads for certain.
    pub fn tenure(&self, now_ns: i64) -> Option<Tenure> {
        self.tenure.filter(|tenure| self.state == TrackerState::Leader && now_ns < tenure.guaranteed_until_ns)
    }

    /// The fence of the present tenure, while the unit leads for certain.
    pub fn fence(&self, now_ns: i64) -> Option<Fence> {
        let token = self.tenure(now_ns)?.token;
        Some(Fence { application: self.application.clone(), unit: self.unit.clone(), token })
    }

    /// True iff leadership is guaranteed for the duration from now on (spec 05 L16). A renewal that is due is done
    /// first.
    pub fn claim_leader(&mut self, now_ns: i64) -> Ticket {
        let is_certain = match self.state {
            TrackerState::Leader => {
                let wanted = now_ns.saturating_add(self.duration_ns);
                let is_guaranteed = self.tenure.is_some_and(|tenure| tenure.guaranteed_until_ns >= wanted);
                (is_guaranteed && self.claim.is_none() && now_ns < self.renew_at_ns).then_some(true)
            }
            TrackerState::Starting => None,
            _ => Some(false),
        };
        match is_certain {
            Some(answer) => Ticket::answered(answer),
            None => {
                let (resolver, ticket) = Ticket::new();
                self.claim_tickets.push(ClaimTicket { resolver, issued_ns: now_ns });
                ticket
            }
        }
    }

    /// True once the unit leads (spec 05 L17).
    pub fn wait_leader(&mut self, now_ns: i64) -> Ticket {
        match self.state {
            TrackerState::Stopping | TrackerState::Stopped => Ticket::answered(false),
            _ if self.tenure(now_ns).is_some() => Ticket::answered(true),
            _ => {
                let (resolver, ticket) = Ticket::new();
                self.leader_tickets.push(resolver);
                ticket
            }
        }
    }

    /// False once future leadership can no longer be guaranteed (spec 05 L17).
    pub fn wait_minion(&mut self, now_ns: i64) -> Ticket {
        let is_leading = self.tenure(now_ns).is_some();
        if is_leading || self.state == TrackerState::Starting {
            let (resolver, ticket) = Ticket::new();
            self.minion_tickets.push(resolver);
            return ticket;
        }
        Ticket::answered(false)
    }

    /// Begins to stop; every pending ticket resolves false. With `release` a lease is released, otherwise it expires.
    /// [`do_work`](Self::do_work) continues until [`is_stopped`](Self::is_stopped).
    pub fn stop(&mut self, release: bool) {
        if self.stop != Stop::No {
            return;
        }
        self.stop = if release { Stop::WithRelease } else { Stop::Now };
        self.state = TrackerState::Stopping;
        self.resolve_all_false();
    }

    /// Time at which the tracker has work even if no answer arrives, monotonic ns.
    pub fn next_deadline(&self) -> Option<i64> {
        if self.state == TrackerState::Minion && self.block.is_none() && self.claim.is_none() {
            return Some(self.claim_at_ns);
        }
        let tenure = self.tenure.filter(|_| self.state == TrackerState::Leader)?;
        Some(if self.claim.is_some() { tenure.guaranteed_until_ns } else { self.renew_at_ns })
    }

    /// Advances the tracker; returns the work done.
    pub fn do_work<C: PolledClaimer + ?Sized>(&mut self, claimer: &mut C, now_ns: i64) -> usize {
        if self.stop != Stop::No {
            return self.go_on_stopping(claimer, now_ns);
        }
        let mut work_count = self.poll_claim(claimer, now_ns);
        if self.stop != Stop::No {
            return work_count + self.go_on_stopping(claimer, now_ns);
        }
        work_count += self.check_guarantee(now_ns);
        work_count += self.poll_block(claimer, now_ns);
        let is_due = match self.state {
            TrackerState::Leader => now_ns >= self.renew_at_ns,
            _ => self.block.is_none() && now_ns >= self.claim_at_ns,
        };
        if is_due && self.claim.is_none() {
            work_count += 1;
            // Twice the duration (spec 05 L12).
            let claimed_ns = 2 * self.duration_ns;
            match claimer.start_claim(&self.application, &self.unit, claimed_ns, now_ns) {
                Ok(id) => self.claim = Some((id, now_ns)),
                Err(error) => self.on_claim_error(claimer, error, now_ns),
            }
        }
        work_count
    }

    fn poll_claim<C: PolledClaimer + ?Sized>(&mut self, claimer: &mut C, now_ns: i64) -> usize {
        let Some((id, started_ns)) = self.claim else { return 0 };
        let Some(outcome) = claimer.poll_claim(id) else { return 0 };
        self.claim = None;
        match outcome {
            Ok(tenure) => self.on_claimed(tenure, started_ns, now_ns),
            Err(error) => self.on_claim_error(claimer, error, now_ns),
        }
        1
    }

    /// Spec 05 L13: half of the claimed time after the call's start it renews.
    fn on_claimed(&mut self, tenure: Tenure, started_ns: i64, now_ns: i64) {
        if self.tenure.is_some_and(|former| former.token != tenure.token) {
            // Another tenure: there was a moment between them.
            resolve(&mut self.minion_tickets, false);
        }
        self.tenure = Some(tenure);
        self.rival = None;
        self.renew_at_ns = started_ns.saturating_add(self.duration_ns);
        self.state = TrackerState::Leader;
        if now_ns < tenure.guaranteed_until_ns {
            resolve(&mut self.leader_tickets, true);
        }
        let duration_ns = self.duration_ns;
        // A ticket that this renewal cannot satisfy waits for the next renewal, which is due now.
        self.claim_tickets.retain_mut(|ticket| {
            let wanted = ticket.issued_ns.saturating_add(duration_ns);
            let is_guaranteed = tenure.guaranteed_until_ns >= wanted;
            if is_guaranteed {
                std::mem::replace(&mut ticket.resolver, Ticket::new().0).resolve(true);
            }
            !is_guaranteed
        });
    }

    fn on_claim_error<C: PolledClaimer + ?Sized>(&mut self, claimer: &mut C, error: ClaimError, now_ns: i64) {
        match error {
            ClaimError::Denied => self.rival = None,
            ClaimError::UnitHeld(held) if !self.is_alive(&held) => return self.await_expiry(held, now_ns),
            error => {
                // Spec 05 L15, L23.
                self.failure = Some(error.into());
                self.stop = Stop::Now;
                self.state = TrackerState::Stopping;
                return self.resolve_all_false();
            }
        }
        // Spec 05 L14: the tracker starts one wait and claims again when that returns.
        self.become_minion();
        if self.block.is_none() {
            self.block = claimer.start_block(&self.application, now_ns).ok();
            self.claim_at_ns = if self.block.is_some() { i64::MIN } else { self.pause_until_ns(now_ns) };
        }
    }

    /// True when the process that holds the unit has claimed again since this tracker's last claim: it is alive then,
    /// and not a predecessor that has died (spec 05 L23).
    fn is_alive(&self, held: &HeldUnit) -> bool {
        let rival = self.rival.as_ref();
        rival.is_some_and(|rival| rival.holder.id == held.holder.id && rival.claimed < held.claimed)
    }

    /// Claims again after a pause, because the holder may have died. Its lease then expires.
    fn await_expiry(&mut self, held: Box<HeldUnit>, now_ns: i64) {
        self.become_minion();
        self.rival = Some(held);
        self.claim_at_ns = self.pause_until_ns(now_ns);
    }

    /// Process that holds this tracker's unit and may have died (spec 05 L23).
    pub fn rival(&self) -> Option<&HeldUnit> {
        self.rival.as_deref()
    }

    fn become_minion(&mut self) {
        self.state = TrackerState::Minion;
        self.tenure = None;
        resolve(&mut self.minion_tickets, false);
        self.claim_tickets.clear();
    }

    /// A guarantee that has run out while its renewal has no answer is none.
    fn check_guarantee(&mut self, now_ns: i64) -> usize {
        let has_run_out = self.state == TrackerState::Leader
            && self.tenure.is_some_and(|tenure| now_ns >= tenure.guaranteed_until_ns);
        if has_run_out {
            self.become_minion();
        }
        usize::from(has_run_out)
    }

    fn poll_block<C: PolledClaimer + ?Sized>(&mut self, claimer: &mut C, now_ns: i64) -> usize {
        let Some(id) = self.block else { return 0 };
        let Some(outcome) = claimer.poll_block(id) else { return 0 };
        self.block = None;
        // After an error the tracker pauses before it claims again.
        if outcome.is_err() {
            self.claim_at_ns = self.pause_until_ns(now_ns);
        }
        1
    }

    fn pause_until_ns(&self, now_ns: i64) -> i64 {
        now_ns.saturating_add(self.duration_ns / PAUSES_IN_DURATION)
    }

    fn go_on_stopping<C: PolledClaimer + ?Sized>(&mut self, claimer: &mut C, now_ns: i64) -> usize {
        if let Some(block) = self.block.take() {
            claimer.cancel(block);
        }
        match self.stop {
            Stop::No | Stop::Done => return 0,
            Stop::Now => {
                if let Some((claim, _)) = self.claim.take() {
                    claimer.cancel(claim);
                }
                self.end();
            }
            Stop::WithRelease => {
                if let Some((claim, _)) = self.claim {
                    match claimer.poll_claim(claim) {
                        None => return 0,
                        Some(Ok(tenure)) => self.tenure = Some(tenure),
                        Some(Err(ClaimError::Denied)) => self.tenure = None,
                        // The unit may still hold its earlier lease.
                        Some(Err(_)) => {}
                    }
                    self.claim = None;
                }
                let release = self
                    .tenure
                    .take()
                    .map(|tenure| claimer.start_release(&self.application, &self.unit, tenure.token, now_ns));
                match release {
                    Some(Ok(id)) => self.stop = Stop::Releasing(id),
                    Some(Err(_)) | None => self.end(),
                }
            }
            Stop::Releasing(id) => {
                // Stale, or unanswered: the lease is gone, or left to expire.
                if claimer.poll_release(id).is_none() {
                    return 0;
                }
                self.end();
            }
        }
        1
    }

    fn end(&mut self) {
        self.stop = Stop::Done;
        self.state = TrackerState::Stopped;
        self.tenure = None;
    }

    fn resolve_all_false(&mut self) {
        // Dropped, a resolver answers false.
        self.claim_tickets.clear();
        self.leader_tickets.clear();
        self.minion_tickets.clear();
    }
}

fn resolve(tickets: &mut Vec<Resolver>, answer: bool) {
    tickets.drain(..).for_each(|ticket| ticket.resolve(answer));
}
