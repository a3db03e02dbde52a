//! Datagrams at the sockets of a whole driver: a publication that somebody hears, one with destinations, a subscription with
//! an image, and the resolver (spec 02 §8). A stream that the sender of these datagrams does not reach must go on.
//!
//! The input is a row of records: socket, patch, time, length, and the bytes. A patch writes what a datagram of a living
//! stream has over the bytes, so that they get past the first checks.
#![no_main]

use std::net::SocketAddr;

use harrier_client::{Aeron, Context, ExclusivePublication, Subscription};
use harrier_driver::system_counters::SystemCounter;
use harrier_driver::{Driver, DriverContext, ExecutorMode};
use harrier_protocol::udp::frame_type;
use harrier_ringbuf::transport::{Datagrams, SendBuffer, SocketSpec};
use harrier_ringbuf::{Agent, Transport};
use harrier_sim::kernel::Kernel;
use harrier_sim::memory::SimMemory;
use harrier_sim::network::{SimSocket, SimTransport};
use libfuzzer_sys::fuzz_target;

const DIRECTORY: &str = "/dev/shm/aeron";
const VICTIM: usize = 0;
const STRANGER: usize = 1;
/// The stranger's streams.
const STREAM: i32 = 1_001;
const SESSION: i32 = 7;
const TERM_ID: i32 = 100;
const TERM_LENGTH: i32 = 64 << 10;
const MTU: i32 = 1_408;
/// Images that one stream of an endpoint has at most.
const SESSION_LIMIT: i32 = 4;
/// Bytes of a log of three terms with its metadata, and a margin.
const LOG_LENGTH: i64 = 4 * TERM_LENGTH as i64;
/// Counters of an image or of who reads it, with some to spare.
const COUNTERS_OF_IMAGE: usize = 8;
const MS: i64 = 1_000_000;
/// Records of one input that are looked at.
const MAX_RECORDS: usize = 64;

/// The sockets that the stranger reaches.
const TARGETS: [&str; 4] = ["10.0.0.1:5001", "10.0.0.1:5002", "10.0.0.1:5003", "10.0.0.1:5004"];

/// A driver, its client, and the stranger's socket.
struct Rig {
    kernel: Kernel,
    agents: Vec<Box<dyn Agent>>,
    client: Aeron,
    socket: SimSocket,
}

/// A stream within the victim's host.
struct Live {
    publication: ExclusivePublication,
    subscription: Subscription,
    sent: u64,
    heard: u64,
}

impl Rig {
    fn new() -> Self {
        let kernel = Kernel::new(2, 1, false);
        let memory = SimMemory::new(kernel.clone(), VICTIM);
        let mut context = DriverContext::new(DIRECTORY);
        context.conductor_buffer_length = (64 << 10) + 768;
        context.clients_buffer_length = (64 << 10) + 128;
        // State that is cleared for each input costs more than it is worth.
        context.counters_buffer_length = 32 << 10;
        context.error_buffer_length = 16 << 10;
        context.loss_report_buffer_length = 16 << 10;
        context.term_buffer_length = TERM_LENGTH;
        context.ipc_term_buffer_length = TERM_LENGTH;
        context.timer_interval_ns = 20 * MS;
        context.image_liveness_timeout_ns = 500 * MS;
        context.publication_linger_timeout_ns = 100 * MS;
        context.stream_session_limit = SESSION_LIMIT;
        context.resolver_name = "victim".into();
        context.resolver_interface = TARGETS[3].into();
        context.resolver_bootstrap_neighbor = "10.0.0.2:6000".into();
        context.seed = 5;
        let (transport, now) = (SimTransport::new(kernel.clone(), VICTIM), kernel.now(VICTIM));
        let driver =
            Driver::build(context, memory.clone(), transport, ExecutorMode::Inline, &now).expect("a driver");
        let client = Aeron::connect(Context::new(DIRECTORY), memory, &now).expect("a client");
        let spec = SocketSpec::unicast(SocketAddr::from(([10, 0, 0, 2], 6_000)));
        let socket = SimTransport::new(kernel.clone(), STRANGER).open(&spec).expect("a socket");
        Self { kernel, agents: driver.into_agents(), client, socket }
    }

