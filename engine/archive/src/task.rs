//! Multi-step work on segment files: truncating, deleting, attaching, moving (spec 03 §3.8–3.10).

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;

use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH};
use harrier_ringbuf::storage::{FileId, OpenMode, Operation, Output, Storage, StorageError};

use crate::descriptor::RecordingDescriptor;
use crate::io::{Io, Ticket};
use crate::replay::is_frame_of;
use crate::segment::{self, FileKind};

/// Files of a recording that a step removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All files, including those whose names hold no position.
    All,
    /// Files whose names hold a position in a range.
    Positions(Range<i64>),
}

impl Wanted {
    /// Files at or beyond a position.
    pub(crate) fn from(position: i64) -> Self {
        Self::Positions(position..i64::MAX)
    }

    fn includes(&self, position: Option<i64>) -> bool {
        match self {
            Self::All => true,
            Self::Positions(range) => position.is_some_and(|position| range.contains(&position)),
        }
    }
}

/// One step of a task.
#[derive(Debug)]
pub(crate) enum Step {
    /// Checks that the bytes at an offset are a frame of the recording at a position.
    CheckFrame { path: PathBuf, offset: u64, recording: Box<RecordingDescriptor>, position: i64 },
    /// Checks that a segment to migrate exists.
    Present { path: PathBuf },
    /// Checks that a segment does not exist where another one shall be migrated to.
    Absent { path: PathBuf },
    /// Lists the directory and adds a step for each file to remove. Files that a later step moves are left out.
    Find { directory: PathBuf, recording_id: i64, wanted: Wanted, is_counted: bool },
    /// Attaches the segment at `base` and all contiguous ones before it.
    Attach { directory: PathBuf, recording: Box<RecordingDescriptor>, base: i64 },
    /// Renames a file.
    Move { from: PathBuf, to: PathBuf },
    /// Zeroes a file from an offset on.
    Cut { path: PathBuf, offset: u64, length: u64 },
    /// Removes a file.
    Remove { path: PathBuf },
    /// Removes a seal or an empty segment without counting it.
    Clear { path: PathBuf },
}

impl Step {
    /// True for steps that must succeed before the client is answered; a failure refuses the request.
    fn is_awaited(&self) -> bool {
        !matches!(self, Self::Cut { .. } | Self::Remove { .. } | Self::Clear { .. })
    }

    fn is_counted(&self) -> bool {
        matches!(self, Self::Remove { .. } | Self::Move { .. })
    }
}

/// Change to a recording's start or stop position, applied when the task is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Start { recording_id: i64, position: i64 },
    Stop { recording_id: i64, position: i64 },
}

#[derive(Debug)]
enum Stage {
    Next,
    Opening(Ticket),
    Reading {
        file: FileId,
        ticket: Ticket,
    },
    Shortening {
        file: FileId,
        ticket: Ticket,
    },
    /// The step's last operation, or a directory listing.
    Last(Ticket),
}

/// Result of one turn of a task.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing has changed.
    Waiting,
    /// All steps that the answer depends on have succeeded.
    Checked,
    /// All steps are done, with an error text for each file that could not be removed.
    Done(Vec<String>),
    /// A check has found that the request cannot be carried out.
    Refused(String),
    /// The storage has failed in a step that the answer depends on.
    Failed(String),
}

