//! Network subscriptions and their images (spec 02 §3).

use std::net::SocketAddr;
use std::sync::Arc;

use harrier_protocol::udp::{Setup, flag};
use harrier_protocol::uri::Group;
use harrier_ringbuf::logbuffer::{LogSettings, LogType, METADATA_LENGTH};
use harrier_ringbuf::position::compute_position;
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::pending::{AddSubscription, Pending};
use super::subscriptions::{Source, Subscription};
use crate::allocation::{self, Allocation};
use crate::channel::{UdpChannel, address_text};
use crate::error_notes::kind;
use crate::events::ImageEvent;
use crate::executor::Job;
use crate::failure::Failure;
use crate::handover::{ImageShared, ImageState, ReceiverCommand, RefusedUntil};
use crate::log_files::{self, LogFile};
use crate::loss_detector::{LossDetector, NakDelay};
use crate::params::{self, SubscriptionParams};
use crate::publication_image::{ImageIdentity, PublicationImage};
use crate::receiver::image::{ReceiveImage, ReceiveImageSetup};
use crate::subscribers::{TetherChange, UntetheredTimeouts};

/// Least delay of the retry that follows `nak-delay`, before the retry ratio, ns (spec 02 §3.5).
const MIN_NAK_DELAY_NS: i64 = 1_000;

/// An image with the state that only the conductor needs.
pub(super) struct ImageEntry {
    pub(super) image: PublicationImage,
    pub(super) endpoint_id: u64,
    /// True when the sender asks for a response stream.
    pub(super) requests_response: bool,
    /// Session that answers the request stream; `None` once the sender has heard it.
    pub(super) response_session: Option<i32>,
    rejoins: bool,
    is_removing: bool,
    untethered: UntetheredTimeouts,
    log_file_name: String,
}

/// An image whose log is being created.
#[derive(Debug)]
pub(super) struct ImageRequest {
    correlation_id: i64,
    endpoint_id: u64,
    setup: Setup,
    source: SocketAddr,
    control: SocketAddr,
    allocation: Allocation,
}

impl<M: Memory, T: Transport> Conductor<M, T> {
    pub(super) fn on_subscription_channel(
        &mut self,
        add: AddSubscription,
        params: SubscriptionParams,
        channel: Box<UdpChannel>,
        is_spy: bool,
    ) -> Result<(), Failure> {
        if is_spy {
            self.add_spy(add, params, channel);
            return Ok(());
        }
        self.check_window(&channel, params.receiver_window)?;
        self.check_conflicts(&add, &params, &channel)?;
        match self.find_receive_endpoint(&channel)? {
            Some(index) => {
                self.join_endpoint(add, params, channel, index);
                Ok(())
            }
            None if channel.is_manual() => {
                let index = self.add_receive_endpoint(add.correlation_id, (*channel).clone(), None)?;
                self.join_endpoint(add, params, channel, index);
                Ok(())
            }
            None => {
                let mut spec = channel.receive_socket(self.context.socket_multicast_ttl);
                let port = self.choose_receive_port(&mut spec)?;
                let (uri, text) = (channel.uri.clone(), channel.text.clone());
                let params = Box::new(params);
                let pending = Pending::SubscriptionSocket { add, params, channel, port };
                self.open_socket(spec, &uri, &text, pending).inspect_err(|_| self.receive_ports.release(port))
            }
        }
    }

    pub(super) fn on_subscription_socket(
        &mut self,
        add: AddSubscription,
        params: SubscriptionParams,
        channel: Box<UdpChannel>,
        (socket, port): (T::Socket, Option<u16>),
    ) -> Result<(), Failure> {
        let socket = Some((socket, port));
        let index = self
            .add_receive_endpoint(add.correlation_id, (*channel).clone(), socket)
            .inspect_err(|_| self.receive_ports.release(port))?;
        self.join_endpoint(add, params, channel, index);
        Ok(())
    }

