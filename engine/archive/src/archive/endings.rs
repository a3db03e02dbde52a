//! The end of recordings: stop requests, stop positions and stop signals (spec 03 §3.1).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::{Operation, Storage};

use super::recordings::RecordingSubscription;
use super::{Archive, CatalogTicket, RECORDING_SESSIONS};
use crate::codec::{RecordingEvent, Signal};
use crate::recorder::{RecordingFailure, RecordingSession, RecordingSetup};

/// A recording whose stop position is being written.
pub(super) struct EndingRecording {
    ticket: CatalogTicket,
    recording_id: i64,
    control_session_id: i64,
    correlation_id: i64,
    subscription_id: i64,
    position: i64,
    failure: Option<RecordingFailure>,
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Writes the stop position of a recording whose session has ended.
    pub(super) fn end_recording(&mut self, recording: RecordingSession) {
        self.add_to(RECORDING_SESSIONS, -1);
        let position = recording.position();
        self.publish_event(&RecordingEvent::Stopped {
            recording_id: recording.setup.recording_id,
            start_position: recording.join_position(),
            stop_position: position,
        });
        let RecordingSession { setup, failure, .. } = recording;
        self.write_stop(&setup, position, failure);
    }

    pub(super) fn write_stop(
        &mut self,
        setup: &RecordingSetup,
        position: i64,
        failure: Option<RecordingFailure>,
    ) {
        let now_ms = self.now.epoch_ms;
        assert!(position >= setup.recording.start_position, "a recording ends behind its start");
        let write = self.catalog.update(setup.recording_id, |recording| {
            recording.stop_position = position;
            recording.stop_timestamp = now_ms;
        });
        let ticket = self.write_catalog(write.into_iter().collect());
        self.ending.push(EndingRecording {
            ticket,
            recording_id: setup.recording_id,
            control_session_id: setup.control_session_id,
            correlation_id: setup.correlation_id,
            subscription_id: setup.subscription_id,
            position,
            failure,
        });
        let subscription_id = setup.subscription_id;
        if let Some(subscription) =
            self.subscriptions.iter_mut().find(|subscription| subscription.registration_id == subscription_id)
        {
            subscription.active = subscription.active.saturating_sub(1);
            if subscription.auto_stop {
                subscription.is_requested = false;
                self.abort_recordings_of(subscription_id);
            }
        }
    }

    /// Sends the stop signals of recordings whose stop position is written.
    pub(super) fn serve_ending(&mut self) -> usize {
        let mut work_count = 0;
        for mut ending in std::mem::take(&mut self.ending) {
            if !self.is_written(&mut ending.ticket) {
                self.ending.push(ending);
                continue;
            }
            work_count += 1;
            if let Some(failure) = &ending.failure {
                self.fail(ending.control_session_id, ending.correlation_id, failure.code, &failure.message);
            }
            if let Some(session) = self.session(ending.control_session_id) {
                session.send_signal(
                    ending.correlation_id,
                    ending.recording_id,
                    ending.subscription_id,
                    ending.position,
                    Signal::Stop,
                );
            }
        }
        work_count
    }

    /// Stops all recordings of a subscription.
    pub(super) fn abort_recordings_of(&mut self, subscription_id: i64) {
        for recording in &mut self.recordings {
            if recording.setup.subscription_id == subscription_id {
                recording.abort();
            }
        }
    }

    /// Cancels the recording request of a subscription. Returns false when none matches.
    pub(super) fn stop_subscription(&mut self, matches: impl Fn(&RecordingSubscription) -> bool) -> bool {
        let found = self.subscriptions.iter_mut().find(|entry| entry.is_requested && matches(entry));
        let Some(subscription) = found else { return false };
        subscription.is_requested = false;
        let id = subscription.registration_id;
        self.abort_recordings_of(id);
        true
    }

    /// Stops one recording. Returns false when it is not active.
    pub(super) fn stop_recording_by_id(&mut self, recording_id: i64) -> bool {
        let Some(recording) =
            self.recordings.iter_mut().find(|entry| entry.setup.recording_id == recording_id)
        else {
            return false;
        };
        recording.abort();
        let id = recording.setup.subscription_id;
        match self.subscriptions.iter_mut().find(|entry| entry.registration_id == id && entry.is_requested) {
            Some(subscription) => {
                subscription.is_requested = false;
                true
            }
            None => false,
        }
    }

    /// Writes the current positions of all recordings as their stop positions. Blocks, so only the closing archive
    /// calls it.
    pub(super) fn end_all_recordings(&mut self) {
        let now_ms = self.now.epoch_ms;
        for mut recording in std::mem::take(&mut self.recordings) {
            let position = recording.position();
            if let Err(error) = recording.seal_blocking(&mut self.io) {
                self.record_error(&error.to_string());
            }
            let write = self.catalog.update(recording.setup.recording_id, |entry| {
                entry.stop_position = position;
                entry.stop_timestamp = now_ms;
            });
            if let Some(write) = write {
                let bytes = harrier_ringbuf::storage::WriteBuffer::Owned(write.bytes);
                let file = self.catalog_file;
                let done = self.io.blocking(Operation::Write { file, offset: write.offset, bytes });
                if let Err(error) = done {
                    self.record_error(&error.to_string());
                }
            }
        }
    }
}