/// Sequence of steps.
#[derive(Debug)]
pub(crate) struct FileTask {
    pub(crate) recording_id: i64,
    pub(crate) other_recording_id: Option<i64>,
    pub(crate) control_session_id: i64,
    pub(crate) correlation_id: i64,
    /// Changes applied once the task is accepted.
    pub(crate) changes: Vec<Change>,
    pub(crate) file_count: i64,
    /// Position at which the recording is cut: the task begins when no replay reads beyond it.
    pub(crate) cut_position: Option<i64>,
    /// True when the client gets a signal at the end.
    pub(crate) has_signal: bool,
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
        let file_count = steps.iter().filter(|step| step.is_counted()).count() as i64;
        Self {
            recording_id,
            other_recording_id: None,
            control_session_id,
            correlation_id,
            changes: Vec::new(),
            file_count,
            cut_position: None,
            has_signal: true,
            steps: steps.into(),
            stage: Stage::Next,
            failures: Vec::new(),
        }
    }

    /// True while the task changes files of the recording.
    pub(crate) fn concerns(&self, recording_id: i64) -> bool {
        self.recording_id == recording_id || self.other_recording_id == Some(recording_id)
    }

    /// True when the first step must succeed before the client is answered.
    pub(crate) fn has_check(&self) -> bool {
        self.steps.front().is_some_and(Step::is_awaited)
    }

    /// Advances the task.
    pub(crate) fn do_work<S: Storage>(&mut self, io: &mut Io<S>) -> Progress {
        let ticket = match self.stage {
            Stage::Next => return self.begin(io),
            Stage::Opening(ticket)
            | Stage::Reading { ticket, .. }
            | Stage::Shortening { ticket, .. }
            | Stage::Last(ticket) => ticket,
        };
        match io.take(ticket) {
            None => Progress::Waiting,
            Some(Ok(output)) => self.on_done(output, io),
            Some(Err(error)) => self.on_failed(&error),
        }
    }

    fn begin<S: Storage>(&mut self, io: &mut Io<S>) -> Progress {
        let open = |path: PathBuf, mode: OpenMode| Operation::Open { path, mode };
        self.stage = match self.steps.front() {
            None => return Progress::Done(std::mem::take(&mut self.failures)),
            Some(Step::CheckFrame { path, .. } | Step::Present { path } | Step::Absent { path }) => {
                Stage::Opening(io.submit(open(path.clone(), OpenMode::Read)))
            }
            Some(Step::Attach { directory, recording, base }) => {
                if *base < 0 {
                    return self.step_taken();
                }
                let path = segment::path(directory, recording.recording_id, *base);
                Stage::Opening(io.submit(open(path, OpenMode::Read)))
            }
            Some(Step::Cut { path, .. }) => {
                Stage::Opening(io.submit(open(path.clone(), OpenMode::ReadWrite)))
            }
            Some(Step::Find { directory, .. }) => {
                Stage::Last(io.submit(Operation::List { path: directory.clone() }))
            }
            Some(Step::Move { from, to }) => {
                Stage::Last(io.submit(Operation::Rename { from: from.clone(), to: to.clone() }))
            }
            Some(Step::Remove { path } | Step::Clear { path }) => {
                Stage::Last(io.submit(Operation::Remove { path: path.clone() }))
            }
        };
        Progress::Waiting
    }

    /// Advances to the next step.
    fn step_taken(&mut self) -> Progress {
        let was_awaited = self.steps.pop_front().is_some_and(|step| step.is_awaited());
        self.stage = Stage::Next;
        if was_awaited && !self.has_check() { Progress::Checked } else { Progress::Waiting }
    }

    fn on_failed(&mut self, error: &StorageError) -> Progress {
        match self.steps.front() {
            Some(Step::Absent { .. } | Step::Attach { .. }) if error.is_not_found() => self.step_taken(),
            Some(Step::Present { path }) if error.is_not_found() => {
                Progress::Refused(format!("missing src segment file {}", path.display()))
            }
            Some(Step::CheckFrame { .. }) if error.is_not_found() => Progress::Refused(error.to_string()),
            Some(step) if step.is_awaited() => Progress::Failed(error.to_string()),
            _ => {
                self.failures.push(error.to_string());
                self.step_taken()
            }
        }
    }

    fn on_done<S: Storage>(&mut self, output: Output, io: &mut Io<S>) -> Progress {
        match (&self.stage, output) {
            (Stage::Opening(_), Output::Opened(file, length)) => self.on_opened(file, length, io),
            (Stage::Reading { file, .. }, Output::Data(bytes)) => {
                let file = *file;
                self.on_read(file, &bytes, io)
            }
            (Stage::Shortening { file, .. }, _) => {
                let file = *file;
                if let Some(Step::Cut { length, .. }) = self.steps.front() {
                    let length = *length;
                    self.stage = Stage::Last(io.submit(Operation::SetLength { file, length }));
                    io.submit_and_forget(Operation::Close { file });
                }
                Progress::Waiting
            }
            (Stage::Last(_), Output::Names(names)) => self.on_names(&names),
            _ => self.step_taken(),
        }
    }

    fn on_opened<S: Storage>(&mut self, file: FileId, length: u64, io: &mut Io<S>) -> Progress {
        let (offset, size) = match self.steps.front() {
            Some(Step::CheckFrame { offset, .. }) => (*offset, HEADER_LENGTH),
            Some(Step::Attach { recording, base, .. }) => {
                if length != recording.segment_file_length as u64 {
                    let name = segment::file_name(recording.recording_id, *base);
                    io.submit_and_forget(Operation::Close { file });
                    return Progress::Refused(format!("{name} has {length} bytes"));
                }
                (0, HEADER_LENGTH)
            }
            Some(Step::Cut { offset, .. }) => {
                let ticket = io.submit(Operation::SetLength { file, length: *offset });
                self.stage = Stage::Shortening { file, ticket };
                return Progress::Waiting;
            }
            Some(Step::Absent { path }) => {
                let refused = Progress::Refused(format!("preexisting dst segment file {}", path.display()));
                io.submit_and_forget(Operation::Close { file });
                return refused;
            }
            _ => {
                io.submit_and_forget(Operation::Close { file });
                return self.step_taken();
            }
        };
        let read = Operation::Read { file, offset, length: size, into: Vec::new() };
        self.stage = Stage::Reading { file, ticket: io.submit(read) };
        Progress::Waiting
    }

    fn on_read<S: Storage>(&mut self, file: FileId, bytes: &[u8], io: &mut Io<S>) -> Progress {
        match self.steps.front() {
            Some(Step::CheckFrame { recording, position, .. }) => {
                let is_frame = is_frame_of(bytes, recording, *position);
                let refused = format!("{position} position not aligned to a data header");
                io.submit_and_forget(Operation::Close { file });
                if is_frame { self.step_taken() } else { Progress::Refused(refused) }
            }
            Some(Step::Attach { recording, .. }) => {
                let term_length = recording.term_buffer_length as usize;
                let is_hole = bytes.first_chunk() == Some(&[0; 4]);
                if bytes.len() == HEADER_LENGTH && is_hole {
                    // The recording begins inside this segment's first term.
                    let read = Operation::Read { file, offset: 0, length: term_length, into: Vec::new() };
                    self.stage = Stage::Reading { file, ticket: io.submit(read) };
                    return Progress::Waiting;
                }
                io.submit_and_forget(Operation::Close { file });
                self.on_first_frame(bytes)
            }
            _ => Progress::Waiting,
        }
    }

    /// Checks the first frame of a segment to be attached.
    fn on_first_frame(&mut self, bytes: &[u8]) -> Progress {
        let Some(Step::Attach { recording, base, .. }) = self.steps.front_mut() else {
            return Progress::Waiting;
        };
        let is_used = |offset: &usize| bytes[*offset..].first_chunk() != Some(&[0; 4]);
        let offset = (0..bytes.len()).step_by(FRAME_ALIGNMENT).find(is_used);
        let position = *base + offset.unwrap_or(0) as i64;
        let is_frame = offset.is_some_and(|offset| is_frame_of(&bytes[offset..], recording, position));
        if !is_frame {
            let name = segment::file_name(recording.recording_id, *base);
            return Progress::Refused(format!("{name} does not begin with a frame of the recording"));
        }
        let recording_id = recording.recording_id;
        let is_lowest = position != *base || *base == 0;
        *base -= i64::from(recording.segment_file_length);
        self.changes = vec![Change::Start { recording_id, position }];
        self.file_count += 1;
        if is_lowest {
            return self.step_taken();
        }
        self.stage = Stage::Next;
        Progress::Waiting
    }

    fn on_names(&mut self, names: &[String]) -> Progress {
        let Some(Step::Find { directory, recording_id, wanted, is_counted }) = self.steps.front() else {
            return self.step_taken();
        };
        let mut removals = Vec::new();
        for name in names {
            let Some((kind, position)) = segment::classify(name, *recording_id) else { continue };
            let path = directory.join(name);
            let is_moved = |step: &Step| matches!(step, Step::Move { from, .. } if *from == path);
            if !wanted.includes(position) || self.steps.iter().any(is_moved) {
                continue;
            }
            removals.push(match kind {
                FileKind::Segment if *is_counted => Step::Remove { path },
                _ => Step::Clear { path },
            });
        }
        self.file_count += removals.iter().filter(|step| step.is_counted()).count() as i64;
        self.steps.extend(removals);
        self.step_taken()
    }
}