    fn join_endpoint(
        &mut self,
        add: AddSubscription,
        params: SubscriptionParams,
        channel: Box<UdpChannel>,
        index: usize,
    ) {
        let endpoint = &self.receive_endpoints[index];
        let (endpoint_id, status_id) = (endpoint.id, endpoint.status.id());
        if params.is_response {
            self.receive_endpoints[index].responses += 1;
        }
        if params.session_id.is_some() || !params.is_response {
            self.add_interest(index, add.stream_id, params.session_id);
        }
        self.events.subscription_ready(add.correlation_id, status_id);
        let registration_id = add.correlation_id;
        let source = Source::Network { endpoint_id, channel };
        self.subscriptions.push(Subscription::new(add, params, source));
        self.link_images(registration_id);
    }

    /// Links a subscription to all images that it matches.
    pub(super) fn link_images(&mut self, registration_id: i64) {
        for image in 0..self.images.len() {
            if self.images[image].image.accepts_subscribers() {
                self.link_image(image, registration_id);
            }
        }
    }

    /// Links a subscription to an image if it matches.
    fn link_image(&mut self, index: usize, registration_id: i64) {
        let Some(subscription) =
            self.subscriptions.iter().find(|subscription| subscription.registration_id == registration_id)
        else {
            return;
        };
        let entry = &mut self.images[index];
        let image = &mut entry.image;
        let is_match =
            is_wanted(subscription, entry.endpoint_id, image.identity.stream_id, image.identity.session_id)
                && !image.subscribers.contains(registration_id);
        if !is_match {
            return;
        }
        let join_position = image.join_position();
        let stream = subscription.stream(image.identity.session_id);
        let position =
            match self.counters.subscriber_position(stream, join_position, image.identity.correlation_id) {
                Ok(position) => position,
                Err(error) => return self.events.record_error(&error.to_string()),
            };
        let position_id = position.id();
        let params = &subscription.params;
        image.subscribers.add(registration_id, position, params.is_tethered, params.rejoins, self.now.ns);
        self.events.available_image(image_event(entry, registration_id, position_id));
    }

    /// Handles the SETUP of a stream that was wanted when the receiver took it.
    pub(super) fn on_create_image(
        &mut self,
        endpoint_id: u64,
        mut setup: Setup,
        source: SocketAddr,
        control: SocketAddr,
    ) {
        if control.ip().is_multicast() {
            setup.flags |= flag::SETUP_GROUP;
        }
        let (stream_id, session_id) = (setup.stream_id, setup.session_id);
        let Some(subscription) = self
            .subscriptions
            .iter()
            .find(|subscription| is_wanted(subscription, endpoint_id, stream_id, session_id))
        else {
            return self.refuse_image(endpoint_id, &setup, RefusedUntil::NextSetup);
        };
        let window = subscription.params.receiver_window.min(setup.term_length / 2);
        if setup.mtu > window {
            let text = format!(
                "mtuLength={} > initialWindowLength={window} for session={session_id} stream={stream_id} from {source}",
                setup.mtu
            );
            self.events.record_kind(kind::MTU_ABOVE_WINDOW, &text);
            return self.refuse_image(endpoint_id, &setup, RefusedUntil::End);
        }
        let max_term_length = subscription.params.max_term_length;
        if max_term_length > 0 && setup.term_length > max_term_length {
            let text = format!(
                "image term length {} of session={session_id} stream={stream_id} from {source} exceeds the limit: \
                 raise harrier.image.max.term.length={max_term_length}, or image-max-term-length of the channel",
                setup.term_length
            );
            self.events.record_kind(kind::TERM_LENGTH_LIMIT, &text);
            return self.refuse_image(endpoint_id, &setup, RefusedUntil::SetupTimeout);
        }
        let correlation_id = self.to_driver.next_correlation_id();
        let allocation = self.image_allocation(subscription, &setup);
        let settings = self.image_log_settings(subscription, &setup, correlation_id, window);
        let job = Job::CreateLog {
            path: log_files::image_path(&self.context.directory, correlation_id),
            settings: Box::new(settings),
            storage: self.context.storage_checks(),
            first: allocation.initial(),
        };
        let request = ImageRequest { correlation_id, endpoint_id, setup, source, control, allocation };
        if self.submit(job, Pending::ImageLog(Box::new(request))).is_err() {
            self.refuse_image(endpoint_id, &setup, RefusedUntil::NextSetup);
        }
    }

