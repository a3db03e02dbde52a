//! What counters say of a channel's socket (spec 01 §3.6, §5.4).

use harrier_protocol::counter_types;
use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::counters::CountersReader;

/// State of a channel's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelStatus {
    /// Being opened.
    Initializing,
    /// Open. IPC and spy channels are always active.
    Active,
    /// Being closed, or closed.
    Closing,
    /// Could not be opened, or failed; the reason came as an event.
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

/// Addresses bound by the channel with this status counter, in counter order.
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

/// The channel with `endpoint=host:0` replaced by the bound port; the channel itself when its port is not 0.
pub(crate) fn resolved_channel(counters: &CountersReader, channel: &str, status_id: i32) -> Option<String> {
    let mut uri = ChannelUri::parse(channel).ok()?;
    let Some(endpoint) = uri.get("endpoint").map(str::to_owned) else { return Some(channel.to_owned()) };
    let Some(host) = endpoint.strip_suffix(":0") else { return Some(channel.to_owned()) };
    let addresses = local_socket_addresses(counters, status_id);
    let port = addresses.first()?.rsplit_once(':')?.1;
    uri.put("endpoint", format!("{host}:{port}"));
    Some(uri.to_string())
}
