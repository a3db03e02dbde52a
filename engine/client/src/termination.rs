//! Asking a driver to end (spec 02 §5.13).

use harrier_protocol::command::{Command, Request};
use harrier_ringbuf::{Memory, Now};

use crate::{ClientError, Context, connect};

/// Longest token, bytes.
const MAX_TOKEN_LENGTH: usize = 4_096;

/// Asks the driver of the context's directory to end. It does when its termination validator allows the token, and says
/// nothing when it does not. No client has to be connected.
///
/// # Errors
/// [`ClientError::NotReady`] when no driver lives there; a token of more than 4,096 bytes; a full command queue.
///
/// ```no_run
/// # use harrier_client::{Context, request_driver_termination};
/// # use harrier_ringbuf::{Memory, Now};
/// # fn end(memory: &impl Memory, now: &Now) {
/// request_driver_termination(&Context::new("/dev/shm/aeron"), memory, b"", now).unwrap();
/// # }
/// ```
pub fn request_driver_termination<M: Memory>(
    context: &Context,
    memory: &M,
    token: &[u8],
    now: &Now,
) -> Result<(), ClientError> {
    let invalid = |reason: String| ClientError::InvalidArgument { argument: "token", reason };
    if token.len() > MAX_TOKEN_LENGTH {
        return Err(invalid(format!("{} bytes are more than {MAX_TOKEN_LENGTH}", token.len())));
    }
    let ring = connect::open(context, memory, now)?.to_driver;
    let correlation_id = ring.next_correlation_id();
    let request = Request::TerminateDriver { token };
    // A process that is not a client sends the command with an id of its own.
    let command = Command { client_id: correlation_id, correlation_id, request };
    let mut bytes = [0; MAX_TOKEN_LENGTH + 64];
    let length = command.encode(&mut bytes).map_err(|error| invalid(error.to_string()))?;
    ring.write(command.type_id(), &bytes[..length]).map_err(|_full| ClientError::CommandQueueFull)
}
