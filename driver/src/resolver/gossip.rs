//! The protocol with which drivers announce their names to each other (spec 02 §1.9, §5.12).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use harrier_protocol::counter_types::{Key, Label, type_id};
use harrier_protocol::resolution::{MAX_NAME_LENGTH, ResolutionEntry, ResolutionFrame, ResolutionWriter};
use harrier_protocol::udp::Frame;
use harrier_protocol::uri::Endpoint;
use harrier_ringbuf::counters::{AtomicCounter, CountersManager};
use harrier_ringbuf::transport::{SendBuffer, SocketSpec};
use harrier_ringbuf::{Datagrams, Transport};

use super::NamesError;
use crate::channel::address_text;
use crate::context::DriverContext;
use crate::counters::of_driver;
use crate::driver::{DriverHandle, ErrorInbox};
use crate::error_notes::kind;
use crate::system_counters::{SystemCounter, SystemCounters};

/// Time between two polls of the socket, ns.
const POLL_INTERVAL_NS: i64 = 10_000_000;
/// Setting that names the bootstrap neighbours.
const BOOTSTRAP_SETTING: &str = "aeron.driver.resolver.bootstrap.neighbor";
/// Most bootstrap neighbours.
const MAX_BOOTSTRAP_NEIGHBOURS: usize = 20;
/// Most names and neighbours that are remembered. Others wait until some have gone silent.
const MAX_REMEMBERED: usize = 256;
/// Longest frame that is sent, bytes.
const MAX_COPY_LENGTH: usize = 2_048;

/// Times of the protocol, ns.
#[derive(Debug, Clone, Copy)]
struct Times {
    self_interval_ns: i64,
    neighbor_interval_ns: i64,
    bootstrap_interval_ns: i64,
    timeout_ns: i64,
}

/// A bootstrap neighbour.
#[derive(Debug)]
struct Bootstrap {
    text: String,
    address: Option<SocketAddr>,
    /// Counter that is 1 while the bootstrap neighbour is a neighbour.
    is_neighbor: AtomicCounter,
}

#[derive(Debug)]
struct Neighbor {
    address: SocketAddr,
    last_heard_ns: i64,
}

#[derive(Debug)]
struct CacheLine {
    name: String,
    address: SocketAddr,
    last_heard_ns: i64,
}

/// One driver's part in the protocol.
pub(super) struct Gossip<S> {
    name: String,
    socket: S,
    /// Address that the driver announces. For the unspecified address, others take the source of the frame.
    address: SocketAddr,
    times: Times,
    bootstraps: Vec<Bootstrap>,
    neighbors: Vec<Neighbor>,
    cache: Vec<CacheLine>,
    next_poll_ns: i64,
    next_self_ns: i64,
    next_neighbors_ns: i64,
    next_bootstrap_ns: i64,
    neighbor_count: AtomicCounter,
    entry_count: AtomicCounter,
    system: SystemCounters,
    errors: Arc<ErrorInbox>,
    frame: Box<[u8]>,
    /// Neighbours to send a frame to. The list is kept to avoid allocations.
    targets: Vec<SocketAddr>,
}

