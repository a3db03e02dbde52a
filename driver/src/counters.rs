//! Allocation of the counters of streams, channels and clients (spec 02 §5.7).

use std::net::SocketAddr;

use harrier_protocol::counter_types::{Key, Label, channel_status, name, type_id};
use harrier_ringbuf::counters::{AtomicCounter, CountersError, CountersManager};

use crate::channel::address_text;

/// The stream that a counter belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamIdentity<'a> {
    pub(crate) registration_id: i64,
    pub(crate) owner_id: i64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    pub(crate) channel: &'a str,
}

/// Allocates a counter that the driver never frees.
pub(crate) fn of_driver(
    manager: &mut CountersManager,
    type_id: i32,
    key: &Key,
    label: &Label,
) -> Result<AtomicCounter, CountersError> {
    let id = manager.allocate(type_id, key.as_bytes(), label.as_str(), 0)?;
    manager.set_owner_id(id, -1);
    manager.counter(id)
}

/// The counters of a driver with the time of the duty cycle.
pub(crate) struct Counters {
    manager: CountersManager,
    now_ms: i64,
}

impl Counters {
    pub(crate) fn new(manager: CountersManager) -> Self {
        Self { manager, now_ms: 0 }
    }

    pub(crate) fn set_time(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
    }

    pub(crate) fn manager(&mut self) -> &mut CountersManager {
        &mut self.manager
    }

    fn allocate(
        &mut self,
        type_id: i32,
        key: &Key,
        label: &Label,
        registration_id: i64,
        owner_id: i64,
    ) -> Result<AtomicCounter, CountersError> {
        let id = self.manager.allocate(type_id, key.as_bytes(), label.as_str(), self.now_ms)?;
        self.manager.set_registration_id(id, registration_id);
        self.manager.set_owner_id(id, owner_id);
        self.manager.counter(id)
    }

    /// Allocates a counter of a stream with its first value.
    pub(crate) fn stream(
        &mut self,
        type_id: i32,
        name: &str,
        stream: StreamIdentity<'_>,
        value: i64,
    ) -> Result<AtomicCounter, CountersError> {
        let StreamIdentity { registration_id, owner_id, session_id, stream_id, channel } = stream;
        let key = Key::stream(registration_id, session_id, stream_id, channel);
        let label = Label::stream(name, registration_id, session_id, stream_id, channel);
        let counter = self.allocate(type_id, &key, &label, registration_id, owner_id)?;
        counter.set_ordered(value);
        Ok(counter)
    }

    /// Allocates the position of a subscriber that joins `source_id` at `join_position`.
    pub(crate) fn subscriber_position(
        &mut self,
        stream: StreamIdentity<'_>,
        join_position: i64,
        source_id: i64,
    ) -> Result<AtomicCounter, CountersError> {
        let StreamIdentity { registration_id, owner_id, session_id, stream_id, channel } = stream;
        let key = Key::stream(registration_id, session_id, stream_id, channel);
        let name = name::SUBSCRIBER_POSITION;
        let label =
            Label::stream(name, registration_id, session_id, stream_id, channel).joined_at(join_position);
        let counter = self.allocate(type_id::SUBSCRIBER_POSITION, &key, &label, registration_id, owner_id)?;
        self.manager.set_reference_id(counter.id(), source_id);
        counter.set_ordered(join_position);
        Ok(counter)
    }

    /// Allocates the status of a channel whose socket is bound to `bound`.
    pub(crate) fn channel_status(
        &mut self,
        is_send: bool,
        registration_id: i64,
        channel: &str,
        bound: Option<SocketAddr>,
    ) -> Result<AtomicCounter, CountersError> {
        let (type_id, name) = if is_send {
            (type_id::SEND_CHANNEL_STATUS, name::SEND_CHANNEL_STATUS)
        } else {
            (type_id::RECEIVE_CHANNEL_STATUS, name::RECEIVE_CHANNEL_STATUS)
        };
        let mut label = Label::channel_status(name, channel);
        if let Some(bound) = bound {
            label = label.and(format_args!("{}", address_text(bound)));
        }
        let counter = self.allocate(type_id, &Key::channel(channel), &label, registration_id, 0)?;
        counter.set_ordered(channel_status::ACTIVE);
        Ok(counter)
    }

    /// Allocates the counter that shows the bound address of a channel's socket.
    pub(crate) fn local_address(
        &mut self,
        is_send: bool,
        registration_id: i64,
        status_id: i32,
        bound: SocketAddr,
    ) -> Result<AtomicCounter, CountersError> {
        let name = if is_send { name::SEND_LOCAL_SOCKET_ADDRESS } else { name::RECEIVE_LOCAL_SOCKET_ADDRESS };
        let address = address_text(bound);
        let counter = self.allocate(
            type_id::LOCAL_SOCKET_ADDRESS,
            &Key::socket_address(status_id, &address),
            &Label::socket_address(name, status_id, &address),
            registration_id,
            0,
        )?;
        counter.set_ordered(channel_status::ACTIVE);
        Ok(counter)
    }

    /// Allocates the number of destinations of a multi-destination channel.
    pub(crate) fn destinations(
        &mut self,
        registration_id: i64,
        channel: &str,
    ) -> Result<AtomicCounter, CountersError> {
        let label = Label::channel_status(name::MDC_DESTINATIONS, channel);
        self.allocate(type_id::MDC_DESTINATIONS, &Key::channel(channel), &label, registration_id, 0)
    }

    /// Allocates the heartbeat of a client.
    pub(crate) fn client_heartbeat(&mut self, client_id: i64) -> Result<AtomicCounter, CountersError> {
        let counter = self.allocate(
            type_id::CLIENT_HEARTBEAT,
            &Key::of_i64(client_id),
            &Label::client_heartbeat(client_id),
            client_id,
            client_id,
        )?;
        counter.set_ordered(self.now_ms);
        Ok(counter)
    }

    /// Allocates a counter for a client.
    pub(crate) fn user(
        &mut self,
        type_id: i32,
        key: &[u8],
        label: &str,
        registration_id: i64,
        owner_id: i64,
    ) -> Result<AtomicCounter, CountersError> {
        let id = self.manager.allocate(type_id, key, label, self.now_ms)?;
        self.manager.set_registration_id(id, registration_id);
        self.manager.set_owner_id(id, owner_id);
        self.manager.counter(id)
    }

    /// Frees a counter.
    pub(crate) fn free(&mut self, id: i32) {
        self.manager.free(id, self.now_ms);
    }

    /// Frees several counters.
    pub(crate) fn free_all<'a>(&mut self, counters: impl IntoIterator<Item = &'a AtomicCounter>) {
        for counter in counters {
            self.free(counter.id());
        }
    }
}
