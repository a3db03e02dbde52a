use super::*;
use crate::SystemClock;
use harrier_ringbuf::{AtomicBuffer, Clock, Region};

fn socket() -> UdpSocket {
    UdpTransport.open(&SocketSpec::unicast("127.0.0.1:0".parse().unwrap())).unwrap()
}

fn receive_all(socket: &mut UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    let deadline_ns = SystemClock.now().ns + 60_000_000_000;
    while seen.len() < count {
        socket.receive(&mut |bytes, _| seen.push(bytes.to_vec())).unwrap();
        assert!(SystemClock.now().ns < deadline_ns, "{} of {count} datagrams arrived", seen.len());
        std::thread::yield_now();
    }
    seen
}

/// Sends ranges of a log with the given lengths, one after the other, and returns what arrives.
fn exchange(from: &mut UdpSocket, to: &mut UdpSocket, lengths: &[usize]) -> Vec<Vec<u8>> {
    let log = AtomicBuffer::heap(65_536);
    log.copy_in(0, &(0..65_536).map(|byte| (byte / 7) as u8).collect::<Vec<_>>());
    let mut offset = 0;
    let mut expected = Vec::new();
    for length in lengths {
        let buffer = SendBuffer::Log { buffer: &log, offset, length: *length };
        from.submit(0, buffer, Some(to.local_address())).unwrap();
        expected.push((offset..offset + length).map(|byte| (byte / 7) as u8).collect::<Vec<u8>>());
        offset += length;
    }
    let mut sent = Vec::new();
    from.complete(&mut |_, outcome| sent.push(outcome.unwrap()));
    assert_eq!(sent, lengths);
    let arrived = receive_all(to, lengths.len());
    assert_eq!(arrived, expected);
    arrived
}

#[test]
fn a_run_that_is_refused_goes_out_one_by_one() {
    let (mut from, mut to) = (socket(), socket());
    if !from.cuts_runs {
        eprintln!("skipped: the kernel does not cut runs");
        return;
    }
    // A socket that computes no checksums cannot cut runs, because each datagram needs a checksum of its own.
    control::turn_on(&from.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK).unwrap();
    exchange(&mut from, &mut to, &[1_408; 10]);
    assert!(!from.cuts_runs, "the run was not refused");
}
