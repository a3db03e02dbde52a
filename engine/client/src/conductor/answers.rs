//! Events from the driver (spec 01 §4).

use harrier_protocol::ErrorCode;
use harrier_protocol::event::{Event, PublicationReady};
use harrier_ringbuf::Region;
use harrier_ringbuf::append::{ConcurrentAppender, ExclusiveAppender};
use harrier_ringbuf::image_reader::ImageReader;
use harrier_ringbuf::logbuffer::LogBuffers;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Core, PendingKind, PublicationEntry, Ready, SubscriptionEntry};
use crate::image::ImageFacts;
use crate::publication::PublicationState;
use crate::subscription::ImageChange;
use crate::{
    ClientError, ClientEvent, Counter, ExclusivePublication, Image, Publication, PublicationErrorFrame,
    Subscription,
};

/// Step in which pages of memory are touched, bytes.
const PAGE_BYTES: usize = 4_096;

impl Core {
    pub(super) fn on_event(&mut self, type_id: i32, body: &[u8]) -> Result<(), ClientError> {
        // Events of a newer driver and events for other clients are ignored.
        let Ok(event) = Event::decode(type_id, body) else { return Ok(()) };
        match event {
            Event::Error { correlation_id, error_code, message } => {
                self.on_error(correlation_id, error_code, message)
            }
            Event::AvailableImage { .. } => self.on_available_image(&event),
            Event::UnavailableImage { correlation_id, subscription_registration_id, .. } => {
                self.on_unavailable_image(correlation_id, subscription_registration_id);
            }
            Event::PublicationReady(ready) | Event::ExclusivePublicationReady(ready) => {
                self.resolve(ready.correlation_id, |core, kind, request| {
                    core.on_publication_ready(&ready, kind, request)
                });
            }
            Event::SubscriptionReady { correlation_id, channel_status_counter_id } => {
                self.resolve(correlation_id, |core, kind, _| {
                    core.on_subscription_ready(correlation_id, channel_status_counter_id, kind)
                });
            }
            Event::OperationSuccess { correlation_id } => {
                self.resolve(correlation_id, |_, _, _| Some(Ready::Done));
            }
            Event::CounterReady { correlation_id, counter_id } => {
                self.events
                    .push_back(ClientEvent::AvailableCounter { registration_id: correlation_id, counter_id });
                self.resolve(correlation_id, |core, kind, _| {
                    core.on_counter_ready(correlation_id, counter_id, &kind)
                });
            }
            Event::StaticCounter { correlation_id, counter_id } => {
                self.resolve(correlation_id, |core, kind, _| {
                    core.on_counter_ready(correlation_id, counter_id, &kind)
                });
            }
            Event::UnavailableCounter { registration_id, counter_id } => {
                if let Some(closed) = self.owned_counters.remove(&registration_id) {
                    closed.store(true, Ordering::Release);
                }
                self.events.push_back(ClientEvent::UnavailableCounter { registration_id, counter_id });
            }
            Event::ClientTimeout { client_id } if client_id == self.client_id => {
                return Err(ClientError::ClientTimeout { timeout_ns: self.inter_service_timeout_ns });
            }
            Event::PublicationError {
                registration_id,
                destination_registration_id,
                session_id,
                stream_id,
                receiver_id,
                group_tag,
                source,
                error_code,
                message,
            } => self.on_publication_error(PublicationErrorFrame {
                registration_id,
                destination_registration_id,
                session_id,
                stream_id,
                receiver_id,
                group_tag,
                source,
                error_code,
                message: message.to_owned(),
            }),
            Event::NextAvailableSessionId { correlation_id, session_id } => {
                self.resolve(correlation_id, |_, _, _| Some(Ready::Session(session_id)));
            }
            Event::ClientTimeout { .. } => {}
        }
        Ok(())
    }

