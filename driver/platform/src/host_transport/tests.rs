use super::*;
use crate::SystemClock;
use crate::send_queue::QUEUE_CAPACITY;
use harrier_ringbuf::{AtomicBuffer, Clock, Region};

/// Time-out of the tests, ns. A kernel thread may have to wait for a core.
const PATIENCE_NS: i64 = 60_000_000_000;

/// Returns a transport for each back end. A back end that this host lacks is skipped with a message, or is a failure
/// where all peers are required.
fn transports() -> Vec<HostTransport> {
    let (sockets, uring) = (TransportKind::Sockets, TransportKind::IoUring);
    let ways = [
        (sockets, true, false),
        (sockets, false, false),
        (uring, true, false),
        (uring, false, false),
        (uring, true, true),
    ];
    let mut found = Vec::new();
    for (kind, segmentation, kernel_polling) in ways {
        let options = TransportOptions { kind, segmentation, kernel_polling, ..TransportOptions::default() };
        match HostTransport::new(&options) {
            Ok(transport) => found.push(transport),
            Err(error) if std::env::var_os("HARRIER_REQUIRE_PEERS").is_some_and(|value| value == "1") => {
                panic!("{options:?}: {error}");
            }
            Err(error) => eprintln!("SKIPPED {options:?}: {error}"),
        }
    }
    found
}

fn open(transport: &HostTransport) -> HostSocket {
    transport.open(&SocketSpec::unicast("127.0.0.1:0".parse().unwrap())).unwrap()
}

fn receive_all(socket: &mut HostSocket, count: usize) -> Vec<Vec<u8>> {
    receive_with_sources(socket, count).into_iter().map(|(bytes, _)| bytes).collect()
}

fn receive_with_sources(socket: &mut HostSocket, count: usize) -> Vec<(Vec<u8>, SocketAddr)> {
    let mut seen = Vec::new();
    until(count, || {
        socket.receive(&mut |bytes, source| seen.push((bytes.to_vec(), source))).unwrap();
        seen.len()
    });
    seen
}

/// Works until `count` datagrams have arrived.
fn until(count: usize, mut work: impl FnMut() -> usize) {
    let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
    loop {
        let arrived = work();
        if arrived >= count {
            return;
        }
        assert!(SystemClock.now().ns < deadline_ns, "{arrived} of {count} datagrams arrived");
        std::thread::yield_now();
    }
}

fn log() -> AtomicBuffer {
    let log = AtomicBuffer::heap(1 << 17);
    log.copy_in(0, &(0..1 << 17).map(|byte| (byte / 7) as u8).collect::<Vec<_>>());
    log
}

/// Sends ranges of a log with the given lengths, one after the other, and checks what arrives.
fn exchange(from: &mut HostSocket, to: &mut HostSocket, to_address: Option<SocketAddr>, lengths: &[usize]) {
    let log = log();
    let mut offset = 0;
    let mut expected = Vec::new();
    for (token, length) in lengths.iter().enumerate() {
        let buffer = SendBuffer::Log { buffer: &log, offset, length: *length };
        from.submit(token as u64, buffer, to_address).unwrap();
        expected.push((offset..offset + length).map(|byte| (byte / 7) as u8).collect::<Vec<u8>>());
        offset += length;
    }
    let mut sent = Vec::new();
    assert_eq!(from.complete(&mut |token, outcome| sent.push((token, outcome.unwrap()))), lengths.len());
    assert_eq!(sent, (0..).zip(lengths.iter().copied()).collect::<Vec<_>>());
    assert_eq!(receive_all(to, lengths.len()), expected);
}

#[test]
fn datagrams_of_all_lengths_arrive() {
    for transport in transports() {
        let (mut from, mut to) = (open(&transport), open(&transport));
        for length in [1, 32, 1_408, 60_000] {
            let address = to.local_address();
            exchange(&mut from, &mut to, Some(address), &[length]);
        }
    }
}

