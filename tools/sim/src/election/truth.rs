//! Rules that must hold across all members.

use std::collections::BTreeMap;

use super::ENTRY;
use super::member::Member;
use super::model_log::Entry;
use crate::history::Violation;

/// Facts that no member may contradict.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Entries that are committed.
    pub(super) committed: Vec<Entry>,
    /// Number of entries that clients know to be committed.
    pub(super) acknowledged: usize,
    /// Highest commit position that a leader has told, bytes.
    told: i64,
    leaders: BTreeMap<i64, usize>,
    votes: BTreeMap<(i64, usize), i32>,
    /// A member has lost its disk: facts about the cluster no longer bind.
    pub(super) is_void: bool,
    pub(super) violations: Vec<Violation>,
    last_term: i64,
}

impl Truth {
    pub(super) fn fail(&mut self, checker: &'static str, text: String) {
        if self.violations.len() < 8 {
            self.violations.push(Violation { checker, text });
        }
    }

    /// A fact about the whole cluster, which a lost disk voids.
    fn fail_unless_void(&mut self, checker: &'static str, text: impl FnOnce() -> String) {
        if !self.is_void {
            let text = text();
            self.fail(checker, text);
        }
    }

    /// Number of leaders so far.
    pub(super) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// A member raised its commit counter: it agrees with every other.
    pub(super) fn on_commit(&mut self, member: usize, node: &Member, from: i64, to: i64) {
        if self.is_void {
            return;
        }
        if to > self.told {
            let text = format!("member {member} applies up to {to}, leaders have told {}", self.told);
            return self.fail("only what is committed is applied", text);
        }
        for index in (from / ENTRY) as usize..(to / ENTRY) as usize {
            let Some(entry) = node.disk.log.get(index).copied() else {
                let text = format!("member {member} commits {to}, but its log ends at {}", node.disk.end());
                return self.fail("committed entries are recorded", text);
            };
            match self.committed.get(index) {
                Some(known) if *known != entry => {
                    let position = index as i64 * ENTRY;
                    let text =
                        format!("member {member} has {entry:?} at {position}, where {known:?} is committed");
                    return self.fail("committed prefix equal", text);
                }
                Some(_) => {}
                None => self.committed.push(entry),
            }
        }
    }

    /// A leader tells a commit position: a quorum has recorded it, and knows the leader's term.
    pub(super) fn on_leader_commit(&mut self, leader: usize, term: i64, position: i64, members: &[Member]) {
        if self.is_void || position <= 0 {
            return;
        }
        self.told = self.told.max(position);
        let count = (position / ENTRY) as usize;
        let log = &members[leader].disk.log;
        let holds = |node: &&Member| {
            node.disk.log.len() >= count
                && log.len() >= count
                && node.disk.log[..count] == log[..count]
                && node.disk.term(term).is_some()
        };
        let holders = members.iter().filter(holds).count();
        if holders < members.len() / 2 + 1 {
            let text = format!(
                "leader {leader} of term {term} commits {position}, which {holders} members recorded"
            );
            self.fail("recorded by a quorum in that term", text);
        }
    }

    /// A member becomes leader-elect.
    pub(super) fn on_elected(&mut self, member: usize, term: i64, node: &Member) {
        if let Some(other) = self.leaders.insert(term, member)
            && other != member
        {
            self.fail_unless_void("one leader per term", || {
                format!("members {other} and {member} lead term {term}")
            });
        }
        self.last_term = self.last_term.max(term);
        let log = &node.disk.log;
        let is_complete =
            log.len() >= self.committed.len() && log[..self.committed.len()] == self.committed[..];
        if !is_complete && term >= self.last_term {
            let committed = self.committed.len() as i64 * ENTRY;
            self.fail_unless_void("leader holds all committed", || {
                format!(
                    "leader {member} of term {term} ends at {}, committed is {committed}",
                    node.disk.end()
                )
            });
        }
    }

    /// A leader appends: entries of a term exist only when a quorum has its TERM entry (spec 07 §21).
    pub(super) fn on_append(&mut self, leader: usize, term: i64, members: &[Member]) {
        let holders = members.iter().filter(|node| node.disk.term(term).is_some()).count();
        if holders < members.len() / 2 + 1 {
            self.fail_unless_void("term known to a quorum", || {
                format!("leader {leader} appends in term {term}, which {holders} members know")
            });
        }
    }

    /// A member votes YES, for itself or another.
    pub(super) fn on_yes(&mut self, voter: usize, term: i64, candidate: i32, node: &Member) {
        if let Some(other) = self.votes.insert((term, voter), candidate)
            && other != candidate
        {
            self.fail_unless_void("one vote per term", || {
                format!("member {voter} votes for {other} and {candidate} in term {term}")
            });
        }
        if voter as i32 == candidate {
            if node.disk.node.candidate < term {
                let text = format!("member {voter} stands in term {term}, of which its disk knows nothing");
                self.fail("candidacies are durable", text);
            }
            return;
        }
        if node.disk.node.voted < term {
            let text = format!("member {voter} votes in term {term}, of which its disk knows nothing");
            self.fail("votes are durable", text);
        }
        let asked = node.asked[candidate as usize];
        let (position, commit) = (asked.position, asked.commit);
        if asked.term == term && asked.is_worse {
            let text = format!("member {voter} votes for {candidate}, whose log is worse than its own");
            self.fail("votes go to logs that are not worse", text);
        }
        if asked.term == term && position < commit {
            let text =
                format!("member {voter} votes for {candidate}, whose log ends at {position}, below {commit}");
            self.fail("candidates hold all committed", text);
        }
    }

    /// A member follows a leader: no lower one than the term that its vote binds it to (spec 07 §1).
    pub(super) fn on_follow(&mut self, member: usize, node: &Member) {
        let (term, bound) = (node.election.leadership_term(), node.disk.node.voted);
        if term < bound {
            let text = format!("member {member} follows a leader of term {term}, and is bound to {bound}");
            self.fail("votes bind", text);
        }
    }

    /// A member votes NO.
    pub(super) fn on_no(&mut self, voter: usize, term: i64, candidate: i32, node: &Member) {
        if node.last_yes == Some((term, candidate)) {
            let text = format!("member {voter} takes back its vote for {candidate} in term {term}");
            self.fail("votes stay", text);
        }
    }

    /// A member is about to cut its log.
    pub(super) fn on_truncate(&mut self, member: usize, node: &Member, to: i64) {
        let commit = node.reports.own.commit;
        if to < commit {
            let text = format!("member {member} truncates to {to}, and has applied {commit}");
            self.fail("nothing applied is truncated", text);
        }
        if self.is_void {
            return;
        }
        let index = (to / ENTRY) as usize;
        if let (Some(own), Some(known)) = (node.disk.log.get(index), self.committed.get(index))
            && own == known
        {
            let text = format!("member {member} truncates to {to}, below committed {own:?}");
            self.fail("nothing committed is truncated", text);
        }
    }

    /// recording.log agrees with the log.
    pub(super) fn on_quiet(&mut self, member: usize, node: &Member) {
        if let Some(text) = node.disk.contradiction() {
            self.fail_unless_void("recording.log agrees", || format!("member {member}: {text}"));
        }
    }
}
