//! File operations in flight, each identified by a ticket.

use harrier_ringbuf::IdMap;
use harrier_ringbuf::storage::{Operation, Output, Storage, StorageError};

use crate::context::FileClock;

/// A submitted operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// Direction of a transfer between a segment and a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Recorded bytes.
    Write,
    /// Replayed bytes.
    Read,
}

/// Total bytes and time of all transfers in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) bytes: i64,
    pub(crate) time_ns: i64,
    pub(crate) max_time_ns: i64,
}

impl Totals {
    fn add(&mut self, bytes: usize, time_ns: i64) {
        self.bytes += bytes as i64;
        self.time_ns += time_ns;
        self.max_time_ns = self.max_time_ns.max(time_ns);
    }
}

/// A storage with its unfinished and unclaimed operations.
pub(crate) struct Io<S: Storage> {
    storage: S,
    clock: Option<FileClock>,
    /// Time of the duty cycle, for archives without a file clock.
    now_ns: i64,
    next: u64,
    done: IdMap<u64, Result<Output, StorageError>>,
    ignored: IdMap<u64, ()>,
    transfers: IdMap<u64, (Transfer, usize, i64)>,
    writes: Totals,
    reads: Totals,
}

impl<S: Storage> Io<S> {
    pub(crate) fn new(storage: S, clock: Option<FileClock>) -> Self {
        Self {
            storage,
            clock,
            now_ns: 0,
            next: 0,
            done: IdMap::default(),
            ignored: IdMap::default(),
            transfers: IdMap::default(),
            writes: Totals::default(),
            reads: Totals::default(),
        }
    }

    /// Sets the time of a new duty cycle.
    pub(crate) fn begin_cycle(&mut self, now_ns: i64) {
        self.now_ns = now_ns;
    }

    fn time_ns(&self) -> i64 {
        self.clock.as_ref().map_or(self.now_ns, FileClock::time_ns)
    }

    /// Totals of writes and reads.
    pub(crate) fn totals(&self) -> (Totals, Totals) {
        (self.writes, self.reads)
    }

    /// Submits a timed operation that moves `length` bytes.
    #[inline]
    pub(crate) fn submit_transfer(
        &mut self,
        transfer: Transfer,
        length: usize,
        operation: Operation,
    ) -> Ticket {
        self.transfers.insert(self.next, (transfer, length, self.time_ns()));
        let ticket = self.submit(operation);
        // Polls immediately so that a synchronous storage is not charged for the rest of the duty cycle.
        self.poll();
        ticket
    }

    /// Submits an operation.
    pub(crate) fn submit(&mut self, operation: Operation) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.storage.submit(ticket.0, operation);
        ticket
    }

    /// Submits an operation whose result is ignored.
    pub(crate) fn submit_and_forget(&mut self, operation: Operation) {
        let ticket = self.submit(operation);
        self.ignored.insert(ticket.0, ());
    }

    /// Collects finished operations.
    pub(crate) fn poll(&mut self) -> usize {
        let Self { storage, clock, now_ns, done, ignored, transfers, writes, reads, .. } = self;
        storage.poll(&mut |token, outcome| {
            if let Some((transfer, length, begun_ns)) = transfers.remove(&token) {
                let totals = match transfer {
                    Transfer::Write => &mut *writes,
                    Transfer::Read => &mut *reads,
                };
                let bytes = match &outcome {
                    Ok(Output::Data(read)) => read.len(),
                    Ok(_) => length,
                    Err(_) => 0,
                };
                totals.add(bytes, clock.as_ref().map_or(*now_ns, FileClock::time_ns) - begun_ns);
            }
            if ignored.remove(&token).is_none() {
                done.insert(token, outcome);
            }
        })
    }

    /// Takes the result of an operation, once it has finished.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Result<Output, StorageError>> {
        self.done.remove(&ticket.0)
    }

    /// Runs an operation to its end. Blocks, so only the start uses it.
    pub(crate) fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError> {
        self.storage.blocking(operation)
    }

    pub(crate) fn storage(&mut self) -> &mut S {
        &mut self.storage
    }
}