    fn refuse_image(&mut self, endpoint_id: u64, setup: &Setup, until: RefusedUntil) {
        let Setup { stream_id, session_id, .. } = *setup;
        self.tell_receiver(ReceiverCommand::RefuseImage { endpoint_id, stream_id, session_id, until });
    }

    /// Decides how much of an image's log is allocated at first.
    fn image_allocation(&self, subscription: &Subscription, setup: &Setup) -> Allocation {
        let params = &subscription.params;
        if params.is_sparse {
            return Allocation::whole();
        }
        let bits = setup.term_length.trailing_zeros();
        let start = compute_position(setup.active_term_id, setup.term_offset, bits, setup.initial_term_id);
        let length = allocation::first_length(&self.context);
        Allocation::first(params.allocation, start, setup.term_length as usize, METADATA_LENGTH, length)
    }

    fn image_log_settings(
        &self,
        subscription: &Subscription,
        setup: &Setup,
        correlation_id: i64,
        window: i32,
    ) -> LogSettings {
        let params = &subscription.params;
        let channel = match &subscription.source {
            Source::Network { channel, .. } => Some(channel),
            _ => None,
        };
        let buffer = |length: Option<i32>, default: i32| length.unwrap_or(default);
        let sndbuf = channel.and_then(|channel| channel.uri.socket_sndbuf().ok().flatten());
        let rcvbuf = channel.and_then(|channel| channel.uri.socket_rcvbuf().ok().flatten());
        let untethered = self.untethered_of(subscription);
        LogSettings {
            correlation_id,
            initial_term_id: setup.initial_term_id,
            session_id: setup.session_id,
            stream_id: setup.stream_id,
            mtu_length: setup.mtu as usize,
            term_length: setup.term_length as usize,
            page_size: self.context.file_page_size,
            publication_window_length: 0,
            receiver_window_length: window,
            socket_sndbuf_length: buffer(sndbuf, self.context.socket_sndbuf_length),
            os_default_socket_sndbuf_length: self.limits.default_sndbuf as i32,
            os_max_socket_sndbuf_length: self.limits.max_sndbuf as i32,
            socket_rcvbuf_length: buffer(rcvbuf, self.context.socket_rcvbuf_length),
            os_default_socket_rcvbuf_length: self.limits.default_rcvbuf as i32,
            os_max_socket_rcvbuf_length: self.limits.max_rcvbuf as i32,
            max_resend: 0,
            entity_tag: 0,
            response_correlation_id: 0,
            linger_timeout_ns: 0,
            untethered_window_limit_timeout_ns: untethered.window_limit_ns,
            untethered_resting_timeout_ns: untethered.resting_ns,
            untethered_linger_timeout_ns: untethered.linger_ns,
            group: is_group(params, setup),
            is_response: params.is_response,
            rejoin: params.rejoins,
            reliable: params.is_reliable,
            sparse: params.is_sparse,
            signal_eos: false,
            spies_simulate_connection: false,
            tether: params.is_tethered,
            log_type: LogType::Image,
            start_term_id: setup.active_term_id,
            start_term_offset: setup.term_offset,
        }
    }

    fn untethered_of(&self, subscription: &Subscription) -> UntetheredTimeouts {
        let of_channel = match &subscription.source {
            Source::Network { channel, .. } => params::untethered(&channel.uri, &self.context).ok(),
            _ => None,
        };
        of_channel.unwrap_or(UntetheredTimeouts {
            window_limit_ns: self.context.untethered_window_limit_timeout_ns,
            linger_ns: self.context.untethered_linger_ns(),
            resting_ns: self.context.untethered_resting_timeout_ns,
        })
    }

