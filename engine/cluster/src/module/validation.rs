//! Whether the archive still has the snapshots that recording.log names (spec 04 §6.6).

use harrier_archive::client::ArchiveAnswer;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::agent::ConsensusModule;
use super::error::ModuleError;
use super::start::sent;

/// The recordings on their way: each is asked for its begin.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// Recordings to ask for, the next one last.
    to_ask: Vec<i64>,
    asked: Option<(i64, i64)>,
    unknown: Vec<i64>,
}

impl Validation {
    /// Hands over an answer of the archive; true when it was for this.
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

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    pub(super) fn begin_validation(&mut self) {
        if self.validation.is_none() {
            let entries = self.recording_log.entries().iter();
            let to_ask =
                entries.filter(|entry| entry.is_snapshot()).map(|entry| entry.recording_id).collect();
            self.validation = Some(Validation { to_ask, ..Validation::default() });
        }
    }

    pub(super) fn go_on_with_validation(&mut self) -> Result<usize, ModuleError> {
        let (Some(own), Some(aeron)) = (&mut self.validation, &self.aeron) else { return Ok(0) };
        if own.asked.is_some() {
            return Ok(0);
        }
        if let Some(recording_id) = own.to_ask.last().copied() {
            if let Some(correlation_id) = sent(self.archive.start_position(aeron, recording_id))? {
                own.asked = Some((correlation_id, recording_id));
                own.to_ask.pop();
            }
            return Ok(1);
        }
        let unknown = std::mem::take(&mut own.unknown);
        self.validation = None;
        let operations = self.recording_log.invalidate_recordings(&unknown);
        self.write_files(operations);
        for recording_id in unknown {
            let text =
                format!("snapshot in recording {recording_id} is invalid: the archive does not know it");
            self.record_error(&text);
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
