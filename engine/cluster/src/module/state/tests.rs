//! Tests of the shared state: whatever a leader has appended, a rollback leaves what is committed and nothing else.

use harrier_ringbuf::Rng;

use super::*;
use crate::codec::{SessionHeader, TimeUnit};

const SERVICES: usize = 2;

/// An entry of the log that owns its content.
#[derive(Debug, Clone, Copy)]
enum Entry {
    Message,
    ServiceMessage(i64),
    Open(i64),
    Close(i64),
    Timer(i64),
    Action(ClusterAction),
    StandbySnapshot,
    Term(i64),
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Enqueue(usize),
    Close(i64),
    Schedule(i64, i64),
    Cancel(i64),
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Entry(Entry, i64),
    Command(Command),
}

fn message(entry: Entry, log_position: i64) -> LogMessage<'static> {
    let (leadership_term_id, timestamp) = (1, log_position);
    let action =
        |action, flags| LogMessage::Action { leadership_term_id, log_position, timestamp, action, flags };
    match entry {
        Entry::Message => session_message(7, timestamp),
        Entry::ServiceMessage(id) => session_message(id, timestamp),
        Entry::Open(session_id) => LogMessage::SessionOpen {
            leadership_term_id,
            correlation_id: session_id * 10,
            session_id,
            timestamp,
            response_stream_id: 5,
            response_channel: "aeron:ipc",
            principal: b"who",
        },
        Entry::Close(session_id) => LogMessage::SessionClose {
            leadership_term_id,
            session_id,
            timestamp,
            reason: CloseReason::Timeout,
        },
        Entry::Timer(correlation_id) => LogMessage::Timer { leadership_term_id, correlation_id, timestamp },
        Entry::Action(kind) => action(kind, 0),
        Entry::StandbySnapshot => action(ClusterAction::Snapshot, 1),
        Entry::Term(leadership_term_id) => LogMessage::NewLeadershipTerm {
            leadership_term_id,
            log_position,
            timestamp,
            term_base_log_position: log_position,
            leader_member_id: 0,
            log_session_id: 0,
            time_unit: TimeUnit::Millis,
            app_version: 1,
        },
    }
}

fn session_message(session_id: i64, timestamp: i64) -> LogMessage<'static> {
    LogMessage::Session {
        header: SessionHeader { leadership_term_id: 1, session_id, timestamp },
        payload: b"payload",
    }
}

fn carry_out(state: &mut ClusterState, command: Command) -> ServiceEffect {
    state.on_service(match command {
        Command::Enqueue(service_id) => ServiceCommand::Enqueue { service_id, payload: b"later" },
        Command::Close(session_id) => ServiceCommand::CloseSession { session_id },
        Command::Schedule(correlation_id, deadline) => {
            ServiceCommand::ScheduleTimer { correlation_id, deadline }
        }
        Command::Cancel(correlation_id) => ServiceCommand::CancelTimer { correlation_id },
    })
}

/// A leader that appends, and everything that it has done.
struct Leader {
    state: ClusterState,
    steps: Vec<Step>,
    rng: Rng,
    position: i64,
    committed: i64,
}

impl Leader {
    fn new(seed: u64) -> Self {
        Self {
            state: ClusterState::new(SERVICES),
            steps: Vec::new(),
            rng: Rng::new(seed),
            position: 0,
            committed: 0,
        }
    }

    fn step(&mut self) {
        match self.rng.below(10) {
            0 => self.commit(),
            1..=3 => self.command(),
            _ => self.append(),
        }
    }

    fn commit(&mut self) {
        let span = (self.position - self.committed) as u64 / 32;
        self.committed += self.rng.below(span + 1) as i64 * 32;
        self.state.commit(self.committed);
    }

    fn command(&mut self) {
        let timer = self.rng.below(4) as i64;
        let command = match self.rng.below(8) {
            0 | 1 => Command::Enqueue(self.rng.below(SERVICES as u64) as usize),
            2 => Command::Close(1 + self.rng.below(6) as i64),
            3 | 4 => Command::Cancel(timer),
            _ => Command::Schedule(timer, self.rng.below(100) as i64),
        };
        carry_out(&mut self.state, command);
        self.steps.push(Step::Command(command));
    }

    fn append(&mut self) {
        let Some(entry) = self.draw() else { return };
        self.position += 32 * (1 + self.rng.below(3) as i64);
        self.state.apply(&message(entry, self.position), self.position, Origin::Appended);
        self.steps.push(Step::Entry(entry, self.position));
    }

