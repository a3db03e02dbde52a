//! A relay between a sender and a receiver that records the order of datagrams.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::source;

/// One datagram, identified by its first frame.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// Relay that recorded the datagram.
    pub relay: char,
    pub is_to_receiver: bool,
    pub kind: &'static str,
    pub length: usize,
    frame_length: i32,
    pub flags: u8,
}

impl Step {
    fn of(relay: char, is_to_receiver: bool, bytes: &[u8]) -> Self {
        let frame_length = i32::from_le_bytes(bytes[..4].try_into().unwrap());
        let kind = match (u16::from_le_bytes([bytes[6], bytes[7]]), frame_length) {
            (0, _) => "PAD",
            (1, 0) => "HEARTBEAT",
            (1, _) => "DATA",
            (2, _) => "NAK",
            (3, _) => "SM",
            (4, _) => "ERR",
            (5, _) => "SETUP",
            (6, _) => "RTTM",
            (11, _) => "RSPSETUP",
            (other, _) => panic!("frame type {other}"),
        };
        Self { relay, is_to_receiver, kind, length: bytes.len(), frame_length, flags: bytes[5] }
    }

    fn asks_for_setup(&self) -> bool {
        self.kind == "SM" && self.flags & 0x80 != 0
    }

    /// Parses a line of a capture: number, seconds, relay, direction, kind, lengths, flags, mark.
    fn parse(line: &str) -> Self {
        let fields: Vec<_> = line.split('\t').collect();
        let value = |at: usize| fields[at].split_once('=').unwrap().1;
        let kinds = ["PAD", "HEARTBEAT", "DATA", "NAK", "SM", "ERR", "SETUP", "RTTM", "RSPSETUP"];
        Self {
            relay: fields[2].parse().unwrap(),
            is_to_receiver: fields[3] == "c2t",
            kind: kinds.into_iter().find(|kind| *kind == fields[4]).unwrap(),
            length: value(5).parse().unwrap(),
            frame_length: value(6).parse().unwrap(),
            flags: u8::from_str_radix(value(7), 16).unwrap(),
        }
    }
}

/// The steps without repetitions; a new SETUP resets the comparison, except for idle heartbeats. SETUPs and their
/// requests repeat until they are answered, and once more after a late answer, so their number depends on the machine.
pub fn essence(steps: &[Step]) -> Vec<Step> {
    let (mut seen, mut opening) = (BTreeSet::new(), BTreeSet::new());
    let mut kept = Vec::new();
    for step in steps {
        match step.kind {
            // A first fragment follows another only when a slow machine caused a second NAK.
            "DATA" if step.flags == 0x80 && kept.last() == Some(step) => {}
            "DATA" | "PAD" => {
                opening.clear();
                kept.push(step.clone());
            }
            "SETUP" if opening.insert(step.clone()) => {
                seen.retain(|step: &Step| step.kind == "HEARTBEAT");
                kept.push(step.clone());
            }
            "SM" if step.asks_for_setup() => {
                kept.extend(opening.insert(step.clone()).then(|| step.clone()));
            }
            "SETUP" => {}
            _ => kept.extend(seen.insert(step.clone()).then(|| step.clone())),
        }
    }
    kept
}

/// SETUPs that do not repeat an unanswered one.
pub fn setups<'a>(steps: impl IntoIterator<Item = &'a Step>) -> usize {
    let (mut count, mut is_open) = (0, false);
    for step in steps {
        match step.kind {
            "SETUP" => {
                count += usize::from(!is_open);
                is_open = true;
            }
            "SM" if !step.asks_for_setup() => is_open = false,
            _ => {}
        }
    }
    count
}

/// Recorded steps of a released driver.
pub fn capture(peer: &str, scenario: &str) -> Vec<Step> {
    let path = source("peers/sequences").join(format!("{peer}-{scenario}.tsv"));
    std::fs::read_to_string(path).unwrap().lines().map(Step::parse).collect()
}

