//! Counters, errors and losses as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use harrier_protocol::counter_types::StreamKey;

use crate::aeron_directory::{AeronDirectory, CounterRecord};

/// Kind of a metric: it only grows, or it goes up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter, Gauge};

/// The driver's own counters by id (spec 02 §5.8).
const SYSTEM: [(&str, Kind); 46] = [
    ("bytes_sent_total", Counter),
    ("bytes_received_total", Counter),
    ("failed_receiver_offers_total", Counter),
    ("failed_sender_offers_total", Counter),
    ("failed_conductor_offers_total", Counter),
    ("naks_sent_total", Counter),
    ("naks_received_total", Counter),
    ("status_messages_sent_total", Counter),
    ("status_messages_received_total", Counter),
    ("heartbeats_sent_total", Counter),
    ("heartbeats_received_total", Counter),
    ("retransmits_sent_total", Counter),
    ("flow_control_under_runs_total", Counter),
    ("flow_control_over_runs_total", Counter),
    ("invalid_packets_total", Counter),
    ("errors_total", Counter),
    ("short_sends_total", Counter),
    ("free_fails_total", Counter),
    ("sender_flow_control_limits_total", Counter),
    ("unblocked_publications_total", Counter),
    ("unblocked_commands_total", Counter),
    ("possible_ttl_asymmetry_total", Counter),
    ("controllable_idle_strategy", Gauge),
    ("loss_gap_fills_total", Counter),
    ("client_timeouts_total", Counter),
    ("resolution_changes_total", Counter),
    ("conductor_max_cycle_ns", Gauge),
    ("conductor_cycle_exceeded_total", Counter),
    ("sender_max_cycle_ns", Gauge),
    ("sender_cycle_exceeded_total", Counter),
    ("receiver_max_cycle_ns", Gauge),
    ("receiver_cycle_exceeded_total", Counter),
    ("name_resolver_max_ns", Gauge),
    ("name_resolver_exceeded_total", Counter),
    ("software_version", Gauge),
    ("mapped_bytes", Gauge),
    ("retransmitted_bytes_total", Counter),
    ("retransmit_overflow_total", Counter),
    ("error_frames_received_total", Counter),
    ("error_frames_sent_total", Counter),
    ("publications_revoked_total", Counter),
    ("publication_images_revoked_total", Counter),
    ("images_rejected_total", Counter),
    ("control_protocol_version", Gauge),
    ("status_messages_rejected_total", Counter),
    ("failed_executor_offers_total", Counter),
];

/// Meaning of a counter's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyOf {
    Stream,
    Cluster,
    /// Any other key, which is not shown.
    Other,
}