    pub(super) fn on_image_log(
        &mut self,
        request: ImageRequest,
        log: Result<(LogFile, Option<String>), Failure>,
    ) {
        let outcome = log.and_then(|(file, warning)| {
            self.on_mapped(file.length);
            if let Some(warning) = warning {
                self.events.record_kind(kind::LOW_SPACE, &warning);
            }
            self.add_image(&request, file)
        });
        if let Err(failure) = outcome {
            let ImageRequest { endpoint_id, setup, .. } = &request;
            let mut wanted = self.subscriptions.iter();
            let is_wanted = wanted
                .any(|subscription| is_wanted(subscription, *endpoint_id, setup.stream_id, setup.session_id));
            let kind = match is_wanted {
                true => format!("{}: {}", kind::IMAGE_NOT_MADE, failure.cause()),
                false => kind::IMAGE_NOT_WANTED.to_owned(),
            };
            self.events.record_kind(&kind, &failure.to_string());
            let until = if is_wanted { RefusedUntil::SetupTimeout } else { RefusedUntil::NextSetup };
            self.refuse_image(*endpoint_id, setup, until);
        }
    }

    fn add_image(&mut self, request: &ImageRequest, file: LogFile) -> Result<(), Failure> {
        let ImageRequest { correlation_id, endpoint_id, setup, source, ref allocation, .. } = *request;
        let wanted: Vec<i64> = self
            .subscriptions
            .iter()
            .filter(|subscription| is_wanted(subscription, endpoint_id, setup.stream_id, setup.session_id))
            .map(|subscription| subscription.registration_id)
            .collect();
        let Some(first) = self
            .subscriptions
            .iter()
            .find(|subscription| is_wanted(subscription, endpoint_id, setup.stream_id, setup.session_id))
        else {
            self.closed_logs.push_back(file);
            return Err(Failure::generic(format!(
                "WARN: nobody wants session={} stream={} any more",
                setup.session_id, setup.stream_id
            )));
        };
        let params = first.params.clone();
        let identity = ImageIdentity {
            correlation_id,
            session_id: setup.session_id,
            stream_id: setup.stream_id,
            channel: first.channel.clone(),
            source: address_text(source),
        };
        let (owner_id, untethered) = (first.client_id, self.untethered_of(first));
        let bits = file.log.position_bits_to_shift();
        let join_position =
            compute_position(setup.active_term_id, setup.term_offset, bits, setup.initial_term_id);
        let max_window = params.receiver_window.min(setup.term_length / 2);
        let made = self.congestion(&params, max_window, setup.mtu).and_then(|congestion| {
            let counters = self.image_counters(&identity, owner_id, join_position, &congestion)?;
            Ok((congestion, counters))
        });
        let (congestion, counters) = match made {
            Ok(made) => made,
            Err(failure) => {
                self.closed_logs.push_back(file);
                return Err(failure);
            }
        };
        let shared = Arc::new(ImageShared::new());
        let loss = LossDetector::new(self.nak_delay(&params, &setup));
        let log_file_name = file.path.to_string_lossy().into_owned();
        let image = PublicationImage::new(identity, file, counters, shared, congestion, loss, join_position)
            .with_allocation(allocation.clone());
        let receive = self.receive_image(request, &image, params.is_reliable, (max_window, join_position));
        self.images.push(ImageEntry {
            image,
            endpoint_id,
            requests_response: setup.flags & flag::SETUP_SEND_RESPONSE != 0,
            response_session: None,
            rejoins: params.rejoins,
            is_removing: false,
            untethered,
            log_file_name,
        });
        if let Some(endpoint) = self.receive_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
        {
            endpoint.images += 1;
        }
        let index = self.images.len() - 1;
        self.tell_receiver(ReceiverCommand::AddImage(Box::new(receive)));
        for registration_id in wanted {
            self.link_image(index, registration_id);
        }
        Ok(())
    }

