//! Every setting of spec 02 §6.2, by environment variable, by `-D`, by properties file, and by the typed context.

mod own_rows;
mod rows;
mod values;

use harrier_driver::configuration::Properties;
use harrier_driver::context::DriverContext;
use own_rows::OWN_ROWS;
use rows::{ROWS, Row};
use values::{REFUSED, WARNED};

fn all_rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(OWN_ROWS)
}

/// Fields without a setting.
const WITHOUT_SETTING: [&str; 2] = ["command_queue_capacity", "seed"];

/// Rows of variable, value, and a flag that is true when the driver starts with it. Values of C shared objects are
/// refused.
const FIXED: &[(&str, &str, bool)] = &[
    ("AERON_UNICAST_FLOWCONTROL_SUPPLIER", "unicast_max", true),
    ("AERON_UNICAST_FLOWCONTROL_SUPPLIER", "aeron_unicast_flow_control_strategy_supplier", true),
    ("AERON_UNICAST_FLOWCONTROL_SUPPLIER", "my_strategy_supplier", false),
    ("AERON_DRIVER_DYNAMIC_LIBRARIES", "libmine.so", false),
    ("AERON_AGENT_ON_START_FUNCTION", "aeron_set_thread_affinity_on_start", true),
    ("AERON_AGENT_ON_START_FUNCTION", "my_function", false),
    ("AERON_UDP_CHANNEL_TRANSPORT_BINDINGS_MEDIA", "default", true),
    ("AERON_UDP_CHANNEL_TRANSPORT_BINDINGS_MEDIA", "my_bindings", false),
    ("AERON_CONDUCTOR_UDP_CHANNEL_TRANSPORT_BINDINGS_MEDIA", "default", true),
    ("AERON_CONDUCTOR_UDP_CHANNEL_TRANSPORT_BINDINGS_MEDIA", "my_bindings", false),
    ("AERON_UDP_CHANNEL_OUTGOING_INTERCEPTORS", "loss", false),
    ("AERON_EVENT_LOG", "admin", true),
    ("AERON_EVENT_LOG_DISABLE", "all", true),
    ("AERON_EVENT_LOG_FILENAME", "/somewhere", true),
];

/// Returns the fields of a context with their values. The fields of `transport` are separate ones.
fn fields(context: &DriverContext) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut in_transport = false;
    for line in format!("{context:#?}").lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim();
        if indent == 4 && text == "transport: TransportOptions {" {
            in_transport = true;
        } else if indent == 4 && in_transport {
            in_transport = false;
        } else if indent == 4
            && let Some((name, value)) = text.split_once(": ")
        {
            fields.push((name.to_owned(), value.to_owned()));
        } else if indent == 8
            && in_transport
            && let Some((name, value)) = text.split_once(": ")
        {
            fields.push((format!("transport.{name}"), value.to_owned()));
        } else if let Some((_, value)) = fields.last_mut()
            && indent >= 4
        {
            value.push_str(text);
        }
    }
    for (_, value) in &mut fields {
        let is_text = value.starts_with('"');
        *value = value.trim_end_matches(',').to_owned();
        if !is_text {
            *value = value.replace(' ', "");
        }
    }
    fields
}

fn field(context: &DriverContext, name: &str) -> String {
    let found = fields(context).into_iter().find(|(field, _)| field == name);
    found.unwrap_or_else(|| panic!("no field {name} in {context:#?}")).1
}

/// Returns all ways to give a value to a driver.
fn ways(variable: &str, property: &str, text: &str) -> Vec<(String, Properties)> {
    let environment = [(variable.to_owned(), text.to_owned()), ("OTHER".to_owned(), "x".to_owned())];
    let mut ways = vec![("environment".to_owned(), Properties::from_environment(environment.into_iter()))];
    for name in [variable, property].into_iter().filter(|name| !name.is_empty()) {
        let mut defined = Properties::default();
        defined.define(&format!("{name}={text}")).unwrap();
        ways.push((format!("-D{name}"), defined));
        for separator in ["=", ":", " = ", " : "] {
            let mut loaded = Properties::default();
            loaded.load(&format!("# a comment\n{name}{separator}{text}\n")).unwrap();
            ways.push((format!("file with '{name}{separator}'"), loaded));
        }
    }
    ways
}

