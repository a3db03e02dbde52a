//! Settings of a client (spec 01 §5.1).

use std::path::PathBuf;

/// Settings that say how a client finds its driver and how long it waits.
#[derive(Debug, Clone)]
pub struct Context {
    /// The driver's directory, which holds `cnc.dat`.
    pub directory: PathBuf,
    /// Name shown in the label of the client's heartbeat counter; at most 100 characters.
    pub client_name: String,
    /// Time for which the driver may be silent and a command may stay unanswered.
    pub driver_timeout_ms: i64,
    /// Time between heartbeats to the driver.
    pub keepalive_interval_ns: i64,
    /// Longest time between two calls of `do_work`; 0 takes the driver's client liveness timeout.
    pub inter_service_timeout_ns: i64,
    /// Interval of the time-out checks.
    pub idle_sleep_ns: i64,
    /// Most events handled per duty cycle.
    pub event_limit: usize,
    /// Touch every page of a log when it is mapped, so that no message pays for the first access to a page. This
    /// takes a moment per log, and gives a sparse log all its memory at once.
    pub pre_touch_mapped_memory: bool,
    /// Number of image changes that may wait at a subscription before the conductor holds further ones back.
    pub image_change_capacity: usize,
}

impl Context {
    /// Default settings for a driver's directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            client_name: String::new(),
            driver_timeout_ms: 10_000,
            keepalive_interval_ns: 500_000_000,
            inter_service_timeout_ns: 0,
            idle_sleep_ns: 16_000_000,
            event_limit: 10,
            pre_touch_mapped_memory: false,
            image_change_capacity: 64,
        }
    }

    /// Sets the name shown in the client's heartbeat counter.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = name.into();
        self
    }
}
