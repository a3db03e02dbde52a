//! The conductor's half of an image: rebuild, loss, window, life (spec 02 §3.5–3.7).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use harrier_ringbuf::clean::clean_image;
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::loss_report::{LossEntry, LossReport};
use harrier_ringbuf::position::{
    check_advance, compute_term_id_from_position, compute_term_offset_from_position, index_by_position,
};
use harrier_ringbuf::scan::gap_scan;

use crate::allocation::Allocation;
use crate::congestion::CongestionControl;
use crate::handover::{ImageShared, ImageState, MissingRange};
use crate::log_files::LogFile;
use crate::loss_detector::LossDetector;
use crate::subscribers::{Subscribers, TetherChange, UntetheredTimeouts};

/// Counters of a cubic window.
#[derive(Debug)]
pub(crate) struct CubicCounters {
    pub(crate) rtt_ns: AtomicCounter,
    pub(crate) window: AtomicCounter,
}

/// Counters of an image.
pub(crate) struct ImageCounters {
    pub(crate) cubic: Option<CubicCounters>,
    pub(crate) high_water_mark: AtomicCounter,
    pub(crate) rebuild_position: AtomicCounter,
    pub(crate) naks_sent: AtomicCounter,
}

impl ImageCounters {
    /// All counters of the image.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AtomicCounter> {
        let cubic = self.cubic.iter().flat_map(|cubic| [&cubic.rtt_ns, &cubic.window]);
        cubic.chain([&self.high_water_mark, &self.rebuild_position, &self.naks_sent])
    }
}

/// Identity of an image.
#[derive(Debug, Clone)]
pub(crate) struct ImageIdentity {
    pub(crate) correlation_id: i64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    pub(crate) channel: String,
    pub(crate) source: String,
}

/// The conductor's half of an image.
pub(crate) struct PublicationImage {
    pub(crate) identity: ImageIdentity,
    pub(crate) file: LogFile,
    pub(crate) counters: ImageCounters,
    pub(crate) shared: Arc<ImageShared>,
    pub(crate) subscribers: Subscribers,
    pub(crate) allocation: Allocation,
    congestion: CongestionControl,
    loss: LossDetector,
    window: i32,
    next_status_position: i64,
    clean_position: i64,
    reported: Option<(LossEntry, i32, i32)>,
    rtt_ns: i64,
}

/// Returns the window that may be granted at a position. It ends where the log is not allocated.
fn granted(window: i32, position: i64, allocation: &Allocation) -> i32 {
    let room = allocation.usable_position() - position;
    if room >= i64::from(window) { window } else { room.max(0) as i32 }
}

impl PublicationImage {
    /// Sets the allocation of the log.
    pub(crate) fn with_allocation(mut self, allocation: Allocation) -> Self {
        self.window = granted(self.window, self.next_status_position, &allocation);
        self.shared.usable_position.store(allocation.usable_position(), Ordering::Release);
        self.allocation = allocation;
        self
    }

    /// Time between two measurements of the round trip, ns; `None` when it is not measured.
    pub(crate) fn rtt_interval_ns(&self) -> Option<i64> {
        self.congestion.rtt_interval_ns()
    }

    /// The window that the first status message grants.
    pub(crate) fn initial_window(&self) -> i32 {
        self.window
    }

    pub(crate) fn new(
        identity: ImageIdentity,
        file: LogFile,
        counters: ImageCounters,
        shared: Arc<ImageShared>,
        congestion: CongestionControl,
        loss: LossDetector,
        join_position: i64,
    ) -> Self {
        Self {
            identity,
            file,
            counters,
            shared,
            subscribers: Subscribers::default(),
            window: congestion.initial_window(),
            allocation: Allocation::whole(),
            congestion,
            loss,
            next_status_position: join_position,
            clean_position: join_position,
            reported: None,
            rtt_ns: 0,
        }
    }

    /// True while a late subscription may be linked (spec 02 §3.7).
    pub(crate) fn accepts_subscribers(&self) -> bool {
        match self.shared.state() {
            ImageState::Init | ImageState::Active => !self.subscribers.is_empty(),
            ImageState::Draining => self.subscribers.has_working() && !self.is_drained(),
            ImageState::Linger | ImageState::Done => false,
        }
    }

    /// Position at which a late subscriber joins.
    pub(crate) fn join_position(&self) -> i64 {
        self.subscribers.join_position(self.counters.rebuild_position.get())
    }

    /// Position up to which the stream is complete.
    pub(crate) fn rebuild_position(&self) -> i64 {
        self.counters.rebuild_position.get()
    }

    fn is_drained(&self) -> bool {
        self.subscribers.have_reached(self.counters.rebuild_position.get())
    }

