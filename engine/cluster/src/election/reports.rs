//! The latest report of each member, and what a quorum of them says (spec 04 §5.3, spec 07 §2).
//!
//! A report is a CanvassPosition, Vote or AppendPosition. The election and the steady leader share one [`Reports`].

use harrier_protocol::semantic_version_patch;
use harrier_ringbuf::planted::{Bug, is_planted};

use crate::codec::{AppendPosition, CATCHUP_FLAG, CanvassPosition, JOINED_FLAG, Vote};

use super::{CatchupRequest, Terms};

/// Largest number of members.
pub const MAX_MEMBERS: usize = 8;
/// Patch numbers of the protocol's version from here on name members of ours (spec 07, F1).
const FIRST_OWN_PATCH: i32 = 64;
/// Flagged reports in a row that end a catch-up which never reaches the moving end of the log (spec 07 §13).
const CLOSE_REPORTS: u8 = 3;
/// Heartbeats that must lie between the first and the last of them.
const CLOSE_HEARTBEATS: u8 = 2;

/// Kind of the latest report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReportKind {
    /// No report yet.
    Unknown,
    /// A CanvassPosition.
    Canvass,
    /// A Vote.
    Vote,
    /// An AppendPosition.
    Append,
}

/// Catch-up of a member, as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Catchup {
    /// True while a replay for the member is on record.
    pub is_running: bool,
    close_reports: u8,
    heartbeats: u8,
    last_publication: i64,
}

/// Latest reports of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Report {
    /// The member.
    pub member_id: i32,
    /// Kind of the latest report.
    pub kind: ReportKind,
    /// Term of the latest report.
    pub term: i64,
    /// Log position of the latest report, bytes; -1 when unknown.
    pub position: i64,
    /// Flags of the latest report, 0 unless it is an AppendPosition.
    pub flags: u8,
    /// True while the member was heard within leaderHeartbeatTimeout.
    pub is_active: bool,
    /// True for a member of another make. Members of ours report a term only when its TERM entry is durable (spec 07 §2).
    pub is_foreign: bool,
    /// Its vote in the current ballot.
    pub vote: Option<bool>,
    /// Term and position of its latest CanvassPosition or Vote.
    pub canvassed: (i64, i64),
    /// True when it has asked for a catch-up of the current term since its latest CanvassPosition.
    pub asked_for_catchup: bool,
    /// True when the latest report came in states 6 to 8.
    pub is_of_new_leader: bool,
    /// True when since its latest CanvassPosition or Vote it was sent a NewLeadershipTerm without a commit position.
    pub waits_for_commit: bool,
    /// Its catch-up.
    pub catchup: Catchup,
}

impl Report {
    const fn new(member_id: i32) -> Self {
        Self {
            member_id,
            kind: ReportKind::Unknown,
            term: -1,
            position: -1,
            flags: 0,
            is_active: false,
            is_foreign: false,
            vote: None,
            canvassed: (-1, -1),
            asked_for_catchup: false,
            is_of_new_leader: false,
            waits_for_commit: false,
            catchup: Catchup { is_running: false, close_reports: 0, heartbeats: 0, last_publication: 0 },
        }
    }
}

/// Positions of the own log, which the owner keeps up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Own {
    /// End of the own recording of the log, bytes.
    pub append: i64,
    /// Commit counter: position up to which the module has applied the log, bytes.
    pub commit: i64,
    /// Position of the own log publication, bytes; 0 without one.
    pub publication: i64,
    /// Highest commit position that a leader has told, bytes. Elections do not reset it.
    pub notified: i64,
    /// Begin of what the member can restore, bytes: position of its latest snapshot, and begin of its recording.
    pub floor: i64,
    /// Recording of the log in the own archive; `None` before the first.
    pub recording_id: Option<i64>,
    /// True while the module is in SNAPSHOT: catch-up does not end then (spec 07 §28).
    pub is_snapshotting: bool,
}

impl Own {
    /// Position below which nothing may change: commit counter and what leaders have told (spec 07 §6).
    pub fn known_commit(&self) -> i64 {
        self.commit.max(self.notified)
    }
}

/// Reports of all members.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reports {
    /// Positions of the own log.
    pub own: Own,
    own_index: u8,
    count: u8,
    members: [Report; MAX_MEMBERS],
}

