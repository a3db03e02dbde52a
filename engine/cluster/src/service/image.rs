//! Read access of a service to its snapshot (spec 04 §6.5, §7.1).

use harrier_client::Image;
use harrier_ringbuf::assembly::ImageFragmentAssembler;
use harrier_ringbuf::image_reader::Header;

use super::cluster::Cluster;
use crate::snapshot::SnapshotError;

/// Fragments read per poll.
const FRAGMENT_LIMIT: usize = 10;

/// Stream of a service's state in a snapshot, after the container's part.
///
/// A service must detect the end of its state from the state itself, for instance by a count at the start, because a
/// truncated stream looks like a shorter one.
pub struct SnapshotImage<'a> {
    image: &'a mut Image,
    assembler: ImageFragmentAssembler,
    recording_id: i64,
}

impl<'a> SnapshotImage<'a> {
    pub(super) fn new(image: &'a mut Image, recording_id: i64) -> Self {
        Self { image, assembler: ImageFragmentAssembler::new(), recording_id }
    }

    /// Passes messages of up to `limit` frames to `handler` and returns the number of frames. [Idle](Cluster::idle)
    /// when it is 0.
    pub fn poll(&mut self, limit: usize, handler: &mut impl FnMut(&[u8], &Header<'_>)) -> usize {
        let assembler = &mut self.assembler;
        self.image.poll(limit, &mut |payload, header| assembler.on_fragment(payload, header, handler))
    }

    /// Passes all remaining messages to `handler` and waits as necessary.
    ///
    /// # Errors
    /// [`SnapshotError::BrokenOff`] when the stream ended early.
    pub fn read_to_end(
        &mut self,
        cluster: &mut Cluster<'_>,
        handler: &mut impl FnMut(&[u8]),
    ) -> Result<(), SnapshotError> {
        loop {
            let count = self.poll(FRAGMENT_LIMIT, &mut |message, _| handler(message));
            let is_cut = self.image.is_publication_revoked() || self.image.is_closed();
            if self.is_end_of_stream() && !self.image.is_publication_revoked() {
                return Ok(());
            }
            if count == 0 && is_cut {
                return Err(SnapshotError::of_ended(self.image, self.recording_id));
            }
            cluster.idle(count);
        }
    }

    /// True when everything has been read.
    pub fn is_end_of_stream(&self) -> bool {
        self.image.is_end_of_stream()
    }

    /// True when no more messages will come, before or at the end.
    pub fn is_closed(&self) -> bool {
        self.image.is_closed()
    }

    /// Position in the snapshot up to which messages were read.
    pub fn position(&self) -> i64 {
        self.image.position()
    }

    /// The underlying image, for other kinds of polls.
    pub fn image(&mut self) -> &mut Image {
        self.image
    }
}
