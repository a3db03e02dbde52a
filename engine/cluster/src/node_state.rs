//! node-state.dat: the highest candidate term id of a member (spec 04 §6.4).

use std::path::Path;
use std::sync::atomic::Ordering;

use harrier_protocol::record::{HEADER_LENGTH as RECORD_HEADER, RecordKind, UnknownVersion};
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, Memory, MemoryError, Region};
use thiserror::Error;

use crate::mark::FILE_VERSION;

/// Name of the file.
pub const NODE_STATE_FILE: &str = "node-state.dat";
const FILE_LENGTH: usize = 1 << 20;
const TERM_HEADER: usize = 8;
const CANDIDATE_TERM: usize = 24;
const TIMESTAMP: usize = 32;
const LOG_POSITION: usize = 40;
const FOOTER: usize = 48;
/// Offset of the record that confirms the fields before it. Aeron reads nothing after the footer
/// (docs/protocol/own-files.md).
const SEAL: usize = 64;
const SEAL_KIND: RecordKind = RecordKind { magic: *b"HNST", version: 1, name: "seal of node-state.dat" };
const SEAL_LENGTH: usize = RECORD_HEADER + 8;

/// Errors of opening a node state.
#[derive(Debug, Error)]
pub enum NodeStateError {
    /// The file is truncated, damaged, or of another version.
    #[error("node state {path}: {reason}; restore it from a backup")]
    Corrupt {
        /// The file.
        path: String,
        /// Description of the damage.
        reason: &'static str,
    },
    /// The file and its seal disagree on the term.
    #[error(
        "node state {path}: candidate term {found} is higher than {sealed}, the last that was written; the file is damaged: \
         restore it from a backup, or remove it, and the member takes its term from recording.log"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Term in the file.
        found: i64,
        /// Term in the seal.
        sealed: i64,
    },
    /// A seal of a newer program.
    #[error("node state {path}: {error}")]
    Seal {
        /// The file.
        path: String,
        /// Version found and the supported one.
        error: UnknownVersion,
    },
    /// The file could not be created or mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// The mapped file.
#[derive(Debug)]
pub struct NodeState<M: Memory> {
    buffer: AtomicBuffer,
    memory: M,
    is_synced: bool,
}

impl<M: Memory> NodeState<M> {
    /// Opens or creates the file. With `is_synced` every change is synced. `was_ours` is true when no other
    /// implementation has run on the directory since the file was sealed, so that file and seal must agree.
    ///
    /// # Errors
    /// See [`NodeStateError`].
    pub fn open(
        memory: &M,
        directory: &Path,
        is_synced: bool,
        was_ours: bool,
    ) -> Result<Self, NodeStateError> {
        let path = directory.join(NODE_STATE_FILE);
        let buffer = match memory.map(&path, MapMode::ReadWrite) {
            // A missing version means that the machine crashed before the file was complete.
            Ok(buffer) if buffer.capacity() >= 4 && buffer.load_i32(0, Ordering::Acquire) != 0 => buffer,
            Ok(_) => {
                memory.remove(&path)?;
                create(memory, &path, is_synced)?
            }
            Err(error) if error.is_not_found() => create(memory, &path, is_synced)?,
            Err(error) => return Err(error.into()),
        };
        let corrupt = |reason| NodeStateError::Corrupt { path: path.display().to_string(), reason };
        if buffer.capacity() < FOOTER + 16 {
            return Err(corrupt("it is cut"));
        }
        if buffer.load_i32(0, Ordering::Acquire) >> 16 != FILE_VERSION >> 16 {
            return Err(corrupt("its version is unknown"));
        }
        let template = |offset: usize| (buffer.load_i32(offset, Ordering::Acquire) as u32) >> 16;
        if template(TERM_HEADER) != 301 || template(FOOTER) != 304 {
            return Err(corrupt("its records are not where they belong"));
        }
        let state = Self { buffer, memory: memory.clone(), is_synced };
        let path = path.display().to_string();
        match state.sealed_term().map_err(|error| NodeStateError::Seal { path: path.clone(), error })? {
            Some(sealed) if was_ours && state.candidate_term_id() > sealed => {
                Err(NodeStateError::Damaged { path, found: state.candidate_term_id(), sealed })
            }
            // The seal is written first, so its term may be newer than the field's.
            Some(sealed) if was_ours && state.candidate_term_id() < sealed => {
                state.buffer.store_i64(CANDIDATE_TERM, sealed, Ordering::Release);
                Ok(state)
            }
            _ => {
                state.write_seal(state.candidate_term_id());
                Ok(state)
            }
        }
    }

    /// Reads the term in the seal; `None` without a complete seal.
    fn sealed_term(&self) -> Result<Option<i64>, UnknownVersion> {
        let mut bytes = [0; SEAL_LENGTH];
        if self.buffer.capacity() < SEAL + SEAL_LENGTH {
            return Ok(None);
        }
        self.buffer.copy_out(SEAL, &mut bytes);
        let payload = SEAL_KIND.open(&bytes)?;
        Ok(payload.and_then(<[u8]>::first_chunk).map(|term| i64::from_le_bytes(*term)))
    }

    fn write_seal(&self, term_id: i64) {
        if self.buffer.capacity() >= SEAL + SEAL_LENGTH {
            self.buffer.copy_in(SEAL, &SEAL_KIND.seal(&term_id.to_le_bytes()));
        }
    }

    /// Highest term for which this member was a candidate or voted; -1 for none.
    pub fn candidate_term_id(&self) -> i64 {
        self.buffer.load_i64(CANDIDATE_TERM, Ordering::Acquire)
    }

