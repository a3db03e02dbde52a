//! A client that reads an image.

use harrier_protocol::udp::flag;
use harrier_ringbuf::Region;
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::frame::{FrameHeader, TYPE_DATA, frame_length_acquire};
use harrier_ringbuf::position::{HEADER_LENGTH, align, index_by_position};

use super::rig::TERM_LENGTH;
use crate::publication_image::PublicationImage;

/// An image with the one subscriber that reads it.
pub(super) struct Reader {
    pub(super) image: PublicationImage,
    pub(super) endpoint_id: u64,
    pub(super) position: AtomicCounter,
    /// True for a subscriber that does not read.
    pub(super) is_stuck: bool,
    pub(super) is_removing: bool,
    part: Vec<u8>,
    pub(super) messages: Vec<Vec<u8>>,
}

impl Reader {
    pub(super) fn new(image: PublicationImage, endpoint_id: u64, position: AtomicCounter) -> Self {
        Self {
            image,
            endpoint_id,
            position,
            is_stuck: false,
            is_removing: false,
            part: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// Reads all contiguous frames, as a client does.
    pub(super) fn poll(&mut self) {
        if self.is_stuck {
            return;
        }
        let log = &self.image.file.log;
        let bits = log.position_bits_to_shift();
        let mut position = self.position.get();
        loop {
            let term = log.term(index_by_position(position, bits));
            let offset = (position & (TERM_LENGTH as i64 - 1)) as usize;
            let length = frame_length_acquire(term, offset);
            if length <= 0 {
                break;
            }
            let header = FrameHeader::read(term, offset);
            if header.frame_type() == TYPE_DATA {
                let mut payload = vec![0; length as usize - HEADER_LENGTH];
                term.copy_out(offset + HEADER_LENGTH, &mut payload);
                if header.flags() & flag::BEGIN != 0 {
                    self.part.clear();
                }
                self.part.extend(payload);
                if header.flags() & flag::END != 0 {
                    self.messages.push(std::mem::take(&mut self.part));
                }
            }
            position += align(length as usize, 32) as i64;
        }
        self.position.set_ordered(position);
    }
}
