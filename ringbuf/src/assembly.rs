//! Assembling messages from fragments (spec 01 §2.19).

use crate::IdMap;
use crate::frame::{FLAG_BEGIN, FLAG_END, FLAGS_OFFSET, FrameHeader, LENGTH_OFFSET};
use crate::image_reader::{Action, Header, assembled_length};
use crate::position::HEADER_LENGTH;

/// First capacity of a builder, bytes.
const MIN_CAPACITY: usize = 4_096;

/// One message that is being assembled.
#[derive(Debug)]
struct Builder {
    bytes: Vec<u8>,
    first: FrameHeader,
    first_payload: usize,
    next_term_offset: Option<i32>,
}

impl Builder {
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            first: FrameHeader([0; HEADER_LENGTH]),
            first_payload: 0,
            next_term_offset: None,
        }
    }

    fn begin(&mut self, payload: &[u8], header: &Header<'_>) {
        self.bytes.clear();
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(MIN_CAPACITY.max(2 * payload.len()));
        }
        self.bytes.extend_from_slice(payload);
        self.first = *header.as_frame();
        self.first_payload = payload.len();
        self.next_term_offset = Some(header.next_term_offset());
    }

    /// Appends a later fragment; false when it does not follow the ones before, which drops the message.
    fn append(&mut self, payload: &[u8], header: &Header<'_>) -> bool {
        if self.next_term_offset != Some(header.term_offset()) {
            self.next_term_offset = None;
            return false;
        }
        self.bytes.extend_from_slice(payload);
        self.next_term_offset = Some(header.next_term_offset());
        true
    }

    /// The header of the whole message: the header of the first fragment, with the length and flags of the message.
    fn completed(&self, last_flags: u8) -> FrameHeader {
        let mut frame = self.first;
        frame.set_int(LENGTH_OFFSET, (self.bytes.len() + HEADER_LENGTH) as i32);
        frame.0[FLAGS_OFFSET] |= last_flags;
        frame
    }

    fn deliver<T>(&mut self, header: &Header<'_>, deliver: &mut impl FnMut(&[u8], &Header<'_>) -> T) -> T {
        let frame = self.completed(header.flags());
        let length = assembled_length(self.bytes.len(), self.first_payload);
        deliver(&self.bytes, &Header::assembled(&frame, header, length))
    }

    fn on_fragment(
        &mut self,
        payload: &[u8],
        header: &Header<'_>,
        deliver: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> Action {
        let flags = header.flags();
        if flags & FLAG_BEGIN != 0 {
            self.begin(payload, header);
            return Action::Continue;
        }
        let before = (self.bytes.len(), self.next_term_offset);
        if !self.append(payload, header) || flags & FLAG_END == 0 {
            return Action::Continue;
        }
        let action = self.deliver(header, deliver);
        if action == Action::Abort {
            self.bytes.truncate(before.0);
            self.next_term_offset = before.1;
        } else {
            self.next_term_offset = None;
        }
        action
    }
}

/// Assembles the messages of several sessions, each separately.
///
/// Pass every fragment of a poll to it. Whole messages come out with the header of the first fragment and with the
/// length and the position of the message. Nothing is allocated once the longest message of each session has been
/// seen.
#[derive(Debug, Default)]
pub struct FragmentAssembler {
    builders: IdMap<i32, Builder>,
}

impl FragmentAssembler {
    /// Creates an assembler without fragments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one fragment; calls `deliver` when it completes a message.
    #[inline]
    pub fn on_fragment(
        &mut self,
        payload: &[u8],
        header: &Header<'_>,
        deliver: &mut impl FnMut(&[u8], &Header<'_>),
    ) {
        if header.is_unfragmented() {
            return deliver(payload, header);
        }
        self.builder(header).on_fragment(payload, header, &mut |message, header| {
            deliver(message, header);
            Action::Continue
        });
    }

    /// Works as [`on_fragment`](Self::on_fragment) for controlled polls. An aborted message is delivered again with
    /// its last fragment.
    #[inline]
    pub fn on_controlled_fragment(
        &mut self,
        payload: &[u8],
        header: &Header<'_>,
        deliver: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> Action {
        if header.is_unfragmented() {
            return deliver(payload, header);
        }
        self.builder(header).on_fragment(payload, header, deliver)
    }

    fn builder(&mut self, header: &Header<'_>) -> &mut Builder {
        self.builders.entry(header.session_id()).or_insert_with(Builder::new)
    }

    /// Forgets a session and its unfinished message.
    pub fn free_session(&mut self, session_id: i32) {
        self.builders.remove(&session_id);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.builders.clear();
    }
}

/// Assembles the messages of one image.
#[derive(Debug)]
pub struct ImageFragmentAssembler {
    builder: Builder,
}

impl Default for ImageFragmentAssembler {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageFragmentAssembler {
    /// Creates an assembler without fragments.
    pub fn new() -> Self {
        Self { builder: Builder::new() }
    }

    /// Takes one fragment; calls `deliver` when it completes a message.
    #[inline]
    pub fn on_fragment(
        &mut self,
        payload: &[u8],
        header: &Header<'_>,
        deliver: &mut impl FnMut(&[u8], &Header<'_>),
    ) {
        if header.is_unfragmented() {
            return deliver(payload, header);
        }
        self.builder.on_fragment(payload, header, &mut |message, header| {
            deliver(message, header);
            Action::Continue
        });
    }

    /// Works as [`on_fragment`](Self::on_fragment) for controlled polls.
    #[inline]
    pub fn on_controlled_fragment(
        &mut self,
        payload: &[u8],
        header: &Header<'_>,
        deliver: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> Action {
        if header.is_unfragmented() {
            return deliver(payload, header);
        }
        self.builder.on_fragment(payload, header, deliver)
    }
}
