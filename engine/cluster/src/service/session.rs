//! Sessions of clients as a service sees them (spec 04 §7.2, §7.3).

use std::rc::Rc;

use harrier_client::{Aeron, Publication};

use super::patience::Waited;

/// A client's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSession {
    /// Session id.
    pub id: i64,
    /// Stream id of the egress.
    pub response_stream_id: i32,
    /// Channel of the egress.
    pub response_channel: String,
    /// Principal that the authenticator assigned to the client.
    pub principal: Vec<u8>,
}

/// A session with its egress.
pub(super) struct EgressSession {
    pub(super) session: Rc<ClientSession>,
    /// True once the egress exists and the service has been notified of the session.
    pub(super) is_open: bool,
    pub(super) is_closing: bool,
    publication_id: Option<i64>,
    pub(super) publication: Option<Publication>,
    /// Time that the service has waited for the client to read its egress.
    pub(super) waited: Waited,
}

impl EgressSession {
    pub(super) fn new(session: ClientSession) -> Self {
        Self {
            session: Rc::new(session),
            is_open: false,
            is_closing: false,
            publication_id: None,
            publication: None,
            waited: Waited::default(),
        }
    }

    /// Adds the egress publication.
    pub(super) fn connect(&mut self, aeron: &mut Aeron) {
        if self.publication.is_none() && self.publication_id.is_none() {
            let session = &self.session;
            self.publication_id =
                aeron.add_publication(&session.response_channel, session.response_stream_id).ok();
        }
    }

    /// True once the egress is added or refused.
    pub(super) fn is_settled(&mut self, aeron: &mut Aeron) -> bool {
        let Some(id) = self.publication_id else { return true };
        match aeron.publication(id) {
            Ok(None) => false,
            Ok(publication) => {
                self.publication = publication;
                self.publication_id = None;
                true
            }
            Err(_) => {
                self.publication_id = None;
                true
            }
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.publication = None;
        self.publication_id = None;
    }
}
