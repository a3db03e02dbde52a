//! Elections among the members of a cluster (spec 04 §5, spec 07).
//!
//! [`Election`] is a pure state machine that lives as long as its member. It has no clock, does no I/O and does not
//! allocate: the owner hands in one [`Input`] at a time and carries out the [`Actions`] that it causes. In state CLOSED
//! it decides what messages of other members mean for a steady leader or follower. Two kinds of messages bypass it then:
//! AppendPosition at the leader, which goes to [`Reports::on_append_position`], and CommitPosition of the own leader and
//! term, which raises [`Own::notified`].
//!
//! The owner
//! - brings [`Own`] up to date before each input: end of the recording, commit counter, publication, notified commit;
//! - carries out actions in their order, and reports the end of each request once, with the epoch of the request. Writes of
//!   node-state.dat and recording.log end in their order, and before [`Completion::Prepared`];
//! - on a new epoch ends what requests of older ones hold, and never adopts it;
//! - keeps the time of each member's last message, and says once when it has passed leaderHeartbeatTimeout;
//! - reads the log only up to [`Election::consume_limit`];
//! - as steady leader calls [`Reports::on_append_position`] and [`Reports::on_heartbeat`], commits
//!   [`Reports::quorum_position`], and tests [`Reports::has_active_quorum`];
//! - as steady follower reports its append position with the flag
//!   [`JOINED_FLAG`](crate::codec::JOINED_FLAG) (spec 07 §21).

mod action;
mod ballot;
mod canvass;
mod follow;
mod input;
mod join;
mod lead;
mod message;
mod reports;
mod state;
mod steady;
mod terms;
#[cfg(test)]
mod tests;

pub use action::{Action, Actions, Delay, MAX_ACTIONS, MAX_ATTEMPT, Reason};
pub use follow::{Course, LogEnd, course};
pub use input::{CatchupRequest, Completion, Done, Input, MemberMessage, Observation, TimerKind, Trigger};
pub use reports::{Catchup, MAX_MEMBERS, Own, Report, ReportKind, Reports};
pub use state::State;
pub use terms::Terms;

use harrier_ringbuf::planted::{Bug, is_planted};

use crate::codec::{NewLeadershipTerm, Role};

/// Settings that stay the same for the life of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Own id.
    pub member_id: i32,
    /// The only member that may stand, if one is appointed (spec 04 §5.9).
    pub appointed_leader: Option<i32>,
    /// Version of the application, packed.
    pub app_version: i32,
    /// Version of the protocol between members, packed (spec 07, F1).
    pub protocol_version: i32,
    /// The live log is added to a catch-up this far before its end, bytes: min(term length / 4, 32 MiB).
    pub catchup_window: i64,
    /// False after a crash of the machine at sync level 0: until the member has followed a leader it neither stands nor
    /// votes.
    pub is_log_trusted: bool,
}

/// Terms of node-state.dat at the start of the node (spec 07 §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeTerms {
    /// Highest term voted for or proposed; -1 for none.
    pub candidate: i64,
    /// V: highest term in which this member voted for another or was elected; -1 for none.
    pub voted: i64,
}

/// Completion that a state awaits, besides messages and timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wait {
    Nothing,
    Truncated,
    Prepared,
    LogPublished,
    TermWritten,
    TermClosed,
    Commit,
    Replicated,
    Replayed,
    Recording,
    Joined,
    TermEvent,
    Subscribed,
    Image,
    LiveDestination,
}

/// Reason for which two terms are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Intent {
    Nothing,
    /// Stand in the candidate term.
    Stand,
    /// Vote YES in the voted term.
    Vote {
        candidate: i32,
    },
    /// Lead in the voted term.
    Lead,
}

/// A term that is replicated from a leader's archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Replication {
    term: i64,
    base: i64,
    stop: i64,
}

/// The leader that a follower has adopted, as its NewLeadershipTerm describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Adopted {
    log_session: i32,
    recording_id: i64,
    term_base: i64,
    is_startup: bool,
    /// Position that ends the catch-up, bytes; -1 without one.
    catchup_join: i64,
}

