//! A replay session: copies blocks of segment files into a publication (spec 03 §5.1, §5.2).

mod verification;

use std::path::PathBuf;

use harrier_client::{Aeron, ExclusivePublication};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::counters::CountersReader;
use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH, align};
use harrier_ringbuf::storage::{FileId, OpenMode, Operation, Output, Storage, StorageError};

use crate::checksum::{Checksum, frame_length, is_padding};
use crate::codec::ArchiveErrorCode;
use crate::descriptor::RecordingDescriptor;
use crate::io::{Io, Ticket, Transfer};
use crate::seal::{BadFrame, SegmentSeal};
use crate::segment;

/// A counter that limits a replay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LimitCounter {
    pub(crate) id: i32,
    /// Registration id of the counter when the replay began; another id means that the counter was reused.
    pub(crate) registration_id: i64,
}

/// Parameters of a replay session.
pub(crate) struct ReplaySetup {
    pub(crate) control_session_id: i64,
    pub(crate) correlation_id: i64,
    pub(crate) sequence: i64,
    pub(crate) recording: RecordingDescriptor,
    pub(crate) position: i64,
    pub(crate) stop_position: i64,
    pub(crate) replay_limit: i64,
    pub(crate) limit_counter: Option<LimitCounter>,
    pub(crate) stream_id: i32,
    pub(crate) publication_id: i64,
    pub(crate) directory: PathBuf,
    pub(crate) io_max_length: usize,
    pub(crate) checksum: Option<Checksum>,
    /// True when this archive is recording the stream and stamps every frame after the start of a segment's seal.
    pub(crate) is_stamped_live: bool,
    pub(crate) deadline_ns: i64,
    /// True when the recording was active at the request, so that its next segment may not exist yet.
    pub(crate) is_live: bool,
    /// Time that the replay waits for a segment that the recorder is about to create, ns.
    pub(crate) connect_timeout_ns: i64,
}

/// Interval at which a replay looks for a segment that does not exist yet, ns.
const SEGMENT_RETRY_NS: i64 = 1_000_000;

#[derive(Debug)]
enum Stage {
    /// The publication is being added and the first header checked.
    AwaitPublication,
    Opening(Ticket),
    /// The recorder has not created the segment yet.
    AwaitSegment {
        retry_ns: i64,
    },
    /// The segment's seal is being opened or read.
    OpeningSeal {
        file: FileId,
        ticket: Ticket,
    },
    ReadingSeal {
        file: FileId,
        seal: FileId,
        ticket: Ticket,
    },
    Checking {
        file: FileId,
        ticket: Ticket,
    },
    AwaitConnection(FileId),
    Idle(FileId),
    Reading {
        file: FileId,
        ticket: Ticket,
    },
    /// Bytes are read but not yet offered.
    Offering(FileId),
    Closing(Ticket),
    Ended,
}

/// Events that a replay session reports.
#[derive(Debug)]
pub(crate) enum ReplayEvent {
    /// The replay has begun, with its session id.
    Started(i64),
    /// The replay has failed.
    Failed {
        code: ArchiveErrorCode,
        message: String,
        /// True for a fault of the archive or its files, false when the client or its subscriber is the cause.
        is_fault: bool,
    },
}

impl ReplayEvent {
    fn refused(code: ArchiveErrorCode, message: impl Into<String>) -> Self {
        Self::Failed { code, message: message.into(), is_fault: false }
    }

    fn fault(message: impl Into<String>) -> Self {
        Self::Failed { code: ArchiveErrorCode::Generic, message: message.into(), is_fault: true }
    }
}

/// A replay in progress.
pub(crate) struct ReplaySession {
    pub(crate) setup: ReplaySetup,
    publication: Option<ExclusivePublication>,
    stage: Stage,
    position: i64,
    stop_position: i64,
    replay_limit: i64,
    file_base: i64,
    seal: Option<SegmentSeal>,
    /// Position after the last stamped frame of the segment.
    stamped_end: i64,
    /// Offset in the segment from which the buffer was read.
    read_offset: usize,
    buffer: Vec<u8>,
    /// Buffer offset of the first frame to offer, and of the next one.
    first: usize,
    offered: usize,
    is_aborted: bool,
    has_started: bool,
    /// Time of the duty cycle, ns.
    now_ns: i64,
    /// Time until which a missing segment may still appear, ns; `None` when none is missing.
    segment_deadline_ns: Option<i64>,
}

