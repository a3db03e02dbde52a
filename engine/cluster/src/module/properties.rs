//! Settings of a consensus module by their names (spec 04 §9.1).

use std::path::PathBuf;

use harrier_protocol::uri::{parse_duration_ns, parse_size};
use harrier_ringbuf::storage::SyncLevel;

use super::context::{ConsensusModuleContext, InvalidSetting};
use super::security::{AuthenticatorSupplier, Authorisation};
use crate::codec::TimeUnit;

/// Prefix of all names except those of driver and archive.
const PREFIX: &str = "aeron.cluster.";

/// Returns the last part of a Java class's name. Settings of suppliers hold the names of classes.
fn simple_name(text: &str) -> &str {
    text.rsplit(['.', '$']).next().unwrap_or(text)
}

struct Reader<'a, F> {
    lookup: &'a F,
}

impl<F: Fn(&str) -> Option<String>> Reader<'_, F> {
    fn read<V>(
        &self,
        name: &str,
        rule: &str,
        target: &mut V,
        parse: impl FnOnce(&str) -> Option<V>,
    ) -> Result<(), InvalidSetting> {
        let name = if name.starts_with("aeron.") || name.starts_with("harrier.") {
            name.to_owned()
        } else {
            format!("{PREFIX}{name}")
        };
        let Some(text) = (self.lookup)(&name) else { return Ok(()) };
        match parse(text.trim()) {
            Some(value) => *target = value,
            None => {
                let setting = format!("{name}={text}");
                return Err(InvalidSetting::Value { setting, rule: rule.to_owned() });
            }
        }
        Ok(())
    }

    fn number<N: std::str::FromStr>(&self, name: &str, target: &mut N) -> Result<(), InvalidSetting> {
        self.read(name, "must be a number in range", target, |text| text.parse().ok())
    }

    fn duration(&self, name: &str, target: &mut i64) -> Result<(), InvalidSetting> {
        self.read(name, "must be a time such as 10s, 200ms, 5us or 100ns", target, parse_duration_ns)
    }

    fn text(&self, name: &str, target: &mut String) -> Result<(), InvalidSetting> {
        self.read(name, "", target, |text| Some(text.to_owned()))
    }

    fn path(&self, name: &str, target: &mut Option<PathBuf>) -> Result<(), InvalidSetting> {
        self.read(name, "", target, |text| Some(Some(text.into())))
    }

    fn flag(&self, name: &str, target: &mut bool) -> Result<(), InvalidSetting> {
        self.read(name, "must be true or false", target, |text| text.parse().ok())
    }
}

impl ConsensusModuleContext {
    /// Takes the settings for whose dotted names, such as `aeron.cluster.session.timeout`, `lookup` returns a value. The
    /// values may come from properties, environment variables or a file. Suppliers have the names of the released
    /// cluster's classes, with or without the package.
    ///
    /// ```
    /// use harrier_cluster::module::ConsensusModuleContext;
    ///
    /// let mut context = ConsensusModuleContext::new("/dev/shm/aeron", "/var/c", 0, "0,h:1,h:2,h:3,h:4,h:5");
    /// let lookup = |name: &str| (name == "aeron.cluster.session.timeout").then(|| "5s".to_owned());
    /// context.apply(&lookup).unwrap();
    /// assert_eq!(context.session_timeout_ns, 5_000_000_000);
    /// ```
    ///
    /// # Errors
    /// The first invalid value, with its name and what is valid.
    pub fn apply(&mut self, lookup: &impl Fn(&str) -> Option<String>) -> Result<(), InvalidSetting> {
        let reader = Reader { lookup };
        self.apply_identity(&reader)?;
        self.apply_streams(&reader)?;
        self.apply_limits(&reader)?;
        self.apply_suppliers(&reader)
    }

    fn apply_identity<F: Fn(&str) -> Option<String>>(
        &mut self,
        reader: &Reader<'_, F>,
    ) -> Result<(), InvalidSetting> {
        reader.read("aeron.dir", "", &mut self.aeron_directory, |text| Some(text.into()))?;
        reader.read("dir", "", &mut self.cluster_directory, |text| Some(text.into()))?;
        reader.path("services.dir", &mut self.services_directory)?;
        reader.path("mark.file.dir", &mut self.mark_file_directory)?;
        reader.number("member.id", &mut self.member_id)?;
        reader.text("members", &mut self.members)?;
        reader.text("member.endpoints", &mut self.member_endpoints)?;
        reader.number("appointed.leader.id", &mut self.appointed_leader_id)?;
        reader.number("id", &mut self.cluster_id)?;
        reader.flag("harrier.cluster.start.anew", &mut self.start_anew)?;
        reader.number("service.count", &mut self.service_count)?;
        reader.text("consensus.module.agent.role.name", &mut self.agent_role_name)
    }

