//! Commands that operators give by counters (spec 04 §2.5, §4.9–§4.11).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::{Core, ModuleState};
use super::counters::{node_toggle, toggle};
use super::error::ModuleError;
use super::leading::Leading;
use super::state::{Effect, Origin};
use crate::codec::{ClusterAction, LogMessage};

/// Flag of a snapshot that only standbys take.
const STANDBY_SNAPSHOT_FLAG: i32 = 1;

impl Leading {
    /// Carries out the command in the cluster's toggle.
    pub(super) fn check_toggle<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
    ) -> Result<usize, ModuleError> {
        let wish = core.counters.control_toggle.get();
        let is_done = match (core.module_state(), wish) {
            (ModuleState::Active, toggle::NEUTRAL) | (ModuleState::Suspended, toggle::SUSPEND) => {
                return Ok(0);
            }
            (ModuleState::Active, toggle::SUSPEND) => {
                self.append_action(core, ClusterAction::Suspend, 0)?.is_some()
            }
            (ModuleState::Suspended, toggle::RESUME) => {
                self.append_then_reset(core, ClusterAction::Resume, 0)?
            }
            (ModuleState::Active, toggle::SNAPSHOT) => {
                self.append_action(core, ClusterAction::Snapshot, 0)?.is_some()
            }
            (ModuleState::Active, toggle::STANDBY_SNAPSHOT) => {
                self.append_then_reset(core, ClusterAction::Snapshot, STANDBY_SNAPSHOT_FLAG)?
            }
            (ModuleState::Active, toggle::SHUTDOWN) => {
                let position = self.append_action(core, ClusterAction::Snapshot, 0)?;
                // The member ends behind this snapshot.
                core.termination_position = position;
                position.is_some()
            }
            (ModuleState::Active | ModuleState::Suspended, toggle::ABORT) => {
                core.terminate(self.log.position())
            }
            (ModuleState::Active | ModuleState::Suspended, wish) => {
                core.refuse_toggle(wish);
                true
            }
            // The toggle of a snapshot stays until the snapshot is taken, that of a termination to the end.
            _ => false,
        };
        Ok(usize::from(is_done))
    }

    fn append_then_reset<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        action: ClusterAction,
        flags: i32,
    ) -> Result<bool, ModuleError> {
        let is_appended = self.append_action(core, action, flags)?.is_some();
        if is_appended {
            core.counters.control_toggle.set_ordered(toggle::NEUTRAL);
        }
        Ok(is_appended)
    }

    /// Appends an action and carries it out. Returns the position after it, or `None` when the log takes nothing now.
    fn append_action<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        action: ClusterAction,
        flags: i32,
    ) -> Result<Option<i64>, ModuleError> {
        if !core.state.has_room() {
            return Ok(None);
        }
        let (leadership_term_id, timestamp) = (core.leadership_term_id, core.time());
        let event =
            |log_position| LogMessage::Action { leadership_term_id, log_position, timestamp, action, flags };
        let Some(position) = self.log.append_positioned(event)? else { return Ok(None) };
        match core.state.apply(&event(position), position, Origin::Appended) {
            Effect::Snapshot { position } => core.begin_snapshot(position),
            Effect::StateChanged(_) => core.show_state(),
            _ => {}
        }
        Ok(Some(position))
    }
}

impl<M: Memory, S: Storage> Core<M, S> {
    /// Refuses a command that the present state does not allow. The toggle is reset, because nobody reads it again.
    fn refuse_toggle(&mut self, wish: i64) {
        let state = self.module_state();
        self.record_error(&format!("cluster control toggle {wish} cannot be carried out in state {state:?}"));
        let is_suspended = state == ModuleState::Suspended;
        self.counters.control_toggle.set_ordered(if is_suspended {
            toggle::SUSPEND
        } else {
            toggle::NEUTRAL
        });
    }

    /// Carries out the command in the node's toggle, which is reset at once (spec 04 §2.5).
    pub(super) fn check_node_toggle(&mut self) -> usize {
        let wish = self.counters.node_toggle.get();
        if wish == node_toggle::NEUTRAL {
            return 0;
        }
        self.counters.node_toggle.set_ordered(node_toggle::NEUTRAL);
        match wish {
            node_toggle::VALIDATE_RECORDING_LOG => self.begin_validation(),
            node_toggle::REPLICATE_STANDBY_SNAPSHOT => {
                self.begin_standby_fetch(self.commit_position);
            }
            _ => self.record_error(&format!("node control toggle {wish} is unknown")),
        }
        1
    }
}
