//! Session ids of publications. They are unique on each stream of a socket (spec 02 §2.10).

use std::collections::BTreeSet;

/// Socket name of IPC publications.
pub(super) const IPC_SOCKET: &str = "ipc";

/// All session ids in use.
#[derive(Debug)]
pub(super) struct Sessions {
    used: BTreeSet<(i32, i32, String)>,
    next: i32,
    reserved: std::ops::RangeInclusive<i32>,
}

impl Sessions {
    pub(super) fn new(first: i32, reserved_low: i32, reserved_high: i32) -> Self {
        Self { used: BTreeSet::new(), next: first, reserved: reserved_low..=reserved_high }
    }

    /// True when the id is in use on this stream of this socket.
    pub(super) fn is_used(&self, stream_id: i32, session_id: i32, socket: &str) -> bool {
        self.used
            .range((stream_id, session_id, String::new())..)
            .take_while(|(stream, session, _)| (*stream, *session) == (stream_id, session_id))
            .any(|(_, _, name)| name == socket)
    }

    /// Takes an id.
    pub(super) fn insert(&mut self, stream_id: i32, session_id: i32, socket: &str) {
        self.used.insert((stream_id, session_id, socket.to_owned()));
    }

    /// Frees an id.
    pub(super) fn remove(&mut self, stream_id: i32, session_id: i32, socket: &str) {
        self.used.remove(&(stream_id, session_id, socket.to_owned()));
    }

    /// Returns the next automatic id. It is neither reserved nor in use with the stream on any socket.
    pub(super) fn next(&mut self, stream_id: i32) -> i32 {
        loop {
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            if self.reserved.contains(&id) {
                self.next = self.reserved.end().wrapping_add(1);
                continue;
            }
            let first = self.used.range((stream_id, id, String::new())..).next();
            if first.is_none_or(|(stream, session, _)| (*stream, *session) != (stream_id, id)) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_and_used_ids_are_skipped() {
        let mut sessions = Sessions::new(-2, -1, 1_000);
        assert_eq!(sessions.next(7), -2);
        sessions.insert(7, 1_001, IPC_SOCKET);
        assert_eq!(sessions.next(7), 1_002);
        sessions.next = -3;
        assert_eq!(sessions.next(7), -3);
        assert!(sessions.is_used(7, 1_001, IPC_SOCKET));
        assert!(!sessions.is_used(7, 1_001, "UDP-a"));
        sessions.remove(7, 1_001, IPC_SOCKET);
        assert!(!sessions.is_used(7, 1_001, IPC_SOCKET));
    }
}
