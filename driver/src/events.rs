//! Events for clients, and entries of the error log (spec 01 §4.4, 02 §5.15).

use std::net::SocketAddr;

use harrier_protocol::event::{Event, PublicationReady};
use harrier_ringbuf::broadcast::Transmitter;
use harrier_ringbuf::error_log::DistinctErrorLog;

use crate::error_notes::ErrorNote;
use crate::failure::Failure;
use crate::system_counters::{SystemCounter, SystemCounters};

/// Most bytes of an error event besides its message.
const ERROR_FIELDS_LENGTH: usize = 136;

/// Source identity of streams that do not come from the network.
pub(crate) const IPC_SOURCE: &str = "aeron:ipc";

/// An image that has become available to a subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImageEvent<'a> {
    pub(crate) correlation_id: i64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    pub(crate) subscription_id: i64,
    pub(crate) position_id: i32,
    pub(crate) log_file: &'a str,
    pub(crate) source: &'a str,
}

/// A receiver's refusal of a publication.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublicationErrorEvent<'a> {
    pub(crate) registration_id: i64,
    pub(crate) destination_id: i64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    pub(crate) receiver_id: i64,
    pub(crate) group_tag: i64,
    pub(crate) source: SocketAddr,
    pub(crate) code: i32,
    pub(crate) message: &'a str,
}

/// The broadcast buffer and the error log.
pub(crate) struct Events {
    to_clients: Transmitter,
    error_log: DistinctErrorLog,
    system: SystemCounters,
    now_ms: i64,
    /// Buffer for the longest event.
    buffer: Box<[u8]>,
}

impl Events {
    /// Creates the buffers. Events are at most `max_event_length` bytes long; error messages are cut to fit.
    pub(crate) fn new(
        to_clients: Transmitter,
        error_log: DistinctErrorLog,
        system: SystemCounters,
        max_event_length: usize,
    ) -> Self {
        let buffer = vec![0; max_event_length].into_boxed_slice();
        Self { to_clients, error_log, system, now_ms: 0, buffer }
    }

    pub(crate) fn set_time(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
    }

    fn send(&mut self, event: &Event<'_>) {
        let Self { to_clients, buffer, .. } = self;
        let sent = event.encode(buffer).map_err(|error| error.to_string()).and_then(|length| {
            to_clients.transmit(event.type_id(), &buffer[..length]).map_err(|error| error.to_string())
        });
        if let Err(error) = sent {
            self.record_error(&format!("cannot tell clients of event {:#x}: {error}", event.type_id()));
        }
    }

    /// Counts and records an error that concerns no command. Errors with equal texts are of one kind.
    pub(crate) fn record_error(&mut self, text: &str) {
        self.system.get(SystemCounter::Errors).increment();
        self.error_log.record(self.now_ms, text);
    }

    /// Counts and records an error of a kind whose texts differ.
    pub(crate) fn record_kind(&mut self, kind: &str, text: &str) {
        self.system.get(SystemCounter::Errors).increment();
        self.error_log.record_kind(kind, self.now_ms, text);
    }

    /// Counts and records errors of an agent.
    pub(crate) fn record_note(&mut self, note: &ErrorNote) {
        self.system.get(SystemCounter::Errors).add(i64::from(note.count));
        self.error_log.record_times(&note.kind, note.count, self.now_ms, &note.text);
    }

    /// Refuses a command.
    pub(crate) fn error(&mut self, correlation_id: i64, failure: &Failure) {
        let text = failure.to_string();
        self.record_error(&text);
        let mut end = text.len().min(self.buffer.len() - ERROR_FIELDS_LENGTH);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.send(&Event::Error { correlation_id, error_code: failure.code.value(), message: &text[..end] });
    }

    pub(crate) fn publication_ready(&mut self, is_exclusive: bool, ready: PublicationReady<'_>) {
        self.send(&if is_exclusive {
            Event::ExclusivePublicationReady(ready)
        } else {
            Event::PublicationReady(ready)
        });
    }

    pub(crate) fn subscription_ready(&mut self, correlation_id: i64, channel_status_counter_id: i32) {
        self.send(&Event::SubscriptionReady { correlation_id, channel_status_counter_id });
    }

    pub(crate) fn operation_success(&mut self, correlation_id: i64) {
        self.send(&Event::OperationSuccess { correlation_id });
    }

    pub(crate) fn available_image(&mut self, image: ImageEvent<'_>) {
        self.send(&Event::AvailableImage {
            correlation_id: image.correlation_id,
            session_id: image.session_id,
            stream_id: image.stream_id,
            subscription_registration_id: image.subscription_id,
            subscriber_position_counter_id: image.position_id,
            log_file_name: image.log_file,
            source_identity: image.source,
        });
    }

    pub(crate) fn unavailable_image(
        &mut self,
        correlation_id: i64,
        subscription_id: i64,
        stream_id: i32,
        channel: &str,
    ) {
        self.send(&Event::UnavailableImage {
            correlation_id,
            subscription_registration_id: subscription_id,
            stream_id,
            channel,
        });
    }

    pub(crate) fn counter_ready(&mut self, correlation_id: i64, counter_id: i32) {
        self.send(&Event::CounterReady { correlation_id, counter_id });
    }

    pub(crate) fn static_counter(&mut self, correlation_id: i64, counter_id: i32) {
        self.send(&Event::StaticCounter { correlation_id, counter_id });
    }

    pub(crate) fn unavailable_counter(&mut self, registration_id: i64, counter_id: i32) {
        self.send(&Event::UnavailableCounter { registration_id, counter_id });
    }

    pub(crate) fn client_timeout(&mut self, client_id: i64) {
        self.send(&Event::ClientTimeout { client_id });
    }

    pub(crate) fn next_session_id(&mut self, correlation_id: i64, session_id: i32) {
        self.send(&Event::NextAvailableSessionId { correlation_id, session_id });
    }

    pub(crate) fn publication_error(&mut self, error: PublicationErrorEvent<'_>) {
        self.send(&Event::PublicationError {
            registration_id: error.registration_id,
            destination_registration_id: error.destination_id,
            session_id: error.session_id,
            stream_id: error.stream_id,
            receiver_id: error.receiver_id,
            group_tag: error.group_tag,
            source: error.source,
            error_code: error.code,
            message: error.message,
        });
    }
}
