//! The seam to the network: sockets that send and receive datagrams through submissions and completions.

use std::net::{IpAddr, SocketAddr};
use thiserror::Error;

use crate::AtomicBuffer;

/// Requirements on a socket that is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSpec {
    /// Local address; port 0 lets the system choose. For multicast it is the group's port on the wildcard address.
    pub bind: SocketAddr,
    /// Fixed peer: the socket receives only the peer's datagrams, and submissions may omit the destination.
    pub connect: Option<SocketAddr>,
    /// Group to join or to send to.
    pub multicast: Option<Multicast>,
    /// Bytes of SO_SNDBUF; 0 keeps the system's default.
    pub sndbuf_length: usize,
    /// Bytes of SO_RCVBUF; 0 keeps the system's default.
    pub rcvbuf_length: usize,
    /// Sets SO_REUSEADDR, for multicast receivers that share a port.
    pub reuse_address: bool,
    /// Lets the system time-stamp arriving datagrams, for [`Datagrams::receive_stamped`].
    pub stamps: bool,
}

impl SocketSpec {
    /// Describes a unicast socket on `bind` with the system's buffer lengths.
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
    /// Address of the interface on which the socket joins and sends.
    pub interface: IpAddr,
    /// Index of that interface, which IPv6 needs.
    pub interface_index: u32,
    /// Hops; `None` keeps the system's default.
    pub ttl: Option<u8>,
    /// True to join the group (receivers), false to only send to it.
    pub join: bool,
}

/// Bytes of a datagram to send.
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
    /// A control frame; it is copied on submission.
    Copied(&'a [u8]),
}

/// Reason why the network refused.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The system refused to open, bind or join the socket.
    #[error("cannot open UDP socket on {address}: {source}")]
    Open {
        /// Address that was requested.
        address: SocketAddr,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The system refused to connect the socket to its peer.
    #[error("cannot connect UDP socket to {address}: {source}")]
    Connect {
        /// The peer.
        address: SocketAddr,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A name or port cannot be resolved.
    #[error("unresolved host: {name}")]
    UnknownHost {
        /// Name as the channel has it.
        name: String,
    },
    /// The table of names forbids that a name resolves.
    #[error("unresolved host: {name} (forced)")]
    Forced {
        /// Name as the channel has it.
        name: String,
    },
    /// The host lacks or forbids a back end.
    #[error("transport {name} is not available: {reason}; {remedy}")]
    Unavailable {
        /// Name of the back end in settings.
        name: &'static str,
        /// Error of the system.
        reason: std::io::Error,
        /// Remedy, for people.
        remedy: &'static str,
    },
    /// A send or receive failed.
    #[error("datagram {operation} failed on {local}: {source}")]
    Io {
        /// `send` or `receive`.
        operation: &'static str,
        /// Local address of the socket.
        local: SocketAddr,
        /// Error of the system.
        source: std::io::Error,
    },
}

/// Transport back ends that a host may offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportKind {
    /// Batched calls on sockets.
    #[default]
    Sockets,
    /// Rings that the kernel shares with the process.
    IoUring,
}

impl TransportKind {
    /// Name of the back end in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::IoUring => "io_uring",
        }
    }

    /// Returns the back end with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Sockets, Self::IoUring].into_iter().find(|kind| kind.name() == name)
    }
}

/// Options of the host's transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportOptions {
    /// The back end.
    pub kind: TransportKind,
    /// The kernel cuts and coalesces runs of datagrams where it can (UDP GSO and GRO).
    pub segmentation: bool,
    /// A kernel thread polls the submissions, on a core of its own; io_uring only.
    pub kernel_polling: bool,
    /// Most datagrams, or runs of them, that one call receives, 1 to [`MAX_BATCH_LENGTH`]; sockets only.
    pub receive_batch: usize,
    /// Most datagrams, or runs of them, that one call sends, 1 to [`MAX_BATCH_LENGTH`]; sockets only.
    pub send_batch: usize,
    /// Most datagrams of one publication in a duty cycle; `None` leaves the choice to the back end.
    pub most_per_send: Option<usize>,
}

/// Most message headers in one call.
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

/// Opens sockets and resolves names. Both may take long, so only the executor agent does them.
pub trait Transport: Clone + Send + 'static {
    /// A socket of this transport. One agent owns and uses it.
    type Socket: Datagrams;

    /// Opens a socket.
    fn open(&self, spec: &SocketSpec) -> Result<Self::Socket, TransportError>;

    /// Resolves a host name or literal to its first address (IPv4 preferred).
    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError>;

    /// Addresses of the host's interfaces, for `interface=` of channels.
    fn interfaces(&self) -> Vec<InterfaceAddress>;

    /// Default and greatest lengths of the system for SO_SNDBUF and SO_RCVBUF, bytes.
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
    /// Length of the network prefix, bits.
    pub prefix: u8,
    /// The interface is up, and takes multicast or is the loopback.
    pub is_usable: bool,
}

/// Lengths of socket buffers that the host grants.
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

/// Arrival times of a datagram, nanoseconds since the epoch; `None` where the time is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrival {
    /// Time at which the system received the datagram.
    pub media_epoch_ns: Option<i64>,
    /// Time at which the owner of the socket received the datagram.
    pub channel_epoch_ns: Option<i64>,
}

/// A datagram socket with a submission queue.
///
/// Nothing here blocks or allocates after [`Transport::open`].
pub trait Datagrams: Send + 'static {
    /// The bound address, with the port the system chose.
    fn local_address(&self) -> SocketAddr;

    /// Connects a connected socket to another address; no submission may be queued.
    ///
    /// # Errors
    ///
    /// The system refuses; the socket keeps its old peer.
    fn reconnect(&mut self, to: SocketAddr) -> Result<(), TransportError>;

    /// Called by the agent that uses the socket before it gives the socket away to be closed. The socket is not used
    /// again. This does whatever must be done on the thread of that agent.
    fn retire(&mut self) {}

    /// Number of datagrams of a stream that are worth submitting together.
    fn batch_length(&self) -> usize {
        4
    }

    /// Queues one datagram. `token` comes back with its completion. A connected socket may omit `to`.
    fn submit(&mut self, token: u64, bytes: SendBuffer<'_>, to: Option<SocketAddr>) -> Result<(), QueueFull>;

    /// Sends queued datagrams and reports finished submissions: the bytes sent, 0 when the system had no room (a
    /// short send; the caller sends again from its position), or an error. Returns the number of completions.
    fn complete(&mut self, visit: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize;

    /// Passes arrived datagrams with their source to `visit`, at most one batch; returns the bytes received.
    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError>;

    /// Works as [`receive`](Self::receive), and passes the times of each datagram. The system's time is present only
    /// where the system stamps datagrams and the socket was opened for it.
    fn receive_stamped(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr, &Arrival),
    ) -> Result<usize, TransportError> {
        let arrival = Arrival { media_epoch_ns: None, channel_epoch_ns: self.epoch_ns() };
        self.receive(&mut |bytes, source| visit(bytes, source, &arrival))
    }

    /// Time with which datagrams are stamped, nanoseconds since the epoch; `None` where nothing is stamped.
    fn epoch_ns(&self) -> Option<i64> {
        None
    }
}
