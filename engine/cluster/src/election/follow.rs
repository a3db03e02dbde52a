//! Decision of a member about a NewLeadershipTerm: follow, truncate, replicate or refuse (spec 04 §5.4, spec 07 §1, §3,
//! §12, §20, §31).

use harrier_ringbuf::planted::{Bug, is_planted};

use crate::codec::NewLeadershipTerm;

use super::{
    Action, Adopted, Delay, Election, Intent, Reason, Replication, State, Terms, TimerKind, Turn, Wait,
};

/// The end of a member's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// Term of the last entry; -1 for an empty log.
    pub term: i64,
    /// Append position, bytes.
    pub append: i64,
    /// Position below which nothing may be truncated, bytes: the commit counter, and what the member can restore.
    pub fixed: i64,
}

/// Decision about a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It answers another log term: canvass again.
    Recanvass,
    /// Its log differs above a position: truncate to it.
    Truncate {
        /// New end, bytes.
        to: i64,
    },
    /// Its log differs below what is committed or restorable: do not truncate.
    RefuseTruncation {
        /// Position at which it differs, bytes.
        at: i64,
    },
    /// The own log reaches its term: replay it.
    Replay,
    /// A term is missing: replicate it.
    Replicate {
        /// The term.
        term: i64,
        /// Position at which it begins, bytes; `None` for the own log term.
        base: Option<i64>,
        /// Position at which it ends, bytes.
        stop: i64,
    },
    /// Its log starts above the end of the own one.
    StartsAbove {
        /// Position at which it starts, bytes.
        start: i64,
    },
    /// It does not tell what comes next.
    NextTermUnknown,
    /// It cannot help yet: stay in CANVASS.
    Stay,
}

/// Decides what a NewLeadershipTerm of a leader that may be followed asks for.
pub fn course(log: LogEnd, message: &NewLeadershipTerm) -> Course {
    let (next, base, end) =
        (message.next_leadership_term_id, message.next_term_base_log_position, message.next_log_position);
    if message.log_leadership_term_id != log.term {
        return Course::Recanvass;
    }
    if base != -1 && base < log.append {
        return match base < log.fixed && !is_planted(Bug::CommittedTruncated) {
            true => Course::RefuseTruncation { at: base },
            false => Course::Truncate { to: base },
        };
    }
    if log.append >= message.term_base_log_position {
        return Course::Replay;
    }
    if next <= log.term || next > message.leadership_term_id || base == -1 {
        return Course::NextTermUnknown;
    }
    if log.append < base {
        return match log.term {
            ..0 => Course::StartsAbove { start: base },
            term => replicate(message, log.append, Replication { term, base: -1, stop: base }),
        };
    }
    match end {
        -1 => Course::Stay,
        end if end < base => Course::NextTermUnknown,
        stop => replicate(message, log.append, Replication { term: next, base, stop }),
    }
}

fn replicate(message: &NewLeadershipTerm, append: i64, wanted: Replication) -> Course {
    if wanted.stop > append && message.leader_recording_id == -1 {
        return Course::Stay;
    }
    let base = Some(wanted.base).filter(|base| *base != -1);
    Course::Replicate { term: wanted.term, base, stop: wanted.stop }
}

