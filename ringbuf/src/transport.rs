//! The seam to the network: datagrams in, datagrams out, in the shape of submissions and completions.

use std::net::{IpAddr, SocketAddr};
use thiserror::Error;

use crate::AtomicBuffer;

/// What a socket must be able to do before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSpec {
    /// Local address; port 0 lets the system choose. For multicast the group's port on the wildcard address.
    pub bind: SocketAddr,
    /// Fixed peer: only its datagrams are received, and submissions may leave out the destination.
    pub connect: Option<SocketAddr>,
    /// Group to join or to send to.
    pub multicast: Option<Multicast>,
    /// Bytes of SO_SNDBUF; 0 keeps the system's default.
    pub sndbuf_length: usize,
    /// Bytes of SO_RCVBUF; 0 keeps the system's default.
    pub rcvbuf_length: usize,
    /// Sets SO_REUSEADDR, for multicast receivers that share a port.
    pub reuse_address: bool,
    /// Has the system stamp what arrives, for [`Datagrams::receive_stamped`].
    pub stamps: bool,
}

impl SocketSpec {
    /// A unicast socket on `bind` with the system's buffers.
    pub fn unicast(bind: SocketAddr) -> Self {
        Self {
            bind,
            connect: None,
            multicast: None,
            sndbuf_length: 0,
            rcvbuf_length: 0,
            reuse_address: false,
            stamps: false,
        }
    }
}

/// Multicast membership of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multicast {
    /// The group's address and port.
    pub group: SocketAddr,
    /// Address of the interface to join and send on.
    pub interface: IpAddr,
    /// Index of that interface, by which IPv6 knows it.
    pub interface_index: u32,
    /// Hops; `None` keeps the system's default.
    pub ttl: Option<u8>,
    /// Join the group (receivers) or only send to it.
    pub join: bool,
}

/// Bytes of one datagram to send.
#[derive(Debug, Clone, Copy)]
pub enum SendBuffer<'a> {
    /// A range of a log. The back end keeps the mapping alive until the completion is reported.
    Log {
        /// The mapped term or log.
        buffer: &'a AtomicBuffer,
        /// First byte.
        offset: usize,
        /// Number of bytes.
        length: usize,
    },
    /// A control frame; copied on submission.
    Copied(&'a [u8]),
}

/// Why the network refused.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The system refused to open, bind or join.
    #[error("cannot open UDP socket on {address}: {source}")]
    Open {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system refused to connect the socket to its peer.
    #[error("cannot connect UDP socket to {address}: {source}")]
    Connect {
        /// The peer.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A name or port that does not resolve.
    #[error("unresolved host: {name}")]
    UnknownHost {
        /// The name as written in the channel.
        name: String,
    },
    /// A name that a table of names does not let resolve.
    #[error("unresolved host: {name} (forced)")]
    Forced {
        /// The name as written in the channel.
        name: String,
    },
    /// The host lacks or forbids a back end.
    #[error("transport {name} is not available: {reason}; {remedy}")]
    Unavailable {
        /// The back end's name in settings.
        name: &'static str,
        /// The system's reason.
        reason: std::io::Error,
        /// What helps.
        remedy: &'static str,
    },
    /// A send or receive failed.
    #[error("datagram {operation} failed on {local}: {source}")]
    Io {
        /// `send` or `receive`.
        operation: &'static str,
        /// Local address of the socket.
        local: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Ways to the network that a host may offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportKind {
    /// Batched calls on sockets.
    #[default]
    Sockets,
    /// Rings that the kernel shares with the process.
    IoUring,
}

impl TransportKind {
    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::IoUring => "io_uring",
        }
    }

    /// The kind with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Sockets, Self::IoUring].into_iter().find(|kind| kind.name() == name)
    }
}

/// How a host's transport is to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportOptions {
    /// The back end.
    pub kind: TransportKind,
    /// The kernel cuts and coalesces runs of datagrams where it can (UDP GSO and GRO).
    pub segmentation: bool,
    /// A thread of the kernel polls the submissions, on a core of its own; io_uring only.
    pub kernel_polling: bool,
    /// Datagrams, or runs of them, that one call receives, 1 to [`MAX_BATCH_LENGTH`]; sockets only.
    pub receive_batch: usize,
    /// Datagrams, or runs of them, that one call sends, 1 to [`MAX_BATCH_LENGTH`]; sockets only.
    pub send_batch: usize,
    /// Datagrams of one publication and duty cycle; `None` leaves it to the back end.
    pub most_per_send: Option<usize>,
}