/// Name, kind and key of a counter by its type (spec 01 §3.6).
fn known(type_id: i32) -> Option<(&'static str, Kind, KeyOf)> {
    use KeyOf::{Cluster, Other, Stream};
    Some(match type_id {
        1 => ("publisher_limit_bytes", Gauge, Stream),
        2 => ("sender_position_bytes", Gauge, Stream),
        3 => ("receiver_hwm_bytes", Gauge, Stream),
        4 => ("subscriber_position_bytes", Gauge, Stream),
        5 => ("receiver_position_bytes", Gauge, Stream),
        6 => ("send_channel_status", Gauge, Other),
        7 => ("receive_channel_status", Gauge, Other),
        9 => ("sender_limit_bytes", Gauge, Stream),
        11 => ("client_heartbeat_ms", Gauge, Other),
        12 => ("publisher_position_bytes", Gauge, Stream),
        13 => ("sender_back_pressure_events_total", Counter, Stream),
        15 => ("resolver_neighbors", Gauge, Other),
        16 => ("resolver_cache_entries", Gauge, Other),
        17 => ("flow_control_receivers", Gauge, Stream),
        18 => ("mdc_destinations", Gauge, Other),
        19 => ("stream_naks_received_total", Counter, Stream),
        20 => ("stream_naks_sent_total", Counter, Stream),
        100 => ("archive_recording_position_bytes", Gauge, Other),
        101 => ("archive_errors_total", Counter, Other),
        102 => ("archive_control_sessions", Gauge, Other),
        103 => ("archive_max_cycle_ns", Gauge, Other),
        104 => ("archive_cycle_exceeded_total", Counter, Other),
        105 => ("archive_recorder_max_write_ns", Gauge, Other),
        106 => ("archive_recorder_bytes_total", Counter, Other),
        107 => ("archive_recorder_write_ns_total", Counter, Other),
        108 => ("archive_replayer_max_read_ns", Gauge, Other),
        109 => ("archive_replayer_bytes_total", Counter, Other),
        110 => ("archive_replayer_read_ns_total", Counter, Other),
        111 => ("archive_recording_sessions", Gauge, Other),
        112 => ("archive_replay_sessions", Gauge, Other),
        200 => ("cluster_module_state", Gauge, Cluster),
        201 => ("cluster_node_role", Gauge, Cluster),
        202 => ("cluster_control_toggle", Gauge, Cluster),
        203 => ("cluster_commit_position_bytes", Gauge, Cluster),
        205 => ("cluster_snapshots_total", Counter, Cluster),
        207 => ("cluster_election_state", Gauge, Cluster),
        212 => ("cluster_module_errors_total", Counter, Cluster),
        213 => ("cluster_timed_out_clients_total", Counter, Cluster),
        215 => ("cluster_container_errors_total", Counter, Cluster),
        216 => ("cluster_module_max_cycle_ns", Gauge, Cluster),
        217 => ("cluster_module_cycle_exceeded_total", Counter, Cluster),
        218 => ("cluster_container_max_cycle_ns", Gauge, Cluster),
        219 => ("cluster_container_cycle_exceeded_total", Counter, Cluster),
        234 => ("cluster_snapshot_max_ns", Gauge, Cluster),
        235 => ("cluster_snapshot_exceeded_total", Counter, Cluster),
        238 => ("cluster_elections_total", Counter, Cluster),
        239 => ("cluster_leadership_term_id", Gauge, Cluster),
        18_001 => ("cluster_ingress_refused_total", Counter, Cluster),
        18_002 => ("cluster_consensus_refused_total", Counter, Cluster),
        18_003 => ("archive_control_refused_total", Counter, Other),
        _ => return None,
    })
}

/// Values of one metric, by their labels.
struct Family {
    kind: Kind,
    lines: Vec<String>,
}

/// Metrics of one or more drivers.
#[derive(Default)]
pub(super) struct Metrics {
    families: BTreeMap<String, Family>,
}

impl Metrics {
    fn put(&mut self, name: &str, kind: Kind, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let name = format!("aeron_{name}");
        let line = format!("{name}{{{}}} {value}", labels.join(","));
        self.families.entry(name).or_insert(Family { kind, lines: Vec::new() }).lines.push(line);
    }

    /// Adds a driver's directory that cannot be read.
    pub(super) fn put_absent(&mut self, path: &Path) {
        self.put("driver_up", Gauge, &[("aeron_dir", &path.display().to_string())], 0);
    }

    /// Adds all metrics of a driver's directory.
    pub(super) fn put_driver(&mut self, directory: &AeronDirectory, now_ms: i64) {
        let path = directory.path().display().to_string();
        let dir = ("aeron_dir", path.as_str());
        let heartbeat_ms = directory.heartbeat_ms();
        let age_ms = now_ms - heartbeat_ms;
        let is_up = heartbeat_ms > 0 && age_ms < directory.header.client_liveness_timeout_ns / 1_000_000;
        self.put("driver_up", Gauge, &[dir], i32::from(is_up));
        if heartbeat_ms > 0 {
            self.put("driver_heartbeat_age_seconds", Gauge, &[dir], age_ms as f64 / 1e3);
        }
        for record in directory.counters() {
            self.put_counter(dir, &record);
        }
        let errors = directory.errors(0);
        self.put("distinct_errors", Gauge, &[dir], errors.len());
        for loss in directory.losses().unwrap_or_default() {
            let (session_id, stream_id) = (loss.session_id.to_string(), loss.stream_id.to_string());
            let first_ms = loss.first_observation_ms.to_string();
            let labels = [
                dir,
                ("session_id", session_id.as_str()),
                ("stream_id", &stream_id),
                ("channel", &loss.channel),
                ("source", &loss.source),
                // A stream that came again has another entry.
                ("since_ms", &first_ms),
            ];
            self.put("loss_bytes_total", Counter, &labels, loss.total_bytes_lost);
            self.put("loss_observations_total", Counter, &labels, loss.observation_count);
        }
    }

