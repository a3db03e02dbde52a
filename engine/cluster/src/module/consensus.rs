//! The stream on which other members, backups and standbys send (spec 04 §1.6, §8.1).

use harrier_client::Subscription;
use harrier_ringbuf::Memory;
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::storage::Storage;

use super::core::{Core, Life};
use super::ingress::IngressStream;
use crate::codec::{BackupRequest, ConsensusMessage};

/// Fragments taken from the stream in one duty cycle.
const FRAGMENT_LIMIT: usize = 10;

/// The subscription to the stream.
pub(super) struct ConsensusStream(IngressStream);

impl ConsensusStream {
    pub(super) fn new(subscription: Subscription) -> Self {
        Self(IngressStream { subscription, assembler: FragmentAssembler::new(), known_sessions: Vec::new() })
    }
}

impl<M: Memory, S: Storage> Core<M, S> {
    /// Takes messages of members, backups and standbys.
    #[inline]
    pub(super) fn poll_consensus(&mut self) -> usize {
        if self.life != Life::Running {
            return 0;
        }
        // The stream is not in its place while its messages are carried out.
        let Some(mut stream) = self.consensus.take() else { return 0 };
        let IngressStream { subscription, assembler, .. } = &mut stream.0;
        let work_count = subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| self.on_consensus_message(message));
        });
        self.consensus = Some(stream);
        work_count
    }

    /// Frees what is kept for senders that have gone.
    pub(super) fn check_consensus_stream(&mut self) {
        if let Some(stream) = &mut self.consensus {
            stream.0.free_gone_sessions(|_| {});
        }
    }

    fn on_consensus_message(&mut self, message: &[u8]) {
        let error = match BackupRequest::decode(message) {
            Ok(Some(request)) => return self.on_backup_request(request),
            Ok(None) => match ConsensusMessage::decode(message) {
                // The only member of a cluster has nobody to hear from.
                Ok(_) => return self.refuse_consensus(),
                Err(error) => error,
            },
            Err(error) => error,
        };
        self.refuse_consensus();
        let kind = "undecodable consensus message";
        self.record_peer_error(kind, &format!("{kind}: {error}"));
    }
}
