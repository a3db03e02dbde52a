//! A service whose state is a hash of all events, so that equal states prove equal events.

use std::cell::Cell;
use std::rc::Rc;

use harrier_cluster::codec::{CloseReason, Role};
use harrier_cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, LeadershipTerm, ServiceFailure, SnapshotImage,
    SnapshotPublication,
};

use super::Seen;

/// Commands of clients are texts: `timer ID DELAY`, `cancel ID`, `forward TEXT`, `close`, `panic`; any other text is
/// echoed.
pub struct Tally {
    service_id: i32,
    seen: Seen,
    count: u64,
    hash: u64,
    shown: Rc<Cell<(u64, u64)>>,
}

impl Tally {
    pub fn new(service_id: i32, seen: Seen, shown: Rc<Cell<(u64, u64)>>) -> Self {
        Self { service_id, seen, count: 0, hash: 0xcbf2_9ce4_8422_2325, shown }
    }

    fn note(&self, text: &str) {
        self.seen.borrow_mut().push(format!("{} {text}", self.service_id));
    }

    /// Adds an event to the state.
    fn take(&mut self, text: &str) {
        self.count += 1;
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.shown.set((self.count, self.hash));
        self.note(text);
    }

    fn reply(cluster: &mut Cluster<'_>, session_id: i64, message: &[u8]) {
        loop {
            match cluster.send_to_session(session_id, message) {
                Err(error) if error.is_retryable() => cluster.idle(0),
                _ => return,
            }
        }
    }

    fn command(&mut self, cluster: &mut Cluster<'_>, session_id: i64, text: &str) {
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            ["timer", id, delay] => {
                let deadline = cluster.time() + delay.parse::<i64>().unwrap();
                while cluster.schedule_timer(id.parse().unwrap(), deadline).is_err() {
                    cluster.idle(0);
                }
            }
            ["cancel", id] => {
                while cluster.cancel_timer(id.parse().unwrap()).is_err() {
                    cluster.idle(0);
                }
            }
            ["forward", text] => {
                while cluster.offer(text.as_bytes()).is_err() {
                    cluster.idle(0);
                }
            }
            ["close"] => {
                let _closing = cluster.close_client_session(session_id);
            }
            ["panic"] => panic!("as the client wished"),
            ["state"] => {
                let state = format!("{}:{:016x}", self.count, self.hash);
                Self::reply(cluster, session_id, state.as_bytes());
            }
            _ => Self::reply(cluster, session_id, text.as_bytes()),
        }
    }
}

impl ClusteredService for Tally {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(image) = snapshot else {
            self.note("start");
            return Ok(());
        };
        let mut state = None;
        while state.is_none() && !image.is_end_of_stream() {
            image.poll(1, &mut |message, _| state = Some(message.to_vec()));
            cluster.idle(0);
        }
        let state = state.ok_or("the snapshot has no state")?;
        if let (Some(count), Some(hash)) =
            (state.first_chunk(), state.get(8..).and_then(|rest| rest.first_chunk()))
        {
            (self.count, self.hash) = (u64::from_le_bytes(*count), u64::from_le_bytes(*hash));
            self.shown.set((self.count, self.hash));
        }
        let sessions: Vec<String> = cluster.client_sessions().map(|session| session.id.to_string()).collect();
        let line = format!(
            "start at {} count {} sessions {}",
            cluster.log_position(),
            self.count,
            sessions.join(",")
        );
        self.note(&line);
        Ok(())
    }

    fn on_session_open(&mut self, _: &mut Cluster<'_>, session: &ClientSession, _: i64) {
        self.take(&format!("open {}", session.id));
    }

    fn on_session_close(
        &mut self,
        _: &mut Cluster<'_>,
        session: &ClientSession,
        _: i64,
        reason: CloseReason,
    ) {
        self.take(&format!("close {} {}", session.id, reason.name()));
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        _: i64,
        message: &[u8],
        _: &Header<'_>,
    ) {
        let text = String::from_utf8_lossy(message).into_owned();
        let Some(id) = session.map(|session| session.id) else {
            return self.take(&format!("service {text}"));
        };
        if text != "state" {
            self.take(&format!("message {text}"));
        }
        self.command(cluster, id, &text);
    }

    fn on_timer_event(&mut self, _: &mut Cluster<'_>, correlation_id: i64, _: i64) {
        self.take(&format!("timer {correlation_id}"));
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        self.note(&format!("snapshot at {}", cluster.log_position()));
        let state = [self.count.to_le_bytes(), self.hash.to_le_bytes()].concat();
        while snapshot.offer(&state).is_err() {
            cluster.idle(0);
        }
        Ok(())
    }

    fn on_role_change(&mut self, _: &mut Cluster<'_>, role: Role) {
        self.note(&format!("role {role:?}"));
    }

    fn on_terminate(&mut self, _: &mut Cluster<'_>) {
        self.note("terminate");
    }

    fn on_new_leadership_term_event(&mut self, _: &mut Cluster<'_>, term: &LeadershipTerm) {
        self.note(&format!("term {}", term.leadership_term_id));
    }
}
