//! Clients. The first add command creates a client, and its heartbeat counter keeps it alive (spec 02 §5.3, §5.6).

use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use crate::failure::Failure;
use crate::system_counters::SystemCounter;

/// A client of the driver.
#[derive(Debug)]
struct Client {
    id: i64,
    heartbeat: AtomicCounter,
    is_closed: bool,
}

/// A client's reference to a publication.
#[derive(Debug, Clone, Copy)]
struct PublicationLink {
    client_id: i64,
    /// Correlation id of this client's add.
    registration_id: i64,
    /// Registration id of the publication, which others may share.
    publication_id: i64,
}

#[derive(Debug)]
struct CounterLink {
    client_id: i64,
    registration_id: i64,
    counter_id: i32,
}

/// All clients with their publications and counters.
#[derive(Debug, Default)]
pub(super) struct Clients {
    list: Vec<Client>,
    publications: Vec<PublicationLink>,
    counters: Vec<CounterLink>,
}

impl Clients {
    /// Adds a client's reference to a publication.
    pub(super) fn link_publication(&mut self, client_id: i64, registration_id: i64, publication_id: i64) {
        self.publications.push(PublicationLink { client_id, registration_id, publication_id });
    }

    /// Removes a client's reference; returns the id of the publication.
    pub(super) fn unlink_publication(&mut self, registration_id: i64) -> Option<i64> {
        let index = self.publications.iter().position(|link| link.registration_id == registration_id)?;
        Some(self.publications.remove(index).publication_id)
    }
}

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Creates a client unless it exists, and announces its heartbeat counter.
    pub(super) fn ensure_client(&mut self, client_id: i64) -> Result<(), Failure> {
        if self.clients.list.iter().any(|client| client.id == client_id) {
            return Ok(());
        }
        let heartbeat = self.counters.client_heartbeat(client_id)?;
        self.events.counter_ready(client_id, heartbeat.id());
        self.clients.list.push(Client { id: client_id, heartbeat, is_closed: false });
        Ok(())
    }

    pub(super) fn on_keepalive(&mut self, client_id: i64) {
        if let Some(client) = self.clients.list.iter().find(|client| client.id == client_id) {
            client.heartbeat.set_ordered(self.now.epoch_ms);
        }
    }

    pub(super) fn on_client_close(&mut self, client_id: i64) {
        if let Some(client) = self.clients.list.iter_mut().find(|client| client.id == client_id) {
            client.heartbeat.set_ordered(0);
            client.is_closed = true;
        }
    }

    /// Removes clients that have closed or died, with all their resources.
    pub(super) fn check_clients(&mut self) {
        let timeout_ms = (self.context.client_liveness_timeout_ns / 1_000_000).max(1);
        let now_ms = self.now.epoch_ms;
        while let Some(index) =
            self.clients.list.iter().position(|client| {
                client.is_closed || now_ms > client.heartbeat.get().saturating_add(timeout_ms)
            })
        {
            let client = self.clients.list.remove(index);
            if !client.is_closed {
                self.system.get(SystemCounter::ClientTimeouts).increment();
                self.events.client_timeout(client.id);
            }
            self.counters.free(client.heartbeat.id());
            self.events.unavailable_counter(client.id, client.heartbeat.id());
            self.release_all_of(client.id);
        }
    }

    fn release_all_of(&mut self, client_id: i64) {
        let held: Vec<PublicationLink> =
            self.clients.publications.iter().filter(|link| link.client_id == client_id).copied().collect();
        self.clients.publications.retain(|link| link.client_id != client_id);
        for link in held {
            self.release_publication(link.publication_id);
        }
        let subscriptions: Vec<i64> = self
            .subscriptions
            .iter()
            .filter(|subscription| subscription.client_id == client_id)
            .map(|subscription| subscription.registration_id)
            .collect();
        for registration_id in subscriptions {
            self.close_subscription(registration_id);
        }
        while let Some(index) =
            self.clients.counters.iter().position(|counter| counter.client_id == client_id)
        {
            let counter = self.clients.counters.remove(index);
            self.counters.free(counter.counter_id);
            self.events.unavailable_counter(counter.registration_id, counter.counter_id);
        }
    }

    pub(super) fn on_add_counter(
        &mut self,
        client_id: i64,
        correlation_id: i64,
        type_id: i32,
        key: &[u8],
        label: &str,
    ) -> Result<(), Failure> {
        check_counter(key, label)?;
        self.ensure_client(client_id)?;
        let counter = self.counters.user(type_id, key, label, correlation_id, client_id)?;
        self.clients.counters.push(CounterLink {
            client_id,
            registration_id: correlation_id,
            counter_id: counter.id(),
        });
        self.events.counter_ready(correlation_id, counter.id());
        Ok(())
    }

    pub(super) fn on_remove_counter(
        &mut self,
        correlation_id: i64,
        registration_id: i64,
    ) -> Result<(), Failure> {
        let links = &mut self.clients.counters;
        let Some(index) = links.iter().position(|link| link.registration_id == registration_id) else {
            return Err(Failure::new(
                harrier_protocol::ErrorCode::UnknownCounter,
                format!("unknown counter: {registration_id}"),
            ));
        };
        let counter = links.remove(index);
        self.events.operation_success(correlation_id);
        self.events.unavailable_counter(registration_id, counter.counter_id);
        self.counters.free(counter.counter_id);
        Ok(())
    }

    pub(super) fn on_add_static_counter(
        &mut self,
        client_id: i64,
        correlation_id: i64,
        registration_id: i64,
        type_id: i32,
        key: &[u8],
        label: &str,
    ) -> Result<(), Failure> {
        check_counter(key, label)?;
        self.ensure_client(client_id)?;
        let reader = self.counters.manager().reader();
        let id = match reader.find_by_registration(type_id, registration_id) {
            Some(id) if reader.owner_id(id) == -1 => id,
            Some(id) => {
                return Err(Failure::generic(format!(
                    "cannot add static counter, because a non-static counter exists (counterId={id}) for \
                     typeId={type_id} and registrationId={registration_id}"
                )));
            }
            None => self.counters.user(type_id, key, label, registration_id, -1)?.id(),
        };
        self.events.static_counter(correlation_id, id);
        Ok(())
    }
}

fn check_counter(key: &[u8], label: &str) -> Result<(), Failure> {
    use harrier_ringbuf::counters::{MAX_KEY_LENGTH, MAX_LABEL_LENGTH};
    if key.len() > MAX_KEY_LENGTH {
        let length = key.len();
        return Err(Failure::generic(format!("counter key of {length} bytes; at most {MAX_KEY_LENGTH}")));
    }
    if label.len() > MAX_LABEL_LENGTH {
        let length = label.len();
        return Err(Failure::generic(format!("counter label of {length} bytes; at most {MAX_LABEL_LENGTH}")));
    }
    Ok(())
}
