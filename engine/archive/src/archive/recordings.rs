//! Recordings from request to stop signal (spec 03 §3.1, §3.6).

use harrier_client::{Image, Subscription};
use harrier_protocol::counter_types::type_id;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::{Operation, Output, Storage};

use super::{Archive, CatalogTicket, RECORDING_SESSIONS};
use crate::channel;
use crate::codec::{ArchiveErrorCode, RecordingEvent, Signal, SourceLocation};
use crate::counters;
use crate::descriptor::RecordingDescriptor;
use crate::io::Ticket;
use crate::recorder::{RecordingFailure, RecordingSession, RecordingSetup};

/// A subscription that records each of its images.
pub(super) struct RecordingSubscription {
    pub(super) registration_id: i64,
    pub(super) subscription: Option<Subscription>,
    pub(super) key: String,
    pub(super) stream_id: i32,
    pub(super) subscribed_channel: String,
    control_session_id: i64,
    correlation_id: i64,
    original_channel: String,
    stripped_channel: String,
    pub(super) auto_stop: bool,
    extends: Option<i64>,
    /// Replication that requested this recording; `None` for a client's.
    pub(super) replication_id: Option<i64>,
    pub(super) is_requested: bool,
    /// Number of active recordings.
    pub(super) active: usize,
}

/// A start or extend request that waits for the free space of the file system.
pub(super) struct SpaceCheck {
    pub(super) ticket: Ticket,
    pub(super) start: StartRequest,
}

/// A start or extend request.
pub(super) struct StartRequest {
    pub(super) control_session_id: i64,
    pub(super) correlation_id: i64,
    pub(super) stream_id: i32,
    pub(super) location: SourceLocation,
    pub(super) auto_stop: bool,
    pub(super) channel: String,
    pub(super) extends: Option<i64>,
    /// Replication that sent the request; `None` for a client's.
    pub(super) replication_id: Option<i64>,
}

/// A recording whose catalog entry and counter are being created.
pub(super) struct StartingRecording {
    setup: RecordingSetup,
    image: Image,
    ticket: CatalogTicket,
    counter_id: Option<i64>,
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// True while the recording is active.
    pub(super) fn is_active(&self, recording_id: i64) -> bool {
        self.recordings.iter().any(|entry| entry.setup.recording_id == recording_id)
            || self.is_starting(recording_id)
    }

    /// True while the recording is active but has no position counter yet.
    pub(super) fn is_starting(&self, recording_id: i64) -> bool {
        self.starting.iter().any(|entry| entry.setup.recording_id == recording_id)
    }

    /// Returns the recorded position of an active recording.
    pub(super) fn active_position(&self, recording_id: i64) -> Option<i64> {
        self.recordings
            .iter()
            .find(|entry| entry.setup.recording_id == recording_id)
            .map(RecordingSession::position)
    }

    /// Returns the position counter of an active recording.
    pub(super) fn active_counter(&self, recording_id: i64) -> Option<i32> {
        self.recordings
            .iter()
            .find(|entry| entry.setup.recording_id == recording_id)
            .map(RecordingSession::counter_id)
    }

    pub(super) fn check_space(&mut self, start: StartRequest) {
        let path = self.context.archive_directory.clone();
        let ticket = self.io.submit(Operation::Space { path });
        self.space_checks.push(SpaceCheck { ticket, start });
    }