impl Reports {
    /// Creates the reports of the given members, one of which is the own one.
    ///
    /// # Panics
    /// When there are more than [`MAX_MEMBERS`], or the own one is not among them.
    pub fn new(member_ids: &[i32], own_id: i32) -> Self {
        assert!(member_ids.len() <= MAX_MEMBERS, "a cluster has at most {MAX_MEMBERS} members");
        let own_index = member_ids.iter().position(|id| *id == own_id);
        let own_index = own_index.expect("the own member is one of the cluster") as u8;
        let mut members = [Report::new(i32::MIN); MAX_MEMBERS];
        for (report, id) in members.iter_mut().zip(member_ids) {
            report.member_id = *id;
        }
        Self { own: Own::default(), own_index, count: member_ids.len() as u8, members }
    }

    /// Reports of all members, the own one included.
    pub fn all(&self) -> &[Report] {
        &self.members[..usize::from(self.count)]
    }

    /// Reports of the other members.
    pub fn others(&self) -> impl Iterator<Item = &Report> {
        let own = usize::from(self.own_index);
        self.all().iter().enumerate().filter(move |(index, _)| *index != own).map(|(_, report)| report)
    }

    /// Report of a member; `None` for an unknown id.
    pub fn of(&self, member_id: i32) -> Option<&Report> {
        self.all().iter().find(|report| report.member_id == member_id)
    }

    /// Report of a member, to change it.
    pub(super) fn of_mut(&mut self, member_id: i32) -> Option<&mut Report> {
        let count = usize::from(self.count);
        self.members[..count].iter_mut().find(|report| report.member_id == member_id)
    }

    /// Number of members that form a quorum.
    pub fn quorum(&self) -> usize {
        usize::from(self.count) / 2 + 1
    }

    /// True when there is no other member.
    pub fn is_alone(&self) -> bool {
        self.count == 1
    }

    /// Marks a member as heard.
    pub fn on_heard(&mut self, member_id: i32) {
        if let Some(report) = self.of_mut(member_id) {
            report.is_active = true;
        }
    }

    /// Learns the make of a member from the version of the protocol that it tells (spec 07, F1).
    pub(super) fn on_version(&mut self, member_id: i32, version: i32) {
        if let Some(report) = self.of_mut(member_id) {
            report.is_foreign = semantic_version_patch(version) < FIRST_OWN_PATCH;
        }
    }

    /// Marks a member as silent for leaderHeartbeatTimeout.
    pub fn on_silent(&mut self, member_id: i32) {
        if let Some(report) = self.of_mut(member_id) {
            report.is_active = false;
        }
    }

    /// Forgets positions and votes, as every CANVASS does (spec 07 §29). Activity stays.
    pub(super) fn reset(&mut self, log_term: i64) {
        let count = usize::from(self.count);
        for report in &mut self.members[..count] {
            let (is_active, is_foreign) = (report.is_active, report.is_foreign);
            *report = Report { is_active, is_foreign, ..Report::new(report.member_id) };
        }
        let append = self.own.append;
        let own = &mut self.members[usize::from(self.own_index)];
        (own.kind, own.term, own.position) = (ReportKind::Canvass, log_term, append);
    }

    /// Forgets what members did under an earlier leader; their positions stay.
    pub(super) fn begin_term(&mut self) {
        for report in &mut self.members {
            report.asked_for_catchup = false;
            report.waits_for_commit = false;
            report.is_of_new_leader = false;
            report.catchup = Catchup::default();
        }
    }

    /// Stores a CanvassPosition.
    pub(super) fn on_canvass(&mut self, message: &CanvassPosition) {
        let Some(report) = self.of_mut(message.follower_member_id) else { return };
        report.asked_for_catchup = false;
        let (term, position) = (message.log_leadership_term_id, message.log_position);
        report.take_canvass(ReportKind::Canvass, term, position);
    }

    /// Stores a Vote as a report (spec 07 §7) and as a vote; a YES stays.
    pub(super) fn on_vote(&mut self, message: &Vote) {
        let Some(report) = self.of_mut(message.follower_member_id) else { return };
        report.take_canvass(ReportKind::Vote, message.log_leadership_term_id, message.log_position);
        report.vote = Some(message.vote || report.vote == Some(true));
    }