    fn apply_streams<F: Fn(&str) -> Option<String>>(
        &mut self,
        reader: &Reader<'_, F>,
    ) -> Result<(), InvalidSetting> {
        for (name, channel, stream_id) in [
            ("ingress", &mut self.ingress_channel, &mut self.ingress_stream_id),
            ("log", &mut self.log_channel, &mut self.log_stream_id),
            ("replay", &mut self.replay_channel, &mut self.replay_stream_id),
            ("snapshot", &mut self.snapshot_channel, &mut self.snapshot_stream_id),
            ("consensus", &mut self.consensus_channel, &mut self.consensus_stream_id),
        ] {
            reader.text(&format!("{name}.channel"), channel)?;
            reader.number(&format!("{name}.stream.id"), stream_id)?;
        }
        reader.text("control.channel", &mut self.control_channel)?;
        reader.number("service.stream.id", &mut self.service_stream_id)?;
        reader.number("consensus.module.stream.id", &mut self.module_stream_id)?;
        reader.read("egress.channel", "", &mut self.egress_channel, |text| Some(Some(text.to_owned())))?;
        reader.text("follower.catchup.channel", &mut self.follower_catchup_channel)?;
        reader.flag("consensus.control.enable", &mut self.is_consensus_control_enabled)?;
        reader.flag("log.control.enable", &mut self.is_log_control_enabled)?;
        reader.text("leader.archive.control.channel", &mut self.leader_archive_control_channel)?;
        reader.read("replication.channel", "", &mut self.replication_channel, |text| {
            Some(Some(text.to_owned()))
        })?;
        reader.flag("accept.standby.snapshots", &mut self.accepts_standby_snapshots)?;
        reader.number("ingress.fragment.limit", &mut self.ingress_fragment_limit)?;
        reader.number("log.fragment.limit", &mut self.log_fragment_limit)?;
        reader.flag("ingress.ipc.allowed", &mut self.is_ipc_ingress_allowed)
    }

    fn apply_limits<F: Fn(&str) -> Option<String>>(
        &mut self,
        reader: &Reader<'_, F>,
    ) -> Result<(), InvalidSetting> {
        reader.number("max.sessions", &mut self.max_sessions)?;
        reader.duration("session.timeout", &mut self.session_timeout_ns)?;
        reader.duration("leader.heartbeat.timeout", &mut self.leader_heartbeat_timeout_ns)?;
        reader.duration("leader.heartbeat.interval", &mut self.leader_heartbeat_interval_ns)?;
        reader.duration("startup.canvass.timeout", &mut self.startup_canvass_timeout_ns)?;
        reader.duration("election.timeout", &mut self.election_timeout_ns)?;
        reader.duration("election.status.interval", &mut self.election_status_interval_ns)?;
        reader.duration("termination.timeout", &mut self.termination_timeout_ns)?;
        reader.duration("service.ack.timeout", &mut self.service_ack_timeout_ns)?;
        reader.duration("replication.progress.timeout", &mut self.replication_progress_timeout_ns)?;
        reader.duration(
            "standby.snapshot.notification.processing.delay",
            &mut self.standby_snapshot_delay_ns,
        )?;
        reader.duration("cycle.threshold", &mut self.cycle_threshold_ns)?;
        reader.duration("total.snapshot.threshold", &mut self.total_snapshot_threshold_ns)?;
        let size = |text: &str| usize::try_from(parse_size(text)?).ok();
        let rule = "must be a size such as 1048576 or 1m";
        reader.read("error.buffer.length", rule, &mut self.error_buffer_length, size)?;
        let level = |text: &str| match text {
            "0" => Some(None),
            "1" => Some(Some(SyncLevel::Data)),
            "2" => Some(Some(SyncLevel::All)),
            _ => None,
        };
        // The released cluster has the level of its archive by default.
        let rule = "must be 0, 1 or 2";
        reader.read("aeron.archive.file.sync.level", rule, &mut self.file_sync_level, level)?;
        reader.read("file.sync.level", rule, &mut self.file_sync_level, level)
    }

