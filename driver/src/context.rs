//! Settings of a media driver (spec 02 §6.2).

use std::path::PathBuf;
use thiserror::Error;

use harrier_protocol::cnc;
use harrier_protocol::uri::{Group, MAX_MTU_LENGTH, MAX_TERM_LENGTH, MIN_TERM_LENGTH};
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::transport::{BufferLimits, TransportKind, TransportOptions};

use crate::allocation;
use crate::log_files::StorageChecks;

/// How a driver's agents share threads (spec 02 §5.10).
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
    /// The name in settings and counter labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dedicated => "DEDICATED",
            Self::SharedNetwork => "SHARED_NETWORK",
            Self::Shared => "SHARED",
            Self::Invoker => "INVOKER",
        }
    }

    /// The mode with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Dedicated, Self::SharedNetwork, Self::Shared, Self::Invoker]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// Who may end the driver with TERMINATE_DRIVER (spec 02 §5.13).
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
    /// Whether a command with this token may end the driver.
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
    /// The system; and the names of other drivers when `aeron.driver.resolver.interface` is set.
    System,
    /// The names that drivers tell each other, then the system.
    Driver,
    /// A table that moves names from one host to another, for tests.
    Table,
}

/// A core for a thread; `None` leaves it to the system.
pub type Affinity = Option<usize>;

