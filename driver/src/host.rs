//! Drivers of this host: mapped memory and the host's sockets.
//!
//! These functions are not generic. The driver's code for the host is therefore compiled once, in this crate, and not again
//! in each program and test that runs a driver.

use harrier_platform::{HostTransport, MappedMemory, SystemClock, pin_current_thread};
use harrier_ringbuf::{Agent, Now};

use crate::cnc::StartError;
use crate::context::DriverContext;
use crate::driver::{Driver, ExecutorMode, RunningDriver};

/// A driver of this host.
pub type HostDriver = Driver<MappedMemory, HostTransport>;

impl HostDriver {
    /// Builds a driver of this host, with the sockets that `context.transport` names. See [`Driver::build`].
    ///
    /// ```no_run
    /// use harrier_driver::{DriverContext, ExecutorMode, HostDriver};
    /// # use harrier_platform::SystemClock;
    /// # use harrier_ringbuf::Clock;
    ///
    /// let context = DriverContext::new("/dev/shm/aeron-example");
    /// let driver = HostDriver::on_host(context, ExecutorMode::Queued, &SystemClock.now())?;
    /// let running = driver.launch_on_host()?;
    /// # drop(running);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn on_host(context: DriverContext, mode: ExecutorMode, now: &Now) -> Result<Self, StartError> {
        let transport = HostTransport::new(&context.transport)?;
        Self::build(context, MappedMemory, transport, mode, now)
    }

    /// Runs the agents on threads, by the clock of this host. See [`Driver::launch`].
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn launch_on_host(self) -> std::io::Result<RunningDriver> {
        self.launch(SystemClock, pin_current_thread)
    }

    /// Returns the agents for a thread of the application. See [`Driver::into_agents`].
    pub fn into_host_agents(self) -> Vec<Box<dyn Agent>> {
        self.into_agents()
    }
}
