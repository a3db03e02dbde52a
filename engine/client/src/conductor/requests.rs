//! Commands to the driver, and their state until they are answered (spec 01 §4).

use harrier_protocol::command::{Command, Request};
use harrier_protocol::counter_types::{MAX_KEY_LENGTH, MAX_LABEL_LENGTH};
use harrier_protocol::uri::MAX_URI_LENGTH;

use super::{Core, Pending, PendingKind, Ready};
use crate::ClientError;

impl Core {
    pub(super) fn check_channel(&self, channel: &str) -> Result<(), ClientError> {
        if self.closed {
            return Err(ClientError::Closed);
        }
        if channel.len() > MAX_URI_LENGTH {
            return Err(ClientError::InvalidArgument {
                argument: "channel",
                reason: format!("{} bytes, at most {MAX_URI_LENGTH} are allowed", channel.len()),
            });
        }
        Ok(())
    }

    /// Checks that an image is not that of a spy: spies cannot reject (spec 01 §5.4).
    pub(super) fn check_rejection(&self, correlation_id: i64) -> Result<(), ClientError> {
        let mut spies = self.subscriptions.values().filter(|subscription| subscription.is_spy);
        if spies.any(|spy| spy.images.iter().any(|(id, _, _)| *id == correlation_id)) {
            return Err(ClientError::InvalidArgument {
                argument: "image",
                reason: format!("{correlation_id} is a spy's, which cannot reject it"),
            });
        }
        Ok(())
    }

    pub(super) fn check_counter(&self, key: &[u8], label: &str) -> Result<(), ClientError> {
        if self.closed {
            return Err(ClientError::Closed);
        }
        let invalid = |argument, length, most| ClientError::InvalidArgument {
            argument,
            reason: format!("{length} bytes, at most {most} are allowed"),
        };
        if key.len() > MAX_KEY_LENGTH {
            return Err(invalid("counter key", key.len(), MAX_KEY_LENGTH));
        }
        if label.len() > MAX_LABEL_LENGTH {
            return Err(invalid("counter label", label.len(), MAX_LABEL_LENGTH));
        }
        Ok(())
    }

    pub(super) fn send(&mut self, correlation_id: i64, request: Request<'_>) -> Result<(), ClientError> {
        let command = Command { client_id: self.client_id, correlation_id, request };
        let length = command.encode(&mut self.scratch).map_err(|error| ClientError::InvalidArgument {
            argument: "command",
            reason: error.to_string(),
        })?;
        self.to_driver
            .write(command.type_id(), &self.scratch[..length])
            .map_err(|_full| ClientError::CommandQueueFull)?;
        self.is_known = true;
        Ok(())
    }

    pub(super) fn await_answer(&mut self, id: i64, kind: PendingKind, request: String) {
        let deadline_ns = self.now.ns + self.context.driver_timeout_ms * 1_000_000;
        self.next_check_ns = self.next_check_ns.min(deadline_ns);
        self.pending.insert(id, Pending { kind, request, deadline_ns, is_abandoned: false });
    }

    /// Sends a command that adds no resource.
    pub(super) fn command(&mut self, request: Request<'_>, what: String) -> Result<i64, ClientError> {
        if self.closed {
            return Err(ClientError::Closed);
        }
        let id = self.to_driver.next_correlation_id();
        self.send(id, request)?;
        self.await_answer(id, PendingKind::Command, what);
        Ok(id)
    }

    pub(super) fn earliest_pending(&self) -> i64 {
        self.pending.values().map(|pending| pending.deadline_ns).min().unwrap_or(i64::MAX)
    }

    pub(super) fn add_publication(
        &mut self,
        channel: &str,
        stream_id: i32,
        exclusive: bool,
    ) -> Result<i64, ClientError> {
        self.check_channel(channel)?;
        let correlation_id = self.to_driver.next_correlation_id();
        let request = if exclusive {
            Request::AddExclusivePublication { stream_id, channel }
        } else {
            Request::AddPublication { stream_id, channel }
        };
        self.send(correlation_id, request)?;
        let kind = PendingKind::Publication { channel: channel.to_owned(), exclusive };
        self.await_answer(correlation_id, kind, format!("add publication {channel} stream {stream_id}"));
        Ok(correlation_id)
    }

    pub(super) fn destination(
        &mut self,
        what: &str,
        channel: &str,
        registration_id: i64,
        request: Request<'_>,
    ) -> Result<i64, ClientError> {
        self.check_channel(channel)?;
        self.command(request, format!("{what} {channel} of {registration_id}"))
    }

    pub(super) fn take_ready(&mut self, id: i64) -> Result<Option<Ready>, ClientError> {
        match self.ready.remove(&id) {
            Some(Ready::Failed(error)) => Err(error),
            Some(ready) => Ok(Some(ready)),
            None if self.closed => Err(ClientError::Closed),
            None if self.pending.contains_key(&id) => Ok(None),
            None => Err(ClientError::UnknownRegistration(id)),
        }
    }

    pub(super) fn put_back(&mut self, id: i64, ready: Ready) -> ClientError {
        self.ready.insert(id, ready);
        ClientError::InvalidArgument {
            argument: "registration id",
            reason: format!("{id} belongs to another kind of resource"),
        }
    }
}
