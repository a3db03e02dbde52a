//! Requests that detach, attach or migrate segments and that change channels (spec 03 §3.9, §3.10).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::Archive;
use super::replays::{Refusal, refusal};
use crate::channel;
use crate::codec::{ArchiveErrorCode, ControlCode};
use crate::descriptor::RecordingDescriptor;
use crate::replay::ReplaySession;
use crate::segment;
use crate::task::{Change, FileTask, Step, Wanted};

impl<M: Memory, S: Storage> Archive<M, S> {
    pub(super) fn recording(&self, recording_id: i64) -> Result<RecordingDescriptor, Refusal> {
        match self.catalog.get(recording_id) {
            Some(recording) => Ok(recording.clone()),
            None => {
                refusal(ArchiveErrorCode::UnknownRecording, format!("unknown recording id: {recording_id}"))
            }
        }
    }

    /// Refuses a change of files while another request changes files of the recording.
    pub(super) fn check_no_task(&self, recording_id: i64) -> Result<(), Refusal> {
        if self.tasks.iter().any(|task| task.concerns(recording_id)) {
            return refusal(
                ArchiveErrorCode::Generic,
                format!("another delete operation in progress for recording {recording_id}"),
            );
        }
        Ok(())
    }

    /// Checks that the recording may begin at a later segment (spec 03 §3.9).
    fn check_detach(&self, recording: &RecordingDescriptor, new_start: i64) -> Result<(), Refusal> {
        let id = recording.recording_id;
        let invalid = |reason: String| refusal(ArchiveErrorCode::Generic, reason);
        if new_start < 0 || new_start != recording.segment_base(new_start) {
            return invalid(format!("invalid segment start: newStartPosition={new_start}"));
        }
        let lowest =
            recording.segment_base(recording.start_position) + i64::from(recording.segment_file_length);
        if new_start < lowest {
            return invalid(format!("invalid detach: newStartPosition={new_start} lowerBound={lowest}"));
        }
        let end = self.active_position(id).unwrap_or(recording.stop_position);
        let highest = recording.segment_base(end);
        if new_start > highest {
            return invalid(format!(
                "invalid detach: in use, newStartPosition={new_start} upperBound={highest}"
            ));
        }
        let reads_below = |replay: &&ReplaySession| {
            replay.setup.recording.recording_id == id && replay.segment_position() < new_start
        };
        match self.replays.iter().find(reads_below) {
            None => Ok(()),
            Some(replay) => invalid(format!(
                "invalid detach: replay in progress - newStartPosition={new_start} upperBound={} streamId={}",
                replay.segment_position(),
                replay.setup.stream_id
            )),
        }
    }

    pub(super) fn detach_segments(&mut self, recording_id: i64, new_start: i64) -> Result<(), Refusal> {
        let recording = self.recording(recording_id)?;
        self.check_detach(&recording, new_start)?;
        self.apply(Change::Start { recording_id, position: new_start });
        Ok(())
    }

    pub(super) fn purge_segments(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        recording_id: i64,
        new_start: i64,
    ) -> Result<(), Refusal> {
        let recording = self.recording(recording_id)?;
        self.check_detach(&recording, new_start)?;
        self.check_no_task(recording_id)?;
        let directory = self.context.archive_directory.clone();
        let wanted = Wanted::Positions(recording.segment_base(recording.start_position)..new_start);
        let steps = vec![Step::Find { directory, recording_id, wanted, is_counted: true }];
        let mut task = FileTask::new(recording_id, session_id, correlation_id, steps);
        task.changes.push(Change::Start { recording_id, position: new_start });
        self.begin_task(task);
        Ok(())
    }

    pub(super) fn delete_detached_segments(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        recording_id: i64,
    ) -> Result<(), Refusal> {
        let recording = self.recording(recording_id)?;
        self.check_no_task(recording_id)?;
        let directory = self.context.archive_directory.clone();
        let wanted = Wanted::Positions(0..recording.segment_base(recording.start_position));
        let steps = vec![Step::Find { directory, recording_id, wanted, is_counted: true }];
        self.begin_task(FileTask::new(recording_id, session_id, correlation_id, steps));
        Ok(())
    }

    pub(super) fn attach_segments(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        recording_id: i64,
    ) -> Result<(), Refusal> {
        let recording = Box::new(self.recording(recording_id)?);
        self.check_no_task(recording_id)?;
        let directory = self.context.archive_directory.clone();
        let base =
            recording.segment_base(recording.start_position) - i64::from(recording.segment_file_length);
        let steps = vec![Step::Attach { directory, recording, base }];
        let mut task = FileTask::new(recording_id, session_id, correlation_id, steps);
        task.has_signal = false;
        self.begin_task(task);
        Ok(())
    }

