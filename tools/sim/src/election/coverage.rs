//! Counts of states, transitions and rules that a run hits.

use harrier_cluster::codec::JOINED_FLAG;
use harrier_cluster::election::{Action, Delay, MemberMessage, Reason, State, TimerKind};

use crate::trace::Coverage;

/// Counts, cheap to raise.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    transitions: [[u32; 18]; 18],
    named: Vec<(&'static str, u32)>,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self { transitions: [[0; 18]; 18], named: Vec::with_capacity(64) }
    }

    pub(super) fn hit(&mut self, name: &'static str) {
        let is_same = |(known, _): &&mut (&'static str, u32)| std::ptr::eq(*known, name);
        match self.named.iter_mut().find(is_same) {
            Some((_, count)) => *count += 1,
            None => self.named.push((name, 1)),
        }
    }

    pub(super) fn transition(&mut self, from: State, to: State) {
        self.transitions[usize::from(from.code())][usize::from(to.code())] += 1;
    }

    /// Counts the rules of spec 07 that an action shows.
    pub(super) fn action(&mut self, state: State, action: &Action) {
        let name = match action {
            Action::Record(reason) => reason_name(reason),
            Action::Begun(reason) => begun_name(reason),
            Action::Send { message: MemberMessage::CanvassPosition(_), .. } => "07 §5 sign of life",
            Action::Send { message: MemberMessage::CatchupPosition(_), .. } => "07 §13 catch-up asked for",
            Action::Send { message: MemberMessage::StopCatchup(_), .. } => "07 §13 catch-up ended",
            Action::Send { message: MemberMessage::AppendPosition(own), .. }
                if own.flags & JOINED_FLAG != 0 =>
            {
                "07 §21 joined flag"
            }
            Action::JoinLog { .. } => "07 §9 services join before the log is read",
            Action::SetTimer { kind: TimerKind::Canvass, delay: Delay::SinceLeaderHeard } => {
                "07 §15 canvass deadline since the last leader"
            }
            Action::StartCatchup { .. } => "07 §13 catch-up replay",
            Action::SetTimer { kind: TimerKind::Stand, .. } => "07 §1 waits before it stands",
            Action::WriteTerm { .. } if state == State::FollowerLogReplication => {
                "07 §4 term written before replication"
            }
            Action::WriteTerm { .. } if state == State::FollowerReplay => {
                "07 §4 term written before the join"
            }
            Action::AppendTermEvent { .. } => "07 §21 quorum ready",
            Action::Replay { .. } if state == State::LeaderReplay => "07 §2 leader replays what is committed",
            Action::Replay { .. } => "07 §11 follower replays what is committed",
            Action::Fatal(Reason::CommittedWouldBeTruncated { .. }) => "07 §3 truncation refused",
            _ => return,
        };
        self.hit(name);
    }

    pub(super) fn finish(&self) -> Coverage {
        let mut coverage = Coverage::default();
        for (name, count) in &self.named {
            coverage.add(name, u64::from(*count));
        }
        for (from, row) in self.transitions.iter().enumerate() {
            for (to, count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
                coverage.add(transition_name(from, to), u64::from(*count));
            }
        }
        coverage
    }
}

fn reason_name(reason: &Reason) -> &'static str {
    match reason {
        Reason::LowerLeaderRefused { .. } => "07 §1 lower leader refused",
        Reason::HigherTerm { .. } => "07 §5 gives way to a higher term",
        Reason::CandidateLacksCommitted { .. } => "07 §6 candidate lacks committed",
        Reason::LogOutranksCommitted { .. } => "07 §6 log outranks committed",
        Reason::LacksCommitted { .. } => "07 §6 does not stand",
        Reason::LeaderLogStartsAbove { .. } => "07 §31 waits for an operator",
        Reason::Truncating { .. } => "04 §5.4 truncates",
        Reason::TimedOut { state: State::FollowerReplay, .. } => "07 §11 replay timed out",
        Reason::TimedOut { timer: TimerKind::Stand, .. } => "07 §5 gives way to bound members",
        Reason::TimedOut { .. } => "timed out",
        Reason::ReplicationCutShort { .. } => "07 §12 replication refused",
        Reason::JoinPositionDiffers { .. } => "04 §5.10 joined too late",
        Reason::InactiveFollowerQuorum => "07 §5 leader-elect lost its quorum",
        Reason::RequestFailed { .. } => "request failed",
        _ => "other reason",
    }
}

