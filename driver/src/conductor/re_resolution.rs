//! Names whose addresses may have changed (spec 02 §3.16).

use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::pending::Pending;
use crate::channel::UdpChannel;
use crate::error_notes::kind;
use crate::executor::Job;
use crate::failure::Failure;
use crate::handover::{ReceiverCommand, SenderCommand};
use crate::sender::DESTINATION_TIMEOUT_NS;
use crate::system_counters::SystemCounter;

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Repeats the lookup of names whose addresses are silent: a sender's destination, or all names of an endpoint.
    pub(super) fn re_resolve(&mut self, endpoint_id: u64, destination_id: Option<i64>) {
        let mut names = Vec::new();
        if let Some(endpoint) = self.send_endpoints.iter().find(|endpoint| endpoint.id == endpoint_id) {
            match destination_id {
                None => names.push((None, &endpoint.channel)),
                Some(id) => {
                    let found = endpoint.named_destinations.iter().filter(|(known, _)| *known == id);
                    names.extend(found.map(|(id, channel)| (Some(*id), channel)));
                }
            }
        }
        if let Some(endpoint) = self.receive_endpoints.iter().find(|endpoint| endpoint.id == endpoint_id) {
            names.push((None, &endpoint.channel));
            let destinations = endpoint.destinations.iter();
            names.extend(
                destinations.map(|destination| (Some(destination.registration_id), &destination.channel)),
            );
            names.retain(|(_, channel)| channel.control.is_some());
        }
        let jobs: Vec<_> = names
            .into_iter()
            .map(|(destination_id, channel)| {
                let job = Job::Channel { uri: Box::new(channel.uri.clone()), text: channel.text.clone() };
                (job, Pending::ReResolution { endpoint_id, destination_id })
            })
            .collect();
        for (job, pending) in jobs {
            // When the executor is full, the sender or receiver asks again.
            let _later = self.submit(job, pending);
        }
    }

    /// Repeats the lookup of names that did not resolve.
    pub(super) fn check_unresolved(&mut self) {
        if self.context.re_resolution_check_interval_ns <= 0 {
            return;
        }
        let now_ns = self.now.ns;
        let mut jobs = Vec::new();
        for endpoint in &mut self.send_endpoints {
            for destination in
                endpoint.unresolved.iter_mut().filter(|destination| now_ns > destination.next_ns)
            {
                destination.next_ns = now_ns + DESTINATION_TIMEOUT_NS;
                let (endpoint_id, registration_id) = (endpoint.id, destination.registration_id);
                let job = Job::Channel { uri: destination.uri.clone(), text: destination.text.clone() };
                jobs.push((job, Pending::UnresolvedDestination { endpoint_id, registration_id }));
            }
        }
        for (job, pending) in jobs {
            // When the executor is full, the lookup is tried again after the same time.
            let _later = self.submit(job, pending);
        }
    }

    pub(super) fn on_destination_resolved(
        &mut self,
        endpoint_id: u64,
        registration_id: i64,
        channel: Result<Box<UdpChannel>, Failure>,
    ) {
        let Ok(channel) = channel else { return };
        let is_wanted = self.send_endpoints.iter().any(|endpoint| {
            endpoint.id == endpoint_id
                && endpoint
                    .unresolved
                    .iter()
                    .any(|destination| destination.registration_id == registration_id)
        });
        if is_wanted {
            self.forget_unresolved(endpoint_id, |destination| destination.registration_id == registration_id);
            self.add_destination(endpoint_id, registration_id, &channel);
            self.system.get(SystemCounter::ResolutionChanges).increment();
        }
    }

    pub(super) fn on_re_resolved(
        &mut self,
        endpoint_id: u64,
        destination_id: Option<i64>,
        channel: Result<Box<UdpChannel>, Failure>,
    ) {
        let channel = match channel {
            Ok(channel) => channel,
            Err(failure) => {
                let text = format!("could not re-resolve: {}", failure.message);
                return self.events.record_kind(kind::RE_RESOLUTION, &text);
            }
        };
        let is_changed = self.set_endpoint(endpoint_id, destination_id, &channel)
            || self.set_control(endpoint_id, destination_id, &channel);
        if is_changed {
            self.system.get(SystemCounter::ResolutionChanges).increment();
        }
    }

    /// Sets the address to which a sender sends; returns false when it has not changed.
    fn set_endpoint(&mut self, endpoint_id: u64, destination_id: Option<i64>, channel: &UdpChannel) -> bool {
        let Some(endpoint) = self.send_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
        else {
            return false;
        };
        let known = match destination_id {
            None => Some(&mut endpoint.channel),
            Some(id) => {
                let found = endpoint.named_destinations.iter_mut().find(|(known, _)| *known == id);
                found.map(|(_, channel)| channel)
            }
        };
        let (Some(known), Some(address)) = (known, channel.endpoint) else { return false };
        if known.endpoint == Some(address) {
            return false;
        }
        known.endpoint = Some(address);
        self.tell_sender(match destination_id {
            None => SenderCommand::SetRemote { endpoint_id, address },
            Some(registration_id) => SenderCommand::SetDestination { endpoint_id, registration_id, address },
        });
        true
    }

    /// Sets the address that a receiver asks for SETUPs; returns false when the address has not changed.
    fn set_control(&mut self, endpoint_id: u64, destination_id: Option<i64>, channel: &UdpChannel) -> bool {
        let Some(endpoint) = self.receive_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
        else {
            return false;
        };
        let known = match destination_id {
            None => Some(&mut endpoint.channel),
            Some(id) => {
                let found = endpoint.destinations.iter_mut().find(|one| one.registration_id == id);
                found.map(|destination| &mut destination.channel)
            }
        };
        let (Some(known), Some(address)) = (known, channel.control) else { return false };
        if known.control == Some(address) {
            return false;
        }
        known.control = Some(address);
        let registration_id = destination_id.unwrap_or(-1);
        self.tell_receiver(ReceiverCommand::SetControl { endpoint_id, registration_id, address });
        true
    }
}
