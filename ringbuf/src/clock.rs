//! The seam to time.

use crate::Now;

/// Reads the clocks of the host, or those of a simulator.
///
/// Agents get [`Now`] as an argument; they read a clock only where a time stamp must not be as old as the duty cycle.
pub trait Clock {
    /// The present time.
    fn now(&self) -> Now;
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> Now {
        (**self).now()
    }
}

impl<C: Clock + ?Sized> Clock for std::rc::Rc<C> {
    fn now(&self) -> Now {
        (**self).now()
    }
}
