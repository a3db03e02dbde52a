//! The order book as a clustered service.

use std::collections::BTreeMap;

use harrier_cluster::codec::CloseReason;
use harrier_cluster::service::{ClientSession, Cluster, ClusteredService};

use super::book::Book;
use super::orders::{Order, Reply, Request, Status};

/// One book for all sessions. Requests of a session are numbered; a number that was seen is answered and not carried out
/// again, so that a client may repeat what it does not know the fate of.
#[derive(Debug, Default)]
pub struct BookService {
    book: Book,
    sequences: BTreeMap<i64, u64>,
}

impl BookService {
    /// The book.
    pub fn book(&self) -> &Book {
        &self.book
    }

    fn answer(&mut self, session_id: i64, request: &Request) -> Reply {
        let sequence = request.sequence;
        if request.order == Order::Digest {
            let digest = self.book.digest();
            return Reply { sequence, status: Status::Accepted, filled: 0, first_match: 0, digest };
        }
        let last = self.sequences.entry(session_id).or_default();
        if sequence <= *last {
            return Reply { sequence, status: Status::Repeated, filled: 0, first_match: 0, digest: 0 };
        }
        *last = sequence;
        let outcome = self.book.apply(&request.order);
        Reply {
            sequence,
            status: outcome.status,
            filled: outcome.filled,
            first_match: outcome.first_match,
            digest: 0,
        }
    }
}

impl ClusteredService for BookService {
    fn on_session_close(
        &mut self,
        _cluster: &mut Cluster<'_>,
        session: &ClientSession,
        _timestamp: i64,
        _reason: CloseReason,
    ) {
        self.sequences.remove(&session.id);
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session_id: Option<i64>,
        _timestamp: i64,
        message: &[u8],
    ) {
        let (Some(id), Ok(request)) = (session_id, Request::decode(message)) else { return };
        let reply = self.answer(id, &request).encode();
        while let Err(error) = cluster.send_to_session(id, &reply) {
            if !error.is_retryable() {
                return;
            }
            cluster.idle(0);
        }
    }
}
