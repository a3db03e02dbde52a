//! Requests to driver, archive and services that are not complete.
//!
//! Each request belongs to the epoch in which it was sent; each election starts an epoch. What a request of an earlier
//! epoch brings is released and never used.

use std::collections::VecDeque;

use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientError};
use harrier_archive::codec::Signal;
use harrier_client::{Aeron, ClientError};
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::Core;
use super::error::ModuleError;

/// Requests for which there is room without allocation.
const CAPACITY: usize = 32;
/// Limit of the signals that are kept.
const MAX_NOTICES: usize = 64;

/// Kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An exclusive publication of the driver.
    Publication,
    /// A subscription of the driver.
    Subscription,
    /// A counter of the driver.
    Counter,
    /// A replay of the archive.
    Replay,
    /// A replication of the archive.
    Replication,
    /// A recording of the archive.
    Recording,
    /// An answer of the archive that leaves nothing behind.
    Answer,
    /// Services that join a log; the id is the log position.
    Join,
}

impl Kind {
    fn is_of_driver(self) -> bool {
        matches!(self, Self::Publication | Self::Subscription | Self::Counter)
    }

    fn is_of_archive(self) -> bool {
        matches!(self, Self::Replay | Self::Replication | Self::Recording | Self::Answer)
    }

    fn wait(self) -> &'static str {
        match self {
            Self::Publication => "waiting for a publication of the driver",
            Self::Subscription => "waiting for a subscription of the driver",
            Self::Counter => "waiting for a counter of the driver",
            Self::Replay => "waiting for the archive to start a replay",
            Self::Replication => "waiting for the archive to start a replication",
            Self::Recording => "waiting for the archive to start the recording of the log",
            Self::Answer => "waiting for an answer of the archive",
            Self::Join => "waiting for services to join the log",
        }
    }
}

#[derive(Debug)]
struct Request {
    kind: Kind,
    id: i64,
    epoch: u64,
    deadline_ns: i64,
    answer: Option<ArchiveAnswer>,
}

/// A signal of the archive that nobody has taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Notice {
    /// Id of the request or replication that the signal belongs to.
    pub(super) correlation_id: i64,
    pub(super) recording_id: i64,
    /// Position of the recording, bytes.
    pub(super) position: i64,
    pub(super) signal: Signal,
}

