//! Keeps a terminated container in its thread until the node ends.

use harrier_cluster::service::{ClusteredService, ServiceContainer};
use harrier_ringbuf::{Agent, AgentError, Memory, Now};

/// Keeps a terminated container from ending its thread, because the consensus module terminates after all services.
pub(crate) struct Lasting<T: ClusteredService, M: Memory> {
    name: String,
    container: Option<ServiceContainer<T, M>>,
}

impl<T: ClusteredService, M: Memory> Lasting<T, M> {
    pub(crate) fn new(container: ServiceContainer<T, M>) -> Self {
        Self { name: container.role_name().to_owned(), container: Some(container) }
    }
}

impl<T: ClusteredService, M: Memory> Agent for Lasting<T, M> {
    fn role_name(&self) -> &str {
        &self.name
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        let Some(container) = &mut self.container else { return Ok(0) };
        match container.do_work(now) {
            Err(AgentError::Ended(_)) => {
                container.on_close(now);
                self.container = None;
                Ok(1)
            }
            outcome => outcome,
        }
    }

    fn next_deadline(&self) -> Option<i64> {
        self.container.as_ref().and_then(Agent::next_deadline)
    }

    fn on_close(&mut self, now: &Now) {
        if let Some(container) = &mut self.container {
            container.on_close(now);
        }
    }
}
