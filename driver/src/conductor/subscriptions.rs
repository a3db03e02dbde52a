//! Subscriptions of clients (spec 02 §5.3).

use harrier_protocol::ErrorCode;
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::pending::AddSubscription;
use crate::channel::UdpChannel;
use crate::counters::StreamIdentity;
use crate::failure::Failure;
use crate::params::SubscriptionParams;

/// Source of a subscription's streams.
#[derive(Debug)]
pub(super) enum Source {
    /// IPC publications.
    Ipc,
    /// Network publications of this driver.
    Spy(Box<UdpChannel>),
    /// A socket.
    Network { endpoint_id: u64, channel: Box<UdpChannel> },
}

/// A destination of a multi-destination subscription within this driver: IPC publications, or network publications that
/// it spies on.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) channel: String,
    pub(super) params: SubscriptionParams,
    pub(super) source: Source,
}

/// A subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) registration_id: i64,
    pub(super) client_id: i64,
    pub(super) stream_id: i32,
    pub(super) channel: String,
    pub(super) params: SubscriptionParams,
    /// The only wanted session; `None` for all. A response subscription wants none before it knows its session.
    pub(super) session_id: Option<i32>,
    pub(super) source: Source,
    pub(super) locals: Vec<Local>,
}

impl Subscription {
    pub(super) fn new(add: AddSubscription, params: SubscriptionParams, source: Source) -> Self {
        Self {
            registration_id: add.correlation_id,
            client_id: add.client_id,
            stream_id: add.stream_id,
            channel: add.channel,
            session_id: params.session_id,
            params,
            source,
            locals: Vec::new(),
        }
    }

    /// Returns the parameters for an IPC publication; `None` when the subscription does not match it.
    pub(super) fn ipc_params(&self, stream_id: i32, session_id: i32) -> Option<&SubscriptionParams> {
        self.local_params(stream_id, session_id, |source| matches!(source, Source::Ipc))
    }

    /// Returns the parameters for spying on a network publication; `None` when the subscription does not match it.
    pub(super) fn spy_params(
        &self,
        stream_id: i32,
        session_id: i32,
        is_meant: impl Fn(&UdpChannel) -> bool,
    ) -> Option<&SubscriptionParams> {
        self.local_params(stream_id, session_id, |source| match source {
            Source::Spy(channel) => is_meant(channel),
            Source::Ipc | Source::Network { .. } => false,
        })
    }

    fn local_params(
        &self,
        stream_id: i32,
        session_id: i32,
        is_meant: impl Fn(&Source) -> bool,
    ) -> Option<&SubscriptionParams> {
        if self.stream_id != stream_id {
            return None;
        }
        if is_meant(&self.source) {
            return self.wants(session_id).then_some(&self.params);
        }
        let mut locals = self.locals.iter().filter(|local| is_meant(&local.source));
        let is_wanted = |params: &SubscriptionParams| params.session_id.is_none_or(|id| id == session_id);
        locals.find(|local| is_wanted(&local.params)).map(|local| &local.params)
    }

    /// True when streams of this session are for the subscription.
    pub(super) fn wants(&self, session_id: i32) -> bool {
        match self.session_id {
            Some(wanted) => wanted == session_id,
            None => !self.params.is_response,
        }
    }

    /// Returns the identity of the subscription's position on a session.
    pub(super) fn stream(&self, session_id: i32) -> StreamIdentity<'_> {
        StreamIdentity {
            registration_id: self.registration_id,
            owner_id: self.client_id,
            session_id,
            stream_id: self.stream_id,
            channel: &self.channel,
        }
    }
}

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Refuses a subscription that contradicts another one of its stream and socket (spec 02 §3.17).
    pub(super) fn check_conflicts(
        &self,
        add: &AddSubscription,
        params: &SubscriptionParams,
        channel: &UdpChannel,
    ) -> Result<(), Failure> {
        for other in &self.subscriptions {
            let Source::Network { channel: existing, .. } = &other.source else { continue };
            let is_same = other.stream_id == add.stream_id
                && other.params.session_id.is_some() == params.session_id.is_some()
                && channel.matches(existing)?;
            if !is_same {
                continue;
            }
            for (key, one, two) in [
                ("reliable", params.is_reliable, other.params.is_reliable),
                ("rejoin", params.rejoins, other.params.rejoins),
                ("isResponse", params.is_response, other.params.is_response),
            ] {
                if one != two {
                    return Err(Failure::generic(format!(
                        "option conflicts with existing subscription: {key}={one} existingChannel={} channel={}",
                        other.channel, add.channel
                    )));
                }
            }
        }
        Ok(())
    }

    pub(super) fn on_remove_subscription(
        &mut self,
        correlation_id: i64,
        registration_id: i64,
    ) -> Result<(), Failure> {
        if !self.close_subscription(registration_id) {
            return Err(Failure::new(
                ErrorCode::UnknownSubscription,
                format!("unknown subscription: {registration_id}"),
            ));
        }
        self.events.operation_success(correlation_id);
        Ok(())
    }

    /// Removes a subscription from all its sources; returns false when it does not exist.
    pub(super) fn close_subscription(&mut self, registration_id: i64) -> bool {
        let Some(index) = self
            .subscriptions
            .iter()
            .position(|subscription| subscription.registration_id == registration_id)
        else {
            return false;
        };
        let subscription = self.subscriptions.remove(index);
        match subscription.source {
            Source::Ipc => self.unlink_ipc_subscription(registration_id),
            Source::Spy(_) => self.unlink_spy(registration_id),
            Source::Network { endpoint_id, .. } => {
                self.unlink_images(registration_id);
                if subscription.params.is_response {
                    self.remove_response(endpoint_id);
                }
                if subscription.session_id.is_some() || !subscription.params.is_response {
                    self.remove_interest(endpoint_id, subscription.stream_id, subscription.session_id);
                }
                self.close_unused_receive_endpoint(endpoint_id);
                if !subscription.locals.is_empty() {
                    self.unlink_ipc_subscription(registration_id);
                    self.unlink_spy(registration_id);
                }
            }
        }
        true
    }

    /// Releases a client's reference to a publication.
    pub(super) fn release_publication(&mut self, publication_id: i64) {
        if !self.release_ipc_publication(publication_id) {
            self.release_network_publication(publication_id);
        }
    }

    /// Marks a publication as revoked.
    pub(super) fn revoke_publication(&mut self, publication_id: i64) {
        self.revoke_ipc_publication(publication_id);
        self.revoke_network_publication(publication_id);
    }
}
