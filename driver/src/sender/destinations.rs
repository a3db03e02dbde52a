//! Destinations of multi-destination publications (spec 02 §2.9).

use std::net::SocketAddr;

use harrier_ringbuf::counters::AtomicCounter;

use super::DESTINATION_TIMEOUT_NS;

/// Receivers that may add themselves to one publication; others have to wait until some are silent.
const MAX_DYNAMIC_DESTINATIONS: usize = 1_024;

/// Where copies of a stream go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination {
    /// Correlation id of the command that added it; -1 when it added itself.
    pub(crate) registration_id: i64,
    pub(crate) address: SocketAddr,
}

#[derive(Debug)]
struct Tracked {
    destination: Destination,
    receiver_id: Option<i64>,
    last_heard_ns: i64,
}

/// All destinations of an endpoint.
#[derive(Debug)]
pub(crate) struct Destinations {
    is_dynamic: bool,
    list: Vec<Tracked>,
    first: usize,
    count: AtomicCounter,
}

impl Destinations {
    /// No destinations yet; with `is_dynamic` receivers add themselves.
    pub(crate) fn new(is_dynamic: bool, count: AtomicCounter) -> Self {
        Self { is_dynamic, list: Vec::new(), first: 0, count }
    }

    fn update_count(&self) {
        self.count.set_ordered(self.list.len() as i64);
    }

    pub(crate) fn add(&mut self, destination: Destination, now_ns: i64) {
        self.list.push(Tracked { destination, receiver_id: None, last_heard_ns: now_ns });
        self.update_count();
    }

    pub(crate) fn remove(&mut self, address: SocketAddr) {
        self.list.retain(|tracked| tracked.destination.address != address);
        self.update_count();
    }

    pub(crate) fn remove_by_id(&mut self, registration_id: i64) {
        self.list.retain(|tracked| tracked.destination.registration_id != registration_id);
        self.update_count();
    }

    /// A status message has come; an unknown receiver adds itself to dynamic destinations.
    pub(crate) fn on_status(&mut self, receiver_id: i64, source: SocketAddr, now_ns: i64) {
        for tracked in &mut self.list {
            let address = tracked.destination.address;
            let is_match = match tracked.receiver_id {
                Some(id) => id == receiver_id && address.port() == source.port(),
                None => address == source,
            };
            if is_match {
                tracked.receiver_id = Some(receiver_id);
                tracked.last_heard_ns = now_ns;
                return;
            }
        }
        if self.is_dynamic && self.list.len() < MAX_DYNAMIC_DESTINATIONS {
            self.list.push(Tracked {
                destination: Destination { registration_id: -1, address: source },
                receiver_id: Some(receiver_id),
                last_heard_ns: now_ns,
            });
            self.update_count();
        }
    }

    /// The registration id of the destination at an address, -1 when there is none.
    pub(crate) fn registration_id_of(&self, source: SocketAddr) -> i64 {
        let found = self.list.iter().find(|tracked| tracked.destination.address == source);
        found.map_or(-1, |tracked| tracked.destination.registration_id)
    }

    /// Drops dynamic destinations that are silent and turns the order of the others.
    pub(crate) fn begin_send(&mut self, now_ns: i64) {
        if self.is_dynamic {
            let before = self.list.len();
            self.list.retain(|tracked| now_ns - tracked.last_heard_ns <= DESTINATION_TIMEOUT_NS);
            if self.list.len() != before {
                self.update_count();
            }
        }
        self.first = if self.list.is_empty() { 0 } else { (self.first + 1) % self.list.len() };
    }

    /// Number of destinations.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The address of the `index`-th destination of this send.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.list[(self.first + index) % self.list.len()].destination.address
    }
}
