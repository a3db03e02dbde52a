//! Claims: messages of a service that are written in place (spec 04 §7.2, §7.3).

use harrier_ringbuf::append::Claim;

use crate::codec::SESSION_HEADER_LENGTH;

/// A message that is being written in place. Commit it soon: it holds up every reader of its stream. Dropped, it is
/// aborted.
///
/// On members that do not lead, a claim for a session goes nowhere; it is handled alike.
#[must_use = "an unfinished claim holds up every reader"]
pub struct ClusterClaim {
    claim: Option<Claim>,
    length: usize,
    position: i64,
}

impl ClusterClaim {
    /// Wraps a claim of the whole message and writes its header.
    pub(crate) fn new(mut claim: Claim, header: &[u8; SESSION_HEADER_LENGTH]) -> Self {
        claim.put(0, header);
        let (length, position) = (claim.len() - SESSION_HEADER_LENGTH, claim.position());
        Self { claim: Some(claim), length, position }
    }

    /// Creates a claim that is discarded.
    pub(super) fn mocked(length: usize, position: i64) -> Self {
        Self { claim: None, length, position }
    }

    /// Length of the message, bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True for a message without bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Position of the stream after the message; 1 on members that do not lead.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Writes bytes of the message.
    ///
    /// # Panics
    /// Outside the claim.
    #[inline]
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        let is_inside = offset <= self.length && bytes.len() <= self.length - offset;
        assert!(is_inside, "write outside the claim");
        if let Some(claim) = &mut self.claim {
            claim.put(SESSION_HEADER_LENGTH + offset, bytes);
        }
    }

    /// Sends the message.
    #[inline]
    pub fn commit(self) {
        if let Some(claim) = self.claim {
            claim.commit();
        }
    }

    /// Aborts the message.
    pub fn abort(self) {
        if let Some(claim) = self.claim {
            claim.abort();
        }
    }
}
