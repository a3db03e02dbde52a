//! `harrier export`: counters of drivers for Prometheus.

mod metrics;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::json;

use crate::aeron_directory::{AeronDirectory, default_directory};
use crate::node::{rest, stop_on_signals};
use crate::{CommandError, print};
use metrics::Metrics;

const EXAMPLES: &str = "\
Examples:
  harrier export --aeron-dir /dev/shm/aeron-node-0
      http://127.0.0.1:9464/metrics tells all counters of that driver and of what runs on it
  harrier export --aeron-dir /dev/shm/aeron-a --aeron-dir /dev/shm/aeron-b --listen 10.0.0.1:9464
      of two drivers, for a Prometheus on another host
  harrier export --once
      the text, once, on standard output

Reads the drivers' files only: it works beside drivers of any make, alive or dead, and restarts of them.
When it listens, one line of JSON with the address is printed on stdout.";

/// Longest request that is read, bytes.
const MAX_REQUEST_LENGTH: usize = 8 << 10;
/// Longest time for a client to send its request and to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Arguments of `harrier export`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArguments {
    /// Directory of a media driver; may be given several times [default: AERON_DIR, or the driver's own default].
    #[arg(long, value_name = "DIR")]
    pub aeron_dir: Vec<PathBuf>,
    /// Address to listen on; port 0 for any. Everybody who reaches it can read all counters.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9464")]
    pub listen: SocketAddr,
    /// Prints the text once and ends.
    #[arg(long)]
    pub once: bool,
}

impl ExportArguments {
    fn text(&self) -> String {
        let mut metrics = Metrics::default();
        let defaults = [default_directory()];
        let paths = if self.aeron_dir.is_empty() { &defaults[..] } else { &self.aeron_dir[..] };
        for path in paths {
            match AeronDirectory::open(path) {
                Ok(directory) => metrics.put_driver(&directory, SystemClock.now().epoch_ms),
                Err(_) => metrics.put_absent(path),
            }
        }
        metrics.into_text()
    }
}

/// Serves the metrics until a signal.
///
/// # Errors
///
/// [`CommandError::Failed`] for an address on which it cannot listen.
pub fn run(arguments: &ExportArguments) -> Result<(), CommandError> {
    if arguments.once {
        return print::text(&arguments.text());
    }
    let stop = stop_on_signals()?;
    let address = arguments.listen;
    let listener = TcpListener::bind(address)
        .map_err(|error| CommandError::Failed(format!("cannot listen on {address}: {error}")))?;
    listener.set_nonblocking(true).map_err(CommandError::failed)?;
    let address = listener.local_addr().map_err(CommandError::failed)?;
    print::json(
        &json!({ "ready": true, "url": format!("http://{address}/metrics"), "pid": std::process::id() }),
    )?;
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // Requests are served one after the other: a scrape is short, and a long one is abandoned.
            Ok((stream, _)) => {
                let _client_gone = serve(stream, arguments);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => rest(),
            // Too many files are open for a moment, or the client has gone away.
            Err(_) => rest(),
        }
    }
    Ok(())
}

fn serve(mut stream: TcpStream, arguments: &ExportArguments) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = read_request(&mut stream)?;
    let (status, kind, body) = answer(&request, || arguments.text());
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

/// Reads the head of a request, up to its empty line.
fn read_request(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut part = [0; 1_024];
    let deadline_ns = SystemClock.now().ns + PATIENCE.as_nanos() as i64;
    while !request.windows(4).any(|window| window == b"\r\n\r\n") && request.len() < MAX_REQUEST_LENGTH {
        let length = stream.read(&mut part)?;
        // A client that sends a byte now and then must not delay the others.
        if length == 0 || SystemClock.now().ns > deadline_ns {
            break;
        }
        request.extend_from_slice(&part[..length]);
    }
    Ok(request)
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Returns status, type and body.
fn answer(request: &[u8], text: impl FnOnce() -> String) -> (&'static str, &'static str, String) {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET", "/metrics") => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text()),
        ("GET", "/") => ("200 OK", TEXT, "Counters of Aeron media drivers: /metrics\n".into()),
        ("GET", _) => ("404 Not Found", TEXT, "There is only /metrics.\n".into()),
        ("", _) => ("400 Bad Request", TEXT, "This is no request.\n".into()),
        _ => ("405 Method Not Allowed", TEXT, "Only GET is answered.\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &[u8]) -> &'static str {
        answer(request, || "text".into()).0
    }

    #[test]
    fn only_get_of_metrics_is_answered_with_them() {
        let (status_line, kind, body) =
            answer(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", || "text".into());
        assert_eq!((status_line, body.as_str()), ("200 OK", "text"));
        assert!(kind.contains("version=0.0.4"));
        assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), "200 OK");
        assert_eq!(status(b"GET /etc/passwd HTTP/1.1\r\n\r\n"), "404 Not Found");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "405 Method Not Allowed");
        assert_eq!(status(b""), "400 Bad Request");
        assert_eq!(status(&[0xFF; 100]), "405 Method Not Allowed");
    }

    #[test]
    fn requests_end_somewhere() {
        let mut endless = std::io::repeat(b'a');
        let request = read_request(&mut endless).unwrap();
        assert!(request.len() < MAX_REQUEST_LENGTH + 1_024);
        assert_eq!(read_request(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).unwrap().len(), 18);
        assert!(read_request(&mut &b"GET"[..]).unwrap().len() == 3);
    }
}
