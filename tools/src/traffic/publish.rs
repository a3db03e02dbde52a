//! `harrier pub`: publishes messages.

use std::io::BufRead;

use clap::Args;
use harrier::client::ExclusivePublication;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::json;

use super::line::{Line, LineArguments, later};
use crate::{CommandError, print};

const EXAMPLES: &str = "\
Examples:
  harrier pub --stream-id 42 'first message' 'second message'
  tail -f orders.csv | harrier pub --channel 'aeron:udp?endpoint=10.0.0.2:40123'
      each line of standard input is a message
  harrier pub --generate 1000000 --length 256 --rate 50000
      numbered messages, fifty thousand a second
  harrier pub --channel 'aeron:udp?control=10.0.0.1:40124|control-mode=dynamic' hello
      to whoever subscribes there";

/// Longest wait for a subscriber, ns.
const CONNECT_PATIENCE_NS: i64 = 30_000_000_000;

/// The stream to publish or subscribe to.
#[derive(Debug, Clone, Args)]
pub struct StreamArguments {
    /// Channel of the stream.
    #[arg(long, value_name = "URI", default_value = "aeron:udp?endpoint=localhost:40123")]
    pub channel: String,
    /// Stream id.
    #[arg(long, value_name = "ID", default_value_t = 1001, allow_negative_numbers = true)]
    pub stream_id: i32,
}

/// Arguments of `harrier pub`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PublishArguments {
    /// Driver and idle strategy.
    #[command(flatten)]
    pub line: LineArguments,
    /// The stream.
    #[command(flatten)]
    pub stream: StreamArguments,
    /// Messages [default: lines of standard input].
    pub messages: Vec<String>,
    /// Publishes this many numbered messages instead.
    #[arg(long, value_name = "COUNT", conflicts_with = "messages")]
    pub generate: Option<u64>,
    /// Length of a numbered message, bytes.
    #[arg(long, default_value_t = 32, requires = "generate", value_parser = clap::value_parser!(u32).range(8..=16_777_216))]
    pub length: u32,
    /// Messages per second [default: as fast as the stream takes them].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Time for receivers to ask again for lost data, ms.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub linger_ms: u32,
    /// Prints a JSON object when all is published.
    #[arg(long)]
    pub json: bool,
}

/// Publishes the messages.
///
/// # Errors
/// [`CommandError::Failed`] without a subscriber within 30 s, or when the driver goes.
pub fn run(arguments: &PublishArguments) -> Result<(), CommandError> {
    let mut line = Line::open(&arguments.line, "harrier-pub")?;
    let StreamArguments { channel, stream_id } = &arguments.stream;
    let publication = line.publication(channel, *stream_id)?;
    let is_there = line.until(CONNECT_PATIENCE_NS, |_| Ok(publication.is_connected().then_some(())))?;
    if is_there.is_none() {
        if line.is_stopped() {
            return Ok(());
        }
        let seconds = CONNECT_PATIENCE_NS / 1_000_000_000;
        let text = format!("no subscriber of {channel} stream {stream_id} within {seconds} s");
        return Err(CommandError::Failed(text));
    }
    let interval_ns = arguments.rate.map_or(0, |rate| 1_000_000_000 / i64::from(rate));
    let begun_ns = SystemClock.now().ns;
    let mut sending =
        Sending { line: &mut line, publication, interval_ns, due_ns: begun_ns, count: 0, bytes: 0 };
    let outcome = sending.all(arguments);
    let (count, bytes) = (sending.count, sending.bytes);
    let publication = sending.publication;
    let elapsed_ns = SystemClock.now().ns - begun_ns;
    line.linger(&publication, i64::from(arguments.linger_ms) * 1_000_000)?;
    match outcome {
        Ok(()) | Err(CommandError::Answer(0)) => {}
        Err(error) => return Err(error),
    }
    if arguments.json {
        return print::json(
            &json!({ "messages": count, "bytes": bytes, "seconds": elapsed_ns as f64 / 1e9 }),
        );
    }
    let (count, bytes) = (print::grouped(count as i64), print::bytes(bytes as i64));
    print::text(&format!("{count} messages, {bytes} in {}\n", print::duration(elapsed_ns)))
}

struct Sending<'l> {
    line: &'l mut Line,
    publication: ExclusivePublication,
    interval_ns: i64,
    due_ns: i64,
    count: u64,
    bytes: u64,
}

impl Sending<'_> {
    fn all(&mut self, arguments: &PublishArguments) -> Result<(), CommandError> {
        if let Some(count) = arguments.generate {
            let mut message = vec![0; arguments.length as usize];
            for number in 0..count {
                message[..8].copy_from_slice(&number.to_le_bytes());
                self.send(&message)?;
            }
            return Ok(());
        }
        if !arguments.messages.is_empty() {
            return arguments.messages.iter().try_for_each(|message| self.send(message.as_bytes()));
        }
        self.lines()
    }

    /// Reads standard input on a thread of its own, because it may be silent for longer than a driver or a client may
    /// be.
    #[expect(clippy::disallowed_methods, reason = "a command that reads its standard input")]
    fn lines(&mut self) -> Result<(), CommandError> {
        let (sender, lines) = std::sync::mpsc::sync_channel::<std::io::Result<Vec<u8>>>(1_024);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().split(b'\n') {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        loop {
            match lines.try_recv() {
                Ok(message) => self.send(&message.map_err(CommandError::failed)?)?,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
                Err(std::sync::mpsc::TryRecvError::Empty) => self.rest()?,
            }
        }
    }

    fn rest(&mut self) -> Result<(), CommandError> {
        if self.line.is_stopped() {
            return Err(CommandError::Answer(0));
        }
        let work_count = self.line.step()?;
        self.line.idle(work_count);
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> Result<(), CommandError> {
        while self.interval_ns > 0 && SystemClock.now().ns < self.due_ns {
            self.rest()?;
        }
        self.due_ns += self.interval_ns;
        while let Err(error) = self.publication.offer(message) {
            later(error)?;
            self.rest()?;
        }
        self.count += 1;
        self.bytes += message.len() as u64;
        // Driver and client get a turn now and then, however fast messages arrive.
        if self.count.is_multiple_of(64) {
            self.line.step()?;
        }
        Ok(())
    }
}
