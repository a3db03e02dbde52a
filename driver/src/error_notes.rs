//! Errors on their way to the error log, grouped by kind (spec 02 §5.15).

use std::borrow::Cow;
use std::net::SocketAddr;

use harrier_ringbuf::TransportError;

/// Time between two reports of an error that repeats itself, ns.
pub(crate) const ERROR_INTERVAL_NS: i64 = 1_000_000_000;

/// Kinds of errors whose texts hold numbers that a peer chooses. Each has one entry in the error log.
pub(crate) mod kind {
    pub(crate) const INVALID_SETUP: &str = "invalid SETUP";
    pub(crate) const SESSION_LIMIT: &str = "exceeded session limit";
    pub(crate) const MTU_ABOVE_WINDOW: &str = "MTU of a SETUP above the receiver window";
    pub(crate) const TERM_LENGTH_LIMIT: &str = "term length of a SETUP above the limit";
    pub(crate) const IMAGE_NOT_MADE: &str = "image could not be made";
    pub(crate) const IMAGE_NOT_WANTED: &str = "no subscription for an image any more";
    pub(crate) const LOG_NOT_ALLOCATED: &str = "log could not be allocated";
    pub(crate) const LOW_SPACE: &str = "space is running low";
    pub(crate) const PUBLICATION_ERROR: &str = "publication refused by a receiver";
    pub(crate) const IPC_IMAGE_REJECTED: &str = "IPC image rejected";
    pub(crate) const RE_RESOLUTION: &str = "could not re-resolve";
    pub(crate) const RESOLVER_SEND: &str = "resolution frame could not be sent";
    pub(crate) const RESOLVER_RECEIVE: &str = "resolution frame could not be received";
}

/// Errors of one kind with the text of the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ErrorNote {
    pub(crate) kind: Cow<'static, str>,
    pub(crate) count: i32,
    pub(crate) text: String,
}

impl ErrorNote {
    /// Creates a note of one error.
    pub(crate) fn new(kind: &'static str, text: String) -> Self {
        Self { kind: kind.into(), count: 1, text }
    }

    /// Creates a note of one failed send or receive. Errors of the same operation with the same reason are of one kind.
    fn of_transport(error: &TransportError) -> Self {
        let kind = match error {
            TransportError::Io { operation, source, .. } => {
                format!("datagram {operation}: {}", source.kind())
            }
            other => other.to_string(),
        };
        Self { kind: kind.into(), count: 1, text: format!("WARN: {error}") }
    }
}

/// An error that may occur in every duty cycle. It is reported at most once a second, with the number of its
/// occurrences.
#[derive(Debug)]
pub(crate) struct RepeatedError {
    note: Option<ErrorNote>,
    next_ns: i64,
}

impl Default for RepeatedError {
    fn default() -> Self {
        Self { note: None, next_ns: i64::MIN }
    }
}

impl RepeatedError {
    /// Notes an occurrence. Only the first one after a report is formatted.
    pub(crate) fn note(&mut self, first: impl FnOnce() -> ErrorNote) {
        match &mut self.note {
            Some(note) => note.count = note.count.saturating_add(1),
            None => self.note = Some(first()),
        }
    }

    /// Notes a failed change of a connected socket's peer.
    pub(crate) fn note_connect(&mut self, error: &TransportError, address: SocketAddr, channel: &str) {
        self.note(|| {
            let text = format!("WARN: failed to connect to {address}: {error} channel={channel}");
            ErrorNote { text, ..ErrorNote::of_transport(error) }
        });
    }

    /// Notes a failed send or receive.
    pub(crate) fn note_transport(&mut self, error: &TransportError) {
        self.note(|| ErrorNote::of_transport(error));
    }

    /// True when there is an occurrence to report.
    pub(crate) fn is_noted(&self) -> bool {
        self.note.is_some()
    }

    /// Takes the error when a report is due.
    #[inline]
    pub(crate) fn take(&mut self, now_ns: i64) -> Option<ErrorNote> {
        if self.note.is_none() { None } else { self.take_noted(now_ns) }
    }

    #[cold]
    fn take_noted(&mut self, now_ns: i64) -> Option<ErrorNote> {
        if now_ns < self.next_ns {
            return None;
        }
        self.next_ns = now_ns + ERROR_INTERVAL_NS;
        self.note.take()
    }

    /// Takes back a report that could not be delivered. It is due again after the interval.
    pub(crate) fn put_back(&mut self, mut note: ErrorNote) {
        if let Some(later) = &self.note {
            note.count = note.count.saturating_add(later.count);
        }
        self.note = Some(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_between_two_reports_are_counted() {
        let mut error = RepeatedError::default();
        let note = |text: &str| ErrorNote::new(kind::INVALID_SETUP, text.to_owned());
        error.note(|| note("first"));
        assert_eq!(error.take(5), Some(note("first")));
        error.note(|| note("second"));
        error.note(|| note("third"));
        assert_eq!(error.take(5 + ERROR_INTERVAL_NS - 1), None);
        let told = error.take(5 + ERROR_INTERVAL_NS).unwrap();
        assert_eq!(told, ErrorNote { count: 2, ..note("second") });
        error.note(|| note("fourth"));
        error.put_back(told);
        assert_eq!(error.take(5 + 2 * ERROR_INTERVAL_NS), Some(ErrorNote { count: 3, ..note("second") }));
        assert_eq!(error.take(i64::MAX - ERROR_INTERVAL_NS), None);
    }
}
