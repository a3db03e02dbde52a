//! A consensus module that works twice per pass of a fused node: before the archive and after it.

use std::cell::RefCell;
use std::rc::Rc;

use harrier_cluster::module::ConsensusModule;
use harrier_ringbuf::{Agent, AgentError, Memory, Now, Storage};

/// Splits a module into two agents: its duty cycle, and the commit that follows the archive.
pub(crate) fn split<M: Memory, S: Storage>(
    module: ConsensusModule<M, S>,
) -> (SharedModule<M, S>, Commit<M, S>) {
    let module = Rc::new(RefCell::new(module));
    (SharedModule(module.clone()), Commit(module))
}

/// The module of a fused node. No borrow outlives a duty cycle, because only a service's callback waits.
pub(crate) struct SharedModule<M: Memory, S: Storage>(Rc<RefCell<ConsensusModule<M, S>>>);

impl<M: Memory, S: Storage> Agent for SharedModule<M, S> {
    fn role_name(&self) -> &str {
        "consensus-module"
    }

    fn on_start(&mut self, now: &Now) -> Result<(), AgentError> {
        self.0.borrow_mut().on_start(now)
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.0.borrow_mut().do_work(now)
    }

    fn next_deadline(&self) -> Option<i64> {
        self.0.borrow().next_deadline()
    }

    fn on_close(&mut self, now: &Now) {
        self.0.borrow_mut().on_close(now);
    }
}

/// Commits the positions that the archive has recorded in this pass, so that services receive the messages in the same
/// pass.
pub(crate) struct Commit<M: Memory, S: Storage>(Rc<RefCell<ConsensusModule<M, S>>>);

impl<M: Memory, S: Storage> Agent for Commit<M, S> {
    fn role_name(&self) -> &str {
        "commit"
    }

    fn do_work(&mut self, _now: &Now) -> Result<usize, AgentError> {
        Ok(self.0.borrow_mut().commit_recorded())
    }

    fn next_deadline(&self) -> Option<i64> {
        None
    }
}
