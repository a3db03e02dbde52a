//! Reader of a log: applies its messages on a member that does not lead (spec 04 §4.5–§4.7, §4.13).

use harrier_ringbuf::Memory;
use harrier_ringbuf::image_reader::Action;
use harrier_ringbuf::storage::Storage;

use super::core::Core;
use super::error::ModuleError;
use super::state::{Effect, Origin};
use crate::codec::{LogMessage, TimeUnit};
use crate::snapshot::version_text;

impl<M: Memory, S: Storage> Core<M, S> {
    /// Carries out one message of the log; `position` is the position after it, bytes. Reading stops behind every action,
    /// so that no message is read in the state before it (spec 04 §4.5).
    pub(super) fn on_read(&mut self, message: &[u8], position: i64) -> Result<Action, ModuleError> {
        let decoded = LogMessage::decode(message)
            .map_err(|error| ModuleError::Replay(format!("before position {position}: {error}")))?;
        let Some(entry) = decoded else { return Ok(Action::Continue) };
        if let LogMessage::NewLeadershipTerm { time_unit, app_version, .. } = entry {
            self.check_term(time_unit, app_version)?;
        }
        match self.state.apply(&entry, position, Origin::Read) {
            // The services take a snapshot at this position whenever they read it, and report it.
            Effect::Snapshot { position } => self.begin_snapshot(position),
            Effect::StateChanged(_) => self.show_state(),
            Effect::None
            | Effect::SessionOpened { .. }
            | Effect::SessionClosed { .. }
            | Effect::TermStarted(_) => {}
        }
        Ok(if matches!(entry, LogMessage::Action { .. }) { Action::Break } else { Action::Continue })
    }

    fn check_term(&self, time_unit: TimeUnit, app_version: i32) -> Result<(), ModuleError> {
        let own = self.context.app_version;
        if app_version >> 16 != own >> 16 {
            return Err(ModuleError::Version { own: version_text(own), log: version_text(app_version) });
        }
        if time_unit != self.clock.unit() {
            return Err(ModuleError::TimeUnit { own: self.clock.unit(), log: time_unit });
        }
        Ok(())
    }
}
