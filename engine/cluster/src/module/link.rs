//! The streams between the consensus module and its services (spec 04 §1.5, §2.1).

use harrier_client::{Aeron, ClientError, ExclusivePublication, Subscription};
use harrier_protocol::sbe::SbeError;
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::assembly::FragmentAssembler;

use crate::codec::{ModuleMessage, ServiceMessage};

/// Fragments taken from services in one duty cycle.
const FRAGMENT_LIMIT: usize = 25;

/// The control streams before the driver has made them.
#[derive(Debug)]
pub(super) struct PendingLink {
    publication_id: i64,
    subscription_id: i64,
    publication: Option<ExclusivePublication>,
}

impl PendingLink {
    pub(super) fn add(
        aeron: &mut Aeron,
        channel: &str,
        service_stream_id: i32,
        module_stream_id: i32,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            publication_id: aeron.add_exclusive_publication(channel, service_stream_id)?,
            subscription_id: aeron.add_subscription(channel, module_stream_id)?,
            publication: None,
        })
    }

    pub(super) fn poll(&mut self, aeron: &mut Aeron) -> Result<Option<ServiceLink>, ClientError> {
        if self.publication.is_none() {
            self.publication = aeron.exclusive_publication(self.publication_id)?;
        }
        if self.publication.is_none() {
            return Ok(None);
        }
        let Some(subscription) = aeron.subscription(self.subscription_id)? else { return Ok(None) };
        let Some(publication) = self.publication.take() else { return Ok(None) };
        Ok(Some(ServiceLink {
            publication,
            subscription,
            assembler: FragmentAssembler::new(),
            buffer: vec![0; 4_096],
        }))
    }
}

/// The control streams between the module and its services.
pub(super) struct ServiceLink {
    publication: ExclusivePublication,
    subscription: Subscription,
    assembler: FragmentAssembler,
    buffer: Vec<u8>,
}

impl ServiceLink {
    /// Sends a message to all services; returns false when the stream takes nothing now.
    pub(super) fn send(&mut self, message: &ModuleMessage<'_>) -> bool {
        let Ok(length) = message.encode(&mut self.buffer) else { return false };
        for _ in 0..3 {
            match self.publication.offer(&self.buffer[..length]) {
                Ok(_) => return true,
                Err(OfferError::AdminAction) => {}
                Err(_) => return false,
            }
        }
        false
    }

    /// Takes messages of services, and the errors of undecodable ones.
    #[inline]
    pub(super) fn poll(
        &mut self,
        on_message: &mut impl FnMut(Result<ServiceMessage<'_>, SbeError>),
    ) -> usize {
        let assembler = &mut self.assembler;
        self.subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| match ServiceMessage::decode(message) {
                Ok(Some(message)) => on_message(Ok(message)),
                Ok(None) => {}
                Err(error) => on_message(Err(error)),
            });
        })
    }
}
