//! Endpoints of channels. Their sockets open for the first user and close after the last (spec 02 §2.2, §3.1, §5.6).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use harrier_protocol::ErrorCode;
use harrier_protocol::counter_types::channel_status;
use harrier_protocol::uri::{ChannelUri, TimestampOffset, key};
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::transport::SocketSpec;
use harrier_ringbuf::{Datagrams, Memory, Transport};

use super::Conductor;
use super::pending::Pending;
use crate::channel::UdpChannel;
use crate::context::effective;
use crate::executor::{Job, Opened};
use crate::failure::Failure;
use crate::handover::{ReceiverCommand, SenderCommand};
use crate::port_manager::PortManager;
use crate::receiver::endpoint::ReceiveEndpoint as ReceiverEndpoint;
use crate::receiver::transport::{MulticastGroup, ReceiveTransport};
use crate::sender::destinations::Destinations;
use crate::sender::endpoint::SendEndpoint as SenderEndpoint;
use crate::timestamps::ReceiveOffsets;

/// The conductor's record of a send channel.
#[derive(Debug)]
pub(super) struct SendEndpoint {
    pub(super) id: u64,
    pub(super) channel: UdpChannel,
    pub(super) socket_name: String,
    pub(super) status: AtomicCounter,
    pub(super) references: usize,
    /// Destinations given by name, with the correlation ids of their commands.
    pub(super) named_destinations: Vec<(i64, UdpChannel)>,
    /// Destinations whose name has not been resolved yet.
    pub(super) unresolved: Vec<UnresolvedDestination>,
    is_closing: bool,
    port: Option<u16>,
}

/// The conductor's record of a receive channel.
#[derive(Debug)]
pub(super) struct ReceiveEndpoint {
    pub(super) id: u64,
    pub(super) channel: UdpChannel,
    pub(super) status: AtomicCounter,
    pub(super) images: usize,
    /// Destinations, each with a socket of its own.
    pub(super) destinations: Vec<ReceiveDestination>,
    /// Number of response subscriptions, whether they know their session or not.
    pub(super) responses: usize,
    /// Number of subscriptions by stream and session.
    interest: BTreeMap<(i32, Option<i32>), usize>,
    is_closing: bool,
    port: Option<u16>,
}

/// A destination of a publication whose name does not resolve.
#[derive(Debug)]
pub(super) struct UnresolvedDestination {
    pub(super) registration_id: i64,
    pub(super) uri: Box<ChannelUri>,
    pub(super) text: String,
    /// Time of the next lookup, ns.
    pub(super) next_ns: i64,
}

/// A destination of a multi-destination subscription.
#[derive(Debug)]
pub(super) struct ReceiveDestination {
    /// Correlation id of the command that added the destination.
    pub(super) registration_id: i64,
    pub(super) channel: UdpChannel,
    pub(super) address: AtomicCounter,
    pub(super) port: Option<u16>,
}

