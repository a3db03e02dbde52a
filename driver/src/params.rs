//! Parameters of publications and subscriptions: those of the channel, else the driver's (spec 02 §2.10, §3.17).

use harrier_protocol::uri::{
    ChannelUri, ControlMode, Group, InitialPosition, MIN_TERM_LENGTH, ResponseCorrelation, SessionId, key,
};

use crate::allocation::AllocationMode;
use crate::context::DriverContext;
use crate::failure::Failure;
use crate::subscribers::UntetheredTimeouts;
use crate::timestamps::ReceiveOffsets;

/// Key for the longest term of a subscription's images, which Aeron does not have.
const MAX_TERM_LENGTH_KEY: &str = "image-max-term-length";

/// Parameters of a publication.
#[derive(Debug, Clone)]
pub(crate) struct PublicationParams {
    pub(crate) term_length: i32,
    pub(crate) mtu_length: i32,
    pub(crate) window_length: i32,
    pub(crate) position: Option<InitialPosition>,
    pub(crate) session: Option<SessionId>,
    pub(crate) linger_ns: i64,
    pub(crate) is_sparse: bool,
    pub(crate) signals_eos: bool,
    pub(crate) spies_simulate_connection: bool,
    pub(crate) max_resend: i32,
    pub(crate) has_max_resend: bool,
    pub(crate) entity_tag: Option<i64>,
    pub(crate) response_correlation: Option<ResponseCorrelation>,
    /// True when the publication answers one image.
    pub(crate) is_response: bool,
    pub(crate) untethered: UntetheredTimeouts,
    pub(crate) allocation: AllocationMode,
}

impl PublicationParams {
    /// Reads the parameters of a channel and checks all that needs no other resource of the driver.
    pub(crate) fn new(uri: &ChannelUri, stream_id: i32, context: &DriverContext) -> Result<Self, Failure> {
        uri.check_publication(stream_id)?;
        let is_ipc = uri.is_ipc();
        let position = uri.initial_position()?;
        let default_term = if is_ipc { context.ipc_term_buffer_length } else { context.term_buffer_length };
        let response_correlation = uri.response_correlation()?;
        // Nothing is ever written to a prototype, so the shortest term will do (spec 02 §2.12).
        let is_prototype = response_correlation == Some(ResponseCorrelation::Prototype) && !is_ipc;
        let term_length =
            if is_prototype { MIN_TERM_LENGTH } else { uri.term_length()?.unwrap_or(default_term) };
        let default_mtu = if is_ipc { context.ipc_mtu_length } else { context.mtu_length };
        let mtu_length = uri.mtu()?.unwrap_or(default_mtu);
        if mtu_length > (term_length / 8).min(16 << 20) + 32 && !is_prototype {
            return Err(Failure::generic(format!(
                "mtuLength={mtu_length} must not exceed the longest message of term-length={term_length}"
            )));
        }
        if position.is_some_and(|position| position.term_offset > term_length) {
            return Err(Failure::generic(format!("term-offset > term-length={term_length}")));
        }
        let configured = if is_ipc {
            context.ipc_publication_term_window_length
        } else {
            context.publication_term_window_length
        };
        let window_length = window(uri, configured, term_length, mtu_length)?;
        let untethered = untethered(uri, context)?;
        Ok(Self {
            term_length,
            mtu_length,
            window_length,
            position,
            session: uri.session_id()?,
            linger_ns: uri.linger_ns()?.unwrap_or(context.publication_linger_timeout_ns),
            is_sparse: uri.boolean(key::SPARSE).unwrap_or(context.term_buffer_sparse_file),
            signals_eos: uri.boolean(key::EOS).unwrap_or(true),
            spies_simulate_connection: uri
                .boolean(key::SPIES_SIMULATE_CONNECTION)
                .unwrap_or(context.spies_simulate_connection),
            max_resend: uri.max_resend()?.unwrap_or(context.max_resend),
            has_max_resend: uri.contains(key::MAX_RESEND),
            entity_tag: uri.tags()?.and_then(|tags| tags.entity),
            response_correlation,
            is_response: is_response(uri),
            untethered,
            allocation: AllocationMode::of(uri, AllocationMode::Whole)?,
        })
    }

