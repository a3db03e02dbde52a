//! Windows and counters of images (spec 02 §3.10, §5.7).

use harrier_protocol::counter_types::{name, type_id};
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use crate::congestion::{CongestionControl, CubicSettings};
use crate::counters::StreamIdentity;
use crate::failure::Failure;
use crate::params::SubscriptionParams;
use crate::publication_image::{CubicCounters, ImageCounters, ImageIdentity};

impl<M: Memory, T: Transport> Conductor<M, T> {
    pub(super) fn congestion(
        &self,
        params: &SubscriptionParams,
        max_window: i32,
        mtu: i32,
    ) -> Result<CongestionControl, Failure> {
        let cubic = CubicSettings {
            measures_rtt: self.context.cubic_measure_rtt,
            initial_rtt_ns: self.context.cubic_initial_rtt_ns,
            is_tcp_mode: self.context.cubic_tcp_mode,
        };
        CongestionControl::new(&params.congestion_control, max_window, mtu, cubic, self.now.ns)
    }

    /// Allocates the counters of a new image. All are freed when one cannot be allocated.
    pub(super) fn image_counters(
        &mut self,
        identity: &ImageIdentity,
        owner_id: i64,
        join_position: i64,
        congestion: &CongestionControl,
    ) -> Result<ImageCounters, Failure> {
        let stream = StreamIdentity {
            registration_id: identity.correlation_id,
            owner_id,
            session_id: identity.session_id,
            stream_id: identity.stream_id,
            channel: &identity.channel,
        };
        let of_nobody = StreamIdentity { owner_id: -1, ..stream };
        let window = i64::from(congestion.initial_window());
        let cubic = [
            (type_id::PER_IMAGE, name::CUBIC_RTT, of_nobody, 0),
            (type_id::PER_IMAGE, name::CUBIC_WINDOW, of_nobody, window),
        ];
        let always = [
            (type_id::RECEIVER_HWM, name::RECEIVER_HWM, stream, join_position),
            (type_id::RECEIVER_POSITION, name::RECEIVER_POSITION, stream, join_position),
            (type_id::RECEIVER_NAKS_SENT, name::RECEIVER_NAKS_SENT, stream, 0),
        ];
        let is_cubic = matches!(congestion, CongestionControl::Cubic(_));
        let mut counters = Vec::with_capacity(cubic.len() + always.len());
        for (type_id, name, stream, value) in cubic.into_iter().filter(|_| is_cubic).chain(always) {
            match self.counters.stream(type_id, name, stream, value) {
                Ok(counter) => counters.push(counter),
                Err(error) => {
                    self.counters.free_all(&counters);
                    return Err(error.into());
                }
            }
        }
        let mut counters = counters.into_iter();
        let mut next = || counters.next().expect("as many counters as were asked for");
        let cubic = is_cubic.then(|| CubicCounters { rtt_ns: next(), window: next() });
        Ok(ImageCounters { cubic, high_water_mark: next(), rebuild_position: next(), naks_sent: next() })
    }
}