    /// Stores a term before the member acts on it, and syncs the file if the settings require it. Blocks, so only the
    /// start calls it.
    ///
    /// # Errors
    /// A file that cannot be synced.
    pub fn propose(&self, term_id: i64, log_position: i64, epoch_ms: i64) -> Result<(), NodeStateError> {
        if self.store(term_id, log_position, epoch_ms) && self.is_synced {
            self.memory.flush(&self.buffer)?;
        }
        Ok(())
    }

    /// Stores a term without a sync; returns true when the file has changed. The caller syncs the file before it acts on
    /// the term.
    pub fn store(&self, term_id: i64, log_position: i64, epoch_ms: i64) -> bool {
        if term_id <= self.candidate_term_id() {
            return false;
        }
        self.write_seal(term_id);
        self.buffer.store_i64(LOG_POSITION, log_position, Ordering::Relaxed);
        self.buffer.store_i64(TIMESTAMP, epoch_ms, Ordering::Relaxed);
        self.buffer.store_i64(CANDIDATE_TERM, term_id, Ordering::Release);
        true
    }
}

/// Creates the file. Writes the version last because it marks the file as complete.
fn create<M: Memory>(memory: &M, path: &Path, is_synced: bool) -> Result<AtomicBuffer, MemoryError> {
    let buffer = memory.create(path, FILE_LENGTH, true)?;
    initialise(&buffer);
    if is_synced {
        memory.flush(&buffer)?;
    }
    buffer.store_i32(0, FILE_VERSION, Ordering::Release);
    if is_synced {
        memory.flush(&buffer)?;
    }
    Ok(buffer)
}

fn initialise(buffer: &AtomicBuffer) {
    let header = |offset: usize, block: u16, template: u16, length: i32| {
        let mut bytes = Vec::with_capacity(16);
        for word in [block, template, 112, 10] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        buffer.copy_in(offset, &bytes);
    };
    header(TERM_HEADER, 24, 301, 40);
    buffer.store_i64(CANDIDATE_TERM, -1, Ordering::Relaxed);
    header(FOOTER, 0, 304, 16);
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::heap::HeapMemory;

    #[test]
    fn a_term_is_remembered_and_never_goes_back() {
        let memory = HeapMemory::new();
        let state = NodeState::open(&memory, Path::new("/c"), true, true).unwrap();
        assert_eq!(state.candidate_term_id(), -1);
        state.propose(1, 5_504, 9).unwrap();
        state.propose(0, 0, 10).unwrap();
        assert!(!state.store(1, 6_000, 11), "the term is stored already");
        let again = NodeState::open(&memory, Path::new("/c"), true, true).unwrap();
        assert_eq!(again.candidate_term_id(), 1);
    }

    #[test]
    fn the_bytes_are_those_of_the_peer() {
        let memory = HeapMemory::new();
        let state = NodeState::open(&memory, Path::new("/c"), false, true).unwrap();
        state.propose(1, 5_504, 0x01a2_0123_ea25).unwrap();
        let mut bytes = [0; 64];
        state.buffer.copy_out(0, &mut bytes);
        let expected = "0003000000000000 18002d0170000a00 2800000000000000 0100000000000000 25ea2301a2010000 \
                        8015000000000000 0000300170000a00 1000000000000000";
        let expected: Vec<u8> = expected
            .split_whitespace()
            .flat_map(|word| (0..8).map(|i| u8::from_str_radix(&word[i * 2..i * 2 + 2], 16).unwrap()))
            .collect();
        assert_eq!(bytes[..], expected[..]);
    }

    #[test]
    fn a_term_that_nobody_has_written_is_refused_unless_another_make_may_have() {
        let memory = HeapMemory::new();
        let path = Path::new("/c");
        let state = NodeState::open(&memory, path, false, true).unwrap();
        state.propose(5, 640, 9).unwrap();
        state.buffer.store_i64(CANDIDATE_TERM, 7, Ordering::Relaxed);
        let refused = NodeState::open(&memory, path, false, true).err().unwrap().to_string();
        assert!(refused.contains("candidate term 7 is higher than 5"), "{refused}");
        state.buffer.store_i64(CANDIDATE_TERM, 4, Ordering::Relaxed);
        assert_eq!(NodeState::open(&memory, path, false, true).unwrap().candidate_term_id(), 5);
        state.buffer.store_i64(CANDIDATE_TERM, 9, Ordering::Relaxed);
        assert_eq!(NodeState::open(&memory, path, false, false).unwrap().candidate_term_id(), 9);
        // The seal follows.
        assert_eq!(NodeState::open(&memory, path, false, true).unwrap().candidate_term_id(), 9);
        state.buffer.store_i32(SEAL + 16, 1, Ordering::Relaxed);
        assert_eq!(NodeState::open(&memory, path, false, true).unwrap().candidate_term_id(), 9);
    }

    #[test]
    fn a_file_that_was_being_made_is_made_anew() {
        let memory = HeapMemory::new();
        memory.create(&Path::new("/c").join(NODE_STATE_FILE), FILE_LENGTH, true).unwrap();
        let state = NodeState::open(&memory, Path::new("/c"), true, true).unwrap();
        assert_eq!(state.candidate_term_id(), -1);
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let memory = HeapMemory::new();
        drop(NodeState::open(&memory, Path::new("/c"), false, true).unwrap());
        let buffer = memory.map(&Path::new("/c").join(NODE_STATE_FILE), MapMode::ReadWrite).unwrap();
        buffer.store_i32(FOOTER, 0, Ordering::Relaxed);
        assert!(matches!(
            NodeState::open(&memory, Path::new("/c"), false, true),
            Err(NodeStateError::Corrupt { .. })
        ));
    }
}