#[test]
fn runs_arrive_datagram_by_datagram_whoever_cuts_them() {
    let lengths = [[1_408; 20].as_slice(), &[96, 1_408, 1_408, 32, 64, 64, 64, 1_024]].concat();
    let all = transports();
    for sender in &all {
        for receiver in &all {
            let (mut from, mut to) = (open(sender), open(receiver));
            let address = to.local_address();
            for _ in 0..4 {
                exchange(&mut from, &mut to, Some(address), &lengths);
                exchange(&mut from, &mut to, Some(address), &[8_192; 7]);
            }
        }
    }
}

#[test]
fn control_frames_arrive_in_order_with_their_source() {
    for transport in transports() {
        let (mut from, mut to) = (open(&transport), open(&transport));
        for number in 0..40_u8 {
            from.submit(u64::from(number), SendBuffer::Copied(&[number; 8]), Some(to.local_address()))
                .unwrap();
        }
        let mut tokens = Vec::new();
        assert_eq!(from.complete(&mut |token, _| tokens.push(token)), 40);
        assert_eq!(tokens, (0..40).collect::<Vec<_>>());
        let expected: Vec<_> = (0..40_u8).map(|number| (vec![number; 8], from.local_address())).collect();
        assert_eq!(receive_with_sources(&mut to, 40), expected);
    }
}

#[test]
fn a_connected_socket_needs_no_destination_and_hears_its_peer_only() {
    for transport in transports() {
        let (mut peer, mut stranger) = (open(&transport), open(&transport));
        let mut spec = SocketSpec::unicast("127.0.0.1:0".parse().unwrap());
        spec.connect = Some(peer.local_address());
        let mut socket = transport.open(&spec).unwrap();
        exchange(&mut socket, &mut peer, None, &[100]);
        exchange(&mut socket, &mut peer, None, &[1_408, 1_408, 96]);
        let address = socket.local_address();
        stranger.submit(0, SendBuffer::Copied(b"stranger"), Some(address)).unwrap();
        stranger.complete(&mut |_, outcome| assert_eq!(outcome.unwrap(), 8));
        exchange(&mut peer, &mut socket, Some(address), &[64, 64]);
        let mut other = open(&transport);
        socket.reconnect(other.local_address()).unwrap();
        exchange(&mut socket, &mut other, None, &[64]);
    }
}

#[test]
fn nobody_who_listens_is_a_lost_datagram() {
    for transport in transports() {
        let mut spec = SocketSpec::unicast("127.0.0.1:0".parse().unwrap());
        spec.connect = Some(open(&transport).local_address());
        let mut socket = transport.open(&spec).unwrap();
        for _ in 0..4 {
            socket.submit(0, SendBuffer::Copied(b"lost"), None).unwrap();
            socket.complete(&mut |_, outcome| assert_eq!(outcome.unwrap(), 4));
            assert_eq!(socket.receive(&mut |_, _| panic!("nobody sends")).unwrap(), 0);
        }
    }
}

#[test]
fn bursts_longer_than_all_buffers_arrive() {
    for transport in transports() {
        let mut spec = SocketSpec::unicast("127.0.0.1:0".parse().unwrap());
        spec.rcvbuf_length = 2 << 20;
        let (mut from, mut to) = (open(&transport), transport.open(&spec).unwrap());
        let log = log();
        for round in 0..4_usize {
            for index in 0..48_usize {
                // The lengths alternate, which keeps the kernel from coalescing the datagrams.
                let length = 64 + (index % 2) * 32;
                let buffer = SendBuffer::Log { buffer: &log, offset: (round * 48 + index) * 96, length };
                from.submit(0, buffer, Some(to.local_address())).unwrap();
            }
            from.complete(&mut |_, outcome| assert!(outcome.unwrap() > 0));
        }
        let arrived = receive_all(&mut to, 192);
        for (index, datagram) in arrived.iter().enumerate() {
            assert_eq!(datagram.len(), 64 + (index % 2) * 32);
            assert_eq!(datagram[0], ((index * 96) / 7) as u8);
        }
    }
}