impl ReplaySession {
    pub(crate) fn new(setup: ReplaySetup) -> Self {
        Self {
            position: setup.position,
            stop_position: setup.stop_position,
            replay_limit: setup.replay_limit,
            file_base: setup.recording.segment_base(setup.position),
            seal: None,
            stamped_end: 0,
            read_offset: 0,
            buffer: Vec::new(),
            first: 0,
            offered: 0,
            publication: None,
            stage: Stage::AwaitPublication,
            is_aborted: false,
            has_started: false,
            now_ns: 0,
            segment_deadline_ns: None,
            setup,
        }
    }

    /// Position of the segment that the replay reads.
    pub(crate) fn segment_position(&self) -> i64 {
        self.file_base
    }

    /// Id by which the replay is stopped; 0 before its publication exists.
    pub(crate) fn session_id(&self) -> i64 {
        self.publication
            .as_ref()
            .map_or(0, |publication| (self.setup.sequence << 32) | i64::from(publication.session_id() as u32))
    }

    /// True while the replay reads, or will read, beyond a position.
    pub(crate) fn reads_beyond(&self, position: i64) -> bool {
        !self.has_ended() && (self.replay_limit > position || self.position > position)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// Ends the replay immediately.
    pub(crate) fn abort(&mut self) {
        self.is_aborted = true;
    }

    /// Advances the replay.
    pub(crate) fn do_work<S: Storage>(
        &mut self,
        io: &mut Io<S>,
        aeron: &mut Aeron,
        now_ns: i64,
        event: &mut Option<ReplayEvent>,
    ) -> usize {
        self.now_ns = now_ns;
        match self.stage {
            Stage::Ended => 0,
            Stage::AwaitSegment { retry_ns } => self.await_segment(retry_ns, io),
            Stage::AwaitPublication => self.await_publication(io, aeron, event),
            Stage::Opening(ticket)
            | Stage::OpeningSeal { ticket, .. }
            | Stage::ReadingSeal { ticket, .. }
            | Stage::Checking { ticket, .. }
            | Stage::Reading { ticket, .. }
            | Stage::Closing(ticket) => match io.take(ticket) {
                Some(Ok(output)) => {
                    self.on_done(output, io, event);
                    1
                }
                Some(Err(error)) => {
                    self.on_failed(&error, io, event);
                    1
                }
                None => 0,
            },
            Stage::AwaitConnection(file) => self.await_connection(file, io, event),
            Stage::Idle(file) => self.read_next(file, io, aeron.counters()),
            Stage::Offering(file) => self.offer(file, io, event),
        }
    }

    fn await_publication<S: Storage>(
        &mut self,
        io: &mut Io<S>,
        aeron: &mut Aeron,
        event: &mut Option<ReplayEvent>,
    ) -> usize {
        match aeron.exclusive_publication(self.setup.publication_id) {
            Ok(None) => 0,
            Ok(Some(publication)) => {
                self.publication = Some(publication);
                self.open(io);
                1
            }
            Err(error) => {
                *event = Some(ReplayEvent::refused(ArchiveErrorCode::Generic, error.to_string()));
                self.stage = Stage::Ended;
                1
            }
        }
    }

    /// Opens the segment again once it may exist.
    fn await_segment<S: Storage>(&mut self, retry_ns: i64, io: &mut Io<S>) -> usize {
        if self.is_aborted {
            self.end();
            return 1;
        }
        if self.now_ns < retry_ns {
            return 0;
        }
        self.open(io);
        1
    }

    /// Revokes the publication and ends the replay.
    fn end(&mut self) {
        if let Some(publication) = &mut self.publication {
            publication.revoke_on_close();
        }
        self.publication = None;
        self.stage = Stage::Ended;
    }

    fn open<S: Storage>(&mut self, io: &mut Io<S>) {
        let path = segment::path(&self.setup.directory, self.setup.recording.recording_id, self.file_base);
        self.stage = Stage::Opening(io.submit(Operation::Open { path, mode: OpenMode::Read }));
    }

    fn on_done<S: Storage>(&mut self, output: Output, io: &mut Io<S>, event: &mut Option<ReplayEvent>) {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Opening(_) => {
                let Output::Opened(file, _) = output else { return };
                self.segment_deadline_ns = None;
                self.seal = None;
                let (directory, id) = (&self.setup.directory, self.setup.recording.recording_id);
                let path = segment::seal_path(directory, id, self.file_base);
                let open = Operation::Open { path, mode: OpenMode::Read };
                self.stage = Stage::OpeningSeal { file, ticket: io.submit(open) };
            }
            Stage::OpeningSeal { file, .. } => {
                let Output::Opened(seal, length) = output else { return };
                let read =
                    Operation::Read { file: seal, offset: 0, length: length as usize, into: Vec::new() };
                self.stage = Stage::ReadingSeal { file, seal, ticket: io.submit(read) };
            }
            Stage::ReadingSeal { file, seal, .. } => {
                io.submit_and_forget(Operation::Close { file: seal });
                let Output::Data(bytes) = output else { return };
                match SegmentSeal::read(&bytes, self.setup.recording.recording_id, self.file_base) {
                    Ok(seal) => {
                        self.take_seal(seal);
                        self.begin_segment(file, io);
                    }
                    Err(error) => self.fail_file(file, ReplayEvent::fault(error.to_string()), io, event),
                }
            }
            Stage::Checking { file, .. } => {
                let Output::Data(bytes) = output else { return };
                self.buffer = bytes;
                self.on_first_header(file, io, event);
            }
            Stage::Reading { file, .. } => {
                let Output::Data(bytes) = output else { return };
                self.buffer = bytes;
                if let Err(bad) = self.verify() {
                    let message = self.describe(&bad);
                    return self.fail_file(file, ReplayEvent::fault(message), io, event);
                }
                self.stage = Stage::Offering(file);
                self.offer(file, io, event);
            }
            Stage::Closing(_) if !self.is_aborted && self.position < self.replay_limit => {
                self.file_base = self.setup.recording.segment_base(self.position);
                self.open(io);
            }
            _ => {
                if self.is_aborted
                    && let Some(publication) = &mut self.publication
                {
                    publication.revoke_on_close();
                }
                self.publication = None;
            }
        }
    }

