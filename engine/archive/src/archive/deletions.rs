//! Requests that truncate or purge recordings, and the tasks that change files (spec 03 §3.8).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::Archive;
use super::replays::{Refusal, refusal};
use crate::codec::{ArchiveErrorCode, Signal};
use crate::descriptor::RecordingDescriptor;
use crate::replay::ReplaySession;
use crate::segment;
use crate::task::{Change, FileTask, Progress, Step, Wanted};

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Refuses, with `text`, a recording that is recorded, and one whose files another request changes. Programs compare
    /// the texts.
    fn check_stopped(&self, recording_id: i64, text: &str) -> Result<RecordingDescriptor, Refusal> {
        let recording = self.recording(recording_id)?;
        if self.is_active(recording_id) || recording.is_active() {
            return refusal(ArchiveErrorCode::ActiveRecording, text);
        }
        self.check_no_task(recording_id)?;
        Ok(recording)
    }

    /// Truncates a recording. Replays that read beyond the position are stopped first.
    pub(super) fn truncate(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        recording_id: i64,
        position: i64,
    ) -> Result<(), Refusal> {
        let recording = self.check_stopped(recording_id, "cannot truncate active recording")?;
        let (start, stop) = (recording.start_position, recording.stop_position);
        if position < start || position > stop || position % 32 != 0 {
            return refusal(
                ArchiveErrorCode::InvalidPosition,
                format!("invalid position {position}: start={start} stop={stop} alignment=32"),
            );
        }
        let directory = self.context.archive_directory.clone();
        let length = recording.segment_file_length as u64;
        let base = recording.segment_base(position);
        let (mut steps, mut cut) = (Vec::new(), None);
        let wanted = if position == start {
            Wanted::All
        } else if position == base {
            Wanted::from(base)
        } else {
            let path = segment::path(&directory, recording_id, base);
            let offset = (position - base) as u64;
            if position != stop {
                let recording = Box::new(recording);
                steps.push(Step::CheckFrame { path: path.clone(), offset, recording, position });
                cut = Some(Step::Cut { path, offset, length });
            }
            Wanted::from(position)
        };
        steps.push(Step::Find { directory, recording_id, wanted, is_counted: true });
        steps.extend(cut);
        let mut task = FileTask::new(recording_id, session_id, correlation_id, steps);
        task.changes.push(Change::Stop { recording_id, position });
        task.cut_position = Some(position);
        self.begin_task(task);
        Ok(())
    }

    /// Purges a recording: its entry is deleted at once, its files are removed by a task.
    pub(super) fn purge(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        recording_id: i64,
    ) -> Result<(), Refusal> {
        let recording = self.recording(recording_id)?;
        let reads = |replay: &ReplaySession| replay.setup.recording.recording_id == recording_id;
        if !recording.is_active() && self.replays.iter().any(reads) {
            return refusal(
                ArchiveErrorCode::ActiveRecording,
                format!("cannot purge recording with active replay {recording_id}"),
            );
        }
        self.check_stopped(recording_id, &format!("cannot purge active recording {recording_id}"))?;
        let write = self.catalog.delete(recording_id);
        let ticket = self.write_catalog(write.into_iter().collect());
        self.background.push(ticket);
        let directory = self.context.archive_directory.clone();
        let steps = vec![Step::Find { directory, recording_id, wanted: Wanted::All, is_counted: true }];
        self.begin_task(FileTask::new(recording_id, session_id, correlation_id, steps));
        Ok(())
    }

    /// Starts a task. A task without checks is accepted immediately.
    pub(super) fn begin_task(&mut self, mut task: FileTask) {
        if !task.has_check() {
            self.on_task_checked(&mut task);
        }
        self.tasks.push(task);
    }

    /// Applies the task's catalog changes and answers the client once all checks have passed.
    fn on_task_checked(&mut self, task: &mut FileTask) {
        for change in std::mem::take(&mut task.changes) {
            self.apply(change);
        }
        let (correlation_id, count) = (task.correlation_id, task.file_count);
        if let Some(session) = self.session(task.control_session_id) {
            session.send_ok(correlation_id, count);
        }
    }

    /// Changes the start or stop position of a recording in the catalog.
    pub(super) fn apply(&mut self, change: Change) {
        let write = match change {
            Change::Start { recording_id, position } => {
                self.catalog.update(recording_id, |entry| entry.start_position = position)
            }
            Change::Stop { recording_id, position } => {
                self.catalog.update(recording_id, |entry| entry.stop_position = position)
            }
        };
        let ticket = self.write_catalog(write.into_iter().collect());
        self.background.push(ticket);
    }

    /// Stops the replays that read beyond the position at which a task cuts its recording. Returns true while there are
    /// any.
    fn stop_cut_replays(&mut self, task: &FileTask) -> bool {
        let Some(position) = task.cut_position else { return false };
        let mut is_read = false;
        for replay in &mut self.replays {
            if replay.setup.recording.recording_id == task.recording_id && replay.reads_beyond(position) {
                replay.abort();
                is_read = true;
            }
        }
        is_read
    }

    pub(super) fn serve_tasks(&mut self) -> usize {
        let mut work_count = 0;
        for mut ticket in std::mem::take(&mut self.background) {
            if !self.is_written(&mut ticket) {
                self.background.push(ticket);
            }
        }
        for mut task in std::mem::take(&mut self.tasks) {
            if self.stop_cut_replays(&task) {
                self.tasks.push(task);
                continue;
            }
            match task.do_work(&mut self.io) {
                Progress::Waiting => self.tasks.push(task),
                Progress::Checked => {
                    self.on_task_checked(&mut task);
                    // Later replays know the new stop position.
                    task.cut_position = None;
                    self.tasks.push(task);
                    work_count += 1;
                }
                Progress::Refused(message) => {
                    let code = ArchiveErrorCode::Generic;
                    self.refuse(task.control_session_id, task.correlation_id, code, &message);
                    work_count += 1;
                }
                Progress::Failed(message) => {
                    let code = ArchiveErrorCode::Generic;
                    self.fail(task.control_session_id, task.correlation_id, code, &message);
                    work_count += 1;
                }
                Progress::Done(failures) => {
                    for failure in failures {
                        let code = ArchiveErrorCode::Generic;
                        self.fail(task.control_session_id, task.correlation_id, code, &failure);
                    }
                    if task.has_signal
                        && let Some(session) = self.session(task.control_session_id)
                    {
                        session.send_signal(task.correlation_id, task.recording_id, -1, -1, Signal::Delete);
                    }
                    work_count += 1;
                }
            }
        }
        work_count
    }
}
