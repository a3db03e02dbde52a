//! Settings whose values name strategies, functions or back ends. Aeron's C driver loads some of them from shared
//! objects. This driver has only the built-in ones, under all of their names, and refuses any other name.

use std::collections::BTreeMap;

use harrier_protocol::uri::parse_duration_ns;
use harrier_ringbuf::idle::{Backoff, IdleStrategy};
use harrier_ringbuf::transport::TransportKind;

use crate::context::{DriverContext, InvalidSetting, NameResolverSupplier, TerminationValidator};

/// One meaning and its names.
type Names<V> = (V, &'static [&'static str]);

const UNICAST_FLOW_CONTROL: &[Names<()>] = &[(
    (),
    &[
        "unicast_max",
        "aeron_unicast_flow_control_strategy_supplier",
        "io.aeron.driver.DefaultUnicastFlowControlSupplier",
    ],
)];

const MULTICAST_FLOW_CONTROL: &[Names<&str>] = &[
    (
        "max",
        &[
            "max",
            "multicast_max",
            "aeron_max_multicast_flow_control_strategy_supplier",
            "io.aeron.driver.MaxMulticastFlowControlSupplier",
            "io.aeron.driver.DefaultMulticastFlowControlSupplier",
        ],
    ),
    (
        "min",
        &[
            "min",
            "multicast_min",
            "aeron_min_flow_control_strategy_supplier",
            "io.aeron.driver.MinMulticastFlowControlSupplier",
        ],
    ),
    (
        "tagged",
        &[
            "tagged",
            "multicast_tagged",
            "aeron_tagged_flow_control_strategy_supplier",
            "io.aeron.driver.TaggedMulticastFlowControlSupplier",
        ],
    ),
];

const CONGESTION_CONTROL: &[Names<&str>] = &[
    (
        "static",
        &[
            "default",
            "static",
            "aeron_congestion_control_default_strategy_supplier",
            "aeron_static_window_congestion_control_strategy_supplier",
            "io.aeron.driver.DefaultCongestionControlSupplier",
        ],
    ),
    (
        "cubic",
        &[
            "cubic",
            "aeron_cubic_congestion_control_strategy_supplier",
            "io.aeron.driver.ext.CubicCongestionControlSupplier",
        ],
    ),
];

const NAME_RESOLVERS: &[Names<NameResolverSupplier>] = &[
    (NameResolverSupplier::System, &["default"]),
    (NameResolverSupplier::Driver, &["driver"]),
    (NameResolverSupplier::Table, &["csv_table"]),
];

const VALIDATORS: &[Names<TerminationValidator>] =
    &[(TerminationValidator::Allow, &["allow"]), (TerminationValidator::Deny, &["deny"])];

/// Settings of fixed behaviour, with the only values that they accept.
const FIXED: &[(&str, &[&str])] = &[
    ("AERON_DRIVER_DYNAMIC_LIBRARIES", &[]),
    ("AERON_AGENT_ON_START_FUNCTION", &["aeron_set_thread_affinity_on_start"]),
    ("AERON_UDP_CHANNEL_TRANSPORT_BINDINGS_MEDIA", &["default"]),
    ("AERON_CONDUCTOR_UDP_CHANNEL_TRANSPORT_BINDINGS_MEDIA", &["default"]),
    ("AERON_UDP_CHANNEL_OUTGOING_INTERCEPTORS", &[]),
];

/// Settings of other drivers that have no effect here. Setting one of them causes a warning.
const WITHOUT_EFFECT: &[&str] = &[
    "AERON_DEBUG_SEND_DATA_LOSS_RATE",
    "AERON_DEBUG_SEND_CONTROL_LOSS_RATE",
    "AERON_DEBUG_RECEIVE_DATA_LOSS_RATE",
    "AERON_DEBUG_RECEIVE_CONTROL_LOSS_RATE",
    "AERON_SM_APPLICATIONSPECIFICFEEDBACK",
    "AERON_SENDCHANNELENDPOINT_SUPPLIER",
    "AERON_RECEIVECHANNELENDPOINT_SUPPLIER",
];

/// Values of the settings, and the warnings about them.
pub(super) struct Symbols<'a> {
    pub(super) values: &'a BTreeMap<String, String>,
    pub(super) warnings: &'a mut Vec<String>,
}

