//! Services in a separate process, beside a node that runs driver, archive and consensus module.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use harrier_cluster::service::{ServiceContainer, ServiceContainerContext};
use harrier_driver::configuration::Properties;
use harrier_platform::{MappedMemory, SystemClock};
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::{AgentRunner, ThreadPace};
use harrier_ringbuf::{Agent, Clock, SharedThread};

use crate::node::{self, NodeError, Outcome, ServiceFactory, default_idle, seed};

/// Settings of services in a separate process.
#[derive(Debug, Clone)]
pub struct ServiceNodeContext {
    /// Directory of the node's media driver.
    pub aeron_directory: PathBuf,
    /// Directory of the node's cluster files: `cluster` below the node's directory.
    pub cluster_directory: PathBuf,
    /// Id of the cluster in counters.
    pub cluster_id: i32,
    /// Idle strategy of the thread of each service.
    pub idle: IdleStrategy,
    /// Further settings by name (spec 04 §9.2).
    pub properties: Properties,
    /// Seed of all random ids.
    pub seed: u64,
}

impl ServiceNodeContext {
    /// Creates default settings for services beside a node.
    pub fn new(aeron_directory: impl Into<PathBuf>, cluster_directory: impl Into<PathBuf>) -> Self {
        Self {
            aeron_directory: aeron_directory.into(),
            cluster_directory: cluster_directory.into(),
            cluster_id: 0,
            idle: default_idle(),
            properties: Properties::default(),
            seed: seed(),
        }
    }

    fn container(&self, service_id: i32) -> Result<ServiceContainerContext, NodeError> {
        let mut container =
            ServiceContainerContext::new(&self.aeron_directory, &self.cluster_directory, service_id)
                .for_cluster(self.cluster_id);
        container.archive.seed = self.seed.rotate_left(29 + service_id as u32);
        let lookup = |name: &str| {
            let is_own = !["aeron.dir", "aeron.cluster.service.id"].contains(&name);
            is_own.then(|| self.properties.get(name)).flatten().map(str::to_owned)
        };
        container.apply(&lookup).map_err(|error| NodeError::Setting(error.to_string()))?;
        Ok(container)
    }
}

/// Running services, each on a thread; dropping it stops them. A node ends without its services, and they end with
/// their node.
///
/// ```no_run
/// use harrier::services::EchoService;
/// use harrier::{ServiceNode, ServiceNodeContext};
///
/// let context = ServiceNodeContext::new("/dev/shm/aeron-harrier", "/var/lib/harrier/cluster");
/// let services = ServiceNode::launch(&context, vec![(1, Box::new(|| Box::new(EchoService)))]).unwrap();
/// while !services.is_ending() {
///     std::thread::yield_now();
/// }
/// # services.stop().unwrap();
/// ```
pub struct ServiceNode {
    runners: Vec<AgentRunner>,
    outcome: Arc<Outcome>,
}

impl ServiceNode {
    /// Starts services by their ids. Each service waits for the node, which may start later.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn launch(
        context: &ServiceNodeContext,
        services: Vec<(i32, ServiceFactory)>,
    ) -> Result<Self, NodeError> {
        let outcome = Arc::new(Outcome::default());
        let mut runners = Vec::new();
        for (service_id, factory) in services {
            let container = context.container(service_id)?;
            container.validate().map_err(|error| NodeError::Setting(error.to_string()))?;
            let idle = node::idle(&context.properties, &context.idle)?;
            let outcome = outcome.clone();
            let name = container.service_name.clone();
            runners.push(AgentRunner::start(&name, move || {
                let pace = Box::new(ThreadPace::new(SystemClock, idle));
                let thread = SharedThread::new(pace, Box::new(move |role, error| outcome.note(role, error)));
                let waiter = Box::new(thread.clone());
                let container =
                    ServiceContainer::launch(container, factory(), MappedMemory, waiter, &SystemClock.now())
                        .map_err(|error| error.to_string())?;
                let agents: Vec<Box<dyn Agent>> = vec![Box::new(container)];
                thread.install(agents).map_err(|error| error.to_string())?;
                Ok(thread)
            })?);
        }
        Ok(Self { runners, outcome })
    }

    /// True once a service has terminated or failed.
    pub fn is_ending(&self) -> bool {
        self.runners.iter().any(AgentRunner::is_finished)
    }

    /// True once a service has terminated together with its node.
    pub fn has_ended_as_told(&self) -> bool {
        self.outcome.is_expected.load(Ordering::Acquire)
    }

    /// Error texts of ended services, without duplicates.
    pub fn failures(&self) -> Vec<String> {
        self.outcome.failures.drain()
    }

    /// Stops all services.
    ///
    /// # Errors
    /// Errors of threads that did not end normally.
    pub fn stop(mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        for runner in self.runners.drain(..) {
            if let Err(error) = runner.stop() {
                outcome = Err(error);
            }
        }
        if self.has_ended_as_told() { Ok(()) } else { outcome }
    }
}