/// Settings that contradict themselves or the host.
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
#[expect(missing_docs, reason = "the fields are the settings of the table in spec 02 §6.2")]
pub struct DriverContext {
    pub directory: PathBuf,
    pub warn_if_directory_exists: bool,
    pub delete_directory_on_start: bool,
    pub delete_directory_on_shutdown: bool,
    pub threading_mode: ThreadingMode,
    pub conductor_buffer_length: usize,
    pub clients_buffer_length: usize,
    pub counters_buffer_length: usize,
    pub error_buffer_length: usize,
    pub loss_report_buffer_length: usize,
    pub timer_interval_ns: i64,
    pub driver_timeout_ms: i64,
    pub client_liveness_timeout_ns: i64,
    pub counters_free_to_reuse_timeout_ns: i64,
    pub file_page_size: usize,
    pub term_buffer_sparse_file: bool,
    pub perform_storage_checks: bool,
    pub low_file_store_warning_threshold: u64,
    pub term_buffer_length: i32,
    pub ipc_term_buffer_length: i32,
    pub mtu_length: i32,
    pub ipc_mtu_length: i32,
    pub publication_term_window_length: i32,
    pub ipc_publication_term_window_length: i32,
    pub publication_linger_timeout_ns: i64,
    pub publication_unblock_timeout_ns: i64,
    pub publication_connection_timeout_ns: i64,
    pub publication_reserved_session_id_low: i32,
    pub publication_reserved_session_id_high: i32,
    pub spies_simulate_connection: bool,
    pub socket_rcvbuf_length: i32,
    pub socket_sndbuf_length: i32,
    pub socket_multicast_ttl: u8,
    pub send_to_status_poll_ratio: u32,
    pub initial_window_length: i32,
    pub status_message_timeout_ns: i64,
    pub image_liveness_timeout_ns: i64,
    pub reliable_stream: bool,
    pub tether_subscriptions: bool,
    pub rejoin_stream: bool,
    pub receiver_group_consideration: Group,
    pub receiver_group_tag: Option<i64>,
    pub untethered_window_limit_timeout_ns: i64,
    /// -1 takes the window limit timeout.
    pub untethered_linger_timeout_ns: i64,
    pub untethered_resting_timeout_ns: i64,
    pub nak_unicast_delay_ns: i64,
    pub nak_unicast_retry_delay_ratio: i64,
    pub nak_multicast_group_size: i32,
    pub nak_multicast_max_backoff_ns: i64,
    pub max_resend: i32,
    pub retransmit_unicast_delay_ns: i64,
    pub retransmit_unicast_linger_ns: i64,
    /// `max`, `min` or `tagged`, for multicast and multi-destination channels without `fc`.
    pub multicast_flow_control: String,
    pub flow_control_receiver_timeout_ns: i64,
    pub flow_control_group_tag: i64,
    pub flow_control_group_min_size: i32,
    pub unicast_flow_control_rrwm: i32,
    pub multicast_flow_control_rrwm: i32,
    /// `static` or `cubic`, for subscriptions without `cc`.
    pub congestion_control: String,
    pub cubic_measure_rtt: bool,
    pub cubic_initial_rtt_ns: i64,
    pub cubic_tcp_mode: bool,
    pub termination_validator: TerminationValidator,
    pub print_configuration: bool,
    pub name_resolver_supplier: NameResolverSupplier,
    /// Rows of the table of names.
    pub name_resolver_arguments: String,
    pub resolver_name: String,
    /// `host:port` on which drivers tell each other their names; empty when this one does not.
    pub resolver_interface: String,
    /// Comma list of `host:port`, at most 20.
    pub resolver_bootstrap_neighbor: String,
    pub resolver_neighbor_timeout_ns: i64,
    pub resolver_self_resolution_interval_ns: i64,
    pub resolver_neighbor_resolution_interval_ns: i64,
    pub resolver_bootstrap_neighbor_resolution_interval_ns: i64,
    pub re_resolution_check_interval_ns: i64,
    pub name_resolver_threshold_ns: i64,
    pub conductor_cycle_threshold_ns: i64,
    pub sender_cycle_threshold_ns: i64,
    pub receiver_cycle_threshold_ns: i64,
    pub sender_wildcard_port_range: (u16, u16),
    pub receiver_wildcard_port_range: (u16, u16),
    pub stream_session_limit: i32,
    pub resource_free_limit: usize,
    /// Jobs that may block have a thread of their own.
    pub async_executor_enabled: bool,
    pub async_executor_idle: IdleStrategy,
    pub conductor_idle: IdleStrategy,
    pub sender_idle: IdleStrategy,
    pub receiver_idle: IdleStrategy,
    pub shared_network_idle: IdleStrategy,
    pub shared_idle: IdleStrategy,
    pub conductor_affinity: Affinity,
    pub sender_affinity: Affinity,
    pub receiver_affinity: Affinity,
    /// Connects the sockets of unicast publications, so that the system filters strangers.
    pub connect_enabled: bool,
    /// Only printed: there are no application time stamps that it could enable.
    pub enable_experimental_features: bool,
    /// Comma list of interceptors on received datagrams: `loss`, `fixed-loss`, `multi-gap-loss` (spec 02 §6.5).
    pub incoming_interceptors: String,
    pub loss_arguments: String,
    pub fixed_loss_arguments: String,
    pub multi_gap_loss_arguments: String,
    /// Longest term of an image, bytes (`harrier.image.max.term.length`, `image-max-term-length` of a subscription's
    /// channel); 0 sets no limit. SETUPs with longer ones are refused and counted.
    pub image_max_term_length: i32,
    /// Bytes of an image's log that are allocated before its stream carries traffic (`harrier.log.allocation.length`), when
    /// logs are not sparse; 0 allocates logs whole when they are made.
    pub log_allocation_length: i32,
    /// Longest event that clients are sent, bytes (`harrier.driver.event.max.length`): 4,096 for clients that read into a
    /// buffer of that length, else enough for the first 4,095 bytes of a channel that is too long.
    pub event_max_length: usize,
    /// Options of the host's transport, which the owner of the driver creates from them.
    pub transport: TransportOptions,
    /// Most commands that wait between two agents. A full queue is counted, and the command is sent again.
    pub command_queue_capacity: usize,
    /// Seed of session ids, term ids, receiver ids and NAK back-off.
    pub seed: u64,
}

const SECOND_NS: i64 = 1_000_000_000;

/// Longest events that can be set, bytes.
pub(crate) const EVENT_LENGTHS: std::ops::RangeInclusive<usize> = 4_096..=65_536;

impl DriverContext {
    /// Default settings on a directory.
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

    /// Effective linger of untethered subscribers.
    pub fn untethered_linger_ns(&self) -> i64 {
        match self.untethered_linger_timeout_ns {
            -1 => self.untethered_window_limit_timeout_ns,
            timeout_ns => timeout_ns,
        }
    }

