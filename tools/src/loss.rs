//! `harrier loss`: shows which streams have lost how much.

use std::fmt::Write as _;

use clap::Args;
use harrier::ringbuf::loss_report::Loss;
use serde_json::{Value, json};

use crate::watch::{LookArguments, Seen};
use crate::{CommandError, print};

const EXAMPLES: &str = "\
Examples:
  harrier loss
  harrier loss --aeron-dir /dev/shm/aeron-node-0 --json

One line per stream and source; lost bytes were asked for again unless the subscription has reliable=false.";

/// Arguments of `harrier loss`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct LossArguments {
    /// Directory and form.
    #[command(flatten)]
    pub look: LookArguments,
}

/// Prints the loss report.
///
/// # Errors
/// [`CommandError::Failed`] for a directory that cannot be read.
pub fn run(arguments: &LossArguments) -> Result<(), CommandError> {
    arguments.look.run(|directory, _| {
        let losses = directory.losses()?;
        let json = json!({ "aeron_dir": directory.path(), "losses": to_json(&losses) });
        Ok(Seen { text: to_text(&losses), json })
    })
}

fn to_text(losses: &[Loss]) -> String {
    let mut text =
        "#OBSERVATION_COUNT,TOTAL_BYTES_LOST,FIRST_OBSERVATION,LAST_OBSERVATION,SESSION_ID,STREAM_ID,\
                    CHANNEL,SOURCE\n"
            .to_owned();
    for loss in losses {
        let _infallible = writeln!(
            text,
            "{},{},{},{},{},{},{},{}",
            loss.observation_count,
            loss.total_bytes_lost,
            print::timestamp(loss.first_observation_ms),
            print::timestamp(loss.last_observation_ms),
            loss.session_id,
            loss.stream_id,
            loss.channel,
            loss.source
        );
    }
    let _infallible = writeln!(text, "{} loss entries", losses.len());
    text
}

fn to_json(losses: &[Loss]) -> Value {
    losses
        .iter()
        .map(|loss| {
            json!({
                "observations": loss.observation_count,
                "bytes": loss.total_bytes_lost,
                "first_ms": loss.first_observation_ms,
                "last_ms": loss.last_observation_ms,
                "session_id": loss.session_id,
                "stream_id": loss.stream_id,
                "channel": loss.channel,
                "source": loss.source,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aeron_directory::AeronDirectory;
    use crate::aeron_directory::tests::golden;

    #[test]
    fn text_is_that_of_the_released_tool() {
        let golden = golden();
        let losses = AeronDirectory::open(golden.path()).unwrap().losses().unwrap();
        let expected = "#OBSERVATION_COUNT,TOTAL_BYTES_LOST,FIRST_OBSERVATION,LAST_OBSERVATION,SESSION_ID,STREAM_ID,CHANNEL,SOURCE
2,1472,2023-11-14 22:13:20.123+0000,2023-11-14 22:13:20.999+0000,-99,10,aeron:udp?endpoint=localhost:20121,127.0.0.1:5555
1,32,2023-11-14 22:13:21.000+0000,2023-11-14 22:13:21.000+0000,7,11,abc,x:1
2 loss entries
";
        assert_eq!(to_text(&losses), expected);
        assert_eq!(to_json(&losses)[0]["bytes"], 1_472);
    }
}