/// Removes blanks and last commas from a debug text.
fn compact(text: &str) -> String {
    if text.starts_with('"') {
        return text.to_owned();
    }
    let closed = [(" ", ""), (",)", ")"), (",}", "}"), (",]", "]")];
    closed.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[test]
fn each_setting_arrives_by_each_way_and_alone() {
    let mut differences = Vec::new();
    for (variable, property, name, default, values) in all_rows() {
        let unchanged = DriverContext::new("/d");
        if compact(&field(&unchanged, name)) != compact(default) {
            differences.push(format!("{variable}: default {}, not {default}", field(&unchanged, name)));
        }
        for (text, outcome) in *values {
            for (way, properties) in ways(variable, property, text) {
                let mut context = DriverContext::new("/d");
                let result = properties.apply(&mut context);
                let is_as_told = match (*outcome, &result) {
                    (REFUSED, Err(error)) => error.to_string().contains(&format!("{variable}={text}")),
                    (WARNED, Ok(warnings)) => {
                        *warnings == [format!("WARNING: {variable}={text} is invalid, using default")]
                            && fields(&context) == fields(&unchanged)
                    }
                    (outcome, Ok(warnings)) => {
                        let others = |context: &DriverContext| {
                            fields(context).into_iter().filter(|(field, _)| field != name).collect::<Vec<_>>()
                        };
                        warnings.is_empty()
                            && compact(&field(&context, name)) == compact(outcome)
                            && others(&context) == others(&unchanged)
                    }
                    _ => false,
                };
                if !is_as_told {
                    let found = field(&context, name);
                    differences
                        .push(format!("{variable}={text} by {way}: {found} {result:?}, not {outcome}"));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn no_field_is_without_a_setting() {
    let context = DriverContext::new("/d");
    let missing: Vec<String> = fields(&context)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !WITHOUT_SETTING.contains(&name.as_str()))
        .filter(|name| all_rows().all(|row| row.2 != name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_a_shared_object_would_have_to_bring_is_refused() {
    for (variable, value, is_taken) in FIXED {
        let mut properties = Properties::default();
        properties.set(variable, value);
        let mut context = DriverContext::new("/d");
        match properties.apply(&mut context) {
            Ok(warnings) => assert!(*is_taken && warnings.is_empty(), "{variable}={value}: {warnings:?}"),
            Err(error) => {
                let text = error.to_string();
                assert!(!is_taken && text.contains(&format!("{variable}={value}")), "{text}");
                assert!(text.contains("shared objects are not loaded"), "{text}");
            }
        }
        assert_eq!(fields(&context), fields(&DriverContext::new("/d")), "{variable}={value}");
    }
    let mut properties = Properties::default();
    properties.set("AERON_DEBUG_RECEIVE_DATA_LOSS_RATE", "0.1");
    let warnings = properties.apply(&mut DriverContext::new("/d")).unwrap();
    assert_eq!(warnings, ["WARNING: AERON_DEBUG_RECEIVE_DATA_LOSS_RATE=0.1 has no effect"]);
}

#[test]
fn arguments_of_idle_strategies_are_read_or_refused() {
    let with = |arguments: &str, name: &str| {
        let mut properties = Properties::default();
        properties.set("AERON_SHARED_IDLE_STRATEGY", name);
        properties.set("AERON_SHARED_IDLE_STRATEGY_INIT_ARGS", arguments);
        let mut context = DriverContext::new("/d");
        properties
            .apply(&mut context)
            .map(|_| field(&context, "shared_idle"))
            .map_err(|error| error.to_string())
    };
    assert_eq!(with("5us", "sleeping").unwrap(), "Sleep{period_ns:5000,}");
    assert!(with("1-2-3us-4us", "backoff").unwrap().contains("max_spins:1,max_yields:2,min_park_ns:3000"));
    assert!(with("1-2-3us", "backoff").unwrap_err().contains("AERON_SHARED_IDLE_STRATEGY=backoff"));
    assert!(with("soon", "sleeping").unwrap_err().contains("soon"));
}

/// Keys of the printed configuration in their order (spec 02 §6.4).
const PRINTED: &str = "cnc_version aeron_dir driver_timeout_ms print_configuration_on_start dirs_delete_on_start \
    dirs_delete_on_shutdown warn_if_dirs_exists term_buffer_sparse_file perform_storage_checks \
    spies_simulate_connection reliable_stream tether_subscriptions rejoin_stream receiver_group_consideration \
    to_driver_buffer_length to_clients_buffer_length counters_values_buffer_length error_buffer_length \
    timer_interval_ns client_liveness_timeout_ns image_liveness_timeout_ns publication_unblock_timeout_ns \
    publication_connection_timeout_ns publication_linger_timeout_ns untethered_window_limit_timeout_ns \
    untethered_resting_timeout_ns max_resend retransmit_unicast_delay_ns retransmit_unicast_linger_ns \
    nak_unicast_delay_ns nak_unicast_retry_delay_ratio nak_multicast_max_backoff_ns unicast_flow_control_rrwm \
    multicast_flow_control_rrwm nak_multicast_group_size status_message_timeout_ns counter_free_to_reuse_ns \
    conductor_cycle_threshold_ns sender_cycle_threshold_ns receiver_cycle_threshold_ns name_resolver_threshold_ns \
    term_buffer_length ipc_term_buffer_length publication_window_length ipc_publication_window_length \
    initial_window_length socket_sndbuf_length socket_rcvbuf_length multicast_ttl mtu_length ipc_mtu_length \
    file_page_size low_file_store_warning_threshold publication_reserved_session_id_low \
    publication_reserved_session_id_high loss_report_length send_to_sm_poll_ratio receiver_io_vector_capacity \
    sender_io_vector_capacity network_publication_max_messages_per_send resource_free_limit \
    conductor_cpu_affinity_no receiver_cpu_affinity_no sender_cpu_affinity_no epoch_clock nano_clock threading_mode \
    async_executor_enabled agent_on_start_func agent_on_start_state conductor_idle_strategy_func \
    conductor_idle_strategy_init_args sender_idle_strategy_func sender_idle_strategy_init_args \
    receiver_idle_strategy_func receiver_idle_strategy_init_args shared_network_idle_strategy_func \
    shared_network_idle_strategy_init_args shared_idle_strategy_func shared_idle_strategy_init_args \
    async_executor_idle_strategy_func async_executor_idle_strategy_init_args unicast_flow_control_supplier_func \
    multicast_flow_control_supplier_func receiver_group_tag.is_present receiver_group_tag.value \
    flow_control.group_tag flow_control.group_min_size flow_control_receiver_timeout_ns \
    congestion_control_supplier_func usable_fs_space_func termination_validator_func termination_validator_state \
    termination_hook_func termination_hook_state name_resolver_supplier_func name_resolver_init_args resolver_name \
    resolver_interface resolver_bootstrap_neighbor re_resolution_check_interval_ns sender_wildcard_port_range \
    receiver_wildcard_port_range enable_experimental_features stream_session_limit \
    udp_channel_transport_bindings.media conductor_udp_channel_transport_bindings.media";

#[test]
fn the_printed_configuration_has_the_form_keys_and_effective_values() {
    let mut properties = Properties::default();
    for definition in [
        "aeron.print.configuration=1",
        "aeron.mtu.length=8k",
        "aeron.rcv.initial.window.length=64k",
        "AERON_SENDER_CPU_AFFINITY=1",
        "aeron.sender.wildcard.port.range=20700 20710",
        "aeron.receiver.group.tag=77",
        "aeron.shared.idle.strategy=spin",
        "AERON_UDP_CHANNEL_INCOMING_INTERCEPTORS=loss, fixed-loss",
        "aeron.driver.termination.validator=token:secret",
    ] {
        properties.define(definition).unwrap();
    }
    let mut context = DriverContext::new("/d");
    assert_eq!(properties.apply(&mut context).unwrap(), Vec::<String>::new());
    let text = context.printed();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[lines.len() - 1]), ("aeron_driver_context_t {", "}"));
    let pairs: Vec<(&str, &str)> = lines[1..lines.len() - 1]
        .iter()
        .map(|line| line.strip_prefix("    ").and_then(|line| line.split_once('=')).expect(line))
        .collect();
    let keys: Vec<&str> = pairs.iter().map(|pair| pair.0).collect();
    let interceptors = ["udp_channel_incoming_interceptor"; 2];
    assert_eq!(keys, PRINTED.split_whitespace().chain(interceptors).collect::<Vec<_>>());
    for (key, value) in [
        ("cnc_version", "0.2.0"),
        ("aeron_dir", "/d"),
        ("print_configuration_on_start", "1"),
        ("dirs_delete_on_start", "0"),
        ("receiver_group_consideration", "2"),
        ("mtu_length", "8192"),
        ("initial_window_length", "65536"),
        ("sender_cpu_affinity_no", "1"),
        ("conductor_cpu_affinity_no", "-1"),
        ("sender_wildcard_port_range", "\"20700 20710\""),
        ("receiver_group_tag.is_present", "1"),
        ("receiver_group_tag.value", "77"),
        ("shared_idle_strategy_func", "spin"),
        ("sender_idle_strategy_init_args", "10-20-1000ns-1000000ns"),
        ("enable_experimental_features", "false"),
        ("termination_validator_func", "token"),
        ("udp_channel_incoming_interceptor", "loss"),
    ] {
        assert_eq!(pairs.iter().find(|pair| pair.0 == key).unwrap().1, value, "{key}");
    }
    assert!(!text.contains("secret"), "a token is not for everybody to read");
}