impl<S: Datagrams> Gossip<S> {
    /// Opens the socket of `aeron.driver.resolver.interface`.
    pub(super) fn new<T: Transport<Socket = S>>(
        context: &DriverContext,
        transport: &T,
        counters: &mut CountersManager,
        system: &SystemCounters,
        handle: &DriverHandle,
    ) -> Result<Self, NamesError> {
        let name = context.resolver_name.clone();
        if !(1..=MAX_NAME_LENGTH).contains(&name.len()) {
            return Err(NamesError::Name);
        }
        let interface = &context.resolver_interface;
        let endpoint = Endpoint::parse(interface).ok_or_else(|| NamesError::Interface(interface.clone()))?;
        let bind = transport
            .resolve(endpoint.host, endpoint.port)
            .map_err(|error| NamesError::InterfaceHost(interface.clone(), error))?;
        let socket = transport.open(&SocketSpec::unicast(bind))?;
        let address = socket.local_address();
        let counter = |label: &Label, type_id, counters: &mut CountersManager| {
            of_driver(counters, type_id, &Key::default(), label)
        };
        let label = Label::of(format_args!("Resolver neighbors: bound {}", address_text(address)));
        let neighbor_count = counter(&label, type_id::RESOLVER_NEIGHBORS, counters)?;
        let label = Label::of(format_args!("Resolver cache entries: name={name}"));
        let entry_count = counter(&label, type_id::RESOLVER_CACHE_ENTRIES, counters)?;
        let bootstraps =
            bootstraps(&context.resolver_bootstrap_neighbor, transport, counters, &handle.errors)?;
        Ok(Self {
            name,
            socket,
            address,
            times: Times {
                self_interval_ns: context.resolver_self_resolution_interval_ns,
                neighbor_interval_ns: context.resolver_neighbor_resolution_interval_ns,
                bootstrap_interval_ns: context.resolver_bootstrap_neighbor_resolution_interval_ns,
                timeout_ns: context.resolver_neighbor_timeout_ns,
            },
            bootstraps,
            neighbors: Vec::with_capacity(MAX_REMEMBERED),
            cache: Vec::with_capacity(MAX_REMEMBERED),
            next_poll_ns: i64::MIN,
            next_self_ns: i64::MIN,
            next_neighbors_ns: i64::MIN,
            next_bootstrap_ns: i64::MIN,
            neighbor_count,
            entry_count,
            system: system.clone(),
            errors: handle.errors.clone(),
            frame: vec![0; (context.mtu_length as usize).min(MAX_COPY_LENGTH)].into_boxed_slice(),
            targets: Vec::with_capacity(MAX_REMEMBERED + MAX_BOOTSTRAP_NEIGHBOURS),
        })
    }

    /// Looks up the address of a driver by its name.
    pub(super) fn look_up(&self, host: &str) -> Option<IpAddr> {
        let line = self.cache.iter().find(|line| line.name == host);
        match line {
            Some(line) => Some(line.address.ip()),
            None => (self.name == host).then_some(self.address.ip()),
        }
    }

    /// Time of the next work, ns.
    pub(super) fn next_deadline(&self) -> i64 {
        self.next_poll_ns
    }

    /// Runs one duty cycle; returns the work done.
    pub(super) fn work<T: Transport>(&mut self, transport: &T, now_ns: i64) -> usize {
        if now_ns < self.next_poll_ns {
            return 0;
        }
        self.next_poll_ns = now_ns + POLL_INTERVAL_NS;
        let mut work_count = self.receive(now_ns);
        work_count += self.expire(now_ns);
        if self.next_bootstrap_ns == i64::MIN {
            self.next_bootstrap_ns = now_ns + self.times.bootstrap_interval_ns;
        } else if now_ns >= self.next_bootstrap_ns {
            self.next_bootstrap_ns = now_ns + self.times.bootstrap_interval_ns;
            self.resolve_bootstraps(transport);
        }
        if now_ns >= self.next_self_ns {
            self.next_self_ns = now_ns + self.times.self_interval_ns;
            work_count += self.tell_own();
        }
        if now_ns >= self.next_neighbors_ns {
            self.next_neighbors_ns = now_ns + self.times.neighbor_interval_ns;
            work_count += self.tell_cache(now_ns);
        }
        work_count
    }

    fn receive(&mut self, now_ns: i64) -> usize {
        let Self { socket, system, errors, neighbors, cache, name, address, .. } = self;
        let mut heard = Heard { neighbors, cache, name, port: address.port(), now_ns };
        let received = socket.receive(&mut |datagram, source| {
            system.get(SystemCounter::BytesReceived).add(datagram.len() as i64);
            match Frame::decode(datagram) {
                Ok(Frame::Resolution(frame)) => heard.on_frame(&frame, source),
                Ok(_) => {}
                Err(_) => system.get(SystemCounter::InvalidPackets).increment(),
            }
        });
        if let Err(error) = &received {
            errors.push_kind(kind::RESOLVER_RECEIVE, format!("WARN: {error}"));
        }
        received.unwrap_or(0)
    }

