//! Commands that wait for the executor (spec 02 §5.4).

use harrier_protocol::ErrorCode;
use harrier_protocol::uri::{ChannelUri, InitialPosition};
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::images::ImageRequest;
use super::network::NetworkLog;
use crate::channel::UdpChannel;
use crate::executor::JobResult;
use crate::ipc_publication::Identity;
use crate::params::{PublicationParams, SubscriptionParams};

/// A client's request for a publication.
#[derive(Debug, Clone)]
pub(super) struct AddPublication {
    pub(super) client_id: i64,
    pub(super) correlation_id: i64,
    pub(super) stream_id: i32,
    pub(super) channel: String,
    pub(super) is_exclusive: bool,
}

/// A client's request for a subscription.
#[derive(Debug, Clone)]
pub(super) struct AddSubscription {
    pub(super) client_id: i64,
    pub(super) correlation_id: i64,
    pub(super) stream_id: i32,
    pub(super) channel: String,
}

/// Command or task that continues when its job is done.
#[derive(Debug)]
pub(super) enum Pending {
    /// The log of an IPC publication is created.
    IpcLog { identity: Identity, params: Box<PublicationParams>, start: InitialPosition },
    /// The channel of a network publication is resolved.
    PublicationChannel { add: AddPublication },
    /// The socket of a network publication is opened.
    PublicationSocket { add: AddPublication, channel: Box<UdpChannel>, port: Option<u16> },
    /// The log of a network publication is created.
    NetworkLog(Box<NetworkLog>),
    /// The channel of a network subscription is resolved.
    SubscriptionChannel { add: AddSubscription, params: Box<SubscriptionParams>, is_spy: bool },
    /// The socket of a network subscription is opened.
    SubscriptionSocket {
        add: AddSubscription,
        params: Box<SubscriptionParams>,
        channel: Box<UdpChannel>,
        port: Option<u16>,
    },
    /// The channel of a destination is resolved.
    AddDestination { correlation_id: i64, publication_id: i64, uri: Box<ChannelUri>, text: String },
    /// The channel of a destination that is removed is resolved.
    RemoveDestination { correlation_id: i64, publication_id: i64, text: String },
    /// The name of a destination that did not resolve before is looked up again.
    UnresolvedDestination { endpoint_id: u64, registration_id: i64 },
    /// The channel of a receive destination is resolved.
    AddReceiveDestination { correlation_id: i64, subscription_id: i64 },
    /// The socket of a receive destination is opened.
    ReceiveDestinationSocket {
        correlation_id: i64,
        subscription_id: i64,
        channel: Box<UdpChannel>,
        port: Option<u16>,
    },
    /// The channel of a receive destination that is removed is resolved.
    RemoveReceiveDestination { correlation_id: i64, subscription_id: i64 },
    /// The log of an image is created.
    ImageLog(Box<ImageRequest>),
    /// The name of an endpoint's own channel or of a receive destination is resolved again.
    ReResolution { endpoint_id: u64, destination_id: Option<i64> },
}

impl Pending {
    /// True when the next command of a client has to wait.
    pub(super) fn is_client_command(&self) -> bool {
        !matches!(self, Self::ImageLog(_) | Self::ReResolution { .. } | Self::UnresolvedDestination { .. })
    }

