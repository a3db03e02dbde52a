//! The effective settings as text (spec 02 §6.4).

use std::fmt::{Display, Write};

use harrier_protocol::uri::Group;
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::transport::MAX_BATCH_LENGTH;

use crate::context::{Affinity, DriverContext, NameResolverSupplier, TerminationValidator};

struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "    {key}={value}");
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.add(key, u8::from(value));
    }

    fn core(&mut self, agent: &str, core: Affinity) {
        self.add(&format!("{agent}_cpu_affinity_no"), core.map_or(-1, |core| core as i64));
    }

    fn idle(&mut self, agent: &str, idle: &IdleStrategy) {
        let (name, arguments) = match idle {
            IdleStrategy::Spin => ("spin", String::new()),
            IdleStrategy::Yield => ("yield", String::new()),
            IdleStrategy::Noop => ("noop", String::new()),
            IdleStrategy::Sleep { period_ns } => ("sleep-ns", format!("{period_ns}ns")),
            IdleStrategy::Backoff(backoff) => ("backoff", backoff.to_string()),
        };
        self.add(&format!("{agent}_idle_strategy_func"), name);
        self.add(&format!("{agent}_idle_strategy_init_args"), arguments);
    }
}

impl DriverContext {
    /// Returns the effective settings: `aeron_driver_context_t {`, a line `key=value` for each setting in the order and
    /// with the names of Aeron's C driver, and `}`.
    pub fn printed(&self) -> String {
        let mut lines = Lines("aeron_driver_context_t {\n".into());
        self.print_process(&mut lines);
        self.print_times(&mut lines);
        self.print_lengths(&mut lines);
        self.print_agents(&mut lines);
        self.print_strategies(&mut lines);
        lines.0.push_str("}\n");
        lines.0
    }

    fn print_process(&self, lines: &mut Lines) {
        lines.add("cnc_version", "0.2.0");
        lines.add("aeron_dir", self.directory.display());
        lines.add("driver_timeout_ms", self.driver_timeout_ms);
        lines.flag("print_configuration_on_start", self.print_configuration);
        lines.flag("dirs_delete_on_start", self.delete_directory_on_start);
        lines.flag("dirs_delete_on_shutdown", self.delete_directory_on_shutdown);
        lines.flag("warn_if_dirs_exists", self.warn_if_directory_exists);
        lines.flag("term_buffer_sparse_file", self.term_buffer_sparse_file);
        lines.flag("perform_storage_checks", self.perform_storage_checks);
        lines.flag("spies_simulate_connection", self.spies_simulate_connection);
        lines.flag("reliable_stream", self.reliable_stream);
        lines.flag("tether_subscriptions", self.tether_subscriptions);
        lines.flag("rejoin_stream", self.rejoin_stream);
        let group = match self.receiver_group_consideration {
            Group::Yes => 0,
            Group::No => 1,
            Group::Infer => 2,
        };
        lines.add("receiver_group_consideration", group);
        lines.add("to_driver_buffer_length", self.conductor_buffer_length);
        lines.add("to_clients_buffer_length", self.clients_buffer_length);
        lines.add("counters_values_buffer_length", self.counters_buffer_length);
        lines.add("error_buffer_length", self.error_buffer_length);
    }

    fn print_times(&self, lines: &mut Lines) {
        lines.add("timer_interval_ns", self.timer_interval_ns);
        lines.add("client_liveness_timeout_ns", self.client_liveness_timeout_ns);
        lines.add("image_liveness_timeout_ns", self.image_liveness_timeout_ns);
        lines.add("publication_unblock_timeout_ns", self.publication_unblock_timeout_ns);
        lines.add("publication_connection_timeout_ns", self.publication_connection_timeout_ns);
        lines.add("publication_linger_timeout_ns", self.publication_linger_timeout_ns);
        lines.add("untethered_window_limit_timeout_ns", self.untethered_window_limit_timeout_ns);
        lines.add("untethered_resting_timeout_ns", self.untethered_resting_timeout_ns);
        lines.add("max_resend", self.max_resend);
        lines.add("retransmit_unicast_delay_ns", self.retransmit_unicast_delay_ns);
        lines.add("retransmit_unicast_linger_ns", self.retransmit_unicast_linger_ns);
        lines.add("nak_unicast_delay_ns", self.nak_unicast_delay_ns);
        lines.add("nak_unicast_retry_delay_ratio", self.nak_unicast_retry_delay_ratio);
        lines.add("nak_multicast_max_backoff_ns", self.nak_multicast_max_backoff_ns);
        lines.add("unicast_flow_control_rrwm", self.unicast_flow_control_rrwm);
        lines.add("multicast_flow_control_rrwm", self.multicast_flow_control_rrwm);
        lines.add("nak_multicast_group_size", self.nak_multicast_group_size);
        lines.add("status_message_timeout_ns", self.status_message_timeout_ns);
        lines.add("counter_free_to_reuse_ns", self.counters_free_to_reuse_timeout_ns);
        lines.add("conductor_cycle_threshold_ns", self.conductor_cycle_threshold_ns);
        lines.add("sender_cycle_threshold_ns", self.sender_cycle_threshold_ns);
        lines.add("receiver_cycle_threshold_ns", self.receiver_cycle_threshold_ns);
        lines.add("name_resolver_threshold_ns", self.name_resolver_threshold_ns);
    }

