//! `harrier streams` and `harrier backlog`: the streams of a driver, and the backlog of each end.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::CommandError;
use crate::stream_table::{Backlog, Stream, backlog, streams};
use crate::watch::{LookArguments, Seen};

const STREAMS_EXAMPLES: &str = "\
Examples:
  harrier streams
  harrier streams --aeron-dir /dev/shm/aeron-node-0 --json

Each counter is given as name:registration id:value.";

const BACKLOG_EXAMPLES: &str = "\
Examples:
  harrier backlog
  harrier backlog --watch --interval-ms 200";

/// Arguments of `harrier streams`.
#[derive(Debug, Args)]
#[command(after_help = STREAMS_EXAMPLES)]
pub struct StreamsArguments {
    /// Directory and form.
    #[command(flatten)]
    pub look: LookArguments,
}

/// Arguments of `harrier backlog`.
#[derive(Debug, Args)]
#[command(after_help = BACKLOG_EXAMPLES)]
pub struct BacklogArguments {
    /// Directory and form.
    #[command(flatten)]
    pub look: LookArguments,
}

/// Prints the streams with their positions.
///
/// # Errors
/// [`CommandError::Failed`] for a directory that cannot be read.
pub fn run(arguments: &StreamsArguments) -> Result<(), CommandError> {
    arguments.look.run(|directory, _| {
        let all = streams(&directory.counters());
        let json =
            json!({ "aeron_dir": directory.path(), "streams": all.iter().map(to_json).collect::<Value>() });
        Ok(Seen { text: to_text(&all), json })
    })
}

/// Prints the backlog of each end of the streams.
///
/// # Errors
///
/// [`CommandError::Failed`] for a directory that cannot be read.
pub fn run_backlog(arguments: &BacklogArguments) -> Result<(), CommandError> {
    arguments.look.run(|directory, _| {
        let all = streams(&directory.counters());
        let of_all: Value = all.iter().map(|stream| backlog_to_json(stream, &all)).collect();
        let json = json!({ "aeron_dir": directory.path(), "streams": of_all });
        Ok(Seen { text: backlog_to_text(&all), json })
    })
}

fn to_text(all: &[Stream]) -> String {
    let mut text = String::new();
    for stream in all {
        let _infallible = write!(text, "{} :", head(stream));
        for counter in &stream.counters {
            let _infallible = write!(text, " {}:{}:{}", counter.name, counter.registration_id, counter.value);
        }
        text.push('\n');
    }
    text
}

fn head(stream: &Stream) -> String {
    format!("sessionId={} streamId={} channel={}", stream.session_id, stream.stream_id, stream.channel)
}

fn to_json(stream: &Stream) -> Value {
    let counters: Value = stream
        .counters
        .iter()
        .map(|counter| {
            json!({
                "name": counter.name,
                "type": counter.type_id,
                "id": counter.counter_id,
                "registration_id": counter.registration_id,
                "value": counter.value,
            })
        })
        .collect();
    json!({
        "session_id": stream.session_id,
        "stream_id": stream.stream_id,
        "channel": stream.channel,
        "counters": counters,
    })
}

fn backlog_to_text(all: &[Stream]) -> String {
    let mut text = String::new();
    for stream in all {
        let _infallible = writeln!(text, "{} :", head(stream));
        let list = backlog(stream, all);
        for (at, own) in list.iter().enumerate() {
            let corner = if at + 1 == list.len() {
                '└'
            } else if at == 0 {
                '┌'
            } else {
                '├'
            };
            let _infallible = writeln!(text, "{corner}─{}", line(own));
        }
        text.push('\n');
    }
    text
}

fn line(backlog: &Backlog) -> String {
    match backlog {
        Backlog::Publisher { registration_id, position, remaining } => {
            format!(
                "publisher {registration_id} is at position {position} ({remaining} bytes before back-pressure)"
            )
        }
        Backlog::Sender { registration_id, backlog, window } => format!(
            "sender {registration_id} has to send {backlog} bytes ({window} bytes remaining in the sender window)"
        ),
        Backlog::Receiver { registration_id, position, gap: 0 } => {
            format!("receiver {registration_id} is at position {position}")
        }
        Backlog::Receiver { registration_id, position, gap } => {
            format!("receiver {registration_id} is at position {position} ({gap} bytes behind a gap)")
        }
        Backlog::Subscriber { registration_id, position, backlog } => {
            format!("subscriber {registration_id} is at position {position} and has {backlog} backlog bytes")
        }
    }
}

fn backlog_to_json(stream: &Stream, all: &[Stream]) -> Value {
    let ends: Value = backlog(stream, all)
        .iter()
        .map(|candidate| match candidate {
            Backlog::Publisher { registration_id, position, remaining } => json!({
                "end": "publisher", "registration_id": registration_id, "position": position, "remaining": remaining,
            }),
            Backlog::Sender { registration_id, backlog, window } => json!({
                "end": "sender", "registration_id": registration_id, "backlog": backlog, "window": window,
            }),
            Backlog::Receiver { registration_id, position, gap } => json!({
                "end": "receiver", "registration_id": registration_id, "position": position, "gap": gap,
            }),
            Backlog::Subscriber { registration_id, position, backlog } => json!({
                "end": "subscriber", "registration_id": registration_id, "position": position, "backlog": backlog,
            }),
        })
        .collect();
    json!({
        "session_id": stream.session_id,
        "stream_id": stream.stream_id,
        "channel": stream.channel,
        "ends": ends,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aeron_directory::AeronDirectory;
    use crate::aeron_directory::tests::golden;

    #[test]
    fn text_is_in_the_shape_of_the_released_tools() {
        let golden = golden();
        let all = streams(&AeronDirectory::open(golden.path()).unwrap().counters());
        let text = to_text(&all);
        let line = "sessionId=2002 streamId=1001 channel=aeron:udp?endpoint=127.0.0.1:24325 : \
                    sub-pos:10:64 rcv-hwm:11:64 rcv-pos:11:64 rcv-naks-sent:11:0\n";
        assert!(text.contains(line), "{text}");
        assert!(
            text.contains(" : pub-pos (concurrent):9:64 pub-lmt:9:32832 snd-pos:9:64 snd-lmt:9:32768"),
            "{text}"
        );
        let text = backlog_to_text(&all);
        for line in [
            "└─publisher 4 is at position 65856 (32544 bytes before back-pressure)\n",
            "└─sender 9 has to send 0 bytes (32704 bytes remaining in the sender window)\n",
            "┌─receiver 11 is at position 64\n└─subscriber 10 is at position 64 and has 0 backlog bytes\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
