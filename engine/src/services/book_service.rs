//! The order book as a clustered service.

use std::collections::BTreeMap;

use harrier_cluster::codec::CloseReason;
use harrier_cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};

use super::book::Book;
use super::book_snapshot::{self, BookReader};
use super::orders::{Order, Reply, Request, Status};

/// One book for all sessions. Requests of a session are numbered, and a repeated number is answered but not applied
/// again. A client may therefore repeat a request whose outcome it does not know.
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

/// Encodes the sequences as one message of pairs.
fn sequences_message(sequences: &BTreeMap<i64, u64>) -> Vec<u8> {
    sequences.iter().flat_map(|(id, last)| [id.to_le_bytes(), last.to_le_bytes()]).flatten().collect()
}

fn read_sequences(message: &[u8]) -> Result<BTreeMap<i64, u64>, ServiceFailure> {
    let pairs = message.chunks_exact(16);
    if !pairs.remainder().is_empty() {
        return Err("sequences of sessions are cut".into());
    }
    let word = |pair: &[u8], at: usize| pair[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    Ok(pairs.map(|pair| (word(pair, 0) as i64, word(pair, 8))).collect())
}

impl ClusteredService for BookService {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        let mut sequences = None;
        let mut reader = BookReader::default();
        let mut failure: Option<ServiceFailure> = None;
        snapshot.read_to_end(cluster, &mut |message| {
            let outcome = match &sequences {
                None => read_sequences(message).map(|read| sequences = Some(read)),
                Some(_) => reader.on_message(message).map_err(Into::into),
            };
            if let Err(error) = outcome {
                failure.get_or_insert(error);
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.sequences = sequences.unwrap_or_default();
        self.book = reader.finish()?;
        Ok(())
    }

    /// Writes the sequences, then the book.
    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        let mut put = |message: &[u8]| cluster.retry(|_| Ok(snapshot.offer(message)?)).map(drop);
        put(&sequences_message(&self.sequences))?;
        book_snapshot::write(&self.book, &mut put)?;
        Ok(())
    }

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
        session: Option<&ClientSession>,
        _timestamp: i64,
        message: &[u8],
        _header: &Header<'_>,
    ) {
        let (Some(session), Ok(request)) = (session, Request::decode(message)) else { return };
        let reply = self.answer(session.id, &request).encode();
        // A client that is gone or does not read must not fail the service.
        let _unheard = cluster.reply(session.id, &reply);
    }
}
