//! File operations in flight, each known by a ticket that its owner asks for.

use harrier_ringbuf::IdMap;
use harrier_ringbuf::storage::{Operation, Output, Storage, StorageError};

/// An operation that was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// A storage with its unfinished and unclaimed operations.
pub(crate) struct Io<S: Storage> {
    storage: S,
    next: u64,
    done: IdMap<u64, Result<Output, StorageError>>,
    ignored: IdMap<u64, ()>,
}

impl<S: Storage> Io<S> {
    pub(crate) fn new(storage: S) -> Self {
        Self { storage, next: 0, done: IdMap::default(), ignored: IdMap::default() }
    }

    /// Submits an operation.
    pub(crate) fn submit(&mut self, operation: Operation) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.storage.submit(ticket.0, operation);
        ticket
    }

    /// Submits an operation whose outcome nobody waits for.
    pub(crate) fn submit_and_forget(&mut self, operation: Operation) {
        let ticket = self.submit(operation);
        self.ignored.insert(ticket.0, ());
    }

    /// Collects what has finished.
    pub(crate) fn poll(&mut self) -> usize {
        let Self { storage, done, ignored, .. } = self;
        storage.poll(&mut |token, outcome| {
            if ignored.remove(&token).is_none() {
                done.insert(token, outcome);
            }
        })
    }

    /// The outcome of an operation, once it has finished.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Result<Output, StorageError>> {
        self.done.remove(&ticket.0)
    }

    /// Runs an operation to its end, at start only.
    pub(crate) fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError> {
        self.storage.blocking(operation)
    }

    pub(crate) fn storage(&mut self) -> &mut S {
        &mut self.storage
    }
}
