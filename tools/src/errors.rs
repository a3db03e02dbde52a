//! `harrier errors`: the distinct errors of a driver.

use clap::Args;
use serde_json::{Value, json};

use crate::aeron_directory::LoggedError;
use crate::watch::{LookArguments, Seen};
use crate::{CommandError, print};

const EXAMPLES: &str = "\
Examples:
  harrier errors
  harrier errors --aeron-dir /dev/shm/aeron-node-0 --json
  harrier errors --since-ms 1795315447440
      only errors that were seen again since then

Errors of an archive: harrier archive DIR errors; of a cluster's member: harrier cluster DIR errors.";

/// Arguments of `harrier errors`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ErrorsArguments {
    /// Directory and form.
    #[command(flatten)]
    pub look: LookArguments,
    /// Shows only errors seen at or after this time, epoch ms.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub since_ms: i64,
}

/// Prints the errors.
///
/// # Errors
/// [`CommandError::Failed`] for a directory that cannot be read.
pub fn run(arguments: &ErrorsArguments) -> Result<(), CommandError> {
    arguments.look.run(|directory, _| {
        let errors = directory.errors(arguments.since_ms);
        Ok(Seen {
            text: print::errors(&errors),
            json: json!({ "aeron_dir": directory.path(), "errors": to_json(&errors) }),
        })
    })
}

/// Formats errors as a JSON array.
pub(crate) fn to_json(errors: &[LoggedError]) -> Value {
    errors
        .iter()
        .map(|error| {
            json!({
                "observations": error.observation_count,
                "first_ms": error.first_ms,
                "last_ms": error.last_ms,
                "text": error.text,
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
    fn text_is_in_the_shape_of_the_released_tool() {
        let golden = golden();
        let errors = AeronDirectory::open(golden.path()).unwrap().errors(0);
        let text = print::errors(&errors);
        let head = "1 observations from 2026-11-22 02:37:57.123+0000 to 2026-11-22 02:37:57.123+0000 for:\n\
                    org.agrona.AsciiNumberFormatException: error parsing long: ab\n";
        assert!(text.starts_with(head), "{text}");
        assert!(text.ends_with("\n2 distinct errors observed.\n"), "{text}");
        assert_eq!(to_json(&errors)[1]["observations"], 1);
    }
}