    fn draw(&mut self) -> Option<Entry> {
        let sessions: Vec<i64> = self.state.sessions().map(|session| session.id).collect();
        let state = self.state.state();
        match self.rng.below(9) {
            0 | 1 => Some(Entry::Open(self.state.take_session_id())),
            2 if !sessions.is_empty() => {
                Some(Entry::Close(sessions[self.rng.below(sessions.len() as u64) as usize]))
            }
            3 | 4 => self.state.timers().due(i64::MAX).map(Entry::Timer),
            5 => {
                let service = self.rng.below(SERVICES as u64) as usize;
                self.state.next_to_append(service).map(|(id, _)| Entry::ServiceMessage(id))
            }
            6 if state == LoggedState::Active && self.rng.chance(1, 3) => {
                Some(Entry::Action(ClusterAction::Snapshot))
            }
            6 if state == LoggedState::Active => Some(Entry::Action(ClusterAction::Suspend)),
            6 => Some(Entry::Action(ClusterAction::Resume)),
            7 if self.rng.chance(1, 2) => Some(Entry::Term(self.position)),
            7 => Some(Entry::StandbySnapshot),
            _ => Some(Entry::Message),
        }
    }

    /// The state of a member that has read the log up to a position, and whose services have sent the same.
    fn follower(&self, position: i64) -> ClusterState {
        let mut state = ClusterState::new(SERVICES);
        for step in &self.steps {
            match *step {
                Step::Entry(entry, end) if end <= position => {
                    state.apply(&message(entry, end), end, Origin::Read);
                }
                Step::Entry(..) => {}
                Step::Command(command) => {
                    carry_out(&mut state, command);
                }
            }
        }
        state
    }
}

type SessionFacts = (i64, i64, i64, String, Vec<u8>);
type Facts = (
    Vec<SessionFacts>,
    i64,
    Vec<(i64, i64)>,
    (LoggedState, Term),
    Vec<(pending_messages::Tracker, Vec<i64>)>,
);

/// State that must be equal on all members.
fn facts(state: &ClusterState) -> Facts {
    let sessions = state.sessions().map(|session| {
        let LoggedSession { id, correlation_id, opened_position, response_channel, principal, .. } = session;
        (*id, *correlation_id, *opened_position, response_channel.clone(), principal.clone())
    });
    let mut timers = Vec::new();
    let mut key = None;
    while let Some((next, id)) = state.timers().after(key) {
        timers.push((id, next.0));
        key = Some(next);
    }
    timers.sort_unstable();
    let pending = state.pending_messages.iter().map(|messages| {
        let ids = (0..).map_while(|index| messages.waiting(index)).map(|(id, _)| id).collect();
        (messages.tracker(), ids)
    });
    let sessions = sessions.collect();
    (sessions, state.next_committed_session_id, timers, (state.state, state.term), pending.collect())
}

#[test]
fn a_rollback_leaves_what_a_follower_has_read() {
    let mut undone = 0;
    for seed in 0..3_000 {
        let mut leader = Leader::new(seed);
        for _ in 0..20 + leader.rng.below(120) {
            leader.step();
        }
        let span = (leader.position - leader.committed) as u64 / 32;
        let position = leader.committed + leader.rng.below(span + 1) as i64 * 32;
        undone += usize::from(position < leader.position);
        let mut follower = leader.follower(position);
        leader.state.roll_back(position);
        assert_eq!(facts(&leader.state), facts(&follower), "seed {seed}: {:?}", leader.steps);
        for session in follower.sessions().filter(|session| session.close_reason.is_some()) {
            assert!(leader.state.session(session.id).unwrap().close_reason.is_some(), "seed {seed}");
        }
        // The log of the next leader finds both in the same state.
        let mut next = position;
        for entry in [Entry::Term(9), Entry::Open(90), Entry::Timer(0), Entry::Timer(3), Entry::Message] {
            next += 64;
            for state in [&mut leader.state, &mut follower] {
                state.apply(&message(entry, next), next, Origin::Read);
            }
        }
        for command in [Command::Schedule(0, 5), Command::Schedule(3, 6), Command::Enqueue(0)] {
            assert_eq!(carry_out(&mut leader.state, command), carry_out(&mut follower, command));
        }
        assert_eq!(facts(&leader.state), facts(&follower), "seed {seed} later: {:?}", leader.steps);
    }
    assert!(undone > 1_000, "{undone} of the rollbacks undo something");
}

#[test]
fn a_commit_of_everything_leaves_nothing_to_roll_back() {
    for seed in 0..300 {
        let mut leader = Leader::new(seed);
        for _ in 0..80 {
            leader.step();
        }
        let follower = leader.follower(leader.position);
        leader.state.commit(leader.position);
        assert!(leader.state.undo.is_empty());
        assert_eq!(facts(&leader.state), facts(&follower), "seed {seed}");
        leader.state.roll_back(leader.position);
        assert_eq!(facts(&leader.state), facts(&follower), "seed {seed}");
    }
}

/// Appends an entry 64 bytes behind the last one.
fn append(state: &mut ClusterState, entry: Entry) -> Effect {
    let position = state.position + 64;
    state.apply(&message(entry, position), position, Origin::Appended)
}