const NO_LEADER: Adopted =
    Adopted { log_session: -1, recording_id: -1, term_base: 0, is_startup: false, catchup_join: -1 };

/// The election of one member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Election {
    settings: Settings,
    state: State,
    role: Role,
    epoch: u32,
    wait: Wait,
    timers: u8,
    is_node_startup: bool,
    is_extended_canvass: bool,
    has_deadline_passed: bool,
    is_trusted: bool,
    is_guard_lifted: bool,
    /// The ballot only serves to end a lower term (spec 07 §1).
    is_prodding: bool,
    /// Ballots lost in a row.
    attempt: u8,
    candidate_term: i64,
    voted_term: i64,
    durable: NodeTerms,
    intent: Intent,
    /// Term and candidate that got this member's last YES in this life.
    chosen: Option<(i64, i32)>,
    log_term: i64,
    /// Log term of the last canvass.
    canvassed_term: i64,
    leadership_term: i64,
    leader: Option<i32>,
    adopted: Adopted,
    notified: i64,
    graceful_leader: Option<i32>,
    replication: Replication,
    last_commit_sent: i64,
    last_reported: i64,
    has_subscription: bool,
    has_live_destination: bool,
    is_catchup_over: bool,
    /// Leader whose log starts above the own end, and that end.
    unreachable: Option<(i32, i64)>,
}

/// State that the handling of one input reads and changes.
struct Turn<'a, T: ?Sized> {
    terms: &'a T,
    reports: &'a mut Reports,
    actions: &'a mut Actions,
}

impl<T: Terms + ?Sized> Turn<'_, T> {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn send(&mut self, to: i32, message: MemberMessage) {
        self.actions.push(Action::Send { to, message });
    }

    fn record(&mut self, reason: Reason) {
        self.actions.push(Action::Record(reason));
    }
}

impl Election {
    /// Creates the election of a member that has not started yet; [`Trigger::NodeStarted`] begins it.
    pub fn new(settings: Settings, node: NodeTerms) -> Self {
        Self {
            settings,
            state: State::Init,
            role: Role::Follower,
            epoch: 0,
            wait: Wait::Nothing,
            timers: 0,
            is_node_startup: true,
            is_extended_canvass: true,
            has_deadline_passed: false,
            is_trusted: settings.is_log_trusted,
            is_guard_lifted: false,
            is_prodding: false,
            attempt: 0,
            candidate_term: node.candidate.max(node.voted),
            voted_term: node.voted,
            durable: node,
            intent: Intent::Nothing,
            chosen: None,
            log_term: -1,
            canvassed_term: -1,
            leadership_term: -1,
            leader: None,
            adopted: NO_LEADER,
            notified: 0,
            graceful_leader: None,
            replication: Replication { term: -1, base: 0, stop: 0 },
            last_commit_sent: 0,
            last_reported: -1,
            has_subscription: false,
            has_live_destination: false,
            is_catchup_over: false,
            unreachable: None,
        }
    }

    /// Handles one input. `terms` and [`Reports::own`] are up to date; `actions` gets what is to be done, in order.
    pub fn on<T: Terms + ?Sized>(
        &mut self,
        input: Input,
        terms: &T,
        reports: &mut Reports,
        actions: &mut Actions,
    ) {
        let turn = &mut Turn { terms, reports, actions };
        match input {
            Input::Message(message) => self.on_message(message, turn),
            Input::Timer(kind) => self.on_timer(kind, turn),
            Input::Done(done) => self.on_done(done, turn),
            Input::Observed(observation) => self.on_observation(observation, turn),
            Input::Trigger(trigger) => self.on_trigger(trigger, turn),
        }
    }

    fn on_timer<T: Terms + ?Sized>(&mut self, kind: TimerKind, turn: &mut Turn<'_, T>) {
        if self.timers & kind.bit() == 0 {
            return;
        }
        self.timers &= !kind.bit();
        match kind {
            TimerKind::Status => self.on_status(turn),
            TimerKind::Canvass => self.on_canvass_deadline(turn),
            TimerKind::Stand if self.state.is_leading() => {
                if matches!(self.wait, Wait::Nothing | Wait::Commit) {
                    self.on_time_out(kind, turn);
                }
            }
            TimerKind::Stand => self.stand_against_lower(turn),
            TimerKind::Nomination => self.stand(turn),
            TimerKind::Ballot => self.on_ballot_end(turn),
            TimerKind::Heartbeat if self.state.is_leading() => self.lead_heartbeat(turn),
            TimerKind::Heartbeat => self.follow_heartbeat(turn),
            TimerKind::Progress | TimerKind::Deadline => self.on_time_out(kind, turn),
        }
    }

