//! Settings by name: environment variables, `-D` definitions and properties files (spec 02 §6.1–6.3).

use std::collections::BTreeMap;
use thiserror::Error;

use harrier_protocol::uri::{Group, parse_duration_ns, parse_size};
use harrier_ringbuf::idle::{Backoff, IdleStrategy};
use harrier_ringbuf::transport::TransportKind;

use crate::context::{
    DriverContext, InvalidSetting, NameResolverSupplier, TerminationValidator, ThreadingMode,
};

/// Why definitions cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DefinitionError {
    /// `-D` without `=`.
    #[error("malformed define: {0}")]
    Malformed(String),
}

/// Named settings. Names are those of environment variables: `aeron.term.buffer.length` is `AERON_TERM_BUFFER_LENGTH`.
///
/// ```
/// use harrier_driver::configuration::Properties;
/// use harrier_driver::context::DriverContext;
///
/// let mut properties = Properties::default();
/// properties.define("aeron.term.buffer.length=64k").unwrap();
/// let mut context = DriverContext::new("/dev/shm/aeron");
/// assert!(properties.apply(&mut context).unwrap().is_empty());
/// assert_eq!(context.term_buffer_length, 65_536);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Properties {
    values: BTreeMap<String, String>,
}

impl Properties {
    /// The variables of a process whose names begin with `AERON_`, or `HARRIER_DRIVER_` for what Aeron does not have.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Self {
        let is_ours =
            |(name, _): &(String, String)| name.starts_with("AERON_") || name.starts_with("HARRIER_DRIVER_");
        Self { values: variables.filter(is_ours).collect() }
    }

    /// Takes `name=value`, the name dotted or as a variable.
    ///
    /// # Errors
    /// Text without `=`.
    pub fn define(&mut self, definition: &str) -> Result<(), DefinitionError> {
        let (name, value) =
            definition.split_once('=').ok_or_else(|| DefinitionError::Malformed(definition.to_owned()))?;
        self.set(name.trim(), value.trim());
        Ok(())
    }

    /// Sets one value; an empty one unsets it.
    pub fn set(&mut self, name: &str, value: &str) {
        let name = variable_name(name);
        if value.is_empty() {
            self.values.remove(&name);
        } else {
            self.values.insert(name, value.to_owned());
        }
    }

    /// Takes a properties file: `name=value` or `name:value` lines, `#` and `!` comments, a trailing `\` joins lines.
    pub fn load(&mut self, text: &str) {
        let mut joined = String::new();
        for line in text.lines() {
            let line = line.trim();
            if joined.is_empty() && (line.is_empty() || line.starts_with(['#', '!'])) {
                continue;
            }
            if let Some(start) = line.strip_suffix('\\') {
                joined.push_str(start);
                continue;
            }
            joined.push_str(line);
            if let Some((name, value)) = joined.split_once(['=', ':']) {
                self.set(name.trim(), value.trim());
            }
            joined.clear();
        }
    }

    /// The value of a setting by its dotted or variable name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(&variable_name(name)).map(String::as_str)
    }

    /// Puts all settings into a context. Returns a warning for each value that cannot be read and is left at its default.
    ///
    /// # Errors
    /// An unknown idle strategy (spec 02 §5.10, DECISION) or transport.
    pub fn apply(&self, context: &mut DriverContext) -> Result<Vec<String>, InvalidSetting> {
        let mut warnings = Vec::new();
        let mut reader = Reader { properties: self, warnings: &mut warnings };
        reader.process(context);
        reader.lengths(context);
        reader.times(context);
        reader.streams(context);
        reader.network(context);
        reader.names(context);
        self.name_resolver(context)?;
        self.idle_strategies(context)?;
        self.transport(context)?;
        Ok(warnings)
    }

    fn transport(&self, context: &mut DriverContext) -> Result<(), InvalidSetting> {
        let name = "HARRIER_DRIVER_TRANSPORT";
        if let Some(value) = self.values.get(name) {
            context.transport.kind = TransportKind::by_name(value).ok_or_else(|| InvalidSetting {
                setting: format!("{name}={value}"),
                rule: "must be sockets or io_uring".into(),
            })?;
        }
        Ok(())
    }

    fn name_resolver(&self, context: &mut DriverContext) -> Result<(), InvalidSetting> {
        let name = "AERON_NAME_RESOLVER_SUPPLIER";
        let Some(value) = self.values.get(name) else { return Ok(()) };
        context.name_resolver_supplier = match value.as_str() {
            "default" => NameResolverSupplier::System,
            "driver" => NameResolverSupplier::Driver,
            "csv_table" => NameResolverSupplier::Table,
            _ => {
                let (setting, rule) =
                    (format!("{name}={value}"), "must be default, driver or csv_table".into());
                return Err(InvalidSetting { setting, rule });
            }
        };
        Ok(())
    }

    fn idle_strategies(&self, context: &mut DriverContext) -> Result<(), InvalidSetting> {
        for (agent, idle) in [
            ("CONDUCTOR", &mut context.conductor_idle),
            ("SENDER", &mut context.sender_idle),
            ("RECEIVER", &mut context.receiver_idle),
            ("SHAREDNETWORK", &mut context.shared_network_idle),
            ("SHARED", &mut context.shared_idle),
        ] {
            let name = format!("AERON_{agent}_IDLE_STRATEGY");
            let Some(value) = self.values.get(&name) else { continue };
            let arguments = self.values.get(&format!("{name}_INIT_ARGS")).map(String::as_str);
            *idle = idle_strategy(value, arguments).ok_or_else(|| InvalidSetting {
                setting: format!("{name}={value}"),
                rule: "must be noop, spin, yield, sleeping, sleep-ns, sleep-ms or backoff".into(),
            })?;
        }
        Ok(())
    }
}

