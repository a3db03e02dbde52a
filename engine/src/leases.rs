//! Leadership leases in the engine: the lease service, fences for other services, and blocking clients.

mod blocking;
mod calls;
mod process;
mod threaded;
mod tracker;

pub use blocking::{BlockingLeaseClient, LeaseToken, SharedClaimer};
pub use process::process_identity;
pub use threaded::ThreadedClaimer;
pub use tracker::{LeaseTracker, TrackerStartError};

use harrier_driver::configuration::Properties;
use harrier_lease::{FencedService, InvalidLeaseSetting, LeaseService, LeaseSettings};

use crate::node::ServiceFactory;
use harrier_protocol::uri::parse_duration_ns;

/// The settings `harrier.lease.…` among others: `max.leases`, `max.waiters`, `max.pins`, `drift.divisor`, and the
/// durations `min.duration` and `max.duration` with their units.
///
/// ```
/// use harrier::Properties;
/// use harrier::leases::lease_settings;
///
/// let mut properties = Properties::default();
/// properties.define("harrier.lease.min.duration=100ms").unwrap();
/// assert_eq!(lease_settings(&properties).unwrap().min_duration_ns, 100_000_000);
/// ```
///
/// # Errors
/// Invalid value.
pub fn lease_settings(properties: &Properties) -> Result<LeaseSettings, InvalidLeaseSetting> {
    let mut settings = LeaseSettings::default();
    for (name, value) in [
        ("max.leases", &mut settings.max_leases),
        ("max.waiters", &mut settings.max_waiters),
        ("max.pins", &mut settings.max_pins),
    ] {
        if let Some((setting, text)) = named(properties, name) {
            let rule = "must be a number";
            *value = text.parse().map_err(|_| InvalidLeaseSetting { setting, rule })?;
        }
    }
    for (name, value) in
        [("min.duration", &mut settings.min_duration_ns), ("max.duration", &mut settings.max_duration_ns)]
    {
        if let Some((setting, text)) = named(properties, name) {
            let rule = "must be a number with s, ms, us or ns";
            *value = parse_duration_ns(text).ok_or(InvalidLeaseSetting { setting, rule })?;
        }
    }
    if let Some((setting, text)) = named(properties, "drift.divisor") {
        let rule = "must be a number";
        settings.drift_divisor = text.parse().map_err(|_| InvalidLeaseSetting { setting, rule })?;
    }
    settings.validate()?;
    Ok(settings)
}

fn named<'a>(properties: &'a Properties, name: &str) -> Option<(String, &'a str)> {
    let name = format!("harrier.lease.{name}");
    let value = properties.get(&name)?;
    Some((format!("{name}={value}"), value))
}

/// The lease service, for a [`Node`](crate::Node) or a [`ServiceNode`](crate::ServiceNode). Set
/// [`fresh_timestamps`](crate::NodeContext::fresh_timestamps) of its node.
///
/// # Errors
/// Invalid setting.
pub fn lease_service(settings: LeaseSettings) -> Result<ServiceFactory, InvalidLeaseSetting> {
    settings.validate()?;
    Ok(Box::new(move || Box::new(LeaseService::new(settings).expect("the settings were checked"))))
}

/// Wraps a service so that it accepts fences. `settings` must be those of the cluster's lease service.
///
/// ```
/// use harrier::lease::LeaseSettings;
/// use harrier::leases::{fenced, lease_service};
/// use harrier::services::BookService;
///
/// let settings = LeaseSettings::default();
/// let services = vec![
///     lease_service(settings).unwrap(),
///     fenced(Box::new(|| Box::new(BookService::default())), settings).unwrap(),
/// ];
/// # drop(services);
/// ```
///
/// # Errors
/// Invalid setting.
pub fn fenced(
    service: ServiceFactory,
    settings: LeaseSettings,
) -> Result<ServiceFactory, InvalidLeaseSetting> {
    settings.validate()?;
    Ok(Box::new(move || {
        Box::new(FencedService::new(service(), settings).expect("the settings were checked"))
    }))
}
