//! `harrier rate`: measures the message rate of a stream.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use clap::{Args, ValueEnum};
use harrier::client::{ExclusivePublication, Subscription};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::json;

use super::line::{Line, LineArguments, later};
use super::publish::StreamArguments;
use crate::{CommandError, plot, print};

const EXAMPLES: &str = "\
Examples:
  harrier rate
      both ends on this host over UDP, ten seconds of 32 bytes
  harrier rate --aeron-dir /dev/shm/aeron --channel aeron:ipc --length 1344 --svg rate.svg
      through a running driver over shared memory, with a plot
  harrier rate --end subscriber --channel 'aeron:udp?endpoint=10.0.0.2:40123' --seconds 0
      counts what comes, until a signal; at the other host:
  harrier rate --end publisher --channel 'aeron:udp?endpoint=10.0.0.2:40123' --seconds 30

Each second has its line: what was published, what was received, and how often the publisher had to wait.";

/// Longest wait for the other end, ns.
const CONNECT_PATIENCE_NS: i64 = 30_000_000_000;
const SECOND: i64 = 1_000_000_000;
/// Number of messages between two turns of client and driver.
const BATCH: usize = 256;

/// Ends of the stream that the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// Both ends.
    Both,
    /// The publisher.
    Publisher,
    /// The subscriber, which counts messages.
    Subscriber,
}

/// Arguments of `harrier rate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RateArguments {
    /// Driver and idle strategy.
    #[command(flatten)]
    pub line: LineArguments,
    /// The stream.
    #[command(flatten)]
    pub stream: StreamArguments,
    /// Ends that run here.
    #[arg(long, value_enum, default_value_t = End::Both)]
    pub end: End,
    /// Length of a message, bytes.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub length: u32,
    /// Time of the measurement, s; 0 runs until a signal.
    #[arg(long, default_value_t = 10)]
    pub seconds: u32,
    /// Draws the rates over time into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Prints JSON, one object per second and one for the whole.
    #[arg(long)]
    pub json: bool,
}

/// Progress of one end. The other end's thread only reads it.
#[derive(Debug, Default)]
struct Tally {
    messages: AtomicI64,
    bytes: AtomicI64,
    waits: AtomicI64,
}

