//! Status and addresses of a channel's socket, from counters (spec 01 §3.6, §5.4).

use harrier_protocol::counter_types;
use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::counters::CountersReader;

/// State of a channel's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelStatus {
    /// The socket is being opened.
    Initializing,
    /// The socket is open. IPC and spy channels are always active.
    Active,
    /// The socket is being closed, or is closed.
    Closing,
    /// The socket could not be opened, or has failed; an event reported the reason.
    Errored,
}

pub(crate) fn channel_status(counters: &CountersReader, status_id: i32) -> ChannelStatus {
    if status_id < 0 {
        return ChannelStatus::Active;
    }
    match counters.value(status_id) {
        0 => ChannelStatus::Initializing,
        1 => ChannelStatus::Active,
        2 => ChannelStatus::Closing,
        _ => ChannelStatus::Errored,
    }
}

/// Returns the addresses to which the channel with this status counter is bound, in the order of the counters.
pub(crate) fn local_socket_addresses(counters: &CountersReader, status_id: i32) -> Vec<String> {
    let mut addresses = Vec::new();
    if status_id < 0 || channel_status(counters, status_id) != ChannelStatus::Active {
        return addresses;
    }
    counters.for_each(&mut |id, type_id, key, _label| {
        if type_id == counter_types::type_id::LOCAL_SOCKET_ADDRESS
            && let Some((owner, address)) = counter_types::decode_address_key(key)
            && owner == status_id
            && counters.value(id) == 1
            && !address.is_empty()
        {
            addresses.push(String::from_utf8_lossy(address).into_owned());
        }
    });
    addresses
}

/// Returns the channel with the bound port in the place of `endpoint=host:0`; the channel itself when its port is not
/// 0.
pub(crate) fn resolved_channel(counters: &CountersReader, channel: &str, status_id: i32) -> Option<String> {
    let mut uri = ChannelUri::parse(channel).ok()?;
    let Some(endpoint) = uri.get("endpoint").map(str::to_owned) else { return Some(channel.to_owned()) };
    let Some(host) = endpoint.strip_suffix(":0") else { return Some(channel.to_owned()) };
    let addresses = local_socket_addresses(counters, status_id);
    let port = addresses.first()?.rsplit_once(':')?.1;
    uri.put("endpoint", format!("{host}:{port}"));
    Some(uri.to_string())
}
