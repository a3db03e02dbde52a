//! The way of a follower into its leader's log: replication, replay, catch-up and join (spec 04 §5.2, states 9 to 16).

use harrier_ringbuf::planted::{Bug, is_planted};

use crate::codec::{AppendPosition, CATCHUP_FLAG, JOINED_FLAG, Role};

use super::{
    Action, CatchupRequest, Delay, Election, MemberMessage, Reason, State, Terms, TimerKind, Turn, Wait,
};

impl Election {
    /// State 9. The TERM entry is durable before the first byte of the term is recorded (spec 07 §4).
    pub(super) fn enter_follower_log_replication<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.set_role(Role::Follower, turn);
        if is_planted(Bug::LateTermEntry) {
            return self.on_term_written(turn);
        }
        let (term, base) = (self.replication.term, self.replication.base);
        self.write_term(term, base, turn);
    }

    fn write_term<T: Terms + ?Sized>(&mut self, term_id: i64, base: i64, turn: &mut Turn<'_, T>) {
        self.wait = Wait::TermWritten;
        turn.push(Action::WriteTerm { term_id, base, epoch: self.epoch });
    }

    fn close_replicated<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let (term_id, position) = (self.replication.term, self.replication.stop);
        self.wait = Wait::TermClosed;
        turn.push(Action::CloseTerm { term_id, position, epoch: self.epoch });
    }

    pub(super) fn on_term_written<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.see_log_term(turn);
        match self.state {
            State::FollowerLogReplication if self.replication.stop <= turn.reports.own.append => {
                self.close_replicated(turn);
            }
            State::FollowerLogReplication => {
                self.wait = Wait::Replicated;
                turn.push(Action::Replicate {
                    source: self.leader.unwrap_or(-1),
                    recording_id: self.adopted.recording_id,
                    stop: self.replication.stop,
                    epoch: self.epoch,
                });
                self.arm(TimerKind::Progress, Delay::HeartbeatTimeout, turn);
                self.arm(TimerKind::Heartbeat, Delay::HeartbeatInterval, turn);
            }
            State::FollowerReplay => self.begin_replay(turn),
            State::LeaderReplay => self.on_own_term_written(turn),
            State::FollowerLogAwait | State::FollowerCatchupAwait => self.join_services(turn),
            _ => {}
        }
    }

    pub(super) fn on_replicating<T: Terms + ?Sized>(&mut self, position: i64, turn: &mut Turn<'_, T>) {
        if self.wait == Wait::Replicated && position > turn.reports.own.append {
            turn.reports.own.append = position;
            self.arm(TimerKind::Progress, Delay::HeartbeatTimeout, turn);
        }
    }

    /// A replication that ended early leaves its term open (spec 07 §12).
    pub(super) fn on_replicated<T: Terms + ?Sized>(&mut self, position: i64, turn: &mut Turn<'_, T>) {
        let stop = self.replication.stop;
        if position < stop && !is_planted(Bug::ReplicationCutShort) {
            turn.record(Reason::ReplicationCutShort { position, stop });
            return self.restart(false, turn);
        }
        turn.reports.own.append = position;
        self.close_replicated(turn);
    }

    /// The leader no longer has what this member lacks: it waits for an operator, and disturbs nobody (spec 07 §31).
    pub(super) fn on_source_starts_above<T: Terms + ?Sized>(&mut self, start: i64, turn: &mut Turn<'_, T>) {
        let position = turn.reports.own.append;
        if let Some(member_id) = self.leader {
            turn.record(Reason::LeaderLogStartsAbove { member_id, start, position });
            self.unreachable = Some((member_id, position));
        }
        if is_planted(Bug::EndlessAfterPurge) {
            self.unreachable = None;
        }
        self.restart(false, turn);
    }

    /// State 10. The TERM entry comes first: the member vouches for the leader's log by it (spec 07 §2, §4).
    pub(super) fn enter_follower_replay<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.set_role(Role::Follower, turn);
        self.arm(TimerKind::Deadline, Delay::HeartbeatTimeout, turn);
        if self.log_term == self.leadership_term || is_planted(Bug::LateTermEntry) {
            self.begin_replay(turn);
        } else if turn.reports.own.append == self.adopted.term_base {
            self.write_term(self.leadership_term, self.adopted.term_base, turn);
        } else {
            self.enter(State::Canvass, turn);
        }
    }

    fn begin_replay<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.wait = Wait::Commit;
        self.follow_heartbeat(turn);
        if is_planted(Bug::ReplayWaitsForEver) {
            self.disarm(TimerKind::Deadline, turn);
        }
        self.check_replay(turn);
    }

    /// Replays up to what is committed and recorded; the bound is taken once (spec 07 §11).
    pub(super) fn check_replay<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        if self.state != State::FollowerReplay || self.wait != Wait::Commit {
            return;
        }
        let own = turn.reports.own;
        if own.commit >= own.append {
            return self.leave_replay(turn);
        }
        let to = if is_planted(Bug::ReplayPastCommit) { own.append } else { own.append.min(self.notified) };
        if to > own.commit {
            self.wait = Wait::Replayed;
            self.disarm(TimerKind::Deadline, turn);
            self.arm(TimerKind::Progress, Delay::HeartbeatTimeout, turn);
            turn.push(Action::Replay { from: own.commit, to, epoch: self.epoch });
        }
    }

    fn leave_replay<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let is_behind = self.adopted.catchup_join > turn.reports.own.append;
        self.enter(if is_behind { State::FollowerCatchupInit } else { State::FollowerLogInit }, turn);
    }

    pub(super) fn on_replayed<T: Terms + ?Sized>(&mut self, position: i64, turn: &mut Turn<'_, T>) {
        turn.reports.own.commit = turn.reports.own.commit.max(position);
        if self.state == State::LeaderReplay {
            return self.enter(State::LeaderInit, turn);
        }
        self.disarm(TimerKind::Progress, turn);
        self.arm(TimerKind::Deadline, Delay::HeartbeatTimeout, turn);
        self.wait = Wait::Commit;
        self.check_replay(turn);
    }

    /// State 11.
    pub(super) fn enter_follower_catchup_init<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.subscribe(true, turn);
    }

    /// State 14. After a catch-up the subscription exists already.
    pub(super) fn enter_follower_log_init<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        if self.has_subscription {
            self.enter(State::FollowerReady, turn);
        } else {
            self.subscribe(false, turn);
        }
    }

    fn subscribe<T: Terms + ?Sized>(&mut self, with_catchup: bool, turn: &mut Turn<'_, T>) {
        self.wait = Wait::Subscribed;
        self.arm(TimerKind::Deadline, Delay::HeartbeatTimeout, turn);
        let session_id = self.adopted.log_session;
        turn.push(Action::SubscribeLog { session_id, with_catchup, epoch: self.epoch });
    }

    pub(super) fn on_subscribed<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.has_subscription = true;
        if self.state == State::FollowerLogInit {
            return self.enter(State::FollowerLogAwait, turn);
        }
        let Some(leader) = self.leader else { return };
        let request = CatchupRequest {
            leadership_term_id: self.leadership_term,
            log_position: turn.reports.own.append,
            follower_member_id: self.settings.member_id,
        };
        turn.send(leader, MemberMessage::CatchupPosition(request));
        self.enter(State::FollowerCatchupAwait, turn);
    }

    /// States 12 and 15.
    pub(super) fn await_image<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.wait = Wait::Image;
        self.arm(TimerKind::Deadline, Delay::HeartbeatTimeout, turn);
    }

    /// The image must begin where the own log ends (spec 04 §5.10); a gap would never be filled.
    pub(super) fn on_image<T: Terms + ?Sized>(&mut self, join_position: i64, turn: &mut Turn<'_, T>) {
        self.disarm(TimerKind::Deadline, turn);
        let log_position = turn.reports.own.append;
        if join_position != log_position && !is_planted(Bug::JoinGapAccepted) {
            turn.record(Reason::JoinPositionDiffers { join_position, log_position });
            return self.restart(false, turn);
        }
        self.record(turn);
    }

    pub(super) fn record<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.wait = Wait::Recording;
        turn.push(Action::RecordLog { role: self.role, epoch: self.epoch });
    }

    pub(super) fn on_recording<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        if is_planted(Bug::LateTermEntry) && !self.state.is_leading() && self.log_term != self.leadership_term
        {
            return self.write_term(self.leadership_term, self.adopted.term_base, turn);
        }
        self.join_services(turn);
    }

    fn join_services<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let is_leading = self.state.is_leading();
        let position = if is_leading { self.adopted.term_base } else { turn.reports.own.commit };
        self.wait = Wait::Joined;
        turn.push(Action::JoinLog {
            role: self.role,
            position,
            is_startup: if is_leading { self.is_node_startup } else { self.adopted.is_startup },
            epoch: self.epoch,
        });
    }

    pub(super) fn on_joined<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let next = match self.state {
            State::LeaderInit => State::LeaderReady,
            State::FollowerCatchupAwait => State::FollowerCatchup,
            _ => State::FollowerReady,
        };
        self.enter(next, turn);
    }

    /// State 13.
    pub(super) fn enter_follower_catchup<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.arm(TimerKind::Progress, Delay::HeartbeatTimeout, turn);
        self.follow_heartbeat(turn);
        self.check_catchup(turn);
    }

    pub(super) fn on_appended<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        match self.state {
            State::FollowerCatchup if turn.reports.own.append > self.last_reported => {
                self.arm(TimerKind::Progress, Delay::HeartbeatTimeout, turn);
                self.follow_heartbeat(turn);
                self.check_catchup(turn);
            }
            state if state.is_leading() => self.lead_progress(turn),
            _ => {}
        }
    }

    pub(super) fn on_consumed<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        match self.state {
            State::FollowerCatchup => {
                self.arm(TimerKind::Progress, Delay::HeartbeatTimeout, turn);
                self.check_catchup(turn);
            }
            // A replay goes on.
            State::FollowerReplay | State::LeaderReplay if self.wait == Wait::Replayed => {
                self.arm(TimerKind::Progress, Delay::HeartbeatTimeout, turn);
            }
            _ => {}
        }
    }

    /// The live log joins near the end; the catch-up ends when the leader says so and all that is committed was read.
    pub(super) fn check_catchup<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let own = turn.reports.own;
        let end = self.adopted.catchup_join.max(self.notified);
        let is_near = own.commit >= end - self.settings.catchup_window;
        if !self.has_live_destination && self.wait == Wait::Nothing && is_near {
            self.wait = Wait::LiveDestination;
            turn.push(Action::AddLiveDestination { epoch: self.epoch });
        }
        if self.has_live_destination && self.is_catchup_over && own.commit >= end && !own.is_snapshotting {
            self.enter(State::FollowerLogInit, turn);
        }
    }

    pub(super) fn on_live_destination<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.wait = Wait::Nothing;
        self.has_live_destination = true;
        self.check_catchup(turn);
    }

    /// State 16: the flag tells our leaders that this member has joined (spec 07 §21). A steady follower repeats the report.
    pub(super) fn enter_follower_ready<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.report(JOINED_FLAG, turn);
        self.is_trusted = true;
        self.unreachable = None;
        self.complete(Role::Follower, turn);
    }

    /// Repeats a follower's sign of life. Before the join it is a CanvassPosition, which never counts as ready
    /// (spec 07 §5, §21). A leader of another make would count one of its own term as ready, so it gets the term of the
    /// last canvass.
    pub(super) fn follow_heartbeat<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        let Some(leader) = self.leader else { return };
        match self.state {
            State::FollowerCatchup => self.report(CATCHUP_FLAG, turn),
            State::FollowerLogReplication | State::FollowerReplay => {
                let mut message = self.canvass_position(turn);
                if turn.reports.of(leader).is_some_and(|report| report.is_foreign) {
                    message.log_leadership_term_id = self.canvassed_term;
                }
                turn.send(leader, MemberMessage::CanvassPosition(message));
            }
            _ => return,
        }
        self.arm(TimerKind::Heartbeat, Delay::HeartbeatInterval, turn);
    }

    fn report<T: Terms + ?Sized>(&mut self, flags: u8, turn: &mut Turn<'_, T>) {
        let Some(leader) = self.leader else { return };
        self.last_reported = turn.reports.own.append;
        let message = AppendPosition {
            leadership_term_id: self.leadership_term,
            log_position: turn.reports.own.append,
            follower_member_id: self.settings.member_id,
            flags,
        };
        turn.send(leader, MemberMessage::AppendPosition(message));
    }

    /// The log ended under a follower. An election's own use of the log begins anew (spec 07 §18).
    pub(super) fn on_log_closed<T: Terms + ?Sized>(&mut self, end_of_stream: bool, turn: &mut Turn<'_, T>) {
        if self.state == State::Closed {
            if end_of_stream {
                self.graceful_leader = self.leader;
            }
            return self.leave_steady(Reason::LogDisconnected, turn);
        }
        let uses_log = matches!(
            self.state,
            State::FollowerCatchupAwait
                | State::FollowerCatchup
                | State::FollowerLogAwait
                | State::LeaderInit
                | State::LeaderReady
        );
        if uses_log {
            turn.record(Reason::RequestFailed { state: self.state });
            self.restart(false, turn);
        }
    }
}
