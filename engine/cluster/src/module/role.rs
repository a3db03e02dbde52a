//! The roles of a member. Each one owns what only it needs, and returns the next one (spec 04 §4.1, §5.2).

use harrier_archive::client::ArchiveAnswer;
use harrier_archive::codec::Signal;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::{Core, Life, ModuleState};
use super::electing::Electing;
use super::error::ModuleError;
use super::leading::Leading;
use super::starting::Starting;
use super::terminating::Terminating;

/// Role that the member has now.
#[expect(clippy::large_enum_variant, reason = "a box would be allocated anew at each step of an election")]
pub(super) enum Role {
    Starting(Starting),
    Electing(Electing),
    Leading(Box<Leading>),
    Terminating(Box<Terminating>),
    /// The role was taken out of its place and has not come back, because its step has failed.
    Ended,
}

/// Role after a step, and whether the step has changed anything.
pub(super) type Step = Result<(Role, bool), ModuleError>;

impl Role {
    /// Role of a member that has just connected to its driver.
    pub(super) fn starting() -> Self {
        Self::Starting(Starting::ConnectArchive)
    }

    pub(super) fn is_leading(&self) -> bool {
        matches!(self, Self::Leading(_))
    }

    /// Runs the role's part of a duty cycle.
    #[inline]
    pub(super) fn work<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        is_slow_tick: bool,
    ) -> Result<usize, ModuleError> {
        let Self::Leading(leading) = self else { return self.step(core) };
        let mut work_count = 0;
        if is_slow_tick {
            if leading.has_lost_recording(core) {
                self.lose_leadership(core, "log recording stopped");
                return Ok(1);
            }
            work_count += leading.slow_tick(core)?;
        }
        work_count += leading.work(core)?;
        if core.life == Life::Terminating {
            self.end_leadership(core);
        }
        Ok(work_count)
    }

    fn step<M: Memory, S: Storage>(&mut self, core: &mut Core<M, S>) -> Result<usize, ModuleError> {
        core.requests.check_deadlines(core.now.ns)?;
        let (role, is_step) = match std::mem::replace(self, Self::Ended) {
            Self::Starting(starting) => starting.step(core)?,
            Self::Electing(electing) => electing.step(core)?,
            Self::Terminating(terminating) => terminating.step(core)?,
            role @ (Self::Leading(_) | Self::Ended) => (role, false),
        };
        *self = role;
        Ok(usize::from(is_step))
    }

    /// Tells the services to end at a position, bytes; returns false when they cannot be told now.
    pub(super) fn terminate<M: Memory, S: Storage>(&mut self, core: &mut Core<M, S>, position: i64) -> bool {
        let is_told = core.terminate(position);
        if is_told {
            self.end_leadership(core);
        }
        is_told
    }

    fn lose_leadership<M: Memory, S: Storage>(&mut self, core: &mut Core<M, S>, reason: &str) {
        *self = match std::mem::replace(self, Self::Ended) {
            Self::Leading(leading) => Self::Electing(leading.step_down(core, reason)),
            role => role,
        };
    }

    fn end_leadership<M: Memory, S: Storage>(&mut self, core: &Core<M, S>) {
        *self = match std::mem::replace(self, Self::Ended) {
            Self::Leading(leading) => {
                let deadline_ns = core.now.ns + core.context.termination_timeout_ns;
                Self::Terminating(Box::new(Terminating::new(leading, deadline_ns)))
            }
            role => role,
        };
    }

    /// Hands over an answer of the archive; returns true when the role waits for it.
    pub(super) fn on_answer(&mut self, answer: &ArchiveAnswer) -> bool {
        match self {
            Self::Starting(starting) => starting.on_answer(answer),
            _ => false,
        }
    }

    /// Hands over a signal of the archive; returns true when it is about the recording of the role's log.
    pub(super) fn on_signal(&mut self, recording_id: i64, position: i64, signal: Signal) -> bool {
        match self {
            Self::Leading(leading) => leading.on_signal(recording_id, position, signal),
            Self::Terminating(terminating) => terminating.leading.on_signal(recording_id, position, signal),
            Self::Starting(_) | Self::Electing(_) | Self::Ended => false,
        }
    }

    /// A service has asked to close a session.
    pub(super) fn on_session_closing(&mut self, session_id: i64) {
        match self {
            Self::Leading(leading) => leading.on_session_closing(session_id),
            Self::Electing(electing) => electing.on_session_closing(session_id),
            Self::Starting(_) | Self::Terminating(_) | Self::Ended => {}
        }
    }

    /// A snapshot has ended, and the log goes on.
    pub(super) fn on_snapshot_ended<M: Memory, S: Storage>(&mut self, core: &mut Core<M, S>) {
        if let Self::Leading(leading) = self {
            leading.on_snapshot_ended(core);
        }
    }

    /// Position up to which the member's archive has recorded the log that it appends, bytes.
    pub(super) fn recorded_position<M: Memory, S: Storage>(&self, core: &Core<M, S>) -> Option<i64> {
        match self {
            Self::Leading(leading) => leading.recorded_position(core),
            Self::Terminating(terminating) => terminating.leading.recorded_position(core),
            Self::Starting(_) | Self::Electing(_) | Self::Ended => None,
        }
    }

    /// Closes the streams to all clients.
    pub(super) fn disconnect_clients(&mut self) {
        match self {
            Self::Leading(leading) => leading.disconnect_clients(),
            Self::Electing(electing) => electing.disconnect_clients(),
            Self::Terminating(terminating) => terminating.leading.disconnect_clients(),
            Self::Starting(_) | Self::Ended => {}
        }
    }

    /// Time at which the next duty cycle has something to do although nothing has arrived, ns. Time limits of requests are
    /// checked in slow ticks.
    pub(super) fn next_deadline_ns<M: Memory, S: Storage>(&self, core: &Core<M, S>) -> i64 {
        // Only an active leader fires timers.
        let fires = self.is_leading() && core.module_state() == ModuleState::Active;
        let Some(deadline) = core.state.timers().next_deadline().filter(|_| fires) else {
            return core.next_slow_tick_ns;
        };
        let until_ns = core.clock.until_ns(deadline, &core.now, core.state.time());
        core.now.ns.saturating_add(until_ns).min(core.next_slow_tick_ns)
    }
}