    fn on_space(&mut self, start: StartRequest, usable: u64) {
        let (session_id, correlation_id) = (start.control_session_id, start.correlation_id);
        if usable <= self.context.low_storage_space_threshold {
            let message = format!(
                "insufficient usable storage: threshold={} usable={usable} in {}",
                self.context.low_storage_space_threshold,
                self.context.archive_directory.display()
            );
            return self.refuse(session_id, correlation_id, ArchiveErrorCode::StorageSpace, &message);
        }
        let uri = match channel::parse(&start.channel) {
            Ok(uri) => uri,
            Err(error) => {
                return self.refuse(
                    session_id,
                    correlation_id,
                    ArchiveErrorCode::Generic,
                    &error.to_string(),
                );
            }
        };
        let key = channel::subscription_key(&uri, start.stream_id);
        if self.subscriptions.iter().any(|entry| entry.key == key && entry.is_requested) {
            let message =
                format!("recording exists for streamId={} channel={}", start.stream_id, start.channel);
            return self.refuse(session_id, correlation_id, ArchiveErrorCode::ActiveSubscription, &message);
        }
        let stripped = channel::strip(&uri);
        let subscribed_channel = channel::subscribed(&stripped, start.location);
        let registration_id = match self.aeron().add_subscription(&subscribed_channel, start.stream_id) {
            Ok(id) => id,
            Err(error) => {
                return self.refuse(
                    session_id,
                    correlation_id,
                    ArchiveErrorCode::Generic,
                    &error.to_string(),
                );
            }
        };
        self.subscriptions.push(RecordingSubscription {
            registration_id,
            subscription: None,
            key,
            stream_id: start.stream_id,
            subscribed_channel,
            control_session_id: session_id,
            correlation_id,
            original_channel: start.channel,
            stripped_channel: stripped.to_string(),
            auto_stop: start.auto_stop,
            extends: start.extends,
            replication_id: start.replication_id,
            is_requested: true,
            active: 0,
        });
    }

    /// Answers a request after a fault of the archive, which its error log and counter report.
    pub(super) fn fail(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        code: ArchiveErrorCode,
        message: &str,
    ) {
        self.record_error(message);
        self.refuse(session_id, correlation_id, code, message);
    }

    /// Refuses a request. Only the client is told: a refusal is no fault of the archive.
    pub(super) fn refuse(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        code: ArchiveErrorCode,
        message: &str,
    ) {
        if let Some(session) = self.session(session_id) {
            session.send_error(correlation_id, code, message);
        }
    }

    pub(super) fn serve_recordings(&mut self) -> usize {
        let mut work_count = self.take_space_checks();
        work_count += self.serve_subscriptions();
        work_count += self.serve_starting();
        for recording in &mut self.recordings {
            work_count += recording.do_work(&mut self.io);
        }
        // Saves a duty cycle when the storage completes operations synchronously.
        if self.io.poll() > 0 {
            for recording in &mut self.recordings {
                work_count += recording.do_work(&mut self.io);
            }
        }
        self.publish_progress();
        while let Some(index) = self.recordings.iter().position(RecordingSession::has_ended) {
            let recording = self.recordings.swap_remove(index);
            self.end_recording(recording);
            work_count += 1;
        }
        work_count + self.serve_ending()
    }

    fn take_space_checks(&mut self) -> usize {
        let mut work_count = 0;
        for check in std::mem::take(&mut self.space_checks) {
            match self.io.take(check.ticket) {
                None => self.space_checks.push(check),
                Some(Ok(Output::Space { usable, .. })) => {
                    self.on_space(check.start, usable);
                    work_count += 1;
                }
                Some(other) => {
                    let message = other.err().map_or_else(String::new, |error| error.to_string());
                    let start = check.start;
                    let code = ArchiveErrorCode::Generic;
                    self.fail(start.control_session_id, start.correlation_id, code, &message);
                    work_count += 1;
                }
            }
        }
        work_count
    }

    fn serve_subscriptions(&mut self) -> usize {
        let mut work_count = 0;
        let mut index = 0;
        while index < self.subscriptions.len() {
            let Some(aeron) = &mut self.aeron else { return work_count };
            let entry = &mut self.subscriptions[index];
            if entry.subscription.is_none() {
                let (session_id, correlation_id) = (entry.control_session_id, entry.correlation_id);
                match aeron.subscription(entry.registration_id) {
                    Ok(None) => {}
                    Ok(Some(subscription)) => {
                        entry.subscription = Some(subscription);
                        let registration_id = entry.registration_id;
                        if let Some(session) = self.session(session_id) {
                            session.send_ok(correlation_id, registration_id);
                        }
                        work_count += 1;
                    }
                    Err(error) => {
                        self.subscriptions.remove(index);
                        let message = error.to_string();
                        self.refuse(session_id, correlation_id, ArchiveErrorCode::Generic, &message);
                        continue;
                    }
                }
            }
            work_count += self.take_images(index);
            index += 1;
        }
        self.subscriptions.retain(|entry| entry.is_requested || entry.active > 0);
        work_count
    }

