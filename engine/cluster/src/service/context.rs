//! Settings of a service container (spec 04 §9.2).

use std::path::PathBuf;

use harrier_archive::client::ArchiveClientContext;
use harrier_protocol::semantic_version;
use harrier_protocol::uri::{ChannelUri, parse_duration_ns, parse_size};
use thiserror::Error;

/// Highest number of services of a node.
const MAX_SERVICES: i32 = 10;

/// Invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("service setting {setting} {rule}")]
pub struct InvalidServiceSetting {
    /// Name and value.
    pub setting: String,
    /// Rule that a valid value follows.
    pub rule: String,
}

/// All settings of a service container. Times are ns, lengths bytes; names and defaults are those of spec 04 §9.2.
///
/// ```
/// use harrier_cluster::service::ServiceContainerContext;
///
/// let mut context = ServiceContainerContext::new("/dev/shm/aeron", "/var/lib/cluster", 1);
/// context.apply(&|name| (name == "aeron.cluster.service.snapshot.threshold").then(|| "5s".into())).unwrap();
/// assert_eq!(context.snapshot_threshold_ns, 5_000_000_000);
/// assert_eq!(context.archive.control_response_stream_id, 122);
/// ```
#[derive(Debug, Clone)]
pub struct ServiceContainerContext {
    /// Directory of the media driver.
    pub aeron_directory: PathBuf,
    /// Directory of the cluster's files.
    pub cluster_directory: PathBuf,
    /// Id of the cluster, which its counters carry.
    pub cluster_id: i32,
    /// Id of the service.
    pub service_id: i32,
    /// Name of the service.
    pub service_name: String,
    /// Channel between consensus module and services.
    pub control_channel: String,
    /// Stream from the consensus module to the services.
    pub service_stream_id: i32,
    /// Stream from the services to the consensus module.
    pub module_stream_id: i32,
    /// Channel over which snapshots are replayed.
    pub replay_channel: String,
    /// Stream of those replays.
    pub replay_stream_id: i32,
    /// Channel over which snapshots are recorded.
    pub snapshot_channel: String,
    /// Stream of those recordings.
    pub snapshot_stream_id: i32,
    /// Most fragments of the log per duty cycle.
    pub log_fragment_limit: usize,
    /// True when the service answers clients.
    pub is_responder: bool,
    /// Directory of the mark file; the cluster's directory by default.
    pub mark_file_directory: Option<PathBuf>,
    /// Length of the error log in the mark file, bytes.
    pub error_buffer_length: usize,
    /// Time beyond which a duty cycle is counted as slow, ns.
    pub cycle_threshold_ns: i64,
    /// Time beyond which a snapshot is counted as slow, ns.
    pub snapshot_threshold_ns: i64,
    /// Version of the application, as a packed semantic version.
    pub app_version: i32,
    /// Client of the node's archive, which is connected while a snapshot is loaded or taken.
    pub archive: ArchiveClientContext,
    /// Longest wait for the driver and the consensus module at start, ns.
    pub startup_timeout_ns: i64,
    /// Longest time that [`Cluster::reply`](super::Cluster::reply) waits for a client that does not read its egress,
    /// ns.
    pub reply_patience_ns: i64,
}

impl ServiceContainerContext {
    /// Creates default settings of a service.
    pub fn new(
        aeron_directory: impl Into<PathBuf>,
        cluster_directory: impl Into<PathBuf>,
        service_id: i32,
    ) -> Self {
        Self {
            aeron_directory: aeron_directory.into(),
            cluster_directory: cluster_directory.into(),
            cluster_id: 0,
            service_id,
            service_name: String::new(),
            control_channel: "aeron:ipc?term-length=128k".into(),
            service_stream_id: 104,
            module_stream_id: 105,
            replay_channel: "aeron:ipc".into(),
            replay_stream_id: 103,
            snapshot_channel: "aeron:ipc?alias=snapshot".into(),
            snapshot_stream_id: 106,
            log_fragment_limit: 50,
            is_responder: true,
            mark_file_directory: None,
            error_buffer_length: 1 << 20,
            cycle_threshold_ns: 100_000_000,
            snapshot_threshold_ns: 1_000_000_000,
            app_version: semantic_version(0, 0, 1),
            archive: ArchiveClientContext::ipc(),
            startup_timeout_ns: 60_000_000_000,
            reply_patience_ns: 1_000_000_000,
        }
        .for_cluster(0)
    }

