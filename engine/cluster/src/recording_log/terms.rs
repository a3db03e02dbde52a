//! Terms that a member learns of from a leader (spec 04 §6.1, 07 §25).

use harrier_ringbuf::storage::Operation;
use thiserror::Error;

use super::{EntryType, RecordingLog};

/// Largest gap between two terms. Candidates raise the term by one for each ballot, so a larger gap comes from a damaged
/// file or a forged message.
pub const MAX_TERM_GAP: i64 = 1 << 20;

/// A term with the range of the log that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TermRange {
    /// Leadership term id.
    pub leadership_term_id: i64,
    /// Log position at which the term begins, bytes; `None` when the caller does not know it.
    pub base: Option<i64>,
    /// Log position at which the term ends, bytes; `None` while it is open.
    pub end: Option<i64>,
}

/// A term that contradicts recording.log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IncoherentTerm {
    /// The term is older than the last one, and the file does not have it.
    #[error("recording.log has no term {0}, although it has later terms")]
    Unknown(i64),
    /// The last term is open, and nobody says where the new one begins.
    #[error("term {open} of recording.log is open, and the base of term {leadership_term_id} is unknown")]
    BaseUnknown {
        /// The open term.
        open: i64,
        /// The new term.
        leadership_term_id: i64,
    },
    /// The new term does not begin where the last one ended.
    #[error(
        "term {leadership_term_id} begins at {base}, but term {previous} of recording.log ended at {end}: the logs differ"
    )]
    BaseDiffers {
        /// The new term.
        leadership_term_id: i64,
        /// Position at which it begins, bytes.
        base: i64,
        /// Last term of the file.
        previous: i64,
        /// Position at which that one ended, bytes.
        end: i64,
    },
    /// The term is further ahead than any number of ballots explains.
    #[error("term {leadership_term_id} is more than {MAX_TERM_GAP} above term {previous} of recording.log")]
    Gap {
        /// The new term.
        leadership_term_id: i64,
        /// Last term of the file; -1 for an empty one.
        previous: i64,
    },
}

impl RecordingLog {
    /// The valid entry of a term, as a range.
    pub fn term(&self, leadership_term_id: i64) -> Option<TermRange> {
        let is_wanted = |range: &TermRange| range.leadership_term_id == leadership_term_id;
        self.terms().find(is_wanted)
    }

    /// All valid terms in file order.
    pub fn terms(&self) -> impl Iterator<Item = TermRange> + '_ {
        self.entries.iter().filter(|entry| entry.is_term() && entry.is_valid).map(|entry| TermRange {
            leadership_term_id: entry.leadership_term_id,
            base: Some(entry.term_base_log_position),
            end: Some(entry.log_position).filter(|position| *position != -1),
        })
    }

    /// Makes the file contain a term: ends the one before where this one begins, and writes terms between that nobody led
    /// as empty ones. A file without terms begins with term `first.0` at position `first.1` (spec 07 §25). Returns no
    /// operations when the file says all of this already.
    ///
    /// # Errors
    /// See [`IncoherentTerm`]; the file is unchanged then.
    pub fn ensure_coherent(
        &mut self,
        recording_id: i64,
        term: TermRange,
        first: (i64, i64),
        timestamp: i64,
    ) -> Result<Vec<Operation>, IncoherentTerm> {
        let leadership_term_id = term.leadership_term_id;
        let last = self.last_term().map(|entry| (entry.leadership_term_id, entry.log_position));
        if let Some((last_id, _)) = last
            && leadership_term_id <= last_id
        {
            let Some(known) = self.term(leadership_term_id) else {
                return Err(IncoherentTerm::Unknown(leadership_term_id));
            };
            return Ok(match term.end.filter(|end| known.end != Some(*end)) {
                Some(end) => self.commit_term(leadership_term_id, end),
                None => Vec::new(),
            });
        }
        let base = base_of(term, last, first.1)?;
        let next = last.map_or(first.0.max(0), |(last_id, _)| last_id + 1).min(leadership_term_id);
        if leadership_term_id - next > MAX_TERM_GAP {
            let previous = last.map_or(-1, |(last_id, _)| last_id);
            return Err(IncoherentTerm::Gap { leadership_term_id, previous });
        }
        let mut operations = Vec::new();
        if let Some((last_id, -1)) = last {
            operations.extend(self.write_position(last_id, base));
        }
        let offset = self.end as u64;
        let mut bytes = Vec::new();
        for id in next..=leadership_term_id {
            let mut entry = self.new_entry(EntryType::Term, recording_id, -1);
            entry.leadership_term_id = id;
            entry.term_base_log_position = base;
            entry.log_position = if id == leadership_term_id { term.end.unwrap_or(-1) } else { base };
            entry.timestamp = timestamp;
            bytes.extend(self.push(entry));
        }
        operations.push(self.write(offset, bytes));
        Ok(self.seal(operations))
    }
}