/// Most headers of one call.
pub const MAX_BATCH_LENGTH: usize = 16;

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            kind: TransportKind::default(),
            segmentation: true,
            kernel_polling: false,
            receive_batch: MAX_BATCH_LENGTH,
            send_batch: MAX_BATCH_LENGTH,
            most_per_send: None,
        }
    }
}

/// The submission queue of a socket is full: poll its completions, then submit again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("send queue is full; poll completions and retry")]
pub struct QueueFull;

/// Opens sockets and resolves names. Both may take long and are asked of the blocking-work agent only.
pub trait Transport: Clone + Send + 'static {
    /// A socket of this transport, owned by the one agent that uses it.
    type Socket: Datagrams;

    /// Opens a socket.
    fn open(&self, spec: &SocketSpec) -> Result<Self::Socket, TransportError>;

    /// Resolves a host name or literal to its first address (IPv4 preferred).
    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError>;

    /// Addresses of the host's interfaces, for `interface=` of channels.
    fn interfaces(&self) -> Vec<InterfaceAddress>;

    /// The system's (default, maximum) bytes of SO_SNDBUF and SO_RCVBUF.
    fn buffer_limits(&self) -> BufferLimits;
}

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Bits of the address that name its network.
    pub prefix: u8,
    /// The interface is up, and takes multicast or is the loopback.
    pub is_usable: bool,
}

/// Socket buffer lengths that the host grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferLimits {
    /// SO_SNDBUF of a fresh socket, bytes.
    pub default_sndbuf: usize,
    /// Largest SO_SNDBUF granted, bytes.
    pub max_sndbuf: usize,
    /// SO_RCVBUF of a fresh socket, bytes.
    pub default_rcvbuf: usize,
    /// Largest SO_RCVBUF granted, bytes.
    pub max_rcvbuf: usize,
}

/// When a datagram came, nanoseconds since the epoch; `None` where that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrival {
    /// The system had it.
    pub media_epoch_ns: Option<i64>,
    /// The socket's owner had it.
    pub channel_epoch_ns: Option<i64>,
}

/// A datagram socket with a submission queue.
///
/// Nothing here blocks or allocates after [`Transport::open`].
pub trait Datagrams: Send + 'static {
    /// The bound address, with the port the system chose.
    fn local_address(&self) -> SocketAddr;

    /// Connects a connected socket to another address; nothing may be queued.
    ///
    /// # Errors
    /// The system refuses; the socket keeps what it had.
    fn reconnect(&mut self, to: SocketAddr) -> Result<(), TransportError>;

    /// The agent that uses the socket gives it away to be closed; it is not used again. What must be done on its thread
    /// is done here.
    fn retire(&mut self) {}

    /// Datagrams of a stream that are worth submitting together.
    fn batch_length(&self) -> usize {
        4
    }

    /// Queues one datagram. `token` comes back with its completion. `to` may be left out on a connected socket.
    fn submit(&mut self, token: u64, bytes: SendBuffer<'_>, to: Option<SocketAddr>) -> Result<(), QueueFull>;

    /// Pushes what is queued towards the network and reports finished submissions: the bytes sent, 0 when the system
    /// had no room (a short send; the caller sends again from its position), or an error. Returns the completions.
    fn complete(&mut self, visit: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize;

    /// Hands datagrams that have arrived to `visit` with their source, at most one batch; returns the bytes received.
    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError>;

    /// As [`receive`](Self::receive), with the times of each datagram: the system's only where it stamps them and the
    /// socket was opened for it.
    fn receive_stamped(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr, &Arrival),
    ) -> Result<usize, TransportError> {
        let arrival = Arrival { media_epoch_ns: None, channel_epoch_ns: self.epoch_ns() };
        self.receive(&mut |bytes, source| visit(bytes, source, &arrival))
    }

    /// The time that datagrams are stamped with, nanoseconds since the epoch; `None` where nothing is stamped.
    fn epoch_ns(&self) -> Option<i64> {
        None
    }
}
