//! Requests, applied in the order of the log.

use harrier_ringbuf::planted::{Bug, is_planted};

use super::{Effects, LeaseTable, NEVER, ceiling, extended, pins, unit_ns};
use crate::codec::{AnswerCode, MAX_NAME_LENGTH, Process, Request};
use crate::names::{InvalidInput, check_name};

/// Answer that a request gets, or work that its answer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer.
    Answer {
        /// Outcome of the request.
        code: AnswerCode,
        /// Fencing token of the tenure; 0 for none.
        token: u64,
        /// Cluster time at which the lease ends.
        expiry: i64,
        /// Limit that was reached; 0 for none.
        limit: i64,
        /// Detail of the code, for people; empty without one.
        detail: &'static str,
    },
    /// Another process holds the lease at the slot for the same unit (spec 05 L23).
    UnitHeld {
        /// Slot of the lease.
        slot: usize,
        /// Fencing token of the tenure; 0 for none.
        token: u64,
        /// Cluster time at which the lease ends.
        expiry: i64,
    },
    /// The wait for a tenure is to be registered at the slot.
    Wait {
        /// Slot of the lease that is waited for.
        slot: usize,
        /// Token of the tenure that is waited for.
        token: u64,
    },
    /// The tenure of the wait is over.
    Over {
        /// Token of the tenure that is over.
        token: u64,
    },
    /// A wait is to be cancelled.
    CancelWait,
    /// A page of leases is to be sent.
    Leases {
        /// First slot of the page.
        from: usize,
    },
    /// A page of pins is to be sent.
    Pins {
        /// First index of the page.
        from: usize,
    },
    /// A session of the client is to be ended.
    EndSession {
        /// Session to end.
        session_id: i64,
    },
}

fn answer(code: AnswerCode, token: u64, expiry: i64) -> Outcome {
    Outcome::Answer { code, token, expiry, limit: 0, detail: "" }
}

/// Returns the answer when a limit is reached.
pub(crate) fn limit_reached(code: AnswerCode, name: &'static str, limit: usize) -> Outcome {
    Outcome::Answer { code, token: 0, expiry: 0, limit: limit as i64, detail: name }
}

fn invalid(error: InvalidInput) -> Outcome {
    // There are few pairs of field and rule. A client that checks before it sends never sees one.
    let detail = match error.field {
        "application" => "application: 1 to 128 bytes without white space and control characters",
        "unit" => "unit: 1 to 128 bytes without white space and control characters",
        "entity" => "entity: 1 to 128 bytes without white space and control characters",
        "process" => "process: at most 128 bytes",
        "duration" => "duration: must be within the configured bounds",
        _ => "cursor: must not be negative",
    };
    Outcome::Answer { code: AnswerCode::Invalid, token: 0, expiry: 0, limit: 0, detail }
}

/// Claimant and duration of a claim.
struct Claimant<'a> {
    unit: &'a str,
    process: Process<'a>,
    /// Duration in units of cluster time.
    duration: i64,
}

/// Checks the name of a process: at most 128 bytes, empty when the process is not named.
fn check_process(process: &Process<'_>) -> Result<(), InvalidInput> {
    if process.name.len() <= MAX_NAME_LENGTH {
        return Ok(());
    }
    Err(InvalidInput { field: "process", rule: "must not be longer than 128 bytes" })
}

impl LeaseTable {
    /// Applies a request at its position in the log. Its timestamp must have been [taken](Self::advance) before.
    pub fn apply(&mut self, log_position: i64, request: &Request<'_>) -> (Outcome, Effects) {
        let mut effects = Effects::default();
        let outcome = self.carry_out(log_position, request, &mut effects).unwrap_or_else(invalid);
        (outcome, effects)
    }

    fn carry_out(
        &mut self,
        log_position: i64,
        request: &Request<'_>,
        effects: &mut Effects,
    ) -> Result<Outcome, InvalidInput> {
        let cursor = |cursor: i32| {
            let rule = "must not be negative";
            usize::try_from(cursor).map_err(|_| InvalidInput { field: "cursor", rule })
        };
        Ok(match *request {
            Request::Claim { duration_ns, application, unit, process, .. } => {
                check_name("application", application)?;
                check_name("unit", unit)?;
                check_process(&process)?;
                let bounds = self.settings.min_duration_ns..=self.settings.max_duration_ns;
                if !bounds.contains(&duration_ns) {
                    return Err(InvalidInput { field: "duration", rule: "must be within bounds" });
                }
                let duration = ceiling(duration_ns, unit_ns(self.time_unit));
                self.claim(log_position, application, &Claimant { unit, process, duration }, effects)
            }
            Request::Release { token, application, unit, .. } => {
                check_name("application", application)?;
                check_name("unit", unit)?;
                self.release(application, unit, token, effects)
            }
            Request::Check { application, unit, .. } => {
                check_name("application", application)?;
                check_name("unit", unit)?;
                self.check(application, unit, effects)
            }
            Request::Wait { token, application, .. } => {
                check_name("application", application)?;
                self.wait(application, token, effects)
            }
            Request::Pin { application, entity, .. } => {
                check_name("application", application)?;
                check_name("entity", entity)?;
                self.pin(application, entity, effects)
            }
            Request::Unpin { application, entity, .. } => {
                check_name("application", application)?;
                check_name("entity", entity)?;
                self.unpin(application, entity, effects)
            }
            Request::CancelWait { .. } => Outcome::CancelWait,
            Request::EndSession { session_id, .. } => Outcome::EndSession { session_id },
            Request::List { cursor: from, .. } => Outcome::Leases { from: cursor(from)? },
            Request::Pinned { cursor: from, .. } => Outcome::Pins { from: cursor(from)? },
        })
    }

