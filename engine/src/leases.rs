//! Leadership leases in the engine: the service for a node, fences for any service, and clients that may wait.

mod blocking;
mod tracker;

pub use blocking::{BlockingLeaseClient, LeaseToken, SharedClaimer};
pub use tracker::{LeaseTracker, TrackerStartError};

use harrier_lease::{FencedService, InvalidLeaseSetting, LeaseService, LeaseSettings};

use crate::node::ServiceFactory;

/// The lease service, for a [`Node`](crate::Node) or a [`ServiceNode`](crate::ServiceNode). Set
/// [`fresh_timestamps`](crate::NodeContext::fresh_timestamps) of its node.
///
/// # Errors
/// A setting that cannot be.
pub fn lease_service(settings: LeaseSettings) -> Result<ServiceFactory, InvalidLeaseSetting> {
    settings.validate()?;
    Ok(Box::new(move || Box::new(LeaseService::new(settings).expect("the settings were checked"))))
}

/// A service that accepts fences, of any that does not. `settings` are those of the cluster's lease service.
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
/// A setting that cannot be.
pub fn fenced(
    service: ServiceFactory,
    settings: LeaseSettings,
) -> Result<ServiceFactory, InvalidLeaseSetting> {
    settings.validate()?;
    Ok(Box::new(move || {
        Box::new(FencedService::new(service(), settings).expect("the settings were checked"))
    }))
}
