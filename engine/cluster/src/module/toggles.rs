//! What operators ask of a member by its counters (spec 04 §2.5, §4.9–§4.11).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::agent::{ConsensusModule, ModuleState};
use super::counters::{node_toggle, toggle};
use super::error::ModuleError;
use crate::codec::{ClusterAction, LogMessage};

/// Flag of a snapshot that only standbys take.
const STANDBY_SNAPSHOT_FLAG: i32 = 1;

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    pub(super) fn check_toggle(&mut self) -> Result<usize, ModuleError> {
        let Some(counters) = &self.counters else { return Ok(0) };
        let wish = counters.control_toggle.get();
        let is_done = match (self.state, wish) {
            (ModuleState::Active, toggle::NEUTRAL) | (ModuleState::Suspended, toggle::SUSPEND) => {
                return Ok(0);
            }
            (ModuleState::Active, toggle::SUSPEND) => self.suspend()?,
            (ModuleState::Suspended, toggle::RESUME) => self.resume()?,
            (ModuleState::Active, toggle::SNAPSHOT) => self.start_snapshot()?.is_some(),
            (ModuleState::Active, toggle::STANDBY_SNAPSHOT) => {
                let is_appended =
                    self.append_action(ClusterAction::Snapshot, STANDBY_SNAPSHOT_FLAG)?.is_some();
                if is_appended {
                    self.set_toggle(toggle::NEUTRAL);
                }
                is_appended
            }
            (ModuleState::Active, toggle::SHUTDOWN) => {
                let position = self.start_snapshot()?;
                if let Some(position) = position {
                    self.terminate_after_snapshot(position);
                }
                position.is_some()
            }
            (ModuleState::Active | ModuleState::Suspended, toggle::ABORT) => {
                let position = self.log.as_ref().map_or(self.commit_position, |log| log.position());
                self.terminate(position)
            }
            (ModuleState::Active | ModuleState::Suspended, wish) => {
                self.refuse_toggle(wish);
                true
            }
            // A snapshot's toggle stays until it is taken, that of a termination to the end.
            _ => false,
        };
        Ok(usize::from(is_done))
    }

    fn suspend(&mut self) -> Result<bool, ModuleError> {
        let is_appended = self.append_action(ClusterAction::Suspend, 0)?.is_some();
        if is_appended {
            self.enter(ModuleState::Suspended);
        }
        Ok(is_appended)
    }

    fn resume(&mut self) -> Result<bool, ModuleError> {
        let is_appended = self.append_action(ClusterAction::Resume, 0)?.is_some();
        if is_appended {
            self.enter(ModuleState::Active);
            self.set_toggle(toggle::NEUTRAL);
        }
        Ok(is_appended)
    }

    /// Appends the action; the snapshot is then taken step by step. Returns its position.
    fn start_snapshot(&mut self) -> Result<Option<i64>, ModuleError> {
        let position = self.append_action(ClusterAction::Snapshot, 0)?;
        if let Some(position) = position {
            self.begin_snapshot(position);
        }
        Ok(position)
    }

    /// A command that cannot be carried out in this state does not stay: nobody would hear of it.
    fn refuse_toggle(&mut self, wish: i64) {
        let text = format!("cluster control toggle {wish} cannot be carried out in state {:?}", self.state);
        self.record_error(&text);
        let is_suspended = self.state == ModuleState::Suspended;
        self.set_toggle(if is_suspended { toggle::SUSPEND } else { toggle::NEUTRAL });
    }

    pub(super) fn set_toggle(&self, value: i64) {
        if let Some(counters) = &self.counters {
            counters.control_toggle.set_ordered(value);
        }
    }

    /// True when the toggle was neutral and now asks for a snapshot.
    pub(super) fn toggle_snapshot(&self) -> bool {
        let compare = |own: &super::counters::ModuleCounters| {
            own.control_toggle.compare_and_set(toggle::NEUTRAL, toggle::SNAPSHOT)
        };
        self.counters.as_ref().is_some_and(compare)
    }

    /// Appends an action; returns the position behind it, or `None` when the log takes nothing now.
    fn append_action(&mut self, action: ClusterAction, flags: i32) -> Result<Option<i64>, ModuleError> {
        let (leadership_term_id, timestamp) = (self.leadership_term_id, self.time());
        let Some(log) = &mut self.log else { return Ok(None) };
        let appended = log.append_positioned(|log_position| LogMessage::Action {
            leadership_term_id,
            log_position,
            timestamp,
            action,
            flags,
        })?;
        if appended.is_some() {
            self.clock.observe(timestamp);
        }
        Ok(appended)
    }

    /// The node's own toggle returns to neutral at once (spec 04 §2.5).
    pub(super) fn check_node_toggle(&mut self) -> usize {
        let Some(counters) = &self.counters else { return 0 };
        let wish = counters.node_toggle.get();
        if wish == node_toggle::NEUTRAL {
            return 0;
        }
        counters.node_toggle.set_ordered(node_toggle::NEUTRAL);
        match wish {
            node_toggle::VALIDATE_RECORDING_LOG => self.begin_validation(),
            node_toggle::REPLICATE_STANDBY_SNAPSHOT => {
                self.begin_standby_fetch(self.commit_position);
            }
            _ => {
                let text = format!("node control toggle {wish} is unknown");
                self.record_error(&text);
            }
        }
        1
    }
}
