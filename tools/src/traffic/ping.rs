//! `harrier ping`: measures round trips to a program that sends messages back.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use harrier::client::{ExclusivePublication, Subscription};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use harrier::ringbuf::assembly::FragmentAssembler;
use hdrhistogram::Histogram;
use serde_json::json;

use super::line::{Line, LineArguments, later};
use crate::{CommandError, plot, print};

const EXAMPLES: &str = "\
Examples:
  harrier pong & harrier ping
      round trips of 32 bytes over UDP on this host, one after the other
  harrier ping --channel 'aeron:udp?endpoint=10.0.0.2:20123' --reply-channel 'aeron:udp?endpoint=10.0.0.1:20124' --svg rtt.svg
      to another host, where `harrier pong` runs with the same two channels; the plot shows times by percentile
  harrier ping --aeron-dir /dev/shm/aeron --channel aeron:ipc --reply-channel aeron:ipc --rate 10000
      ten thousand a second over shared memory; late replies count from the moment at which their ping was due

Channels, streams and payload are those of the ping and pong samples of Aeron, which can be at the other end.";

/// Longest time that is measured; longer ones count as this.
const LONGEST_NS: u64 = 3_600_000_000_000;
const FRAGMENT_LIMIT: usize = 10;
/// Width of the longest bar, columns.
const BAR: u64 = 40;

/// The two streams of pings and their replies.
#[derive(Debug, Clone, Args)]
pub struct EchoArguments {
    /// Channel of the pings.
    #[arg(long, value_name = "URI", default_value = "aeron:udp?endpoint=localhost:20123")]
    pub channel: String,
    /// Stream of the pings.
    #[arg(long, value_name = "ID", default_value_t = 1002, allow_negative_numbers = true)]
    pub stream_id: i32,
    /// Channel of the replies.
    #[arg(long, value_name = "URI", default_value = "aeron:udp?endpoint=localhost:20124")]
    pub reply_channel: String,
    /// Stream of the replies.
    #[arg(long, value_name = "ID", default_value_t = 1003, allow_negative_numbers = true)]
    pub reply_stream_id: i32,
}

/// Arguments of `harrier ping`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PingArguments {
    /// Driver and idle strategy.
    #[command(flatten)]
    pub line: LineArguments,
    /// Streams.
    #[command(flatten)]
    pub echo: EchoArguments,
    /// Number of measured round trips.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Number of round trips before the measurement.
    #[arg(long, default_value_t = 10_000)]
    pub warmup: u64,
    /// Length of a message, bytes.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(8..=16_777_216))]
    pub length: u32,
    /// Pings per second [default: each ping when the reply to the last one has arrived].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Time for which the other end may be silent, ms.
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout_ms: u32,
    /// Draws times by percentile into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Measures round trips.
///
/// # Errors
/// [`CommandError::Failed`] when nobody answers in time.
pub fn run(arguments: &PingArguments) -> Result<(), CommandError> {
    let mut line = Line::open(&arguments.line, "harrier-ping")?;
    let echo = &arguments.echo;
    let replies = line.subscription(&echo.reply_channel, echo.reply_stream_id)?;
    let pings = line.publication(&echo.channel, echo.stream_id)?;
    let mut ping = Ping::new(pings, replies, arguments.length as usize);
    let is_connected = line.until(arguments.patience_ns(), |_| {
        Ok((ping.pings.is_connected() && ping.replies.is_connected()).then_some(()))
    })?;
    if is_connected.is_none() {
        return Err(arguments.silence(&line));
    }
    ping.exchange(&mut line, arguments, arguments.warmup)?;
    ping.times.reset();
    let begun_ns = SystemClock.now().ns;
    ping.exchange(&mut line, arguments, arguments.count)?;
    let elapsed_ns = SystemClock.now().ns - begun_ns;
    if let Some(path) = &arguments.svg {
        plot::percentiles(path, "Round trip by percentile", &[("ping", &ping.times)])?;
    }
    if arguments.json {
        print::json(&document(&ping.times, elapsed_ns))
    } else {
        print::text(&table(&ping.times, elapsed_ns))
    }
}

impl PingArguments {
    fn patience_ns(&self) -> i64 {
        i64::from(self.timeout_ms) * 1_000_000
    }

    fn silence(&self, line: &Line) -> CommandError {
        if line.is_stopped() {
            return CommandError::Answer(0);
        }
        let EchoArguments { channel, stream_id, reply_channel, reply_stream_id } = &self.echo;
        CommandError::Failed(format!(
            "no reply within {} ms on {reply_channel} stream {reply_stream_id}; does `harrier pong` run at {channel} \
             stream {stream_id}, and does it reply there?",
            self.timeout_ms
        ))
    }
}

struct Ping {
    pings: ExclusivePublication,
    replies: Subscription,
    assembler: FragmentAssembler,
    message: Vec<u8>,
    times: Histogram<u64>,
}

