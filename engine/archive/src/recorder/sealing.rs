//! The seal of the segment being recorded: created when the segment is opened, completed when it is closed.

use std::path::{Path, PathBuf};

use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel as FileSync, WriteBuffer,
};
use thiserror::Error;

use crate::descriptor::RecordingDescriptor;
use crate::io::{Io, Ticket};
use crate::seal::SegmentSeal;
use crate::segment;

use harrier_protocol::record::UnknownVersion;

/// Errors of sealing a segment.
#[derive(Debug, Error)]
pub(crate) enum SealError {
    /// The seal's file cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The seal of a newer program.
    #[error("{}: {error}", path.display())]
    Version { path: PathBuf, error: UnknownVersion },
}

#[derive(Debug)]
enum Step {
    Opening(Ticket),
    Reading {
        file: FileId,
        ticket: Ticket,
    },
    /// Reads the frames of the group that the recording continues.
    ReadingFrames {
        file: FileId,
        offset: usize,
        ticket: Ticket,
    },
    Writing {
        file: FileId,
        ticket: Ticket,
    },
    Syncing {
        file: FileId,
        ticket: Ticket,
    },
    Open(FileId),
    Closing(Ticket),
    Closed,
}

/// The seal of one segment.
#[derive(Debug)]
pub(crate) struct Sealing {
    seal: SegmentSeal,
    path: PathBuf,
    step: Step,
    sync: Option<FileSync>,
    /// Position at which recording begins in the segment.
    position: i64,
    /// The segment file, from which frames are read again.
    segment_file: FileId,
    is_complete: bool,
}

impl Sealing {
    /// Opens the seal of a segment in which recording begins at `position`.
    pub(crate) fn begin<S: Storage>(
        recording: &RecordingDescriptor,
        directory: &Path,
        position: i64,
        segment_file: FileId,
        sync: Option<FileSync>,
        io: &mut Io<S>,
    ) -> Self {
        let base = recording.segment_base(position);
        let path = segment::seal_path(directory, recording.recording_id, base);
        let open = Operation::Open { path: path.clone(), mode: OpenMode::CreateOrOpen };
        let seal = SegmentSeal::begin(recording, base, position);
        let step = Step::Opening(io.submit(open));
        Self { seal, path, step, sync, position, segment_file, is_complete: false }
    }

    /// True once the segment may be written.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.step, Step::Open(_))
    }

    /// True once the seal is complete and its file closed.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.step, Step::Closed)
    }

    /// Adds a block written at an offset of the segment.
    #[inline]
    pub(crate) fn add(&mut self, block: &[u8], offset: usize) {
        self.seal.add(block, offset);
    }

    /// Completes the seal. Nothing may be written into the segment afterwards.
    pub(crate) fn complete<S: Storage>(&mut self, io: &mut Io<S>) {
        self.is_complete = true;
        if let Step::Open(file) = self.step {
            self.step = self.write(file, io);
        }
    }

    /// Completes the seal immediately. Blocks, so only the closing archive calls it.
    pub(crate) fn complete_blocking<S: Storage>(&mut self, io: &mut Io<S>) -> Result<(), StorageError> {
        let Step::Open(file) = self.step else { return Ok(()) };
        self.step = Step::Closed;
        let bytes = WriteBuffer::Owned(self.seal.encode());
        io.blocking(Operation::Write { file, offset: 0, bytes })?;
        if let Some(level) = self.sync {
            io.blocking(Operation::Sync { file, level })?;
        }
        io.blocking(Operation::Close { file })?;
        Ok(())
    }

    fn write<S: Storage>(&self, file: FileId, io: &mut Io<S>) -> Step {
        let bytes = WriteBuffer::Owned(self.seal.encode());
        Step::Writing { file, ticket: io.submit(Operation::Write { file, offset: 0, bytes }) }
    }

    /// Advances the file operations and returns the number of steps done.
    pub(crate) fn poll<S: Storage>(&mut self, io: &mut Io<S>) -> Result<usize, SealError> {
        let (Step::Opening(ticket)
        | Step::Reading { ticket, .. }
        | Step::ReadingFrames { ticket, .. }
        | Step::Writing { ticket, .. }
        | Step::Syncing { ticket, .. }
        | Step::Closing(ticket)) = self.step
        else {
            return Ok(0);
        };
        match io.take(ticket) {
            None => Ok(0),
            Some(outcome) => {
                self.on_done(outcome?, io)?;
                Ok(1)
            }
        }
    }

    fn on_done<S: Storage>(&mut self, output: Output, io: &mut Io<S>) -> Result<(), SealError> {
        self.step = match (std::mem::replace(&mut self.step, Step::Closed), output) {
            (Step::Opening(_), Output::Opened(file, length)) if length > 0 => {
                let length = length as usize;
                let read = Operation::Read { file, offset: 0, length, into: Vec::new() };
                Step::Reading { file, ticket: io.submit(read) }
            }
            (Step::Opening(_), Output::Opened(file, _)) => self.write(file, io),
            (Step::Reading { file, .. }, Output::Data(bytes)) => self.resume(file, &bytes, io)?,
            (Step::ReadingFrames { file, offset, .. }, Output::Data(bytes)) => {
                self.seal.add(&bytes, offset);
                self.write(file, io)
            }
            (Step::Writing { file, .. }, _) => match self.sync {
                Some(level) => Step::Syncing { file, ticket: io.submit(Operation::Sync { file, level }) },
                None => self.written(file, io),
            },
            (Step::Syncing { file, .. }, _) => self.written(file, io),
            _ => Step::Closed,
        };
        Ok(())
    }

    fn written<S: Storage>(&self, file: FileId, io: &mut Io<S>) -> Step {
        if self.is_complete { Step::Closing(io.submit(Operation::Close { file })) } else { Step::Open(file) }
    }

    /// Resumes the seal of an earlier recording into this segment when it covers the start of this one.
    fn resume<S: Storage>(&mut self, file: FileId, bytes: &[u8], io: &mut Io<S>) -> Result<Step, SealError> {
        let (recording_id, base) = (self.seal.recording_id, self.seal.base);
        let read = SegmentSeal::read(bytes, recording_id, base);
        let read = read.map_err(|error| SealError::Version { path: self.path.clone(), error })?;
        let Some(mut earlier) = read.filter(|seal| seal.from <= self.position && self.position <= seal.to)
        else {
            return Ok(self.write(file, io));
        };
        let again = earlier.cut(self.position);
        self.seal.resume(earlier);
        let Some(offset) = again else { return Ok(self.write(file, io)) };
        let length = (self.position - base) as usize - offset;
        let segment_file = self.segment_file;
        let read = Operation::Read { file: segment_file, offset: offset as u64, length, into: Vec::new() };
        Ok(Step::ReadingFrames { file, offset, ticket: io.submit(read) })
    }
}