    fn step(&mut self, ns: i64) {
        self.kernel.state().now_ns += ns;
        let now = self.kernel.now(VICTIM);
        for agent in &mut self.agents {
            agent.do_work(&now).expect("an agent goes on");
        }
        self.client.do_work(&now).expect("the client goes on");
        while self.client.poll_event().is_some() {}
    }

    fn run(&mut self, ns: i64, step_ns: i64) {
        for _ in 0..ns / step_ns {
            self.step(step_ns);
        }
    }

    fn exclusive(&mut self, channel: &str, stream_id: i32) -> ExclusivePublication {
        let id = self.client.add_exclusive_publication(channel, stream_id).expect("room for a command");
        for _ in 0..100 {
            self.step(MS);
            if let Some(own) = self.client.exclusive_publication(id).expect("a publication") {
                return own;
            }
        }
        panic!("no publication");
    }

    fn subscription(&mut self, channel: &str, stream_id: i32) -> Subscription {
        let id = self.client.add_subscription(channel, stream_id).expect("room for a command");
        for _ in 0..100 {
            self.step(MS);
            if let Some(own) = self.client.subscription(id).expect("a subscription") {
                return own;
            }
        }
        panic!("no subscription");
    }

    fn hit(&mut self, target: usize, datagram: &[u8]) {
        let to = TARGETS[target].parse().expect("an address");
        if self.socket.submit(0, SendBuffer::Copied(datagram), Some(to)).is_ok() {
            self.socket.complete(&mut |_, _| ());
        }
        while self.socket.receive(&mut |_, _| ()).expect("a socket that works") > 0 {}
    }

    /// Counters, bytes mapped, sockets.
    fn kept(&self) -> (usize, i64, usize) {
        let counters = self.client.counters();
        let mut count = 0;
        // Labels, which a visit of each would read, are not needed.
        let _none = counters.find(&mut |_, _, _| {
            count += 1;
            false
        });
        let bytes = counters.value(SystemCounter::BytesCurrentlyMapped as i32);
        (count, bytes, self.kernel.state().network.open_sockets(VICTIM))
    }
}

impl Live {
    /// Sends a message and hears those that have come, all of them and in order.
    fn exchange(&mut self) {
        if self.publication.offer(&self.sent.to_le_bytes()).is_ok() {
            self.sent += 1;
        }
        let heard = &mut self.heard;
        self.subscription.poll(64, &mut |payload, _| {
            assert_eq!(payload, heard.to_le_bytes());
            *heard += 1;
        });
    }

    fn must_flow(&mut self, rig: &mut Rig) {
        let wanted = self.heard + 20;
        for _ in 0..2_000 {
            for _ in 0..8 {
                self.exchange();
            }
            rig.step(MS);
            if self.heard >= wanted {
                return;
            }
        }
        panic!("the stream has stopped: {} sent, {} heard", self.sent, self.heard);
    }
}

