//! Local subscriptions on the logs of network publications (spec 02 §2.13).

use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::network::PublicationEntry;
use super::pending::AddSubscription;
use super::subscriptions::{Source, Subscription};
use crate::channel::UdpChannel;
use crate::events::{IPC_SOURCE, ImageEvent};
use crate::params::SubscriptionParams;
use crate::subscribers::TetherChange;

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Adds a spy whose channel is resolved, and links it.
    pub(super) fn add_spy(
        &mut self,
        add: AddSubscription,
        params: SubscriptionParams,
        channel: Box<UdpChannel>,
    ) {
        self.events.subscription_ready(add.correlation_id, -1);
        let registration_id = add.correlation_id;
        self.subscriptions.push(Subscription::new(add, params, Source::Spy(channel)));
        self.link_spies(registration_id);
    }

    /// Links a spy to all publications that it matches.
    pub(super) fn link_spies(&mut self, registration_id: i64) {
        for index in 0..self.publications.len() {
            self.link_spy(index, registration_id);
        }
    }

    pub(super) fn link_spies_of(&mut self, index: usize) {
        let may_spy = |subscription: &&Subscription| {
            matches!(subscription.source, Source::Spy(_)) || !subscription.locals.is_empty()
        };
        let spies: Vec<i64> = self
            .subscriptions
            .iter()
            .filter(may_spy)
            .map(|subscription| subscription.registration_id)
            .collect();
        for registration_id in spies {
            self.link_spy(index, registration_id);
        }
    }

    fn link_spy(&mut self, index: usize, registration_id: i64) {
        let Some(subscription) =
            self.subscriptions.iter().find(|subscription| subscription.registration_id == registration_id)
        else {
            return;
        };
        let entry = &mut self.publications[index];
        let publication = &mut entry.publication;
        let identity = &publication.identity;
        let Some(params) = subscription
            .spy_params(identity.stream_id, identity.session_id, |channel| spies_on(channel, &entry.channel))
        else {
            return;
        };
        if !publication.accepts_spies() || publication.spies.contains(registration_id) {
            return;
        }
        let join_position = publication.spy_join_position();
        let stream = subscription.stream(publication.identity.session_id);
        let source_id = publication.identity.registration_id;
        let position = match self.counters.subscriber_position(stream, join_position, source_id) {
            Ok(position) => position,
            Err(error) => return self.events.record_error(&error.to_string()),
        };
        let position_id = position.id();
        publication.spies.add(registration_id, position, params.is_tethered, params.rejoins, self.now.ns);
        publication.on_spies_changed();
        self.events.available_image(spy_image(entry, registration_id, position_id));
    }

    /// Unlinks a spy from all publications.
    pub(super) fn unlink_spy(&mut self, registration_id: i64) {
        for entry in &mut self.publications {
            if let Some(spy) = entry.publication.spies.remove(registration_id) {
                self.counters.free(spy.position.id());
                entry.publication.on_spies_changed();
            }
        }
    }

    pub(super) fn on_spy_tether(&mut self, index: usize, change: TetherChange) {
        let id = self.publications[index].publication.identity.registration_id;
        match change {
            TetherChange::Unavailable { registration_id } => self.tell_unavailable(id, registration_id),
            TetherChange::Available { registration_id, counter_id, .. } => {
                self.events.available_image(spy_image(
                    &self.publications[index],
                    registration_id,
                    counter_id,
                ));
            }
            TetherChange::Removed { counter_id, .. } => self.counters.free(counter_id),
        }
    }
}

/// True when the channel of a spy matches that of a publication (spec 02 §2.13).
pub(super) fn spies_on(spy: &UdpChannel, publication: &UdpChannel) -> bool {
    match (spy.tag, publication.tag) {
        (Some(tag), Some(other)) if tag == other => true,
        _ => {
            let is_addressed = spy.endpoint.is_some() || spy.control.is_some();
            is_addressed && spy.canonical == publication.canonical
        }
    }
}

fn spy_image(entry: &PublicationEntry, subscription_id: i64, position_id: i32) -> ImageEvent<'_> {
    let identity = &entry.publication.identity;
    ImageEvent {
        correlation_id: identity.registration_id,
        session_id: identity.session_id,
        stream_id: identity.stream_id,
        subscription_id,
        position_id,
        log_file: &entry.log_file_name,
        source: IPC_SOURCE,
    }
}