/// All requests that are not complete, and signals that have come before somebody asked for them.
#[derive(Debug)]
pub(super) struct Requests {
    epoch: u64,
    requests: Vec<Request>,
    notices: VecDeque<Notice>,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            epoch: 0,
            requests: Vec::with_capacity(CAPACITY),
            notices: VecDeque::with_capacity(MAX_NOTICES),
        }
    }

    /// Adds a request: the registration id of the driver, the correlation id of the archive, or the log position of a
    /// join. Returns the id.
    pub(super) fn begin(&mut self, kind: Kind, id: i64, deadline_ns: i64) -> i64 {
        self.requests.push(Request { kind, id, epoch: self.epoch, deadline_ns, answer: None });
        id
    }

    /// Removes a request whose result was taken.
    pub(super) fn end(&mut self, id: i64) {
        let epoch = self.epoch;
        self.requests.retain(|request| request.id != id || request.epoch != epoch);
    }

    /// Makes all requests stale.
    pub(super) fn begin_epoch(&mut self) {
        self.epoch += 1;
    }

    /// True while a request of this epoch is not complete.
    pub(super) fn is_waiting(&self, id: i64) -> bool {
        self.requests.iter().any(|request| (request.id, request.epoch) == (id, self.epoch))
    }

    /// Keeps a signal that is not taken, until somebody takes it. The oldest one is dropped when there is no room.
    pub(super) fn keep_unless(&mut self, is_taken: bool, notice: Notice) {
        if is_taken {
            return;
        }
        if self.notices.len() == MAX_NOTICES {
            self.notices.pop_front();
        }
        self.notices.push_back(notice);
    }

    /// Takes the oldest signal of a request or replication.
    pub(super) fn take_notice(&mut self, correlation_id: i64) -> Option<Notice> {
        let index = self.notices.iter().position(|notice| notice.correlation_id == correlation_id)?;
        self.notices.remove(index)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Keeps an answer of the archive for its request; returns it when no request waits for it.
    pub(super) fn on_answer(&mut self, answer: ArchiveAnswer) -> Option<ArchiveAnswer> {
        if matches!(answer, ArchiveAnswer::Signal { .. }) {
            return Some(answer);
        }
        let id = answer.correlation_id();
        let waiting = self
            .requests
            .iter_mut()
            .find(|request| request.kind.is_of_archive() && request.id == id && request.answer.is_none());
        let Some(request) = waiting else { return Some(answer) };
        request.answer = Some(answer);
        None
    }

    /// Takes the answer to a request of this epoch, and removes the request.
    pub(super) fn take_answer(&mut self, id: i64) -> Option<ArchiveAnswer> {
        let epoch = self.epoch;
        let is_answered =
            |request: &Request| request.id == id && request.epoch == epoch && request.answer.is_some();
        let index = self.requests.iter().position(is_answered)?;
        self.requests.swap_remove(index).answer
    }

    /// Takes the answer to a request of this epoch that must not be refused; returns its relevant id. `request` completes
    /// the sentence "archive refused to …".
    pub(super) fn take_result(&mut self, id: i64, request: &'static str) -> Result<Option<i64>, ModuleError> {
        match self.take_answer(id) {
            None => Ok(None),
            Some(ArchiveAnswer::Ok { relevant_id, .. }) => Ok(Some(relevant_id)),
            Some(ArchiveAnswer::Error { code, message, .. }) => {
                Err(ModuleError::ArchiveRefused { request, code, message })
            }
            Some(ArchiveAnswer::RecordingUnknown { recording_id, .. }) => {
                Err(ModuleError::LogRecordingUnknown(recording_id))
            }
            Some(_) => Err(ModuleError::UnexpectedAnswer(request)),
        }
    }

    /// Returns an error when a request of this epoch is overdue. Joins are left out, because their error names the
    /// service.
    pub(super) fn check_deadlines(&self, now_ns: i64) -> Result<(), ModuleError> {
        let is_overdue = |request: &&Request| {
            request.epoch == self.epoch
                && request.kind != Kind::Join
                && request.answer.is_none()
                && now_ns > request.deadline_ns
        };
        match self.requests.iter().find(is_overdue) {
            Some(request) => Err(ModuleError::Timeout(request.kind.wait())),
            None => Ok(()),
        }
    }

    /// True when the services have not joined at a position in time.
    pub(super) fn is_join_overdue(&self, position: i64, now_ns: i64) -> bool {
        let is_overdue = |request: &Request| {
            request.kind == Kind::Join
                && (request.id, request.epoch) == (position, self.epoch)
                && now_ns > request.deadline_ns
        };
        self.requests.iter().any(is_overdue)
    }

    /// Releases what stale requests have brought, and removes these requests.
    fn release(&mut self, aeron: &mut Aeron, archive: &mut ArchiveClient) -> Result<(), ModuleError> {
        let mut index = 0;
        while index < self.requests.len() {
            let request = &self.requests[index];
            let is_done = request.epoch < self.epoch && request.release(aeron, archive)?;
            if is_done {
                self.requests.swap_remove(index);
            } else {
                index += 1;
            }
        }
        Ok(())
    }
}

impl Request {
    /// Releases the result if it has come; returns true when nothing is left to release.
    fn release(&self, aeron: &mut Aeron, archive: &mut ArchiveClient) -> Result<bool, ModuleError> {
        if self.kind.is_of_driver() {
            // The result is dropped at once, which closes it. A request that the driver has refused has none.
            return Ok(match self.kind {
                Kind::Publication => has_come(aeron.exclusive_publication(self.id)),
                Kind::Subscription => has_come(aeron.subscription(self.id)),
                _ => has_come(aeron.counter(self.id)),
            });
        }
        if self.kind == Kind::Join {
            // Acks are matched by their position, so the acks of this join are put aside when they come.
            return Ok(true);
        }
        let Some(answer) = &self.answer else { return Ok(false) };
        let ArchiveAnswer::Ok { relevant_id, .. } = answer else { return Ok(true) };
        let outcome = match self.kind {
            Kind::Replay => archive.stop_replay(aeron, *relevant_id),
            Kind::Replication => archive.stop_replication(aeron, *relevant_id),
            Kind::Recording => archive.stop_recording_by_subscription(aeron, *relevant_id),
            _ => return Ok(true),
        };
        Ok(sent(outcome)?.is_some())
    }
}

fn has_come<T>(result: Result<Option<T>, ClientError>) -> bool {
    !matches!(result, Ok(None))
}