impl Symbols<'_> {
    pub(super) fn apply(&mut self, context: &mut DriverContext) -> Result<(), InvalidSetting> {
        self.choose("AERON_UNICAST_FLOWCONTROL_SUPPLIER", UNICAST_FLOW_CONTROL)?;
        if let Some(name) = self.choose("AERON_MULTICAST_FLOWCONTROL_SUPPLIER", MULTICAST_FLOW_CONTROL)? {
            context.multicast_flow_control = name.into();
        }
        if let Some(name) = self.choose("AERON_CONGESTIONCONTROL_SUPPLIER", CONGESTION_CONTROL)? {
            context.congestion_control = name.into();
        }
        if let Some(supplier) = self.choose("AERON_NAME_RESOLVER_SUPPLIER", NAME_RESOLVERS)? {
            context.name_resolver_supplier = supplier;
        }
        self.termination_validator(context)?;
        self.idle_strategies(context)?;
        self.transport(context)?;
        for (name, allowed) in FIXED {
            let allowed: Vec<Names<()>> = allowed.iter().map(|one| ((), std::slice::from_ref(one))).collect();
            self.choose(name, &allowed)?;
        }
        for name in WITHOUT_EFFECT {
            if let Some(value) = self.values.get(*name).filter(|value| *value != "0") {
                self.warnings.push(format!("WARNING: {name}={value} has no effect"));
            }
        }
        Ok(())
    }

    /// Returns the meaning of a setting's value; `None` when the setting has no value.
    fn choose<V: Clone>(&self, name: &str, meanings: &[Names<V>]) -> Result<Option<V>, InvalidSetting> {
        let Some(value) = self.values.get(name) else { return Ok(None) };
        let found = meanings.iter().find(|(_, names)| names.contains(&value.as_str()));
        found.map(|(meaning, _)| Some(meaning.clone())).ok_or_else(|| {
            let names: Vec<&str> = meanings.iter().flat_map(|(_, names)| *names).copied().collect();
            let rule = match names[..] {
                [] => "cannot be used: shared objects are not loaded".to_owned(),
                _ => format!("must be one of {}: shared objects are not loaded", names.join(", ")),
            };
            InvalidSetting { setting: format!("{name}={value}"), rule }
        })
    }

    fn termination_validator(&self, context: &mut DriverContext) -> Result<(), InvalidSetting> {
        let name = "AERON_DRIVER_TERMINATION_VALIDATOR";
        let token = self.values.get(name).and_then(|value| value.strip_prefix("token:"));
        if let Some(token) = token {
            context.termination_validator = TerminationValidator::Token(token.into());
        } else if let Some(validator) = self.choose(name, VALIDATORS)? {
            context.termination_validator = validator;
        }
        Ok(())
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

    fn idle_strategies(&self, context: &mut DriverContext) -> Result<(), InvalidSetting> {
        for (agent, idle) in [
            ("CONDUCTOR", &mut context.conductor_idle),
            ("SENDER", &mut context.sender_idle),
            ("RECEIVER", &mut context.receiver_idle),
            ("SHAREDNETWORK", &mut context.shared_network_idle),
            ("SHARED", &mut context.shared_idle),
            ("DRIVER_ASYNC_EXECUTOR", &mut context.async_executor_idle),
        ] {
            let name = format!("AERON_{agent}_IDLE_STRATEGY");
            let Some(value) = self.values.get(&name) else { continue };
            let arguments = self.values.get(&format!("{name}_INIT_ARGS")).map(String::as_str);
            *idle = idle_strategy(value, arguments).ok_or_else(|| {
                let arguments = arguments.map_or(String::new(), |text| format!(" with arguments {text}"));
                InvalidSetting {
                    setting: format!("{name}={value}{arguments}"),
                    rule: "must be noop, spin, yield, sleeping, sleep-ns, sleep-ms or backoff".into(),
                }
            })?;
        }
        Ok(())
    }
}

fn idle_strategy(name: &str, arguments: Option<&str>) -> Option<IdleStrategy> {
    let name = name.strip_prefix("aeron_idle_strategy_").unwrap_or(name);
    let name = match name {
        "busy_spinning" => "spin",
        "yielding" => "yield",
        name => name,
    };
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
