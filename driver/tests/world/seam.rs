//! The host's transport behind a seam that writes down what is asked of it, and refuses to send where it is told to.

use std::io::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use harrier_platform::HostTransport;
use harrier_ringbuf::transport::{
    BufferLimits, InterfaceAddress, QueueFull, SendBuffer, SocketSpec, TransportOptions,
};
use harrier_ringbuf::{Datagrams, Transport, TransportError};

/// What was asked of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// To send so many datagrams together.
    Send(usize),
    /// To receive; so many datagrams were there.
    Receive(usize),
}

/// Whose sockets are meant: those of publications are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Sender,
    Receiver,
}

/// What the system says to each send.
#[derive(Debug, Clone, Copy)]
pub enum Refusal {
    /// It has no room.
    Full,
    /// An error number.
    Number(i32),
}

#[derive(Default)]
struct State {
    calls: Vec<(Side, Call)>,
    refusals: Vec<(Side, Refusal)>,
}

/// The transport; clones share what is written down.
#[derive(Clone)]
pub struct WatchedTransport {
    inner: HostTransport,
    state: Arc<Mutex<State>>,
}

impl WatchedTransport {
    pub fn new(options: &TransportOptions) -> Self {
        Self { inner: HostTransport::new(options).unwrap(), state: Arc::default() }
    }

    /// What was asked of one side's sockets since the last time.
    pub fn take_calls(&self, side: Side) -> Vec<Call> {
        let calls = std::mem::take(&mut self.state.lock().unwrap().calls);
        calls.into_iter().filter(|(caller, _)| *caller == side).map(|(_, call)| call).collect()
    }

    /// Sends of one side are refused from now on.
    pub fn refuse(&self, side: Side, refusal: Refusal) {
        self.state.lock().unwrap().refusals.push((side, refusal));
    }

    /// Nothing is refused any more.
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