fn closing(name: &str) -> Failure {
    Failure::new(
        ErrorCode::ResourceTemporarilyUnavailable,
        format!("{name} found in CLOSING state, please retry"),
    )
}

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Finds the open endpoint that a publication's channel may use.
    pub(super) fn find_send_endpoint(&self, channel: &UdpChannel) -> Result<Option<usize>, Failure> {
        for (index, endpoint) in self.send_endpoints.iter().enumerate() {
            if channel.matches(&endpoint.channel)? {
                if endpoint.is_closing {
                    return Err(closing("send_channel_endpoint"));
                }
                if channel.is_response() != endpoint.channel.is_response() {
                    return Err(Failure::generic(format!(
                        "control-mode=response does not share a socket with others: existingChannel={} channel={}",
                        endpoint.channel.text, channel.text
                    )));
                }
                self.check_socket_buffers(channel, &endpoint.channel)?;
                check_stamps(channel, &endpoint.channel, &[key::CHANNEL_SEND_TIMESTAMP_OFFSET])?;
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Finds the open endpoint that a subscription's channel may use.
    pub(super) fn find_receive_endpoint(&self, channel: &UdpChannel) -> Result<Option<usize>, Failure> {
        for (index, endpoint) in self.receive_endpoints.iter().enumerate() {
            if channel.matches(&endpoint.channel)? {
                if endpoint.is_closing {
                    return Err(closing("receive_channel_endpoint"));
                }
                self.check_socket_buffers(channel, &endpoint.channel)?;
                let keys = [key::CHANNEL_RECEIVE_TIMESTAMP_OFFSET, key::MEDIA_RECEIVE_TIMESTAMP_OFFSET];
                check_stamps(channel, &endpoint.channel, &keys)?;
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Opens the socket of a subscription, or of a destination of one. `buffers` names the lengths of its buffers,
    /// `channel` is the text that a refusal quotes.
    pub(super) fn open_socket(
        &mut self,
        spec: SocketSpec,
        buffers: &ChannelUri,
        channel: &str,
        pending: Pending,
    ) -> Result<(), Failure> {
        self.open_sockets((spec, None), buffers, channel, pending)
    }

    /// Like [`open_socket`](Self::open_socket). It also opens the socket on which receivers are heard, if there is one.
    pub(super) fn open_sockets(
        &mut self,
        (spec, control): (SocketSpec, Option<SocketSpec>),
        buffers: &ChannelUri,
        channel: &str,
        pending: Pending,
    ) -> Result<(), Failure> {
        let sndbuf = buffers.socket_sndbuf()?.unwrap_or(self.context.socket_sndbuf_length);
        let rcvbuf = buffers.socket_rcvbuf()?.unwrap_or(self.context.socket_rcvbuf_length);
        let stamps = buffers.contains(key::MEDIA_RECEIVE_TIMESTAMP_OFFSET);
        let with_buffers = |spec| SocketSpec {
            stamps,
            sndbuf_length: usize::try_from(sndbuf).unwrap_or(0),
            rcvbuf_length: usize::try_from(rcvbuf).unwrap_or(0),
            ..spec
        };
        let spec = Box::new(with_buffers(spec));
        let control = control.map(|control| Box::new(with_buffers(control)));
        self.submit_for_client(Job::Socket { spec, control, channel: channel.to_owned() }, pending)
    }

    /// Refuses an MTU above SO_SNDBUF (spec 02 §2.10): that of the channel, of the channel that the socket was opened
    /// for, or of the driver.
    pub(super) fn check_mtu(
        &self,
        channel: &UdpChannel,
        existing: Option<&UdpChannel>,
        mtu: i32,
    ) -> Result<(), Failure> {
        let named = match channel.uri.socket_sndbuf()? {
            Some(length) => Some(length),
            None => existing.map(|existing| existing.uri.socket_sndbuf()).transpose()?.flatten(),
        };
        let setting = named.unwrap_or(self.context.socket_sndbuf_length);
        let sndbuf = effective(setting, self.limits.default_sndbuf, self.limits.max_sndbuf);
        if mtu as usize > sndbuf {
            return Err(Failure::generic(format!(
                "MTU greater than SO_SNDBUF for channel: mtu={mtu} so-sndbuf={sndbuf} channel={}",
                channel.text
            )));
        }
        Ok(())
    }

    /// Refuses buffer lengths that differ from those of the open socket (spec 02 §2.11). A channel that names none has
    /// the driver's.
    fn check_socket_buffers(&self, channel: &UdpChannel, existing: &UdpChannel) -> Result<(), Failure> {
        let (sndbuf, rcvbuf) = (self.context.socket_sndbuf_length, self.context.socket_rcvbuf_length);
        for (key, wanted, other, setting) in [
            (key::SOCKET_SNDBUF, channel.uri.socket_sndbuf()?, existing.uri.socket_sndbuf()?, sndbuf),
            (key::SOCKET_RCVBUF, channel.uri.socket_rcvbuf()?, existing.uri.socket_rcvbuf()?, rcvbuf),
        ] {
            let Some(wanted) = wanted else { continue };
            let other = other.unwrap_or(setting);
            if wanted != other {
                let other = if other == 0 { "OS default".to_owned() } else { other.to_string() };
                return Err(Failure::generic(format!(
                    "{key}={wanted} does not match existing value of {other}: existingChannel={} channel={}",
                    existing.text, channel.text
                )));
            }
        }
        Ok(())
    }

    /// Refuses a window that the socket cannot hold (spec 02 §3.17).
    pub(super) fn check_window(&self, channel: &UdpChannel, window: i32) -> Result<(), Failure> {
        let setting = channel.uri.socket_rcvbuf()?.unwrap_or(self.context.socket_rcvbuf_length);
        let rcvbuf = effective(setting, self.limits.default_rcvbuf, self.limits.max_rcvbuf);
        if window as usize > rcvbuf {
            return Err(Failure::generic(format!(
                "Initial window greater than SO_RCVBUF for channel: rcv-wnd={window} so-rcvbuf={rcvbuf} \
                 channel={}",
                channel.text
            )));
        }
        Ok(())
    }

    /// Chooses the local port of a sender's socket when a range is set; returns the port that its endpoint has to
    /// release.
    pub(super) fn choose_send_port(
        &mut self,
        spec: &mut SocketSpec,
        has_control: bool,
    ) -> Result<Option<u16>, Failure> {
        if spec.bind.port() == 0 && !has_control {
            return Ok(None);
        }
        choose_port(&mut self.send_ports, spec)
    }

    /// Chooses the local port of a receiver's socket when a range is set; returns the port that its endpoint has to
    /// release.
    pub(super) fn choose_receive_port(&mut self, spec: &mut SocketSpec) -> Result<Option<u16>, Failure> {
        choose_port(&mut self.receive_ports, spec)
    }

    /// Adds an endpoint for a publication's open socket; returns its index.
    pub(super) fn add_send_endpoint(
        &mut self,
        registration_id: i64,
        channel: UdpChannel,
        Opened { socket, control }: Opened<T::Socket>,
        port: Option<u16>,
    ) -> Result<usize, Failure> {
        let bound = control.as_ref().unwrap_or(&socket).local_address();
        let stamp = channel.uri.timestamp_offset(key::CHANNEL_SEND_TIMESTAMP_OFFSET)?;
        let counters = self.endpoint_counters(true, registration_id, &channel, Some(bound))?;
        let status = counters[0].clone();
        let destinations = channel
            .is_multi_destination()
            .then(|| Destinations::new(!channel.is_manual(), counters[counters.len() - 1].clone()));
        let id = self.next_endpoint_id();
        let is_connected = self.context.connect_enabled && channel.control_mode.is_none();
        let remote = if is_connected || destinations.is_some() { None } else { channel.endpoint };
        let resolves = channel.control_mode.is_none() && channel.has_endpoint_name();
        let mut endpoint = SenderEndpoint::new(id, socket, remote, resolves, destinations, counters)
            .of_channel(&channel.text);
        if let Some(control) = control {
            endpoint = endpoint.hearing_on(control);
        }
        if let Some(offset) = stamp {
            endpoint = endpoint.stamping(offset);
        }
        if channel.is_response() {
            endpoint = endpoint.responding();
        }
        self.tell_sender(SenderCommand::AddEndpoint(Box::new(endpoint)));
        self.send_endpoints.push(SendEndpoint {
            id,
            socket_name: channel.socket_name(id as i64),
            channel,
            status,
            references: 0,
            named_destinations: Vec::new(),
            unresolved: Vec::new(),
            is_closing: false,
            port,
        });
        Ok(self.send_endpoints.len() - 1)
    }

    /// Adds an endpoint for a subscription's open socket; returns its index.
    pub(super) fn add_receive_endpoint(
        &mut self,
        registration_id: i64,
        channel: UdpChannel,
        socket: Option<(T::Socket, Option<u16>)>,
    ) -> Result<usize, Failure> {
        let (socket, port) = socket.map_or((None, None), |(socket, port)| (Some(socket), port));
        let bound = socket.as_ref().map(Datagrams::local_address);
        let group_tag = channel.uri.group_tag()?.or(self.context.receiver_group_tag);
        let stamps = ReceiveOffsets::of(&channel.uri)?;
        let counters = self.endpoint_counters(false, registration_id, &channel, bound)?;
        let status = counters[0].clone();
        let id = self.next_endpoint_id();
        let receiver_id = self.next_receiver_id;
        self.next_receiver_id = self.next_receiver_id.wrapping_add(1);
        let transport = socket.map(|socket| Some(Box::new(self.receive_transport(-1, socket, &channel))));
        let transports = transport.into_iter().collect();
        let endpoint =
            ReceiverEndpoint::new(id, transports, receiver_id, group_tag, counters).stamping(stamps);
        self.tell_receiver(ReceiverCommand::AddEndpoint(Box::new(endpoint)));
        self.receive_endpoints.push(ReceiveEndpoint {
            id,
            channel,
            status,
            images: 0,
            destinations: Vec::new(),
            responses: 0,
            interest: BTreeMap::new(),
            is_closing: false,
            port,
        });
        Ok(self.receive_endpoints.len() - 1)
    }

    /// Allocates the counters of a channel: status, address of its socket, number of its destinations. All are freed
    /// when one cannot be allocated.
    fn endpoint_counters(
        &mut self,
        is_send: bool,
        registration_id: i64,
        channel: &UdpChannel,
        bound: Option<SocketAddr>,
    ) -> Result<Vec<AtomicCounter>, Failure> {
        let status = self.counters.channel_status(is_send, registration_id, &channel.text, bound)?;
        let status_id = status.id();
        let mut made = vec![status];
        let address =
            bound.map(|bound| self.counters.local_address(is_send, registration_id, status_id, bound));
        let has_count = is_send && channel.is_multi_destination();
        let count = has_count.then(|| self.counters.destinations(registration_id, &channel.text));
        let mut refused = None;
        for counter in [address, count].into_iter().flatten() {
            match counter {
                Ok(counter) => made.push(counter),
                Err(error) => refused = Some(error),
            }
        }
        let Some(error) = refused else { return Ok(made) };
        self.counters.free_all(&made);
        Err(error.into())
    }

    /// Wraps an open socket of a receive channel for the receiver.
    pub(super) fn receive_transport(
        &self,
        registration_id: i64,
        socket: T::Socket,
        channel: &UdpChannel,
    ) -> ReceiveTransport<T::Socket> {
        let group = channel.group.map(|group| MulticastGroup {
            control: group.control,
            ttl: i32::from(group.ttl(self.context.socket_multicast_ttl)),
        });
        ReceiveTransport::new(registration_id, socket, channel.control, group)
    }

    fn next_endpoint_id(&mut self) -> u64 {
        self.next_endpoint_id += 1;
        self.next_endpoint_id
    }

    /// Releases a publication's reference to its endpoint.
    pub(super) fn release_send_endpoint(&mut self, endpoint_id: u64) {
        if let Some(endpoint) = self.send_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id) {
            endpoint.references = endpoint.references.saturating_sub(1);
        }
        self.close_unused_send_endpoint(endpoint_id);
    }

    /// Closes an endpoint that has no users.
    pub(super) fn close_unused_send_endpoint(&mut self, endpoint_id: u64) {
        let Some(endpoint) = self.send_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
        else {
            return;
        };
        if endpoint.references > 0 || endpoint.is_closing {
            return;
        }
        endpoint.is_closing = true;
        endpoint.status.set_ordered(channel_status::CLOSING);
        self.tell_sender(SenderCommand::RemoveEndpoint { endpoint_id });
    }

    /// Notes that a subscription uses an endpoint.
    pub(super) fn add_interest(&mut self, index: usize, stream_id: i32, session_id: Option<i32>) {
        let endpoint = &mut self.receive_endpoints[index];
        let count = endpoint.interest.entry((stream_id, session_id)).or_default();
        *count += 1;
        let (is_first, endpoint_id) = (*count == 1, endpoint.id);
        if is_first {
            self.tell_receiver(ReceiverCommand::AddInterest { endpoint_id, stream_id, session_id });
        }
    }

    /// Notes that a subscription no longer uses an endpoint.
    pub(super) fn remove_interest(&mut self, endpoint_id: u64, stream_id: i32, session_id: Option<i32>) {
        let Some(endpoint) = self.receive_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
        else {
            return;
        };
        if let Some(count) = endpoint.interest.get_mut(&(stream_id, session_id)) {
            *count -= 1;
            if *count == 0 {
                endpoint.interest.remove(&(stream_id, session_id));
                self.tell_receiver(ReceiverCommand::RemoveInterest { endpoint_id, stream_id, session_id });
            }
        }
        self.close_unused_receive_endpoint(endpoint_id);
    }

    /// Closes an endpoint that has neither subscriptions nor images.
    pub(super) fn close_unused_receive_endpoint(&mut self, endpoint_id: u64) {
        let Some(endpoint) = self.receive_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
        else {
            return;
        };
        let is_used = !endpoint.interest.is_empty() || endpoint.images > 0 || endpoint.responses > 0;
        if is_used || endpoint.is_closing {
            return;
        }
        endpoint.is_closing = true;
        endpoint.status.set_ordered(channel_status::CLOSING);
        self.tell_receiver(ReceiverCommand::RemoveEndpoint { endpoint_id });
    }

    pub(super) fn on_send_endpoint_released(&mut self, endpoint: &SenderEndpoint<T::Socket>) {
        self.counters.free_all(&endpoint.counters);
        if let Some(index) = self.send_endpoints.iter().position(|known| known.id == endpoint.id) {
            self.send_ports.release(self.send_endpoints.remove(index).port);
        }
    }

    pub(super) fn on_receive_endpoint_released(&mut self, endpoint: &ReceiverEndpoint<T::Socket>) {
        self.counters.free_all(&endpoint.counters);
        let Some(index) = self.receive_endpoints.iter().position(|known| known.id == endpoint.id) else {
            return;
        };
        let removed = self.receive_endpoints.remove(index);
        self.counters.free_all(removed.destinations.iter().map(|destination| &destination.address));
        self.receive_ports.release(removed.port);
        removed.destinations.iter().for_each(|destination| self.receive_ports.release(destination.port));
    }
}

/// Takes the port that the socket names, or one of the range. A multicast socket takes none, because others share its
/// port.
fn choose_port(ports: &mut PortManager, spec: &mut SocketSpec) -> Result<Option<u16>, Failure> {
    if spec.multicast.is_some() {
        return Ok(None);
    }
    if spec.bind.port() != 0 {
        ports.mark(spec.bind.port());
    } else {
        spec.bind.set_port(ports.allocate().map_err(Failure::generic)?);
    }
    Ok(Some(spec.bind.port()).filter(|port| *port != 0))
}

/// Checks that times are written at the same offsets as those of the socket's other users (spec 02 §2.11).
fn check_stamps(channel: &UdpChannel, existing: &UdpChannel, keys: &[&'static str]) -> Result<(), Failure> {
    for key in keys {
        let offset_of = |channel: &UdpChannel| channel.uri.timestamp_offset(key);
        let (offset, other) = (offset_of(channel)?, offset_of(existing)?);
        if offset != other {
            return Err(Failure::channel(format!(
                "option conflicts with existing subscription: {key}={} existingChannel={} channel={}",
                offset.map_or(-1, TimestampOffset::value),
                existing.text,
                channel.text
            )));
        }
    }
    Ok(())
}
