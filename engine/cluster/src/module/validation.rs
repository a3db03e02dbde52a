//! Check that the archive still has the snapshots in recording.log (spec 04 §6.6).

use harrier_archive::client::ArchiveAnswer;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::Core;
use super::error::ModuleError;
use super::requests::sent;

/// A check in progress: the archive is asked for the start position of each recording.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// Recordings to ask for, the next one last.
    to_ask: Vec<i64>,
    asked: Option<(i64, i64)>,
    unknown: Vec<i64>,
}

impl Validation {
    /// Hands over an answer of the archive; returns true when the check waits for it.
    pub(super) fn on_answer(&mut self, answer: &ArchiveAnswer) -> bool {
        let Some((correlation_id, recording_id)) = self.asked else { return false };
        if answer.correlation_id() != correlation_id {
            return false;
        }
        self.asked = None;
        if !matches!(answer, ArchiveAnswer::Ok { .. }) {
            self.unknown.push(recording_id);
        }
        true
    }
}

impl<M: Memory, S: Storage> Core<M, S> {
    /// Starts to ask for all snapshots of recording.log.
    pub(super) fn begin_validation(&mut self) {
        if self.validation.is_none() {
            let snapshots = self.recording_log.entries().iter().filter(|entry| entry.is_snapshot());
            let to_ask = snapshots.map(|entry| entry.recording_id).collect();
            self.validation = Some(Validation { to_ask, ..Validation::default() });
        }
    }

    /// Takes one step; returns the work done.
    pub(super) fn advance_validation(&mut self) -> Result<usize, ModuleError> {
        let Some(validation) = &mut self.validation else { return Ok(0) };
        if validation.asked.is_some() {
            return Ok(0);
        }
        if let Some(recording_id) = validation.to_ask.last().copied() {
            let outcome = self.archive.start_position(&self.aeron, recording_id);
            if let Some(correlation_id) = sent(outcome)? {
                validation.asked = Some((correlation_id, recording_id));
                validation.to_ask.pop();
            }
            return Ok(1);
        }
        let unknown = std::mem::take(&mut validation.unknown);
        self.validation = None;
        let operations = self.recording_log.invalidate_recordings(&unknown);
        self.files.submit(operations);
        for recording_id in unknown {
            self.record_error(&format!(
                "snapshot in recording {recording_id} is invalid: the archive does not know it"
            ));
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_that_the_archive_does_not_know_are_remembered() {
        let mut validation = Validation { asked: Some((5, 9)), ..Validation::default() };
        let other = ArchiveAnswer::Ok { correlation_id: 4, relevant_id: 0 };
        assert!(!validation.on_answer(&other));
        let unknown = ArchiveAnswer::RecordingUnknown { correlation_id: 5, recording_id: 9 };
        assert!(validation.on_answer(&unknown));
        assert_eq!(validation.unknown, [9]);
        assert!(!validation.on_answer(&unknown));
    }
}
