//! State of a container apart from the service itself.

use std::collections::BTreeMap;

use harrier_archive::client::ArchiveClient;
use harrier_client::{Aeron, ExclusivePublication};
use harrier_protocol::sbe::SbeError;
use harrier_ringbuf::append::{Claim, OfferError};
use harrier_ringbuf::{Now, Waiter};

use super::cluster::Cluster;
use super::patience::Waited;
use super::session::EgressSession;
use crate::codec::{Role, SESSION_HEADER_LENGTH, ServiceMessage, SessionHeader, TimeUnit};
use crate::mark::MarkActivity;

/// Attempts of a call that a term rotation of the control stream can make fail once.
const ATTEMPTS: usize = 3;

pub(super) struct Core {
    pub(super) aeron: Aeron,
    /// Client of the archive, connected while a snapshot is loaded or taken.
    pub(super) archive: Option<ArchiveClient>,
    pub(super) to_module: ExclusivePublication,
    pub(super) activity: MarkActivity,
    pub(super) service_id: i32,
    pub(super) sessions: BTreeMap<i64, EgressSession>,
    pub(super) log_position: i64,
    pub(super) time: i64,
    pub(super) time_unit: Option<TimeUnit>,
    pub(super) leadership_term_id: i64,
    pub(super) member_id: i32,
    pub(super) role: Role,
    pub(super) ack_id: i64,
    /// True while a callback runs, and after it has panicked.
    pub(super) is_in_callback: bool,
    /// Longest time that a reply waits for a client that does not read its egress, ns.
    pub(super) reply_patience_ns: i64,
    /// Time that the service has waited for all clients.
    pub(super) waited: Waited,
    /// Number of sessions closed because their clients did not read their egress.
    pub(super) slow_sessions: u64,
    buffer: Vec<u8>,
}

impl Core {
    pub(super) fn new(
        aeron: Aeron,
        to_module: ExclusivePublication,
        activity: MarkActivity,
        service_id: i32,
        reply_patience_ns: i64,
    ) -> Self {
        Self {
            aeron,
            archive: None,
            to_module,
            activity,
            service_id,
            sessions: BTreeMap::new(),
            log_position: 0,
            time: 0,
            time_unit: None,
            leadership_term_id: -1,
            member_id: -1,
            role: Role::Follower,
            ack_id: 0,
            is_in_callback: false,
            reply_patience_ns,
            waited: Waited::default(),
            slow_sessions: 0,
            buffer: vec![0; 4_096],
        }
    }

    /// Sends a message to the consensus module.
    pub(super) fn send(&mut self, message: &ServiceMessage<'_>) -> Result<i64, OfferError> {
        let length = match message.encode(&mut self.buffer) {
            Ok(length) => length,
            Err(SbeError::BufferTooSmall { required, .. }) => {
                self.buffer.resize(required, 0);
                message.encode(&mut self.buffer).map_err(|_| OfferError::Closed)?
            }
            Err(_) => return Err(OfferError::Closed),
        };
        let bytes = &self.buffer[..length];
        attempt(&mut self.to_module, |publication| publication.offer(bytes))
    }

    fn header_of_service(&self) -> [u8; SESSION_HEADER_LENGTH] {
        SessionHeader {
            leadership_term_id: self.leadership_term_id,
            session_id: i64::from(self.service_id),
            timestamp: self.time,
        }
        .encode()
    }

    /// Offers a message of the service to the log.
    pub(super) fn send_service_message(&mut self, message: &[u8]) -> Result<i64, OfferError> {
        let header = self.header_of_service();
        attempt(&mut self.to_module, |publication| publication.offer_parts(&[&header, message]))
    }

    /// Claims a message of the service to the log, with its header.
    pub(super) fn claim_service_message(
        &mut self,
        length: usize,
    ) -> Result<(Claim, [u8; SESSION_HEADER_LENGTH]), OfferError> {
        let header = self.header_of_service();
        let required = SESSION_HEADER_LENGTH + length;
        let claim = attempt(&mut self.to_module, |publication| publication.try_claim(required))?;
        Ok((claim, header))
    }

    /// Sends an ack and increments the ack id.
    pub(super) fn send_ack(&mut self, log_position: i64, relevant_id: i64) -> bool {
        let (timestamp, ack_id, service_id) = (self.time, self.ack_id, self.service_id);
        let ack = ServiceMessage::Ack { log_position, timestamp, ack_id, relevant_id, service_id };
        let is_sent = self.send(&ack).is_ok();
        self.ack_id += i64::from(is_sent);
        is_sent
    }

    /// Keeps the container's clients and its mark file alive while a callback waits.
    pub(super) fn keep_alive(&mut self, now: &Now) {
        // The container's next duty cycle finds any error.
        let _found_later = self.aeron.do_work(now);
        if let Some(archive) = &mut self.archive {
            let _found_later = archive.poll(&mut self.aeron, now);
        }
        self.activity.update(now);
    }

    /// Calls the service; `silent` names a callback that must not send.
    pub(super) fn call<R>(
        &mut self,
        waiter: &mut dyn Waiter,
        silent: Option<&'static str>,
        callback: impl FnOnce(&mut Cluster<'_>) -> R,
    ) -> R {
        self.is_in_callback = true;
        let result = callback(&mut Cluster { core: self, waiter, silent });
        self.is_in_callback = false;
        result
    }

    pub(super) fn disconnect_sessions(&mut self) {
        self.sessions.values_mut().for_each(EgressSession::disconnect);
    }
}

/// Retries while the log rotates to its next term.
fn attempt<R>(
    publication: &mut ExclusivePublication,
    mut offer: impl FnMut(&mut ExclusivePublication) -> Result<R, OfferError>,
) -> Result<R, OfferError> {
    let mut outcome = offer(publication);
    for _ in 1..ATTEMPTS {
        if !matches!(outcome, Err(OfferError::AdminAction)) {
            break;
        }
        outcome = offer(publication);
    }
    outcome
}