    /// Checks the second add of a shared publication: explicit parameters must be equal (spec 02 §2.10).
    pub(crate) fn check_equal(
        &self,
        uri: &ChannelUri,
        existing: &SharedParams,
        channel: &str,
    ) -> Result<(), Failure> {
        let position = self.position;
        let requested: [(&str, Option<i64>, i64); 6] = [
            (key::MTU, uri.mtu()?.map(i64::from), i64::from(existing.mtu_length)),
            (key::TERM_LENGTH, uri.term_length()?.map(i64::from), i64::from(existing.term_length)),
            (
                key::SESSION_ID,
                match self.session {
                    Some(SessionId::Fixed(id)) => Some(i64::from(id)),
                    _ => None,
                },
                i64::from(existing.session_id),
            ),
            (
                key::INITIAL_TERM_ID,
                position.map(|p| i64::from(p.initial_term_id)),
                i64::from(existing.start.initial_term_id),
            ),
            (key::TERM_ID, position.map(|p| i64::from(p.term_id)), i64::from(existing.start.term_id)),
            (
                key::TERM_OFFSET,
                position.map(|p| i64::from(p.term_offset)),
                i64::from(existing.start.term_offset),
            ),
        ];
        for (key, requested, existing_value) in requested {
            if let Some(requested) = requested
                && requested != existing_value
            {
                return Err(Failure::generic(format!(
                    "existing publication has different '{key}': existing={existing_value} \
                     requested={requested} existingChannel={} channel={channel}",
                    existing.channel
                )));
            }
        }
        if self.spies_simulate_connection != existing.spies_simulate_connection {
            return Err(Failure::generic(format!(
                "existing publication has different spies simulate connection: requested={}",
                self.spies_simulate_connection
            )));
        }
        Ok(())
    }
}

fn is_response(uri: &ChannelUri) -> bool {
    uri.control_mode() == Some(ControlMode::Response)
}

/// Parameters with which a shared publication was created.
#[derive(Debug, Clone)]
pub(crate) struct SharedParams {
    pub(crate) channel: String,
    pub(crate) mtu_length: i32,
    pub(crate) term_length: i32,
    pub(crate) session_id: i32,
    pub(crate) start: InitialPosition,
    pub(crate) spies_simulate_connection: bool,
}

fn window(uri: &ChannelUri, configured: i32, term_length: i32, mtu_length: i32) -> Result<i32, Failure> {
    let half = term_length / 2;
    let Some(window) = uri.publication_window()? else {
        return Ok(if configured == 0 { half } else { configured.min(half) });
    };
    if window < mtu_length {
        return Err(Failure::generic(format!("pub-wnd={window} cannot be less than the mtu={mtu_length}")));
    }
    if window > half {
        return Err(Failure::generic(format!(
            "pub-wnd={window} must not exceed half the term-length={term_length}"
        )));
    }
    Ok(window)
}

/// Time-outs of untethered subscribers: those of the channel, else the driver's.
pub(crate) fn untethered(uri: &ChannelUri, context: &DriverContext) -> Result<UntetheredTimeouts, Failure> {
    let window_limit_ns = uri
        .duration_ns(key::UNTETHERED_WINDOW_LIMIT_TIMEOUT)?
        .unwrap_or(context.untethered_window_limit_timeout_ns);
    let linger_ns = match uri.duration_ns(key::UNTETHERED_LINGER_TIMEOUT)? {
        Some(linger_ns) => linger_ns,
        None if uri.contains(key::UNTETHERED_WINDOW_LIMIT_TIMEOUT) => window_limit_ns,
        None => context.untethered_linger_ns(),
    };
    let resting_ns =
        uri.duration_ns(key::UNTETHERED_RESTING_TIMEOUT)?.unwrap_or(context.untethered_resting_timeout_ns);
    for (key, timeout_ns) in [
        (key::UNTETHERED_WINDOW_LIMIT_TIMEOUT, window_limit_ns),
        (key::UNTETHERED_LINGER_TIMEOUT, linger_ns),
        (key::UNTETHERED_RESTING_TIMEOUT, resting_ns),
    ] {
        if timeout_ns <= context.timer_interval_ns {
            return Err(Failure::generic(format!(
                "{key}={timeout_ns}ns must be greater than the driver's timer interval={}ns",
                context.timer_interval_ns
            )));
        }
    }
    Ok(UntetheredTimeouts { window_limit_ns, linger_ns, resting_ns })
}

