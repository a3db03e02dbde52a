//! Checks of a driver's settings (spec 02 §6.2).

use harrier_protocol::cnc;
use harrier_protocol::uri::{MAX_MTU_LENGTH, MAX_TERM_LENGTH, MIN_TERM_LENGTH};
use harrier_ringbuf::transport::{BufferLimits, TransportKind, TransportOptions};

use super::{DriverContext, EVENT_LENGTHS, InvalidSetting};
use crate::allocation;

impl DriverContext {
    /// Checks the settings against each other and against the socket buffers that the host grants (spec 02 §6.2).
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn validate(&self, limits: &BufferLimits) -> Result<(), InvalidSetting> {
        self.check_lengths()?;
        self.check_times()?;
        self.check_transport()?;
        let sndbuf = effective(self.socket_sndbuf_length, limits.default_sndbuf, limits.max_sndbuf);
        let rcvbuf = effective(self.socket_rcvbuf_length, limits.default_rcvbuf, limits.max_rcvbuf);
        require(self.mtu_length as usize <= sndbuf, || {
            (format!("mtuLength={}", self.mtu_length), format!("must be at most SO_SNDBUF={sndbuf}"))
        })?;
        require(self.initial_window_length as usize <= rcvbuf, || {
            let setting = format!("initialWindowLength={}", self.initial_window_length);
            (setting, format!("must be at most SO_RCVBUF={rcvbuf}; raise net.core.rmem_max or lower it"))
        })?;
        require(self.mtu_length <= self.initial_window_length, || {
            (
                format!("mtuLength={}", self.mtu_length),
                format!("> initialWindowLength={}", self.initial_window_length),
            )
        })
    }

    fn check_lengths(&self) -> Result<(), InvalidSetting> {
        let terms = [
            ("aeron.term.buffer.length", self.term_buffer_length),
            ("aeron.ipc.term.buffer.length", self.ipc_term_buffer_length),
        ];
        for (name, length) in terms {
            let is_valid = (MIN_TERM_LENGTH..=MAX_TERM_LENGTH).contains(&length) && length.count_ones() == 1;
            require(is_valid, || {
                (format!("{name}={length}"), "must be a power of two in 64 KiB..1 GiB".into())
            })?;
        }
        for (name, length, least) in [
            ("harrier.image.max.term.length", self.image_max_term_length, MIN_TERM_LENGTH),
            ("harrier.log.allocation.length", self.log_allocation_length, allocation::MIN_LENGTH),
        ] {
            require(length == 0 || length >= least, || {
                (format!("{name}={length}"), format!("must be 0 or at least {least}"))
            })?;
        }
        for (name, mtu) in
            [("aeron.mtu.length", self.mtu_length), ("aeron.ipc.mtu.length", self.ipc_mtu_length)]
        {
            let is_valid = mtu > 32 && mtu <= MAX_MTU_LENGTH && mtu % 32 == 0;
            require(is_valid, || {
                (format!("{name}={mtu}"), "must be a multiple of 32 above 32 and at most 65504".into())
            })?;
        }
        require(is_page_size(self.file_page_size), || {
            let setting = format!("aeron.file.page.size={}", self.file_page_size);
            (setting, "must be a power of two in 4 KiB..1 GiB".into())
        })?;
        let rings = [
            (
                "aeron.conductor.buffer.length",
                self.conductor_buffer_length,
                cnc::TO_DRIVER_TRAILER_LENGTH,
                1024,
            ),
            ("aeron.clients.buffer.length", self.clients_buffer_length, cnc::TO_CLIENTS_TRAILER_LENGTH, 1024),
        ];
        for (name, length, trailer, least) in rings {
            let data = length.saturating_sub(trailer);
            require(data.is_power_of_two() && data >= least, || {
                (format!("{name}={length}"), format!("must be a power of two plus {trailer}"))
            })?;
        }
        require(EVENT_LENGTHS.contains(&self.event_max_length), || {
            let setting = format!("harrier.driver.event.max.length={}", self.event_max_length);
            (setting, "must be in 4096..=65536".into())
        })?;
        require(self.counters_buffer_length <= cnc::COUNTER_VALUES_LENGTH_MAX, || {
            (
                format!("aeron.counters.buffer.length={}", self.counters_buffer_length),
                "must be at most 500 MiB".into(),
            )
        })
    }