    pub(super) fn migrate_segments(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        source_id: i64,
        target_id: i64,
    ) -> Result<(), Refusal> {
        let (source, target) = (self.recording(source_id)?, self.recording(target_id)?);
        let join = self.check_migration(&source, &target)?;
        self.check_no_task(source_id)?;
        self.check_no_task(target_id)?;
        let directory = self.context.archive_directory.clone();
        let is_prepended = join == target.start_position;
        let first = source.segment_base(source.start_position);
        // What is not moved is removed last: the empty segment behind a stop on a boundary, and the seals. A seal names
        // its recording, so migrated frames count as unstamped.
        let wanted = Wanted::from(first);
        let find =
            Step::Find { directory: directory.clone(), recording_id: source_id, wanted, is_counted: false };
        let (mut steps, mut moves) = (vec![find], Vec::new());
        let mut base = first;
        while base < source.stop_position {
            let from = segment::path(&directory, source_id, base);
            let to = segment::path(&directory, target_id, base);
            steps.push(Step::Present { path: from.clone() });
            steps.push(Step::Absent { path: to.clone() });
            moves.push(Step::Move { from, to });
            base += i64::from(source.segment_file_length);
        }
        steps.extend(moves);
        let mut task = FileTask::new(source_id, session_id, correlation_id, steps);
        task.other_recording_id = Some(target_id);
        task.changes.push(match is_prepended {
            true => Change::Start { recording_id: target_id, position: source.start_position },
            false => Change::Stop { recording_id: target_id, position: source.stop_position },
        });
        task.changes.push(Change::Stop { recording_id: source_id, position: source.start_position });
        self.begin_task(task);
        Ok(())
    }

    /// Finds the position where the two recordings join (spec 03 §3.10). Programs compare the texts of refusals.
    fn check_migration(
        &self,
        source: &RecordingDescriptor,
        target: &RecordingDescriptor,
    ) -> Result<i64, Refusal> {
        let (from, to) = (source.recording_id, target.recording_id);
        let invalid =
            |reason: String| refusal(ArchiveErrorCode::Generic, format!("invalid migrate: {reason}"));
        if self.is_active(from) || source.is_active() {
            return refusal(ArchiveErrorCode::Generic, format!("recording {from} is still active"));
        }
        for (what, of_source, of_target) in [
            ("StreamId", source.stream_id, target.stream_id),
            ("InitialTermId", source.initial_term_id, target.initial_term_id),
            ("MtuLength", source.mtu_length, target.mtu_length),
            ("TermBufferLength", source.term_buffer_length, target.term_buffer_length),
            ("SegmentFileLength", source.segment_file_length, target.segment_file_length),
        ] {
            if of_source != of_target {
                return invalid(format!("src{what}={of_source} dst{what}={of_target}"));
            }
        }
        let join = if from != to && source.stop_position == target.start_position {
            source.stop_position
        } else if from != to && source.start_position == target.stop_position {
            source.start_position
        } else {
            return invalid(format!(
                "src and dst are not contiguous srcStartPosition={} srcStopPosition={} dstStartPosition={} \
                 dstStopPosition={}",
                source.start_position, source.stop_position, target.start_position, target.stop_position
            ));
        };
        for (whose, recording) in [("src", source), ("dst", target)] {
            if join != recording.segment_base(join) {
                return invalid(format!(
                    "join position is not on segment boundary of {whose} recording seamPosition={join} \
                     startPosition={} stopPosition={} termBufferLength={} segmentFileLength={}",
                    recording.start_position,
                    recording.stop_position,
                    recording.term_buffer_length,
                    recording.segment_file_length
                ));
            }
        }
        Ok(join)
    }

    pub(super) fn update_channel(
        &mut self,
        id: i64,
        correlation_id: i64,
        recording_id: i64,
        channel: &str,
    ) -> Result<Option<i64>, Refusal> {
        let Some(session) = self.session(id) else { return Ok(None) };
        if session.listing.is_some() {
            return refusal(ArchiveErrorCode::ActiveListing, "active listing already in progress");
        }
        if self.catalog.get(recording_id).is_none() {
            if let Some(session) = self.session(id) {
                session.send_unknown(correlation_id, recording_id, ControlCode::RecordingUnknown);
            }
            return Ok(None);
        }
        let uri = channel::parse(channel).map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))?;
        let stripped = channel::strip(&uri).to_string();
        let writes = self
            .catalog
            .replace(recording_id, |recording| {
                recording.original_channel = channel.to_owned();
                recording.stripped_channel = stripped;
            })
            .map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))?;
        let ticket = self.write_catalog(writes);
        self.background.push(ticket);
        Ok(Some(0))
    }
}
