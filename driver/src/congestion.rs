//! Receiver windows (spec 02 §3.10).

use crate::failure::Failure;

/// Parameters of the cubic window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CubicSettings {
    pub(crate) measures_rtt: bool,
    pub(crate) initial_rtt_ns: i64,
    pub(crate) is_tcp_mode: bool,
}

/// Congestion control of an image.
#[derive(Debug)]
pub(crate) enum CongestionControl {
    /// Keeps the window constant.
    Static { window: i32 },
    /// Shrinks the window on loss and grows it with time.
    Cubic(Box<Cubic>),
}

/// A receiver window. When it is forced, the sender must be told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) length: i32,
    pub(crate) is_forced: bool,
}

/// State of the cubic window.
#[derive(Debug)]
pub(crate) struct Cubic {
    settings: CubicSettings,
    mtu: i32,
    max_cwnd: i32,
    cwnd: i32,
    w_max: i32,
    k: f64,
    rtt_ns: i64,
    last_loss_ns: i64,
    last_update_ns: i64,
}

const C: f64 = 0.4;
const B: f64 = 0.2;
const INITIAL_CWND: i32 = 10;

impl CongestionControl {
    /// Creates the congestion control of an image. `name` is the value of `cc=`; the term already limits `max_window`.
    pub(crate) fn new(
        name: &str,
        max_window: i32,
        mtu: i32,
        settings: CubicSettings,
        now_ns: i64,
    ) -> Result<Self, Failure> {
        match name {
            "static" => Ok(Self::Static { window: max_window }),
            "cubic" => {
                let max_cwnd = (max_window / mtu).max(1);
                let w_max = max_cwnd;
                Ok(Self::Cubic(Box::new(Cubic {
                    settings,
                    mtu,
                    max_cwnd,
                    cwnd: INITIAL_CWND.min(max_cwnd),
                    w_max,
                    k: (f64::from(w_max) * B / C).cbrt(),
                    rtt_ns: settings.initial_rtt_ns,
                    last_loss_ns: now_ns,
                    last_update_ns: now_ns,
                })))
            }
            _ => Err(Failure::generic(format!(
                "unsupported congestion control: cc={name}; use static or cubic"
            ))),
        }
    }

    /// Returns the initial window.
    pub(crate) fn initial_window(&self) -> i32 {
        match self {
            Self::Static { window } => *window,
            Self::Cubic(cubic) => cubic.cwnd * cubic.mtu,
        }
    }

    /// Returns the window after a pass over the image.
    #[inline]
    pub(crate) fn on_track(&mut self, has_loss: bool, is_ahead: bool, now_ns: i64) -> Window {
        match self {
            Self::Static { window } => Window { length: *window, is_forced: false },
            Self::Cubic(cubic) => cubic.on_track(has_loss, is_ahead, now_ns),
        }
    }

    /// Time between two measurements of the round trip, ns; `None` when it is not measured.
    pub(crate) fn rtt_interval_ns(&self) -> Option<i64> {
        match self {
            Self::Cubic(cubic) if cubic.settings.measures_rtt => {
                Some(4 * cubic.rtt_ns.max(cubic.settings.initial_rtt_ns))
            }
            _ => None,
        }
    }

    /// Handles a measured round trip.
    pub(crate) fn on_rtt(&mut self, rtt_ns: i64) {
        if let Self::Cubic(cubic) = self {
            cubic.rtt_ns = rtt_ns.max(1);
        }
    }
}

impl Cubic {
    fn on_track(&mut self, has_loss: bool, is_ahead: bool, now_ns: i64) -> Window {
        let mut is_forced = false;
        if has_loss {
            is_forced = true;
            self.w_max = self.cwnd;
            self.k = (f64::from(self.w_max) * B / C).cbrt();
            self.cwnd = ((f64::from(self.cwnd) * (1.0 - B)) as i32).max(1);
            self.last_loss_ns = now_ns;
        } else if self.cwnd < self.max_cwnd && now_ns > self.last_update_ns + self.settings.initial_rtt_ns {
            self.grow(now_ns);
            self.last_update_ns = now_ns;
        } else if self.cwnd == 1 && is_ahead {
            is_forced = true;
        }
        Window { length: self.cwnd * self.mtu, is_forced }
    }

    fn grow(&mut self, now_ns: i64) {
        let seconds = (now_ns - self.last_loss_ns) as f64 / 1e9;
        let cubic = f64::from(self.w_max) + (C * (seconds - self.k).powi(3)).trunc();
        self.cwnd = (cubic as i32).clamp(1, self.max_cwnd);
        if self.settings.is_tcp_mode && self.cwnd < self.w_max {
            let rtts = seconds / (self.rtt_ns as f64 / 1e9);
            let tcp = f64::from(self.w_max) * (1.0 - B) + (3.0 * B / (2.0 - B)) * rtts;
            self.cwnd = self.cwnd.max(tcp as i32).min(self.max_cwnd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: CubicSettings =
        CubicSettings { measures_rtt: true, initial_rtt_ns: 100_000, is_tcp_mode: false };

    #[test]
    fn a_static_window_stays() {
        let mut control = CongestionControl::new("static", 32_768, 1_408, SETTINGS, 0).unwrap();
        assert_eq!(control.on_track(true, true, 9), Window { length: 32_768, is_forced: false });
        assert_eq!(control.rtt_interval_ns(), None);
    }

    #[test]
    fn a_cubic_window_shrinks_with_loss_and_comes_back() {
        let mut control = CongestionControl::new("cubic", 131_072, 1_408, SETTINGS, 0).unwrap();
        assert_eq!(control.initial_window(), 10 * 1_408);
        let grown = control.on_track(false, false, 10_000_000_000);
        assert_eq!(grown.length, 93 * 1_408);
        let shrunk = control.on_track(true, false, 10_000_000_001);
        assert_eq!(shrunk, Window { length: 74 * 1_408, is_forced: true });
        assert_eq!(control.on_track(false, false, 20_000_000_000).length, 93 * 1_408);
    }

    #[test]
    fn round_trips_are_measured_now_and_then() {
        let mut control = CongestionControl::new("cubic", 131_072, 1_408, SETTINGS, 0).unwrap();
        assert_eq!(control.rtt_interval_ns(), Some(400_000));
        control.on_rtt(1_000_000);
        assert_eq!(control.rtt_interval_ns(), Some(4_000_000));
        assert!(CongestionControl::new("bogus", 1, 1, SETTINGS, 0).is_err());
    }
}