    /// Checks the settings against each other and against the socket buffers that the host grants (spec 02 §6.2).
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn validate(&self, limits: &BufferLimits) -> Result<(), InvalidSetting> {
        self.check_lengths()?;
        self.check_times()?;
        self.check_transport()?;
        let sndbuf = effective(self.socket_sndbuf_length, limits.default_sndbuf, limits.max_sndbuf);
        let rcvbuf = effective(self.socket_rcvbuf_length, limits.default_rcvbuf, limits.max_rcvbuf);
        require(self.mtu_length as usize <= sndbuf, || {
            (format!("mtuLength={}", self.mtu_length), format!("must be at most SO_SNDBUF={sndbuf}"))
        })?;
        require(self.initial_window_length as usize <= rcvbuf, || {
            let setting = format!("initialWindowLength={}", self.initial_window_length);
            (setting, format!("must be at most SO_RCVBUF={rcvbuf}; raise net.core.rmem_max or lower it"))
        })?;
        require(self.mtu_length <= self.initial_window_length, || {
            (
                format!("mtuLength={}", self.mtu_length),
                format!("> initialWindowLength={}", self.initial_window_length),
            )
        })
    }

    fn check_lengths(&self) -> Result<(), InvalidSetting> {
        let terms = [
            ("aeron.term.buffer.length", self.term_buffer_length),
            ("aeron.ipc.term.buffer.length", self.ipc_term_buffer_length),
        ];
        for (name, length) in terms {
            let is_valid = (MIN_TERM_LENGTH..=MAX_TERM_LENGTH).contains(&length) && length.count_ones() == 1;
            require(is_valid, || {
                (format!("{name}={length}"), "must be a power of two in 64 KiB..1 GiB".into())
            })?;
        }
        for (name, length, least) in [
            ("harrier.image.max.term.length", self.image_max_term_length, MIN_TERM_LENGTH),
            ("harrier.log.allocation.length", self.log_allocation_length, allocation::MIN_LENGTH),
        ] {
            require(length == 0 || length >= least, || {
                (format!("{name}={length}"), format!("must be 0 or at least {least}"))
            })?;
        }
        for (name, mtu) in
            [("aeron.mtu.length", self.mtu_length), ("aeron.ipc.mtu.length", self.ipc_mtu_length)]
        {
            let is_valid = mtu > 32 && mtu <= MAX_MTU_LENGTH && mtu % 32 == 0;
            require(is_valid, || {
                (format!("{name}={mtu}"), "must be a multiple of 32 above 32 and at most 65504".into())
            })?;
        }
        require(is_page_size(self.file_page_size), || {
            let setting = format!("aeron.file.page.size={}", self.file_page_size);
            (setting, "must be a power of two in 4 KiB..1 GiB".into())
        })?;
        let rings = [
            (
                "aeron.conductor.buffer.length",
                self.conductor_buffer_length,
                cnc::TO_DRIVER_TRAILER_LENGTH,
                1024,
            ),
            ("aeron.clients.buffer.length", self.clients_buffer_length, cnc::TO_CLIENTS_TRAILER_LENGTH, 1024),
        ];
        for (name, length, trailer, least) in rings {
            let data = length.saturating_sub(trailer);
            require(data.is_power_of_two() && data >= least, || {
                (format!("{name}={length}"), format!("must be a power of two plus {trailer}"))
            })?;
        }
        require(EVENT_LENGTHS.contains(&self.event_max_length), || {
            let setting = format!("harrier.driver.event.max.length={}", self.event_max_length);
            (setting, "must be in 4096..=65536".into())
        })?;
        require(self.counters_buffer_length <= cnc::COUNTER_VALUES_LENGTH_MAX, || {
            (
                format!("aeron.counters.buffer.length={}", self.counters_buffer_length),
                "must be at most 500 MiB".into(),
            )
        })
    }