    /// Checks the first header in the first segment, or reads the frames of a later one.
    fn begin_segment<S: Storage>(&mut self, file: FileId, io: &mut Io<S>) {
        if self.has_started {
            self.stage = Stage::Idle(file);
            return;
        }
        let offset = (self.position - self.file_base) as u64;
        let into = std::mem::take(&mut self.buffer);
        let read = Operation::Read { file, offset, length: HEADER_LENGTH, into };
        self.stage = Stage::Checking { file, ticket: io.submit(read) };
    }

    fn on_failed<S: Storage>(
        &mut self,
        error: &StorageError,
        io: &mut Io<S>,
        event: &mut Option<ReplayEvent>,
    ) {
        let may_appear = error.is_not_found() && self.may_appear();
        match self.stage {
            // Only segments stamped by this implementation have a seal.
            Stage::OpeningSeal { file, .. } if error.is_not_found() => self.begin_segment(file, io),
            Stage::Opening(_) if may_appear => {
                self.stage = Stage::AwaitSegment { retry_ns: self.now_ns + SEGMENT_RETRY_NS };
            }
            _ => self.fail(ReplayEvent::fault(error.to_string()), io, event),
        }
    }

    /// True while the recorder may still create the segment: it does so after it has announced the recording, and after
    /// it has filled the segment before.
    fn may_appear(&mut self) -> bool {
        if !matches!(self.stage, Stage::Opening(_)) {
            return false;
        }
        let deadline_ns =
            *self.segment_deadline_ns.get_or_insert(self.now_ns + self.setup.connect_timeout_ns);
        self.setup.is_live && !self.is_aborted && self.now_ns <= deadline_ns
    }