impl Election {
    /// Acts on a NewLeadershipTerm in a state in which this member has no leader.
    pub(super) fn follow<T: Terms + ?Sized>(&mut self, message: &NewLeadershipTerm, turn: &mut Turn<'_, T>) {
        let (member_id, term_id) = (message.leader_member_id, message.leadership_term_id);
        let bound = self.log_term.max(self.voted_term);
        if term_id < bound && !is_planted(Bug::LowerLeaderFollowed) {
            return self.refuse_leader(member_id, term_id, bound, turn);
        }
        let own = turn.reports.own;
        let log = LogEnd { term: self.log_term, append: own.append, fixed: own.commit.max(own.floor) };
        match course(log, message) {
            Course::Recanvass => self.enter(State::Canvass, turn),
            Course::Truncate { to } => self.truncate(to, turn),
            Course::RefuseTruncation { at } => {
                turn.push(Action::Fatal(Reason::CommittedWouldBeTruncated {
                    member_id,
                    term_id,
                    own_term_id: self.log_term,
                    position: at,
                    commit: log.fixed,
                }));
            }
            Course::Replay | Course::Replicate { .. }
                if self.unreachable == Some((member_id, own.append)) && message.log_position > own.append =>
            {
                self.stay(message, turn);
            }
            Course::Replay => {
                self.adopt(message, turn);
                self.enter(State::FollowerReplay, turn);
            }
            Course::Replicate { term, base, stop } => {
                self.stay(message, turn);
                let known = turn.terms.get(term).and_then(|known| known.base);
                let base = known.or(base).unwrap_or(own.append);
                self.replication = Replication { term, base, stop };
                self.enter(State::FollowerLogReplication, turn);
            }
            Course::StartsAbove { start } => {
                self.stay(message, turn);
                turn.record(Reason::LeaderLogStartsAbove { member_id, start, position: own.append });
            }
            Course::NextTermUnknown => {
                self.stay(message, turn);
                turn.record(Reason::NextTermUnknown { member_id, term_id });
            }
            Course::Stay => self.stay(message, turn),
        }
    }

    /// A leader of a term below the one that binds this member is not followed. When nobody of an adequate term is heard,
    /// this member stands, which ends the lower term (spec 07 §1).
    fn refuse_leader<T: Terms + ?Sized>(
        &mut self,
        member_id: i32,
        term_id: i64,
        bound: i64,
        turn: &mut Turn<'_, T>,
    ) {
        if self.state == State::Canvass && !self.is_armed(TimerKind::Stand) {
            turn.record(Reason::LowerLeaderRefused { member_id, term_id, bound });
            self.arm(TimerKind::Stand, Delay::ElectionTimeout, turn);
        }
    }

    /// Adopts a leader and stays in, or goes back to, CANVASS, where its commit position already counts (spec 07 §20).
    fn stay<T: Terms + ?Sized>(&mut self, message: &NewLeadershipTerm, turn: &mut Turn<'_, T>) {
        self.enter(State::Canvass, turn);
        self.adopt(message, turn);
    }

    fn adopt<T: Terms + ?Sized>(&mut self, message: &NewLeadershipTerm, turn: &mut Turn<'_, T>) {
        let is_behind = turn.reports.own.append < message.log_position;
        self.leader = Some(message.leader_member_id);
        self.leadership_term = message.leadership_term_id;
        self.candidate_term = self.candidate_term.max(message.leadership_term_id);
        self.intent = Intent::Nothing;
        self.adopted = Adopted {
            log_session: message.log_session_id,
            recording_id: message.leader_recording_id,
            term_base: message.term_base_log_position,
            is_startup: message.is_startup,
            catchup_join: if is_behind { message.log_position } else { -1 },
        };
        self.learn_commit(message.commit_position, turn);
    }

    /// The adopted leader repeats its term: deadlines begin anew, and its position may have grown.
    pub(super) fn hear_adopted<T: Terms + ?Sized>(
        &mut self,
        message: &NewLeadershipTerm,
        turn: &mut Turn<'_, T>,
    ) {
        if self.state == State::FollowerReplay && message.log_position > turn.reports.own.append {
            self.adopted.catchup_join = self.adopted.catchup_join.max(message.log_position);
        }
        self.learn_commit(message.commit_position, turn);
    }

    /// Cuts the log where the leader's differs; the next canvass tells the new end (spec 04 §5.4).
    fn truncate<T: Terms + ?Sized>(&mut self, to: i64, turn: &mut Turn<'_, T>) {
        let (term_id, from) = (self.log_term, turn.reports.own.append);
        turn.record(Reason::Truncating { term_id, from, to });
        self.give_up(turn);
        self.wait = Wait::Truncated;
        turn.push(Action::Truncate { term_id, position: to, epoch: self.epoch });
    }
}