#[test]
fn a_session_that_was_opened_and_closed_behind_the_position_has_never_existed() {
    let mut state = ClusterState::new(1);
    assert_eq!(append(&mut state, Entry::Open(1)), Effect::SessionOpened { session_id: 1 });
    state.commit(64);
    append(&mut state, Entry::Open(2));
    assert_eq!(append(&mut state, Entry::Close(2)), Effect::SessionClosed { session_id: 2 });
    append(&mut state, Entry::Close(1));
    assert_eq!(append(&mut state, Entry::Close(1)), Effect::None, "it is closed already");
    state.roll_back(64);
    let left: Vec<(i64, Option<CloseReason>)> =
        state.sessions().map(|session| (session.id, session.close_reason)).collect();
    assert_eq!(left, [(1, Some(CloseReason::Timeout))], "its close is appended again");
    assert_eq!(state.take_session_id(), 3, "ids are not given back");
    assert_eq!(state.next_committed_session_id, 2);
}

#[test]
fn a_timer_that_is_rolled_back_has_its_deadline_unless_its_service_has_decided_otherwise() {
    let timers_after = |command: Option<Command>| {
        let mut state = ClusterState::new(1);
        carry_out(&mut state, Command::Schedule(7, 40));
        append(&mut state, Entry::Timer(7));
        assert_eq!(state.timers().next_deadline(), None);
        if let Some(command) = command {
            carry_out(&mut state, command);
        }
        state.roll_back(0);
        facts(&state).2
    };
    assert_eq!(timers_after(None), [(7, 40)]);
    assert_eq!(timers_after(Some(Command::Schedule(7, 90))), [(7, 90)]);
    assert_eq!(timers_after(Some(Command::Cancel(7))), []);
}

#[test]
fn actions_change_the_state_and_a_rollback_changes_it_back() {
    let mut state = ClusterState::new(1);
    let suspended = Effect::StateChanged(LoggedState::Suspended);
    assert_eq!(append(&mut state, Entry::Action(ClusterAction::Suspend)), suspended);
    state.commit(64);
    append(&mut state, Entry::Action(ClusterAction::Resume));
    assert_eq!(append(&mut state, Entry::StandbySnapshot), Effect::None);
    assert_eq!(
        append(&mut state, Entry::Action(ClusterAction::Snapshot)),
        Effect::Snapshot { position: 256 }
    );
    assert_eq!(state.state(), LoggedState::Snapshot);
    assert_eq!(append(&mut state, Entry::Term(4)), Effect::TermStarted(Term { id: 4, base: 320 }));
    state.roll_back(64);
    assert_eq!((state.state(), state.term().id), (LoggedState::Suspended, -1));
    state.end_snapshot();
    assert_eq!(state.state(), LoggedState::Suspended, "no snapshot is running any more");
}

#[test]
fn messages_of_clients_move_the_clock_and_nothing_else() {
    let mut state = ClusterState::new(1);
    assert_eq!(append(&mut state, Entry::Message), Effect::None);
    assert_eq!((state.time(), state.undo.is_empty()), (64, true));
    state.apply(&session_message(7, 3), 128, Origin::Appended);
    assert_eq!(state.time(), 64, "time never goes back");
}

#[test]
fn a_full_undo_log_makes_the_leader_wait() {
    let mut state = ClusterState::new(1);
    let mut count = 0;
    while state.has_room() {
        append(&mut state, Entry::Open(count));
        count += 1;
    }
    assert_eq!(count, 4_096);
    state.commit(64);
    assert!(state.has_room());
}

#[test]
fn requests_of_services_are_answered() {
    let mut state = ClusterState::new(1);
    append(&mut state, Entry::Open(1));
    let closing = ServiceEffect::SessionClosing { session_id: 1 };
    assert_eq!(carry_out(&mut state, Command::Close(1)), closing);
    assert_eq!(carry_out(&mut state, Command::Close(2)), ServiceEffect::None);
    assert_eq!(carry_out(&mut state, Command::Enqueue(0)), ServiceEffect::None);
    assert_eq!(carry_out(&mut state, Command::Enqueue(1)), ServiceEffect::Refused);
    assert_eq!(state.session(1).unwrap().close_reason, Some(CloseReason::ServiceAction));
}

#[test]
#[should_panic(expected = "log position 64 cannot follow 64")]
fn an_entry_at_a_position_that_is_taken_is_a_bug() {
    let mut state = ClusterState::new(1);
    append(&mut state, Entry::Message);
    state.apply(&message(Entry::Message, 64), 64, Origin::Appended);
}

#[test]
#[should_panic(expected = "log position 40 cannot follow 0")]
fn an_entry_at_an_unaligned_position_is_a_bug() {
    ClusterState::new(1).apply(&message(Entry::Message, 40), 40, Origin::Read);
}

#[test]
#[should_panic(expected = "log position 32 cannot follow 64")]
fn a_commit_position_that_goes_back_is_a_bug() {
    let mut state = ClusterState::new(1);
    append(&mut state, Entry::Message);
    state.commit(64);
    state.commit(32);
}

#[test]
#[should_panic(expected = "neither committed nor rolled back")]
fn reading_behind_uncommitted_entries_is_a_bug() {
    let mut state = ClusterState::new(1);
    append(&mut state, Entry::Open(1));
    state.apply(&message(Entry::Open(2), 128), 128, Origin::Read);
}