    /// Creates the receiver's half of an image.
    fn receive_image(
        &self,
        request: &ImageRequest,
        image: &PublicationImage,
        is_reliable: bool,
        (max_window, join_position): (i32, i64),
    ) -> ReceiveImage {
        let ImageRequest { correlation_id, endpoint_id, setup, control, .. } = *request;
        let counters = &image.counters;
        let of_conductor = ReceiveImageSetup {
            log: image.file.log.clone(),
            is_reliable,
            max_window,
            initial_window: image.initial_window(),
            join_position,
            status_timeout_ns: self.context.status_message_timeout_ns,
            liveness_timeout_ns: self.context.image_liveness_timeout_ns,
            rtt_interval_ns: image.rtt_interval_ns(),
            high_water_mark: counters.high_water_mark.clone(),
            rebuild_position: counters.rebuild_position.clone(),
            naks_sent: counters.naks_sent.clone(),
            shared: image.shared.clone(),
            control,
        };
        ReceiveImage::new(correlation_id, endpoint_id, setup.session_id, setup.stream_id, of_conductor)
    }

    fn nak_delay(&mut self, params: &SubscriptionParams, setup: &Setup) -> NakDelay {
        if !params.is_reliable {
            return NakDelay::Static { first_ns: 0, retry_ns: 0 };
        }
        if is_group(params, setup) {
            return NakDelay::Group {
                max_backoff_ns: self.context.nak_multicast_max_backoff_ns,
                group_size: self.context.nak_multicast_group_size,
                rng: self.rng.fork(),
            };
        }
        let ratio = self.context.nak_unicast_retry_delay_ratio;
        match params.nak_delay_ns {
            Some(delay_ns) => NakDelay::Static {
                first_ns: delay_ns,
                retry_ns: delay_ns.max(MIN_NAK_DELAY_NS).saturating_mul(ratio),
            },
            None => {
                let first_ns = self.context.nak_unicast_delay_ns;
                NakDelay::Static { first_ns, retry_ns: first_ns.saturating_mul(ratio) }
            }
        }
    }

    /// Unlinks a subscription from all images.
    pub(super) fn unlink_images(&mut self, registration_id: i64) {
        for entry in &mut self.images {
            if let Some(subscriber) = entry.image.subscribers.remove(registration_id) {
                self.counters.free(subscriber.position.id());
            }
        }
    }

    pub(super) fn reject_network_image(&mut self, image_id: i64, reason: &str) -> bool {
        let is_known = self.images.iter().any(|entry| entry.image.identity.correlation_id == image_id);
        if is_known {
            let reason = reason.to_owned();
            self.tell_receiver(ReceiverCommand::RejectImage { correlation_id: image_id, reason });
        }
        is_known
    }

    /// Checks all images; the timer calls it (spec 02 §3.7).
    pub(super) fn check_images(&mut self) {
        for index in 0..self.images.len() {
            let now_ns = self.now.ns;
            let entry = &mut self.images[index];
            match entry.image.shared.state() {
                ImageState::Active if entry.image.file.log.is_publication_revoked() => {
                    entry.image.shared.advance(ImageState::Draining, now_ns);
                }
                ImageState::Active | ImageState::Draining => self.check_image_tethers(index),
                ImageState::Init | ImageState::Linger | ImageState::Done => {}
            }
            let entry = &mut self.images[index];
            if entry.image.is_over(now_ns, self.context.status_message_timeout_ns) {
                self.linger_image(index);
            } else if !entry.is_removing
                && entry.image.is_done(now_ns, self.context.image_liveness_timeout_ns)
            {
                entry.is_removing = true;
                entry.image.shared.advance(ImageState::Done, now_ns);
                let correlation_id = entry.image.identity.correlation_id;
                self.tell_receiver(ReceiverCommand::RemoveImage { correlation_id });
            }
        }
    }

