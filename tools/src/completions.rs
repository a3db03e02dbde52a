//! `harrier completions`: scripts that complete commands in shells.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::{CommandError, print};

const EXAMPLES: &str = "\
Examples:
  harrier completions bash > /etc/bash_completion.d/harrier
  harrier completions zsh > ~/.zfunc/_harrier
  harrier completions fish > ~/.config/fish/completions/harrier.fish";

/// Arguments of `harrier completions`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArguments {
    /// The shell.
    pub shell: Shell,
}

/// Prints the shell's script for a command line.
///
/// # Errors
///
/// [`CommandError::Failed`] when it cannot be written.
pub fn run(arguments: &CompletionsArguments, mut command: Command) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "harrier", &mut script);
    print::bytes_of(&script)
}
