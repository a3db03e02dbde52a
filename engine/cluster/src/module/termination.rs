//! How a member ends on request (spec 04 §4.11).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::agent::{ConsensusModule, ModuleState};
use super::error::ModuleError;
use super::start::{Phase, Step};

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// Ends the member behind a snapshot that is being taken.
    pub(super) fn terminate_after_snapshot(&mut self, position: i64) {
        self.termination_position = Some(position);
    }

    /// Ends the member at a position of its log; false when the services cannot be told now.
    pub(super) fn terminate(&mut self, position: i64) -> bool {
        if !self.tell_termination(position) {
            return false;
        }
        self.termination_position = Some(position);
        self.enter(ModuleState::Terminating);
        self.phase = Phase::Terminating { deadline_ns: self.now.ns + self.context.termination_timeout_ns };
        true
    }

    pub(super) fn await_termination(&mut self, deadline_ns: i64) -> Step {
        let position = self.termination_position.unwrap_or(self.commit_position);
        self.update_commit_position();
        if !self.is_term_committed {
            let is_reached = self.take_acks(position, Purpose::Arrival)?.is_some();
            if !is_reached && self.now.ns <= deadline_ns {
                return Ok((Phase::Terminating { deadline_ns }, false));
            }
            if !is_reached {
                let missing = self.acks.missing();
                let text = format!("services {missing:?} have not ended at {position} in time");
                self.record_error(&text);
            }
            if self.commit_position < position && is_reached {
                return Err(ModuleError::RecordingStopped(self.commit_position));
            }
            self.is_term_committed = true;
            let operations = self.recording_log.commit_term(self.leadership_term_id, position);
            self.write_files(operations);
            return Ok((Phase::Terminating { deadline_ns }, true));
        }
        if self.files_are_written()? {
            // Without its publication the recording stops, all of it being recorded.
            self.log = None;
            self.enter(ModuleState::Closed);
        }
        Ok((Phase::Terminating { deadline_ns }, true))
    }
}