    /// Correlation id of the command that is refused when the job fails.
    pub(super) fn correlation_id(&self) -> Option<i64> {
        match self {
            Self::IpcLog { identity, .. } => Some(identity.registration_id),
            Self::PublicationChannel { add } | Self::PublicationSocket { add, .. } => {
                Some(add.correlation_id)
            }
            Self::NetworkLog(log) => Some(log.identity.registration_id),
            Self::SubscriptionChannel { add, .. } | Self::SubscriptionSocket { add, .. } => {
                Some(add.correlation_id)
            }
            Self::AddDestination { correlation_id, .. }
            | Self::RemoveDestination { correlation_id, .. }
            | Self::AddReceiveDestination { correlation_id, .. }
            | Self::ReceiveDestinationSocket { correlation_id, .. }
            | Self::RemoveReceiveDestination { correlation_id, .. } => Some(*correlation_id),
            Self::ImageLog(_) | Self::ReResolution { .. } | Self::UnresolvedDestination { .. } => None,
        }
    }
}

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Continues with the result of a job.
    #[expect(clippy::too_many_lines, reason = "a table: one arm for each kind of job")]
    pub(super) fn resume(&mut self, pending: Pending, result: JobResult<T>) {
        let correlation_id = pending.correlation_id();
        let outcome = match (pending, result) {
            (Pending::IpcLog { identity, params, start }, JobResult::Log(log)) => {
                log.and_then(|log| self.on_ipc_log(identity, *params, start, log))
            }
            (Pending::PublicationChannel { add }, JobResult::Channel(channel)) => {
                channel.and_then(|channel| self.on_publication_channel(add, channel))
            }
            (Pending::PublicationSocket { add, channel, port }, JobResult::Socket(socket)) => socket
                .inspect_err(|_| self.send_ports.release(port))
                .and_then(|opened| self.on_publication_socket(add, *channel, opened, port)),
            (Pending::NetworkLog(pending), JobResult::Log(log)) => {
                let endpoint_id = pending.endpoint_id;
                let done = log.and_then(|log| self.on_network_log(*pending, log));
                if done.is_err() {
                    self.release_send_endpoint(endpoint_id);
                }
                done
            }
            (Pending::SubscriptionChannel { add, params, is_spy }, JobResult::Channel(channel)) => {
                channel.and_then(|channel| self.on_subscription_channel(add, *params, channel, is_spy))
            }
            (Pending::SubscriptionSocket { add, params, channel, port }, JobResult::Socket(socket)) => socket
                .inspect_err(|_| self.receive_ports.release(port))
                .and_then(|opened| self.on_subscription_socket(add, *params, channel, (opened.socket, port))),
            (
                Pending::AddDestination { correlation_id, publication_id, uri, text },
                JobResult::Channel(channel),
            ) => match channel {
                Ok(channel) => self.on_destination_channel(correlation_id, publication_id, &channel),
                Err(failure) if failure.code == ErrorCode::UnknownHost => {
                    self.on_unresolved_destination(correlation_id, publication_id, uri, text)
                }
                Err(failure) => Err(failure),
            },
            (
                Pending::RemoveDestination { correlation_id, publication_id, text },
                JobResult::Channel(channel),
            ) => self.on_removed_destination_channel(correlation_id, publication_id, &text, channel),
            (
                Pending::UnresolvedDestination { endpoint_id, registration_id },
                JobResult::Channel(channel),
            ) => {
                self.on_destination_resolved(endpoint_id, registration_id, channel);
                Ok(())
            }
            (Pending::ImageLog(request), JobResult::Log(log)) => {
                self.on_image_log(*request, log);
                Ok(())
            }
            (
                Pending::AddReceiveDestination { correlation_id, subscription_id },
                JobResult::Channel(channel),
            ) => channel.and_then(|channel| {
                self.on_receive_destination_channel(correlation_id, subscription_id, channel)
            }),
            (
                Pending::ReceiveDestinationSocket { correlation_id, subscription_id, channel, port },
                JobResult::Socket(socket),
            ) => socket
                .and_then(|opened| {
                    let socket = opened.socket;
                    self.on_receive_destination_socket(
                        correlation_id,
                        subscription_id,
                        *channel,
                        socket,
                        port,
                    )
                })
                .inspect_err(|_| self.receive_ports.release(port)),
            (
                Pending::RemoveReceiveDestination { correlation_id, subscription_id },
                JobResult::Channel(channel),
            ) => channel.and_then(|channel| {
                self.on_removed_receive_destination(correlation_id, subscription_id, &channel)
            }),
            (Pending::ReResolution { endpoint_id, destination_id }, JobResult::Channel(channel)) => {
                self.on_re_resolved(endpoint_id, destination_id, channel);
                Ok(())
            }
            (pending, _) => unreachable!("a job of another kind was submitted for {pending:?}"),
        };
        if let (Err(failure), Some(correlation_id)) = (outcome, correlation_id) {
            self.events.error(correlation_id, &failure);
        }
    }

    /// Submits a job for a client's command.
    pub(super) fn submit_for_client(
        &mut self,
        job: crate::executor::Job,
        pending: Pending,
    ) -> Result<(), crate::failure::Failure> {
        self.submit(job, pending).map_err(|_| {
            crate::failure::Failure::new(
                harrier_protocol::ErrorCode::ResourceTemporarilyUnavailable,
                "the executor's queue is full, please retry",
            )
        })
    }

    /// Submits the lookup of a channel's names.
    pub(super) fn resolve_channel(
        &mut self,
        uri: ChannelUri,
        text: &str,
        pending: Pending,
    ) -> Result<(), crate::failure::Failure> {
        let job = crate::executor::Job::Channel { uri: Box::new(uri), text: text.to_owned() };
        self.submit_for_client(job, pending)
    }
}