    fn put_counter(&mut self, dir: (&str, &str), record: &CounterRecord) {
        if record.type_id == 0 {
            let id = record.key_i32(0);
            if let Some((name, kind)) = usize::try_from(id).ok().and_then(|id| SYSTEM.get(id)) {
                return self.put(name, *kind, &[dir], record.value);
            }
        }
        let id = record.id.to_string();
        let own = ("counter_id", id.as_str());
        let label = ("label", record.label.as_str());
        match known(record.type_id) {
            Some((name, kind, KeyOf::Stream)) if let Some(key) = StreamKey::decode(&record.key) => {
                let (session_id, stream_id) = (key.session_id.to_string(), key.stream_id.to_string());
                let channel = String::from_utf8_lossy(key.channel);
                let labels = [
                    dir,
                    own,
                    ("stream_id", stream_id.as_str()),
                    ("session_id", session_id.as_str()),
                    ("channel", &channel),
                ];
                self.put(name, kind, &labels, record.value);
            }
            Some((name, kind, KeyOf::Cluster)) => {
                let cluster_id = record.key_i32(0).to_string();
                self.put(name, kind, &[dir, own, ("cluster_id", &cluster_id)], record.value);
            }
            Some((name, kind, _)) => self.put(name, kind, &[dir, own, label], record.value),
            None => {
                let type_id = record.type_id.to_string();
                self.put("counter", Gauge, &[dir, own, ("type_id", &type_id), label], record.value);
            }
        }
    }

    /// Returns Prometheus text, version 0.0.4.
    pub(super) fn into_text(self) -> String {
        let mut text = String::new();
        for (name, family) in self.families {
            let kind = if family.kind == Counter { "counter" } else { "gauge" };
            let _infallible = writeln!(text, "# TYPE {name} {kind}");
            for line in family.lines {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }
}

/// Escapes a label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aeron_directory::tests::golden;
    use std::collections::BTreeSet;

    fn text() -> String {
        let golden = golden();
        let directory = AeronDirectory::open(golden.path()).unwrap();
        let mut metrics = Metrics::default();
        metrics.put_driver(&directory, directory.heartbeat_ms() + 250);
        metrics.put_absent(Path::new("/nowhere"));
        metrics.into_text().replace(&golden.path().display().to_string(), "DIR")
    }

    #[test]
    fn a_driver_is_told_in_metrics() {
        let text = text();
        for line in [
            "# TYPE aeron_bytes_sent_total counter",
            "aeron_bytes_sent_total{aeron_dir=\"DIR\"} 256",
            "aeron_driver_up{aeron_dir=\"DIR\"} 1",
            "aeron_driver_up{aeron_dir=\"/nowhere\"} 0",
            "aeron_driver_heartbeat_age_seconds{aeron_dir=\"DIR\"} 0.25",
            "aeron_distinct_errors{aeron_dir=\"DIR\"} 2",
        ] {
            assert!(text.lines().any(|candidate| candidate == line), "{line} in\n{text}");
        }
        let position =
            text.lines().find(|line| line.starts_with("aeron_subscriber_position_bytes{")).unwrap();
        assert!(position.contains("stream_id=\"4") && position.contains("channel=\"aeron:"), "{position}");
        assert!(text.contains("aeron_loss_bytes_total{") && text.contains("stream_id=\"10\""), "{text}");
    }

    #[test]
    fn each_series_is_there_once_below_its_type() {
        let text = text();
        let mut series = BTreeSet::new();
        let mut family = "";
        for line in text.lines() {
            if let Some(header) = line.strip_prefix("# TYPE ") {
                family = header.split(' ').next().unwrap();
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(name.starts_with(&format!("{family}{{")), "{line} below {family}");
            assert!(series.insert(name.to_owned()), "{name} is there twice");
        }
        assert!(series.len() > 60, "{}", series.len());
    }

    #[test]
    fn values_of_labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