    fn check_transport(&self) -> Result<(), InvalidSetting> {
        let TransportOptions { kind, kernel_polling, .. } = self.transport;
        require(!kernel_polling || kind == TransportKind::IoUring, || {
            let setting = "harrier.driver.io_uring.sqpoll=on".to_owned();
            (setting, format!("needs harrier.driver.transport=io_uring, not {}", kind.name()))
        })
    }

    fn check_times(&self) -> Result<(), InvalidSetting> {
        let above = |name: &str, value: i64, other: &str, least: i64| {
            require(value > least, || {
                (format!("{name}={value}"), format!("must be greater than {other}={least} ns"))
            })
        };
        let timer_ns = self.timer_interval_ns;
        above("aeron.timer.interval", timer_ns, "0", 0)?;
        let timer = "aeron.timer.interval";
        above("aeron.client.liveness.timeout", self.client_liveness_timeout_ns, timer, timer_ns)?;
        above(
            "aeron.publication.unblock.timeout",
            self.publication_unblock_timeout_ns,
            "aeron.client.liveness.timeout",
            self.client_liveness_timeout_ns,
        )?;
        above(
            "aeron.untethered.window.limit.timeout",
            self.untethered_window_limit_timeout_ns,
            timer,
            timer_ns,
        )?;
        above("aeron.untethered.linger.timeout", self.untethered_linger_ns(), timer, timer_ns)?;
        above("aeron.untethered.resting.timeout", self.untethered_resting_timeout_ns, timer, timer_ns)?;
        let ratio = self.nak_unicast_delay_ns.checked_mul(self.nak_unicast_retry_delay_ratio);
        require(ratio.is_some(), || {
            (
                format!("aeron.nak.unicast.delay={}", self.nak_unicast_delay_ns),
                "times the ratio overflows".into(),
            )
        })?;
        let (low, high) =
            (self.publication_reserved_session_id_low, self.publication_reserved_session_id_high);
        require(low <= high && i64::from(high) - i64::from(low) <= i64::from(i32::MAX), || {
            (format!("reserved session ids {low}..{high}"), "must be a range of at most 2^31 - 1 ids".into())
        })
    }
}

/// Returns the length of a socket buffer for a setting, bytes: the system's default for 0, and at most its maximum.
pub(crate) fn effective(setting: i32, default: usize, max: usize) -> usize {
    match usize::try_from(setting) {
        Ok(0) | Err(_) => default,
        Ok(length) => length.min(max),
    }
}

fn is_page_size(length: usize) -> bool {
    length.is_power_of_two() && (4_096..=1 << 30).contains(&length)
}

fn require(holds: bool, otherwise: impl FnOnce() -> (String, String)) -> Result<(), InvalidSetting> {
    if holds {
        return Ok(());
    }
    let (setting, rule) = otherwise();
    Err(InvalidSetting { setting, rule })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::SECOND_NS;

    fn limits() -> BufferLimits {
        BufferLimits {
            default_sndbuf: 212_992,
            max_sndbuf: 425_984,
            default_rcvbuf: 212_992,
            max_rcvbuf: 425_984,
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        DriverContext::new("/d").validate(&limits()).unwrap();
    }

    #[test]
    fn contradictions_name_the_setting() {
        let refused = |change: fn(&mut DriverContext)| {
            let mut context = DriverContext::new("/d");
            change(&mut context);
            context.validate(&limits()).unwrap_err().to_string()
        };
        assert!(refused(|c| c.term_buffer_length = 100_000).contains("aeron.term.buffer.length=100000"));
        assert!(refused(|c| c.mtu_length = 1_000).contains("aeron.mtu.length=1000"));
        assert!(refused(|c| c.initial_window_length = 1_024).contains("> initialWindowLength=1024"));
        assert!(refused(|c| c.timer_interval_ns = 20 * SECOND_NS).contains("aeron.client.liveness.timeout"));
        assert!(refused(|c| c.initial_window_length = 8 << 20).contains("SO_RCVBUF"));
        let sqpoll = refused(|c| c.transport.kernel_polling = true);
        assert!(sqpoll.contains("harrier.driver.transport=io_uring, not sockets"), "{sqpoll}");
        assert!(refused(|c| c.file_page_size = 5_000).contains("aeron.file.page.size"));
    }
}