    fn print_lengths(&self, lines: &mut Lines) {
        lines.add("term_buffer_length", self.term_buffer_length);
        lines.add("ipc_term_buffer_length", self.ipc_term_buffer_length);
        lines.add("publication_window_length", self.publication_term_window_length);
        lines.add("ipc_publication_window_length", self.ipc_publication_term_window_length);
        lines.add("initial_window_length", self.initial_window_length);
        lines.add("socket_sndbuf_length", self.socket_sndbuf_length);
        lines.add("socket_rcvbuf_length", self.socket_rcvbuf_length);
        lines.add("multicast_ttl", self.socket_multicast_ttl);
        lines.add("mtu_length", self.mtu_length);
        lines.add("ipc_mtu_length", self.ipc_mtu_length);
        lines.add("file_page_size", self.file_page_size);
        lines.add("low_file_store_warning_threshold", self.low_file_store_warning_threshold);
        lines.add("publication_reserved_session_id_low", self.publication_reserved_session_id_low);
        lines.add("publication_reserved_session_id_high", self.publication_reserved_session_id_high);
        lines.add("loss_report_length", self.loss_report_buffer_length);
        lines.add("send_to_sm_poll_ratio", self.send_to_status_poll_ratio);
        lines.add("receiver_io_vector_capacity", self.transport.receive_batch);
        lines.add("sender_io_vector_capacity", self.transport.send_batch);
        let most = self.transport.most_per_send.unwrap_or(MAX_BATCH_LENGTH);
        lines.add("network_publication_max_messages_per_send", most);
        lines.add("resource_free_limit", self.resource_free_limit);
    }

    fn print_agents(&self, lines: &mut Lines) {
        lines.core("conductor", self.conductor_affinity);
        lines.core("receiver", self.receiver_affinity);
        lines.core("sender", self.sender_affinity);
        lines.add("epoch_clock", "CLOCK_REALTIME");
        lines.add("nano_clock", "CLOCK_MONOTONIC");
        lines.add("threading_mode", self.threading_mode.name());
        lines.flag("async_executor_enabled", self.async_executor_enabled);
        lines.add("agent_on_start_func", "aeron_set_thread_affinity_on_start");
        lines.add("agent_on_start_state", "");
        for (agent, idle) in [
            ("conductor", &self.conductor_idle),
            ("sender", &self.sender_idle),
            ("receiver", &self.receiver_idle),
            ("shared_network", &self.shared_network_idle),
            ("shared", &self.shared_idle),
            ("async_executor", &self.async_executor_idle),
        ] {
            lines.idle(agent, idle);
        }
    }

    fn print_strategies(&self, lines: &mut Lines) {
        lines.add("unicast_flow_control_supplier_func", "unicast_max");
        lines.add(
            "multicast_flow_control_supplier_func",
            format_args!("multicast_{}", self.multicast_flow_control),
        );
        lines.flag("receiver_group_tag.is_present", self.receiver_group_tag.is_some());
        lines.add("receiver_group_tag.value", self.receiver_group_tag.unwrap_or(-1));
        lines.add("flow_control.group_tag", self.flow_control_group_tag);
        lines.add("flow_control.group_min_size", self.flow_control_group_min_size);
        lines.add("flow_control_receiver_timeout_ns", self.flow_control_receiver_timeout_ns);
        lines.add("congestion_control_supplier_func", &self.congestion_control);
        lines.add("usable_fs_space_func", if self.perform_storage_checks { "statvfs" } else { "" });
        let validator = match self.termination_validator {
            TerminationValidator::Deny => "deny",
            TerminationValidator::Allow => "allow",
            TerminationValidator::Token(_) => "token",
        };
        lines.add("termination_validator_func", validator);
        // A client with the token may end the driver, so the token is not printed.
        lines.add("termination_validator_state", "");
        lines.add("termination_hook_func", "stop");
        lines.add("termination_hook_state", "");
        let resolver = match self.name_resolver_supplier {
            NameResolverSupplier::System => "default",
            NameResolverSupplier::Driver => "driver",
            NameResolverSupplier::Table => "csv_table",
        };
        lines.add("name_resolver_supplier_func", resolver);
        lines.add("name_resolver_init_args", &self.name_resolver_arguments);
        lines.add("resolver_name", &self.resolver_name);
        lines.add("resolver_interface", &self.resolver_interface);
        lines.add("resolver_bootstrap_neighbor", &self.resolver_bootstrap_neighbor);
        lines.add("re_resolution_check_interval_ns", self.re_resolution_check_interval_ns);
        for (agent, (low, high)) in
            [("sender", self.sender_wildcard_port_range), ("receiver", self.receiver_wildcard_port_range)]
        {
            lines.add(&format!("{agent}_wildcard_port_range"), format_args!("\"{low} {high}\""));
        }
        lines.add("enable_experimental_features", self.enable_experimental_features);
        lines.add("stream_session_limit", self.stream_session_limit);
        let transport = self.transport.kind.name();
        lines.add("udp_channel_transport_bindings.media", transport);
        lines.add("conductor_udp_channel_transport_bindings.media", transport);
        for name in self.incoming_interceptors.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            lines.add("udp_channel_incoming_interceptor", name);
        }
    }
}
