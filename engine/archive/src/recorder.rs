//! One recording in progress: blocks of an image go into segment files (spec 03 §3.1, §3.5).

use std::path::PathBuf;

use harrier_client::{Counter, Image};
use harrier_ringbuf::Region;
use harrier_ringbuf::position::HEADER_LENGTH;
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel as FileSync, WriteBuffer,
};

use crate::checksum::Checksum;
use crate::codec::ArchiveErrorCode;
use crate::context::SyncLevel;
use crate::io::{Io, Ticket, Transfer};
use crate::segment;

/// What a recording is made of.
pub(crate) struct RecordingSetup {
    pub(crate) recording_id: i64,
    pub(crate) control_session_id: i64,
    pub(crate) correlation_id: i64,
    pub(crate) subscription_id: i64,
    pub(crate) start_position: i64,
    pub(crate) term_length: i32,
    pub(crate) segment_length: i32,
    pub(crate) directory: PathBuf,
    pub(crate) io_max_length: usize,
    pub(crate) sync_level: SyncLevel,
    pub(crate) checksum: Option<Checksum>,
    /// The first segment may be there already.
    pub(crate) is_extension: bool,
}

/// Where a recording's file work stands.
#[derive(Debug)]
enum Stage {
    Open,
    Opening(Ticket),
    Sizing { file: FileId, ticket: Ticket },
    SyncingDirectory { file: FileId, ticket: Ticket },
    Ready(FileId),
    Writing { file: FileId, ticket: Ticket, length: usize },
    Syncing { file: FileId, ticket: Ticket, length: usize },
    Closing(Ticket),
    Ended,
}

/// Why a recording ended by itself.
#[derive(Debug)]
pub(crate) struct RecordingFailure {
    pub(crate) code: ArchiveErrorCode,
    pub(crate) message: String,
}

/// A recording in progress.
pub(crate) struct RecordingSession {
    pub(crate) setup: RecordingSetup,
    image: Image,
    counter: Counter,
    position: i64,
    stage: Stage,
    is_aborted: bool,
    is_first_segment: bool,
    scratch: Vec<u8>,
    pub(crate) failure: Option<RecordingFailure>,
}

impl RecordingSession {
    pub(crate) fn new(setup: RecordingSetup, image: Image, counter: Counter) -> Self {
        let position = image.join_position();
        Self {
            setup,
            image,
            counter,
            position,
            stage: Stage::Open,
            is_aborted: false,
            is_first_segment: true,
            scratch: Vec::new(),
            failure: None,
        }
    }

    /// Position up to which everything is in the files.
    pub(crate) fn position(&self) -> i64 {
        self.position
    }

    pub(crate) fn counter_id(&self) -> i32 {
        self.counter.counter_id()
    }

    /// Transports that the stream comes from.
    pub(crate) fn active_transport_count(&self) -> i32 {
        self.image.active_transport_count()
    }

    /// Ends the recording after what is being written.
    pub(crate) fn abort(&mut self) {
        self.is_aborted = true;
    }

    /// True when nothing is in flight any more and nothing will come.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    fn segment_base(&self) -> i64 {
        let setup = &self.setup;
        segment::base_position(setup.start_position, self.position, setup.term_length, setup.segment_length)
    }

    /// One turn: moves the file work on, writes at most one block.
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
            Err(error) => self.on_failure(&error, io),
        }
        1
    }

    fn on_done<S: Storage>(&mut self, output: &Output, io: &mut Io<S>) {
        let level = self.setup.sync_level;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Opening(_) => match *output {
                Output::Opened(file, _) => {
                    let length = self.setup.segment_length as u64;
                    Stage::Sizing { file, ticket: io.submit(Operation::SetLength { file, length }) }
                }
                _ => Stage::Ended,
            },
            Stage::Sizing { file, .. } if level > SyncLevel::None => {
                let path = self.setup.directory.clone();
                Stage::SyncingDirectory { file, ticket: io.submit(Operation::SyncDirectory { path }) }
            }
            Stage::Sizing { file, .. } | Stage::SyncingDirectory { file, .. } => Stage::Ready(file),
            Stage::Writing { file, length, .. } if level > SyncLevel::None => {
                let level = if level == SyncLevel::All { FileSync::All } else { FileSync::Data };
                Stage::Syncing { file, length, ticket: io.submit(Operation::Sync { file, level }) }
            }
            Stage::Writing { file, length, .. } | Stage::Syncing { file, length, .. } => {
                self.on_written(file, length, io)
            }
            Stage::Closing(_) | Stage::Ended | Stage::Open | Stage::Ready(_) => {
                if self.is_aborted || self.failure.is_some() { Stage::Ended } else { Stage::Open }
            }
        };
    }

    /// A block is safe: first the stream may move on, last the world hears of it (spec 03 §3.1, 3).
    fn on_written<S: Storage>(&mut self, file: FileId, length: usize, io: &mut Io<S>) -> Stage {
        let base = self.segment_base();
        self.position += length as i64;
        let image_position = self.image.position();
        self.image.set_position(image_position + length as i64);
        self.counter.set_ordered(self.position);
        if self.position < base + i64::from(self.setup.segment_length) {
            return Stage::Ready(file);
        }
        self.is_first_segment = false;
        Stage::Closing(io.submit(Operation::Close { file }))
    }

    fn is_drained(&mut self) -> bool {
        self.image.is_closed() || self.image.is_end_of_stream()
    }

    fn write_block<S: Storage>(&mut self, file: FileId, io: &mut Io<S>) -> usize {
        if self.is_aborted {
            self.close(file, io);
            return 1;
        }
        let max = self.setup.io_max_length.min(self.setup.term_length as usize);
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
        let written =
            if harrier_ringbuf::frame::is_padding(block.term, block.offset) { HEADER_LENGTH } else { length };
        let bytes = match checksum {
            Some(checksum) => {
                let mut copy = std::mem::take(&mut self.scratch);
                copy.resize(written, 0);
                block.term.copy_out(block.offset, &mut copy);
                checksum.stamp(&mut copy);
                WriteBuffer::Owned(copy)
            }
            None => WriteBuffer::Log { buffer: block.term.clone(), offset: block.offset, length: written },
        };
        let write = Operation::Write { file, offset, bytes };
        let ticket = io.submit_transfer(Transfer::Write, written, write);
        self.stage = Stage::Writing { file, ticket, length };
        1
    }

    fn close<S: Storage>(&mut self, file: FileId, io: &mut Io<S>) {
        self.stage = Stage::Closing(io.submit(Operation::Close { file }));
    }

    fn on_failure<S: Storage>(&mut self, error: &StorageError, io: &mut Io<S>) {
        let code = if error.source.kind() == std::io::ErrorKind::StorageFull {
            ArchiveErrorCode::StorageSpace
        } else {
            ArchiveErrorCode::Generic
        };
        if self.failure.is_none() {
            self.failure = Some(RecordingFailure { code, message: error.to_string() });
        }
        match self.stage {
            Stage::Sizing { file, .. }
            | Stage::SyncingDirectory { file, .. }
            | Stage::Writing { file, .. }
            | Stage::Syncing { file, .. } => self.close(file, io),
            _ => self.stage = Stage::Ended,
        }
    }
}
