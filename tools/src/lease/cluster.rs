//! The session with the cluster, over a running driver or one of its own.

use harrier::cluster::client::ClusterClientContext;
use harrier::lease::LeaseClientContext;
use harrier::leases::BlockingLeaseClient;

use super::SessionArguments;
use crate::CommandError;
use crate::own_driver::OwnDriver;

/// A lease client and its driver. Fields drop in this order, so that the client ends its session before its driver ends.
pub(super) struct Session {
    pub(super) client: BlockingLeaseClient,
    _driver: Option<OwnDriver>,
}

impl Session {
    /// Opens a session; calls wait for it.
    pub(super) fn open(arguments: &SessionArguments) -> Result<Self, CommandError> {
        Self::open_with(arguments, |_| Ok(()))
    }

    /// Opens a session with changes to the client's settings.
    pub(super) fn open_with(
        arguments: &SessionArguments,
        change: impl FnOnce(&mut LeaseClientContext) -> Result<(), CommandError>,
    ) -> Result<Self, CommandError> {
        let Some(ingress) = &arguments.ingress else {
            return Err(CommandError::Usage("--ingress is missing: id=host:port of each member".into()));
        };
        let egress = format!("aeron:udp?endpoint={}", arguments.egress);
        let mut cluster = ClusterClientContext::new(ingress.as_str(), egress);
        cluster.ingress_channel = "aeron:udp?term-length=64k".into();
        cluster.client_name = "harrier-lease".into();
        let timeout_ns = (arguments.timeout_ms as i64).saturating_mul(1_000_000);
        cluster.message_timeout_ns = timeout_ns;
        let mut context = LeaseClientContext::new(cluster);
        context.timeout_ns = timeout_ns;
        change(&mut context)?;
        let (directory, driver) = match &arguments.aeron_dir {
            Some(directory) => (directory.clone(), None),
            None => {
                let own = OwnDriver::start("harrier-lease-")?;
                (own.aeron_directory(), Some(own))
            }
        };
        let client = BlockingLeaseClient::connect(directory, context)
            .map_err(|error| CommandError::Usage(error.to_string()))?;
        Ok(Self { client, _driver: driver })
    }
}
