//! Commands that add no resource, and their outcomes (spec 01 §5.2).

use harrier_protocol::command::Request;
use harrier_protocol::counter_types::type_id::SYSTEM;

use super::{Aeron, PendingKind, Ready};
use crate::ClientError;

/// Id of the counter that holds the version of the driver's commands.
const CONTROL_PROTOCOL_VERSION: i32 = 43;
/// Version 1.0.0, the first with the command for session ids.
const SESSION_ID_VERSION: i64 = 1 << 16;

impl Aeron {
    /// Asks the driver for a session id that none of its publications on the stream has; fetch it with
    /// [`session_id`](Self::session_id). Programs built on aeron-go that share the driver end when they read the answer
    /// (spec 06 §3).
    ///
    /// # Errors
    /// As [`add_publication`](Self::add_publication); a driver without this command is
    /// [`ClientError::InvalidArgument`]: draw an id outside -1..=1000 then.
    pub fn next_session_id(&mut self, stream_id: i32) -> Result<i64, ClientError> {
        let core = &mut self.core;
        if core.closed {
            return Err(ClientError::Closed);
        }
        let counters = &core.counters;
        let is_told = counters.is_allocated(CONTROL_PROTOCOL_VERSION)
            && counters.type_id(CONTROL_PROTOCOL_VERSION) == SYSTEM;
        let version = if is_told { counters.value(CONTROL_PROTOCOL_VERSION) } else { 0 };
        if version < SESSION_ID_VERSION {
            return Err(ClientError::InvalidArgument {
                argument: "next session id",
                reason: format!(
                    "the driver's control protocol has version {version}, not {SESSION_ID_VERSION}"
                ),
            });
        }
        let id = core.to_driver.next_correlation_id();
        core.send(id, Request::GetNextAvailableSessionId { stream_id })?;
        core.await_answer(id, PendingKind::Session, format!("next session id of stream {stream_id}"));
        Ok(id)
    }

    /// Returns the session id that was requested when the driver has answered; `None` until then. It is returned
    /// once.
    ///
    /// # Errors
    ///
    /// As [`publication`](Self::publication).
    pub fn session_id(&mut self, correlation_id: i64) -> Result<Option<i32>, ClientError> {
        match self.core.take_ready(correlation_id)? {
            Some(Ready::Session(session_id)) => Ok(Some(session_id)),
            None => Ok(None),
            Some(other) => Err(self.core.put_back(correlation_id, other)),
        }
    }

    /// Removes a destination from a publication by the id that its add returned.
    ///
    /// # Errors
    ///
    /// As [`add_destination`](Self::add_destination).
    pub fn remove_destination_by_id(
        &mut self,
        registration_id: i64,
        destination_registration_id: i64,
    ) -> Result<i64, ClientError> {
        self.core.command(
            Request::RemoveDestinationById { registration_id, destination_registration_id },
            format!("remove destination {destination_registration_id} of {registration_id}"),
        )
    }

    /// True while the driver has not answered a command.
    pub fn is_command_active(&self, correlation_id: i64) -> bool {
        self.core.pending.contains_key(&correlation_id)
    }

    /// True while the driver has not answered all commands. Removals of dropped resources do not count.
    pub fn has_active_commands(&self) -> bool {
        self.core.pending.values().any(|pending| !matches!(pending.kind, PendingKind::Removal))
    }

    /// Abandons a command whose outcome was not fetched. A resource that it adds, now or later, is removed again.
    ///
    /// # Errors
    ///
    /// An id that is not pending here.
    pub fn abandon(&mut self, registration_id: i64) -> Result<(), ClientError> {
        if self.core.ready.remove(&registration_id).is_some() {
            return Ok(());
        }
        match self.core.pending.get_mut(&registration_id) {
            Some(pending) => {
                pending.is_abandoned = true;
                Ok(())
            }
            None => Err(ClientError::UnknownRegistration(registration_id)),
        }
    }
}
