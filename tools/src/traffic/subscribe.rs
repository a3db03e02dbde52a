//! `harrier sub`: shows the messages of a stream.

use std::fmt::Write as _;

use clap::Args;
use harrier::ringbuf::assembly::FragmentAssembler;
use harrier::ringbuf::image_reader::Header;
use serde_json::json;

use super::line::{Line, LineArguments};
use super::publish::StreamArguments;
use crate::{CommandError, print};

const EXAMPLES: &str = "\
Examples:
  harrier sub --channel 'aeron:udp?endpoint=10.0.0.2:40123'
      messages as text, one a line; what is no text in hexadecimal digits
  harrier sub --stream-id 42 --headers --hex
      with session and position in front, as hexadecimal digits
  harrier sub --aeron-dir /dev/shm/aeron --channel 'aeron-spy:aeron:udp?endpoint=10.0.0.9:40123' --count 10 --json
      ten messages of what a publication of this host sends, as JSON objects
  harrier sub --channel 'aeron:udp?endpoint=224.20.30.39:40456|interface=10.0.0.0/24' --raw > stream.bin
      payloads as they are, behind each other

Runs until a signal, or until --count messages have come. New sessions and those that end are told on standard error.";

const FRAGMENT_LIMIT: usize = 10;

/// Arguments of `harrier sub`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SubscribeArguments {
    /// Driver and idle strategy.
    #[command(flatten)]
    pub line: LineArguments,
    /// The stream.
    #[command(flatten)]
    pub stream: StreamArguments,
    /// Number of messages after which it ends [default: never].
    #[arg(long)]
    pub count: Option<u64>,
    /// Prints session, position and length in front of each message.
    #[arg(long)]
    pub headers: bool,
    /// Prints hexadecimal digits, also for text.
    #[arg(long, conflicts_with = "raw")]
    pub hex: bool,
    /// Writes payloads as they are.
    #[arg(long, conflicts_with_all = ["json", "headers"])]
    pub raw: bool,
    /// Prints JSON, one object per line; `data` is text, or `hex` digits.
    #[arg(long)]
    pub json: bool,
}

/// Shows messages until a signal.
///
/// # Errors
/// [`CommandError::Failed`] when the driver goes.
pub fn run(arguments: &SubscribeArguments) -> Result<(), CommandError> {
    let mut line = Line::open(&arguments.line, "harrier-sub")?;
    let mut subscription = line.subscription(&arguments.stream.channel, arguments.stream.stream_id)?;
    let mut assembler = FragmentAssembler::new();
    let mut sessions: Vec<i32> = Vec::new();
    let mut shown = 0_u64;
    let is_wanted = |shown: u64| arguments.count.is_none_or(|count| shown < count);
    let mut out = Vec::new();
    while !line.is_stopped() && is_wanted(shown) {
        let mut work_count = line.step()?;
        work_count += subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, header| {
                if is_wanted(shown) {
                    shown += 1;
                    arguments.show(&mut out, message, header);
                }
            });
        });
        if !out.is_empty() {
            print::bytes_of(&out)?;
            out.clear();
        }
        tell_sessions(&mut subscription, &mut sessions, &mut assembler);
        line.idle(work_count);
    }
    Ok(())
}

/// Reports images that came and went, and drops unfinished messages of those that went.
fn tell_sessions(
    subscription: &mut harrier::client::Subscription,
    known: &mut Vec<i32>,
    assembler: &mut FragmentAssembler,
) {
    let images = subscription.images();
    known.retain(|session_id| {
        let is_there = images.iter().any(|image| image.session_id() == *session_id);
        if !is_there {
            eprintln!("session {session_id} has ended");
            assembler.free_session(*session_id);
        }
        is_there
    });
    for image in images {
        if !known.contains(&image.session_id()) {
            let (session_id, source) = (image.session_id(), image.source_identity());
            eprintln!("session {session_id} from {source}, at position {}", image.join_position());
            known.push(session_id);
        }
    }
}

/// Returns text without control characters, which can be shown on a line.
fn as_text(message: &[u8]) -> Option<&str> {
    std::str::from_utf8(message)
        .ok()
        .filter(|text| !text.chars().any(|char| char.is_control() && char != '\t'))
}

fn hex(message: &[u8]) -> String {
    message.iter().fold(String::with_capacity(message.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

impl SubscribeArguments {
    fn show(&self, out: &mut Vec<u8>, message: &[u8], header: &Header<'_>) {
        if self.raw {
            return out.extend_from_slice(message);
        }
        let text = as_text(message).filter(|_| !self.hex);
        let line = if self.json {
            let mut object = json!({
                "session_id": header.session_id(),
                "stream_id": header.stream_id(),
                "position": header.position(),
                "length": message.len(),
            });
            match text {
                Some(text) => object["data"] = text.into(),
                None => object["hex"] = hex(message).into(),
            }
            object.to_string()
        } else {
            let body = text.map_or_else(|| hex(message), str::to_owned);
            if self.headers {
                format!("{} {} {} {body}", header.session_id(), header.position(), message.len())
            } else {
                body
            }
        };
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_shown_is_text() {
        assert_eq!(as_text("a\tb é".as_bytes()), Some("a\tb é"));
        assert_eq!((as_text(b"a\n"), as_text(&[0xFF]), as_text(b"")), (None, None, Some("")));
        assert_eq!(hex(&[0, 0xAB]), "00ab");
    }
}
