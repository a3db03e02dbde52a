//! File operations in flight, each known by a ticket that its owner asks for.

use harrier_ringbuf::IdMap;
use harrier_ringbuf::storage::{Operation, Output, Storage, StorageError};

use crate::context::FileClock;

/// An operation that was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What an operation moves between a segment and a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Recorded bytes.
    Write,
    /// Replayed bytes.
    Read,
}

/// Bytes of all transfers of a kind and the time that they took.
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
    /// Time of the duty cycle, for archives without a clock.
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

    /// A duty cycle begins.
    pub(crate) fn begin_cycle(&mut self, now_ns: i64) {
        self.now_ns = now_ns;
    }

    fn time_ns(&self) -> i64 {
        self.clock.as_ref().map_or(self.now_ns, FileClock::time_ns)
    }

    /// What has been written and read so far.
    pub(crate) fn totals(&self) -> (Totals, Totals) {
        (self.writes, self.reads)
    }

    /// Submits an operation that moves `length` bytes, and is timed.
    #[inline]
    pub(crate) fn submit_transfer(
        &mut self,
        transfer: Transfer,
        length: usize,
        operation: Operation,
    ) -> Ticket {
        self.transfers.insert(self.next, (transfer, length, self.time_ns()));
        let ticket = self.submit(operation);
        // A storage that has done it already is not charged for what the duty cycle does next.
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

    /// Submits an operation whose outcome nobody waits for.
    pub(crate) fn submit_and_forget(&mut self, operation: Operation) {
        let ticket = self.submit(operation);
        self.ignored.insert(ticket.0, ());
    }

    /// Collects what has finished.
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
