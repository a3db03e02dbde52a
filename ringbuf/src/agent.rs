//! A unit of work: a struct whose duty cycle a runner calls.

use std::error::Error;
use std::fmt;

/// Time of one duty cycle, read once by the runner of the agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic nanoseconds; the origin is arbitrary but shared by all agents of one process.
    pub ns: i64,
    /// Milliseconds since the Unix epoch; may jump when the host's clock is set.
    pub epoch_ms: i64,
}

/// Reason why a duty cycle did not end normally.
#[derive(Debug)]
pub enum AgentError {
    /// The agent has ended as it was asked to, and must be closed; the text names the request.
    Ended(&'static str),
    /// The agent cannot go on and must be closed; the text states the reason.
    Terminated(String),
    /// This cycle failed; the runner records the error and goes on with the next cycle.
    Failed(Box<dyn Error + Send + Sync>),
}

impl AgentError {
    /// Wraps an error after which the agent can go on.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }

    /// Ends the agent with a reason for the log.
    pub fn terminated(reason: impl Into<String>) -> Self {
        Self::Terminated(reason.into())
    }

    /// True when the agent must be closed.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Terminated(_))
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(reason) => write!(f, "terminated: {reason}"),
            Self::Terminated(reason) => write!(f, "terminated: {reason}"),
            Self::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl Error for AgentError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Ended(_) | Self::Terminated(_) => None,
            Self::Failed(error) => Some(error.as_ref()),
        }
    }
}

/// An active part of the engine.
///
/// An agent never blocks: every wait is a state that a later duty cycle finds changed. It takes time as an argument, so
/// a simulator can run it at any speed.
///
/// ```
/// use harrier_ringbuf::{Agent, AgentError, Now};
///
/// struct Ticker { next_ns: i64, ticks: usize }
///
/// impl Agent for Ticker {
///     fn role_name(&self) -> &str { "ticker" }
///     fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
///         if now.ns < self.next_ns { return Ok(0) }
///         self.next_ns = now.ns + 1_000;
///         self.ticks += 1;
///         Ok(1)
///     }
///     fn next_deadline(&self) -> Option<i64> { Some(self.next_ns) }
/// }
///
/// let mut ticker = Ticker { next_ns: 0, ticks: 0 };
/// assert_eq!(ticker.do_work(&Now::default()).unwrap(), 1);
/// assert_eq!(ticker.do_work(&Now::default()).unwrap(), 0);
/// assert_eq!(ticker.next_deadline(), Some(1_000));
/// ```
pub trait Agent {
    /// Name for threads, logs and error records, such as `sender`.
    fn role_name(&self) -> &str;

    /// Called once before the first duty cycle. An error keeps the agent from running.
    fn on_start(&mut self, _now: &Now) -> Result<(), AgentError> {
        Ok(())
    }

    /// One duty cycle; returns the amount of work done, 0 when there was none.
    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError>;

    /// Monotonic time, in ns, at which the agent next wants to run although nothing arrives; `None` when only
    /// arrivals matter. A simulator jumps to it; a runner on a real clock ignores it.
    fn next_deadline(&self) -> Option<i64>;

    /// Called once after the last duty cycle, also when the agent failed or panicked.
    fn on_close(&mut self, _now: &Now) {}
}