    fn check_image_tethers(&mut self, index: usize) {
        let entry = &mut self.images[index];
        let mut changes = std::mem::take(&mut self.tether_changes);
        changes.clear();
        entry.image.check_untethered(&entry.untethered, self.now.ns, &mut changes);
        let id = entry.image.identity.correlation_id;
        for change in &changes {
            match *change {
                TetherChange::Unavailable { registration_id } => self.tell_unavailable(id, registration_id),
                TetherChange::Available { registration_id, counter_id, .. } => {
                    self.events.available_image(image_event(
                        &self.images[index],
                        registration_id,
                        counter_id,
                    ));
                }
                TetherChange::Removed { counter_id, .. } => self.counters.free(counter_id),
            }
        }
        self.tether_changes = changes;
    }

    /// Tells subscribers that an image has ended. Its session may get a new image.
    fn linger_image(&mut self, index: usize) {
        let entry = &mut self.images[index];
        entry.image.shared.advance(ImageState::Linger, self.now.ns);
        let identity = entry.image.identity.clone();
        let (endpoint_id, rejoins) = (entry.endpoint_id, entry.rejoins);
        let subscribers = entry.image.subscribers.drain();
        for subscriber in subscribers {
            self.counters.free(subscriber.position.id());
            self.tell_unavailable(identity.correlation_id, subscriber.registration_id);
        }
        let entry = &mut self.images[index];
        entry.is_removing = true;
        entry.image.shared.advance(ImageState::Done, self.now.ns);
        let correlation_id = identity.correlation_id;
        self.tell_receiver(ReceiverCommand::RemoveImage { correlation_id });
        if rejoins {
            let (stream_id, session_id) = (identity.stream_id, identity.session_id);
            self.tell_receiver(ReceiverCommand::RemoveCoolDown { endpoint_id, stream_id, session_id });
        }
    }

    /// Frees an image that the receiver has released, so that nothing writes its log any more.
    pub(super) fn on_image_released(&mut self, correlation_id: i64) {
        let Some(index) =
            self.images.iter().position(|entry| entry.image.identity.correlation_id == correlation_id)
        else {
            return;
        };
        let mut entry = self.images.remove(index);
        for subscriber in entry.image.subscribers.drain() {
            self.counters.free(subscriber.position.id());
        }
        let counters = &entry.image.counters;
        self.counters.free_all(counters.iter());
        self.closed_logs.push_back(entry.image.file);
        if let Some(endpoint) =
            self.receive_endpoints.iter_mut().find(|endpoint| endpoint.id == entry.endpoint_id)
        {
            endpoint.images = endpoint.images.saturating_sub(1);
        }
        self.close_unused_receive_endpoint(entry.endpoint_id);
    }
}

fn is_wanted(subscription: &Subscription, endpoint_id: u64, stream_id: i32, session_id: i32) -> bool {
    matches!(&subscription.source, Source::Network { endpoint_id: id, .. } if *id == endpoint_id)
        && subscription.stream_id == stream_id
        && subscription.wants(session_id)
}

/// True when NAKs are delayed at random (spec 02 §3.5).
fn is_group(params: &SubscriptionParams, setup: &Setup) -> bool {
    match params.group {
        Group::Yes => true,
        Group::No => false,
        Group::Infer => setup.flags & flag::SETUP_GROUP != 0,
    }
}

fn image_event(entry: &ImageEntry, subscription_id: i64, position_id: i32) -> ImageEvent<'_> {
    let identity = &entry.image.identity;
    ImageEvent {
        correlation_id: identity.correlation_id,
        session_id: identity.session_id,
        stream_id: identity.stream_id,
        subscription_id,
        position_id,
        log_file: &entry.log_file_name,
        source: &identity.source,
    }
}
