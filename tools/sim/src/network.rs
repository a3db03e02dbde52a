//! Datagrams between simulated hosts. They are late, lost, doubled, reordered, held back or cut off.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use harrier_ringbuf::transport::{BufferLimits, InterfaceAddress, QueueFull, SendBuffer, SocketSpec};
use harrier_ringbuf::{AtomicBuffer, Datagrams, Region, Rng, Transport, TransportError};

use crate::kernel::{HostId, Kernel, State};
use crate::trace::hash_bytes;

/// Datagrams received with one call.
const BATCH: usize = 16;
/// Submissions that a socket can queue when its host has no fault.
const QUEUE_CAPACITY: usize = 64;
/// Bytes that a socket can hold for its reader.
const RECEIVE_CAPACITY: usize = 256 << 10;
/// Number of networks. All hosts are on each, with an interface of its own.
const NETWORKS: usize = 2;
/// Default number of hops of multicast datagrams.
const DEFAULT_TTL: u8 = 1;
/// First port that the system chooses.
const FIRST_EPHEMERAL_PORT: u16 = 40_000;

/// Faults of the datagrams from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Least latency, ns.
    pub latency_ns: u64,
    /// Greatest addition to the latency, ns. Datagrams are reordered when it exceeds the sender's pace.
    pub jitter_ns: u64,
    /// Lost datagrams, per million.
    pub loss_ppm: u64,
    /// Doubled datagrams, per million.
    pub duplicate_ppm: u64,
    /// Virtual time until which the link is cut, ns.
    pub cut_until_ns: i64,
    /// Virtual time until which datagrams are held back and then released at once, ns.
    pub held_until_ns: i64,
    /// Length of the longest datagram that passes, bytes; 0 for no limit.
    pub max_length: usize,
}

impl Link {
    /// A link without faults.
    pub const CALM: Self = Self {
        latency_ns: 20_000,
        jitter_ns: 0,
        loss_ppm: 0,
        duplicate_ppm: 0,
        cut_until_ns: 0,
        held_until_ns: 0,
        max_length: 0,
    };

    /// Creates a link that loses, doubles and delays datagrams. Greatest addition and least latency are drawn from
    /// these values, ns.
    pub fn noisy(rng: &mut Rng, jitter_ns: [u64; 3], latency_ns: [u64; 3]) -> Self {
        Self {
            loss_ppm: [0, 10_000, 50_000, 200_000][rng.below(4) as usize],
            duplicate_ppm: [0, 10_000, 100_000][rng.below(3) as usize],
            jitter_ns: jitter_ns[rng.below(3) as usize],
            latency_ns: latency_ns[rng.below(3) as usize],
            ..Self::CALM
        }
    }
}

/// Faults of a host's sending sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendFaults {
    /// Sends for which the system has no room, per million.
    pub short_ppm: u64,
    /// Submissions that a socket can queue; 0 for the usual number.
    pub queue_capacity: usize,
}

struct Datagram {
    from: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Inbox {
    port: u16,
    /// The socket shares its port with others that allow it too.
    shares_port: bool,
    /// Group that it receives, and the network of the group.
    group: Option<(SocketAddr, usize)>,
    waiting: BTreeMap<(i64, u64), Datagram>,
    bytes: usize,
}

/// All sockets and links.
pub struct Network {
    /// Inboxes by host and socket.
    inboxes: Vec<BTreeMap<u64, Inbox>>,
    next_socket: u64,
    links: BTreeMap<(HostId, HostId), Link>,
    send_faults: Vec<SendFaults>,
    next_port: u16,
    sequence: u64,
    rng: Rng,
    pool: Vec<Vec<u8>>,
    host_count: usize,
}

/// Returns the address of a host on the first network.
pub fn address_of(host: HostId) -> IpAddr {
    address_on(0, host)
}

/// Returns the address of a host on one of the networks.
pub fn address_on(network: usize, host: HostId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, network as u8, host as u8 + 1))
}