    /// A state took too long. While a follower only waits for the leader's commit position, it canvasses again; anything
    /// else begins anew (spec 07 §11).
    fn on_time_out<T: Terms + ?Sized>(&mut self, timer: TimerKind, turn: &mut Turn<'_, T>) {
        turn.record(Reason::TimedOut { state: self.state, timer });
        if self.state == State::FollowerReplay && self.wait == Wait::Commit {
            self.enter(State::Canvass, turn);
        } else {
            self.restart(false, turn);
        }
    }

    fn on_done<T: Terms + ?Sized>(&mut self, done: Done, turn: &mut Turn<'_, T>) {
        if let Completion::Persisted { candidate_term_id, voted_term_id } = done.completion {
            self.durable.candidate = self.durable.candidate.max(candidate_term_id);
            self.durable.voted = self.durable.voted.max(voted_term_id);
            return self.on_persisted(turn);
        }
        if done.epoch != self.epoch && !is_planted(Bug::StaleCompletionUsed) {
            return;
        }
        match (self.wait, done.completion) {
            (Wait::Nothing, _) => {}
            (_, Completion::Failed) => {
                turn.record(Reason::RequestFailed { state: self.state });
                self.restart(false, turn);
            }
            (Wait::Truncated, Completion::Truncated { .. }) => self.prepare(false, turn),
            (Wait::Prepared, Completion::Prepared) => self.on_prepared(turn),
            (Wait::LogPublished, Completion::LogPublished { session_id }) => {
                self.on_log_published(session_id, turn);
            }
            (Wait::TermWritten, Completion::TermWritten { .. }) => self.on_term_written(turn),
            (Wait::TermClosed, Completion::TermWritten { .. }) => self.enter(State::Canvass, turn),
            (Wait::Replicated, Completion::Replicated { position }) => self.on_replicated(position, turn),
            (
                Wait::Replicated | Wait::Subscribed | Wait::Image,
                Completion::SourceStartsAbove { position },
            ) => {
                self.on_source_starts_above(position, turn);
            }
            (Wait::Replayed, Completion::Replayed { position }) => self.on_replayed(position, turn),
            (Wait::Recording, Completion::Recording { .. }) => self.on_recording(turn),
            (Wait::Joined, Completion::Joined) => self.on_joined(turn),
            (Wait::TermEvent, Completion::TermEventAppended) => self.complete(Role::Leader, turn),
            (Wait::Subscribed, Completion::Subscribed) => self.on_subscribed(turn),
            (Wait::Image, Completion::ImageAvailable { join_position }) => self.on_image(join_position, turn),
            (Wait::LiveDestination, Completion::LiveDestinationAdded) => self.on_live_destination(turn),
            _ => {}
        }
    }

    fn on_observation<T: Terms + ?Sized>(&mut self, observation: Observation, turn: &mut Turn<'_, T>) {
        match observation {
            Observation::Appended => self.on_appended(turn),
            Observation::Consumed => self.on_consumed(turn),
            Observation::Replicating { position } => self.on_replicating(position, turn),
            Observation::MemberSilent { member_id } => {
                turn.reports.on_silent(member_id);
                self.on_member_silent(turn);
            }
            Observation::CatchupFailed { member_id } => {
                turn.reports.end_catchup(member_id);
            }
        }
    }

