//! One recording in progress: blocks of an image go into segment files (spec 03 §3.1, §3.5).

mod sealing;

use std::path::PathBuf;

use harrier_client::{Counter, Image};
use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH};
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel as FileSync, WriteBuffer,
};
use harrier_ringbuf::{AtomicBuffer, Region};

use crate::checksum::Checksum;
use crate::codec::ArchiveErrorCode;
use crate::context::SyncLevel;
use crate::descriptor::RecordingDescriptor;
use crate::io::{Io, Ticket, Transfer};
use crate::segment;
use sealing::{SealError, Sealing};

/// Settings of one recording.
pub(crate) struct RecordingSetup {
    pub(crate) recording_id: i64,
    pub(crate) control_session_id: i64,
    pub(crate) correlation_id: i64,
    pub(crate) subscription_id: i64,
    /// Descriptor of the recording in the catalog.
    pub(crate) recording: RecordingDescriptor,
    pub(crate) directory: PathBuf,
    pub(crate) io_max_length: usize,
    pub(crate) sync_level: SyncLevel,
    pub(crate) checksum: Option<Checksum>,
    /// True when the first segment may already exist.
    pub(crate) is_extension: bool,
}

/// State of a recording's file operations.
#[derive(Debug)]
enum Stage {
    Open,
    Opening(Ticket),
    Sizing {
        file: FileId,
        ticket: Ticket,
    },
    /// The segment's seal is being created.
    Unsealing(FileId),
    SyncingDirectory {
        file: FileId,
        ticket: Ticket,
    },
    Ready(FileId),
    Writing {
        file: FileId,
        ticket: Ticket,
        length: usize,
    },
    Syncing {
        file: FileId,
        ticket: Ticket,
        length: usize,
    },
    /// The segment's seal is being completed.
    Sealing(FileId),
    /// An operation has failed and the segment is being closed.
    Abandoning(FileId),
    Closing(Ticket),
    Ended,
}

/// Reason why a recording ended without a request.
#[derive(Debug)]
pub(crate) struct RecordingFailure {
    pub(crate) code: ArchiveErrorCode,
    pub(crate) message: String,
}

impl RecordingFailure {
    /// Creates the failure of a file operation; a full disk has a code of its own.
    pub(crate) fn of(error: &StorageError) -> Self {
        let is_full = error.source.kind() == std::io::ErrorKind::StorageFull;
        let code = if is_full { ArchiveErrorCode::StorageSpace } else { ArchiveErrorCode::Generic };
        Self { code, message: error.to_string() }
    }
}

/// A recording in progress.
pub(crate) struct RecordingSession {
    pub(crate) setup: RecordingSetup,
    image: Image,
    counter: Counter,
    join_position: i64,
    position: i64,
    /// Position that the last recording event named.
    pub(crate) published_position: i64,
    stage: Stage,
    is_aborted: bool,
    is_first_segment: bool,
    /// Seal of the current segment, when its frames are stamped.
    sealing: Option<Sealing>,
    /// Buffer that holds the stamped copy of a block while it is written.
    stamped: Vec<u8>,
    outgoing: AtomicBuffer,
    pub(crate) failure: Option<RecordingFailure>,
}

/// Initial capacity of the buffer for stamped blocks; it grows with the blocks.
const STAMPED_CAPACITY: usize = 64 << 10;

impl RecordingSession {
    pub(crate) fn new(setup: RecordingSetup, image: Image, counter: Counter) -> Self {
        let position = image.join_position();
        let capacity = if setup.checksum.is_some() { STAMPED_CAPACITY } else { 0 };
        Self {
            sealing: None,
            stamped: Vec::with_capacity(capacity),
            outgoing: AtomicBuffer::heap(capacity),
            setup,
            image,
            counter,
            join_position: position,
            position,
            published_position: position,
            stage: Stage::Open,
            is_aborted: false,
            is_first_segment: true,
            failure: None,
        }
    }

    /// Position up to which everything is written.
    pub(crate) fn position(&self) -> i64 {
        self.position
    }

    /// Position at which the archive joined the image.
    pub(crate) fn join_position(&self) -> i64 {
        self.join_position
    }

    pub(crate) fn counter_id(&self) -> i32 {
        self.counter.counter_id()
    }

    /// Number of active transports of the image.
    pub(crate) fn active_transport_count(&self) -> i32 {
        self.image.active_transport_count()
    }

    /// Ends the recording after the write in flight.
    pub(crate) fn abort(&mut self) {
        self.is_aborted = true;
    }