/// Loses the first fragment of a message and forwards the rest of the message at once. The receiver sends its NAK as
/// soon as it sees the gap; otherwise its order relative to the last fragment would depend on the machine.
enum Loss {
    Never,
    Ahead,
    Within(Vec<Vec<u8>>),
}

impl Loss {
    fn new(loses_a_fragment: bool) -> Self {
        if loses_a_fragment { Self::Ahead } else { Self::Never }
    }

    /// Datagrams to forward now.
    fn pass(&mut self, step: &Step, datagram: &[u8]) -> Vec<Vec<u8>> {
        let is_data = step.kind == "DATA";
        match self {
            Self::Ahead if is_data && step.flags == 0x80 => {
                *self = Self::Within(Vec::new());
                Vec::new()
            }
            Self::Within(held) if is_data => {
                held.push(datagram.to_vec());
                if step.flags != 0x40 {
                    return Vec::new();
                }
                let whole = std::mem::take(held);
                *self = Self::Never;
                whole
            }
            _ => vec![datagram.to_vec()],
        }
    }
}

/// Forwards datagrams both ways and records their order.
pub struct Relay {
    /// Address that senders use.
    pub address: SocketAddr,
    steps: Arc<Mutex<Vec<Step>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// A relay with a name, in front of a receiver.
    pub fn start(name: char, receiver: SocketAddr, loses_a_fragment: bool) -> Self {
        Self::with_steps(name, receiver, loses_a_fragment, Arc::default())
    }

    /// A relay that records the order together with this one.
    pub fn beside(&self, name: char, receiver: SocketAddr) -> Self {
        Self::with_steps(name, receiver, false, self.steps.clone())
    }

    fn with_steps(
        name: char,
        receiver: SocketAddr,
        loses_a_fragment: bool,
        steps: Arc<Mutex<Vec<Step>>>,
    ) -> Self {
        let (to_sender, to_receiver) = (socket(), socket());
        to_receiver.connect(receiver).unwrap();
        let address = to_sender.local_addr().unwrap();
        let sender = Arc::new(Mutex::new(address));
        let mut relay = Self { address, steps, stop: Arc::default(), threads: Vec::new() };
        let (from_sender, known) = (to_sender.try_clone().unwrap(), sender.clone());
        let (from_receiver, mut loss) = (to_receiver.try_clone().unwrap(), Loss::new(loses_a_fragment));
        relay.run(move |steps| {
            let mut bytes = [0; 65_536];
            let Ok((length, from)) = from_sender.recv_from(&mut bytes) else { return };
            *known.lock().unwrap() = from;
            let step = Step::of(name, true, &bytes[..length]);
            steps.lock().unwrap().push(step.clone());
            for datagram in loss.pass(&step, &bytes[..length]) {
                // Some scenarios have no receiver.
                let _ = to_receiver.send(&datagram);
            }
        });
        relay.run(move |steps| {
            let mut bytes = [0; 65_536];
            let Ok(length) = from_receiver.recv(&mut bytes) else { return };
            steps.lock().unwrap().push(Step::of(name, false, &bytes[..length]));
            to_sender.send_to(&bytes[..length], *sender.lock().unwrap()).unwrap();
        });
        relay
    }

    /// Runs one direction on a thread.
    #[expect(clippy::disallowed_methods, reason = "the relay stands between processes")]
    fn run(&mut self, mut pass: impl FnMut(&Mutex<Vec<Step>>) + Send + 'static) {
        let (steps, stop) = (self.steps.clone(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                pass(&steps);
            }
        }));
    }

    /// Steps so far.
    pub fn steps(&self) -> Vec<Step> {
        self.steps.lock().unwrap().clone()
    }

    /// Frames of a kind with these flags.
    pub fn count(&self, kind: &str, flags: u8) -> usize {
        let steps = self.steps.lock().unwrap();
        steps.iter().filter(|step| step.kind == kind && step.flags == flags).count()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A socket with a read timeout, so that the relay notices its end.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket
}