/// `a.b.c` as `A_B_C` (spec 02 §6.1).
fn variable_name(name: &str) -> String {
    name.replace('.', "_").to_uppercase()
}

fn idle_strategy(name: &str, arguments: Option<&str>) -> Option<IdleStrategy> {
    let name = name.strip_prefix("aeron_idle_strategy_").unwrap_or(name);
    let name = if name == "busy_spinning" { "spin" } else { name };
    match (name, arguments) {
        ("sleeping" | "sleep-ns", arguments) => {
            let period_ns = match arguments {
                Some(text) => u64::try_from(parse_duration_ns(text)?).ok()?,
                None => 1_000,
            };
            Some(IdleStrategy::Sleep { period_ns })
        }
        ("backoff", Some(text)) => {
            let mut parts = text.split('-');
            let spins = parts.next()?.parse().ok()?;
            let yields = parts.next()?.parse().ok()?;
            let min_park = u64::try_from(parse_duration_ns(parts.next()?)?).ok()?;
            let max_park = u64::try_from(parse_duration_ns(parts.next()?)?).ok()?;
            Some(IdleStrategy::Backoff(Backoff::new(spins, yields, min_park, max_park)))
        }
        (name, _) => IdleStrategy::by_name(name).ok(),
    }
}

struct Reader<'a> {
    properties: &'a Properties,
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn read<V>(&mut self, name: &str, target: &mut V, parse: impl FnOnce(&str) -> Option<V>) {
        let Some(text) = self.properties.values.get(name) else { return };
        match parse(text) {
            Some(value) => *target = value,
            None => self.warnings.push(format!("WARNING: {name}={text} is invalid, using default")),
        }
    }

    fn size(&mut self, name: &str, target: &mut usize, least: usize) {
        self.read(name, target, |text| usize::try_from(parse_size(text)?).ok().map(|size| size.max(least)));
    }

    fn length(&mut self, name: &str, target: &mut i32, least: i32) {
        self.read(name, target, |text| i32::try_from(parse_size(text)?).ok().map(|size| size.max(least)));
    }

    fn duration(&mut self, name: &str, target: &mut i64, least_ns: i64) {
        self.read(name, target, |text| parse_duration_ns(text).map(|ns| ns.max(least_ns)));
    }

    fn number<N: std::str::FromStr>(&mut self, name: &str, target: &mut N) {
        self.read(name, target, |text| text.parse().ok());
    }

    fn flag(&mut self, name: &str, target: &mut bool) {
        self.read(name, target, |text| match text {
            _ if ["1", "on", "true"].iter().any(|yes| text.starts_with(yes)) => Some(true),
            _ if ["0", "off", "false"].iter().any(|no| text.starts_with(no)) => Some(false),
            _ => None,
        });
    }

    fn process(&mut self, c: &mut DriverContext) {
        self.read("AERON_DIR", &mut c.directory, |text| Some(text.into()));
        self.flag("AERON_DIR_WARN_IF_EXISTS", &mut c.warn_if_directory_exists);
        self.flag("AERON_DIR_DELETE_ON_START", &mut c.delete_directory_on_start);
        self.flag("AERON_DIR_DELETE_ON_SHUTDOWN", &mut c.delete_directory_on_shutdown);
        self.read("AERON_THREADING_MODE", &mut c.threading_mode, ThreadingMode::by_name);
        self.flag("AERON_PRINT_CONFIGURATION", &mut c.print_configuration);
        self.read("AERON_DRIVER_TERMINATION_VALIDATOR", &mut c.termination_validator, |text| match text {
            "allow" => Some(TerminationValidator::Allow),
            "deny" => Some(TerminationValidator::Deny),
            _ => text.strip_prefix("token:").map(|token| TerminationValidator::Token(token.into())),
        });
        let core = |text: &str| match text.parse::<i32>().ok()? {
            -1 => Some(None),
            core => usize::try_from(core).ok().filter(|core| *core <= 255).map(Some),
        };
        self.read("AERON_CONDUCTOR_CPU_AFFINITY", &mut c.conductor_affinity, core);
        self.read("AERON_SENDER_CPU_AFFINITY", &mut c.sender_affinity, core);
        self.read("AERON_RECEIVER_CPU_AFFINITY", &mut c.receiver_affinity, core);
    }

    fn lengths(&mut self, c: &mut DriverContext) {
        self.size("AERON_CONDUCTOR_BUFFER_LENGTH", &mut c.conductor_buffer_length, (1 << 20) + 768);
        self.size("AERON_CLIENTS_BUFFER_LENGTH", &mut c.clients_buffer_length, (1 << 20) + 128);
        self.size("AERON_COUNTERS_BUFFER_LENGTH", &mut c.counters_buffer_length, 1 << 20);
        self.size("AERON_ERROR_BUFFER_LENGTH", &mut c.error_buffer_length, 4 << 20);
        self.size("AERON_LOSS_REPORT_BUFFER_LENGTH", &mut c.loss_report_buffer_length, 1_024);
        self.size("AERON_FILE_PAGE_SIZE", &mut c.file_page_size, 4_096);
        self.flag("AERON_TERM_BUFFER_SPARSE_FILE", &mut c.term_buffer_sparse_file);
        self.flag("AERON_PERFORM_STORAGE_CHECKS", &mut c.perform_storage_checks);
        self.read(
            "AERON_LOW_FILE_STORE_WARNING_THRESHOLD",
            &mut c.low_file_store_warning_threshold,
            |text| u64::try_from(parse_size(text)?).ok(),
        );
        self.length("AERON_TERM_BUFFER_LENGTH", &mut c.term_buffer_length, 64 << 10);
        self.length("AERON_IPC_TERM_BUFFER_LENGTH", &mut c.ipc_term_buffer_length, 64 << 10);
        self.length("AERON_MTU_LENGTH", &mut c.mtu_length, 32);
        self.length("AERON_IPC_MTU_LENGTH", &mut c.ipc_mtu_length, 32);
        self.length("AERON_PUBLICATION_TERM_WINDOW_LENGTH", &mut c.publication_term_window_length, 0);
        self.length("AERON_IPC_PUBLICATION_TERM_WINDOW_LENGTH", &mut c.ipc_publication_term_window_length, 0);
        self.length("AERON_RCV_INITIAL_WINDOW_LENGTH", &mut c.initial_window_length, 256);
        self.length("AERON_SOCKET_SO_RCVBUF", &mut c.socket_rcvbuf_length, 0);
        self.length("AERON_SOCKET_SO_SNDBUF", &mut c.socket_sndbuf_length, 0);
    }

    fn times(&mut self, c: &mut DriverContext) {
        let us = 1_000;
        self.duration("AERON_TIMER_INTERVAL", &mut c.timer_interval_ns, us);
        self.number("AERON_DRIVER_TIMEOUT", &mut c.driver_timeout_ms);
        self.duration("AERON_CLIENT_LIVENESS_TIMEOUT", &mut c.client_liveness_timeout_ns, us);
        self.duration("AERON_COUNTERS_FREE_TO_REUSE_TIMEOUT", &mut c.counters_free_to_reuse_timeout_ns, 0);
        self.duration("AERON_PUBLICATION_LINGER_TIMEOUT", &mut c.publication_linger_timeout_ns, us);
        self.duration("AERON_PUBLICATION_UNBLOCK_TIMEOUT", &mut c.publication_unblock_timeout_ns, us);
        self.duration("AERON_PUBLICATION_CONNECTION_TIMEOUT", &mut c.publication_connection_timeout_ns, us);
        self.duration("AERON_RCV_STATUS_MESSAGE_TIMEOUT", &mut c.status_message_timeout_ns, us);
        self.duration("AERON_IMAGE_LIVENESS_TIMEOUT", &mut c.image_liveness_timeout_ns, us);
        self.duration("AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT", &mut c.untethered_window_limit_timeout_ns, 0);
        self.duration("AERON_UNTETHERED_LINGER_TIMEOUT", &mut c.untethered_linger_timeout_ns, 0);
        self.duration("AERON_UNTETHERED_RESTING_TIMEOUT", &mut c.untethered_resting_timeout_ns, 0);
        self.duration("AERON_NAK_UNICAST_DELAY", &mut c.nak_unicast_delay_ns, us);
        self.number("AERON_NAK_UNICAST_RETRY_DELAY_RATIO", &mut c.nak_unicast_retry_delay_ratio);
        self.duration("AERON_NAK_MULTICAST_MAX_BACKOFF", &mut c.nak_multicast_max_backoff_ns, us);
        self.duration("AERON_RETRANSMIT_UNICAST_DELAY", &mut c.retransmit_unicast_delay_ns, 0);
        self.duration("AERON_RETRANSMIT_UNICAST_LINGER", &mut c.retransmit_unicast_linger_ns, us);
        self.duration("AERON_FLOW_CONTROL_RECEIVER_TIMEOUT", &mut c.flow_control_receiver_timeout_ns, 0);
        self.duration("AERON_DRIVER_RERESOLUTION_CHECK_INTERVAL", &mut c.re_resolution_check_interval_ns, 0);
        self.duration("AERON_DRIVER_NAME_RESOLVER_THRESHOLD", &mut c.name_resolver_threshold_ns, 0);
        self.duration("AERON_DRIVER_CONDUCTOR_CYCLE_THRESHOLD", &mut c.conductor_cycle_threshold_ns, 0);
        self.duration("AERON_DRIVER_SENDER_CYCLE_THRESHOLD", &mut c.sender_cycle_threshold_ns, 0);
        self.duration("AERON_DRIVER_RECEIVER_CYCLE_THRESHOLD", &mut c.receiver_cycle_threshold_ns, 0);
    }

    fn streams(&mut self, c: &mut DriverContext) {
        let reserved = "AERON_PUBLICATION_RESERVED_SESSION_ID";
        self.number(&format!("{reserved}_LOW"), &mut c.publication_reserved_session_id_low);
        self.number(&format!("{reserved}_HIGH"), &mut c.publication_reserved_session_id_high);
        self.flag("AERON_SPIES_SIMULATE_CONNECTION", &mut c.spies_simulate_connection);
        self.flag("AERON_RELIABLE_STREAM", &mut c.reliable_stream);
        self.flag("AERON_TETHER_SUBSCRIPTIONS", &mut c.tether_subscriptions);
        self.flag("AERON_REJOIN_STREAM", &mut c.rejoin_stream);
        self.read(
            "AERON_RECEIVER_GROUP_CONSIDERATION",
            &mut c.receiver_group_consideration,
            |text| match text.to_uppercase().as_str() {
                "TRUE" => Some(Group::Yes),
                "FALSE" => Some(Group::No),
                "INFER" => Some(Group::Infer),
                _ => None,
            },
        );
        self.read("AERON_RECEIVER_GROUP_TAG", &mut c.receiver_group_tag, |text| text.parse().ok().map(Some));
        self.number("AERON_NAK_MULTICAST_GROUP_SIZE", &mut c.nak_multicast_group_size);
        self.read("AERON_MAX_RESEND", &mut c.max_resend, |text| {
            text.parse().ok().map(|count: i32| count.clamp(1, 256))
        });
        self.read("AERON_MULTICAST_FLOWCONTROL_SUPPLIER", &mut c.multicast_flow_control, |text| {
            ["max", "min", "tagged"].into_iter().find(|name| text.contains(name)).map(str::to_owned)
        });
        self.number("AERON_FLOW_CONTROL_GROUP_TAG", &mut c.flow_control_group_tag);
        self.number("AERON_FLOW_CONTROL_GROUP_MIN_SIZE", &mut c.flow_control_group_min_size);
        self.number("AERON_UNICAST_FLOW_CONTROL_RRWM", &mut c.unicast_flow_control_rrwm);
        self.number("AERON_MULTICAST_FLOW_CONTROL_RRWM", &mut c.multicast_flow_control_rrwm);
        let cubic = "AERON_CUBICCONGESTIONCONTROL";
        self.flag(&format!("{cubic}_MEASURERTT"), &mut c.cubic_measure_rtt);
        self.duration(&format!("{cubic}_INITIALRTT"), &mut c.cubic_initial_rtt_ns, 1);
        self.flag(&format!("{cubic}_TCPMODE"), &mut c.cubic_tcp_mode);
        self.read("AERON_DRIVER_STREAM_SESSION_LIMIT", &mut c.stream_session_limit, |text| {
            text.parse().ok().map(|limit: i32| limit.max(1))
        });
        self.read("AERON_DRIVER_RESOURCE_FREE_LIMIT", &mut c.resource_free_limit, |text| {
            text.parse().ok().map(|limit: usize| limit.max(1))
        });
    }

    fn names(&mut self, c: &mut DriverContext) {
        let text = |text: &str| Some(text.to_owned());
        let ms = 1_000_000;
        self.read("AERON_NAME_RESOLVER_INIT_ARGS", &mut c.name_resolver_arguments, text);
        let resolver = "AERON_DRIVER_RESOLVER";
        self.read(&format!("{resolver}_NAME"), &mut c.resolver_name, text);
        self.read(&format!("{resolver}_INTERFACE"), &mut c.resolver_interface, text);
        self.read(&format!("{resolver}_BOOTSTRAP_NEIGHBOR"), &mut c.resolver_bootstrap_neighbor, text);
        for (name, target) in [
            ("NEIGHBOR_TIMEOUT", &mut c.resolver_neighbor_timeout_ns),
            ("SELF_RESOLUTION_INTERVAL", &mut c.resolver_self_resolution_interval_ns),
            ("NEIGHBOR_RESOLUTION_INTERVAL", &mut c.resolver_neighbor_resolution_interval_ns),
            (
                "BOOTSTRAP_NEIGHBOR_RESOLUTION_INTERVAL",
                &mut c.resolver_bootstrap_neighbor_resolution_interval_ns,
            ),
        ] {
            self.duration(&format!("{resolver}_{name}"), target, ms);
        }
    }

    fn network(&mut self, c: &mut DriverContext) {
        self.number("AERON_SOCKET_MULTICAST_TTL", &mut c.socket_multicast_ttl);
        self.read("AERON_SEND_TO_STATUS_POLL_RATIO", &mut c.send_to_status_poll_ratio, |text| {
            text.parse().ok().map(|ratio: u32| ratio.max(1))
        });
        let range = |text: &str| {
            let (low, high) = text.trim().split_once(char::is_whitespace)?;
            let (low, high) = (low.parse().ok()?, high.trim().parse().ok()?);
            (low <= high).then_some((low, high))
        };
        self.read("AERON_SENDER_WILDCARD_PORT_RANGE", &mut c.sender_wildcard_port_range, range);
        self.read("AERON_RECEIVER_WILDCARD_PORT_RANGE", &mut c.receiver_wildcard_port_range, range);
        self.flag("AERON_DRIVER_CONNECT", &mut c.connect_enabled);
        self.flag("HARRIER_DRIVER_UDP_SEGMENTATION", &mut c.transport.segmentation);
        self.flag("HARRIER_DRIVER_IO_URING_SQPOLL", &mut c.transport.kernel_polling);
        let text = |text: &str| Some(text.to_owned());
        self.read("AERON_UDP_CHANNEL_INCOMING_INTERCEPTORS", &mut c.incoming_interceptors, text);
        let bindings = "AERON_UDP_CHANNEL_TRANSPORT_BINDINGS";
        self.read(&format!("{bindings}_LOSS_ARGS"), &mut c.loss_arguments, text);
        self.read(&format!("{bindings}_FIXED_LOSS_ARGS"), &mut c.fixed_loss_arguments, text);
        self.read(&format!("{bindings}_MULTI_GAP_LOSS_ARGS"), &mut c.multi_gap_loss_arguments, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_properties_file_joins_trims_and_unsets() {
        let mut properties = Properties::default();
        properties.load("# a comment\naeron.mtu.length = 8k\naeron.term.buffer.\\\nlength: 1m\naeron.dir=/x\naeron.dir=\n");
        assert_eq!(properties.get("aeron.mtu.length"), Some("8k"));
        assert_eq!(properties.get("AERON_TERM_BUFFER_LENGTH"), Some("1m"));
        assert_eq!(properties.get("aeron.dir"), None);
    }

    #[test]
    fn bad_values_warn_and_keep_the_default() {
        let mut properties = Properties::default();
        properties.define("aeron.mtu.length=many").unwrap();
        properties.define("aeron.term.buffer.length=1").unwrap();
        let mut context = DriverContext::new("/d");
        let warnings = properties.apply(&mut context).unwrap();
        assert_eq!(warnings, ["WARNING: AERON_MTU_LENGTH=many is invalid, using default"]);
        assert_eq!((context.mtu_length, context.term_buffer_length), (1_408, 65_536));
        assert_eq!(properties.define("foo"), Err(DefinitionError::Malformed("foo".into())));
    }

    #[test]
    fn the_transport_is_chosen_by_name_and_an_unknown_one_is_refused() {
        let variables =
            [("HARRIER_DRIVER_TRANSPORT", "io_uring"), ("HARRIER_DRIVER_UDP_SEGMENTATION", "off")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut properties = Properties::from_environment(variables.into_iter());
        properties.define("harrier.driver.io_uring.sqpoll=on").unwrap();
        let mut context = DriverContext::new("/d");
        assert!(properties.apply(&mut context).unwrap().is_empty());
        let options = context.transport;
        assert_eq!(
            (options.kind, options.segmentation, options.kernel_polling),
            (TransportKind::IoUring, false, true)
        );
        assert!(format!("{context:#?}").contains("IoUring"), "printed with the configuration");
        properties.set("harrier.driver.transport", "pigeons");
        let error = properties.apply(&mut context).unwrap_err().to_string();
        assert_eq!(error, "HARRIER_DRIVER_TRANSPORT=pigeons must be sockets or io_uring");
    }

    #[test]
    fn names_are_resolved_as_the_settings_say() {
        let mut properties = Properties::default();
        for definition in [
            "aeron.driver.resolver.name=one",
            "aeron.driver.resolver.interface=h:1",
            "aeron.driver.resolver.bootstrap.neighbor=a:1,b:2",
            "aeron.driver.resolver.neighbor.timeout=3s",
            "aeron.driver.resolver.self.resolution.interval=4s",
            "aeron.driver.resolver.neighbor.resolution.interval=5s",
            "aeron.driver.resolver.bootstrap.neighbor.resolution.interval=6s",
        ] {
            properties.define(definition).unwrap();
        }
        properties.set("AERON_NAME_RESOLVER_SUPPLIER", "csv_table");
        properties.set("AERON_NAME_RESOLVER_INIT_ARGS", "a,b,c");
        let mut context = DriverContext::new("/d");
        assert_eq!(properties.apply(&mut context).unwrap(), Vec::<String>::new());
        assert_eq!(context.name_resolver_supplier, NameResolverSupplier::Table);
        let texts = [
            &context.name_resolver_arguments,
            &context.resolver_name,
            &context.resolver_interface,
            &context.resolver_bootstrap_neighbor,
        ];
        assert_eq!(texts, ["a,b,c", "one", "h:1", "a:1,b:2"]);
        let times_ns = [
            context.resolver_neighbor_timeout_ns,
            context.resolver_self_resolution_interval_ns,
            context.resolver_neighbor_resolution_interval_ns,
            context.resolver_bootstrap_neighbor_resolution_interval_ns,
        ];
        assert_eq!(times_ns, [3, 4, 5, 6].map(|seconds: i64| seconds * 1_000_000_000));
        properties.set("AERON_NAME_RESOLVER_SUPPLIER", "other");
        assert!(properties.apply(&mut context).is_err());
    }

    #[test]
    fn an_unknown_idle_strategy_is_refused() {
        let mut properties = Properties::default();
        properties.define("aeron.sender.idle.strategy=nap").unwrap();
        let error = properties.apply(&mut DriverContext::new("/d")).unwrap_err();
        assert!(error.to_string().contains("AERON_SENDER_IDLE_STRATEGY=nap"));
        properties.define("aeron.sender.idle.strategy=backoff").unwrap();
        properties.set("AERON_SENDER_IDLE_STRATEGY_INIT_ARGS", "1-2-3us-4us");
        let mut context = DriverContext::new("/d");
        properties.apply(&mut context).unwrap();
        assert_eq!(context.sender_idle, IdleStrategy::Backoff(Backoff::new(1, 2, 3_000, 4_000)));
    }
}