    /// Checks that the replay starts at the start of a frame (spec 03 §5.1).
    fn on_first_header<S: Storage>(&mut self, file: FileId, io: &mut Io<S>, event: &mut Option<ReplayEvent>) {
        let recording = &self.setup.recording;
        let needs_check = self.setup.position > recording.start_position
            && self.setup.position != recording.stop_position
            && self.position < self.stop_position;
        if needs_check && !is_frame_of(&self.buffer, recording, self.position) {
            let message = format!("position {} is not the start of a frame", self.position);
            let refused = ReplayEvent::refused(ArchiveErrorCode::InvalidPosition, message);
            return self.fail_file(file, refused, io, event);
        }
        self.has_started = true;
        *event = Some(ReplayEvent::Started(self.session_id()));
        self.stage = Stage::AwaitConnection(file);
    }

    fn await_connection<S: Storage>(
        &mut self,
        file: FileId,
        io: &mut Io<S>,
        event: &mut Option<ReplayEvent>,
    ) -> usize {
        if self.publication.as_ref().is_some_and(ExclusivePublication::is_connected) {
            self.stage = Stage::Idle(file);
            return 1;
        }
        if self.is_aborted {
            self.close(file, io);
        } else if self.now_ns > self.setup.deadline_ns {
            let message = "no subscriber connected to the replay within the connect timeout";
            let refused = ReplayEvent::refused(ArchiveErrorCode::Generic, message);
            self.fail_file(file, refused, io, event);
        }
        0
    }

    /// Reads the next block, ends the segment, or waits for a live recording to advance.
    fn read_next<S: Storage>(&mut self, file: FileId, io: &mut Io<S>, counters: &CountersReader) -> usize {
        let is_connected = self.publication.as_ref().is_some_and(|publication| publication.is_connected());
        if self.is_aborted || !is_connected {
            self.is_aborted = true;
            self.close(file, io);
            return 1;
        }
        if self.position >= self.stop_position {
            self.follow(counters);
        }
        if self.position >= self.replay_limit {
            self.close(file, io);
            return 1;
        }
        let segment_end = self.file_base + i64::from(self.setup.recording.segment_file_length);
        if self.position >= segment_end {
            self.close(file, io);
            return 1;
        }
        if self.position >= self.stop_position {
            return 0;
        }
        let (offset, length) = self.next_read();
        self.read_offset = offset;
        let into = std::mem::take(&mut self.buffer);
        let read = Operation::Read { file, offset: offset as u64, length, into };
        let ticket = io.submit_transfer(Transfer::Read, length, read);
        self.stage = Stage::Reading { file, ticket };
        1
    }

    /// Reads the replay's limit from the counter.
    fn follow(&mut self, counters: &CountersReader) {
        let Some(limit) = self.setup.limit_counter else { return };
        let is_same = counters.registration_id(limit.id) == limit.registration_id;
        if !is_same {
            self.replay_limit = self.replay_limit.min(self.stop_position);
        } else if counters.is_allocated(limit.id) {
            self.stop_position = self.stop_position.max(counters.value(limit.id)).min(self.replay_limit);
        } else {
            let last = counters.value(limit.id).max(self.stop_position);
            self.stop_position = last.min(self.replay_limit);
            self.replay_limit = self.stop_position;
        }
    }

    fn offer<S: Storage>(&mut self, file: FileId, io: &mut Io<S>, event: &mut Option<ReplayEvent>) -> usize {
        if self.is_aborted {
            self.close(file, io);
            return 1;
        }
        let Some(length) = frame_length(&self.buffer, self.offered) else {
            return self.on_no_frame(file, io, event);
        };
        let outcome = if is_padding(&self.buffer, self.offered) {
            let publication = self.publication.as_mut().expect("a replay that offers has its publication");
            publication.append_padding(length - HEADER_LENGTH).map(|_| align(length, FRAME_ALIGNMENT))
        } else {
            match self.prepare_block() {
                Ok(0) => return self.on_no_frame(file, io, event),
                Ok(block) => {
                    let bytes = &self.buffer[self.offered..self.offered + block];
                    let publication =
                        self.publication.as_mut().expect("a replay that offers has its publication");
                    publication.offer_block(bytes).map(|_| block)
                }
                Err(message) => {
                    self.fail_file(file, ReplayEvent::fault(message), io, event);
                    return 1;
                }
            }
        };
        match outcome {
            Ok(advanced) => {
                assert!(
                    advanced > 0 && advanced.is_multiple_of(FRAME_ALIGNMENT),
                    "a replay moves on by whole frames"
                );
                self.position += advanced as i64;
                self.offered += advanced;
                if self.offered >= self.buffer.len() || self.position >= self.replay_limit {
                    self.stage = Stage::Idle(file);
                }
                1
            }
            Err(OfferError::BackPressured | OfferError::AdminAction) => 0,
            Err(_) => {
                self.is_aborted = true;
                self.close(file, io);
                1
            }
        }
    }

