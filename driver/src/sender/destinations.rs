//! Destinations of multi-destination publications (spec 02 §2.9).

use std::net::SocketAddr;

use harrier_ringbuf::counters::AtomicCounter;

use super::DESTINATION_TIMEOUT_NS;

/// Most receivers that may add themselves to one publication. Others wait until a destination times out.
const MAX_DYNAMIC_DESTINATIONS: usize = 1_024;

/// Destination of a multi-destination publication.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination {
    /// Correlation id of the command that added it; -1 when it added itself.
    pub(crate) registration_id: i64,
    pub(crate) address: SocketAddr,
    /// True when the destination was given by a name, whose address may change.
    pub(crate) is_named: bool,
}

#[derive(Debug)]
struct Tracked {
    destination: Destination,
    receiver_id: Option<i64>,
    last_heard_ns: i64,
    last_resolution_ns: i64,
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
    /// Creates an empty list. With `is_dynamic`, receivers add themselves.
    pub(crate) fn new(is_dynamic: bool, count: AtomicCounter) -> Self {
        Self { is_dynamic, list: Vec::new(), first: 0, count }
    }

    fn update_count(&self) {
        self.count.set_ordered(self.list.len() as i64);
    }

    pub(crate) fn add(&mut self, destination: Destination, now_ns: i64) {
        self.list.push(Tracked {
            destination,
            receiver_id: None,
            last_heard_ns: now_ns,
            last_resolution_ns: now_ns,
        });
        self.update_count();
    }

    /// Sets the new address of a destination's name. Another receiver may answer there.
    pub(crate) fn set_address(&mut self, registration_id: i64, address: SocketAddr, now_ns: i64) {
        for tracked in &mut self.list {
            if tracked.destination.registration_id == registration_id {
                tracked.destination.address = address;
                tracked.receiver_id = None;
                tracked.last_heard_ns = now_ns;
            }
        }
    }

    /// Returns the next named destination that has been silent for the time-out, each at most once per time-out.
    pub(crate) fn next_silent(&mut self, now_ns: i64) -> Option<i64> {
        let silent = self.list.iter_mut().find(|tracked| {
            let since_ns = tracked.last_heard_ns.max(tracked.last_resolution_ns);
            tracked.destination.is_named && now_ns > since_ns + DESTINATION_TIMEOUT_NS
        })?;
        silent.last_resolution_ns = now_ns;
        Some(silent.destination.registration_id)
    }

    pub(crate) fn remove(&mut self, address: SocketAddr) {
        self.list.retain(|tracked| tracked.destination.address != address);
        self.update_count();
    }

    pub(crate) fn remove_by_id(&mut self, registration_id: i64) {
        self.list.retain(|tracked| tracked.destination.registration_id != registration_id);
        self.update_count();
    }

    /// Handles a status message. An unknown receiver is added to dynamic destinations.
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
                destination: Destination { registration_id: -1, address: source, is_named: false },
                receiver_id: Some(receiver_id),
                last_heard_ns: now_ns,
                last_resolution_ns: now_ns,
            });
            self.update_count();
        }
    }

    /// Returns the registration id of the destination at an address; -1 when there is none.
    pub(crate) fn registration_id_of(&self, source: SocketAddr) -> i64 {
        let found = self.list.iter().find(|tracked| tracked.destination.address == source);
        found.map_or(-1, |tracked| tracked.destination.registration_id)
    }

    /// Drops silent dynamic destinations and rotates the order of the others.
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

    /// Returns the address of the `index`-th destination of this send.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.list[(self.first + index) % self.list.len()].destination.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::AtomicBuffer;
    use harrier_ringbuf::counters::CountersManager;

    fn counter() -> AtomicCounter {
        let (metadata, values) = (AtomicBuffer::heap(512 * 8), AtomicBuffer::heap(128 * 8));
        let mut manager = CountersManager::new(metadata, values, 0).unwrap();
        let id = manager.allocate(18, &[], "mdc-num-dest", 0).unwrap();
        manager.counter(id).unwrap()
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn manual_destinations_stay_and_are_known_by_receiver_or_address() {
        let count = counter();
        let mut destinations = Destinations::new(false, count.clone());
        destinations.add(Destination { registration_id: 5, address: at(1), is_named: false }, 0);
        destinations.add(Destination { registration_id: 6, address: at(2), is_named: false }, 0);
        destinations.on_status(77, at(1), 10);
        destinations.on_status(78, at(9), 10);
        destinations.begin_send(i64::MAX / 2);
        assert_eq!((destinations.len(), count.get()), (2, 2));
        assert_eq!((destinations.registration_id_of(at(2)), destinations.registration_id_of(at(9))), (6, -1));
        destinations.remove(at(2));
        destinations.remove_by_id(5);
        assert_eq!((destinations.len(), count.get()), (0, 0));
    }

    #[test]
    fn a_silent_name_is_looked_up_again_once_in_each_timeout() {
        let mut destinations = Destinations::new(false, counter());
        destinations.add(Destination { registration_id: 5, address: at(1), is_named: true }, 0);
        destinations.add(Destination { registration_id: 6, address: at(2), is_named: false }, 0);
        assert_eq!(destinations.next_silent(DESTINATION_TIMEOUT_NS), None);
        assert_eq!(destinations.next_silent(DESTINATION_TIMEOUT_NS + 1), Some(5));
        assert_eq!(destinations.next_silent(DESTINATION_TIMEOUT_NS + 2), None);
        destinations.set_address(5, at(3), DESTINATION_TIMEOUT_NS + 2);
        assert_eq!((destinations.registration_id_of(at(3)), destinations.registration_id_of(at(1))), (5, -1));
        assert_eq!(destinations.next_silent(2 * DESTINATION_TIMEOUT_NS + 3), Some(5));
    }

    #[test]
    fn every_send_starts_with_the_next_destination() {
        let mut destinations = Destinations::new(false, counter());
        for port in 1..=3 {
            let registration_id = i64::from(port);
            destinations.add(Destination { registration_id, address: at(port), is_named: false }, 0);
        }
        let mut firsts = Vec::new();
        for _ in 0..4 {
            destinations.begin_send(0);
            firsts.push(destinations.address(0).port());
        }
        assert_eq!(firsts, [2, 3, 1, 2]);
    }

    #[test]
    fn receivers_that_add_themselves_are_limited_and_time_out() {
        let count = counter();
        let mut destinations = Destinations::new(true, count.clone());
        for receiver_id in 0..2 * MAX_DYNAMIC_DESTINATIONS as i64 {
            destinations.on_status(receiver_id, at(7), 0);
        }
        assert_eq!(count.get(), MAX_DYNAMIC_DESTINATIONS as i64);
        destinations.on_status(3, at(7), 1);
        destinations.begin_send(DESTINATION_TIMEOUT_NS);
        assert_eq!(count.get(), MAX_DYNAMIC_DESTINATIONS as i64);
        destinations.begin_send(DESTINATION_TIMEOUT_NS + 1);
        assert_eq!((count.get(), destinations.len()), (1, 1));
    }
}
