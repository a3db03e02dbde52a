//! The session before this one, in which requests may still be on their way.

use super::requests::Offered;
use crate::codec::{AnswerCode, Request};

/// Time between two questions whether the session has ended, ns.
const ASK_NS: i64 = 5_000_000;

/// Ends the session that broke off before anything is asked in the next one: a claim that is still on its way in it
/// would otherwise be granted behind a denial (spec 05 L2). There is at most one: while it lasts, nothing is asked in
/// another.
#[derive(Debug)]
pub(super) struct Predecessor {
    session_id: Option<i64>,
    ask_at_ns: i64,
    resend_ns: i64,
}

impl Predecessor {
    /// None yet; questions without an answer are repeated after `resend_ns`.
    pub(super) fn new(resend_ns: i64) -> Self {
        Self { session_id: None, ask_at_ns: i64::MIN, resend_ns }
    }

    /// A session in which requests were sent is lost.
    pub(super) fn on_session_lost(&mut self, session_id: i64) {
        self.session_id = Some(session_id);
    }

    /// A session, or a new leader of it, is there.
    pub(super) fn on_session(&mut self, session_id: i64) {
        // Ids ascend. A lower id means that the cluster has a new log without the old session.
        self.session_id = self.session_id.filter(|id| *id < session_id);
        self.ask_at_ns = i64::MIN;
    }

    /// Requests may be sent.
    pub(super) fn has_ended(&self) -> bool {
        self.session_id.is_none()
    }

    /// Asks for the end; returns the work done.
    pub(super) fn send(&mut self, now_ns: i64, offer: &mut impl FnMut(&[u8]) -> Offered) -> usize {
        let Some(session_id) = self.session_id.filter(|_| now_ns >= self.ask_at_ns) else { return 0 };
        let mut message = [0; 24];
        // Requests have positive ids.
        let request = Request::EndSession { correlation_id: !session_id, session_id };
        let Ok(length) = request.encode(&mut message) else { return 0 };
        if offer(&message[..length]) == Offered::Later {
            return 0;
        }
        self.ask_at_ns = now_ns.saturating_add(self.resend_ns);
        1
    }

    /// True for the id of the question that is open.
    pub(super) fn is_asked_by(&self, correlation_id: i64) -> bool {
        self.session_id.is_some_and(|id| correlation_id == !id)
    }

    /// Takes the answer to it.
    pub(super) fn on_answer(&mut self, code: AnswerCode, now_ns: i64) {
        if code == AnswerCode::SessionEnding {
            self.ask_at_ns = now_ns.saturating_add(ASK_NS);
        } else {
            self.session_id = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(predecessor: &mut Predecessor, now_ns: i64) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        predecessor.send(now_ns, &mut |message| {
            sent.push(message.to_vec());
            Offered::Sent
        });
        sent
    }

    #[test]
    fn a_session_is_ended_before_the_next_one_is_used() {
        let mut predecessor = Predecessor::new(1_000_000_000);
        assert!(predecessor.has_ended());
        predecessor.on_session_lost(7);
        predecessor.on_session(9);
        assert!(!predecessor.has_ended());
        assert_eq!(predecessor.send(0, &mut |_| Offered::Later), 0);
        let messages = sent(&mut predecessor, 0);
        let request = Request::decode(&messages[0]).unwrap();
        assert_eq!(request, Request::EndSession { correlation_id: -8, session_id: 7 });
        assert!(sent(&mut predecessor, 999_999_999).is_empty(), "it waits for the answer");
        assert_eq!(sent(&mut predecessor, 1_000_000_000).len(), 1, "the question or its answer was lost");
        assert!(predecessor.is_asked_by(-8) && !predecessor.is_asked_by(7) && !predecessor.is_asked_by(-10));
        predecessor.on_answer(AnswerCode::SessionEnding, 2_000_000_000);
        assert!(sent(&mut predecessor, 2_000_000_000).is_empty() && !predecessor.has_ended());
        assert_eq!(sent(&mut predecessor, 2_000_000_000 + ASK_NS).len(), 1);
        predecessor.on_answer(AnswerCode::SessionEnded, 2_000_000_000 + ASK_NS);
        assert!(predecessor.has_ended() && !predecessor.is_asked_by(-8));
    }

    #[test]
    fn a_session_is_asked_for_in_the_one_after_the_next_too() {
        let mut predecessor = Predecessor::new(1_000_000_000);
        predecessor.on_session_lost(7);
        predecessor.on_session(9);
        assert_eq!(sent(&mut predecessor, 0).len(), 1);
        // The one with id 9 was not used, and broke off as well.
        predecessor.on_session(12);
        assert_eq!(sent(&mut predecessor, 1).len(), 1, "at once");
    }

    #[test]
    fn a_cluster_that_has_begun_anew_is_not_asked() {
        let mut predecessor = Predecessor::new(1);
        predecessor.on_session_lost(70);
        predecessor.on_session(2);
        assert!(predecessor.has_ended());
    }
}