/// Returns the network of a host's address.
fn network_of(host: HostId, address: IpAddr) -> Option<usize> {
    (0..NETWORKS).find(|network| address_on(*network, host) == address)
}

impl Network {
    pub(crate) fn new(host_count: usize, rng: Rng) -> Self {
        Self {
            inboxes: (0..host_count).map(|_| BTreeMap::new()).collect(),
            next_socket: 0,
            links: BTreeMap::new(),
            send_faults: vec![SendFaults::default(); host_count],
            next_port: FIRST_EPHEMERAL_PORT,
            sequence: 0,
            rng,
            pool: Vec::new(),
            host_count,
        }
    }

    /// Returns the link from one host to another.
    pub fn link_mut(&mut self, from: HostId, to: HostId) -> &mut Link {
        self.links.entry((from, to)).or_insert(Link::CALM)
    }

    /// Removes all faults of links and sends.
    pub fn heal(&mut self) {
        self.links.clear();
        self.send_faults.fill(SendFaults::default());
    }

    /// Returns the faults of a host's sends.
    pub fn send_faults_mut(&mut self, host: HostId) -> &mut SendFaults {
        &mut self.send_faults[host]
    }

    /// Returns the number of sockets that a host has open.
    pub fn open_sockets(&self, host: HostId) -> usize {
        self.inboxes[host].len()
    }

    /// Returns the virtual time at which the next datagram arrives at a host, ns.
    pub fn next_arrival_ns(&self, host: HostId) -> Option<i64> {
        self.inboxes[host]
            .values()
            .filter_map(|inbox| inbox.waiting.first_key_value().map(|((at, _), _)| *at))
            .min()
    }

    fn host_of(&self, from: HostId, address: IpAddr) -> Option<HostId> {
        if address.is_loopback() {
            return Some(from);
        }
        (0..self.host_count).find(|host| network_of(*host, address).is_some())
    }

    /// Returns the socket that receives on a port of a host: the latest of those that share it.
    fn listener(&self, host: HostId, port: u16) -> Option<u64> {
        let mut inboxes = self.inboxes[host].iter().rev();
        inboxes.find(|(_, inbox)| inbox.port == port).map(|(socket, _)| *socket)
    }

    /// Returns the next socket of a host that receives a group on a network.
    fn member(&self, host: HostId, group: (SocketAddr, usize), from: u64) -> Option<u64> {
        let mut inboxes = self.inboxes[host].range(from..);
        inboxes.find(|(_, inbox)| inbox.group == Some(group)).map(|(socket, _)| *socket)
    }

    /// Opens a socket on a port; 0 lets the network choose.
    fn open(&mut self, host: HostId, spec: &SocketSpec) -> Result<(u64, u16), ErrorKind> {
        let ip = spec.bind.ip();
        if !ip.is_unspecified() && !ip.is_loopback() && network_of(host, ip).is_none() {
            return Err(ErrorKind::AddrNotAvailable);
        }
        let group = match &spec.multicast {
            Some(multicast) if multicast.join => {
                let network = network_of(host, multicast.interface).ok_or(ErrorKind::AddrNotAvailable)?;
                Some((multicast.group, network))
            }
            _ => None,
        };
        let mut port = spec.bind.port();
        if port == 0 {
            while self.listener(host, self.next_port).is_some() {
                self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
            }
            port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
        } else {
            let mut others = self.inboxes[host].values().filter(|inbox| inbox.port == port);
            if others.any(|other| !other.shares_port || !spec.reuse_address) {
                return Err(ErrorKind::AddrInUse);
            }
        }
        let socket = self.next_socket;
        self.next_socket += 1;
        let inbox = Inbox { port, shares_port: spec.reuse_address, group, ..Inbox::default() };
        self.inboxes[host].insert(socket, inbox);
        Ok((socket, port))
    }

    fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = self.take_bytes();
        copy.extend_from_slice(bytes);
        copy
    }

    fn take_bytes(&mut self) -> Vec<u8> {
        self.pool.pop().unwrap_or_default()
    }

    fn give_bytes(&mut self, mut bytes: Vec<u8>) {
        if self.pool.len() < 1_024 {
            bytes.clear();
            self.pool.push(bytes);
        }
    }
}

/// Origin of a datagram.
#[derive(Debug, Clone, Copy)]
struct Origin {
    host: HostId,
    address: SocketAddr,
    /// Network and hops of datagrams to groups.
    network: usize,
    ttl: u8,
}

impl State {
    /// Sends one datagram.
    fn send(&mut self, from: &Origin, to: SocketAddr, bytes: Vec<u8>) {
        if let Some(wire) = &mut self.wire {
            wire.on_sent(from.host, (to, &bytes), self.now_ns, &mut self.coverage);
        }
        if to.ip().is_multicast() {
            return self.send_to_group(from, to, bytes);
        }
        let Some(target) = self.network.host_of(from.host, to.ip()) else {
            self.coverage.hit("datagram to nowhere");
            return self.network.give_bytes(bytes);
        };
        let Some((link, copies)) = self.pass(from.host, (target, to.port()), &bytes) else {
            return self.network.give_bytes(bytes);
        };
        let Some(socket) = self.network.listener(target, to.port()) else {
            self.coverage.hit("datagram without a listener");
            return self.network.give_bytes(bytes);
        };
        for _ in 1..copies {
            let copy = self.network.copy(&bytes);
            self.deliver((target, socket), from.address, copy, &link);
        }
        self.deliver((target, socket), from.address, bytes, &link);
    }

    /// Sends a datagram to all hosts of a network that have joined the group, each over its own link, also to the
    /// sender's host. Without hops it stays on that host.
    fn send_to_group(&mut self, from: &Origin, to: SocketAddr, bytes: Vec<u8>) {
        let group = (to, from.network);
        let mut hosts = 0;
        for target in 0..self.network.host_count {
            let Some(first) = self.network.member(target, group, 0) else { continue };
            if target != from.host && from.ttl == 0 {
                self.coverage.hit("datagram without a hop to go");
                continue;
            }
            hosts += 1;
            let Some((link, copies)) = self.pass(from.host, (target, to.port()), &bytes) else { continue };
            let mut member = Some(first);
            while let Some(socket) = member {
                for _ in 0..copies {
                    let copy = self.network.copy(&bytes);
                    self.deliver((target, socket), from.address, copy, &link);
                }
                member = self.network.member(target, group, socket + 1);
            }
        }
        self.coverage.hit(match hosts {
            0 => "datagram to a group that nobody hears",
            1 => "datagram to a group of one host",
            _ => "datagram to a group of several hosts",
        });
        self.network.give_bytes(bytes);
    }

    /// Returns the delays of the copies of a datagram that leave its link; none when the datagram is lost.
    fn pass(&mut self, host: HostId, (target, port): (HostId, u16), bytes: &[u8]) -> Option<(Link, usize)> {
        let now_ns = self.now_ns;
        let link = if target == host {
            Link { latency_ns: 1_000, ..Link::CALM }
        } else {
            *self.network.link_mut(host, target)
        };
        self.note("send", &[host as u64, target as u64, u64::from(port), hash_bytes(bytes)]);
        if link.max_length > 0 && bytes.len() > link.max_length {
            self.coverage.hit("datagram too long for the link");
            return None;
        }
        if now_ns < link.cut_until_ns {
            self.coverage.hit("datagram cut off");
            return None;
        }
        if self.network.rng.below(1_000_000) < link.loss_ppm {
            self.fault("datagram lost", &[]);
            return None;
        }
        let copies = if self.network.rng.below(1_000_000) < link.duplicate_ppm { 2 } else { 1 };
        if copies == 2 {
            self.fault("datagram doubled", &[]);
        }
        Some((link, copies))
    }