    fn take_images(&mut self, index: usize) -> usize {
        let entry = &mut self.subscriptions[index];
        let Some(subscription) = &mut entry.subscription else { return 0 };
        if !entry.is_requested {
            return 0;
        }
        let Some(id) = subscription.images().first().map(Image::correlation_id) else { return 0 };
        let Some(image) = subscription.take_image(id) else { return 0 };
        if let Err((code, message)) = self.check_count() {
            // The image is closed: nobody records it.
            let entry = &self.subscriptions[index];
            self.refuse(entry.control_session_id, entry.correlation_id, code, &message);
            return 1;
        }
        match self.subscriptions[index].extends {
            Some(recording_id) => self.extend(index, image, recording_id),
            None => self.start_new(index, image),
        }
        1
    }

    fn start_new(&mut self, index: usize, image: Image) {
        let entry = &self.subscriptions[index];
        let term_length = image.term_buffer_length() as i32;
        let descriptor = RecordingDescriptor {
            control_session_id: 0,
            correlation_id: 0,
            recording_id: 0,
            start_timestamp: self.now.epoch_ms,
            stop_timestamp: -1,
            start_position: image.join_position(),
            stop_position: -1,
            initial_term_id: image.initial_term_id(),
            segment_file_length: self.context.segment_file_length.max(term_length),
            term_buffer_length: term_length,
            mtu_length: image.mtu_length() as i32,
            session_id: image.session_id(),
            stream_id: image.stream_id(),
            stripped_channel: entry.stripped_channel.clone(),
            original_channel: entry.original_channel.clone(),
            source_identity: image.source_identity().to_owned(),
        };
        let (session_id, correlation_id) = (entry.control_session_id, entry.correlation_id);
        match self.catalog.add(descriptor) {
            Ok((recording_id, writes)) => {
                let ticket = self.write_catalog(writes);
                self.begin(index, image, recording_id, ticket, false);
            }
            Err(error) => {
                self.fail(session_id, correlation_id, ArchiveErrorCode::Generic, &error.to_string());
            }
        }
    }

    fn extend(&mut self, index: usize, image: Image, recording_id: i64) {
        let entry = &self.subscriptions[index];
        let (session_id, correlation_id) = (entry.control_session_id, entry.correlation_id);
        if let Err((code, message)) = self.check_extension(&image, recording_id) {
            self.refuse(session_id, correlation_id, code, &message);
            if self.subscriptions[index].auto_stop {
                self.subscriptions[index].is_requested = false;
            }
            return;
        }
        let write = self.catalog.update(recording_id, |recording| {
            recording.stop_position = -1;
            recording.stop_timestamp = -1;
            recording.session_id = image.session_id();
            recording.control_session_id = session_id;
            recording.correlation_id = correlation_id;
        });
        let ticket = self.write_catalog(write.into_iter().collect());
        self.begin(index, image, recording_id, ticket, true);
    }

    fn check_extension(&self, image: &Image, recording_id: i64) -> Result<(), (ArchiveErrorCode, String)> {
        let invalid = |what: &str, actual: i64, wanted: i64| {
            let message =
                format!("cannot extend recording {recording_id}: {what}={actual}, must be {wanted}");
            Err((ArchiveErrorCode::InvalidExtension, message))
        };
        let Some(recording) = self.catalog.get(recording_id) else {
            return Err((
                ArchiveErrorCode::UnknownRecording,
                format!("unknown recording id: {recording_id}"),
            ));
        };
        if self.is_active(recording_id) {
            return Err((ArchiveErrorCode::ActiveRecording, format!("recording {recording_id} is active")));
        }
        for (what, actual, wanted) in [
            ("join position", image.join_position(), recording.stop_position),
            ("initial term id", i64::from(image.initial_term_id()), i64::from(recording.initial_term_id)),
            ("term length", image.term_buffer_length() as i64, i64::from(recording.term_buffer_length)),
            ("mtu", image.mtu_length() as i64, i64::from(recording.mtu_length)),
        ] {
            if actual != wanted {
                return invalid(what, actual, wanted);
            }
        }
        Ok(())
    }