impl Ping {
    fn new(pings: ExclusivePublication, replies: Subscription, length: usize) -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds of a histogram");
        Self { pings, replies, assembler: FragmentAssembler::new(), message: vec![0; length], times }
    }

    /// Sends pings and receives their replies.
    fn exchange(
        &mut self,
        line: &mut Line,
        arguments: &PingArguments,
        count: u64,
    ) -> Result<(), CommandError> {
        let interval_ns = arguments.rate.map(|rate| 1_000_000_000 / i64::from(rate));
        let patience_ns = arguments.patience_ns();
        let (mut sent, mut received) = (0_u64, 0_u64);
        let mut due_ns = SystemClock.now().ns;
        let mut heard_ns = due_ns;
        while received < count {
            if line.is_stopped() {
                return Err(CommandError::Answer(0));
            }
            let mut work_count = line.step()?;
            let may_send = interval_ns.map_or(sent == received, |_| line.now.ns >= due_ns);
            if sent < count && may_send {
                // Paced pings carry the time at which they were due, whatever delayed them.
                let stamp_ns = if interval_ns.is_some() { due_ns } else { SystemClock.now().ns };
                self.message[..8].copy_from_slice(&stamp_ns.to_le_bytes());
                match self.pings.offer(&self.message) {
                    Ok(_) => {
                        sent += 1;
                        work_count += 1;
                        due_ns += interval_ns.unwrap_or(0);
                    }
                    Err(error) => later(error)?,
                }
            }
            let replies = self.take_replies();
            received += replies;
            if replies > 0 || sent == received {
                heard_ns = line.now.ns;
            } else if line.now.ns > heard_ns + patience_ns {
                return Err(arguments.silence(line));
            }
            line.idle(work_count + replies as usize);
        }
        Ok(())
    }

    fn take_replies(&mut self) -> u64 {
        let (times, assembler, length) = (&mut self.times, &mut self.assembler, self.message.len());
        let mut replies = 0;
        self.replies.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| {
                // Other programs may write to the stream too.
                let Some(stamp) = message.first_chunk().filter(|_| message.len() == length) else { return };
                let elapsed_ns = SystemClock.now().ns.saturating_sub(i64::from_le_bytes(*stamp));
                times.saturating_record(elapsed_ns.max(1) as u64);
                replies += 1;
            });
        });
        replies
    }
}

const QUANTILES: [(&str, f64); 6] =
    [("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

fn quantile(times: &Histogram<u64>, quantile: f64) -> u64 {
    if quantile == 0.0 { times.min() } else { times.value_at_quantile(quantile) }
}

fn document(times: &Histogram<u64>, elapsed_ns: i64) -> serde_json::Value {
    let mut document = json!({
        "count": times.len(),
        "seconds": elapsed_ns as f64 / 1e9,
        "mean_ns": times.mean(),
        "max_ns": times.max(),
    });
    for (name, at) in QUANTILES {
        document[format!("{name}_ns")] = quantile(times, at).into();
    }
    document
}

fn table(times: &Histogram<u64>, elapsed_ns: i64) -> String {
    let rate = times.len() as f64 * 1e9 / elapsed_ns.max(1) as f64;
    let mut text = format!(
        "{} round trips in {}, {} a second\n",
        print::grouped(times.len() as i64),
        print::duration(elapsed_ns),
        print::grouped(rate as i64)
    );
    for (name, at) in QUANTILES {
        let _infallible = writeln!(text, "{name:>8}  {:>10}", print::duration(quantile(times, at) as i64));
    }
    let _infallible = writeln!(text, "{:>8}  {:>10}", "max", print::duration(times.max() as i64));
    text + &bars(times)
}

/// Formats how many round trips took how long, in steps that double.
fn bars(times: &Histogram<u64>) -> String {
    let mut text = String::new();
    let from = 1_u64 << times.min().max(1).ilog2();
    let counts: Vec<(u64, u64)> = times
        .iter_log(from, 2.0)
        .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
        .collect();
    let most = counts.iter().map(|count| count.1).max().unwrap_or(0).max(1);
    for (up_to, count) in counts.into_iter().filter(|count| count.1 > 0) {
        let bar = "█".repeat((count * BAR).div_ceil(most) as usize);
        let below = print::duration(up_to as i64 + 1);
        let _infallible =
            writeln!(text, "{:>8}  {:>10}  {:>11}  {bar}", "below", below, print::grouped(count as i64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_numbers_and_bars() {
        let mut times = Histogram::new_with_bounds(1, LONGEST_NS, 3).unwrap();
        for ns in [900, 1_000, 1_100, 9_000] {
            times.record_n(ns, 25).unwrap();
        }
        let text = table(&times, 1_000_000_000);
        assert!(text.starts_with("100 round trips in 1.0 s, 100 a second"), "{text}");
        let bar = |line: &str| line.chars().filter(|char| *char == '█').count();
        let bars: Vec<usize> = text.lines().map(bar).filter(|length| *length > 0).collect();
        assert_eq!(bars.iter().max(), Some(&40), "{text}");
        assert!(bars.len() >= 2 && text.contains("below"), "{text}");
        let document = document(&times, 1_000_000_000);
        assert_eq!((document["count"].as_u64(), document["p50_ns"].as_u64()), (Some(100), Some(1_000)));
        assert!(document["p99.99_ns"].as_u64() >= Some(9_000), "{document}");
    }
}
