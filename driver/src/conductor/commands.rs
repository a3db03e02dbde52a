//! Commands of clients (spec 02 §5.3).

use harrier_protocol::command::{Command, MAX_REJECT_REASON_LENGTH, Request};
use harrier_protocol::uri::{ChannelUri, MAX_URI_LENGTH, UriError};
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use crate::failure::Failure;

/// Prefix of IPC channels. Any text may follow.
pub(super) const IPC_PREFIX: &str = "aeron:ipc";
pub(super) const SPY_PREFIX: &str = "aeron-spy:";

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Reads at most one command.
    pub(super) fn read_command(&mut self) -> usize {
        let mut type_id = 0;
        let command = &mut self.command;
        let read = self.to_driver.read(1, &mut |id, bytes| {
            type_id = id;
            command.clear();
            command.extend_from_slice(bytes);
        });
        if read > 0 {
            let bytes = std::mem::take(&mut self.command);
            self.on_command(type_id, &bytes);
            self.command = bytes;
        }
        read
    }

    fn on_command(&mut self, type_id: i32, bytes: &[u8]) {
        let command = match Command::decode(type_id, bytes) {
            Ok(command) => command,
            Err(error) => {
                let failure = Failure::new(error.code(), error.to_string());
                self.events.error(error.correlation_id(), &failure);
                return;
            }
        };
        if let Err(failure) = self.execute(&command) {
            self.events.error(command.correlation_id, &failure);
        }
    }

    fn execute(&mut self, command: &Command<'_>) -> Result<(), Failure> {
        let Command { client_id, correlation_id, request } = *command;
        match request {
            Request::AddPublication { stream_id, channel } => {
                self.on_add_publication(client_id, correlation_id, stream_id, channel, false)
            }
            Request::AddExclusivePublication { stream_id, channel } => {
                self.on_add_publication(client_id, correlation_id, stream_id, channel, true)
            }
            Request::RemovePublication { registration_id, flags } => {
                self.on_remove_publication(client_id, correlation_id, registration_id, flags)
            }
            Request::AddSubscription { stream_id, channel, .. } => {
                self.on_add_subscription(client_id, correlation_id, stream_id, channel)
            }
            Request::RemoveSubscription { registration_id } => {
                self.on_remove_subscription(correlation_id, registration_id)
            }
            Request::AddDestination { registration_id, channel } => {
                self.on_add_destination(correlation_id, registration_id, channel)
            }
            Request::RemoveDestination { registration_id, channel } => {
                self.on_remove_destination(correlation_id, registration_id, channel)
            }
            Request::RemoveDestinationById { registration_id, destination_registration_id } => {
                self.on_remove_destination_by_id(correlation_id, registration_id, destination_registration_id)
            }
            Request::AddRcvDestination { registration_id, channel } => {
                self.on_add_receive_destination(correlation_id, registration_id, channel)
            }
            Request::RemoveRcvDestination { registration_id, channel } => {
                self.on_remove_receive_destination(correlation_id, registration_id, channel)
            }
            Request::AddCounter { type_id, key, label } => {
                self.on_add_counter(client_id, correlation_id, type_id, key, label)
            }
            Request::RemoveCounter { registration_id } => {
                self.on_remove_counter(correlation_id, registration_id)
            }
            Request::AddStaticCounter { registration_id, type_id, key, label } => {
                self.on_add_static_counter(client_id, correlation_id, registration_id, type_id, key, label)
            }
            Request::ClientKeepalive => {
                self.on_keepalive(client_id);
                Ok(())
            }
            Request::ClientClose => {
                self.on_client_close(client_id);
                Ok(())
            }
            Request::RejectImage { image_correlation_id, reason, .. } => {
                self.on_reject_image(correlation_id, image_correlation_id, reason)
            }
            Request::TerminateDriver { token } => {
                if self.context.termination_validator.allows(token) {
                    self.handle.is_terminating.store(true, std::sync::atomic::Ordering::Release);
                }
                Ok(())
            }
            Request::GetNextAvailableSessionId { stream_id } => {
                let session_id = self.sessions.next(stream_id);
                self.events.next_session_id(correlation_id, session_id);
                Ok(())
            }
        }
    }

    fn on_add_publication(
        &mut self,
        client_id: i64,
        correlation_id: i64,
        stream_id: i32,
        channel: &str,
        is_exclusive: bool,
    ) -> Result<(), Failure> {
        let uri = parse(channel)?;
        self.ensure_client(client_id)?;
        let add = super::pending::AddPublication {
            client_id,
            correlation_id,
            stream_id,
            channel: channel.to_owned(),
            is_exclusive,
        };
        if channel.starts_with(IPC_PREFIX) {
            self.add_ipc_publication(add, &uri)
        } else {
            self.add_network_publication(add, uri)
        }
    }

    fn on_remove_publication(
        &mut self,
        client_id: i64,
        correlation_id: i64,
        registration_id: i64,
        flags: i64,
    ) -> Result<(), Failure> {
        let Some(publication_id) = self.clients.unlink_publication(registration_id) else {
            return Err(Failure::new(
                harrier_protocol::ErrorCode::UnknownPublication,
                format!("unknown publication client_id={client_id} registration_id={registration_id}"),
            ));
        };
        if flags & harrier_protocol::command::REMOVE_FLAG_REVOKE != 0 {
            self.revoke_publication(publication_id);
        }
        self.release_publication(publication_id);
        self.events.operation_success(correlation_id);
        Ok(())
    }

    fn on_add_subscription(
        &mut self,
        client_id: i64,
        correlation_id: i64,
        stream_id: i32,
        channel: &str,
    ) -> Result<(), Failure> {
        let uri = parse(channel)?;
        self.ensure_client(client_id)?;
        let add = super::pending::AddSubscription {
            client_id,
            correlation_id,
            stream_id,
            channel: channel.to_owned(),
        };
        if channel.starts_with(IPC_PREFIX) {
            self.add_ipc_subscription(add, &uri)
        } else {
            self.add_network_subscription(add, uri, channel.starts_with(SPY_PREFIX))
        }
    }

    fn on_reject_image(&mut self, correlation_id: i64, image_id: i64, reason: &str) -> Result<(), Failure> {
        if reason.len() > MAX_REJECT_REASON_LENGTH {
            return Err(Failure::generic("Invalidation reason must be 1023 bytes or less"));
        }
        if !self.reject_network_image(image_id, reason) && !self.reject_ipc_image(image_id, reason) {
            return Err(Failure::generic(format!("Unable to resolve image for correlationId={image_id}")));
        }
        self.system.get(crate::system_counters::SystemCounter::ImagesRejected).increment();
        self.events.operation_success(correlation_id);
        Ok(())
    }
}

/// Parses a channel. The refusal of a channel that is too long quotes its first 4,095 bytes (spec 02 §5.3).
pub(super) fn parse(channel: &str) -> Result<ChannelUri, Failure> {
    ChannelUri::parse(channel).map_err(|error| match error {
        UriError::TooLong(length) => {
            let mut end = MAX_URI_LENGTH.min(channel.len());
            while !channel.is_char_boundary(end) {
                end -= 1;
            }
            Failure::channel(format!(
                "URI length ({length}) exceeds max supported length ({MAX_URI_LENGTH}): {}",
                &channel[..end]
            ))
        }
        other => other.into(),
    })
}
