//! Termination of a member on request (spec 04 §4.11).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::core::{Core, Life};
use super::error::ModuleError;
use super::leading::Leading;
use super::role::{Role, Step};

/// A leader that waits for the end of its services.
pub(super) struct Terminating {
    /// The leadership that ends. Its publication stays until recording.log holds the end of the term.
    pub(super) leading: Box<Leading>,
    deadline_ns: i64,
    is_term_committed: bool,
}

impl Terminating {
    pub(super) fn new(leading: Box<Leading>, deadline_ns: i64) -> Self {
        Self { leading, deadline_ns, is_term_committed: false }
    }

    /// Takes one step.
    pub(super) fn step<M: Memory, S: Storage>(mut self: Box<Self>, core: &mut Core<M, S>) -> Step {
        let position = core.termination_position.unwrap_or(core.commit_position);
        self.leading.update_commit_position(core);
        if !self.is_term_committed {
            let is_step = self.commit_term(core, position)?;
            return Ok((Role::Terminating(self), is_step));
        }
        if core.files.poll()? {
            // The leadership is dropped. Without its publication the recording stops, after it has recorded everything.
            core.enter(Life::Closed);
            return Ok((Role::Ended, true));
        }
        Ok((Role::Terminating(self), true))
    }

    /// Writes the end of the term once the services have ended, or have had enough time for it.
    fn commit_term<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        position: i64,
    ) -> Result<bool, ModuleError> {
        let is_reached = core.take_acks(position, Purpose::Arrival)?.is_some();
        if !is_reached && core.now.ns <= self.deadline_ns {
            return Ok(false);
        }
        if !is_reached {
            let missing = core.acks.missing();
            core.record_error(&format!("services {missing:?} have not ended at {position} in time"));
        }
        if core.commit_position < position && is_reached {
            return Err(ModuleError::RecordingStopped(core.commit_position));
        }
        self.is_term_committed = true;
        let operations = core.recording_log.commit_term(core.leadership_term_id, position);
        core.files.submit(operations);
        Ok(true)
    }
}

impl<M: Memory, S: Storage> Core<M, S> {
    /// Tells the services to end at a position of the log, bytes; returns false when they cannot be told now.
    pub(super) fn terminate(&mut self, position: i64) -> bool {
        if !self.tell_termination(position) {
            return false;
        }
        self.termination_position = Some(position);
        self.enter(Life::Terminating);
        true
    }
}
