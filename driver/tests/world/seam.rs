//! A transport on the host's sockets that records calls and can refuse sends.

use std::io::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use harrier_platform::HostTransport;
use harrier_ringbuf::transport::{
    BufferLimits, InterfaceAddress, QueueFull, SendBuffer, SocketSpec, TransportOptions,
};
use harrier_ringbuf::{Datagrams, Transport, TransportError};

/// Recorded call on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A send of this many datagrams at once.
    Send(usize),
    /// A receive that found this many datagrams.
    Receive(usize),
}

/// Owner of a socket. Connected sockets belong to publications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Sender,
    Receiver,
}

/// Simulated result of each send.
#[derive(Debug, Clone, Copy)]
pub enum Refusal {
    /// The system has no room.
    Full,
    /// The system fails with this error number.
    Number(i32),
}

#[derive(Default)]
struct State {
    calls: Vec<(Side, Call)>,
    refusals: Vec<(Side, Refusal)>,
}

/// Transport that records calls. Clones share the record.
#[derive(Clone)]
pub struct WatchedTransport {
    inner: HostTransport,
    state: Arc<Mutex<State>>,
}

impl WatchedTransport {
    pub fn new(options: &TransportOptions) -> Self {
        Self { inner: HostTransport::new(options).unwrap(), state: Arc::default() }
    }

    /// Takes the calls that one side's sockets have recorded.
    pub fn take_calls(&self, side: Side) -> Vec<Call> {
        let calls = std::mem::take(&mut self.state.lock().unwrap().calls);
        calls.into_iter().filter(|(caller, _)| *caller == side).map(|(_, call)| call).collect()
    }

    /// Refuses the sends of one side from now on.
    pub fn refuse(&self, side: Side, refusal: Refusal) {
        self.state.lock().unwrap().refusals.push((side, refusal));
    }

    /// Ends all refusals.
    pub fn refuse_nothing(&self) {
        self.state.lock().unwrap().refusals.clear();
    }
}

impl Transport for WatchedTransport {
    type Socket = WatchedSocket;

    fn open(&self, spec: &SocketSpec) -> Result<WatchedSocket, TransportError> {
        let side = if spec.connect.is_some() { Side::Sender } else { Side::Receiver };
        let inner = self.inner.open(spec)?;
        Ok(WatchedSocket { inner, side, state: self.state.clone(), queued: 0, refused: Vec::new() })
    }

    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
        self.inner.resolve(host, port)
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        self.inner.interfaces()
    }

    fn buffer_limits(&self) -> BufferLimits {
        self.inner.buffer_limits()
    }
}

pub struct WatchedSocket {
    inner: <HostTransport as Transport>::Socket,
    side: Side,
    state: Arc<Mutex<State>>,
    queued: usize,
    refused: Vec<(u64, Refusal)>,
}

impl WatchedSocket {
    fn note(&self, call: Call) {
        self.state.lock().unwrap().calls.push((self.side, call));
    }

    fn refusal(&self) -> Option<Refusal> {
        let state = self.state.lock().unwrap();
        state.refusals.iter().find(|(side, _)| *side == self.side).map(|(_, refusal)| *refusal)
    }
}

impl Datagrams for WatchedSocket {
    fn local_address(&self) -> SocketAddr {
        self.inner.local_address()
    }

    fn reconnect(&mut self, to: SocketAddr) -> Result<(), TransportError> {
        self.inner.reconnect(to)
    }

    fn retire(&mut self) {
        self.inner.retire();
    }

    fn batch_length(&self) -> usize {
        self.inner.batch_length()
    }

    fn submit(&mut self, token: u64, bytes: SendBuffer<'_>, to: Option<SocketAddr>) -> Result<(), QueueFull> {
        match self.refusal() {
            Some(refusal) => self.refused.push((token, refusal)),
            None => self.inner.submit(token, bytes, to)?,
        }
        self.queued += 1;
        Ok(())
    }

    fn complete(&mut self, visit: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize {
        let queued = std::mem::take(&mut self.queued);
        if queued > 0 {
            self.note(Call::Send(queued));
        }
        let local = self.local_address();
        for (token, refusal) in self.refused.drain(..) {
            let outcome = match refusal {
                Refusal::Full => Ok(0),
                Refusal::Number(number) => {
                    let source = Error::from_raw_os_error(number);
                    Err(TransportError::Io { operation: "send", local, source })
                }
            };
            visit(token, outcome);
        }
        self.inner.complete(visit);
        queued
    }

    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError> {
        let mut datagrams = 0;
        let received = self.inner.receive(&mut |bytes, source| {
            datagrams += 1;
            visit(bytes, source);
        });
        self.note(Call::Receive(datagrams));
        received
    }
}