    /// Updates rebuild position, gaps and window, in every duty cycle (spec 02 §3.5).
    #[inline]
    pub(crate) fn track(&mut self, report: &mut LossReport, now_ns: i64, now_ms: i64) -> usize {
        if self.shared.state() > ImageState::Draining {
            return 0;
        }
        let Some((min, max)) = self.subscribers.min_max() else { return 0 };
        // A client may move its position back. The window never starts before the last reported position.
        let min = min.max(self.next_status_position);
        let log = &self.file.log;
        let bits = log.position_bits_to_shift();
        let rebuild = self.counters.rebuild_position.get_plain().max(max);
        let high_water_mark = self.counters.high_water_mark.get();
        let mut work_count = 0;
        let mut found = crate::loss_detector::LossFound::default();
        let mut new_rebuild = rebuild;
        if high_water_mark > rebuild {
            let offset = compute_term_offset_from_position(rebuild, bits) as usize;
            let begin = rebuild - offset as i64;
            let limit = (high_water_mark - begin).min(log.term_length() as i64) as usize;
            let (reached, gap) = gap_scan(log.term(index_by_position(rebuild, bits)), offset, limit);
            // The frames of a broken sender may point past the end of the term.
            new_rebuild = begin + (reached as i64).min(log.term_length() as i64);
            let gap = gap.map(|gap| MissingRange {
                term_id: compute_term_id_from_position(rebuild, bits, log.initial_term_id()),
                term_offset: gap.offset as i32,
                length: gap.length as i32,
            });
            found = self.loss.on_gap(gap, now_ns);
            if let Some(gap) = found.ask_for {
                self.shared.loss.offer(gap);
                self.report_loss(gap, report, now_ms);
                work_count += 1;
            }
        } else {
            self.loss.on_gap(None, now_ns);
        }
        if new_rebuild > self.counters.rebuild_position.get_plain() {
            check_advance(rebuild, new_rebuild);
            self.counters.rebuild_position.set_ordered(new_rebuild);
            self.allocation.note_traffic(new_rebuild);
            work_count += 1;
        }
        work_count + self.schedule_status(min, found.is_new, now_ns)
    }

    fn schedule_status(&mut self, min: i64, has_loss: bool, now_ns: i64) -> usize {
        let rtt_ns = self.shared.rtt_ns.load(Ordering::Acquire);
        if rtt_ns != self.rtt_ns {
            self.rtt_ns = rtt_ns;
            self.congestion.on_rtt(rtt_ns);
            if let Some(cubic) = &self.counters.cubic {
                cubic.rtt_ns.set_ordered(rtt_ns);
            }
        }
        let mut window = self.congestion.on_track(has_loss, min > self.next_status_position, now_ns);
        window.length = granted(window.length, min, &self.allocation);
        let is_due = window.is_forced
            || min > self.next_status_position + i64::from(self.window / 4)
            || window.length != self.window;
        if !is_due {
            return 0;
        }
        let log = &self.file.log;
        self.clean_position = clean_image(log, self.clean_position, min - log.term_length() as i64);
        self.shared.status.offer(min, window.length);
        self.next_status_position = min;
        if window.length != self.window {
            self.window = window.length;
            if let Some(cubic) = &self.counters.cubic {
                cubic.window.set_ordered(i64::from(window.length));
            }
        }
        1
    }

    fn report_loss(&mut self, gap: MissingRange, report: &mut LossReport, now_ms: i64) {
        let end = gap.term_offset + gap.length;
        match &mut self.reported {
            Some((entry, term_id, reported_end)) => {
                let lost = if *term_id == gap.term_id {
                    end - gap.term_offset.max(*reported_end)
                } else {
                    gap.length
                };
                if lost > 0 {
                    report.record(*entry, i64::from(lost), now_ms);
                    (*term_id, *reported_end) = (gap.term_id, end);
                }
            }
            None => {
                let identity = &self.identity;
                let entry = report.create_entry(
                    i64::from(gap.length),
                    now_ms,
                    identity.session_id,
                    identity.stream_id,
                    &identity.channel,
                    &identity.source,
                );
                self.reported = entry.map(|entry| (entry, gap.term_id, end));
            }
        }
    }

    /// Returns the time of the image's next work that needs no datagram, ns.
    pub(crate) fn next_deadline_ns(&self) -> Option<i64> {
        self.loss.deadline_ns()
    }

    /// True when subscribers have to be told that the image is gone: it has been drained for five status message
    /// time-outs, or was revoked (spec 02 §3.7).
    pub(crate) fn is_over(&self, now_ns: i64, status_timeout_ns: i64) -> bool {
        if self.shared.state() != ImageState::Draining {
            return false;
        }
        let since_ns = self.shared.state_since_ns.load(Ordering::Acquire);
        self.file.log.is_publication_revoked()
            || (self.is_drained() && now_ns > since_ns + 5 * status_timeout_ns)
    }

    /// True when nobody reads the image any more, so that it can be removed.
    pub(crate) fn is_done(&self, now_ns: i64, liveness_timeout_ns: i64) -> bool {
        self.shared.state() == ImageState::Linger
            && (self.subscribers.is_empty()
                || now_ns - self.shared.state_since_ns.load(Ordering::Acquire) > liveness_timeout_ns)
    }

    /// Moves untethered subscribers between their states. From an image that has ended they can only be removed.
    pub(crate) fn check_untethered(
        &mut self,
        timeouts: &UntetheredTimeouts,
        now_ns: i64,
        changes: &mut Vec<TetherChange>,
    ) {
        let rebuild = self.rebuild_position();
        if self.shared.state() > ImageState::Active {
            return self.subscribers.check_ended(rebuild, timeouts, now_ns, changes);
        }
        let limit = self.untethered_limit();
        self.subscribers.check_untethered(limit, rebuild, timeouts, now_ns, changes);
    }

    /// Position below which an untethered subscriber is too slow. When all of them rest they go on at the image's
    /// position.
    pub(crate) fn untethered_limit(&self) -> i64 {
        let rebuild = self.counters.rebuild_position.get_plain();
        let max = self.subscribers.min_max().map_or(rebuild, |(_, max)| max);
        let window = i64::from(self.window);
        let limit = max - window + window / 4;
        // A frame that does not fit leaves the rest of the window unused, so that the other subscribers cannot get
        // further ahead of the one that holds the window back.
        let mtu = self.file.log.mtu_length() as i64;
        let is_used_up = self.counters.high_water_mark.get() > self.next_status_position + window - mtu;
        if is_used_up { (limit + mtu).min(max - 1) } else { limit }
    }
}