    /// Returns the slot of an application, after it has ended a tenure that is over.
    fn settled(&mut self, application: &str, effects: &mut Effects) -> Option<usize> {
        let slot = self.find(application)?;
        self.settle(slot, effects);
        self.slots.is_taken(slot).then_some(slot)
    }

    pub(super) fn told_expiry(&self, slot: usize) -> i64 {
        let lease = &self.leases[slot];
        if lease.pin_count > 0 { NEVER } else { lease.expiry }
    }

    fn claim(
        &mut self,
        log_position: i64,
        application: &str,
        claimant: &Claimant<'_>,
        effects: &mut Effects,
    ) -> Outcome {
        let slot = match self.settled(application, effects) {
            Some(slot) => slot,
            None => match self.open(application) {
                Some(slot) => slot,
                None => {
                    return limit_reached(AnswerCode::TooManyLeases, "max_leases", self.settings.max_leases);
                }
            },
        };
        let Claimant { unit, process, duration } = *claimant;
        let expiry = extended(self.time, duration, self.settings.drift_divisor);
        let lease = &mut self.leases[slot];
        if !lease.has_holder() {
            lease.unit.set(unit);
            lease.set_process(&process);
            // Positions of the log only grow, and so do tokens.
            lease.token =
                if is_planted(Bug::TokenNotMonotonic) { expiry as u64 } else { log_position as u64 };
            (lease.expiry, lease.duration) = (expiry, duration);
        } else if lease.unit.as_bytes() == unit.as_bytes() {
            if lease.process_id != process.id {
                let token = lease.token;
                return Outcome::UnitHeld { slot, token, expiry: self.told_expiry(slot) };
            }
            // The expiry never moves earlier; the duration is the one from which the expiry was computed (spec 05
            // L4).
            if expiry > lease.expiry {
                (lease.expiry, lease.duration) = (expiry, duration);
            }
        } else {
            let token = lease.token;
            return answer(AnswerCode::Denied, token, self.told_expiry(slot));
        }
        self.leases[slot].claimed = self.time;
        self.arm(slot, effects);
        answer(AnswerCode::Granted, self.leases[slot].token, self.told_expiry(slot))
    }

    /// Releases a tenure. A tenure that is over already, without a successor, counts as released (spec 05 L8).
    fn release(&mut self, application: &str, unit: &str, token: u64, effects: &mut Effects) -> Outcome {
        let holder = self.settled(application, effects).filter(|slot| self.leases[*slot].has_holder());
        let Some(slot) = holder else { return answer(AnswerCode::Released, token, 0) };
        let lease = &self.leases[slot];
        if lease.token != token || lease.unit.as_bytes() != unit.as_bytes() {
            return answer(AnswerCode::Stale, lease.token, 0);
        }
        self.end(slot, effects);
        answer(AnswerCode::Released, token, 0)
    }

    fn check(&mut self, application: &str, unit: &str, effects: &mut Effects) -> Outcome {
        let Some(slot) = self.settled(application, effects) else {
            return answer(AnswerCode::NotHeld, 0, 0);
        };
        let lease = &self.leases[slot];
        if lease.has_holder() && lease.unit.as_bytes() == unit.as_bytes() {
            answer(AnswerCode::Held, lease.token, self.told_expiry(slot))
        } else {
            answer(AnswerCode::NotHeld, lease.token, 0)
        }
    }

    fn wait(&mut self, application: &str, token: u64, effects: &mut Effects) -> Outcome {
        let holder = self.settled(application, effects).filter(|slot| self.leases[*slot].has_holder());
        let Some(slot) = holder else { return Outcome::Over { token } };
        let current = self.leases[slot].token;
        if token == 0 || token == current || is_planted(Bug::WakeUpLost) {
            Outcome::Wait { slot, token: current }
        } else {
            Outcome::Over { token }
        }
    }

    fn pin(&mut self, application: &str, entity: &str, effects: &mut Effects) -> Outcome {
        let settled = self.settled(application, effects);
        if settled.is_some_and(|slot| self.pins.find(slot, entity).is_some()) {
            return answer(AnswerCode::Pinned, 0, 0);
        }
        if self.pins.is_full() {
            return limit_reached(AnswerCode::TooManyPins, "max_pins", self.settings.max_pins);
        }
        let Some(slot) = settled.or_else(|| self.open(application)) else {
            return limit_reached(AnswerCode::TooManyLeases, "max_leases", self.settings.max_leases);
        };
        let lease = &mut self.leases[slot];
        if let Some(pin) = self.pins.add(slot, entity, lease.first_pin) {
            lease.first_pin = pin;
            lease.pin_count += 1;
        }
        answer(AnswerCode::Pinned, 0, 0)
    }

    /// Removes a pin. When the last pin goes, expiry is judged at the time of this message.
    fn unpin(&mut self, application: &str, entity: &str, effects: &mut Effects) -> Outcome {
        if let Some(slot) = self.settled(application, effects)
            && let Some(pin) = self.pins.find(slot, entity)
        {
            self.remove_pin(slot, pin);
            self.settle(slot, effects);
            if self.slots.is_taken(slot) {
                let lease = &self.leases[slot];
                match (lease.has_holder(), lease.pin_count) {
                    (true, 0) => self.arm(slot, effects),
                    (true, _) => {}
                    (false, _) => self.free_if_unused(slot),
                }
            }
        }
        answer(AnswerCode::Unpinned, 0, 0)
    }

    fn remove_pin(&mut self, slot: usize, pin: usize) {
        let lease = &mut self.leases[slot];
        lease.first_pin = self.pins.remove(slot, pin, lease.first_pin);
        lease.pin_count -= 1;
        debug_assert_eq!(lease.pin_count == 0, lease.first_pin == pins::NONE);
    }
}
