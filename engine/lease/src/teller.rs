//! Sends answers and timers from a callback.

use harrier_cluster::service::Cluster;

use crate::codec::Event;
use crate::table::TimerRequest;

/// Sends the messages of one callback. A client that does not read its answers loses its session and asks again in its
/// next one.
pub(crate) struct Teller<'a, 'c> {
    cluster: &'a mut Cluster<'c>,
}

impl<'a, 'c> Teller<'a, 'c> {
    pub(crate) fn new(cluster: &'a mut Cluster<'c>) -> Self {
        Self { cluster }
    }

    /// The cluster that takes the messages.
    pub(crate) fn cluster(&mut self) -> &mut Cluster<'c> {
        self.cluster
    }

    pub(crate) fn tell(&mut self, session_id: i64, message: &[u8]) {
        // A client that misses an answer asks again.
        let _unheard = self.cluster.reply(session_id, message);
    }

    pub(crate) fn tell_event(&mut self, session_id: i64, event: &Event<'_>, buffer: &mut [u8]) {
        if let Ok(length) = event.encode(buffer) {
            self.tell(session_id, &buffer[..length]);
        }
    }

    /// Sets a timer and retries under back pressure (spec 05 L21). The container ends when the consensus module is
    /// gone.
    pub(crate) fn set_timer(&mut self, timer: TimerRequest) {
        let _module_gone =
            self.cluster.retry(|cluster| cluster.schedule_timer(timer.correlation_id, timer.deadline));
    }
}
