//! Memory that unauthenticated clients can make a node allocate.

use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harrier::client::{Aeron, Context};
use harrier::cluster::codec::{Ingress, PROTOCOL_VERSION};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use harrier::ringbuf::append::OfferError;
use harrier::{BlockingClusterClient, Node, NodeContext};
use harrier_protocol::counter_types::type_id::INGRESS_REFUSED;
use harrier_protocol::udp::{SETUP_LENGTH, Setup};

use crate::node::{Heard, base, keepers, told, until};
use crate::support::Cluster;

const INGRESS_STREAM: i32 = 101;
/// Maximum memory of an attack, bytes.
const BAR: u64 = 64 << 20;

/// Bytes that the file system allocates for all files below a directory.
fn allocated(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => allocated(&path),
            Ok(metadata) => metadata.blocks() * 512,
            // The driver may have deleted the file meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// Sends connect requests from one stream, each with its own response channel.
fn ask_for_sessions(aeron: &mut Aeron, endpoint: &str, count: i64) {
    let channel = format!("aeron:udp?endpoint={endpoint}|term-length=64k");
    let id = aeron.add_exclusive_publication(&channel, INGRESS_STREAM).unwrap();
    let mut ingress = None;
    until("the ingress publication", || {
        aeron.do_work(&SystemClock.now()).unwrap();
        ingress = aeron.exclusive_publication(id).unwrap();
        ingress.is_some()
    });
    let mut ingress = ingress.unwrap();
    let mut bytes = vec![0; 1_024];
    for number in 0..count {
        // Nobody listens there.
        let response_channel = format!("aeron:udp?endpoint=127.0.0.1:{}", 20_000 + number);
        let request = Ingress::Connect {
            correlation_id: number,
            response_stream_id: 102,
            version: PROTOCOL_VERSION,
            response_channel: &response_channel,
            credentials: b"",
            client_info: "",
        };
        let length = request.encode(&mut bytes).unwrap();
        until("room for a request", || {
            aeron.do_work(&SystemClock.now()).unwrap();
            match ingress.offer(&bytes[..length]) {
                Ok(_) => true,
                Err(OfferError::NotConnected | OfferError::BackPressured | OfferError::AdminAction) => false,
                Err(error) => panic!("{error}"),
            }
        });
    }
}

fn forge_setups(endpoint: &str, count: i32) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for session_id in 0..count {
        let setup = Setup {
            flags: 0,
            term_offset: 0,
            session_id,
            stream_id: INGRESS_STREAM,
            initial_term_id: 7,
            active_term_id: 7,
            term_length: 1 << 30,
            mtu: 1_408,
            ttl: 0,
        };
        let mut bytes = [0; SETUP_LENGTH];
        setup.encode(&mut bytes).unwrap();
        socket.send_to(&bytes, endpoint).unwrap();
    }
}

#[test]
fn connect_requests_and_setups_of_strangers_cost_little_and_honest_clients_are_served() {
    let base = base();
    let cluster = Cluster::new(base.path()).unwrap();
    let aeron_directory = cluster.aeron_directory();
    // Default settings of a node: its logs are not sparse, and terms have 16 MiB.
    let context = NodeContext { sparse_logs: false, ..cluster.context() };
    let endpoint = context.members.split(',').nth(1).unwrap().to_owned();
    let node = Node::launch(context, keepers(1)).unwrap();
    until("readiness", || node.is_ready());
    let now = SystemClock.now();
    let mut aeron = Aeron::connect(Context::new(&aeron_directory), MappedMemory, &now).unwrap();
    let before = allocated(&aeron_directory);
    forge_setups(&endpoint, 3);
    ask_for_sessions(&mut aeron, &endpoint, 40);
    let refused = aeron.counters().find(&mut |_, type_id, _| type_id == INGRESS_REFUSED).unwrap();
    // Sixteen requests may be queued; the oldest were dropped.
    until("the last request", || {
        aeron.do_work(&SystemClock.now()).unwrap();
        aeron.counters().value(refused) >= 24
    });
    let cost = allocated(&aeron_directory).saturating_sub(before);
    assert!(cost < BAR, "the attack costs {cost} bytes");

    let mut settings = cluster.client_context();
    settings.ingress_channel = "aeron:udp?term-length=16m".into();
    let mut client = BlockingClusterClient::connect(&aeron_directory, settings).unwrap();
    client.offer(b"honest", &mut Heard::default()).unwrap();
    assert_eq!(told(&mut client, 1), ["0 has honest"]);
    // The log of the ingress stream is allocated when its session opens, so no later message waits for memory.
    let images = aeron_directory.join("images");
    until("the memory of the client's ingress stream", || allocated(&images) >= 48 << 20);
    let long = vec![7; 100_000];
    for _ in 0..10 {
        client.offer(&long, &mut Heard::default()).unwrap();
    }
    client.close();
    node.stop().unwrap();
}