#[test]
fn a_full_queue_says_so_and_nothing_received_is_no_error() {
    for transport in transports() {
        let (mut from, mut to) = (open(&transport), open(&transport));
        for _ in 0..QUEUE_CAPACITY {
            from.submit(0, SendBuffer::Copied(b"x"), Some(to.local_address())).unwrap();
        }
        assert_eq!(from.submit(0, SendBuffer::Copied(b"x"), None), Err(QueueFull));
        assert_eq!(to.receive(&mut |_, _| ()).unwrap(), 0);
    }
}

#[test]
fn a_port_is_free_as_soon_as_its_socket_is_closed() {
    for transport in transports() {
        // The system gives this port to nobody else meanwhile.
        let address = ([127, 0, 0, 1], crate::free_ports(1).unwrap()[0]).into();
        let spec = SocketSpec::unicast(address);
        let mut first = transport.open(&spec).unwrap();
        assert_eq!(first.receive(&mut |_, _| ()).unwrap(), 0);
        let Err(error) = transport.open(&spec) else { panic!("two sockets on one port") };
        assert!(error.to_string().contains(&first.local_address().to_string()), "{error}");
        for _ in 0..20 {
            first.retire();
            drop(first);
            first = transport.open(&spec).unwrap();
            first.receive(&mut |_, _| ()).unwrap();
        }
        // The owner gives the socket away, and another thread closes it.
        first.retire();
        std::thread::scope(|scope| drop(scope.spawn(move || drop(first))));
        transport.open(&spec).unwrap();
    }
}

#[test]
fn sockets_work_on_whatever_thread_they_are_given_to() {
    for transport in transports() {
        let (mut from, mut to) = (open(&transport), open(&transport));
        for _ in 0..3 {
            let address = to.local_address();
            let work = move || {
                exchange(&mut from, &mut to, Some(address), &[1_408, 1_408, 64]);
                (from, to)
            };
            (from, to) = std::thread::scope(|scope| scope.spawn(work).join().unwrap());
        }
    }
}

#[test]
fn names_are_resolved_alike() {
    for transport in transports() {
        assert!(transport.resolve("no-such-host.invalid", 1).is_err());
        assert!(transport.resolve("localhost", 1).unwrap().ip().is_loopback());
        assert!(!transport.interfaces().is_empty());
        assert!(transport.buffer_limits().max_rcvbuf > 0);
    }
}

#[test]
fn the_system_stamps_what_arrives_when_it_is_asked_to() {
    let spec = SocketSpec { stamps: true, ..SocketSpec::unicast("127.0.0.1:0".parse().unwrap()) };
    for transport in transports() {
        let mut from = open(&transport);
        for (mut to, is_stamped) in [(transport.open(&spec).unwrap(), true), (open(&transport), false)] {
            let before_ns = to.epoch_ns().unwrap();
            for number in 0..3_u8 {
                from.submit(0, SendBuffer::Copied(&[number; 8]), Some(to.local_address())).unwrap();
            }
            from.complete(&mut |_, _| ());
            let mut arrivals = Vec::new();
            until(3, || {
                to.receive_stamped(&mut |bytes, source, arrival| {
                    assert_eq!((bytes[0] as usize, source), (arrivals.len(), from.local_address()));
                    arrivals.push(*arrival);
                })
                .unwrap();
                arrivals.len()
            });
            let after_ns = to.epoch_ns().unwrap();
            for arrival in arrivals {
                let channel_ns = arrival.channel_epoch_ns.unwrap();
                assert!(before_ns <= channel_ns && channel_ns <= after_ns);
                assert_eq!(arrival.media_epoch_ns.is_some(), is_stamped);
                assert!(arrival.media_epoch_ns.is_none_or(|ns| before_ns <= ns && ns <= channel_ns));
            }
        }
    }
}