impl Tally {
    fn add(counter: &AtomicI64, count: i64) {
        // Relaxed: each counter has one writer, and the numbers of one second need not match exactly.
        counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    fn read(&self) -> Counts {
        Counts {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            waits: self.waits.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    messages: i64,
    bytes: i64,
    waits: i64,
}

/// Progress of both ends at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    at_ns: i64,
    published: Counts,
    received: Counts,
}

/// Measures until the time is over.
///
/// # Errors
/// [`CommandError::Failed`] without the other end within 30 s, or when the driver goes.
pub fn run(arguments: &RateArguments) -> Result<(), CommandError> {
    let mut line = Line::open(&arguments.line, "harrier-rate")?;
    let StreamArguments { channel, stream_id } = &arguments.stream;
    let mut subscription =
        (arguments.end != End::Publisher).then(|| line.subscription(channel, *stream_id)).transpose()?;
    let mut publication =
        (arguments.end != End::Subscriber).then(|| line.publication(channel, *stream_id)).transpose()?;
    let is_connected = line.until(CONNECT_PATIENCE_NS, |_| {
        let publishes = publication.as_ref().is_none_or(ExclusivePublication::is_connected);
        let receives = subscription.as_mut().is_none_or(Subscription::is_connected);
        Ok((publishes && receives).then_some(()))
    })?;
    if is_connected.is_none() {
        let text = format!("no other end of {channel} stream {stream_id} within 30 s");
        return if line.is_stopped() { Ok(()) } else { Err(CommandError::Failed(text)) };
    }
    let (published, received) = (Tally::default(), Tally::default());
    let running = AtomicBool::new(true);
    let mut report = Report::new(arguments);
    std::thread::scope(|scope| {
        let reader = subscription.as_mut().map(|subscription| {
            let (received, running) = (&received, &running);
            let mut idle = arguments.line.idle.clone().unwrap_or_else(harrier::default_idle);
            scope.spawn(move || {
                while running.load(Ordering::Relaxed) {
                    idle.idle(read(subscription, received));
                }
            })
        });
        let outcome =
            write(&mut line, publication.as_mut(), arguments, &published, || received.read(), &mut report);
        running.store(false, Ordering::Relaxed);
        if let Some(Err(panic)) = reader.map(std::thread::ScopedJoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        outcome
    })?;
    report.end()
}

/// Runs the publisher's side, client and driver, and prints a line per second.
fn write(
    line: &mut Line,
    mut publication: Option<&mut ExclusivePublication>,
    arguments: &RateArguments,
    published: &Tally,
    received: impl Fn() -> Counts,
    report: &mut Report<'_>,
) -> Result<(), CommandError> {
    let message = vec![0x5A; arguments.length as usize];
    let begun_ns = SystemClock.now().ns;
    let end_ns = match arguments.seconds {
        0 => i64::MAX,
        seconds => begun_ns + i64::from(seconds) * SECOND,
    };
    report.begin(begun_ns);
    let mut next_ns = begun_ns + SECOND;
    loop {
        let mut work_count = line.step()?;
        if let Some(publication) = publication.as_deref_mut() {
            let sent = burst(publication, &message)?;
            Tally::add(&published.messages, sent as i64);
            Tally::add(&published.bytes, (sent * message.len()) as i64);
            Tally::add(&published.waits, i64::from(sent < BATCH));
            work_count += sent;
        }
        let is_over = line.is_stopped() || line.now.ns >= end_ns;
        if line.now.ns >= next_ns || is_over {
            next_ns = line.now.ns + SECOND;
            report.add(Look { at_ns: line.now.ns, published: published.read(), received: received() })?;
        }
        if is_over {
            return Ok(());
        }
        line.idle(work_count);
    }
}

/// Offers messages until the stream takes no more; returns the number that it took.
fn burst(publication: &mut ExclusivePublication, message: &[u8]) -> Result<usize, CommandError> {
    for sent in 0..BATCH {
        if let Err(error) = publication.offer(message) {
            later(error)?;
            return Ok(sent);
        }
    }
    Ok(BATCH)
}

fn read(subscription: &mut Subscription, received: &Tally) -> usize {
    let (mut messages, mut bytes) = (0, 0);
    let fragments = subscription.poll(BATCH, &mut |payload, header| {
        // A fragmented message is counted with its last fragment.
        messages += i64::from(header.flags() & harrier::ringbuf::frame::FLAG_END != 0);
        bytes += payload.len() as i64;
    });
    if fragments > 0 {
        Tally::add(&received.messages, messages);
        Tally::add(&received.bytes, bytes);
    }
    fragments
}

struct Report<'a> {
    arguments: &'a RateArguments,
    looks: Vec<Look>,
}

impl<'a> Report<'a> {
    fn new(arguments: &'a RateArguments) -> Self {
        Self { arguments, looks: Vec::new() }
    }

    fn begin(&mut self, at_ns: i64) {
        self.looks = vec![Look { at_ns, ..Look::default() }];
    }

    fn add(&mut self, look: Look) -> Result<(), CommandError> {
        let before = self.looks.last().copied().unwrap_or_default();
        self.looks.push(look);
        self.say(&before, &look, "")
    }

    fn end(&self) -> Result<(), CommandError> {
        let (Some(first), Some(last)) = (self.looks.first(), self.looks.last()) else { return Ok(()) };
        self.say(first, last, "in all  ")?;
        let Some(path) = &self.arguments.svg else { return Ok(()) };
        let line = |pick: fn(&Look) -> i64| -> Vec<(f64, f64)> {
            self.looks
                .windows(2)
                .map(|window| {
                    let seconds = (window[1].at_ns - window[0].at_ns).max(1) as f64 / 1e9;
                    let at_s = (window[1].at_ns - first.at_ns) as f64 / 1e9;
                    (at_s, (pick(&window[1]) - pick(&window[0])) as f64 / seconds / 1e6)
                })
                .collect()
        };
        let published = ("published", line(|look| look.published.messages));
        let received = ("received", line(|look| look.received.messages));
        let series = match self.arguments.end {
            End::Both => vec![published, received],
            End::Publisher => vec![published],
            End::Subscriber => vec![received],
        };
        let title = format!("Messages of {} bytes", self.arguments.length);
        plot::over_time(path, &title, "million a second", &series)
    }

    fn say(&self, from: &Look, to: &Look, lead: &str) -> Result<(), CommandError> {
        let seconds = (to.at_ns - from.at_ns).max(1) as f64 / 1e9;
        let rates = |from: Counts, to: Counts| {
            let messages = (to.messages - from.messages) as f64 / seconds;
            (messages, (to.bytes - from.bytes) as f64 / seconds, to.waits - from.waits)
        };
        let (published, received) = (rates(from.published, to.published), rates(from.received, to.received));
        let end = self.arguments.end;
        if self.arguments.json {
            let mut object = json!({ "seconds": seconds, "total": !lead.is_empty() });
            if end != End::Subscriber {
                object["published_msgs_per_s"] = published.0.into();
                object["published_bytes_per_s"] = published.1.into();
                object["waits"] = published.2.into();
            }
            if end != End::Publisher {
                object["received_msgs_per_s"] = received.0.into();
                object["received_bytes_per_s"] = received.1.into();
            }
            return print::json(&object);
        }
        let mut text = lead.to_owned();
        let rate = |name: &str, (messages, bytes, _): (f64, f64, i64)| {
            format!("{name} {:>13}/s {:>11}/s  ", print::grouped(messages as i64), print::bytes(bytes as i64))
        };
        if end != End::Subscriber {
            text += &rate("published", published);
            text += &format!("waits {:>9}  ", print::grouped(published.2));
        }
        if end != End::Publisher {
            text += &rate("received", received);
        }
        print::text(&format!("{}\n", text.trim_end()))
    }
}
