//! Control of a running member through its counters (spec 04 §2.4, §2.5).

use harrier_ringbuf::counters::{AtomicCounter, CountersReader};
use thiserror::Error;

const MODULE_STATE: i32 = 200;
const NODE_ROLE: i32 = 201;
const CONTROL_TOGGLE: i32 = 202;
const COMMIT_POSITION: i32 = 203;
const ELECTION_STATE: i32 = 207;
const BACKUP_NEXT_QUERY: i32 = 210;
const NODE_TOGGLE: i32 = 233;

const LEADER: i64 = 2;
const ELECTION_CLOSED: i64 = 17;
const STATE_ACTIVE: i64 = 1;
const STATE_SUSPENDED: i64 = 2;
const NEUTRAL: i64 = 1;
const SUSPEND: i64 = 2;

/// Errors of a command.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The driver has no counters of this cluster.
    #[error("no consensus module of cluster {cluster_id} on this driver; is the member running?")]
    Absent {
        /// The cluster.
        cluster_id: i32,
    },
    /// The member is not the leader.
    #[error("this member is no leader (it is {role}); run the command on the leader")]
    NotLeader {
        /// Role of the member.
        role: &'static str,
    },
    /// The consensus module is in the wrong state for the command.
    #[error("{command} needs a consensus module that is {expected}, it is {actual}")]
    State {
        /// The command.
        command: &'static str,
        /// Required state.
        expected: &'static str,
        /// Present state.
        actual: &'static str,
    },
    /// Another command is in progress.
    #[error("another command is being carried out: the toggle is {value}; try again later")]
    Busy {
        /// Value of the toggle.
        value: i64,
    },
}

/// Commands for the toggles of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToggleCommand {
    /// Suspend ingress, timers and service messages.
    Suspend,
    /// Resume after a suspension.
    Resume,
    /// Take a snapshot.
    Snapshot,
    /// Take a snapshot and shut down.
    Shutdown,
    /// Shut down without a snapshot.
    Abort,
    /// Invalidate entries of recording.log whose recordings are missing in the archive.
    ValidateRecordingLog,
    /// Replicate snapshots of standbys.
    ReplicateStandbySnapshot,
}

impl ToggleCommand {
    /// Name of the tool's command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Snapshot => "snapshot",
            Self::Shutdown => "shutdown",
            Self::Abort => "abort",
            Self::ValidateRecordingLog => "validate-recording-log",
            Self::ReplicateStandbySnapshot => "replicate-standby-snapshot",
        }
    }

    fn value(self) -> i64 {
        match self {
            Self::Suspend | Self::ReplicateStandbySnapshot => SUSPEND,
            Self::Resume | Self::ValidateRecordingLog => 3,
            Self::Snapshot => 4,
            Self::Shutdown => 5,
            Self::Abort => 6,
        }
    }

    /// Time to wait for the command's completion, ns; `None` when it cannot be observed.
    pub fn patience_ns(self) -> Option<i64> {
        match self {
            Self::Snapshot | Self::ValidateRecordingLog | Self::ReplicateStandbySnapshot => {
                Some(30_000_000_000)
            }
            Self::Resume => Some(1_000_000_000),
            Self::Suspend | Self::Shutdown | Self::Abort => None,
        }
    }

    /// True for commands that any member accepts, not only the leader.
    pub fn is_of_node(self) -> bool {
        matches!(self, Self::ValidateRecordingLog | Self::ReplicateStandbySnapshot)
    }
}

/// Counters of a consensus module.
#[derive(Debug, Clone)]
pub struct ModuleCounters {
    state: AtomicCounter,
    role: AtomicCounter,
    toggle: AtomicCounter,
    commit_position: AtomicCounter,
    election_state: AtomicCounter,
    node_toggle: Option<AtomicCounter>,
}

fn find(counters: &CountersReader, wanted: i32, cluster_id: i32) -> Option<AtomicCounter> {
    let id = counters.find(&mut |_, type_id, key| {
        type_id == wanted && key.first_chunk() == Some(&cluster_id.to_le_bytes())
    })?;
    counters.counter(id).ok()
}

/// Time of a backup's next query, epoch ms; `None` when the driver has no backup of the cluster. Setting the counter
/// reschedules the query.
pub fn backup_query_deadline(counters: &CountersReader, cluster_id: i32) -> Option<AtomicCounter> {
    find(counters, BACKUP_NEXT_QUERY, cluster_id)
}

impl ModuleCounters {
    /// Finds the counters of a cluster's member.
    ///
    /// # Errors
    /// [`ControlError::Absent`].
    pub fn find(counters: &CountersReader, cluster_id: i32) -> Result<Self, ControlError> {
        let counter =
            |type_id| find(counters, type_id, cluster_id).ok_or(ControlError::Absent { cluster_id });
        Ok(Self {
            state: counter(MODULE_STATE)?,
            role: counter(NODE_ROLE)?,
            toggle: counter(CONTROL_TOGGLE)?,
            commit_position: counter(COMMIT_POSITION)?,
            election_state: counter(ELECTION_STATE)?,
            node_toggle: find(counters, NODE_TOGGLE, cluster_id),
        })
    }

    /// True for a leader whose election is over.
    pub fn is_leader(&self) -> bool {
        self.role.get() == LEADER && self.election_state.get() == ELECTION_CLOSED
    }