    fn begin(
        &mut self,
        index: usize,
        image: Image,
        recording_id: i64,
        ticket: CatalogTicket,
        is_extension: bool,
    ) {
        let Some(recording) = self.catalog.get(recording_id) else { return };
        let entry = &mut self.subscriptions[index];
        entry.active += 1;
        let setup = RecordingSetup {
            recording_id,
            control_session_id: entry.control_session_id,
            correlation_id: entry.correlation_id,
            subscription_id: entry.registration_id,
            recording: recording.clone(),
            directory: self.context.archive_directory.clone(),
            io_max_length: self.context.file_io_max_length,
            sync_level: self.context.file_sync_level,
            checksum: self.context.record_checksum,
            is_extension,
        };
        self.starting.push(StartingRecording { setup, image, ticket, counter_id: None });
    }

    fn serve_starting(&mut self) -> usize {
        let mut work_count = 0;
        for mut starting in std::mem::take(&mut self.starting) {
            if !self.is_written(&mut starting.ticket) {
                self.starting.push(starting);
                continue;
            }
            if let Some(failure) = starting.ticket.failure.take() {
                // Without its catalog entry the recording would be lost at the next start.
                let position = starting.image.join_position();
                self.write_stop(&starting.setup, position, Some(failure));
                work_count += 1;
                continue;
            }
            let Some(counter_id) = starting.counter_id else {
                starting.counter_id = self.add_position_counter(&starting);
                self.starting.push(starting);
                work_count += 1;
                continue;
            };
            match self.aeron().counter(counter_id) {
                Ok(None) => self.starting.push(starting),
                Ok(Some(counter)) => {
                    counter.set_ordered(starting.image.join_position());
                    let setup = &starting.setup;
                    let signal = if setup.is_extension { Signal::Extend } else { Signal::Start };
                    let (correlation_id, recording_id, subscription_id, position) = (
                        setup.correlation_id,
                        setup.recording_id,
                        setup.subscription_id,
                        starting.image.join_position(),
                    );
                    let session_id = setup.control_session_id;
                    if let Some(session) = self.session(session_id) {
                        session.send_signal(correlation_id, recording_id, subscription_id, position, signal);
                    }
                    self.add_to(RECORDING_SESSIONS, 1);
                    let is_wanted = self
                        .subscriptions
                        .iter()
                        .any(|entry| entry.registration_id == subscription_id && entry.is_requested);
                    self.publish_started(&starting);
                    let mut recording = RecordingSession::new(starting.setup, starting.image, counter);
                    if !is_wanted {
                        recording.abort();
                    }
                    self.recordings.push(recording);
                    work_count += 1;
                }
                Err(error) => {
                    let setup = starting.setup;
                    let failure =
                        RecordingFailure { code: ArchiveErrorCode::Generic, message: error.to_string() };
                    let position = starting.image.join_position();
                    self.write_stop(&setup, position, Some(failure));
                }
            }
        }
        work_count
    }

    fn publish_started(&mut self, starting: &StartingRecording) {
        let Some(events) = &mut self.events else { return };
        let Some(recording) = self.catalog.get(starting.setup.recording_id) else { return };
        events.publish(&RecordingEvent::Started {
            recording_id: recording.recording_id,
            start_position: starting.image.join_position(),
            session_id: starting.image.session_id(),
            stream_id: recording.stream_id,
            channel: &recording.original_channel,
            source_identity: starting.image.source_identity(),
        });
    }

    fn add_position_counter(&mut self, starting: &StartingRecording) -> Option<i64> {
        let archive_id = self.archive_id;
        let recording_id = starting.setup.recording_id;
        let image = &starting.image;
        let key =
            counters::position_key(recording_id, image.session_id(), image.source_identity(), archive_id);
        let channel = self.catalog.get(recording_id).map_or("", |entry| &entry.stripped_channel);
        let label = counters::position_label(
            recording_id,
            image.session_id(),
            image.stream_id(),
            channel,
            archive_id,
        );
        self.aeron().add_counter(type_id::RECORDING_POSITION, key.as_bytes(), &label).ok()
    }
}