    /// Stores an AppendPosition; the steady leader calls this directly. Returns true when the member's catch-up ends:
    /// it has reached the publication, or stayed close behind it for long enough (spec 04 §5.8, spec 07 §13).
    pub fn on_append_position(&mut self, message: &AppendPosition, is_new_leader: bool) -> bool {
        let publication = self.own.publication;
        let Some(report) = self.of_mut(message.follower_member_id) else { return false };
        report.is_active = true;
        report.is_foreign &= message.flags & JOINED_FLAG == 0;
        (report.kind, report.flags) = (ReportKind::Append, message.flags);
        (report.term, report.position) = (message.leadership_term_id, message.log_position);
        report.is_of_new_leader = is_new_leader;
        let is_flagged = message.flags & CATCHUP_FLAG != 0;
        if !is_flagged && !report.catchup.is_running {
            return false;
        }
        let catchup = &mut report.catchup;
        let is_close = catchup.is_running && message.log_position >= catchup.last_publication;
        catchup.close_reports = if is_close { catchup.close_reports.saturating_add(1) } else { 0 };
        if catchup.close_reports <= 1 {
            catchup.heartbeats = 0;
        }
        catchup.last_publication = publication;
        let was_close = catchup.close_reports >= CLOSE_REPORTS && catchup.heartbeats >= CLOSE_HEARTBEATS;
        if is_flagged && (message.log_position >= publication || was_close) {
            *catchup = Catchup::default();
            return true;
        }
        false
    }

    /// Counts a heartbeat of the leader, which measures how long a member has been close behind.
    pub fn on_heartbeat(&mut self) {
        for report in &mut self.members {
            report.catchup.heartbeats = report.catchup.heartbeats.saturating_add(1);
        }
    }

    /// Stores that a replay for the member begins.
    pub(super) fn on_catchup_position(&mut self, message: &CatchupRequest) {
        let publication = self.own.publication;
        if let Some(report) = self.of_mut(message.follower_member_id) {
            report.asked_for_catchup = true;
            report.catchup =
                Catchup { is_running: true, last_publication: publication, ..Catchup::default() };
        }
    }

    /// Forgets a member's replay; true when there was one.
    pub(super) fn end_catchup(&mut self, member_id: i32) -> bool {
        let Some(report) = self.of_mut(member_id) else { return false };
        std::mem::take(&mut report.catchup).is_running
    }

    /// Number of members that were heard within leaderHeartbeatTimeout, the own one included.
    pub fn active_count(&self) -> usize {
        self.others().filter(|report| report.is_active).count() + 1
    }

    /// True while a quorum is heard.
    pub fn has_active_quorum(&self) -> bool {
        self.active_count() >= self.quorum()
    }

    /// Position up to which a quorum of active members holds the log of the leader of `term` (spec 07 §2), bytes.
    pub fn quorum_position<T: Terms + ?Sized>(&self, term: i64, terms: &T) -> i64 {
        self.nth_position(|report| counted_position(report, term, terms, self.own.append))
    }

    /// As [`quorum_position`](Self::quorum_position), for what a leader-elect may tell as committed: entries of older
    /// terms are committed only when a quorum has the TERM entry of `term` (spec 07 §2). Until `has_term` the own log
    /// does not count.
    pub fn commit_position<T: Terms + ?Sized>(&self, term: i64, has_term: bool, terms: &T) -> i64 {
        if is_planted(Bug::OldTermCommitted) {
            return self.quorum_position(term, terms);
        }
        let count = |report: &Report| {
            if !report.is_foreign && report.term != term {
                return 0;
            }
            counted_position(report, term, terms, self.own.append)
        };
        if has_term { self.nth_position(count) } else { 0 }
    }

    fn nth_position(&self, position_of: impl Fn(&Report) -> i64) -> i64 {
        let mut positions = [0; MAX_MEMBERS];
        for (index, report) in self.all().iter().enumerate() {
            positions[index] = if index == usize::from(self.own_index) {
                self.own.append
            } else if report.is_active {
                position_of(report)
            } else {
                0
            };
        }
        let counted = &mut positions[..usize::from(self.count)];
        counted.sort_unstable_by(|a, b| b.cmp(a));
        counted[self.quorum() - 1].min(self.own.append)
    }

