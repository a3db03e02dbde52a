//! The files of a member, opened before it connects to anything (spec 04 §6.1, §6.4).

use harrier_ringbuf::memory::{Overlap, check_apart};
use harrier_ringbuf::storage::{Operation, Storage};
use harrier_ringbuf::{Memory, Now};

use super::context::ConsensusModuleContext;
use super::error::ModuleError;
use crate::mark::MarkFile;
use crate::node_state::NodeState;
use crate::recording_log::{RecordingLog, SEAL_FILE, has_recording_log, sealed_copy};

pub(super) fn check_directories<M: Memory>(
    context: &ConsensusModuleContext,
    memory: &M,
) -> Result<(), Overlap> {
    let driver = ("driver directory", context.aeron_directory.as_path());
    let mut others = vec![("cluster directory", context.cluster_directory.as_path())];
    others.extend(context.mark_file_directory.as_deref().map(|path| ("mark file directory", path)));
    others.extend(context.services_directory.as_deref().map(|path| ("services directory", path)));
    check_apart(memory, driver, &others)
}

pub(super) fn open_files<M: Memory, S: Storage>(
    context: &ConsensusModuleContext,
    memory: &M,
    storage: &mut S,
    mark: &MarkFile<M>,
    now: &Now,
) -> Result<(NodeState<M>, RecordingLog), ModuleError> {
    let directory = &context.cluster_directory;
    storage.blocking(Operation::CreateDirectory { path: directory.clone() })?;
    let was_ours = mark.was_ours();
    let node_state = NodeState::open(memory, directory, context.file_sync_level.is_some(), was_ours)?;
    if node_state.candidate_term_id() == -1 {
        node_state.propose(mark.previous_candidate_term_id(), 0, now.epoch_ms)?;
    }
    check_recording_log(context, storage, node_state.candidate_term_id())?;
    let recording_log = RecordingLog::open_sealed(storage, directory, context.file_sync_level, was_ours)?;
    Ok((node_state, recording_log))
}

/// Refuses to start without recording.log when the member must have had one. It would otherwise begin an empty log beside
/// its own.
fn check_recording_log<S: Storage>(
    context: &ConsensusModuleContext,
    storage: &mut S,
    candidate_term_id: i64,
) -> Result<(), ModuleError> {
    let directory = &context.cluster_directory;
    if context.start_anew || has_recording_log(storage, directory)? {
        return Ok(());
    }
    let found = if sealed_copy(storage, directory)?.is_some_and(|copy| !copy.is_empty()) {
        format!("{SEAL_FILE} has a copy of it")
    } else if candidate_term_id != -1 {
        format!("node-state.dat says that the member has stood for term {candidate_term_id}")
    } else {
        return Ok(());
    };
    Err(ModuleError::RecordingLogMissing { directory: directory.clone(), found })
}
