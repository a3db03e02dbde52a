//! Settings whose values are lengths, times, numbers and texts.

use std::ops::RangeInclusive;

use harrier_protocol::uri::{
    Group, MAX_MTU_LENGTH, MAX_TERM_LENGTH, MIN_TERM_LENGTH, parse_duration_ns, parse_size,
};
use harrier_ringbuf::transport::MAX_BATCH_LENGTH;

use super::Properties;
use crate::context::{DriverContext, EVENT_LENGTHS, ThreadingMode};

/// Greatest length and count.
const MAX_LENGTH: i64 = i32::MAX as i64;
/// Range of 32-bit numbers.
const ANY: RangeInclusive<i64> = i32::MIN as i64..=i32::MAX as i64;

/// Moves a value into its range without a warning (spec 02 §6.1).
fn within(value: i64, range: &RangeInclusive<i64>) -> i64 {
    value.clamp(*range.start(), *range.end())
}

/// Puts values into a context and collects warnings for those that cannot be read.
pub(super) struct Reader<'a> {
    pub(super) properties: &'a Properties,
    pub(super) warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn read<V>(&mut self, name: &str, target: &mut V, parse: impl FnOnce(&str) -> Option<V>) {
        let Some(text) = self.properties.values.get(name) else { return };
        match parse(text) {
            Some(value) => *target = value,
            None => self.warnings.push(format!("WARNING: {name}={text} is invalid, using default")),
        }
    }

    fn size(&mut self, name: &str, target: &mut usize, range: RangeInclusive<i64>) {
        self.read(name, target, |text| usize::try_from(within(parse_size(text)?, &range)).ok());
    }

    fn length(&mut self, name: &str, target: &mut i32, range: RangeInclusive<i64>) {
        self.read(name, target, |text| i32::try_from(within(parse_size(text)?, &range)).ok());
    }

    fn duration(&mut self, name: &str, target: &mut i64, least_ns: i64) {
        self.read(name, target, |text| parse_duration_ns(text).map(|ns| ns.max(least_ns)));
    }

    fn number<N: TryFrom<i64>>(&mut self, name: &str, target: &mut N, range: RangeInclusive<i64>) {
        self.read(name, target, |text| N::try_from(within(text.parse().ok()?, &range)).ok());
    }

    fn flag(&mut self, name: &str, target: &mut bool) {
        self.read(name, target, |text| match text {
            _ if ["1", "on", "true"].iter().any(|yes| text.starts_with(yes)) => Some(true),
            _ if ["0", "off", "false"].iter().any(|no| text.starts_with(no)) => Some(false),
            _ => None,
        });
    }

    pub(super) fn process(&mut self, c: &mut DriverContext) {
        self.read("AERON_DIR", &mut c.directory, |text| Some(text.into()));
        self.flag("AERON_DIR_WARN_IF_EXISTS", &mut c.warn_if_directory_exists);
        self.flag("AERON_DIR_DELETE_ON_START", &mut c.delete_directory_on_start);
        self.flag("AERON_DIR_DELETE_ON_SHUTDOWN", &mut c.delete_directory_on_shutdown);
        self.read("AERON_THREADING_MODE", &mut c.threading_mode, ThreadingMode::by_name);
        self.flag("AERON_PRINT_CONFIGURATION", &mut c.print_configuration);
        self.flag("AERON_DRIVER_ASYNC_EXECUTOR_ENABLED", &mut c.async_executor_enabled);
        self.flag("AERON_ENABLE_EXPERIMENTAL_FEATURES", &mut c.enable_experimental_features);
        let core = |text: &str| Some(usize::try_from(within(text.parse().ok()?, &(-1..=255))).ok());
        self.read("AERON_CONDUCTOR_CPU_AFFINITY", &mut c.conductor_affinity, core);
        self.read("AERON_SENDER_CPU_AFFINITY", &mut c.sender_affinity, core);
        self.read("AERON_RECEIVER_CPU_AFFINITY", &mut c.receiver_affinity, core);
    }

    pub(super) fn lengths(&mut self, c: &mut DriverContext) {
        let terms = i64::from(MIN_TERM_LENGTH)..=i64::from(MAX_TERM_LENGTH);
        let mtus = 32..=i64::from(MAX_MTU_LENGTH);
        let windows = 0..=1 << 30;
        self.size(
            "AERON_CONDUCTOR_BUFFER_LENGTH",
            &mut c.conductor_buffer_length,
            (1 << 20) + 768..=MAX_LENGTH,
        );
        self.size("AERON_CLIENTS_BUFFER_LENGTH", &mut c.clients_buffer_length, (1 << 20) + 128..=MAX_LENGTH);
        self.size("AERON_COUNTERS_BUFFER_LENGTH", &mut c.counters_buffer_length, 1 << 20..=500 << 20);
        self.size("AERON_ERROR_BUFFER_LENGTH", &mut c.error_buffer_length, 4 << 20..=MAX_LENGTH);
        self.size("AERON_LOSS_REPORT_BUFFER_LENGTH", &mut c.loss_report_buffer_length, 1_024..=MAX_LENGTH);
        self.size("AERON_FILE_PAGE_SIZE", &mut c.file_page_size, 4_096..=1 << 30);
        self.flag("AERON_TERM_BUFFER_SPARSE_FILE", &mut c.term_buffer_sparse_file);
        self.flag("AERON_PERFORM_STORAGE_CHECKS", &mut c.perform_storage_checks);
        self.read(
            "AERON_LOW_FILE_STORE_WARNING_THRESHOLD",
            &mut c.low_file_store_warning_threshold,
            |text| u64::try_from(parse_size(text)?).ok(),
        );
        self.length("AERON_TERM_BUFFER_LENGTH", &mut c.term_buffer_length, terms.clone());
        self.length("AERON_IPC_TERM_BUFFER_LENGTH", &mut c.ipc_term_buffer_length, terms);
        self.length("AERON_MTU_LENGTH", &mut c.mtu_length, mtus.clone());
        self.length("AERON_IPC_MTU_LENGTH", &mut c.ipc_mtu_length, mtus);
        self.length(
            "AERON_PUBLICATION_TERM_WINDOW_LENGTH",
            &mut c.publication_term_window_length,
            windows.clone(),
        );
        self.length(
            "AERON_IPC_PUBLICATION_TERM_WINDOW_LENGTH",
            &mut c.ipc_publication_term_window_length,
            windows,
        );
        self.length("AERON_RCV_INITIAL_WINDOW_LENGTH", &mut c.initial_window_length, 256..=MAX_LENGTH);
        self.length("AERON_SOCKET_SO_RCVBUF", &mut c.socket_rcvbuf_length, 0..=MAX_LENGTH);
        self.length("AERON_SOCKET_SO_SNDBUF", &mut c.socket_sndbuf_length, 0..=MAX_LENGTH);
    }

    pub(super) fn times(&mut self, c: &mut DriverContext) {
        let us = 1_000;
        self.duration("AERON_TIMER_INTERVAL", &mut c.timer_interval_ns, us);
        self.number("AERON_DRIVER_TIMEOUT", &mut c.driver_timeout_ms, 0..=i64::MAX);
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
        self.number(
            "AERON_NAK_UNICAST_RETRY_DELAY_RATIO",
            &mut c.nak_unicast_retry_delay_ratio,
            1..=i64::MAX,
        );
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

    pub(super) fn streams(&mut self, c: &mut DriverContext) {
        let reserved = "AERON_PUBLICATION_RESERVED_SESSION_ID";
        self.number(&format!("{reserved}_LOW"), &mut c.publication_reserved_session_id_low, ANY);
        self.number(&format!("{reserved}_HIGH"), &mut c.publication_reserved_session_id_high, ANY);
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
        self.number("AERON_NAK_MULTICAST_GROUP_SIZE", &mut c.nak_multicast_group_size, 1..=MAX_LENGTH);
        self.number("AERON_MAX_RESEND", &mut c.max_resend, 1..=256);
        self.number("AERON_FLOW_CONTROL_GROUP_TAG", &mut c.flow_control_group_tag, i64::MIN..=i64::MAX);
        self.number("AERON_FLOW_CONTROL_GROUP_MIN_SIZE", &mut c.flow_control_group_min_size, 0..=MAX_LENGTH);
        self.number("AERON_UNICAST_FLOW_CONTROL_RRWM", &mut c.unicast_flow_control_rrwm, 1..=MAX_LENGTH);
        self.number("AERON_MULTICAST_FLOW_CONTROL_RRWM", &mut c.multicast_flow_control_rrwm, 1..=MAX_LENGTH);
        let cubic = "AERON_CUBICCONGESTIONCONTROL";
        self.flag(&format!("{cubic}_MEASURERTT"), &mut c.cubic_measure_rtt);
        self.duration(&format!("{cubic}_INITIALRTT"), &mut c.cubic_initial_rtt_ns, 1);
        self.flag(&format!("{cubic}_TCPMODE"), &mut c.cubic_tcp_mode);
        self.number("AERON_DRIVER_STREAM_SESSION_LIMIT", &mut c.stream_session_limit, 1..=MAX_LENGTH);
        self.number("AERON_DRIVER_RESOURCE_FREE_LIMIT", &mut c.resource_free_limit, 1..=MAX_LENGTH);
    }

    pub(super) fn names(&mut self, c: &mut DriverContext) {
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

    pub(super) fn network(&mut self, c: &mut DriverContext) {
        self.number("AERON_SOCKET_MULTICAST_TTL", &mut c.socket_multicast_ttl, 0..=255);
        self.number("AERON_SEND_TO_STATUS_POLL_RATIO", &mut c.send_to_status_poll_ratio, 1..=MAX_LENGTH);
        let vectors = 1..=MAX_BATCH_LENGTH as i64;
        let transport = &mut c.transport;
        self.number("AERON_RECEIVER_IO_VECTOR_CAPACITY", &mut transport.receive_batch, vectors.clone());
        self.number("AERON_SENDER_IO_VECTOR_CAPACITY", &mut transport.send_batch, vectors.clone());
        self.read("AERON_NETWORK_PUBLICATION_MAX_MESSAGES_PER_SEND", &mut transport.most_per_send, |text| {
            usize::try_from(within(text.parse().ok()?, &vectors)).ok().map(Some)
        });
        let range = |text: &str| {
            let (low, high) = text.trim().split_once(char::is_whitespace)?;
            let (low, high) = (low.parse().ok()?, high.trim().parse().ok()?);
            (low <= high).then_some((low, high))
        };
        self.read("AERON_SENDER_WILDCARD_PORT_RANGE", &mut c.sender_wildcard_port_range, range);
        self.read("AERON_RECEIVER_WILDCARD_PORT_RANGE", &mut c.receiver_wildcard_port_range, range);
        self.flag("AERON_DRIVER_CONNECT", &mut c.connect_enabled);
        self.length("HARRIER_IMAGE_MAX_TERM_LENGTH", &mut c.image_max_term_length, 0..=MAX_LENGTH);
        self.length("HARRIER_LOG_ALLOCATION_LENGTH", &mut c.log_allocation_length, 0..=MAX_LENGTH);
        let lengths = *EVENT_LENGTHS.start() as i64..=*EVENT_LENGTHS.end() as i64;
        self.size("HARRIER_DRIVER_EVENT_MAX_LENGTH", &mut c.event_max_length, lengths);
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
