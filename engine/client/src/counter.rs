//! A counter allocated by the client (spec 01 §3.6, §5.4).

use harrier_ringbuf::counters::AtomicCounter;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::release::{Release, ReleaseQueue};

/// A counter that this client owns. Dropping it removes it from the driver.
pub struct Counter {
    value: AtomicCounter,
    registration_id: i64,
    counter_id: i32,
    is_static: bool,
    closed: Arc<AtomicBool>,
    releases: Arc<ReleaseQueue>,
}

impl Counter {
    pub(crate) fn new(
        value: AtomicCounter,
        registration_id: i64,
        counter_id: i32,
        is_static: bool,
        closed: Arc<AtomicBool>,
        releases: Arc<ReleaseQueue>,
    ) -> Self {
        Self { value, registration_id, counter_id, is_static, closed, releases }
    }

    /// Correlation id of the command that added it.
    pub fn registration_id(&self) -> i64 {
        self.registration_id
    }

    /// Id of the counter in the driver.
    pub fn counter_id(&self) -> i32 {
        self.counter_id
    }

    /// True when the client or the driver has closed it; its record may then belong to another counter.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Deref for Counter {
    type Target = AtomicCounter;

    fn deref(&self) -> &AtomicCounter {
        &self.value
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if !self.is_static && !self.is_closed() {
            self.releases.push(Release::Counter { registration_id: self.registration_id });
        }
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter")
            .field("registration_id", &self.registration_id)
            .field("counter_id", &self.counter_id)
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
