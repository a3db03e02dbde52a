//! Ingress streams of a client.

use harrier_client::{Aeron, ClientError, ExclusivePublication, Publication};
use harrier_ringbuf::append::{Claim, OfferError};

/// A publication to a member.
#[derive(Debug)]
pub(super) enum IngressPublication {
    Exclusive(ExclusivePublication),
    Shared(Publication),
}

impl IngressPublication {
    #[inline]
    pub(super) fn offer_parts(&mut self, parts: &[&[u8]]) -> Result<i64, OfferError> {
        let mut offer = || match self {
            Self::Exclusive(publication) => publication.offer_parts(parts),
            Self::Shared(publication) => publication.offer_parts(parts),
        };
        match offer() {
            Err(OfferError::AdminAction) => offer(),
            outcome => outcome,
        }
    }

    pub(super) fn try_claim(&mut self, length: usize) -> Result<Claim, OfferError> {
        let mut claim = || match self {
            Self::Exclusive(publication) => publication.try_claim(length),
            Self::Shared(publication) => publication.try_claim(length),
        };
        match claim() {
            Err(OfferError::AdminAction) => claim(),
            outcome => outcome,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        match self {
            Self::Exclusive(publication) => publication.is_connected(),
            Self::Shared(publication) => publication.is_connected(),
        }
    }

    pub(super) fn channel(&self) -> &str {
        match self {
            Self::Exclusive(publication) => publication.channel(),
            Self::Shared(publication) => publication.channel(),
        }
    }
}

/// An ingress stream in any state.
#[derive(Debug)]
pub(super) struct IngressStream {
    pub(super) member_id: i32,
    pub(super) channel: String,
    is_exclusive: bool,
    pending: Option<i64>,
    pub(super) publication: Option<IngressPublication>,
    refusal: Option<String>,
}

impl IngressStream {
    pub(super) fn add(
        aeron: &mut Aeron,
        member_id: i32,
        channel: String,
        stream_id: i32,
        is_exclusive: bool,
    ) -> Result<Self, ClientError> {
        let id = if is_exclusive {
            aeron.add_exclusive_publication(&channel, stream_id)?
        } else {
            aeron.add_publication(&channel, stream_id)?
        };
        Ok(Self { member_id, channel, is_exclusive, pending: Some(id), publication: None, refusal: None })
    }

    /// True once the stream is added or refused.
    pub(super) fn is_settled(&mut self, aeron: &mut Aeron) -> bool {
        let Some(id) = self.pending else { return true };
        let fetched = if self.is_exclusive {
            aeron.exclusive_publication(id).map(|publication| publication.map(IngressPublication::Exclusive))
        } else {
            aeron.publication(id).map(|publication| publication.map(IngressPublication::Shared))
        };
        match fetched {
            Ok(None) => return false,
            Ok(publication) => self.publication = publication,
            Err(error) => self.refusal = Some(error.to_string()),
        }
        self.pending = None;
        true
    }

    pub(super) fn is_connected(&self) -> bool {
        self.publication.as_ref().is_some_and(IngressPublication::is_connected)
    }

    /// Describes the stream and its state for errors.
    pub(super) fn describe(&self) -> String {
        let channel = self.publication.as_ref().map_or(self.channel.as_str(), IngressPublication::channel);
        let state = match (&self.refusal, self.is_connected()) {
            (Some(refusal), _) => refusal.as_str(),
            (None, true) => "connected",
            (None, false) => "not connected",
        };
        format!("ingress {}={channel}: {state}", self.member_id)
    }
}
