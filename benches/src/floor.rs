//! Lower bound of the machine: round trips of plain sockets whose threads spin.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::BenchError;
use crate::benchmark::{Outcome, Parameters};
use crate::measurement::histogram;
use crate::rtt::{StopOnDrop, join};
use crate::side::PATIENCE_NS;
use crate::stopwatch::Stopwatch;

/// Number of polls of a socket between readings of the clock.
const LOOK_AT_CLOCK: u64 = 1 << 16;

/// Measures two connected sockets with one message in flight; both ends spin.
pub(crate) fn udp(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let running = AtomicBool::new(true);
    let stop = StopOnDrop(&running);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&far, &running));
        let ping = scope.spawn(|| ping(&near, parameters));
        let outcome = join(ping);
        drop(stop);
        let echoed = join(echo);
        let outcome = outcome?;
        echoed?;
        Ok(outcome)
    })
}

/// Returns the length of the next datagram; 0 while there is none.
fn poll(socket: &UdpSocket, buffer: &mut [u8]) -> Result<usize, BenchError> {
    match socket.recv(buffer) {
        Ok(length) => Ok(length),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn echo(socket: &UdpSocket, running: &AtomicBool) -> Result<(), BenchError> {
    let mut buffer = [0; 2_048];
    while running.load(Ordering::Relaxed) {
        match poll(socket, &mut buffer)? {
            0 => std::hint::spin_loop(),
            length => drop(socket.send(&buffer[..length])?),
        }
    }
    Ok(())
}

fn ping(socket: &UdpSocket, parameters: &Parameters) -> Result<Outcome, BenchError> {
    let mut times = histogram();
    closed_loop(socket, parameters.size, parameters.warmup_s, &mut times)?;
    times.reset();
    let stopwatch = Stopwatch::start();
    closed_loop(socket, parameters.size, parameters.seconds, &mut times)?;
    let msgs_per_s = times.len() as f64 * 1e9 / stopwatch.ns() as f64;
    let parameters = vec![("sockets", json!("plain, connected, spinning"))];
    Ok(Outcome { parameters, latency: Some(times), msgs_per_s })
}

fn closed_loop(
    socket: &UdpSocket,
    size: usize,
    seconds: f64,
    times: &mut Histogram<u64>,
) -> Result<(), BenchError> {
    if size > 2_048 {
        return Err(BenchError::Parameter("the echo takes at most 2,048 bytes".into()));
    }
    let mut message = vec![0_u8; size];
    let mut back = [0; 2_048];
    let stopwatch = Stopwatch::start();
    let end_ns = (seconds * 1e9) as u64;
    let mut now_ns = 0;
    while now_ns < end_ns {
        let sent_ns = stopwatch.ns();
        message[..8].copy_from_slice(&sent_ns.to_le_bytes());
        socket.send(&message)?;
        let mut looks = 0_u64;
        while poll(socket, &mut back)? == 0 {
            looks += 1;
            if looks.is_multiple_of(LOOK_AT_CLOCK) && stopwatch.ns() > end_ns + PATIENCE_NS {
                return Err(BenchError::Timeout("an echo"));
            }
            std::hint::spin_loop();
        }
        now_ns = stopwatch.ns();
        assert_eq!(back.first_chunk(), Some(&sent_ns.to_le_bytes()), "another message came back");
        times.saturating_record(now_ns - sent_ns);
    }
    Ok(())
}
