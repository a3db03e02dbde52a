//! `harrier stat`: the counters of a driver.

use std::fmt::Write as _;

use clap::Args;
use harrier_protocol::counter_types::StreamKey;
use harrier_protocol::{semantic_version_major, semantic_version_minor};
use serde_json::{Value, json};

use crate::aeron_directory::{AeronDirectory, CounterRecord};
use crate::watch::{LookArguments, Seen};
use crate::{CommandError, print};

const EXAMPLES: &str = "\
Examples:
  harrier stat
      all counters of the driver in its default directory
  harrier stat --aeron-dir /dev/shm/aeron-node-0 --watch
      the same of another driver, again and again
  harrier stat --label cluster
  harrier stat --type 4 --stream-id 1001 --json
      positions of the subscribers of stream 1001 as one JSON document

Filters are joined by and; values of --type by or.";

/// Arguments of `harrier stat`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatArguments {
    /// Directory and form.
    #[command(flatten)]
    pub look: LookArguments,
    /// Shows only counters of this type id; may be given several times.
    #[arg(long = "type", value_name = "TYPE_ID")]
    pub types: Vec<i32>,
    /// Shows only counters whose label contains this text, ignoring case.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Shows only counters with this registration id.
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pub registration_id: Option<i64>,
    /// Shows only counters that this client owns.
    #[arg(long, value_name = "CLIENT_ID", allow_negative_numbers = true)]
    pub owner: Option<i64>,
    /// Shows only counters of streams with this session id.
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pub session_id: Option<i32>,
    /// Shows only counters of streams with this stream id.
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pub stream_id: Option<i32>,
    /// Shows only counters of streams whose channel contains this text.
    #[arg(long, value_name = "TEXT")]
    pub channel: Option<String>,
}

impl StatArguments {
    fn is_wanted(&self, record: &CounterRecord) -> bool {
        let is_text = |wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|text| record.label.to_lowercase().contains(&text.to_lowercase()))
        };
        (self.types.is_empty() || self.types.contains(&record.type_id))
            && is_text(&self.label)
            && self.registration_id.is_none_or(|id| id == record.registration_id)
            && self.owner.is_none_or(|id| id == record.owner_id)
            && self.is_wanted_stream(record)
    }

    fn is_wanted_stream(&self, record: &CounterRecord) -> bool {
        if self.session_id.is_none() && self.stream_id.is_none() && self.channel.is_none() {
            return true;
        }
        let is_of_stream = matches!(record.type_id, 1..=5 | 9 | 10 | 12 | 13 | 17 | 19 | 20);
        let Some(key) = StreamKey::decode(&record.key).filter(|_| is_of_stream) else { return false };
        self.session_id.is_none_or(|id| id == key.session_id)
            && self.stream_id.is_none_or(|id| id == key.stream_id)
            && self.channel.as_ref().is_none_or(|text| record.label.contains(text.as_str()))
    }
}

/// Prints the counters.
///
/// # Errors
/// [`CommandError::Failed`] for a directory that cannot be read.
pub fn run(arguments: &StatArguments) -> Result<(), CommandError> {
    arguments.look.run(|directory, now_ms| {
        let mut counters = directory.counters();
        counters.retain(|record| arguments.is_wanted(record));
        Ok(Seen { text: to_text(directory, &counters, now_ms), json: to_json(directory, &counters, now_ms) })
    })
}

/// Returns the age of the driver's last heartbeat as `12ms`, or what its absence means.
pub(crate) fn heartbeat_age(directory: &AeronDirectory, now_ms: i64) -> String {
    match directory.heartbeat_ms() {
        0 => "none: the driver is starting".to_owned(),
        -1 => "none: the driver has stopped".to_owned(),
        heartbeat_ms => format!("{}ms", now_ms - heartbeat_ms),
    }
}

fn version_text(version: i32) -> String {
    let (major, minor) = (semantic_version_major(version), semantic_version_minor(version));
    format!("{major}.{minor}.{}", version & 0xFF)
}

fn to_text(directory: &AeronDirectory, counters: &[CounterRecord], now_ms: i64) -> String {
    let header = &directory.header;
    let mut text = format!(
        "{} - Harrier stat (CnC v{}), pid {}, heartbeat age {}\n{}\n",
        print::time_of_day(now_ms),
        version_text(header.version),
        header.pid,
        heartbeat_age(directory, now_ms),
        "=".repeat(70)
    );
    for record in counters {
        let _infallible =
            writeln!(text, "{:>5}: {:>26} - {}", record.id, print::grouped(record.value), record.label);
    }
    text
}

fn to_json(directory: &AeronDirectory, counters: &[CounterRecord], now_ms: i64) -> Value {
    let counters: Vec<Value> = counters
        .iter()
        .map(|record| {
            json!({
                "id": record.id,
                "type": record.type_id,
                "value": record.value,
                "registration_id": record.registration_id,
                "owner_id": record.owner_id,
                "reference_id": record.reference_id,
                "label": record.label,
            })
        })
        .collect();
    json!({
        "aeron_dir": directory.path(),
        "cnc_version": version_text(directory.header.version),
        "pid": directory.header.pid,
        "heartbeat_ms": directory.heartbeat_ms(),
        "time_ms": now_ms,
        "counters": counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aeron_directory::tests::golden;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        stat: StatArguments,
    }

    fn seen(words: &[&str]) -> (Vec<CounterRecord>, String, Value) {
        let line = Line::parse_from([&["stat"], words].concat());
        let golden = golden();
        let directory = AeronDirectory::open(golden.path()).unwrap();
        let mut counters = directory.counters();
        counters.retain(|record| line.stat.is_wanted(record));
        let now_ms = directory.heartbeat_ms() + 12;
        let (text, json) = (to_text(&directory, &counters, now_ms), to_json(&directory, &counters, now_ms));
        (counters, text, json)
    }

    #[test]
    fn lines_are_those_of_the_released_tool() {
        let (counters, text, json) = seen(&[]);
        assert!(counters.len() > 50);
        assert!(text.contains("(CnC v0.2.0), pid 19140, heartbeat age 12ms"), "{text}");
        let line =
            "   26:                757,369,868 - Conductor max cycle time doing its work in ns: INVOKER\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(json["counters"].as_array().unwrap().len(), counters.len());
        assert_eq!((&json["counters"][34]["value"], &json["cnc_version"]), (&json!(78_592), &json!("0.2.0")));
    }

    #[test]
    fn filters_are_joined() {
        let ids = |words: &[&str]| seen(words).0.iter().map(|counter| counter.type_id).collect::<Vec<_>>();
        assert_eq!(ids(&["--type", "4", "--stream-id", "43"]), [4]);
        assert_eq!(ids(&["--type", "4", "--type", "5", "--session-id", "2002"]), [4, 5]);
        assert_eq!(ids(&["--label", "BYTES SENT"]), [0]);
        assert_eq!(ids(&["--stream-id", "43", "--channel", "term-offset=96"]), [12, 1]);
        assert_eq!(ids(&["--registration-id", "9", "--type", "2"]), [2]);
        assert!(ids(&["--owner", "-1", "--type", "0"]).len() > 40);
        assert_eq!(ids(&["--session-id", "-77"]), Vec::<i32>::new());
    }
}