    pub(super) fn resolve(
        &mut self,
        id: i64,
        make: impl FnOnce(&mut Self, PendingKind, String) -> Option<Ready>,
    ) {
        let Some(pending) = self.pending.remove(&id) else { return };
        if matches!(pending.kind, PendingKind::Removal) {
            return;
        }
        // An abandoned resource is removed when it is dropped.
        if let Some(ready) = make(self, pending.kind, pending.request)
            && !pending.is_abandoned
        {
            self.ready.insert(id, ready);
        }
    }

    pub(super) fn on_error(&mut self, correlation_id: i64, code: i32, message: &str) {
        if code == ErrorCode::ChannelEndpointError.value() {
            let counter_id = correlation_id as i32;
            self.events.push_back(ClientEvent::ChannelError { counter_id, message: message.to_owned() });
            return;
        }
        let message = message.to_owned();
        self.resolve(correlation_id, |_, _, request| {
            Some(Ready::Failed(ClientError::Registration { request, code, message }))
        });
    }

    pub(super) fn on_publication_ready(
        &mut self,
        answer: &PublicationReady<'_>,
        kind: PendingKind,
        request: String,
    ) -> Option<Ready> {
        let PublicationReady {
            correlation_id,
            registration_id,
            session_id,
            stream_id,
            publisher_limit_counter_id: limit_counter_id,
            channel_status_counter_id: channel_status_id,
            log_file_name,
        } = *answer;
        let PendingKind::Publication { channel, exclusive } = kind else { return None };
        let log = match self.map_log(log_file_name) {
            Ok(log) => log,
            Err(error) => return Some(Ready::Failed(error)),
        };
        let limit = match self.counters.counter(limit_counter_id) {
            Ok(limit) => limit,
            Err(error) => return Some(Ready::Failed(corrupt_answer(request, &error.to_string()))),
        };
        let closed = Arc::new(AtomicBool::new(false));
        let state = PublicationState {
            channel,
            stream_id,
            session_id,
            registration_id: correlation_id,
            original_registration_id: registration_id,
            limit_counter_id,
            channel_status_id,
            log: log.clone(),
            limit,
            closed: closed.clone(),
            revoke_on_close: AtomicBool::new(false),
            releases: self.releases.clone(),
        };
        self.publications
            .insert(correlation_id, PublicationEntry { original_registration_id: registration_id, closed });
        Some(if exclusive {
            Ready::Exclusive(ExclusivePublication::new(ExclusiveAppender::new(log), state))
        } else {
            Ready::Publication(Publication::new(ConcurrentAppender::new(log), state))
        })
    }

    pub(super) fn on_subscription_ready(
        &mut self,
        id: i64,
        channel_status_id: i32,
        kind: PendingKind,
    ) -> Option<Ready> {
        let PendingKind::Subscription { channel, stream_id } = kind else { return None };
        let (producer, consumer) = rtrb::RingBuffer::new(self.context.image_change_capacity);
        let closed = Arc::new(AtomicBool::new(false));
        self.subscriptions.insert(
            id,
            SubscriptionEntry {
                is_spy: channel.starts_with("aeron-spy:"),
                changes: producer,
                waiting: VecDeque::new(),
                images: Vec::new(),
                closed: closed.clone(),
            },
        );
        Some(Ready::Subscription(Subscription {
            channel,
            stream_id,
            registration_id: id,
            channel_status_id,
            images: Vec::new(),
            next_image: 0,
            changes: consumer,
            closed,
            releases: self.releases.clone(),
        }))
    }

    pub(super) fn on_counter_ready(&mut self, id: i64, counter_id: i32, kind: &PendingKind) -> Option<Ready> {
        let PendingKind::Counter { is_static } = *kind else { return None };
        let value = match self.counters.counter(counter_id) {
            Ok(value) => value,
            Err(error) => {
                return Some(Ready::Failed(corrupt_answer(format!("add counter {id}"), &error.to_string())));
            }
        };
        let closed = Arc::new(AtomicBool::new(false));
        self.owned_counters.insert(id, closed.clone());
        Some(Ready::Counter(Counter::new(value, id, counter_id, is_static, closed, self.releases.clone())))
    }

