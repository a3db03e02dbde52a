//! One member of the model: its disk, its election, and what the owner of an election keeps.

use std::collections::VecDeque;

use harrier_cluster::codec::Role;
use harrier_cluster::election::{Done, Election, Reports, Settings, State, TimerKind};
use harrier_protocol::semantic_version;

use super::model_log::{Disk, Entry};
use super::{ENTRY, MEMBERS, Scenario};

/// A write that the disk has not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Write {
    Persist { candidate: i64, voted: i64 },
    Term { id: i64, base: i64 },
    Close { id: i64, position: i64 },
    Truncate { position: i64 },
    Nothing,
}

/// The leader's log publication.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Publication {
    pub(super) session: i32,
    pub(super) base: i64,
    pub(super) entries: Vec<Entry>,
}

impl Publication {
    pub(super) fn position(&self) -> i64 {
        self.base + self.entries.len() as i64 * ENTRY
    }

    pub(super) fn entry(&self, position: i64) -> Option<Entry> {
        let index = (position - self.base) / ENTRY;
        usize::try_from(index).ok().and_then(|index| self.entries.get(index)).copied()
    }
}

/// A follower's subscription to the leader's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Subscription {
    pub(super) session: i32,
    pub(super) epoch: u32,
    pub(super) has_catchup: bool,
    pub(super) is_live: bool,
    /// Position of the image.
    pub(super) image: Option<i64>,
    pub(super) last_data: u64,
}

/// A replication from another member's archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Replicating {
    pub(super) source: usize,
    pub(super) stop: i64,
    pub(super) epoch: u32,
}

/// A replay of the own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Replaying {
    pub(super) to: i64,
    pub(super) epoch: u32,
}

/// A RequestVote as its receiver judges it when it decides to vote YES.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) term: i64,
    /// Log position of the candidate.
    pub(super) position: i64,
    /// Commit position that the receiver knows.
    pub(super) commit: i64,
    /// The receiver's log is better.
    pub(super) is_worse: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) disk: Disk,
    pub(super) is_up: bool,
    /// The node has ended itself and stays down.
    pub(super) has_ended: bool,
    pub(super) life: u32,
    pub(super) paused_until: u64,
    pub(super) disk_free: u64,
    /// Writes under way and their ends, in order.
    pub(super) writes: VecDeque<(Write, Done)>,
    pub(super) election: Election,
    pub(super) reports: Reports,
    pub(super) timers: [u32; TimerKind::COUNT],
    pub(super) leader_heard: Option<u64>,
    pub(super) heard: [u64; MEMBERS],
    pub(super) publication: Option<Publication>,
    pub(super) subscription: Option<Subscription>,
    pub(super) is_recording: bool,
    pub(super) have_services_joined: bool,
    /// Positions of the replays that this member sends to others.
    pub(super) catchups: [Option<i64>; MEMBERS],
    pub(super) replicating: Option<Replicating>,
    pub(super) replaying: Option<Replaying>,
    pub(super) next_beat: u64,
    pub(super) last_commit_sent: i64,
    /// Last YES of this life.
    pub(super) last_yes: Option<(i64, i32)>,
    /// The RequestVote of each member that this member decided to answer with YES.
    pub(super) asked: [Asked; MEMBERS],
    /// Elections since the last completed one.
    pub(super) rounds: u32,
}

impl Member {
    pub(super) fn new(index: usize, plan: &Scenario) -> Self {
        let disk = Disk::new();
        let election = Election::new(settings(index, plan), disk.node);
        Self {
            election,
            reports: reports(index, plan),
            disk,
            is_up: false,
            has_ended: false,
            life: 0,
            paused_until: 0,
            disk_free: 0,
            writes: VecDeque::new(),
            timers: [0; TimerKind::COUNT],
            leader_heard: None,
            heard: [0; MEMBERS],
            publication: None,
            subscription: None,
            is_recording: false,
            have_services_joined: false,
            catchups: [None; MEMBERS],
            replicating: None,
            replaying: None,
            next_beat: 0,
            last_commit_sent: 0,
            last_yes: None,
            asked: [Asked { term: -1, position: -1, commit: 0, is_worse: false }; MEMBERS],
            rounds: 0,
        }
    }

    /// Starts a process on the disk. What was committed is read again from the snapshot on.
    pub(super) fn start(&mut self, index: usize, plan: &Scenario, now: u64) {
        let disk = std::mem::replace(&mut self.disk, Disk::new());
        let life = self.life + 1;
        *self = Self::new(index, plan);
        self.election = Election::new(settings(index, plan), disk.node);
        self.reports.own.commit = disk.snapshot;
        self.disk = disk;
        self.is_up = true;
        self.life = life;
        self.disk_free = now;
        self.next_beat = now;
        self.heard = [now; MEMBERS];
    }

    pub(super) fn leads(&self) -> bool {
        self.is_up && self.election.state() == State::Closed && self.election.role() == Role::Leader
    }

    pub(super) fn follows(&self) -> bool {
        self.is_up && self.election.state() == State::Closed && self.election.role() != Role::Leader
    }

    /// Brings the positions up to date that the election reads.
    pub(super) fn refresh(&mut self) {
        let own = &mut self.reports.own;
        own.append = self.disk.end();
        own.publication = self.publication.as_ref().map_or(0, Publication::position);
        own.floor = self.disk.snapshot.max(self.disk.start);
        own.recording_id = self.disk.has_recording.then_some(7);
    }

    pub(super) fn apply(&mut self, write: Write) -> bool {
        match write {
            Write::Persist { candidate, voted } => {
                self.disk.node.candidate = self.disk.node.candidate.max(candidate);
                self.disk.node.voted = self.disk.node.voted.max(voted);
                true
            }
            Write::Term { id, base } => self.disk.write_term(id, base),
            Write::Close { id, position } => {
                self.disk.close_term(id, position);
                true
            }
            Write::Truncate { position } => {
                self.disk.truncate(position);
                true
            }
            Write::Nothing => true,
        }
    }
}

pub(super) fn settings(index: usize, plan: &Scenario) -> Settings {
    Settings {
        member_id: index as i32,
        appointed_leader: plan.appointed,
        app_version: semantic_version(1, 0, 0),
        protocol_version: semantic_version(1, 0, 64),
        catchup_window: 4 * ENTRY,
        is_log_trusted: true,
    }
}

pub(super) fn reports(index: usize, plan: &Scenario) -> Reports {
    let ids: [i32; MEMBERS] = std::array::from_fn(|id| id as i32);
    Reports::new(&ids[..plan.members], index as i32)
}
