//! Work on segment files that takes several operations: cutting and deleting (spec 03 §3.8).

use std::collections::VecDeque;
use std::path::PathBuf;

use harrier_ringbuf::position::HEADER_LENGTH;
use harrier_ringbuf::storage::{FileId, OpenMode, Operation, Output, Storage};

use crate::descriptor::RecordingDescriptor;
use crate::io::{Io, Ticket};
use crate::replay::is_frame_of;

/// One step of a task.
#[derive(Debug)]
pub(crate) enum Step {
    /// The bytes at an offset of a file must be a frame of the recording at a position.
    CheckFrame { path: PathBuf, offset: u64, recording: Box<RecordingDescriptor>, position: i64 },
    /// Everything of a file from an offset on becomes zero.
    Cut { path: PathBuf, offset: u64, length: u64 },
    /// A file is removed.
    Remove { path: PathBuf },
}

#[derive(Debug)]
enum Stage {
    Next,
    Opening(Ticket),
    Reading { file: FileId, ticket: Ticket },
    Shortening { file: FileId, ticket: Ticket },
    Lengthening { file: FileId, ticket: Ticket },
    Closing(Ticket),
    Removing(Ticket),
}

/// How a task stands after a turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing new.
    Waiting,
    /// The check that the rest depends on has been passed.
    Checked,
    /// All steps are done; the texts tell which files could not be removed.
    Done(Vec<String>),
    /// The check failed: nothing was changed.
    Refused(String),
}

/// Steps that are taken one after the other.
#[derive(Debug)]
pub(crate) struct FileTask {
    pub(crate) recording_id: i64,
    pub(crate) control_session_id: i64,
    pub(crate) correlation_id: i64,
    /// Position that the recording gets once the check is passed.
    pub(crate) new_stop_position: Option<i64>,
    pub(crate) file_count: i64,
    steps: VecDeque<Step>,
    stage: Stage,
    failures: Vec<String>,
}

impl FileTask {
    pub(crate) fn new(
        recording_id: i64,
        control_session_id: i64,
        correlation_id: i64,
        steps: Vec<Step>,
    ) -> Self {
        let file_count = steps.iter().filter(|step| matches!(step, Step::Remove { .. })).count() as i64;
        Self {
            recording_id,
            control_session_id,
            correlation_id,
            new_stop_position: None,
            file_count,
            steps: steps.into(),
            stage: Stage::Next,
            failures: Vec::new(),
        }
    }

    /// True when the task begins with a check.
    pub(crate) fn has_check(&self) -> bool {
        matches!(self.steps.front(), Some(Step::CheckFrame { .. }))
    }

    /// One turn.
    pub(crate) fn do_work<S: Storage>(&mut self, io: &mut Io<S>) -> Progress {
        let ticket = match self.stage {
            Stage::Next => return self.begin(io),
            Stage::Opening(ticket)
            | Stage::Reading { ticket, .. }
            | Stage::Shortening { ticket, .. }
            | Stage::Lengthening { ticket, .. }
            | Stage::Closing(ticket)
            | Stage::Removing(ticket) => ticket,
        };
        match io.take(ticket) {
            None => Progress::Waiting,
            Some(Ok(output)) => self.on_done(output, io),
            Some(Err(error)) => {
                if let Some(Step::CheckFrame { .. }) = self.steps.front() {
                    return Progress::Refused(error.to_string());
                }
                self.failures.push(error.to_string());
                self.steps.pop_front();
                self.stage = Stage::Next;
                Progress::Waiting
            }
        }
    }

    fn begin<S: Storage>(&mut self, io: &mut Io<S>) -> Progress {
        self.stage = match self.steps.front() {
            None => return Progress::Done(std::mem::take(&mut self.failures)),
            Some(Step::CheckFrame { path, .. }) => {
                Stage::Opening(io.submit(Operation::Open { path: path.clone(), mode: OpenMode::Read }))
            }
            Some(Step::Cut { path, .. }) => {
                Stage::Opening(io.submit(Operation::Open { path: path.clone(), mode: OpenMode::ReadWrite }))
            }
            Some(Step::Remove { path }) => {
                Stage::Removing(io.submit(Operation::Remove { path: path.clone() }))
            }
        };
        Progress::Waiting
    }

    fn on_done<S: Storage>(&mut self, output: Output, io: &mut Io<S>) -> Progress {
        match (&self.stage, self.steps.front()) {
            (Stage::Opening(_), Some(Step::CheckFrame { offset, .. })) => {
                let Output::Opened(file, _) = output else { return Progress::Waiting };
                let read = Operation::Read { file, offset: *offset, length: HEADER_LENGTH, into: Vec::new() };
                self.stage = Stage::Reading { file, ticket: io.submit(read) };
            }
            (Stage::Reading { file, .. }, Some(Step::CheckFrame { recording, position, .. })) => {
                let is_frame =
                    matches!(&output, Output::Data(bytes) if is_frame_of(bytes, recording, *position));
                io.submit_and_forget(Operation::Close { file: *file });
                if !is_frame {
                    return Progress::Refused(format!("position {position} is not the start of a frame"));
                }
                self.steps.pop_front();
                self.stage = Stage::Next;
                return Progress::Checked;
            }
            (Stage::Opening(_), Some(Step::Cut { offset, .. })) => {
                let Output::Opened(file, _) = output else { return Progress::Waiting };
                let ticket = io.submit(Operation::SetLength { file, length: *offset });
                self.stage = Stage::Shortening { file, ticket };
            }
            (Stage::Shortening { file, .. }, Some(Step::Cut { length, .. })) => {
                let file = *file;
                let ticket = io.submit(Operation::SetLength { file, length: *length });
                self.stage = Stage::Lengthening { file, ticket };
            }
            (Stage::Lengthening { file, .. }, _) => {
                self.stage = Stage::Closing(io.submit(Operation::Close { file: *file }));
            }
            _ => {
                self.steps.pop_front();
                self.stage = Stage::Next;
            }
        }
        Progress::Waiting
    }
}
