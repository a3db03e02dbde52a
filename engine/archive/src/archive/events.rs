//! The stream of recording events (spec 03 §2.10).

use harrier_client::ExclusivePublication;
use harrier_protocol::sbe::SbeError;
use harrier_ringbuf::Memory;
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::storage::Storage;

use super::Archive;
use crate::codec::RecordingEvent;

/// Initial length of the message buffer; only events with long channels need more.
const BUFFER_LENGTH: usize = 1_024;

/// Publication of recording events.
pub(super) struct RecordingEvents {
    pub(super) registration_id: i64,
    pub(super) publication: Option<ExclusivePublication>,
    buffer: Vec<u8>,
}

impl RecordingEvents {
    pub(super) fn new(registration_id: i64) -> Self {
        Self { registration_id, publication: None, buffer: vec![0; BUFFER_LENGTH] }
    }

    /// Publishes an event. Returns false when the stream does not take it now.
    pub(super) fn publish(&mut self, event: &RecordingEvent<'_>) -> bool {
        let Some(publication) = &mut self.publication else { return false };
        let length = match event.encode(&mut self.buffer) {
            Ok(length) => length,
            Err(SbeError::BufferTooSmall { required, .. }) => {
                self.buffer.resize(required, 0);
                let Ok(length) = event.encode(&mut self.buffer) else { return false };
                length
            }
            Err(_) => return false,
        };
        for _ in 0..3 {
            match publication.offer(&self.buffer[..length]) {
                Ok(_) => return true,
                Err(OfferError::AdminAction) => {}
                Err(_) => return false,
            }
        }
        false
    }
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Publishes an event when events are enabled. It is dropped when nobody subscribes.
    pub(super) fn publish_event(&mut self, event: &RecordingEvent<'_>) {
        if let Some(events) = &mut self.events {
            events.publish(event);
        }
    }

    /// Publishes how far recordings have advanced. What is not taken is published with the next advance.
    #[inline]
    pub(super) fn publish_progress(&mut self) {
        let Some(events) = &mut self.events else { return };
        for recording in &mut self.recordings {
            let position = recording.position();
            if position > recording.published_position {
                let event = RecordingEvent::Progress {
                    recording_id: recording.setup.recording_id,
                    start_position: recording.join_position(),
                    position,
                };
                if events.publish(&event) {
                    recording.published_position = position;
                }
            }
        }
    }
}