    /// True when no operation is in flight and none will follow.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    fn segment_base(&self) -> i64 {
        self.setup.recording.segment_base(self.position)
    }

    /// Advances the file operations and writes at most one block.
    pub(crate) fn do_work<S: Storage>(&mut self, io: &mut Io<S>) -> usize {
        match self.stage {
            Stage::Open => {
                if self.is_aborted || self.is_drained() {
                    self.stage = Stage::Ended;
                    return 1;
                }
                let mode = match (self.is_first_segment, self.setup.is_extension) {
                    (true, true) => OpenMode::CreateOrOpen,
                    _ => OpenMode::CreateNew,
                };
                let path = segment::path(&self.setup.directory, self.setup.recording_id, self.segment_base());
                self.stage = Stage::Opening(io.submit(Operation::Open { path, mode }));
                1
            }
            Stage::Ready(file) => self.write_block(file, io),
            Stage::Unsealing(file) | Stage::Sealing(file) => self.await_seal(file, io),
            Stage::Abandoning(file) => {
                self.stage = self.leave(file, io);
                1
            }
            Stage::Ended => 0,
            _ => self.await_completion(io),
        }
    }

    fn await_completion<S: Storage>(&mut self, io: &mut Io<S>) -> usize {
        let (Stage::Opening(ticket)
        | Stage::Sizing { ticket, .. }
        | Stage::SyncingDirectory { ticket, .. }
        | Stage::Writing { ticket, .. }
        | Stage::Syncing { ticket, .. }
        | Stage::Closing(ticket)) = self.stage
        else {
            return 0;
        };
        let Some(outcome) = io.take(ticket) else { return 0 };
        match outcome {
            Ok(output) => self.on_done(&output, io),
            Err(error) => self.on_failure(&error),
        }
        1
    }

    /// Advances the operations on the segment's seal.
    fn await_seal<S: Storage>(&mut self, file: FileId, io: &mut Io<S>) -> usize {
        let Some(sealing) = &mut self.sealing else { return 0 };
        let work_count = match sealing.poll(io) {
            Ok(work_count) => work_count,
            Err(error) => {
                self.on_seal_failure(&error);
                return 1;
            }
        };
        if sealing.is_closed() {
            self.sealing = None;
            self.stage = Stage::Closing(io.submit(Operation::Close { file }));
        } else if sealing.is_open() {
            self.stage = self.after_seal(file, io);
        }
        work_count
    }

    /// Syncs the names of the new segment and its seal before any frame is written.
    fn after_seal<S: Storage>(&self, file: FileId, io: &mut Io<S>) -> Stage {
        if self.setup.sync_level == SyncLevel::None {
            return Stage::Ready(file);
        }
        let path = self.setup.directory.clone();
        Stage::SyncingDirectory { file, ticket: io.submit(Operation::SyncDirectory { path }) }
    }

    fn file_sync(&self) -> Option<FileSync> {
        match self.setup.sync_level {
            SyncLevel::None => None,
            SyncLevel::Data => Some(FileSync::Data),
            SyncLevel::All => Some(FileSync::All),
        }
    }

    fn on_done<S: Storage>(&mut self, output: &Output, io: &mut Io<S>) {
        let level = self.setup.sync_level;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Opening(_) => match *output {
                Output::Opened(file, _) => {
                    let length = self.setup.recording.segment_file_length as u64;
                    Stage::Sizing { file, ticket: io.submit(Operation::SetLength { file, length }) }
                }
                _ => Stage::Ended,
            },
            Stage::Sizing { file, .. } if self.setup.checksum == Some(Checksum::Crc32c) => {
                let (recording, directory) = (&self.setup.recording, &self.setup.directory);
                let sync = self.file_sync();
                self.sealing = Some(Sealing::begin(recording, directory, self.position, file, sync, io));
                Stage::Unsealing(file)
            }
            Stage::Sizing { file, .. } => self.after_seal(file, io),
            Stage::SyncingDirectory { file, .. } => Stage::Ready(file),
            Stage::Writing { file, length, .. } if level > SyncLevel::None => {
                let level = if level == SyncLevel::All { FileSync::All } else { FileSync::Data };
                Stage::Syncing { file, length, ticket: io.submit(Operation::Sync { file, level }) }
            }
            Stage::Writing { file, length, .. } | Stage::Syncing { file, length, .. } => {
                self.on_written(file, length, io)
            }
            Stage::Closing(_)
            | Stage::Ended
            | Stage::Open
            | Stage::Ready(_)
            | Stage::Unsealing(_)
            | Stage::Sealing(_)
            | Stage::Abandoning(_) => {
                if self.is_aborted || self.failure.is_some() {
                    Stage::Ended
                } else {
                    Stage::Open
                }
            }
        };
    }

    /// Advances the positions past a written block: the image's first, the counter's last (spec 03 §3.1).
    fn on_written<S: Storage>(&mut self, file: FileId, length: usize, io: &mut Io<S>) -> Stage {
        let base = self.segment_base();
        if let Some(sealing) = &mut self.sealing {
            sealing.add(&self.stamped, (self.position - base) as usize);
        }
        self.position += length as i64;
        let image_position = self.image.position();
        self.image.set_position(image_position + length as i64);
        self.counter.set_ordered(self.position);
        let end = base + i64::from(self.setup.recording.segment_file_length);
        assert!(self.position <= end, "a block stays within its segment");
        if self.position < end {
            return Stage::Ready(file);
        }
        self.is_first_segment = false;
        self.leave(file, io)
    }

    /// Completes the segment's seal, then closes the segment.
    fn leave<S: Storage>(&mut self, file: FileId, io: &mut Io<S>) -> Stage {
        match &mut self.sealing {
            Some(sealing) => {
                sealing.complete(io);
                Stage::Sealing(file)
            }
            None => Stage::Closing(io.submit(Operation::Close { file })),
        }
    }

    /// Completes the seal of a recording that ends immediately. Blocks, so only the closing archive calls it.
    pub(crate) fn seal_blocking<S: Storage>(&mut self, io: &mut Io<S>) -> Result<(), StorageError> {
        self.sealing.take().map_or(Ok(()), |mut sealing| sealing.complete_blocking(io))
    }

    fn is_drained(&mut self) -> bool {
        self.image.is_closed() || self.image.is_end_of_stream()
    }

    fn write_block<S: Storage>(&mut self, file: FileId, io: &mut Io<S>) -> usize {
        if self.is_aborted {
            self.close(file, io);
            return 1;
        }
        let max = self.setup.io_max_length.min(self.setup.recording.term_buffer_length as usize);
        let offset = (self.position - self.segment_base()) as u64;
        let checksum = self.setup.checksum;
        let Some(block) = self.image.peek_block(max) else {
            if self.is_drained() {
                self.is_aborted = true;
                self.close(file, io);
                return 1;
            }
            return 0;
        };
        let length = block.length;
        // A block holds whole frames in order: it begins at the end of the last one and stays within its term.
        let term_offset = self.position as usize & (self.setup.recording.term_buffer_length as usize - 1);
        assert!(
            length > 0 && length.is_multiple_of(FRAME_ALIGNMENT) && block.offset == term_offset,
            "a block to record begins at its position and is aligned"
        );
        let written =
            if harrier_ringbuf::frame::is_padding(block.term, block.offset) { HEADER_LENGTH } else { length };
        let bytes = match checksum {
            Some(checksum) => {
                self.stamped.resize(written, 0);
                block.term.copy_out(block.offset, &mut self.stamped);
                checksum.stamp(&mut self.stamped);
                if self.outgoing.capacity() < written {
                    self.outgoing = AtomicBuffer::heap(written.next_power_of_two());
                }
                self.outgoing.copy_in(0, &self.stamped);
                WriteBuffer::Log { buffer: self.outgoing.clone(), offset: 0, length: written }
            }
            None => WriteBuffer::Log { buffer: block.term.clone(), offset: block.offset, length: written },
        };
        let write = Operation::Write { file, offset, bytes };
        let ticket = io.submit_transfer(Transfer::Write, written, write);
        self.stage = Stage::Writing { file, ticket, length };
        1
    }

    fn close<S: Storage>(&mut self, file: FileId, io: &mut Io<S>) {
        self.stage = self.leave(file, io);
    }

    fn on_seal_failure(&mut self, error: &SealError) {
        self.sealing = None;
        match error {
            SealError::Storage(error) => self.on_failure(error),
            SealError::Version { .. } => self.fail(ArchiveErrorCode::Generic, error.to_string()),
        }
    }

    fn on_failure(&mut self, error: &StorageError) {
        let RecordingFailure { code, message } = RecordingFailure::of(error);
        self.fail(code, message);
    }

    fn fail(&mut self, code: ArchiveErrorCode, message: String) {
        if self.failure.is_none() {
            self.failure = Some(RecordingFailure { code, message });
        }
        self.stage = match self.stage {
            Stage::Sizing { file, .. }
            | Stage::SyncingDirectory { file, .. }
            | Stage::Unsealing(file)
            | Stage::Sealing(file)
            | Stage::Writing { file, .. }
            | Stage::Syncing { file, .. } => Stage::Abandoning(file),
            _ => Stage::Ended,
        };
    }
}
