//! The service behind the fence: it records the messages that passed the fence.

use std::cell::RefCell;
use std::rc::Rc;

use harrier_cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};

use super::truth::Truth;
use super::{APPLICATIONS, write_of};
use crate::trace::hash_bytes;

/// Number of words of its state.
const WORDS: usize = APPLICATIONS + 2;

/// Record of the messages that passed the fence.
pub struct Recorder {
    /// Token of the last message of each application, then the number of messages and a hash of all.
    words: [u64; WORDS],
    truth: Rc<RefCell<Truth>>,
}

impl Recorder {
    /// Creates a record without messages.
    pub fn new(truth: Rc<RefCell<Truth>>) -> Self {
        Self { words: [0; WORDS], truth }
    }

    /// Number of messages that passed the fence.
    pub fn count(&self) -> u64 {
        self.words[APPLICATIONS]
    }

    /// Hash of the state.
    pub fn digest(&self) -> u64 {
        self.words
            .iter()
            .fold(0, |hash: u64, word| (hash.rotate_left(9) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

impl ClusteredService for Recorder {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        let mut state = Vec::new();
        snapshot.read_to_end(cluster, &mut |message| state.extend_from_slice(message))?;
        if state.len() != 8 * WORDS {
            return Err(format!("a recorder of {} bytes", state.len()).into());
        }
        for (word, bytes) in self.words.iter_mut().zip(state.chunks_exact(8)) {
            *word = u64::from_le_bytes(*bytes.first_chunk().ok_or("the recorder is cut")?);
        }
        Ok(())
    }

    fn on_session_message(
        &mut self,
        _: &mut Cluster<'_>,
        _: Option<&ClientSession>,
        _: i64,
        message: &[u8],
        header: &Header<'_>,
    ) {
        let Some((application, token)) = write_of(message) else {
            return self
                .truth
                .borrow_mut()
                .violate("intact", format!("a message of {} bytes", message.len()));
        };
        // Spec 05, "What must hold", 2.
        let last = std::mem::replace(&mut self.words[application], token);
        if token < last {
            let text = format!("at {} token {token} of {application} after {last}", header.position());
            self.truth.borrow_mut().violate("fences", text);
        }
        self.words[APPLICATIONS] += 1;
        let hash = &mut self.words[APPLICATIONS + 1];
        *hash = (*hash ^ hash_bytes(message) ^ header.position() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        let state: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        cluster.retry(|_| Ok(snapshot.offer(&state)?))?;
        Ok(())
    }
}