    pub(super) fn on_available_image(&mut self, event: &Event<'_>) {
        let Event::AvailableImage {
            correlation_id,
            session_id,
            stream_id,
            subscription_registration_id,
            subscriber_position_counter_id: subscriber_position_id,
            log_file_name,
            source_identity,
        } = *event
        else {
            return;
        };
        if !self.subscriptions.contains_key(&subscription_registration_id) {
            return;
        }
        // A log that cannot be mapped belongs to an image that is gone again; the driver will say so.
        let Ok(log) = self.map_log(log_file_name) else { return };
        let Ok(position) = self.counters.counter(subscriber_position_id) else { return };
        let closed = Arc::new(AtomicBool::new(false));
        let facts = ImageFacts {
            correlation_id,
            session_id,
            stream_id,
            subscription_registration_id,
            subscriber_position_id,
            source_identity: source_identity.to_owned(),
            log_file: Path::new(log_file_name).into(),
        };
        let image = Image::new(ImageReader::new(log, position), facts, closed.clone());
        let Some(entry) = self.subscriptions.get_mut(&subscription_registration_id) else { return };
        entry.images.push((correlation_id, session_id, closed));
        self.held_back += entry.push(ImageChange::Add(Box::new(image)));
        self.events.push_back(ClientEvent::AvailableImage {
            subscription_registration_id,
            correlation_id,
            session_id,
            source_identity: source_identity.to_owned(),
        });
    }

    pub(super) fn on_unavailable_image(&mut self, correlation_id: i64, subscription_registration_id: i64) {
        let Some(entry) = self.subscriptions.get_mut(&subscription_registration_id) else { return };
        let Some(index) = entry.images.iter().position(|(id, _, _)| *id == correlation_id) else { return };
        let (_, session_id, closed) = entry.images.remove(index);
        closed.store(true, Ordering::Release);
        self.held_back += entry.push(ImageChange::Remove { correlation_id });
        self.events.push_back(ClientEvent::UnavailableImage {
            subscription_registration_id,
            correlation_id,
            session_id,
        });
    }

    pub(super) fn on_publication_error(&mut self, frame: PublicationErrorFrame) {
        let owned =
            self.publications.values().any(|entry| entry.original_registration_id == frame.registration_id);
        if owned {
            self.events.push_back(ClientEvent::PublicationError(Box::new(frame)));
        }
    }

    pub(super) fn map_log(&self, file_name: &str) -> Result<LogBuffers, ClientError> {
        let buffer = (self.map)(Path::new(file_name))?;
        if self.context.pre_touch_mapped_memory {
            for offset in (0..buffer.capacity()).step_by(PAGE_BYTES) {
                // This changes no word, but makes the processor load the page for writing.
                buffer.compare_and_set_i32(offset, 0, 0);
            }
        }
        LogBuffers::map(buffer).map_err(|error| ClientError::Corrupt {
            directory: self.context.directory.clone(),
            detail: format!("log {file_name}: {error}"),
        })
    }
}

impl SubscriptionEntry {
    /// Passes a change to the subscription; returns 1 when it has to wait here because the queue is full.
    pub(super) fn push(&mut self, change: ImageChange) -> usize {
        if self.waiting.is_empty() {
            match self.changes.push(change) {
                Ok(()) => return 0,
                Err(rtrb::PushError::Full(change)) => self.waiting.push_back(change),
            }
        } else {
            self.waiting.push_back(change);
        }
        1
    }

    /// Passes waiting changes on; returns the number that still wait.
    pub(super) fn flush(&mut self) -> usize {
        while let Some(change) = self.waiting.pop_front() {
            if let Err(rtrb::PushError::Full(change)) = self.changes.push(change) {
                self.waiting.push_front(change);
                break;
            }
        }
        self.waiting.len()
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for (_, _, closed) in &self.images {
            closed.store(true, Ordering::Release);
        }
    }
}

fn corrupt_answer(request: String, detail: &str) -> ClientError {
    ClientError::Registration {
        request,
        code: ErrorCode::GenericError.value(),
        message: format!("unusable answer: {detail}"),
    }
}