    fn deliver(&mut self, (target, socket): (HostId, u64), from: SocketAddr, bytes: Vec<u8>, link: &Link) {
        let network = &mut self.network;
        let jitter_ns = if link.jitter_ns > 0 { network.rng.below(link.jitter_ns) } else { 0 };
        let mut at = self.now_ns + (link.latency_ns + jitter_ns) as i64;
        if self.now_ns < link.held_until_ns {
            self.coverage.hit("datagram held back");
            at = at.max(link.held_until_ns);
        }
        let sequence = network.sequence;
        network.sequence += 1;
        let Some(inbox) = network.inboxes[target].get_mut(&socket) else {
            return network.give_bytes(bytes);
        };
        if inbox.bytes + bytes.len() > RECEIVE_CAPACITY {
            self.coverage.hit("datagram dropped by a full socket");
            return network.give_bytes(bytes);
        }
        if inbox.waiting.last_key_value().is_some_and(|((last, _), _)| *last > at) {
            self.coverage.hit("datagram overtook another");
        }
        inbox.bytes += bytes.len();
        inbox.waiting.insert((at, sequence), Datagram { from, bytes });
    }
}

/// The network as the driver of one host sees it.
#[derive(Clone)]
pub struct SimTransport {
    kernel: Kernel,
    host: HostId,
}

impl SimTransport {
    /// Creates the network of a host.
    pub fn new(kernel: Kernel, host: HostId) -> Self {
        Self { kernel, host }
    }
}

impl Transport for SimTransport {
    type Socket = SimSocket;

    fn open(&self, spec: &SocketSpec) -> Result<SimSocket, TransportError> {
        self.kernel.enter(self.host);
        let fail = |kind: ErrorKind| TransportError::Open { address: spec.bind, source: Error::from(kind) };
        let mut state = self.kernel.state();
        let (socket, port) = state.network.open(self.host, spec).map_err(fail)?;
        state.note("open socket", &[self.host as u64, u64::from(port)]);
        let ip = spec.bind.ip();
        let interface = spec.multicast.as_ref().map_or(ip, |multicast| multicast.interface);
        let network = network_of(self.host, interface).unwrap_or_default();
        let own_ip = if interface.is_unspecified() { address_of(self.host) } else { interface };
        let ttl = spec.multicast.as_ref().and_then(|multicast| multicast.ttl).unwrap_or(DEFAULT_TTL);
        let origin = Origin { host: self.host, address: SocketAddr::new(own_ip, port), network, ttl };
        Ok(SimSocket {
            kernel: self.kernel.clone(),
            socket,
            origin,
            local: SocketAddr::new(ip, port),
            peer: spec.connect,
            queue: Vec::new(),
            batch: Vec::new(),
        })
    }

    fn resolve(&self, name: &str, port: u16) -> Result<SocketAddr, TransportError> {
        let ip = if name == "localhost" { Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { name.parse() };
        ip.map(|ip| SocketAddr::new(ip, port))
            .map_err(|_| TransportError::UnknownHost { name: format!("{name}:{port}") })
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        let interface = |network: usize| InterfaceAddress {
            name: format!("eth{network}"),
            index: network as u32 + 1,
            ip: address_on(network, self.host),
            prefix: 24,
            is_usable: true,
        };
        (0..NETWORKS).map(interface).collect()
    }

    fn buffer_limits(&self) -> BufferLimits {
        BufferLimits {
            default_sndbuf: 212_992,
            max_sndbuf: 212_992,
            default_rcvbuf: RECEIVE_CAPACITY,
            max_rcvbuf: RECEIVE_CAPACITY,
        }
    }
}

enum Payload {
    Log { buffer: AtomicBuffer, offset: usize, length: usize },
    Copied(Vec<u8>),
}

/// A socket of a simulated host.
pub struct SimSocket {
    kernel: Kernel,
    socket: u64,
    origin: Origin,
    local: SocketAddr,
    peer: Option<SocketAddr>,
    queue: Vec<(u64, SocketAddr, Payload)>,
    batch: Vec<Datagram>,
}

impl SimSocket {
    fn note_received(&self, bytes: &[u8]) {
        let mut state = self.kernel.state();
        let State { wire, coverage, now_ns, .. } = &mut *state;
        if let Some(wire) = wire {
            wire.on_received(self.origin.host, bytes, *now_ns, coverage);
        }
    }
}

impl Datagrams for SimSocket {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn reconnect(&mut self, to: SocketAddr) -> Result<(), TransportError> {
        self.peer = Some(to);
        Ok(())
    }

