//! Settings of a media driver (spec 02 §6.2).

mod validation;

pub(crate) use validation::effective;

use std::path::PathBuf;
use thiserror::Error;

use harrier_protocol::cnc;
use harrier_protocol::uri::Group;
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::transport::TransportOptions;

use crate::log_files::StorageChecks;

/// Assignment of a driver's agents to threads (spec 02 §5.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadingMode {
    /// Conductor, sender and receiver each on a thread.
    Dedicated,
    /// Sender and receiver share a thread.
    SharedNetwork,
    /// All on one thread.
    Shared,
    /// The owner calls the agents.
    Invoker,
}

impl ThreadingMode {
    /// Returns the name in settings and counter labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dedicated => "DEDICATED",
            Self::SharedNetwork => "SHARED_NETWORK",
            Self::Shared => "SHARED",
            Self::Invoker => "INVOKER",
        }
    }

    /// Returns the mode with a name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Dedicated, Self::SharedNetwork, Self::Shared, Self::Invoker]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// Clients that may end the driver with TERMINATE_DRIVER (spec 02 §5.13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminationValidator {
    /// Nobody.
    Deny,
    /// Every client.
    Allow,
    /// Clients that send these bytes.
    Token(Vec<u8>),
}

impl TerminationValidator {
    /// True when a command with this token may end the driver.
    pub fn allows(&self, token: &[u8]) -> bool {
        match self {
            Self::Deny => false,
            Self::Allow => true,
            Self::Token(expected) => expected == token,
        }
    }
}

/// Kinds of name resolution (spec 02 §5.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameResolverSupplier {
    /// The system, and the names of other drivers when `aeron.driver.resolver.interface` is set.
    System,
    /// The names that drivers announce to each other, then the system.
    Driver,
    /// A table that moves names from one host to another, for tests.
    Table,
}

/// A core for a thread; `None` leaves it to the system.
pub type Affinity = Option<usize>;

/// Setting that contradicts another setting or the host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{setting} {rule}")]
pub struct InvalidSetting {
    /// Name of the setting with its value.
    pub setting: String,
    /// The rule that the setting breaks.
    pub rule: String,
}

