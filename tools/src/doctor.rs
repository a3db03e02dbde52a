//! `harrier doctor`: finds what costs latency on this host, and names the section of tuning.md that helps.

mod checks;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use harrier::platform::HostFacts;
use serde_json::{Value, json};

use crate::{CommandError, print};
pub use checks::{Check, Outcome, Wishes, examine};

const EXAMPLES: &str = "\
Examples:
  harrier doctor
  harrier doctor --busy-threads 5 --socket-buffer 4194304
      for a node with --layout threads and a client, and sockets with 4 MiB
  harrier doctor --json

Exit codes: 0 nothing costs latency, 3 there are findings, 2 wrong usage. Each finding names its section of tuning.md.";

/// Exit code when there are findings.
const FINDINGS: u8 = 3;

/// Arguments of `harrier doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArguments {
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
    /// Number of threads that spin: 1 for a fused node, 3 and one per service with --layout threads, 1 for each
    /// client.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub busy_threads: usize,
    /// Length of socket buffers (aeron.socket.so_rcvbuf, so_sndbuf).
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 20)]
    pub socket_buffer: u64,
    /// Space that Aeron directories need in /dev/shm.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    pub shared_memory: u64,
    /// Root directory of /proc, /sys and /dev.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub root: PathBuf,
}

/// Examines the host.
///
/// # Errors
/// [`CommandError::Answer`] with 3 when there are findings.
pub fn run(arguments: &DoctorArguments) -> Result<(), CommandError> {
    let wishes = Wishes {
        busy_threads: arguments.busy_threads,
        socket_buffer_bytes: arguments.socket_buffer,
        shared_memory_bytes: arguments.shared_memory,
    };
    let checks = examine(&HostFacts::read(&arguments.root), &wishes);
    if arguments.json {
        print::json(&to_json(&checks))?;
    } else {
        print::text(&to_text(&checks))?;
    }
    let has_findings = checks.iter().any(|check| matches!(check.outcome, Outcome::Finding { .. }));
    if has_findings { Err(CommandError::Answer(FINDINGS)) } else { Ok(()) }
}

fn to_text(checks: &[Check]) -> String {
    let mut text = String::new();
    let (mut findings, mut unknown) = (0, 0);
    for check in checks {
        let _infallible = match &check.outcome {
            Outcome::Fine { seen } => writeln!(text, "ok    {}: {seen}", check.title),
            Outcome::Unknown => {
                unknown += 1;
                writeln!(text, "?     {}: the host does not say", check.title)
            }
            Outcome::Finding { seen, mend } => {
                findings += 1;
                writeln!(
                    text,
                    "COSTS {}: {seen}\n      why:  {}\n      mend: {mend}\n      see:  tuning.md#{}",
                    check.title, check.cost, check.anchor
                )
            }
        };
    }
    let _infallible = match findings {
        0 => writeln!(text, "\nnothing that costs latency was found, {unknown} unknown"),
        _ => writeln!(text, "\n{findings} findings, {unknown} unknown"),
    };
    text
}

fn to_json(checks: &[Check]) -> Value {
    let of_kind = |wanted: &str| -> Value {
        checks
            .iter()
            .filter_map(|check| {
                let (kind, seen, mend) = match &check.outcome {
                    Outcome::Fine { seen } => ("fine", Some(seen), None),
                    Outcome::Unknown => ("unknown", None, None),
                    Outcome::Finding { seen, mend } => ("findings", Some(seen), Some(mend)),
                };
                (kind == wanted).then(|| {
                    json!({
                        "check": check.anchor,
                        "title": check.title,
                        "seen": seen,
                        "cost": check.cost,
                        "mend": mend,
                        "see": format!("tuning.md#{}", check.anchor),
                    })
                })
            })
            .collect()
    };
    json!({ "findings": of_kind("findings"), "fine": of_kind("fine"), "unknown": of_kind("unknown") })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the anchor of a heading in Markdown.
    fn anchor(heading: &str) -> String {
        heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")
    }

    #[test]
    fn every_check_has_its_section_in_the_tuning_guide() {
        let guide = include_str!("../../tuning.md");
        let anchors: Vec<String> = guide.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
        let wishes = Wishes { busy_threads: 1, socket_buffer_bytes: 0, shared_memory_bytes: 0 };
        let checks = examine(&HostFacts::default(), &wishes);
        for check in &checks {
            assert!(
                anchors.iter().any(|candidate| candidate == check.anchor),
                "tuning.md has no section {}",
                check.anchor
            );
        }
        assert!(checks.len() >= 18, "{}", checks.len());
    }

    #[test]
    fn findings_name_what_to_do_and_where_it_is_explained() {
        let facts = HostFacts { clock_source: Some("hpet".into()), ..HostFacts::default() };
        let wishes = Wishes { busy_threads: 1, socket_buffer_bytes: 0, shared_memory_bytes: 0 };
        let checks = examine(&facts, &wishes);
        let text = to_text(&checks);
        assert!(text.contains("COSTS Clock source: hpet"), "{text}");
        assert!(text.contains("see:  tuning.md#clock-source"), "{text}");
        assert!(text.contains("1 findings"), "{text}");
        let json = to_json(&checks);
        assert_eq!(json["findings"][0]["see"], "tuning.md#clock-source");
        assert_eq!(json["findings"].as_array().unwrap().len(), 1);
        assert!(json["unknown"].as_array().unwrap().len() > 5);
    }
}