    /// Number of other members that should stand first: their logs are better, or as good and their ids lower.
    pub(super) fn rank(&self, log: (i64, i64)) -> u8 {
        let own_id = self.all()[usize::from(self.own_index)].member_id;
        let is_first = |report: &&Report| {
            let theirs = (report.term, report.position);
            theirs > log || (theirs == log && report.member_id < own_id)
        };
        self.others().filter(is_first).count() as u8
    }

    /// Number of members, the own one included, whose known log is not better than the own one (spec 04 §5.3).
    fn would_vote_count(&self, log: (i64, i64)) -> usize {
        let would = |report: &&Report| report.position >= 0 && (report.term, report.position) <= log;
        self.others().filter(would).count() + 1
    }

    /// True when every member except `excluded` would vote for the own log, and they are a quorum.
    pub(super) fn is_unanimous(&self, log: (i64, i64), excluded: Option<i32>) -> bool {
        let against = |report: &Report| {
            Some(report.member_id) != excluded
                && (report.position < 0 || (report.term, report.position) > log)
        };
        !self.others().any(against) && self.is_quorum_candidate(log)
    }

    /// True when a quorum would vote for the own log.
    pub(super) fn is_quorum_candidate(&self, log: (i64, i64)) -> bool {
        self.would_vote_count(log) >= self.quorum()
    }

    /// Forgets all votes.
    pub(super) fn clear_votes(&mut self) {
        for report in &mut self.members {
            report.vote = None;
        }
    }

    /// Number of YES, the own one included, and of NO.
    pub(super) fn votes(&self) -> (usize, usize) {
        let count = |vote| self.others().filter(|report| report.vote == Some(vote)).count();
        (count(true) + 1, count(false))
    }

    /// True when every member that has not voted is out of hearing, or is `excluded`.
    pub(super) fn are_silent_inactive(&self, excluded: Option<i32>) -> bool {
        self.others()
            .all(|report| report.vote.is_some() || !report.is_active || Some(report.member_id) == excluded)
    }

    /// Notes what the commit position of a NewLeadershipTerm lets a member of another make conclude (spec 07 §21).
    pub(super) fn on_new_leadership_term_sent(&mut self, member_id: i32, commit: i64, base: i64) {
        if commit <= 0
            && base > 0
            && let Some(report) = self.of_mut(member_id)
        {
            report.waits_for_commit = true;
        }
    }

    /// True when a quorum of active members has joined the log of `term`, which begins at `base` (spec 07 §21).
    pub(super) fn is_quorum_ready<T: Terms + ?Sized>(&self, term: i64, base: i64, terms: &T) -> bool {
        let is_ready =
            |report: &&Report| report.is_active && is_ready(report, term, base, terms, self.own.append);
        self.others().filter(is_ready).count() + 1 >= self.quorum()
    }
}

impl Report {
    fn take_canvass(&mut self, kind: ReportKind, term: i64, position: i64) {
        self.is_active = true;
        (self.kind, self.flags) = (kind, 0);
        (self.term, self.position) = (term, position);
        self.canvassed = (term, position);
        self.waits_for_commit = false;
        self.is_of_new_leader = false;
    }
}

/// Position up to which a report vouches for the log of the leader of `term` (spec 07 §2), bytes.
fn counted_position<T: Terms + ?Sized>(report: &Report, term: i64, terms: &T, append: i64) -> i64 {
    if report.position < 0 {
        return 0;
    }
    let is_catchup =
        report.kind == ReportKind::Append && report.flags & CATCHUP_FLAG != 0 && report.asked_for_catchup;
    if report.term == term || is_catchup || is_planted(Bug::BranchCounted) {
        return report.position;
    }
    report.position.min(terms.end_of(report.term, append))
}

/// READY test of one member (spec 07 §21).
fn is_ready<T: Terms + ?Sized>(report: &Report, term: i64, base: i64, terms: &T, append: i64) -> bool {
    if is_planted(Bug::ReadyWithoutJoin) {
        return report.position >= base;
    }
    let is_append = report.kind == ReportKind::Append && report.term == term && report.position >= base;
    if report.flags & JOINED_FLAG != 0 || !report.is_foreign {
        return is_append && report.flags & JOINED_FLAG != 0;
    }
    let (t, p) = report.canvassed;
    is_append
        && report.flags == 0
        && report.is_of_new_leader
        && p >= base
        && terms.end_of(t, append) >= base
        && !report.waits_for_commit
}
