//! A network in memory. Sent datagrams are queued at the receiver, unless a rule loses them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use harrier_protocol::udp::Frame;
use harrier_ringbuf::transport::{BufferLimits, InterfaceAddress, QueueFull, SendBuffer, SocketSpec};
use harrier_ringbuf::{Datagrams, Region, Transport, TransportError};

/// A datagram that was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

impl Sent {
    pub(super) fn frame(&self) -> Frame<'_> {
        Frame::decode(&self.bytes).unwrap_or_else(|error| panic!("{error}: {:?}", self.bytes))
    }
}

type Rule = Box<dyn FnMut(&Sent) -> bool + Send>;

#[derive(Default)]
struct State {
    waiting: BTreeMap<SocketAddr, VecDeque<(Vec<u8>, SocketAddr)>>,
    sent: Vec<Sent>,
    loses: Option<Rule>,
    /// Most datagrams that one call may send; `None` for no limit.
    room: Option<usize>,
    fails: bool,
}

/// The network; cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Net(Arc<Mutex<State>>);

impl Net {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A socket that is connected to `peer`, or to none.
    pub(super) fn socket(&self, local: SocketAddr, peer: Option<SocketAddr>) -> NetSocket {
        NetSocket { net: self.clone(), local, peer, queue: Vec::new() }
    }

    /// Loses the datagrams that match the rule, from now on.
    pub(super) fn lose(&self, rule: impl FnMut(&Sent) -> bool + Send + 'static) {
        self.state().loses = Some(Box::new(rule));
    }

    /// Limits the datagrams that the system takes of a batch from now on; `None` for no limit.
    pub(super) fn set_room(&self, room: Option<usize>) {
        self.state().room = room;
    }

    /// Sets whether every send fails from now on.
    pub(super) fn set_failing(&self, fails: bool) {
        self.state().fails = fails;
    }

    /// Hands a datagram to a socket as if `from` had sent it.
    pub(super) fn inject(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.state().waiting.entry(to).or_default().push_back((bytes.to_vec(), from));
    }

    /// Takes the record of sent datagrams.
    pub(super) fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.state().sent)
    }
}

pub(super) struct NetSocket {
    net: Net,
    local: SocketAddr,
    peer: Option<SocketAddr>,
    queue: Vec<(u64, Sent)>,
}

impl Datagrams for NetSocket {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn reconnect(&mut self, to: SocketAddr) -> Result<(), TransportError> {
        self.peer = Some(to);
        Ok(())
    }

    fn submit(&mut self, token: u64, bytes: SendBuffer<'_>, to: Option<SocketAddr>) -> Result<(), QueueFull> {
        if self.queue.len() == 8 {
            return Err(QueueFull);
        }
        let bytes = match bytes {
            SendBuffer::Copied(bytes) => bytes.to_vec(),
            SendBuffer::Log { buffer, offset, length } => {
                let mut bytes = vec![0; length];
                buffer.copy_out(offset, &mut bytes);
                bytes
            }
        };
        let to = to.or(self.peer).expect("a destination, or a connected socket");
        self.queue.push((token, Sent { from: self.local, to, bytes }));
        Ok(())
    }

    fn complete(&mut self, visit: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize {
        let count = self.queue.len();
        for (index, (token, sent)) in self.queue.drain(..).enumerate() {
            let mut state = self.net.state();
            let state = &mut *state;
            if state.room.is_some_and(|room| index >= room) {
                visit(token, Ok(0));
                continue;
            }
            if state.fails {
                let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
                visit(token, Err(TransportError::Io { operation: "send", local: self.local, source }));
                continue;
            }
            let is_lost = state.loses.as_mut().is_some_and(|rule| rule(&sent));
            if !is_lost {
                state.waiting.entry(sent.to).or_default().push_back((sent.bytes.clone(), sent.from));
            }
            visit(token, Ok(sent.bytes.len()));
            state.sent.push(sent);
        }
        count
    }

    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError> {
        let batch: Vec<_> = match self.net.state().waiting.get_mut(&self.local) {
            Some(waiting) => waiting.drain(..waiting.len().min(16)).collect(),
            None => return Ok(0),
        };
        let mut bytes = 0;
        for (datagram, source) in batch {
            if self.peer.is_none_or(|peer| peer == source) {
                bytes += datagram.len();
                visit(&datagram, source);
            }
        }
        Ok(bytes)
    }
}

impl Transport for Net {
    type Socket = NetSocket;

    fn open(&self, spec: &SocketSpec) -> Result<NetSocket, TransportError> {
        Ok(self.socket(spec.bind, spec.connect))
    }

    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
        let unknown = |_| TransportError::UnknownHost { name: host.to_owned() };
        host.parse().map(|ip| SocketAddr::new(ip, port)).map_err(unknown)
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        Vec::new()
    }

    fn buffer_limits(&self) -> BufferLimits {
        BufferLimits::default()
    }
}
