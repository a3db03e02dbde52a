//! The transport back end that the settings choose.

use crate::udp::{UdpSocket, UdpTransport};
use crate::uring::{UringSocket, UringTransport};
use harrier_ringbuf::transport::{
    Arrival, BufferLimits, InterfaceAddress, QueueFull, SendBuffer, SocketSpec, TransportKind,
    TransportOptions,
};
use harrier_ringbuf::{Datagrams, Transport, TransportError};
use std::net::SocketAddr;

/// Opens sockets of the host with the back end of its options.
#[derive(Clone)]
pub struct HostTransport {
    kind: Kind,
    most_per_send: Option<usize>,
}

#[derive(Clone)]
enum Kind {
    Sockets(TransportOptions),
    IoUring(UringTransport),
}

impl HostTransport {
    /// Creates a transport with these options.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unavailable`] when the host lacks or forbids the back end.
    pub fn new(options: &TransportOptions) -> Result<Self, TransportError> {
        let kind = match options.kind {
            TransportKind::Sockets => Kind::Sockets(*options),
            TransportKind::IoUring => {
                Kind::IoUring(UringTransport::new(options.segmentation, options.kernel_polling)?)
            }
        };
        Ok(Self { kind, most_per_send: options.most_per_send.map(|most| most.max(1)) })
    }
}

impl Transport for HostTransport {
    type Socket = HostSocket;

    fn open(&self, spec: &SocketSpec) -> Result<HostSocket, TransportError> {
        let socket = match &self.kind {
            Kind::Sockets(options) => Socket::Plain(UdpSocket::open(spec, options)?),
            Kind::IoUring(transport) => Socket::IoUring(Box::new(transport.open(spec)?)),
        };
        Ok(HostSocket(socket, self.most_per_send))
    }

    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
        UdpTransport.resolve(host, port)
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        UdpTransport.interfaces()
    }

    fn buffer_limits(&self) -> BufferLimits {
        UdpTransport.buffer_limits()
    }
}

/// A socket of a [`HostTransport`].
pub struct HostSocket(
    Socket,
    // Most datagrams of a batch, where a setting limits them.
    Option<usize>,
);

enum Socket {
    Plain(UdpSocket),
    IoUring(Box<UringSocket>),
}

/// Evaluates the same expression for each kind of socket.
macro_rules! on_socket {
    ($socket:expr, $name:ident => $call:expr) => {
        match $socket {
            Socket::Plain($name) => $call,
            Socket::IoUring($name) => $call,
        }
    };
}

impl Datagrams for HostSocket {
    fn local_address(&self) -> SocketAddr {
        on_socket!(&self.0, socket => socket.local_address())
    }

    fn reconnect(&mut self, to: SocketAddr) -> Result<(), TransportError> {
        on_socket!(&mut self.0, socket => socket.reconnect(to))
    }

    fn retire(&mut self) {
        on_socket!(&mut self.0, socket => socket.retire());
    }

    fn batch_length(&self) -> usize {
        let most = on_socket!(&self.0, socket => socket.batch_length());
        self.1.map_or(most, |limit| most.min(limit))
    }

    fn submit(&mut self, token: u64, bytes: SendBuffer<'_>, to: Option<SocketAddr>) -> Result<(), QueueFull> {
        on_socket!(&mut self.0, socket => socket.submit(token, bytes, to))
    }

    fn complete(&mut self, visit: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize {
        on_socket!(&mut self.0, socket => socket.complete(visit))
    }

    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError> {
        on_socket!(&mut self.0, socket => socket.receive(visit))
    }

    fn receive_stamped(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr, &Arrival),
    ) -> Result<usize, TransportError> {
        on_socket!(&mut self.0, socket => socket.receive_stamped(visit))
    }

    fn epoch_ns(&self) -> Option<i64> {
        on_socket!(&self.0, socket => socket.epoch_ns())
    }
}

#[cfg(test)]
mod tests;
