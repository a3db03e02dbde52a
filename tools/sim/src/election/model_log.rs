//! Disk of a member: its log, recording.log and node-state.dat.

use harrier_cluster::election::NodeTerms;
use harrier_cluster::recording_log::TermRange;

use super::ENTRY;

/// One entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    /// Term of the leader that appended it.
    pub(super) term: i64,
    /// Number of the client's message; 0 for NewLeadershipTermEvent.
    pub(super) id: u64,
}

/// The disk of one member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    pub(super) log: Vec<Entry>,
    pub(super) terms: Vec<TermRange>,
    pub(super) node: NodeTerms,
    /// Position of the latest snapshot.
    pub(super) snapshot: i64,
    /// Position below which the recording was purged.
    pub(super) start: i64,
    /// A recording of the log exists.
    pub(super) has_recording: bool,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            log: Vec::new(),
            terms: Vec::new(),
            node: NodeTerms { candidate: -1, voted: -1 },
            snapshot: 0,
            start: 0,
            has_recording: false,
        }
    }

    /// Append position.
    pub(super) fn end(&self) -> i64 {
        self.log.len() as i64 * ENTRY
    }

    pub(super) fn entry(&self, position: i64) -> Option<Entry> {
        self.log.get((position / ENTRY) as usize).copied()
    }

    pub(super) fn term(&self, id: i64) -> Option<TermRange> {
        self.terms.iter().find(|term| term.leadership_term_id == id).copied()
    }

    /// Writes an open term as [`ensure_coherent`](harrier_cluster::recording_log::RecordingLog::ensure_coherent) does; false
    /// when it contradicts the file.
    pub(super) fn write_term(&mut self, id: i64, base: i64) -> bool {
        if let Some(known) = self.terms.iter_mut().find(|term| term.leadership_term_id == id) {
            known.end = None;
            return true;
        }
        let mut next = 0;
        if let Some(last) = self.terms.last_mut() {
            if last.leadership_term_id > id || last.end.is_some_and(|end| end != base) {
                return false;
            }
            last.end = Some(base);
            next = last.leadership_term_id + 1;
        }
        for term in next..=id {
            let end = (term != id).then_some(base);
            self.terms.push(TermRange { leadership_term_id: term, base: Some(base), end });
        }
        true
    }

    pub(super) fn close_term(&mut self, id: i64, position: i64) {
        if let Some(known) = self.terms.iter_mut().find(|term| term.leadership_term_id == id) {
            known.end = Some(position);
        }
    }

    pub(super) fn truncate(&mut self, position: i64) {
        self.log.truncate((position / ENTRY) as usize);
        self.terms.retain(|term| term.base.is_some_and(|base| base <= position));
        if let Some(last) = self.terms.last_mut() {
            last.end = Some(position);
        }
    }

    /// Goes back to the first half of the log, as a backup from long ago does.
    pub(super) fn restore_half(&mut self) {
        let position = (self.log.len() / 2) as i64 * ENTRY;
        self.truncate(position);
        self.snapshot = self.snapshot.min(position);
        self.start = self.start.min(position);
    }

    /// Describes the first contradiction between recording.log and the log.
    pub(super) fn contradiction(&self) -> Option<String> {
        for pair in self.terms.windows(2) {
            if pair[0].end != pair[1].base || pair[0].leadership_term_id >= pair[1].leadership_term_id {
                return Some(format!("terms {:?} and {:?} do not join", pair[0], pair[1]));
            }
        }
        let end = self.end();
        if let Some(last) = self.terms.last()
            && last.end.is_some_and(|closed| closed != end)
        {
            return Some(format!("the log ends at {end}, but its last term is {last:?}"));
        }
        for (index, entry) in self.log.iter().enumerate() {
            let position = index as i64 * ENTRY;
            let Some(own) = self.term(entry.term) else {
                return Some(format!(
                    "entry at {position} is of term {}, which has no TERM entry",
                    entry.term
                ));
            };
            if own.base.is_some_and(|base| base > position) {
                return Some(format!(
                    "entry at {position} of term {} lies before its base {:?}",
                    entry.term, own.base
                ));
            }
            let range = self.terms.iter().rfind(|term| term.base.is_some_and(|base| base <= position));
            if range.is_some_and(|range| range.leadership_term_id < entry.term) {
                return Some(format!("entry at {position} of term {} lies in {range:?}", entry.term));
            }
        }
        None
    }
}
