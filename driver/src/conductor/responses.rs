//! Response channels, whose streams answer one requester each (spec 02 §2.12, §7).
//!
//! A request publication names the subscription that awaits the answers, a response publication names the image of the
//! requests. Over a network the receiver of the requests reports the session of the answers with its status messages.
//! The subscription wants no session before it knows that one.

use harrier_protocol::uri::ResponseCorrelation;
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::network::PublicationEntry;
use super::subscriptions::{Source, Subscription};
use crate::channel::UdpChannel;
use crate::failure::Failure;
use crate::handover::ReceiverCommand;
use crate::params::PublicationParams;

/// Id that stands for `prototype` in refusals (spec 02 §2.10).
const PROTOTYPE_ID: i64 = -2;

/// Returns the image that a response publication answers, and the session of that publication.
pub(super) fn answered_image(entry: &PublicationEntry) -> Option<(i64, i32)> {
    let publication = &entry.publication;
    match publication.params.response_correlation {
        Some(ResponseCorrelation::Id(image_id)) if publication.params.is_response => {
            Some((image_id, publication.identity.session_id))
        }
        _ => None,
    }
}

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Checks that a response publication names an image that requests a response, and that a request publication names
    /// an existing subscription.
    pub(super) fn check_response(
        &self,
        channel: &UdpChannel,
        params: &PublicationParams,
    ) -> Result<(), Failure> {
        let id = match params.response_correlation {
            Some(ResponseCorrelation::Id(id)) => id,
            Some(ResponseCorrelation::Prototype) if channel.is_response() => return Ok(()),
            Some(ResponseCorrelation::Prototype) => PROTOTYPE_ID,
            None if channel.is_response() => {
                return Err(Failure::generic(
                    "control-mode=response was specified, but no response-correlation-id set",
                ));
            }
            None => return Ok(()),
        };
        if !channel.is_response() {
            return self.check_response_subscription(id);
        }
        match self.images.iter().find(|entry| entry.image.identity.correlation_id == id) {
            None => Err(Failure::generic(format!("image.correlationId={id} not found"))),
            Some(entry) if !entry.requests_response => {
                Err(Failure::generic(format!("image.correlationId={id} did not request a response channel")))
            }
            Some(_) => Ok(()),
        }
    }

    fn check_response_subscription(&self, id: i64) -> Result<(), Failure> {
        if self.subscriptions.iter().any(|subscription| subscription.registration_id == id) {
            return Ok(());
        }
        Err(Failure::generic(format!(
            "unable to find response subscription for response-correlation-id={id}"
        )))
    }

    /// Makes the receiver of an image tell its sender which session answers.
    pub(super) fn set_response_session(&mut self, image_id: i64, session_id: i32) {
        let found = self.images.iter_mut().find(|entry| entry.image.identity.correlation_id == image_id);
        if let Some(entry) = found {
            entry.response_session = Some(session_id);
            let session_id = Some(session_id);
            self.tell_receiver(ReceiverCommand::SetResponseSession { correlation_id: image_id, session_id });
        }
    }

    /// Stops the reports of an answering session to the sender of an image.
    pub(super) fn clear_response_session(&mut self, image_id: i64, session_id: i32) {
        let found = self.images.iter_mut().find(|entry| entry.image.identity.correlation_id == image_id);
        if let Some(entry) = found
            && entry.response_session == Some(session_id)
        {
            entry.response_session = None;
            let command = ReceiverCommand::SetResponseSession { correlation_id: image_id, session_id: None };
            self.tell_receiver(command);
        }
    }

    /// Handles that the requester receives a response publication.
    pub(super) fn on_response_connected(&mut self, registration_id: i64) {
        let answered = self
            .publications
            .iter()
            .find(|entry| entry.publication.identity.registration_id == registration_id)
            .and_then(answered_image);
        if let Some((image_id, session_id)) = answered {
            self.clear_response_session(image_id, session_id);
        }
    }

    /// Sets the session of a response subscription. A repeated report asks the responder for its SETUP again. Another
    /// session replaces one without an image, because the publication of that one has gone.
    pub(super) fn on_response_setup(&mut self, subscription_id: i64, session_id: i32) {
        let Some(subscription) =
            self.subscriptions.iter().find(|subscription| subscription.registration_id == subscription_id)
        else {
            return;
        };
        let Source::Network { endpoint_id, .. } = subscription.source else { return };
        let (stream_id, known) = (subscription.stream_id, subscription.session_id);
        if known == Some(session_id) {
            return self.tell_receiver(ReceiverCommand::RequestSetup { endpoint_id, stream_id, session_id });
        }
        let has_image = self.images.iter().any(|entry| entry.image.subscribers.contains(subscription_id));
        if !may_learn(subscription) || has_image {
            return;
        }
        let Some(index) = self.receive_endpoints.iter().position(|endpoint| endpoint.id == endpoint_id)
        else {
            return;
        };
        self.learn_session(subscription_id, session_id);
        self.add_interest(index, stream_id, Some(session_id));
        if known.is_some() {
            self.remove_interest(endpoint_id, stream_id, known);
        }
        self.link_images(subscription_id);
    }

    fn learn_session(&mut self, subscription_id: i64, session_id: i32) {
        let found = self
            .subscriptions
            .iter_mut()
            .find(|subscription| subscription.registration_id == subscription_id);
        if let Some(subscription) = found {
            subscription.session_id = Some(session_id);
        }
    }

    /// Removes a response subscription from an endpoint.
    pub(super) fn remove_response(&mut self, endpoint_id: u64) {
        if let Some(endpoint) = self.receive_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
        {
            endpoint.responses = endpoint.responses.saturating_sub(1);
        }
    }

    /// Tells the session of an IPC response publication to the subscription that the request publication names. As with
    /// peers, a publication whose request does not exist answers nobody.
    pub(super) fn connect_ipc_response(&mut self, index: usize) {
        let session_id = self.ipc[index].identity.session_id;
        let Some(ResponseCorrelation::Id(request_id)) = self.ipc[index].params.response_correlation else {
            return;
        };
        let request = self.ipc.iter().find(|publication| publication.identity.registration_id == request_id);
        let Some(ResponseCorrelation::Id(subscription_id)) =
            request.and_then(|request| request.params.response_correlation)
        else {
            return;
        };
        let learns = self.subscriptions.iter().any(|subscription| {
            subscription.registration_id == subscription_id
                && matches!(subscription.source, Source::Ipc)
                && may_learn(subscription)
        });
        if learns {
            self.learn_session(subscription_id, session_id);
        }
    }
}

/// True for a response subscription whose channel does not name its session.
fn may_learn(subscription: &Subscription) -> bool {
    subscription.params.is_response && subscription.params.session_id.is_none()
}