fn begun_name(reason: &Reason) -> &'static str {
    match reason {
        Reason::LeaderHeartbeatTimeout => "election: leader heartbeat timeout",
        Reason::InactiveFollowerQuorum => "election: inactive follower quorum",
        Reason::LogDisconnected => "election: log disconnected",
        Reason::HigherTerm { .. } => "election: higher term",
        Reason::CanvassOfLaterTerm { .. } => "07 §6 election: canvass of a later term",
        Reason::RecordingStopped => "election: recording stopped",
        _ => "election: node started",
    }
}

/// Name of a transition.
fn transition_name(from: usize, to: usize) -> &'static str {
    const UNEXPECTED: &str = "transition that no rule names";
    let find = |(f, t, _): &&(u8, u8, &str)| usize::from(*f) == from && usize::from(*t) == to;
    TRANSITIONS.iter().find(find).map_or(UNEXPECTED, |(_, _, name)| name)
}

/// Transitions that the rules name: codes of both states, and the name in reports.
const TRANSITIONS: [(u8, u8, &str); 47] = [
    (0, 1, "INIT to CANVASS"),
    (0, 5, "INIT to LEADER_LOG_REPLICATION"),
    (1, 0, "CANVASS to INIT"),
    (1, 2, "CANVASS to NOMINATE"),
    (1, 4, "CANVASS to FOLLOWER_BALLOT"),
    (1, 9, "CANVASS to FOLLOWER_LOG_REPLICATION"),
    (1, 10, "CANVASS to FOLLOWER_REPLAY"),
    (2, 0, "NOMINATE to INIT"),
    (2, 1, "NOMINATE to CANVASS"),
    (2, 3, "NOMINATE to CANDIDATE_BALLOT"),
    (2, 4, "NOMINATE to FOLLOWER_BALLOT"),
    (2, 10, "NOMINATE to FOLLOWER_REPLAY"),
    (3, 0, "CANDIDATE_BALLOT to INIT"),
    (3, 1, "CANDIDATE_BALLOT to CANVASS"),
    (3, 4, "CANDIDATE_BALLOT to FOLLOWER_BALLOT"),
    (3, 5, "CANDIDATE_BALLOT to LEADER_LOG_REPLICATION"),
    (3, 10, "CANDIDATE_BALLOT to FOLLOWER_REPLAY"),
    (4, 0, "FOLLOWER_BALLOT to INIT"),
    (4, 1, "FOLLOWER_BALLOT to CANVASS"),
    (4, 10, "FOLLOWER_BALLOT to FOLLOWER_REPLAY"),
    (5, 0, "LEADER_LOG_REPLICATION to INIT"),
    (5, 6, "LEADER_LOG_REPLICATION to LEADER_REPLAY"),
    (6, 0, "LEADER_REPLAY to INIT"),
    (6, 7, "LEADER_REPLAY to LEADER_INIT"),
    (7, 0, "LEADER_INIT to INIT"),
    (7, 8, "LEADER_INIT to LEADER_READY"),
    (8, 0, "LEADER_READY to INIT"),
    (8, 17, "LEADER_READY to CLOSED"),
    (9, 0, "FOLLOWER_LOG_REPLICATION to INIT"),
    (9, 1, "FOLLOWER_LOG_REPLICATION to CANVASS"),
    (10, 0, "FOLLOWER_REPLAY to INIT"),
    (10, 1, "FOLLOWER_REPLAY to CANVASS"),
    (10, 11, "FOLLOWER_REPLAY to FOLLOWER_CATCHUP_INIT"),
    (10, 14, "FOLLOWER_REPLAY to FOLLOWER_LOG_INIT"),
    (11, 0, "FOLLOWER_CATCHUP_INIT to INIT"),
    (11, 12, "FOLLOWER_CATCHUP_INIT to FOLLOWER_CATCHUP_AWAIT"),
    (12, 0, "FOLLOWER_CATCHUP_AWAIT to INIT"),
    (12, 13, "FOLLOWER_CATCHUP_AWAIT to FOLLOWER_CATCHUP"),
    (13, 0, "FOLLOWER_CATCHUP to INIT"),
    (13, 14, "FOLLOWER_CATCHUP to FOLLOWER_LOG_INIT"),
    (14, 0, "FOLLOWER_LOG_INIT to INIT"),
    (14, 15, "FOLLOWER_LOG_INIT to FOLLOWER_LOG_AWAIT"),
    (14, 16, "FOLLOWER_LOG_INIT to FOLLOWER_READY"),
    (15, 0, "FOLLOWER_LOG_AWAIT to INIT"),
    (15, 16, "FOLLOWER_LOG_AWAIT to FOLLOWER_READY"),
    (16, 17, "FOLLOWER_READY to CLOSED"),
    (17, 0, "CLOSED to INIT"),
];

