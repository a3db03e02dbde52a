//! Destinations of manual publications, and what sender and receiver report (spec 02 §2.9, §5.5).

use harrier_protocol::ErrorCode;
use harrier_protocol::uri::{ChannelUri, ControlMode, key};
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::commands::parse;
use super::pending::Pending;
use crate::channel::UdpChannel;
use crate::events::PublicationErrorEvent;
use crate::failure::Failure;
use crate::handover::{ConductorCommand, SenderCommand};
use crate::sender::destinations::Destination;

/// Commands of sender and receiver taken per duty cycle.
const COMMAND_LIMIT: usize = 8;

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// The endpoint of a publication that takes destinations.
    fn manual_endpoint(&self, publication_id: i64, channel: &str) -> Result<u64, Failure> {
        let entry = self
            .publications
            .iter()
            .find(|entry| entry.publication.identity.registration_id == publication_id)
            .ok_or_else(|| {
                Failure::new(
                    ErrorCode::UnknownPublication,
                    format!("unknown publication registration_id={publication_id}"),
                )
            })?;
        if !entry.channel.is_manual() {
            return Err(Failure::generic(format!(
                "channel does not allow manual control of destinations: {channel}"
            )));
        }
        Ok(entry.endpoint_id)
    }

    pub(super) fn on_add_destination(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        channel: &str,
    ) -> Result<(), Failure> {
        self.manual_endpoint(publication_id, channel)?;
        let uri = check_destination(channel)?;
        self.resolve_channel(uri, channel, Pending::AddDestination { correlation_id, publication_id })
    }

    pub(super) fn on_remove_destination(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        channel: &str,
    ) -> Result<(), Failure> {
        self.manual_endpoint(publication_id, channel)?;
        let uri = check_destination(channel)?;
        self.resolve_channel(uri, channel, Pending::RemoveDestination { correlation_id, publication_id })
    }

    pub(super) fn on_remove_destination_by_id(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        registration_id: i64,
    ) -> Result<(), Failure> {
        let endpoint_id = self.manual_endpoint(publication_id, "")?;
        self.tell_sender(SenderCommand::RemoveDestinationById { endpoint_id, registration_id });
        self.events.operation_success(correlation_id);
        Ok(())
    }

    pub(super) fn on_destination_channel(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        channel: &UdpChannel,
    ) -> Result<(), Failure> {
        let endpoint_id = self.manual_endpoint(publication_id, &channel.text)?;
        if let Some(address) = channel.endpoint {
            let destination = Destination { registration_id: correlation_id, address };
            self.tell_sender(SenderCommand::AddDestination { endpoint_id, destination });
        }
        self.events.operation_success(correlation_id);
        Ok(())
    }

    pub(super) fn on_removed_destination_channel(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        channel: &UdpChannel,
    ) -> Result<(), Failure> {
        let endpoint_id = self.manual_endpoint(publication_id, &channel.text)?;
        if let Some(address) = channel.endpoint {
            self.tell_sender(SenderCommand::RemoveDestination { endpoint_id, address });
        }
        self.events.operation_success(correlation_id);
        Ok(())
    }

    /// Takes what sender and receiver report, and errors of the agents.
    pub(super) fn take_agent_commands(&mut self) -> usize {
        let mut work_count = 0;
        while work_count < COMMAND_LIMIT {
            let Ok(command) = self.queues.from_receiver.pop().or_else(|_| self.queues.from_sender.pop())
            else {
                break;
            };
            work_count += 1;
            self.on_agent_command(command);
        }
        if let Some(errors) = self.handle.errors.take() {
            for error in errors {
                self.events.record_error(&error);
            }
        }
        work_count
    }

    fn on_agent_command(&mut self, command: ConductorCommand<T>) {
        match command {
            ConductorCommand::CreateImage { endpoint_id, setup, source, control } => {
                self.on_create_image(endpoint_id, setup, source, control);
            }
            ConductorCommand::ImageReleased { correlation_id } => self.on_image_released(correlation_id),
            ConductorCommand::PublicationReleased { registration_id } => {
                self.on_publication_released(registration_id);
            }
            ConductorCommand::SendEndpointReleased { endpoint } => self.on_send_endpoint_released(&endpoint),
            ConductorCommand::ResponseSetup { subscription_id, session_id } => {
                self.on_response_setup(subscription_id, session_id);
            }
            ConductorCommand::ResponseConnected { registration_id } => {
                self.on_response_connected(registration_id);
            }
            ConductorCommand::ReceiveEndpointReleased { endpoint } => {
                self.on_receive_endpoint_released(&endpoint);
            }
            ConductorCommand::PublicationError {
                registration_id,
                destination_id,
                receiver_id,
                group_tag,
                source,
                code,
                message,
            } => {
                let Some(entry) = self
                    .publications
                    .iter()
                    .find(|entry| entry.publication.identity.registration_id == registration_id)
                else {
                    return;
                };
                let identity = &entry.publication.identity;
                let (session_id, stream_id) = (identity.session_id, identity.stream_id);
                self.events.record_error(&format!(
                    "WARN: onPublicationError: registrationId={registration_id} sessionId={session_id} \
                     streamId={stream_id} receiverId={receiver_id} errorCode={code} message={message}"
                ));
                self.events.publication_error(PublicationErrorEvent {
                    registration_id,
                    destination_id,
                    session_id,
                    stream_id,
                    receiver_id,
                    group_tag,
                    source,
                    code,
                    message: &message,
                });
            }
            ConductorCommand::ReResolve { endpoint_id } => self.re_resolve(endpoint_id),
            ConductorCommand::Error { text } => self.events.record_error(&text),
        }
    }

    /// Follows all streams; every duty cycle.
    #[inline]
    pub(super) fn track_positions(&mut self) -> usize {
        let mut work_count = 0;
        for entry in &mut self.images {
            work_count += entry.image.track(&mut self.loss_report, self.now.ns, self.now.epoch_ms);
        }
        for entry in &mut self.publications {
            work_count += entry.publication.track();
        }
        for publication in &mut self.ipc {
            work_count += publication.track();
        }
        work_count
    }
}

/// Rules on destination strings (spec 02 §5.5).
fn check_destination(channel: &str) -> Result<ChannelUri, Failure> {
    let uri = parse(channel)?;
    if uri.is_spy() {
        return Err(Failure::channel(format!(
            "Aeron spies are invalid as send destinations: channel={channel}"
        )));
    }
    if !uri.is_udp() {
        return Err(Failure::channel(format!("incorrect URI format for destination: {channel}")));
    }
    check_destination_keys(&uri, channel)?;
    if uri.endpoint()?.is_some_and(|endpoint| endpoint.port == 0) {
        return Err(Failure::channel(format!("endpoint has port=0 for send destination: channel={channel}")));
    }
    Ok(uri)
}

/// Keys that no destination may have, whichever way its data goes (spec 02 §5.5).
pub(super) fn check_destination_keys(uri: &ChannelUri, channel: &str) -> Result<(), Failure> {
    for key in
        [key::MTU, key::RECEIVER_WINDOW, key::SOCKET_RCVBUF, key::SOCKET_SNDBUF, key::RESPONSE_CORRELATION_ID]
    {
        if uri.contains(key) {
            return Err(Failure::channel(format!(
                "destinations must not contain the key: {key} channel={channel}"
            )));
        }
    }
    if uri.control_mode() == Some(ControlMode::Response) {
        return Err(Failure::channel("destinations may not specify control-mode=response"));
    }
    Ok(())
}