    /// Name of the module's state.
    pub fn state(&self) -> &'static str {
        state_name(self.state.get())
    }

    /// Name of the member's role.
    pub fn role(&self) -> &'static str {
        role_name(self.role.get())
    }

    /// Commit position of the log.
    pub fn commit_position(&self) -> i64 {
        self.commit_position.get()
    }

    fn toggle_of(&self, command: ToggleCommand) -> Option<&AtomicCounter> {
        if command.is_of_node() { self.node_toggle.as_ref() } else { Some(&self.toggle) }
    }

    /// Sets the toggle when the member is in the right state for the command.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn give(&self, command: ToggleCommand) -> Result<(), ControlError> {
        if !command.is_of_node() && !self.is_leader() {
            return Err(ControlError::NotLeader { role: self.role() });
        }
        let expected = if command == ToggleCommand::Resume { STATE_SUSPENDED } else { STATE_ACTIVE };
        let actual = self.state.get();
        if actual != expected {
            let (command, expected, actual) = (command.name(), state_name(expected), state_name(actual));
            return Err(ControlError::State { command, expected, actual });
        }
        let Some(toggle) = self.toggle_of(command) else {
            let (command, expected) = (command.name(), "of a version with a node toggle");
            return Err(ControlError::State { command, expected, actual: self.state() });
        };
        // A suspended member keeps its toggle at SUSPEND until it is resumed.
        let from = if command == ToggleCommand::Resume { SUSPEND } else { NEUTRAL };
        if toggle.compare_and_set(from, command.value())
            || (from == SUSPEND && toggle.compare_and_set(NEUTRAL, command.value()))
        {
            return Ok(());
        }
        Err(ControlError::Busy { value: toggle.get() })
    }

    /// True once a command's toggle is neutral again.
    pub fn is_carried_out(&self, command: ToggleCommand) -> bool {
        self.toggle_of(command).is_some_and(|toggle| toggle.get() == NEUTRAL)
    }
}

/// Name of a value of counter 200.
pub(super) fn state_name(value: i64) -> &'static str {
    const NAMES: [&str; 7] = ["INIT", "ACTIVE", "SUSPENDED", "SNAPSHOT", "QUITTING", "TERMINATING", "CLOSED"];
    usize::try_from(value).ok().and_then(|at| NAMES.get(at).copied()).unwrap_or("UNKNOWN")
}

fn role_name(value: i64) -> &'static str {
    const NAMES: [&str; 3] = ["FOLLOWER", "CANDIDATE", "LEADER"];
    usize::try_from(value).ok().and_then(|at| NAMES.get(at).copied()).unwrap_or("UNKNOWN")
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::AtomicBuffer;
    use harrier_ringbuf::counters::{CountersManager, METADATA_LENGTH, VALUE_LENGTH};

    fn counters(of: &[(i32, i64)]) -> CountersReader {
        let (metadata, values) =
            (AtomicBuffer::heap(METADATA_LENGTH * 16), AtomicBuffer::heap(VALUE_LENGTH * 16));
        let mut manager = CountersManager::new(metadata.clone(), values.clone(), 0).unwrap();
        for (type_id, value) in of {
            let id = manager.allocate(*type_id, &7_i32.to_le_bytes(), "x", 0).unwrap();
            manager.reader().counter(id).unwrap().set_ordered(*value);
        }
        CountersReader::new(metadata, values).unwrap()
    }

    fn leader(state: i64, toggle: i64) -> ModuleCounters {
        let all = [(200, state), (201, 2), (202, toggle), (203, 640), (207, 17), (233, 1)];
        ModuleCounters::find(&counters(&all), 7).unwrap()
    }

    #[test]
    fn commands_are_given_in_the_state_that_they_need() {
        let module = leader(1, NEUTRAL);
        assert!(module.is_leader() && module.commit_position() == 640);
        module.give(ToggleCommand::Snapshot).unwrap();
        assert_eq!(module.toggle.get(), 4);
        assert!(!module.is_carried_out(ToggleCommand::Snapshot));
        assert_eq!(module.give(ToggleCommand::Suspend), Err(ControlError::Busy { value: 4 }));
        module.give(ToggleCommand::ValidateRecordingLog).unwrap();
        let refused = module.give(ToggleCommand::Resume).unwrap_err().to_string();
        assert_eq!(refused, "resume needs a consensus module that is SUSPENDED, it is ACTIVE");
        let module = leader(2, SUSPEND);
        module.give(ToggleCommand::Resume).unwrap();
        assert_eq!(module.toggle.get(), 3);
        assert!(matches!(leader(2, SUSPEND).give(ToggleCommand::Snapshot), Err(ControlError::State { .. })));
    }

    #[test]
    fn followers_and_absent_members_refuse() {
        let all = [(200, 1), (201, 0), (202, 0), (203, 0), (207, 17)];
        let module = ModuleCounters::find(&counters(&all), 7).unwrap();
        assert_eq!(module.give(ToggleCommand::Abort), Err(ControlError::NotLeader { role: "FOLLOWER" }));
        assert!(matches!(module.give(ToggleCommand::ValidateRecordingLog), Err(ControlError::State { .. })));
        assert!(ModuleCounters::find(&counters(&all), 8).is_err());
        assert!(backup_query_deadline(&counters(&[(210, 5)]), 7).is_some_and(|counter| counter.get() == 5));
    }
}