    /// Forgets neighbours and names that were not heard of for a long time.
    fn expire(&mut self, now_ns: i64) -> usize {
        let before = self.neighbors.len() + self.cache.len();
        let timeout_ns = self.times.timeout_ns;
        self.neighbors.retain(|neighbor| now_ns < neighbor.last_heard_ns + timeout_ns);
        self.cache.retain(|line| now_ns < line.last_heard_ns + timeout_ns);
        self.update_counters();
        before - self.neighbors.len() - self.cache.len()
    }

    fn update_counters(&self) {
        self.neighbor_count.set_ordered(self.neighbors.len() as i64);
        self.entry_count.set_ordered(self.cache.len() as i64);
        for bootstrap in &self.bootstraps {
            let mut known = self.neighbors.iter();
            let is_neighbor = known.any(|neighbor| Some(neighbor.address) == bootstrap.address);
            bootstrap.is_neighbor.set_ordered(i64::from(is_neighbor));
        }
    }

    /// Repeats the lookup of bootstrap neighbours that have not become neighbours.
    fn resolve_bootstraps<T: Transport>(&mut self, transport: &T) {
        for bootstrap in &mut self.bootstraps {
            if bootstrap.is_neighbor.get() == 0
                && let Some(address) = resolve(&bootstrap.text, transport)
            {
                bootstrap.address = Some(address);
            }
        }
    }

    /// Announces this driver's own name to all neighbours and bootstrap neighbours.
    fn tell_own(&mut self) -> usize {
        let entry = ResolutionEntry { is_self: true, address: self.address, age_ms: 0, name: &self.name };
        let Ok(mut writer) = ResolutionWriter::new(&mut self.frame) else { return 0 };
        if writer.push(&entry).is_err() {
            return 0;
        }
        let length = writer.finish();
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        targets.extend(self.neighbors.iter().map(|neighbor| neighbor.address));
        for address in self.bootstraps.iter().filter_map(|bootstrap| bootstrap.address) {
            if !targets.contains(&address) && address != self.address {
                targets.push(address);
            }
        }
        for target in &targets {
            self.send(length, *target);
        }
        self.targets = targets;
        self.targets.len()
    }

    /// Announces the names in the cache to all neighbours.
    fn tell_cache(&mut self, now_ns: i64) -> usize {
        let mut first = 0;
        let mut sent = 0;
        while first < self.cache.len() && !self.neighbors.is_empty() {
            let Ok(mut writer) = ResolutionWriter::new(&mut self.frame) else { return sent };
            let before = first;
            for line in &self.cache[before..] {
                let age_ms = (now_ns - line.last_heard_ns) / 1_000_000;
                let entry = ResolutionEntry {
                    is_self: false,
                    address: line.address,
                    age_ms: i32::try_from(age_ms).unwrap_or(i32::MAX),
                    name: &line.name,
                };
                if writer.push(&entry).is_err() {
                    break;
                }
                first += 1;
            }
            if first == before {
                // No frame has room for this name.
                first += 1;
                continue;
            }
            let length = writer.finish();
            for neighbor in 0..self.neighbors.len() {
                self.send(length, self.neighbors[neighbor].address);
                sent += 1;
            }
        }
        sent
    }

    fn send(&mut self, length: usize, to: SocketAddr) {
        if self.socket.submit(0, SendBuffer::Copied(&self.frame[..length]), Some(to)).is_err() {
            return self.system.get(SystemCounter::ShortSends).increment();
        }
        let (system, errors) = (&self.system, &self.errors);
        self.socket.complete(&mut |_, outcome| match outcome {
            Ok(bytes) => {
                system.get(SystemCounter::BytesSent).add(bytes as i64);
                if bytes < length {
                    system.get(SystemCounter::ShortSends).increment();
                }
            }
            Err(error) => {
                let text = format!("WARN: Failed to send resolution frames to neighbor {to}: {error}");
                errors.push_kind(kind::RESOLVER_SEND, text);
            }
        });
    }
}

