//! The view of recording.log that elections and quorums need.

use crate::recording_log::{RecordingLog, TermRange};

/// Terms of the local log, in the order of their ids.
pub trait Terms {
    /// The last term.
    fn last(&self) -> Option<TermRange>;

    /// The entry of a term.
    fn get(&self, term_id: i64) -> Option<TermRange>;

    /// The first term above `term_id`.
    fn first_after(&self, term_id: i64) -> Option<TermRange>;

    /// E(t) of spec 07 §2: where entries of terms above `term_id` begin in this log, bytes; `append` without such a
    /// term.
    fn end_of(&self, term_id: i64, append: i64) -> i64 {
        self.first_after(term_id).and_then(|term| term.base).unwrap_or(append)
    }
}

impl Terms for RecordingLog {
    fn last(&self) -> Option<TermRange> {
        self.terms().max_by_key(|term| term.leadership_term_id)
    }

    fn get(&self, term_id: i64) -> Option<TermRange> {
        self.term(term_id)
    }

    fn first_after(&self, term_id: i64) -> Option<TermRange> {
        let is_later = |term: &TermRange| term.leadership_term_id > term_id;
        self.terms().filter(is_later).min_by_key(|term| term.leadership_term_id)
    }
}

/// Terms in memory, for tests and simulators.
impl Terms for [TermRange] {
    fn last(&self) -> Option<TermRange> {
        self.last().copied()
    }

    fn get(&self, term_id: i64) -> Option<TermRange> {
        self.iter().find(|term| term.leadership_term_id == term_id).copied()
    }

    fn first_after(&self, term_id: i64) -> Option<TermRange> {
        self.iter().find(|term| term.leadership_term_id > term_id).copied()
    }
}