fn put(bytes: &mut [u8], offset: usize, value: i32) {
    if let Some(place) = bytes.get_mut(offset..offset + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// Writes what a datagram of one of the living streams has: by the low bits of the patch its type, and by the high ones
/// header, stream, and position.
fn patch(bytes: &mut [u8], patch: u8, session_id: i32, term_id: i32) {
    const TYPES: [u16; 8] = [
        frame_type::DATA,
        frame_type::PAD,
        frame_type::SETUP,
        frame_type::SM,
        frame_type::NAK,
        frame_type::ERR,
        frame_type::RTTM,
        frame_type::RES,
    ];
    let kind = TYPES[usize::from(patch & 7)];
    if patch & 0x10 != 0 && bytes.len() >= 8 {
        let length = bytes.len() as i32;
        put(bytes, 0, length);
        bytes[4] = 0;
        bytes[6..8].copy_from_slice(&kind.to_le_bytes());
    }
    let is_data = matches!(kind, frame_type::DATA | frame_type::PAD | frame_type::SETUP);
    let at = if is_data { 12 } else { 8 };
    if patch & 0x20 != 0 && kind != frame_type::RES {
        put(bytes, at, session_id);
        put(bytes, at + 4, STREAM);
    }
    if patch & 0x40 != 0 && kind != frame_type::RES {
        put(bytes, at + 8, term_id);
    }
    if patch & 0x80 != 0 && kind == frame_type::SETUP {
        put(bytes, 24, term_id);
        put(bytes, 28, TERM_LENGTH);
        put(bytes, 32, MTU);
    }
}

/// A datagram that begins a stream of the stranger.
fn setup() -> Vec<u8> {
    let mut bytes = vec![0; 40];
    patch(&mut bytes, 0x80 | 0x40 | 0x20 | 0x10 | 2, SESSION, TERM_ID);
    bytes
}

fuzz_target!(|input: &[u8]| {
    let mut rig = Rig::new();
    let mut subscription = rig.subscription("aeron:udp?endpoint=10.0.0.1:5002", STREAM);
    let start = format!("|session-id={SESSION}|init-term-id={TERM_ID}|term-id={TERM_ID}|term-offset=0");
    let heard =
        rig.exclusive(&format!("aeron:udp?endpoint=10.0.0.2:6000|interface=10.0.0.1:5001{start}"), STREAM);
    let destinations =
        rig.exclusive(&format!("aeron:udp?control=10.0.0.1:5003|control-mode=dynamic|fc=min{start}"), STREAM);
    let mut live = Live {
        subscription: rig.subscription("aeron:udp?endpoint=10.0.0.1:5005", 9),
        publication: rig.exclusive("aeron:udp?endpoint=10.0.0.1:5005", 9),
        sent: 0,
        heard: 0,
    };
    rig.hit(1, &setup());
    rig.run(60 * MS, 20 * MS);
    assert_eq!(subscription.images().len(), 1);
    live.must_flow(&mut rig);
    let before = rig.kept();
    let mut streams = (subscription, heard, destinations);
    let mut rest = input;
    for _ in 0..MAX_RECORDS {
        let [target, patches, pause, low, high, ref tail @ ..] = *rest else { break };
        let length = usize::from(u16::from_le_bytes([low, high]) % 2_048).min(tail.len());
        let (bytes, after) = tail.split_at(length);
        rest = after;
        let mut datagram = bytes.to_vec();
        patch(&mut datagram, patches, SESSION, TERM_ID);
        rig.hit(usize::from(target % 4), &datagram);
        rig.step(i64::from(pause) * MS / 4);
        streams.0.poll(16, &mut |_, _| ());
        // The driver may refuse to carry what the stranger hears any further.
        let _refused = (streams.1.offer(b"to the stranger"), streams.2.offer(b"to strangers"));
        live.exchange();
        let (counters, bytes, sockets) = rig.kept();
        let images = SESSION_LIMIT as usize;
        assert!(counters <= before.0 + images * COUNTERS_OF_IMAGE, "{counters} counters");
        assert!(bytes <= before.1 + images as i64 * LOG_LENGTH, "{bytes} bytes");
        assert_eq!(sockets, before.2);
    }
    live.must_flow(&mut rig);
    // All that the stranger began has ended.
    drop(streams);
    rig.run(3_000 * MS, 75 * MS);
    live.must_flow(&mut rig);
    let after = rig.kept();
    assert!(after.0 <= before.0 && after.1 <= before.1 && after.2 <= before.2, "{after:?} after {before:?}");
});