/// Returns the base position of a new term: the end of the last one. An error if the caller expects another.
fn base_of(term: TermRange, last: Option<(i64, i64)>, initial: i64) -> Result<i64, IncoherentTerm> {
    let leadership_term_id = term.leadership_term_id;
    match (last, term.base) {
        (None, base) => Ok(base.unwrap_or(initial)),
        (Some((open, -1)), None) => Err(IncoherentTerm::BaseUnknown { open, leadership_term_id }),
        (Some((_, -1)), Some(base)) => Ok(base),
        (Some((previous, end)), Some(base)) if base != end => {
            Err(IncoherentTerm::BaseDiffers { leadership_term_id, base, previous, end })
        }
        (Some((_, end)), _) => Ok(end),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use harrier_ringbuf::heap::HeapStorage;
    use harrier_ringbuf::storage::Storage;

    struct Rig {
        storage: HeapStorage,
        log: RecordingLog,
    }

    impl Rig {
        fn new() -> Self {
            let mut storage = HeapStorage::new();
            let log = RecordingLog::open(&mut storage, Path::new("/c"), None).unwrap();
            Self { storage, log }
        }

        fn ensure(
            &mut self,
            leadership_term_id: i64,
            base: impl Into<Option<i64>>,
            end: impl Into<Option<i64>>,
        ) -> Result<usize, IncoherentTerm> {
            let term = TermRange { leadership_term_id, base: base.into(), end: end.into() };
            let operations = self.log.ensure_coherent(7, term, (0, 0), 5)?;
            let count = operations.len();
            for operation in operations {
                self.storage.blocking(operation).unwrap();
            }
            Ok(count)
        }

        /// The terms as a new process reads them: id, base, end.
        fn terms(&mut self) -> Vec<(i64, i64, i64)> {
            let again = RecordingLog::open(&mut self.storage, Path::new("/c"), None).unwrap();
            assert_eq!(again.entries(), self.log.entries());
            again
                .terms()
                .map(|own| (own.leadership_term_id, own.base.unwrap(), own.end.unwrap_or(-1)))
                .collect()
        }
    }

    #[test]
    fn a_new_term_ends_the_open_one_and_fills_the_gap() {
        let mut rig = Rig::new();
        rig.ensure(1, 0, None).unwrap();
        assert_eq!(rig.terms(), [(0, 0, 0), (1, 0, -1)]);
        rig.ensure(4, 640, None).unwrap();
        assert_eq!(rig.terms()[1..], [(1, 0, 640), (2, 640, 640), (3, 640, 640), (4, 640, -1)]);
        rig.ensure(4, 640, 960).unwrap();
        assert_eq!(rig.log.term(4).unwrap().end, Some(960));
        // A closed term says where the next one begins.
        rig.ensure(5, None, 1_024).unwrap();
        assert_eq!(rig.terms()[5..], [(5, 960, 1_024)]);
    }

    #[test]
    fn what_the_file_says_already_is_not_written_again() {
        let mut rig = Rig::new();
        rig.ensure(0, 0, None).unwrap();
        rig.ensure(1, 96, 320).unwrap();
        assert_eq!(rig.ensure(1, 96, 320), Ok(0));
        assert_eq!(rig.ensure(0, None, None), Ok(0));
        assert_ne!(rig.ensure(1, None, 352), Ok(0));
        assert_eq!(rig.terms(), [(0, 0, 96), (1, 96, 352)]);
    }

    #[test]
    fn a_restored_member_begins_with_a_high_term() {
        let mut rig = Rig::new();
        let term = TermRange { leadership_term_id: 9, base: None, end: None };
        let operations = rig.log.ensure_coherent(7, term, (8, 4_096), 5).unwrap();
        for operation in operations {
            rig.storage.blocking(operation).unwrap();
        }
        assert_eq!(rig.terms(), [(8, 4_096, 4_096), (9, 4_096, -1)]);
    }

    #[test]
    fn terms_that_contradict_the_file_change_nothing() {
        let mut rig = Rig::new();
        rig.ensure(3, 0, None).unwrap();
        let unknown = IncoherentTerm::BaseUnknown { open: 3, leadership_term_id: 5 };
        assert_eq!(rig.ensure(5, None, None), Err(unknown));
        rig.ensure(3, None, 640).unwrap();
        let differs = IncoherentTerm::BaseDiffers { leadership_term_id: 4, base: 672, previous: 3, end: 640 };
        assert_eq!(rig.ensure(4, 672, None), Err(differs));
        let far = 4 + MAX_TERM_GAP + 1;
        let gap = IncoherentTerm::Gap { leadership_term_id: far, previous: 3 };
        assert_eq!(rig.ensure(far, 640, None), Err(gap));
        assert_eq!(rig.terms().len(), 4);
        let removed = rig.log.entries.remove(0);
        assert_eq!(rig.ensure(removed.leadership_term_id, None, 32), Err(IncoherentTerm::Unknown(0)));
    }
}