/// Names of the faults, transitions and rules that 20,000 seeds must hit.
pub const EXPECTED: [&str; 95] = [
    "04 §5.10 joined too late",
    "04 §5.4 truncates",
    "07 late completion ignored",
    "07 §1 lower leader refused",
    "07 §1 waits before it stands",
    "07 §11 follower replays what is committed",
    "07 §11 replay timed out",
    "07 §12 replication cut short",
    "07 §12 replication refused",
    "07 §13 catch-up asked for",
    "07 §13 catch-up ended",
    "07 §13 catch-up replay",
    "07 §15 canvass deadline since the last leader",
    "07 §18 log ended by its leader",
    "07 §2 leader replays what is committed",
    "07 §21 joined flag",
    "07 §21 quorum ready",
    "07 §3 truncation refused",
    "07 §31 leader's log starts above",
    "07 §31 waits for an operator",
    "07 §4 term written before replication",
    "07 §4 term written before the join",
    "07 §5 gives way to a higher term",
    "07 §5 gives way to bound members",
    "07 §5 leader-elect lost its quorum",
    "07 §5 sign of life",
    "07 §6 candidate lacks committed",
    "07 §6 does not stand",
    "07 §6 election: canvass of a later term",
    "07 §6 log outranks committed",
    "07 §7 vote repeated",
    "07 §9 services join before the log is read",
    "CANDIDATE_BALLOT to CANVASS",
    "CANDIDATE_BALLOT to FOLLOWER_BALLOT",
    "CANDIDATE_BALLOT to FOLLOWER_REPLAY",
    "CANDIDATE_BALLOT to INIT",
    "CANDIDATE_BALLOT to LEADER_LOG_REPLICATION",
    "CANVASS to FOLLOWER_BALLOT",
    "CANVASS to FOLLOWER_LOG_REPLICATION",
    "CANVASS to FOLLOWER_REPLAY",
    "CANVASS to INIT",
    "CANVASS to NOMINATE",
    "CLOSED to INIT",
    "FOLLOWER_BALLOT to CANVASS",
    "FOLLOWER_BALLOT to FOLLOWER_REPLAY",
    "FOLLOWER_CATCHUP to FOLLOWER_LOG_INIT",
    "FOLLOWER_CATCHUP to INIT",
    "FOLLOWER_CATCHUP_AWAIT to FOLLOWER_CATCHUP",
    "FOLLOWER_CATCHUP_AWAIT to INIT",
    "FOLLOWER_CATCHUP_INIT to FOLLOWER_CATCHUP_AWAIT",
    "FOLLOWER_CATCHUP_INIT to INIT",
    "FOLLOWER_LOG_AWAIT to FOLLOWER_READY",
    "FOLLOWER_LOG_AWAIT to INIT",
    "FOLLOWER_LOG_INIT to FOLLOWER_LOG_AWAIT",
    "FOLLOWER_LOG_INIT to FOLLOWER_READY",
    "FOLLOWER_LOG_INIT to INIT",
    "FOLLOWER_LOG_REPLICATION to CANVASS",
    "FOLLOWER_LOG_REPLICATION to INIT",
    "FOLLOWER_READY to CLOSED",
    "FOLLOWER_REPLAY to CANVASS",
    "FOLLOWER_REPLAY to FOLLOWER_CATCHUP_INIT",
    "FOLLOWER_REPLAY to FOLLOWER_LOG_INIT",
    "FOLLOWER_REPLAY to INIT",
    "INIT to CANVASS",
    "INIT to LEADER_LOG_REPLICATION",
    "LEADER_INIT to INIT",
    "LEADER_INIT to LEADER_READY",
    "LEADER_LOG_REPLICATION to INIT",
    "LEADER_LOG_REPLICATION to LEADER_REPLAY",
    "LEADER_READY to CLOSED",
    "LEADER_READY to INIT",
    "LEADER_REPLAY to INIT",
    "LEADER_REPLAY to LEADER_INIT",
    "NOMINATE to CANDIDATE_BALLOT",
    "NOMINATE to CANVASS",
    "NOMINATE to FOLLOWER_BALLOT",
    "NOMINATE to FOLLOWER_REPLAY",
    "NOMINATE to INIT",
    "election: higher term",
    "election: inactive follower quorum",
    "election: leader heartbeat timeout",
    "election: log disconnected",
    "election: node started",
    "fault: crash",
    "fault: group partition",
    "fault: isolation",
    "fault: lost disk",
    "fault: one-way partition",
    "fault: pair partition",
    "fault: pause",
    "follower complete",
    "leader complete",
    "log purged",
    "member ended itself",
    "member stood still",
];