    /// Sets the cluster's id, and with it the service's name and the response stream of the archive client.
    #[must_use]
    pub fn for_cluster(mut self, cluster_id: i32) -> Self {
        self.cluster_id = cluster_id;
        self.service_name = format!("clustered-service-{cluster_id}-{}", self.service_id);
        self.archive.control_response_stream_id = cluster_id * 100 + 121 + self.service_id;
        self
    }

    /// Reads the settings that `lookup` returns for their dotted names, e.g. `aeron.cluster.service.responder`: from
    /// properties, variables of the environment or a file (spec 04 §9.2).
    ///
    /// # Errors
    /// The first value that cannot be read.
    pub fn apply(&mut self, lookup: &impl Fn(&str) -> Option<String>) -> Result<(), InvalidServiceSetting> {
        let mut find = |name: &str| {
            let is_whole = name == "aeron.dir" || name.starts_with("harrier.");
            let name = if is_whole { name.to_owned() } else { format!("aeron.cluster.{name}") };
            lookup(&name).map(|text| (name, text))
        };
        read(&mut find, "aeron.dir", &mut self.aeron_directory, |text| Some(text.into()))?;
        read(&mut find, "service.id", &mut self.service_id, |text| text.parse().ok())?;
        let mut cluster_id = self.cluster_id;
        read(&mut find, "id", &mut cluster_id, |text| text.parse().ok())?;
        *self = self.clone().for_cluster(cluster_id);
        read(&mut find, "service.name", &mut self.service_name, |text| Some(text.to_owned()))?;
        read(&mut find, "dir", &mut self.cluster_directory, |text| Some(text.into()))?;
        read(&mut find, "services.dir", &mut self.cluster_directory, |text| Some(text.into()))?;
        read(&mut find, "mark.file.dir", &mut self.mark_file_directory, |text| Some(Some(text.into())))?;
        read(&mut find, "service.error.buffer.length", &mut self.error_buffer_length, |text| {
            parse_size(text).and_then(|size| usize::try_from(size).ok())
        })?;
        for (name, channel) in [
            ("control.channel", &mut self.control_channel),
            ("replay.channel", &mut self.replay_channel),
            ("snapshot.channel", &mut self.snapshot_channel),
        ] {
            read(&mut find, name, channel, |text| Some(text.to_owned()))?;
        }
        for (name, stream_id) in [
            ("service.stream.id", &mut self.service_stream_id),
            ("consensus.module.stream.id", &mut self.module_stream_id),
            ("replay.stream.id", &mut self.replay_stream_id),
            ("snapshot.stream.id", &mut self.snapshot_stream_id),
        ] {
            read(&mut find, name, stream_id, |text| text.parse().ok())?;
        }
        read(&mut find, "log.fragment.limit", &mut self.log_fragment_limit, |text| {
            parse_size(text).and_then(|size| usize::try_from(size).ok())
        })?;
        read(&mut find, "service.responder", &mut self.is_responder, |text| text.parse().ok())?;
        read(&mut find, "service.cycle.threshold", &mut self.cycle_threshold_ns, parse_duration_ns)?;
        read(&mut find, "service.snapshot.threshold", &mut self.snapshot_threshold_ns, parse_duration_ns)?;
        read(&mut find, "harrier.service.reply.patience", &mut self.reply_patience_ns, parse_duration_ns)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn validate(&self) -> Result<(), InvalidServiceSetting> {
        if !(0..MAX_SERVICES).contains(&self.service_id) {
            return Err(invalid(format!("service.id={}", self.service_id), "must be from 0 to 9"));
        }
        for (name, channel) in [
            ("control.channel", &self.control_channel),
            ("replay.channel", &self.replay_channel),
            ("snapshot.channel", &self.snapshot_channel),
        ] {
            if ChannelUri::parse(channel).is_err() {
                return Err(invalid(format!("{name}={channel}"), "must be a channel"));
            }
        }
        if self.error_buffer_length < 4_096 {
            let setting = format!("service.error.buffer.length={}", self.error_buffer_length);
            return Err(invalid(setting, "must be at least 4096"));
        }
        if self.reply_patience_ns < 0 {
            let setting = format!("harrier.service.reply.patience={}", self.reply_patience_ns);
            return Err(invalid(setting, "must not be negative"));
        }
        if self.log_fragment_limit == 0 {
            return Err(invalid("log.fragment.limit=0".into(), "must be at least 1"));
        }
        let is_local = [&self.archive.control_request_channel, &self.archive.control_response_channel]
            .iter()
            .all(|channel| channel.starts_with("aeron:ipc"));
        if !is_local {
            let setting = format!("archive.control.channel={}", self.archive.control_request_channel);
            return Err(invalid(setting, "must be IPC: snapshots go to the archive of the node"));
        }
        Ok(())
    }
}

fn invalid(setting: String, rule: &str) -> InvalidServiceSetting {
    InvalidServiceSetting { setting, rule: rule.to_owned() }
}

fn read<V>(
    value: &mut dyn FnMut(&str) -> Option<(String, String)>,
    name: &str,
    target: &mut V,
    parse: impl Fn(&str) -> Option<V>,
) -> Result<(), InvalidServiceSetting> {
    if let Some((name, text)) = value(name) {
        *target = parse(text.trim()).ok_or_else(|| invalid(format!("{name}={text}"), "cannot be read"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(settings: &[(&str, &str)]) -> Result<ServiceContainerContext, InvalidServiceSetting> {
        let mut context = ServiceContainerContext::new("aeron", "cluster", 0);
        context.apply(&|name: &str| {
            let found =
                settings.iter().find(|(known, _)| name == *known || name == format!("aeron.cluster.{known}"));
            found.map(|(_, value)| (*value).to_owned())
        })?;
        context.validate()?;
        Ok(context)
    }

    #[test]
    fn every_setting_is_read() {
        let context = context(&[
            ("id", "3"),
            ("service.id", "2"),
            ("aeron.dir", "/tmp/aeron"),
            ("dir", "/tmp/cluster"),
            ("mark.file.dir", "/tmp/marks"),
            ("service.error.buffer.length", "2m"),
            ("control.channel", "aeron:ipc?term-length=64k"),
            ("service.stream.id", "204"),
            ("consensus.module.stream.id", "205"),
            ("replay.channel", "aeron:ipc?alias=replay"),
            ("replay.stream.id", "203"),
            ("snapshot.channel", "aeron:ipc?alias=own"),
            ("snapshot.stream.id", "206"),
            ("log.fragment.limit", "7"),
            ("service.responder", "false"),
            ("service.cycle.threshold", "20ms"),
            ("service.snapshot.threshold", "3s"),
            ("harrier.service.reply.patience", "20ms"),
        ])
        .unwrap();
        assert_eq!((context.cluster_id, context.service_id), (3, 2));
        assert_eq!(context.service_name, "clustered-service-3-2");
        assert_eq!(context.archive.control_response_stream_id, 423);
        assert_eq!(context.cluster_directory, PathBuf::from("/tmp/cluster"));
        assert_eq!(context.aeron_directory, PathBuf::from("/tmp/aeron"));
        assert_eq!(context.mark_file_directory, Some(PathBuf::from("/tmp/marks")));
        assert_eq!(context.error_buffer_length, 2 << 20);
        assert_eq!(context.control_channel, "aeron:ipc?term-length=64k");
        assert_eq!((context.service_stream_id, context.module_stream_id), (204, 205));
        assert_eq!(
            (context.replay_channel.as_str(), context.replay_stream_id),
            ("aeron:ipc?alias=replay", 203)
        );
        assert_eq!(
            (context.snapshot_channel.as_str(), context.snapshot_stream_id),
            ("aeron:ipc?alias=own", 206)
        );
        assert_eq!((context.log_fragment_limit, context.is_responder), (7, false));
        assert_eq!((context.cycle_threshold_ns, context.snapshot_threshold_ns), (20_000_000, 3_000_000_000));
        assert_eq!(context.reply_patience_ns, 20_000_000);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (name, value) in [
            ("service.id", "10"),
            ("service.id", "one"),
            ("service.responder", "perhaps"),
            ("log.fragment.limit", "0"),
            ("snapshot.channel", "ipc"),
            ("service.cycle.threshold", "soon"),
        ] {
            let error = context(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