    fn apply_suppliers<F: Fn(&str) -> Option<String>>(
        &mut self,
        reader: &Reader<'_, F>,
    ) -> Result<(), InvalidSetting> {
        let rule = "must be MillisecondClusterClock or NanosecondClusterClock";
        reader.read("clock", rule, &mut self.time_unit, |text| match simple_name(text) {
            "MillisecondClusterClock" => Some(TimeUnit::Millis),
            "NanosecondClusterClock" => Some(TimeUnit::Nanos),
            _ => None,
        })?;
        let rule = "must be DefaultAuthenticatorSupplier; others are set in a program that embeds the module";
        reader.read("authenticator.supplier", rule, &mut self.authenticator, |text| {
            let is_default = simple_name(text) == "DefaultAuthenticatorSupplier";
            is_default.then(AuthenticatorSupplier::allow_all)
        })?;
        let rule = "must be ALLOW_ALL, DENY_ALL or DefaultAuthorisationServiceSupplier";
        reader.read(
            "authorisation.service.supplier",
            rule,
            &mut self.authorisation,
            |text| match simple_name(text) {
                "ALLOW_ALL" => Some(Authorisation::allow_all()),
                "DENY_ALL" => Some(Authorisation::deny_all()),
                "DefaultAuthorisationServiceSupplier" => Some(Authorisation::backups_only()),
                _ => None,
            },
        )?;
        // One kind of timers serves both settings: timers fire at once, in the order of their deadlines. The sizes of a
        // wheel change nothing, but invalid ones are refused.
        let tick = |text: &str| parse_duration_ns(text).filter(|ns| *ns > 0).map(|_| ());
        reader.read("wheel.tick.resolution", "must be a time such as 8ms", &mut (), tick)?;
        let ticks = |text: &str| text.parse::<u32>().ok().filter(|ticks| ticks.is_power_of_two()).map(|_| ());
        reader.read("ticks.per.wheel", "must be a power of two", &mut (), ticks)?;
        let rule = "must be WheelTimerServiceSupplier or PriorityHeapTimerServiceSupplier";
        reader.read("timer.service.supplier", rule, &mut (), |text| {
            let known = ["WheelTimerServiceSupplier", "PriorityHeapTimerServiceSupplier"];
            known.contains(&simple_name(text)).then_some(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(settings: &[(&str, &str)]) -> Result<ConsensusModuleContext, String> {
        let mut context = ConsensusModuleContext::new("/a", "/c", 0, "");
        let lookup = |name: &str| {
            let found = settings.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        context.apply(&lookup).map_err(|error| error.to_string())?;
        Ok(context)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table: one line for each setting")]
    fn every_setting_has_its_name() {
        let context = apply(&[
            ("aeron.dir", "/d"),
            ("aeron.cluster.dir", "/cluster"),
            ("aeron.cluster.services.dir", "/services"),
            ("aeron.cluster.mark.file.dir", "/marks"),
            ("aeron.cluster.member.id", "2"),
            ("aeron.cluster.members", "2,h:1,h:2,h:3,h:4,h:5"),
            ("aeron.cluster.member.endpoints", "h:1,h:2,h:3,h:4,h:5"),
            ("aeron.cluster.appointed.leader.id", "2"),
            ("aeron.cluster.id", "7"),
            ("aeron.cluster.service.count", "3"),
            ("aeron.cluster.consensus.module.agent.role.name", "cm"),
            ("aeron.cluster.ingress.channel", "aeron:udp?term-length=128k"),
            ("aeron.cluster.ingress.stream.id", "1101"),
            ("aeron.cluster.log.channel", "aeron:ipc?term-length=1m"),
            ("aeron.cluster.log.stream.id", "1100"),
            ("aeron.cluster.replay.stream.id", "1103"),
            ("aeron.cluster.snapshot.stream.id", "1107"),
            ("aeron.cluster.control.channel", "aeron:ipc?term-length=256k"),
            ("aeron.cluster.service.stream.id", "1104"),
            ("aeron.cluster.consensus.module.stream.id", "1105"),
            ("aeron.cluster.egress.channel", "aeron:udp?mtu=8k"),
            ("aeron.cluster.ingress.fragment.limit", "10"),
            ("aeron.cluster.log.fragment.limit", "20"),
            ("aeron.cluster.ingress.ipc.allowed", "true"),
            ("aeron.cluster.max.sessions", "99"),
            ("aeron.cluster.session.timeout", "5s"),
            ("aeron.cluster.leader.heartbeat.timeout", "2s"),
            ("aeron.cluster.leader.heartbeat.interval", "100ms"),
            ("aeron.cluster.startup.canvass.timeout", "20s"),
            ("aeron.cluster.election.timeout", "700ms"),
            ("aeron.cluster.election.status.interval", "70ms"),
            ("aeron.cluster.follower.catchup.channel", "aeron:udp?mtu=4k"),
            ("aeron.cluster.consensus.control.enable", "false"),
            ("aeron.cluster.log.control.enable", "false"),
            ("aeron.cluster.termination.timeout", "3s"),
            ("aeron.cluster.service.ack.timeout", "30s"),
            ("aeron.cluster.cycle.threshold", "7ms"),
            ("aeron.cluster.total.snapshot.threshold", "9ms"),
            ("aeron.cluster.error.buffer.length", "64k"),
            ("aeron.archive.file.sync.level", "2"),
            ("aeron.cluster.file.sync.level", "1"),
            ("aeron.cluster.clock", "io.aeron.cluster.NanosecondClusterClock"),
            ("aeron.cluster.authenticator.supplier", "io.aeron.security.DefaultAuthenticatorSupplier"),
            ("aeron.cluster.authorisation.service.supplier", "ALLOW_ALL"),
            ("aeron.cluster.timer.service.supplier", "io.aeron.cluster.PriorityHeapTimerServiceSupplier"),
            ("aeron.cluster.wheel.tick.resolution", "4ms"),
            ("aeron.cluster.ticks.per.wheel", "256"),
            ("aeron.cluster.consensus.channel", "aeron:udp?mtu=8k"),
            ("aeron.cluster.consensus.stream.id", "1108"),
            ("aeron.cluster.replication.channel", "aeron:udp?endpoint=h:9"),
            ("aeron.cluster.leader.archive.control.channel", "aeron:udp?term-length=128k"),
            ("aeron.cluster.replication.progress.timeout", "3s"),
            ("aeron.cluster.accept.standby.snapshots", "true"),
            ("aeron.cluster.standby.snapshot.notification.processing.delay", "2s"),
        ])
        .unwrap();
        context.validate().unwrap();
        assert_eq!(context.mark_file_directory, Some("/marks".into()));
        assert_eq!((context.member_id, context.cluster_id, context.service_count), (2, 7, 3));
        let streams = [
            context.ingress_stream_id,
            context.log_stream_id,
            context.replay_stream_id,
            context.service_stream_id,
            context.module_stream_id,
            context.snapshot_stream_id,
        ];
        assert_eq!(streams, [1_101, 1_100, 1_103, 1_104, 1_105, 1_107]);
        assert_eq!((context.max_sessions, context.ingress_fragment_limit), (99, 10));
        assert_eq!(
            (context.session_timeout_ns, context.service_ack_timeout_ns),
            (5_000_000_000, 30_000_000_000)
        );
        assert_eq!(
            [
                context.startup_canvass_timeout_ns,
                context.election_timeout_ns,
                context.election_status_interval_ns
            ],
            [20_000_000_000, 700_000_000, 70_000_000]
        );
        assert_eq!(context.follower_catchup_channel, "aeron:udp?mtu=4k");
        assert!(!context.is_consensus_control_enabled && !context.is_log_control_enabled);
        assert_eq!((context.error_buffer_length, context.time_unit), (64 << 10, TimeUnit::Nanos));
        assert_eq!(context.file_sync_level, Some(SyncLevel::Data));
        assert_eq!(context.authorisation.name(), "allow-all");
        assert!(context.is_ipc_ingress_allowed && context.accepts_standby_snapshots);
        assert_eq!((context.consensus_stream_id, context.standby_snapshot_delay_ns), (1_108, 2_000_000_000));
        assert_eq!(context.replication_channel.as_deref(), Some("aeron:udp?endpoint=h:9"));
    }

    #[test]
    fn values_that_cannot_be_read_are_named_with_their_rule() {
        for (name, value, rule) in [
            ("aeron.cluster.member.id", "x", "must be a number"),
            ("aeron.cluster.session.timeout", "5 apples", "must be a time"),
            ("aeron.cluster.error.buffer.length", "much", "must be a size"),
            ("aeron.cluster.ingress.ipc.allowed", "yes", "must be true or false"),
            ("aeron.cluster.file.sync.level", "3", "must be 0, 1 or 2"),
            ("aeron.cluster.clock", "my.Clock", "NanosecondClusterClock"),
            ("aeron.cluster.authenticator.supplier", "my.Supplier", "DefaultAuthenticatorSupplier"),
            ("aeron.cluster.authorisation.service.supplier", "my.Supplier", "ALLOW_ALL"),
            ("aeron.cluster.timer.service.supplier", "my.Timers", "WheelTimerServiceSupplier"),
            ("aeron.cluster.wheel.tick.resolution", "0ns", "must be a time such as 8ms"),
            ("aeron.cluster.ticks.per.wheel", "100", "must be a power of two"),
            ("aeron.cluster.accept.standby.snapshots", "maybe", "must be true or false"),
        ] {
            let error = apply(&[(name, value)]).unwrap_err();
            assert!(error.contains(&format!("{name}={value}")) && error.contains(rule), "{error}");
        }
    }
}