/// Parameters of a subscription.
#[derive(Debug, Clone)]
pub(crate) struct SubscriptionParams {
    pub(crate) session_id: Option<i32>,
    pub(crate) is_reliable: bool,
    pub(crate) is_tethered: bool,
    pub(crate) rejoins: bool,
    pub(crate) is_sparse: bool,
    pub(crate) is_response: bool,
    pub(crate) group: Group,
    pub(crate) receiver_window: i32,
    pub(crate) nak_delay_ns: Option<i64>,
    pub(crate) congestion_control: String,
    /// Longest term of its images; 0 sets no limit.
    pub(crate) max_term_length: i32,
    pub(crate) allocation: AllocationMode,
}

impl SubscriptionParams {
    /// Reads the parameters of a channel and checks all that needs no other resource of the driver.
    pub(crate) fn new(uri: &ChannelUri, context: &DriverContext) -> Result<Self, Failure> {
        uri.check_subscription()?;
        ReceiveOffsets::of(uri)?;
        let session_id = match uri.session_id()? {
            Some(SessionId::Fixed(id)) => Some(id),
            Some(SessionId::Tag(_)) => {
                return Err(Failure::generic("session-id of a subscription must be a number"));
            }
            None => None,
        };
        Ok(Self {
            session_id,
            is_reliable: uri.boolean(key::RELIABLE).unwrap_or(context.reliable_stream),
            is_tethered: uri.boolean(key::TETHER).unwrap_or(context.tether_subscriptions),
            rejoins: uri.boolean(key::REJOIN).unwrap_or(context.rejoin_stream),
            is_sparse: uri.boolean(key::SPARSE).unwrap_or(context.term_buffer_sparse_file),
            is_response: is_response(uri),
            group: if uri.contains(key::GROUP) { uri.group() } else { context.receiver_group_consideration },
            receiver_window: uri.receiver_window()?.unwrap_or(context.initial_window_length),
            nak_delay_ns: uri.nak_delay_ns()?,
            congestion_control: uri
                .get(key::CONGESTION_CONTROL)
                .unwrap_or(&context.congestion_control)
                .to_owned(),
            max_term_length: uri.size(MAX_TERM_LENGTH_KEY)?.unwrap_or(context.image_max_term_length),
            allocation: AllocationMode::of(uri, AllocationMode::of_images(context))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(channel: &str) -> Result<PublicationParams, Failure> {
        PublicationParams::new(&ChannelUri::parse(channel).unwrap(), 1001, &DriverContext::new("/d"))
    }

    #[test]
    fn defaults_depend_on_the_medium() {
        let ipc = publication("aeron:ipc").unwrap();
        assert_eq!((ipc.term_length, ipc.window_length), (64 << 20, 32 << 20));
        let udp = publication("aeron:udp?endpoint=localhost:1|term-length=64k").unwrap();
        assert_eq!((udp.term_length, udp.window_length, udp.mtu_length), (64 << 10, 32 << 10, 1_408));
    }

    #[test]
    fn windows_outside_their_range_are_refused() {
        let message = |channel| publication(channel).unwrap_err().message;
        assert!(message("aeron:ipc?pub-wnd=64").contains("pub-wnd=64 cannot be less than the mtu=1408"));
        assert!(message("aeron:ipc?untethered-resting-timeout=1ms").contains("timer interval"));
    }

    #[test]
    fn a_second_add_must_not_contradict_the_first() {
        let existing = SharedParams {
            channel: "aeron:ipc".into(),
            mtu_length: 1_408,
            term_length: 65_536,
            session_id: 5,
            start: InitialPosition { initial_term_id: 1, term_id: 1, term_offset: 0 },
            spies_simulate_connection: false,
        };
        let check = |channel: &str| {
            let uri = ChannelUri::parse(channel).unwrap();
            publication(channel).unwrap().check_equal(&uri, &existing, channel)
        };
        check("aeron:ipc").unwrap();
        check("aeron:ipc?term-length=64k|mtu=1408|session-id=5").unwrap();
        assert!(check("aeron:ipc?mtu=2048").unwrap_err().message.contains("different 'mtu'"));
        assert!(check("aeron:ipc?session-id=6").unwrap_err().message.contains("different 'session-id'"));
    }
}