    /// Handles a block that ends inside a frame or holds none.
    fn on_no_frame<S: Storage>(
        &mut self,
        file: FileId,
        io: &mut Io<S>,
        event: &mut Option<ReplayEvent>,
    ) -> usize {
        if self.offered > self.first {
            self.stage = Stage::Idle(file);
            return 1;
        }
        let offset = (self.position - self.file_base) as usize;
        let message = self.describe(&BadFrame { offset, reason: "it has no length" });
        self.fail_file(file, ReplayEvent::fault(message), io, event);
        1
    }

    /// Rewrites the next run of complete data frames for the replay's stream and returns its length in bytes.
    fn prepare_block(&mut self) -> Result<usize, String> {
        let Some(publication) = &self.publication else { return Ok(0) };
        let (session_id, stream_id) = (publication.session_id(), self.setup.stream_id);
        let mut end = self.offered;
        while self.position + ((end - self.offered) as i64) < self.replay_limit {
            let Some(length) = frame_length(&self.buffer, end) else { break };
            let aligned = align(length, FRAME_ALIGNMENT);
            if is_padding(&self.buffer, end) || end + aligned > self.buffer.len() {
                break;
            }
            let frame = &mut self.buffer[end..end + aligned];
            if let Some(checksum) = self.setup.checksum {
                let stored = i32::from_le_bytes([frame[12], frame[13], frame[14], frame[15]]);
                if stored != checksum.of_frame(frame) && stored != session_id {
                    let offset = self.read_offset + end;
                    let reason = "it does not match its checksum";
                    return Err(self.describe(&BadFrame { offset, reason }));
                }
            }
            frame[12..16].copy_from_slice(&session_id.to_le_bytes());
            frame[16..20].copy_from_slice(&stream_id.to_le_bytes());
            end += aligned;
        }
        Ok(end - self.offered)
    }

    fn close<S: Storage>(&mut self, file: FileId, io: &mut Io<S>) {
        self.stage = Stage::Closing(io.submit(Operation::Close { file }));
    }

    fn fail_file<S: Storage>(
        &mut self,
        file: FileId,
        failed: ReplayEvent,
        io: &mut Io<S>,
        event: &mut Option<ReplayEvent>,
    ) {
        *event = Some(failed);
        self.is_aborted = true;
        self.close(file, io);
    }

    fn fail<S: Storage>(&mut self, failed: ReplayEvent, io: &mut Io<S>, event: &mut Option<ReplayEvent>) {
        if let Stage::OpeningSeal { file, .. }
        | Stage::ReadingSeal { file, .. }
        | Stage::Checking { file, .. }
        | Stage::Reading { file, .. } = self.stage
        {
            return self.fail_file(file, failed, io, event);
        }
        *event = Some(failed);
        self.end();
    }
}

/// True when the bytes are the header of a recording's frame at a position.
pub(crate) fn is_frame_of(bytes: &[u8], recording: &RecordingDescriptor, position: i64) -> bool {
    if bytes.len() < HEADER_LENGTH {
        return false;
    }
    let int = |offset: usize| bytes[offset..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
    let term_length = i64::from(recording.term_buffer_length);
    let term_id = recording.initial_term_id.wrapping_add((position / term_length) as i32);
    int(8) == (position & (term_length - 1)) as i32 && int(16) == recording.stream_id && int(20) == term_id
}
