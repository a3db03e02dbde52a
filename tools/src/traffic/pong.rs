//! `harrier pong`: sends messages back.

use clap::Args;
use harrier::ringbuf::assembly::FragmentAssembler;
use harrier::ringbuf::image_reader::Action;

use super::line::{Line, LineArguments, later};
use super::ping::EchoArguments;
use crate::{CommandError, print};

const EXAMPLES: &str = "\
Examples:
  harrier pong
      sends back what `harrier ping` on this host sends
  harrier pong --channel 'aeron:udp?endpoint=10.0.0.2:20123' --reply-channel 'aeron:udp?endpoint=10.0.0.1:20124' --idle spin
      for pings from another host
  harrier pong --aeron-dir /dev/shm/aeron --channel aeron:ipc --reply-channel aeron:ipc

Runs until a signal, or until --count messages have been sent back.";

const FRAGMENT_LIMIT: usize = 10;

/// Arguments of `harrier pong`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PongArguments {
    /// Driver and idle strategy.
    #[command(flatten)]
    pub line: LineArguments,
    /// Streams.
    #[command(flatten)]
    pub echo: EchoArguments,
    /// Number of messages after which it ends [default: never].
    #[arg(long)]
    pub count: Option<u64>,
}

/// Sends messages back until a signal.
///
/// # Errors
/// [`CommandError::Failed`] when the driver goes.
pub fn run(arguments: &PongArguments) -> Result<(), CommandError> {
    let mut line = Line::open(&arguments.line, "harrier-pong")?;
    let echo = &arguments.echo;
    let mut pings = line.subscription(&echo.channel, echo.stream_id)?;
    let mut replies = line.publication(&echo.reply_channel, echo.reply_stream_id)?;
    print::text(&format!("echoes {} stream {}\n", echo.channel, echo.stream_id))?;
    let mut assembler = FragmentAssembler::new();
    let (mut echoed, mut failure) = (0_u64, None);
    while !line.is_stopped() && arguments.count.is_none_or(|count| echoed < count) {
        let mut work_count = line.step()?;
        work_count +=
            pings.controlled_poll(FRAGMENT_LIMIT, &mut |payload, header| {
                assembler.on_controlled_fragment(payload, header, &mut |message, _| match replies
                    .offer(message)
                {
                    Ok(_) => {
                        echoed += 1;
                        Action::Continue
                    }
                    Err(error) => {
                        failure = later(error).err();
                        Action::Abort
                    }
                })
            });
        if let Some(error) = failure.take() {
            return Err(error);
        }
        line.idle(work_count);
    }
    line.linger(&replies, 100_000_000)
}