impl<M: Memory, S: Storage> Core<M, S> {
    /// Adds a request with the time limit of the start.
    pub(super) fn begin_request(&mut self, kind: Kind, id: i64) -> i64 {
        let deadline_ns = self.now.ns.saturating_add(self.context.startup_timeout_ns);
        self.requests.begin(kind, id, deadline_ns)
    }

    /// Adds a request to the archive; `None` when the archive takes none now.
    pub(super) fn begin_archive_request(
        &mut self,
        kind: Kind,
        outcome: Result<i64, ArchiveClientError>,
    ) -> Result<Option<i64>, ModuleError> {
        Ok(sent(outcome)?.map(|id| self.begin_request(kind, id)))
    }

    /// Releases what requests of earlier epochs have brought.
    pub(super) fn release_requests(&mut self) -> Result<(), ModuleError> {
        self.requests.release(&mut self.aeron, &mut self.archive)
    }
}

/// Returns the correlation id of a request to the archive, or `None` when it must be sent again later.
pub(super) fn sent(outcome: Result<i64, ArchiveClientError>) -> Result<Option<i64>, ModuleError> {
    match outcome {
        Ok(correlation_id) => Ok(Some(correlation_id)),
        Err(ArchiveClientError::BackPressured) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(correlation_id: i64, relevant_id: i64) -> ArchiveAnswer {
        ArchiveAnswer::Ok { correlation_id, relevant_id }
    }

    #[test]
    fn answers_reach_their_requests_in_any_order() {
        let mut requests = Requests::new();
        requests.begin(Kind::Replay, 5, 100);
        requests.begin(Kind::Answer, 6, 100);
        assert_eq!(requests.on_answer(ok(7, 1)), Some(ok(7, 1)));
        assert_eq!(requests.on_answer(ok(6, 60)), None);
        assert_eq!(requests.on_answer(ok(5, 50)), None);
        assert_eq!(requests.on_answer(ok(5, 51)), Some(ok(5, 51)), "a request has one answer");
        assert_eq!(requests.take_answer(5), Some(ok(5, 50)));
        assert_eq!(requests.take_answer(5), None);
        assert!(matches!(requests.take_result(6, "list"), Ok(Some(60))));
        assert!(requests.is_idle());
    }

    #[test]
    fn a_registration_id_is_no_correlation_id() {
        let mut requests = Requests::new();
        requests.begin(Kind::Subscription, 5, 100);
        assert_eq!(requests.on_answer(ok(5, 1)), Some(ok(5, 1)));
        requests.end(5);
        assert!(requests.is_idle());
    }

    #[test]
    fn answers_of_an_earlier_epoch_are_not_taken() {
        let mut requests = Requests::new();
        requests.begin(Kind::Answer, 5, 100);
        requests.begin_epoch();
        assert_eq!(requests.on_answer(ok(5, 1)), None, "it waits for its release");
        assert_eq!(requests.take_answer(5), None);
        requests.end(5);
        assert!(!requests.is_idle());
        assert!(requests.check_deadlines(1_000).is_ok(), "nobody waits for it");
    }

    #[test]
    fn signals_wait_for_whoever_asks_for_them() {
        let mut requests = Requests::new();
        let notice = |correlation_id, signal| Notice { correlation_id, recording_id: 1, position: 0, signal };
        requests.keep_unless(false, notice(5, Signal::Replicate));
        requests.keep_unless(false, notice(6, Signal::Stop));
        requests.keep_unless(false, notice(5, Signal::Sync));
        assert_eq!(requests.take_notice(5), Some(notice(5, Signal::Replicate)));
        assert_eq!(requests.take_notice(5), Some(notice(5, Signal::Sync)));
        assert_eq!(requests.take_notice(5), None);
        for _ in 0..100 {
            requests.keep_unless(false, notice(7, Signal::Extend));
        }
        assert_eq!(requests.take_notice(6), None, "there was no room for it");
        assert_eq!(requests.notices.len(), MAX_NOTICES);
    }

    #[test]
    fn an_overdue_request_is_named() {
        let mut requests = Requests::new();
        requests.begin(Kind::Recording, 5, 100);
        requests.begin(Kind::Join, 640, 100);
        assert!(requests.check_deadlines(100).is_ok());
        let error = requests.check_deadlines(101).unwrap_err().to_string();
        assert!(error.contains("start the recording of the log"), "{error}");
        assert!(requests.is_join_overdue(640, 101) && !requests.is_join_overdue(640, 100));
        assert_eq!(requests.on_answer(ok(5, 1)), None);
        assert!(requests.check_deadlines(101).is_ok(), "an answered request is not overdue");
    }
}