/// State that a received frame changes.
struct Heard<'a> {
    neighbors: &'a mut Vec<Neighbor>,
    cache: &'a mut Vec<CacheLine>,
    /// Own name and port.
    name: &'a str,
    port: u16,
    now_ns: i64,
}

impl Heard<'_> {
    fn on_frame(&mut self, frame: &ResolutionFrame<'_>, source: SocketAddr) {
        for entry in frame.entries() {
            if entry.name == self.name && entry.address.port() == self.port {
                continue;
            }
            let mut address = entry.address;
            if entry.is_self && address.ip().is_unspecified() {
                address.set_ip(source.ip());
            }
            if address.ip().is_multicast() || address.ip().is_unspecified() {
                continue;
            }
            let heard_ns = self.now_ns - i64::from(entry.age_ms.max(0)) * 1_000_000;
            self.note_name(entry.name, address, heard_ns);
            self.note_neighbor(address, entry.is_self, heard_ns);
        }
    }

    fn note_name(&mut self, name: &str, address: SocketAddr, heard_ns: i64) {
        let is_ipv4 = address.is_ipv4();
        let is_full = self.cache.len() >= MAX_REMEMBERED;
        let known = self.cache.iter_mut().find(|line| line.name == name && line.address.is_ipv4() == is_ipv4);
        match known {
            // An older entry does not replace a newer one.
            Some(line) if heard_ns >= line.last_heard_ns => {
                line.address = address;
                line.last_heard_ns = heard_ns;
            }
            Some(_) => {}
            None if !is_full => {
                self.cache.push(CacheLine { name: name.to_owned(), address, last_heard_ns: heard_ns });
            }
            None => {}
        }
    }

    fn note_neighbor(&mut self, address: SocketAddr, is_self: bool, heard_ns: i64) {
        let is_full = self.neighbors.len() >= MAX_REMEMBERED;
        match self.neighbors.iter_mut().find(|neighbor| neighbor.address == address) {
            Some(neighbor) if is_self => neighbor.last_heard_ns = neighbor.last_heard_ns.max(heard_ns),
            Some(_) => {}
            None if !is_full => {
                self.neighbors.push(Neighbor { address, last_heard_ns: heard_ns });
            }
            None => {}
        }
    }
}

fn resolve<T: Transport>(text: &str, transport: &T) -> Option<SocketAddr> {
    let endpoint = Endpoint::parse(text)?;
    transport.resolve(endpoint.host, endpoint.port).ok()
}

/// Reads the bootstrap neighbours. Each invalid one is an error in the error log. An unknown host is looked up again
/// later.
fn bootstraps<T: Transport>(
    list: &str,
    transport: &T,
    counters: &mut CountersManager,
    errors: &ErrorInbox,
) -> Result<Vec<Bootstrap>, NamesError> {
    let texts: Vec<&str> = list.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    if texts.len() > MAX_BOOTSTRAP_NEIGHBOURS {
        return Err(NamesError::TooManyNeighbours(texts.len()));
    }
    let all = texts.into_iter().enumerate().filter_map(|(index, text)| {
        let Some(endpoint) = Endpoint::parse(text) else {
            errors.push(format!("WARN: {BOOTSTRAP_SETTING}: {text} is skipped: it must be host:port"));
            return None;
        };
        Some((index, text, transport.resolve(endpoint.host, endpoint.port)))
    });
    let all = all.map(|(index, text, resolved)| {
        if let Err(error) = &resolved {
            errors.push(format!("WARN: {BOOTSTRAP_SETTING}: {text} is skipped until it resolves: {error}"));
        }
        let address = resolved.ok();
        let resolved = address.map(address_text).unwrap_or_default();
        let label = Label::of(format_args!("Bootstrap neighbor: name={text} resolved={resolved}"));
        let key = Key::of_i32(index as i32);
        let is_neighbor = of_driver(counters, type_id::BOOTSTRAP_NEIGHBOR, &key, &label)?;
        Ok(Bootstrap { text: text.to_owned(), address, is_neighbor })
    });
    all.collect()
}