/// All settings of a driver. Times are ns, lengths bytes; names and defaults are those of spec 02 §6.2.
#[derive(Debug, Clone)]
pub struct DriverContext {
    /// Directory of the driver.
    pub directory: PathBuf,
    /// True when the driver warns on standard error that the directory exists.
    pub warn_if_directory_exists: bool,
    /// True when the driver deletes the directory at its start.
    pub delete_directory_on_start: bool,
    /// True when the driver deletes the directory at its end.
    pub delete_directory_on_shutdown: bool,
    /// Assignment of agents to threads.
    pub threading_mode: ThreadingMode,
    /// Length of the to-driver ring with its trailer, bytes.
    pub conductor_buffer_length: usize,
    /// Length of the to-clients broadcast with its trailer, bytes.
    pub clients_buffer_length: usize,
    /// Length of the counters' values, bytes; their metadata takes four times as much.
    pub counters_buffer_length: usize,
    /// Length of the error log, bytes.
    pub error_buffer_length: usize,
    /// Length of the loss report, bytes.
    pub loss_report_buffer_length: usize,
    /// Interval of the conductor's timers, ns.
    pub timer_interval_ns: i64,
    /// Age at which a driver's heartbeat counts as dead, ms.
    pub driver_timeout_ms: i64,
    /// Time after which a silent client is given up, ns.
    pub client_liveness_timeout_ns: i64,
    /// Time for which the id of a freed counter is not used again, ns.
    pub counters_free_to_reuse_timeout_ns: i64,
    /// Alignment of mapped files, bytes.
    pub file_page_size: usize,
    /// True when log files are sparse: they have holes until they are written.
    pub term_buffer_sparse_file: bool,
    /// True when the driver checks the free space before it creates a log file.
    pub perform_storage_checks: bool,
    /// Free bytes below which a warning is recorded.
    pub low_file_store_warning_threshold: u64,
    /// Length of a term of network publications, bytes.
    pub term_buffer_length: i32,
    /// Length of a term of IPC publications, bytes.
    pub ipc_term_buffer_length: i32,
    /// MTU of network publications, bytes.
    pub mtu_length: i32,
    /// MTU of IPC publications, bytes.
    pub ipc_mtu_length: i32,
    /// Window of network publications, bytes; 0 for half a term.
    pub publication_term_window_length: i32,
    /// Window of IPC publications, bytes; 0 for half a term.
    pub ipc_publication_term_window_length: i32,
    /// Time for which a drained publication lingers, ns.
    pub publication_linger_timeout_ns: i64,
    /// Time after which a publication that a dead client blocks is unblocked, ns.
    pub publication_unblock_timeout_ns: i64,
    /// Time after which a silent receiver is given up, ns.
    pub publication_connection_timeout_ns: i64,
    /// First session id of the range that is never chosen automatically.
    pub publication_reserved_session_id_low: i32,
    /// Last session id of the range that is never chosen automatically.
    pub publication_reserved_session_id_high: i32,
    /// True when spies make a publication connected.
    pub spies_simulate_connection: bool,
    /// Length of the socket's receive buffer, bytes; 0 for the system's default.
    pub socket_rcvbuf_length: i32,
    /// Length of the socket's send buffer, bytes; 0 for the system's default.
    pub socket_sndbuf_length: i32,
    /// Time to live of multicast datagrams; 0 for the system's default.
    pub socket_multicast_ttl: u8,
    /// Number of duty cycles after which the sender polls for status messages although there is data to send.
    pub send_to_status_poll_ratio: u32,
    /// Window of receivers, bytes.
    pub initial_window_length: i32,
    /// Interval of status messages, ns.
    pub status_message_timeout_ns: i64,
    /// Time after which an image without packets ends, ns.
    pub image_liveness_timeout_ns: i64,
    /// True when gaps are repaired; otherwise they are filled with padding.
    pub reliable_stream: bool,
    /// True when subscribers are tethered: a slow one holds the stream back.
    pub tether_subscriptions: bool,
    /// True when a session may get a new image after its image has ended.
    pub rejoin_stream: bool,
    /// Group semantics of images.
    pub receiver_group_consideration: Group,
    /// Group tag of receivers.
    pub receiver_group_tag: Option<i64>,
    /// Time for which an untethered subscriber may be behind the window limit, ns.
    pub untethered_window_limit_timeout_ns: i64,
    /// Time for which an untethered subscriber lingers, ns; -1 for the window limit time-out.
    pub untethered_linger_timeout_ns: i64,
    /// Time after which a resting untethered subscriber joins again, ns.
    pub untethered_resting_timeout_ns: i64,
    /// Delay before the first NAK of an image with one receiver, ns.
    pub nak_unicast_delay_ns: i64,
    /// Delay before the next NAK, as a multiple of the first.
    pub nak_unicast_retry_delay_ratio: i64,
    /// Size of a group that the random delay of NAKs assumes.
    pub nak_multicast_group_size: i32,
    /// Longest random delay of a NAK in a group, ns.
    pub nak_multicast_max_backoff_ns: i64,
    /// Most retransmissions at a time to a group of receivers.
    pub max_resend: i32,
    /// Delay before a retransmission, ns.
    pub retransmit_unicast_delay_ns: i64,
    /// Time for which further NAKs of a retransmitted range are ignored, ns.
    pub retransmit_unicast_linger_ns: i64,
    /// `max`, `min` or `tagged`, for multicast and multi-destination channels without `fc`.
    pub multicast_flow_control: String,
    /// Time after which `min` and `tagged` flow control give a silent receiver up, ns.
    pub flow_control_receiver_timeout_ns: i64,
    /// Group tag that `tagged` flow control follows.
    pub flow_control_group_tag: i64,
    /// Number of receivers that a group must have before it counts as connected.
    pub flow_control_group_min_size: i32,
    /// Longest retransmission to one receiver, as a multiple of its window.
    pub unicast_flow_control_rrwm: i32,
    /// Longest retransmission to a group, as a multiple of the window.
    pub multicast_flow_control_rrwm: i32,
    /// `static` or `cubic`, for subscriptions without `cc`.
    pub congestion_control: String,
    /// True when cubic congestion control measures the round trip time.
    pub cubic_measure_rtt: bool,
    /// Round trip time that cubic congestion control starts with, ns.
    pub cubic_initial_rtt_ns: i64,
    /// True when cubic congestion control grows at least as fast as TCP.
    pub cubic_tcp_mode: bool,
    /// Clients that may end the driver.
    pub termination_validator: TerminationValidator,
    /// True when the driver prints its settings at its start.
    pub print_configuration: bool,
    /// Kind of name resolution.
    pub name_resolver_supplier: NameResolverSupplier,
    /// Rows of the table of names.
    pub name_resolver_arguments: String,
    /// Name of this driver among others.
    pub resolver_name: String,
    /// Address `host:port` for the name resolution among drivers; empty when this driver takes no part in it.
    pub resolver_interface: String,
    /// Comma-separated list of the bootstrap neighbours' `host:port`, at most 20.
    pub resolver_bootstrap_neighbor: String,
    /// Time after which a silent neighbour is given up, ns.
    pub resolver_neighbor_timeout_ns: i64,
    /// Interval at which the driver announces its own name, ns.
    pub resolver_self_resolution_interval_ns: i64,
    /// Interval at which the driver announces the names of others, ns.
    pub resolver_neighbor_resolution_interval_ns: i64,
    /// Interval at which bootstrap neighbours are resolved again, ns.
    pub resolver_bootstrap_neighbor_resolution_interval_ns: i64,
    /// Interval at which silent endpoints are resolved again, ns; 0 for never.
    pub re_resolution_check_interval_ns: i64,
    /// Time beyond which a resolution is counted as slow, ns.
    pub name_resolver_threshold_ns: i64,
    /// Time beyond which a duty cycle of the conductor is counted as slow, ns.
    pub conductor_cycle_threshold_ns: i64,
    /// Time beyond which a duty cycle of the sender is counted as slow, ns.
    pub sender_cycle_threshold_ns: i64,
    /// Time beyond which a duty cycle of the receiver is counted as slow, ns.
    pub receiver_cycle_threshold_ns: i64,
    /// Ports that publications with port 0 take; (0, 0) leaves the choice to the system.
    pub sender_wildcard_port_range: (u16, u16),
    /// Ports that subscriptions with port 0 take; (0, 0) leaves the choice to the system.
    pub receiver_wildcard_port_range: (u16, u16),
    /// Most images of a stream.
    pub stream_session_limit: i32,
    /// Most log files that are freed in a duty cycle.
    pub resource_free_limit: usize,
    /// True when jobs that may block run on a separate thread.
    pub async_executor_enabled: bool,
    /// Idle strategy of the executor.
    pub async_executor_idle: IdleStrategy,
    /// Idle strategy of the conductor.
    pub conductor_idle: IdleStrategy,
    /// Idle strategy of the sender.
    pub sender_idle: IdleStrategy,
    /// Idle strategy of the receiver.
    pub receiver_idle: IdleStrategy,
    /// Idle strategy of a thread that sender and receiver share.
    pub shared_network_idle: IdleStrategy,
    /// Idle strategy of a thread that all agents share.
    pub shared_idle: IdleStrategy,
    /// Core of the conductor.
    pub conductor_affinity: Affinity,
    /// Core of the sender.
    pub sender_affinity: Affinity,
    /// Core of the receiver.
    pub receiver_affinity: Affinity,
    /// True when sockets of unicast publications are connected, so that the system drops datagrams of strangers.
    pub connect_enabled: bool,
    /// Value that is only printed, because the driver has no application time stamps to enable.
    pub enable_experimental_features: bool,
    /// Comma-separated list of interceptors of received datagrams: `loss`, `fixed-loss`, `multi-gap-loss` (spec 02
    /// §6.5).
    pub incoming_interceptors: String,
    /// Arguments of `loss`.
    pub loss_arguments: String,
    /// Arguments of `fixed-loss`.
    pub fixed_loss_arguments: String,
    /// Arguments of `multi-gap-loss`.
    pub multi_gap_loss_arguments: String,
    /// Longest term of an image, bytes (`harrier.image.max.term.length`, `image-max-term-length` of a subscription's
    /// channel); 0 sets no limit. SETUPs with longer ones are refused and counted.
    pub image_max_term_length: i32,
    /// Bytes of an image's log that are allocated before its stream carries traffic (`harrier.log.allocation.length`),
    /// when logs are not sparse; 0 allocates logs whole when they are made.
    pub log_allocation_length: i32,
    /// Longest event for clients, bytes (`harrier.driver.event.max.length`): 4,096 for clients that read into a buffer
    /// of that length. The default has room for the first 4,095 bytes of a channel that is too long.
    pub event_max_length: usize,
    /// Options of the host's transport, which the owner of the driver creates from them.
    pub transport: TransportOptions,
    /// Most commands that wait between two agents. A full queue is counted, and the command is retried.
    pub command_queue_capacity: usize,
    /// Seed of session ids, term ids, receiver ids and NAK back-off.
    pub seed: u64,
}