    fn submit(&mut self, token: u64, bytes: SendBuffer<'_>, to: Option<SocketAddr>) -> Result<(), QueueFull> {
        let mut state = self.kernel.state();
        let capacity = match state.network.send_faults[self.origin.host].queue_capacity {
            0 => QUEUE_CAPACITY,
            capacity => capacity,
        };
        if self.queue.len() >= capacity {
            state.coverage.hit("send queue full");
            return Err(QueueFull);
        }
        let payload = match bytes {
            SendBuffer::Log { buffer, offset, length } => {
                Payload::Log { buffer: buffer.clone(), offset, length }
            }
            SendBuffer::Copied(bytes) => Payload::Copied(state.network.copy(bytes)),
        };
        let to = to.or(self.peer).expect("a destination, or a connected socket");
        self.queue.push((token, to, payload));
        Ok(())
    }

    fn complete(&mut self, visit: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize {
        if self.queue.is_empty() {
            return 0;
        }
        self.kernel.enter(self.origin.host);
        let count = self.queue.len();
        let mut is_full = false;
        for (token, to, payload) in self.queue.drain(..) {
            let mut state = self.kernel.state();
            let short_ppm = state.network.send_faults[self.origin.host].short_ppm;
            if !is_full && short_ppm > 0 && state.network.rng.below(1_000_000) < short_ppm {
                state.fault("short send", &[self.origin.host as u64]);
                is_full = true;
            }
            if is_full {
                drop(state);
                visit(token, Ok(0));
                continue;
            }
            let bytes = match payload {
                Payload::Copied(bytes) => bytes,
                Payload::Log { buffer, offset, length } => {
                    let mut bytes = state.network.take_bytes();
                    bytes.resize(length, 0);
                    buffer.copy_out(offset, &mut bytes);
                    bytes
                }
            };
            let length = bytes.len();
            state.send(&self.origin, to, bytes);
            drop(state);
            visit(token, Ok(length));
        }
        count
    }

    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError> {
        let mut batch = std::mem::take(&mut self.batch);
        {
            let mut state = self.kernel.state();
            let now_ns = state.now_ns;
            let Some(inbox) = state.network.inboxes[self.origin.host].get_mut(&self.socket) else {
                return Ok(0);
            };
            while batch.len() < BATCH
                && let Some(first) = inbox.waiting.first_entry()
                && first.key().0 <= now_ns
            {
                let datagram = first.remove();
                inbox.bytes -= datagram.bytes.len();
                batch.push(datagram);
            }
        }
        let mut length = 0;
        if !batch.is_empty() {
            self.kernel.enter(self.origin.host);
        }
        for datagram in batch.drain(..) {
            if self.peer.is_none_or(|peer| peer == datagram.from) {
                length += datagram.bytes.len();
                self.note_received(&datagram.bytes);
                visit(&datagram.bytes, datagram.from);
            }
            self.kernel.state().network.give_bytes(datagram.bytes);
        }
        self.batch = batch;
        Ok(length)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.kernel.state().network.inboxes[self.origin.host].remove(&self.socket);
    }
}
