//! Destinations of multi-destination subscriptions: sockets, and streams inside this driver (spec 02 §3.12).

use harrier_protocol::ErrorCode;
use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::{Datagrams, Memory, Transport};

use super::Conductor;
use super::commands::{IPC_PREFIX, SPY_PREFIX, parse};
use super::destinations::check_destination_keys;
use super::endpoints::ReceiveDestination;
use super::pending::Pending;
use super::spies::spies_on;
use super::subscriptions::{Local, Source};
use crate::channel::UdpChannel;
use crate::failure::Failure;
use crate::handover::ReceiverCommand;
use crate::params::SubscriptionParams;

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Finds the endpoint of a subscription that takes destinations.
    fn multi_destination_endpoint(&self, subscription_id: i64) -> Result<u64, Failure> {
        let subscription =
            self.subscriptions.iter().find(|subscription| subscription.registration_id == subscription_id);
        let Some(subscription) = subscription else {
            return Err(Failure::new(
                ErrorCode::UnknownSubscription,
                format!("unknown MDS subscription: {subscription_id}"),
            ));
        };
        match &subscription.source {
            Source::Network { endpoint_id, channel } if channel.is_manual() => Ok(*endpoint_id),
            _ => Err(Failure::channel("channel does not allow manual control")),
        }
    }

    pub(super) fn on_add_receive_destination(
        &mut self,
        correlation_id: i64,
        subscription_id: i64,
        channel: &str,
    ) -> Result<(), Failure> {
        self.multi_destination_endpoint(subscription_id)?;
        let uri = check_receive_destination(channel)?;
        if !channel.starts_with(IPC_PREFIX) {
            let pending = Pending::AddReceiveDestination { correlation_id, subscription_id };
            return self.resolve_channel(uri, channel, pending);
        }
        let params = SubscriptionParams::new(&uri, &self.context)?;
        let local = Local { channel: channel.to_owned(), params, source: Source::Ipc };
        self.events.operation_success(correlation_id);
        self.add_local(subscription_id, local);
        self.link_ipc_publications(subscription_id);
        Ok(())
    }

    fn add_local(&mut self, subscription_id: i64, local: Local) {
        let found = self
            .subscriptions
            .iter_mut()
            .find(|subscription| subscription.registration_id == subscription_id);
        if let Some(subscription) = found {
            subscription.locals.push(local);
        }
    }

    pub(super) fn on_receive_destination_channel(
        &mut self,
        correlation_id: i64,
        subscription_id: i64,
        channel: Box<UdpChannel>,
    ) -> Result<(), Failure> {
        let endpoint_id = self.multi_destination_endpoint(subscription_id)?;
        if channel.uri.is_spy() {
            let params = SubscriptionParams::new(&channel.uri, &self.context)?;
            let local = Local { channel: channel.text.clone(), params, source: Source::Spy(channel) };
            self.events.operation_success(correlation_id);
            self.add_local(subscription_id, local);
            self.link_spies(subscription_id);
            return Ok(());
        }
        let mut spec = channel.receive_socket(self.context.socket_multicast_ttl);
        let port = self.choose_receive_port(&mut spec)?;
        // The lengths of the socket's buffers are those of the subscription's channel.
        let endpoint = self.receive_endpoints.iter().find(|endpoint| endpoint.id == endpoint_id);
        let buffers = endpoint.map_or_else(|| channel.uri.clone(), |endpoint| endpoint.channel.uri.clone());
        let text = channel.text.clone();
        let pending = Pending::ReceiveDestinationSocket { correlation_id, subscription_id, channel, port };
        self.open_socket(spec, &buffers, &text, pending).inspect_err(|_| self.receive_ports.release(port))
    }

    pub(super) fn on_receive_destination_socket(
        &mut self,
        correlation_id: i64,
        subscription_id: i64,
        channel: UdpChannel,
        socket: T::Socket,
        port: Option<u16>,
    ) -> Result<(), Failure> {
        let endpoint_id = self.multi_destination_endpoint(subscription_id)?;
        let bound = socket.local_address();
        let Some(index) = self.receive_endpoints.iter().position(|endpoint| endpoint.id == endpoint_id)
        else {
            return Err(Failure::generic("the channel's endpoint has gone, please retry"));
        };
        let status_id = self.receive_endpoints[index].status.id();
        let address = self.counters.local_address(false, subscription_id, status_id, bound)?;
        let registration_id = correlation_id;
        let transport = Box::new(self.receive_transport(registration_id, socket, &channel));
        let destination = ReceiveDestination { registration_id, channel, address, port };
        self.receive_endpoints[index].destinations.push(destination);
        self.tell_receiver(ReceiverCommand::AddDestination { endpoint_id, transport });
        self.events.operation_success(correlation_id);
        Ok(())
    }

    pub(super) fn on_remove_receive_destination(
        &mut self,
        correlation_id: i64,
        subscription_id: i64,
        channel: &str,
    ) -> Result<(), Failure> {
        self.multi_destination_endpoint(subscription_id)?;
        let uri = check_receive_destination(channel)?;
        if !channel.starts_with(IPC_PREFIX) && !channel.starts_with(SPY_PREFIX) {
            let pending = Pending::RemoveReceiveDestination { correlation_id, subscription_id };
            return self.resolve_channel(uri, channel, pending);
        }
        self.events.operation_success(correlation_id);
        let found = self
            .subscriptions
            .iter_mut()
            .find(|subscription| subscription.registration_id == subscription_id);
        if let Some(subscription) = found
            && let Some(index) = subscription.locals.iter().position(|local| local.channel == channel)
        {
            subscription.locals.remove(index);
            self.unlink_locals(subscription_id);
        }
        Ok(())
    }

    /// Unlinks a subscription from the streams of this driver that none of its destinations matches any more.
    fn unlink_locals(&mut self, subscription_id: i64) {
        let found =
            self.subscriptions.iter().find(|subscription| subscription.registration_id == subscription_id);
        let Some(subscription) = found else { return };
        let mut gone = Vec::new();
        for publication in &mut self.ipc {
            let identity = &publication.identity;
            if subscription.ipc_params(identity.stream_id, identity.session_id).is_none()
                && let Some(subscriber) = publication.subscribers.remove(subscription_id)
            {
                publication.update_connected();
                gone.push((publication.identity.registration_id, subscriber.position.id()));
            }
        }
        for entry in &mut self.publications {
            let (publication, channel) = (&mut entry.publication, &entry.channel);
            let identity = &publication.identity;
            let meant = |spy: &UdpChannel| spies_on(spy, channel);
            if subscription.spy_params(identity.stream_id, identity.session_id, meant).is_none()
                && let Some(spy) = publication.spies.remove(subscription_id)
            {
                publication.on_spies_changed();
                gone.push((publication.identity.registration_id, spy.position.id()));
            }
        }
        for (image_id, counter_id) in gone {
            self.counters.free(counter_id);
            self.tell_unavailable(image_id, subscription_id);
        }
    }

    pub(super) fn on_removed_receive_destination(
        &mut self,
        correlation_id: i64,
        subscription_id: i64,
        channel: &UdpChannel,
    ) -> Result<(), Failure> {
        let endpoint_id = self.multi_destination_endpoint(subscription_id)?;
        if let Some(endpoint) = self.receive_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
            && let Some(index) =
                endpoint.destinations.iter().position(|one| one.channel.canonical == channel.canonical)
        {
            let destination = endpoint.destinations.remove(index);
            self.counters.free(destination.address.id());
            self.receive_ports.release(destination.port);
            let registration_id = destination.registration_id;
            self.tell_receiver(ReceiverCommand::RemoveDestination { endpoint_id, registration_id });
        }
        self.events.operation_success(correlation_id);
        Ok(())
    }
}

/// Checks the rules on destination strings (spec 02 §5.5).
fn check_receive_destination(channel: &str) -> Result<ChannelUri, Failure> {
    let uri = parse(channel)?;
    check_destination_keys(&uri, channel)?;
    uri.check_subscription()?;
    Ok(uri)
}
