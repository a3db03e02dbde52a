//! The files of a member, opened before it connects to anything (spec 04 §6.1, §6.4).

use harrier_ringbuf::memory::{Overlap, check_apart};
use harrier_ringbuf::storage::{FileId, OpenMode, Operation, Output, Storage, SyncLevel};
use harrier_ringbuf::{Memory, Now};

use super::context::ConsensusModuleContext;
use super::error::ModuleError;
use crate::mark::MarkFile;
use crate::node_state::{NODE_STATE_FILE, NodeState};
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

/// node-state.dat of a running member. Its syncs are completions, so that the member goes on meanwhile.
pub(super) struct TermFile<M: Memory> {
    state: NodeState<M>,
    /// Open file of the mapping, when changes are synced.
    sync: Option<(FileId, SyncLevel)>,
}

impl<M: Memory> TermFile<M> {
    fn new<S: Storage>(
        state: NodeState<M>,
        context: &ConsensusModuleContext,
        storage: &mut S,
    ) -> Result<Self, ModuleError> {
        let Some(level) = context.file_sync_level else { return Ok(Self { state, sync: None }) };
        let path = context.cluster_directory.join(NODE_STATE_FILE);
        let opened = storage.blocking(Operation::Open { path, mode: OpenMode::ReadWrite })?;
        let sync = match opened {
            Output::Opened(file, _) => Some((file, level)),
            _ => None,
        };
        Ok(Self { state, sync })
    }

    pub(super) fn candidate_term_id(&self) -> i64 {
        self.state.candidate_term_id()
    }

    /// Stores a term. Returns the operation that must be complete before the member acts on the term, if there is one.
    pub(super) fn store(&self, term_id: i64, log_position: i64, epoch_ms: i64) -> Vec<Operation> {
        let is_changed = self.state.store(term_id, log_position, epoch_ms);
        let sync = self.sync.filter(|_| is_changed);
        sync.map(|(file, level)| Operation::Sync { file, level }).into_iter().collect()
    }
}

pub(super) fn open_files<M: Memory, S: Storage>(
    context: &ConsensusModuleContext,
    memory: &M,
    storage: &mut S,
    mark: &MarkFile<M>,
    now: &Now,
) -> Result<(TermFile<M>, RecordingLog), ModuleError> {
    let directory = &context.cluster_directory;
    storage.blocking(Operation::CreateDirectory { path: directory.clone() })?;
    let was_ours = mark.was_ours();
    let node_state = NodeState::open(memory, directory, context.file_sync_level.is_some(), was_ours)?;
    if node_state.candidate_term_id() == -1 {
        node_state.propose(mark.previous_candidate_term_id(), 0, now.epoch_ms)?;
    }
    check_recording_log(context, storage, node_state.candidate_term_id())?;
    let recording_log = RecordingLog::open_sealed(storage, directory, context.file_sync_level, was_ours)?;
    Ok((TermFile::new(node_state, context, storage)?, recording_log))
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

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::heap::{HeapMemory, HeapStorage};

    fn term_file(level: Option<SyncLevel>) -> TermFile<HeapMemory> {
        let mut context = ConsensusModuleContext::new("/a", "/c", 0, "0,h:1,h:2,h:3,h:4,h:5");
        context.file_sync_level = level;
        let (memory, mut storage) = (HeapMemory::new(), HeapStorage::new());
        let state = NodeState::open(&memory, &context.cluster_directory, level.is_some(), true).unwrap();
        storage.put(&context.cluster_directory.join(NODE_STATE_FILE), vec![0; 1 << 20]);
        TermFile::new(state, &context, &mut storage).unwrap()
    }

    #[test]
    fn a_new_term_must_be_synced_before_the_member_acts_on_it() {
        let file = term_file(Some(SyncLevel::All));
        let operations = file.store(5, 640, 9);
        assert!(matches!(operations[..], [Operation::Sync { level: SyncLevel::All, .. }]), "{operations:?}");
        assert_eq!(file.candidate_term_id(), 5);
        assert_eq!(file.store(5, 640, 9).len(), 0, "it is stored already");
        assert_eq!(term_file(None).store(5, 640, 9).len(), 0, "the settings require no sync");
    }
}