    fn check_transport(&self) -> Result<(), InvalidSetting> {
        let TransportOptions { kind, kernel_polling, .. } = self.transport;
        require(!kernel_polling || kind == TransportKind::IoUring, || {
            let setting = "harrier.driver.io_uring.sqpoll=on".to_owned();
            (setting, format!("needs harrier.driver.transport=io_uring, not {}", kind.name()))
        })
    }

    fn check_times(&self) -> Result<(), InvalidSetting> {
        let above = |name: &str, value: i64, other: &str, least: i64| {
            require(value > least, || {
                (format!("{name}={value}"), format!("must be greater than {other}={least} ns"))
            })
        };
        let timer_ns = self.timer_interval_ns;
        above("aeron.timer.interval", timer_ns, "0", 0)?;
        let timer = "aeron.timer.interval";
        above("aeron.client.liveness.timeout", self.client_liveness_timeout_ns, timer, timer_ns)?;
        above(
            "aeron.publication.unblock.timeout",
            self.publication_unblock_timeout_ns,
            "aeron.client.liveness.timeout",
            self.client_liveness_timeout_ns,
        )?;
        above(
            "aeron.untethered.window.limit.timeout",
            self.untethered_window_limit_timeout_ns,
            timer,
            timer_ns,
        )?;
        above("aeron.untethered.linger.timeout", self.untethered_linger_ns(), timer, timer_ns)?;
        above("aeron.untethered.resting.timeout", self.untethered_resting_timeout_ns, timer, timer_ns)?;
        let ratio = self.nak_unicast_delay_ns.checked_mul(self.nak_unicast_retry_delay_ratio);
        require(ratio.is_some(), || {
            (
                format!("aeron.nak.unicast.delay={}", self.nak_unicast_delay_ns),
                "times the ratio overflows".into(),
            )
        })?;
        let (low, high) =
            (self.publication_reserved_session_id_low, self.publication_reserved_session_id_high);
        require(low <= high && i64::from(high) - i64::from(low) <= i64::from(i32::MAX), || {
            (format!("reserved session ids {low}..{high}"), "must be a range of at most 2^31 - 1 ids".into())
        })
    }
}

/// Bytes of a socket buffer under a setting: the system's default for 0, at most the system's maximum.
pub(crate) fn effective(setting: i32, default: usize, max: usize) -> usize {
    match usize::try_from(setting) {
        Ok(0) | Err(_) => default,
        Ok(length) => length.min(max),
    }
}

fn is_page_size(length: usize) -> bool {
    length.is_power_of_two() && (4_096..=1 << 30).contains(&length)
}

fn require(holds: bool, otherwise: impl FnOnce() -> (String, String)) -> Result<(), InvalidSetting> {
    if holds {
        return Ok(());
    }
    let (setting, rule) = otherwise();
    Err(InvalidSetting { setting, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> BufferLimits {
        BufferLimits {
            default_sndbuf: 212_992,
            max_sndbuf: 425_984,
            default_rcvbuf: 212_992,
            max_rcvbuf: 425_984,
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        DriverContext::new("/d").validate(&limits()).unwrap();
    }

    #[test]
    fn contradictions_name_the_setting() {
        let refused = |change: fn(&mut DriverContext)| {
            let mut context = DriverContext::new("/d");
            change(&mut context);
            context.validate(&limits()).unwrap_err().to_string()
        };
        assert!(refused(|c| c.term_buffer_length = 100_000).contains("aeron.term.buffer.length=100000"));
        assert!(refused(|c| c.mtu_length = 1_000).contains("aeron.mtu.length=1000"));
        assert!(refused(|c| c.initial_window_length = 1_024).contains("> initialWindowLength=1024"));
        assert!(refused(|c| c.timer_interval_ns = 20 * SECOND_NS).contains("aeron.client.liveness.timeout"));
        assert!(refused(|c| c.initial_window_length = 8 << 20).contains("SO_RCVBUF"));
        let sqpoll = refused(|c| c.transport.kernel_polling = true);
        assert!(sqpoll.contains("harrier.driver.transport=io_uring, not sockets"), "{sqpoll}");
        assert!(refused(|c| c.file_page_size = 5_000).contains("aeron.file.page.size"));
    }
}
