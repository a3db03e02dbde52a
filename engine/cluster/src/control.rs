//! Commands to a member through its control toggle (spec 04 §2.5).

use harrier_ringbuf::counters::CountersReader;
use thiserror::Error;

/// Type ids of the counters that commands use (spec 04 §2.4).
mod counter_type {
    pub(super) const CONTROL_TOGGLE: i32 = 202;
    pub(super) const SNAPSHOT_COUNT: i32 = 205;
}

/// A command to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Suspends client messages, timers and service messages until [`Resume`](Self::Resume).
    Suspend = 2,
    /// Resumes after [`Suspend`](Self::Suspend).
    Resume,
    /// Takes a snapshot on all members.
    Snapshot,
    /// Takes a snapshot on all members and shuts them down.
    Shutdown,
    /// Shuts all members down without a snapshot.
    Abort,
    /// Takes a snapshot on standby nodes.
    StandbySnapshot,
}

/// Toggle value when no command is in progress.
const NEUTRAL: i64 = 1;
const INACTIVE: i64 = 0;

/// Errors of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CommandError {
    /// No consensus module of this cluster runs on the driver.
    #[error("no consensus module of cluster {0} runs on this media driver")]
    NoModule(i32),
    /// The member is not leader or is in an election.
    #[error("the member takes no commands now: it does not lead, or is in an election")]
    Inactive,
    /// Another command is in progress.
    #[error("command {0} is under way; wait until it is done")]
    Busy(i64),
}

fn find(counters: &CountersReader, cluster_id: i32, wanted: i32) -> Option<i32> {
    counters.find(&mut |_, type_id, key| type_id == wanted && key.starts_with(&cluster_id.to_le_bytes()))
}

/// Sends a command to the consensus module of a cluster. [`is_done`] reports its completion.
///
/// # Errors
/// See [`CommandError`].
pub fn command(
    counters: &CountersReader,
    cluster_id: i32,
    command: ClusterCommand,
) -> Result<(), CommandError> {
    let no_module = CommandError::NoModule(cluster_id);
    let id = find(counters, cluster_id, counter_type::CONTROL_TOGGLE).ok_or(no_module)?;
    let toggle = counters.counter(id).map_err(|_| no_module)?;
    let from_suspended = command == ClusterCommand::Resume
        && toggle.compare_and_set(ClusterCommand::Suspend as i64, command as i64);
    if from_suspended || toggle.compare_and_set(NEUTRAL, command as i64) {
        return Ok(());
    }
    match toggle.get() {
        INACTIVE => Err(CommandError::Inactive),
        other => Err(CommandError::Busy(other)),
    }
}

/// True once no command is in progress. Stays false after shutdown and abort, which stop the member.
pub fn is_done(counters: &CountersReader, cluster_id: i32) -> bool {
    find(counters, cluster_id, counter_type::CONTROL_TOGGLE).is_some_and(|id| counters.value(id) == NEUTRAL)
}

/// Number of snapshots that the member has taken since its start.
pub fn snapshot_count(counters: &CountersReader, cluster_id: i32) -> Option<i64> {
    find(counters, cluster_id, counter_type::SNAPSHOT_COUNT).map(|id| counters.value(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::AtomicBuffer;
    use harrier_ringbuf::counters::CountersManager;

    fn counters(toggle: i64) -> CountersManager {
        let (metadata, values) = (AtomicBuffer::heap(8 * 512), AtomicBuffer::heap(8 * 128));
        let mut counters = CountersManager::new(metadata, values, 0).unwrap();
        for (type_id, value) in [(counter_type::CONTROL_TOGGLE, toggle), (counter_type::SNAPSHOT_COUNT, 3)] {
            let id = counters.allocate(type_id, &7_i32.to_le_bytes(), "counter", 0).unwrap();
            counters.counter(id).unwrap().set_ordered(value);
        }
        counters
    }

    #[test]
    fn a_command_is_taken_once() {
        let toggles = counters(NEUTRAL);
        let reader = toggles.reader();
        assert!(is_done(reader, 7));
        assert_eq!(command(reader, 7, ClusterCommand::Snapshot), Ok(()));
        assert!(!is_done(reader, 7));
        assert_eq!(command(reader, 7, ClusterCommand::Shutdown), Err(CommandError::Busy(4)));
        assert_eq!(command(reader, 8, ClusterCommand::Abort), Err(CommandError::NoModule(8)));
        assert_eq!(snapshot_count(reader, 7), Some(3));
    }

    #[test]
    fn only_a_resume_is_taken_while_suspended() {
        let toggles = counters(ClusterCommand::Suspend as i64);
        assert_eq!(command(toggles.reader(), 7, ClusterCommand::Snapshot), Err(CommandError::Busy(2)));
        assert_eq!(command(toggles.reader(), 7, ClusterCommand::Resume), Ok(()));
        let toggles = counters(INACTIVE);
        assert_eq!(command(toggles.reader(), 7, ClusterCommand::Snapshot), Err(CommandError::Inactive));
    }
}