    fn on_trigger<T: Terms + ?Sized>(&mut self, trigger: Trigger, turn: &mut Turn<'_, T>) {
        match trigger {
            Trigger::NodeStarted if self.epoch == 0 => self.start(turn),
            Trigger::NodeStarted => {}
            Trigger::LeaderSilent => self.leave_steady(Reason::LeaderHeartbeatTimeout, turn),
            Trigger::QuorumLost => self.leave_steady(Reason::InactiveFollowerQuorum, turn),
            Trigger::LogClosed { end_of_stream } => self.on_log_closed(end_of_stream, turn),
            Trigger::RecordingStopped { .. } if self.state == State::Closed => {
                self.leave_steady(Reason::RecordingStopped, turn);
            }
            Trigger::RecordingStopped { .. } => self.on_log_closed(false, turn),
            Trigger::GuardLifted => self.is_guard_lifted = true,
            Trigger::LogTrusted => self.is_trusted = true,
        }
    }

    /// The first election of a node: nothing has to be stopped (spec 04 §5.2, state 0).
    fn start<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.epoch = self.epoch.wrapping_add(1);
        turn.push(Action::Begun(Reason::NodeStarted));
        turn.push(Action::State(State::Init));
        self.on_prepared(turn);
    }

    /// A steady member enters an election.
    fn leave_steady<T: Terms + ?Sized>(&mut self, reason: Reason, turn: &mut Turn<'_, T>) {
        if self.state == State::Closed {
            turn.push(Action::Begun(reason));
            self.restart(true, turn);
        }
    }

    /// INIT: gives up what this election has reached, and stops the log.
    fn restart<T: Terms + ?Sized>(&mut self, is_first: bool, turn: &mut Turn<'_, T>) {
        self.give_up(turn);
        self.prepare(is_first, turn);
    }

    fn give_up<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.enter(State::Init, turn);
        self.epoch = self.epoch.wrapping_add(1);
        self.leader = None;
        self.adopted = NO_LEADER;
        self.notified = 0;
        self.intent = Intent::Nothing;
        self.has_subscription = false;
        self.has_live_destination = false;
        self.is_catchup_over = false;
        for index in 0..turn.reports.all().len() {
            let member_id = turn.reports.all()[index].member_id;
            if turn.reports.end_catchup(member_id) {
                turn.push(Action::StopCatchup { member_id });
            }
        }
    }

    fn prepare<T: Terms + ?Sized>(&mut self, is_first: bool, turn: &mut Turn<'_, T>) {
        self.set_role(Role::Follower, turn);
        self.wait = Wait::Prepared;
        turn.push(Action::Prepare { is_first, epoch: self.epoch });
    }

    fn on_prepared<T: Terms + ?Sized>(&mut self, turn: &mut Turn<'_, T>) {
        self.wait = Wait::Nothing;
        self.see_log_term(turn);
        self.leadership_term = self.leadership_term.max(self.log_term);
        self.candidate_term = self.candidate_term.max(self.leadership_term);
        if !turn.reports.is_alone() {
            return self.enter(State::Canvass, turn);
        }
        match self.candidate_term.checked_add(1) {
            Some(term) => {
                self.candidate_term = term;
                self.enter(State::LeaderLogReplication, turn);
            }
            None => turn.push(Action::Fatal(Reason::TermsExhausted)),
        }
    }

    /// Changes the state; the state that it is in changes nothing (spec 07 §15). All timers end with a state.
    fn enter<T: Terms + ?Sized>(&mut self, state: State, turn: &mut Turn<'_, T>) {
        if state == self.state {
            return;
        }
        for kind in TimerKind::ALL {
            self.disarm(kind, turn);
        }
        if self.state == State::Canvass {
            self.is_extended_canvass = false;
        }
        self.state = state;
        self.wait = Wait::Nothing;
        turn.push(Action::State(state));
        match state {
            State::Init | State::Closed => {}
            State::Canvass => self.enter_canvass(turn),
            State::Nominate => self.enter_nominate(turn),
            State::CandidateBallot => self.enter_candidate_ballot(turn),
            State::FollowerBallot => self.arm(TimerKind::Ballot, Delay::ElectionTimeout, turn),
            State::LeaderLogReplication => self.enter_leader_log_replication(turn),
            State::LeaderReplay => self.enter_leader_replay(turn),
            State::LeaderInit => self.enter_leader_init(turn),
            State::LeaderReady => self.enter_leader_ready(turn),
            State::FollowerLogReplication => self.enter_follower_log_replication(turn),
            State::FollowerReplay => self.enter_follower_replay(turn),
            State::FollowerCatchupInit => self.enter_follower_catchup_init(turn),
            State::FollowerCatchupAwait | State::FollowerLogAwait => self.await_image(turn),
            State::FollowerCatchup => self.enter_follower_catchup(turn),
            State::FollowerLogInit => self.enter_follower_log_init(turn),
            State::FollowerReady => self.enter_follower_ready(turn),
        }
    }

    /// The election is complete (spec 04 §5.7).
    fn complete<T: Terms + ?Sized>(&mut self, role: Role, turn: &mut Turn<'_, T>) {
        let Some(leader) = self.leader else { return };
        self.enter(State::Closed, turn);
        self.is_node_startup = false;
        self.is_guard_lifted = false;
        self.attempt = 0;
        self.graceful_leader = None;
        turn.push(Action::Complete { role, leader, term_id: self.leadership_term });
    }

    fn set_role<T: Terms + ?Sized>(&mut self, role: Role, turn: &mut Turn<'_, T>) {
        if self.role != role {
            self.role = role;
            turn.push(Action::Role(role));
        }
    }

    fn arm<T: Terms + ?Sized>(&mut self, kind: TimerKind, delay: Delay, turn: &mut Turn<'_, T>) {
        self.timers |= kind.bit();
        turn.push(Action::SetTimer { kind, delay });
    }

    fn disarm<T: Terms + ?Sized>(&mut self, kind: TimerKind, turn: &mut Turn<'_, T>) {
        if self.timers & kind.bit() != 0 {
            self.timers &= !kind.bit();
            turn.push(Action::CancelTimer(kind));
        }
    }

    fn is_armed(&self, kind: TimerKind) -> bool {
        self.timers & kind.bit() != 0
    }

    /// The last TERM entry names the term of the log, because it is written before the first entry (spec 07 §4).
    fn see_log_term<T: Terms + ?Sized>(&mut self, turn: &Turn<'_, T>) {
        self.log_term = turn.terms.last().map_or(-1, |term| term.leadership_term_id);
    }

    /// Term and end of the own log, as candidates compare them (spec 04 §5.3).
    fn log<T: Terms + ?Sized>(&self, turn: &Turn<'_, T>) -> (i64, i64) {
        (self.log_term, turn.reports.own.append)
    }

    /// State of the election.
    pub fn state(&self) -> State {
        self.state
    }

    /// Role of the member.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The leader that the member knows; itself when it leads.
    pub fn leader(&self) -> Option<i32> {
        self.leader
    }

    /// Term that the member believes in.
    pub fn leadership_term(&self) -> i64 {
        self.leadership_term
    }

    /// Term of the last entry of the own log; -1 for an empty one.
    pub fn log_term(&self) -> i64 {
        self.log_term
    }

    /// Highest term voted for or proposed.
    pub fn candidate_term(&self) -> i64 {
        self.candidate_term
    }

    /// V of spec 07 §1.
    pub fn voted_term(&self) -> i64 {
        self.voted_term
    }

    /// Epoch of the requests.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Renumbers epochs when no request is open, so that searches find equal states.
    pub fn reset_epoch(&mut self) {
        self.epoch = 0;
    }

    /// True when a timer runs; others must not fire.
    pub fn is_timer_running(&self, kind: TimerKind) -> bool {
        self.is_armed(kind)
    }

    /// Position up to which a follower may read the log: what is committed and recorded, and nothing before its services
    /// have joined (spec 07 §9). `None` when it may not read.
    pub fn consume_limit(&self, own: &Own) -> Option<i64> {
        let may_read = match self.state {
            State::FollowerCatchup => true,
            State::Closed => self.role != Role::Leader,
            State::FollowerCatchupAwait | State::FollowerLogAwait => {
                is_planted(Bug::LogReadBeforeJoin) && self.wait == Wait::Joined
            }
            _ => false,
        };
        let told = if self.state == State::Closed { own.notified } else { self.notified };
        may_read.then(|| own.append.min(told))
    }
}

fn new_leadership_term(message: NewLeadershipTerm) -> MemberMessage {
    MemberMessage::NewLeadershipTerm(message)
}