const SECOND_NS: i64 = 1_000_000_000;

/// Valid values of the longest event, bytes.
pub(crate) const EVENT_LENGTHS: std::ops::RangeInclusive<usize> = 4_096..=65_536;

impl DriverContext {
    /// Creates default settings for a directory.
    #[expect(clippy::too_many_lines, reason = "a table: one line for each setting")]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let idle = IdleStrategy::Backoff(Default::default());
        Self {
            directory: directory.into(),
            warn_if_directory_exists: false,
            delete_directory_on_start: false,
            delete_directory_on_shutdown: false,
            threading_mode: ThreadingMode::Dedicated,
            conductor_buffer_length: cnc::TO_DRIVER_LENGTH_DEFAULT,
            clients_buffer_length: cnc::TO_CLIENTS_LENGTH_DEFAULT,
            counters_buffer_length: cnc::COUNTER_VALUES_LENGTH_DEFAULT,
            error_buffer_length: cnc::ERROR_LOG_LENGTH_DEFAULT,
            loss_report_buffer_length: 1 << 20,
            timer_interval_ns: SECOND_NS,
            driver_timeout_ms: 10_000,
            client_liveness_timeout_ns: 10 * SECOND_NS,
            counters_free_to_reuse_timeout_ns: SECOND_NS,
            file_page_size: cnc::DEFAULT_PAGE_SIZE,
            term_buffer_sparse_file: true,
            perform_storage_checks: true,
            low_file_store_warning_threshold: 160 << 20,
            term_buffer_length: 16 << 20,
            ipc_term_buffer_length: 64 << 20,
            mtu_length: 1_408,
            ipc_mtu_length: 1_408,
            publication_term_window_length: 0,
            ipc_publication_term_window_length: 0,
            publication_linger_timeout_ns: 5 * SECOND_NS,
            publication_unblock_timeout_ns: 15 * SECOND_NS,
            publication_connection_timeout_ns: 5 * SECOND_NS,
            publication_reserved_session_id_low: -1,
            publication_reserved_session_id_high: 1_000,
            spies_simulate_connection: false,
            socket_rcvbuf_length: 128 << 10,
            socket_sndbuf_length: 0,
            socket_multicast_ttl: 0,
            send_to_status_poll_ratio: 6,
            initial_window_length: 128 << 10,
            status_message_timeout_ns: SECOND_NS / 5,
            image_liveness_timeout_ns: 10 * SECOND_NS,
            reliable_stream: true,
            tether_subscriptions: true,
            rejoin_stream: true,
            receiver_group_consideration: Group::Infer,
            receiver_group_tag: None,
            untethered_window_limit_timeout_ns: 5 * SECOND_NS,
            untethered_linger_timeout_ns: -1,
            untethered_resting_timeout_ns: 10 * SECOND_NS,
            nak_unicast_delay_ns: 1_000,
            nak_unicast_retry_delay_ratio: 100,
            nak_multicast_group_size: 10,
            nak_multicast_max_backoff_ns: 10_000_000,
            max_resend: 16,
            retransmit_unicast_delay_ns: 0,
            retransmit_unicast_linger_ns: 10_000_000,
            multicast_flow_control: "max".into(),
            flow_control_receiver_timeout_ns: 5 * SECOND_NS,
            flow_control_group_tag: -1,
            flow_control_group_min_size: 0,
            unicast_flow_control_rrwm: 16,
            multicast_flow_control_rrwm: 4,
            congestion_control: "static".into(),
            cubic_measure_rtt: false,
            cubic_initial_rtt_ns: 100_000,
            cubic_tcp_mode: false,
            termination_validator: TerminationValidator::Deny,
            print_configuration: false,
            name_resolver_supplier: NameResolverSupplier::System,
            name_resolver_arguments: String::new(),
            resolver_name: String::new(),
            resolver_interface: String::new(),
            resolver_bootstrap_neighbor: String::new(),
            resolver_neighbor_timeout_ns: 10 * SECOND_NS,
            resolver_self_resolution_interval_ns: SECOND_NS,
            resolver_neighbor_resolution_interval_ns: 2 * SECOND_NS,
            resolver_bootstrap_neighbor_resolution_interval_ns: 10 * SECOND_NS,
            re_resolution_check_interval_ns: SECOND_NS,
            name_resolver_threshold_ns: 5 * SECOND_NS,
            conductor_cycle_threshold_ns: SECOND_NS / 10,
            sender_cycle_threshold_ns: SECOND_NS / 10,
            receiver_cycle_threshold_ns: SECOND_NS / 10,
            sender_wildcard_port_range: (0, 0),
            receiver_wildcard_port_range: (0, 0),
            stream_session_limit: i32::MAX,
            resource_free_limit: 10,
            async_executor_enabled: true,
            async_executor_idle: IdleStrategy::Sleep { period_ns: 1_000_000 },
            conductor_idle: idle.clone(),
            sender_idle: idle.clone(),
            receiver_idle: idle.clone(),
            shared_network_idle: idle.clone(),
            shared_idle: idle,
            conductor_affinity: None,
            sender_affinity: None,
            receiver_affinity: None,
            connect_enabled: true,
            enable_experimental_features: false,
            incoming_interceptors: String::new(),
            loss_arguments: String::new(),
            fixed_loss_arguments: String::new(),
            multi_gap_loss_arguments: String::new(),
            image_max_term_length: 0,
            log_allocation_length: 0,
            event_max_length: 8_192,
            transport: TransportOptions::default(),
            command_queue_capacity: 1_024,
            seed: 0,
        }
    }

    pub(crate) fn storage_checks(&self) -> StorageChecks {
        match self.perform_storage_checks {
            true => StorageChecks::Warn(self.low_file_store_warning_threshold),
            false => StorageChecks::Off,
        }
    }

    /// Returns the effective linger time of untethered subscribers, ns.
    pub fn untethered_linger_ns(&self) -> i64 {
        match self.untethered_linger_timeout_ns {
            -1 => self.untethered_window_limit_timeout_ns,
            timeout_ns => timeout_ns,
        }
    }
}
