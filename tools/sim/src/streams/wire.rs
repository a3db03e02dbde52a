//! Checks of the wire: each frame is compared with what its sender has been told.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use harrier_protocol::udp::{DataFrames, Frame, Nak, Setup, StatusMessage, flag, frame_type};
use harrier_ringbuf::position::compute_position;

use super::asked::{AnswerSettings, Owed, Receivers};
use super::limits::{Granted, Strategy};
use crate::history::Violation;
use crate::kernel::HostId;
use crate::trace::Coverage;

/// Frames and bytes of a host's sockets since its driver started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes passed to the network.
    pub bytes_sent: u64,
    /// Bytes read from the network.
    pub bytes_received: u64,
    /// NAKs passed to the network.
    pub naks_sent: u64,
    /// NAKs read.
    pub naks_received: u64,
    /// Status messages with a position that were passed to the network.
    pub positions_sent: u64,
    /// Error frames passed to the network.
    pub errors_sent: u64,
    /// Error frames read.
    pub errors_received: u64,
    /// Heartbeats read.
    pub heartbeats_received: u64,
}

/// Properties of a stream that are known before it flows.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Flow control of the stream.
    pub strategy: Strategy,
    /// The publication sends to each of its destinations separately.
    pub has_destinations: bool,
    /// The stream may have several receivers.
    pub is_group: bool,
    /// Spies may count as receivers.
    pub has_spies: bool,
}

/// A session as its sender shows it.
#[derive(Debug)]
struct Session {
    owner: HostId,
    initial_term_id: i32,
    bits: u32,
    half_term: i64,
    /// Position after everything that was sent, padding included.
    sent: i64,
    /// Position after what was sent to each destination.
    sent_to: BTreeMap<SocketAddr, i64>,
    heartbeat: i64,
    granted: Granted,
    /// Positions of the last SETUPs, if spies count.
    spied_setups: Vec<i64>,
    was_asked: bool,
    owed: Owed,
    receivers: Receivers,
    is_group: bool,
    /// A destination may exist twice: that of a publication that lingers and that of the next one, or those of a
    /// receiver's two lives.
    is_repeated: bool,
}

impl Session {
    /// Returns the range of a NAK.
    fn range(&self, nak: &Nak) -> (i64, i64) {
        let begin = compute_position(nak.term_id, nak.term_offset, self.bits, self.initial_term_id);
        (begin, begin + i64::from(nak.length))
    }

    /// Returns the range of a datagram, padding included.
    fn reach(&self, data: &DataFrames<'_>) -> (i64, i64) {
        let header = &data.first;
        let begin = compute_position(header.term_id, header.term_offset, self.bits, self.initial_term_id);
        (begin, begin + (data.term_end as i64 - i64::from(header.term_offset)))
    }

    /// Checks a rule for streams that receivers join: spies carry the sender no more than half a term beyond the last
    /// SETUP but one, up to a frame.
    fn note_spied_setup(&mut self, position: i64, mtu: i64, coverage: &mut Coverage) {
        if let [before, _] = self.spied_setups[..] {
            let ahead = position - before;
            if ahead <= self.half_term && ahead > self.half_term - mtu {
                coverage.hit("spies waited for a receiver that joins");
            }
            self.spied_setups.remove(0);
        }
        self.spied_setups.push(position);
    }
}

/// Watches the frames of all hosts.
#[derive(Debug)]
pub struct Wire {
    /// Streams by id.
    kinds: BTreeMap<i32, Kind>,
    /// Settings of the answers to NAKs, by host.
    answers: Vec<AnswerSettings>,
    sessions: BTreeMap<(i32, i32), Session>,
    tallies: Vec<Tally>,
    /// Sends may be short: what was sent to one receiver is sent to all again.
    are_sends_short: bool,
    /// Broken rules.
    pub violations: Vec<Violation>,
}

impl Wire {
    /// Creates the wire between hosts.
    pub fn new(kinds: BTreeMap<i32, Kind>, hosts: usize, are_sends_short: bool) -> Self {
        let (tallies, answers) = (vec![Tally::default(); hosts], vec![AnswerSettings::default(); hosts]);
        let (sessions, violations) = (BTreeMap::new(), Vec::new());
        Self { kinds, answers, sessions, tallies, are_sends_short, violations }
    }

    /// The driver of a host starts anew.
    pub fn restart(&mut self, host: HostId, answers: AnswerSettings) {
        self.tallies[host] = Tally::default();
        self.answers[host] = answers;
        for session in self.sessions.values_mut() {
            session.receivers.holes.remove(&host);
        }
    }

    /// Returns what a host's driver should have counted.
    pub fn tally(&self, host: HostId) -> Tally {
        self.tallies[host]
    }

    fn violate(&mut self, checker: &'static str, text: String) {
        if self.violations.len() < 20 {
            self.violations.push(Violation { checker, text });
        }
    }

    /// A host passes a datagram to the network, whatever happens to it there.
    pub fn on_sent(
        &mut self,
        host: HostId,
        (to, bytes): (SocketAddr, &[u8]),
        now_ns: i64,
        coverage: &mut Coverage,
    ) {
        let tally = &mut self.tallies[host];
        tally.bytes_sent += bytes.len() as u64;
        match Frame::decode(bytes) {
            Ok(Frame::Setup(setup)) => {
                coverage.hit("frame: SETUP");
                if setup.flags & flag::SETUP_GROUP != 0 {
                    coverage.hit("frame: SETUP of a group");
                }
                self.on_setup(host, &setup, coverage);
            }
            Ok(Frame::Data(data)) if data.is_heartbeat() => self.on_heartbeat(&data, coverage),
            Ok(Frame::Data(data)) => self.on_data(&data, to, now_ns, coverage),
            Ok(Frame::Nak(nak)) => {
                coverage.hit("frame: NAK");
                tally.naks_sent += 1;
                self.on_nak_sent(host, (to, &nak), now_ns, coverage);
            }
            Ok(Frame::StatusMessage(status)) => {
                coverage.hit(match status.flags {
                    flag::SM_SEND_SETUP => "frame: request for a SETUP",
                    flag::SM_EOS => "frame: last status message",
                    _ if status.group_tag.is_some() => "frame: status message with a tag",
                    _ => "frame: status message",
                });
                tally.positions_sent += u64::from(!status.is_send_setup());
            }
            Ok(Frame::Error(_)) => {
                coverage.hit("frame: error");
                tally.errors_sent += 1;
            }
            Ok(Frame::Rttm(rttm)) => coverage.hit(match rttm.flags & flag::RTTM_REPLY {
                0 => "frame: answer to a round trip",
                _ => "frame: round trip",
            }),
            Ok(Frame::ResponseSetup(_)) => coverage.hit("frame: response SETUP"),
            Ok(Frame::Resolution(_) | Frame::Ignored(_)) | Err(_) => {
                self.violate("frames", format!("host {host} sent {bytes:x?} at {now_ns}"));
            }
        }
    }

    /// A host's driver has read a datagram.
    pub fn on_received(&mut self, host: HostId, bytes: &[u8], now_ns: i64, coverage: &mut Coverage) {
        let tally = &mut self.tallies[host];
        tally.bytes_received += bytes.len() as u64;
        match Frame::decode(bytes) {
            Ok(Frame::Nak(nak)) => {
                tally.naks_received += 1;
                let settings = self.answers[host];
                if let Some(session) = self.session(host, nak.stream_id, nak.session_id) {
                    session.was_asked = true;
                    let (range, is_group) = (session.range(&nak), session.is_group);
                    let is_answered = session.owed.on_nak(range, is_group, &settings, now_ns);
                    if is_group {
                        coverage.hit(match is_answered {
                            true => "NAK of a group answered",
                            false => "NAK of a group that another was answered for",
                        });
                    }
                }
            }
            Ok(Frame::Error(error)) => {
                tally.errors_received += 1;
                if let Some(session) = self.session(host, error.stream_id, error.session_id) {
                    session.granted.on_error(error.receiver_id);
                }
            }
            Ok(Frame::StatusMessage(status)) => self.on_status(host, &status, now_ns, coverage),
            Ok(Frame::Data(data)) if data.is_heartbeat() => tally.heartbeats_received += 1,
            Ok(Frame::Data(data)) => self.on_data_received(host, &data, coverage),
            _ => {}
        }
    }

    /// Checks that receivers of a group wait for a random time before a NAK, so that not all of them have to send
    /// one.
    fn on_nak_sent(
        &mut self,
        host: HostId,
        (to, nak): (SocketAddr, &Nak),
        now_ns: i64,
        coverage: &mut Coverage,
    ) {
        let Some(session) = self.sessions.get_mut(&(nak.stream_id, nak.session_id)) else { return };
        if !session.is_group {
            return;
        }
        let (begin, end) = session.range(nak);
        session.receivers.holes.entry(host).or_default().on_nak(begin, end);
        let asking = session.receivers.askings.entry((host, to)).or_default();
        let took_ns = asking.on_nak((nak.term_id, nak.term_offset, nak.length), now_ns);
        if asking.is_repeated() {
            coverage.hit("NAK of a group repeated");
        }
        if let Some(took_ns) = took_ns {
            let text = format!("host {host} asked in {took_ns} ns again and again for {nak:?}");
            self.violate("NAK storm", text);
        }
    }

    fn on_data_received(&mut self, host: HostId, data: &DataFrames<'_>, coverage: &mut Coverage) {
        let header = &data.first;
        let Some(session) = self.sessions.get_mut(&(header.stream_id, header.session_id)) else { return };
        if session.is_group && host != session.owner {
            let (begin, end) = session.reach(data);
            if session.receivers.holes.entry(host).or_default().on_data(begin, end) && session.was_asked {
                coverage.hit("gap filled that another receiver asked for");
            }
        }
    }

    fn session(&mut self, owner: HostId, stream_id: i32, session_id: i32) -> Option<&mut Session> {
        self.sessions.get_mut(&(stream_id, session_id)).filter(|session| session.owner == owner)
    }

    fn on_setup(&mut self, host: HostId, setup: &Setup, coverage: &mut Coverage) {
        let Some(kind) = self.kinds.get(&setup.stream_id).copied() else { return };
        let bits = setup.term_length.trailing_zeros();
        let position = compute_position(setup.active_term_id, setup.term_offset, bits, setup.initial_term_id);
        let new = || Session {
            owner: host,
            initial_term_id: setup.initial_term_id,
            bits,
            half_term: i64::from(setup.term_length / 2),
            sent: position,
            sent_to: BTreeMap::new(),
            heartbeat: position,
            granted: Granted::new(kind.strategy, kind.has_spies),
            spied_setups: Vec::new(),
            was_asked: false,
            owed: Owed::default(),
            receivers: Receivers::default(),
            is_group: kind.is_group,
            is_repeated: kind.has_destinations,
        };
        let session = self.sessions.entry((setup.stream_id, setup.session_id)).or_insert_with(new);
        session.sent = session.sent.max(position);
        if kind.has_spies {
            session.note_spied_setup(position, i64::from(setup.mtu), coverage);
        }
    }

    fn on_status(&mut self, host: HostId, status: &StatusMessage, now_ns: i64, coverage: &mut Coverage) {
        let Some(session) = self.session(host, status.stream_id, status.session_id) else { return };
        if status.is_send_setup() {
            return;
        }
        let position = compute_position(
            status.consumption_term_id,
            status.consumption_term_offset,
            session.bits,
            session.initial_term_id,
        );
        // A status message from long ago is rejected (spec 02 §2.6).
        if position >= session.sent - session.half_term {
            session.granted.on_status(status, position, now_ns, coverage);
        } else {
            coverage.hit("status message of long ago");
        }
    }

    fn on_heartbeat(&mut self, data: &DataFrames<'_>, coverage: &mut Coverage) {
        let header = &data.first;
        coverage.hit(match (header.flags & flag::EOS != 0, header.flags & flag::REVOKED != 0) {
            (_, true) => "frame: heartbeat of a revoked stream",
            (true, _) => "frame: heartbeat at the end of a stream",
            _ => "frame: heartbeat",
        });
        let Some(session) = self.sessions.get_mut(&(header.stream_id, header.session_id)) else { return };
        let position =
            compute_position(header.term_id, header.term_offset, session.bits, session.initial_term_id);
        let before = std::mem::replace(&mut session.heartbeat, position);
        // Spies move a sender that no receiver listens to.
        session.sent = session.sent.max(position);
        if position < before {
            let text = format!("heartbeat of {} at {position} after one at {before}", header.session_id);
            self.violate("sender position", text);
        }
    }

    fn on_data(&mut self, data: &DataFrames<'_>, to: SocketAddr, now_ns: i64, coverage: &mut Coverage) {
        let header = &data.first;
        let has_padding = header.frame_type == frame_type::PAD;
        coverage.hit(if has_padding { "frame: padding" } else { "frame: data" });
        if to.ip().is_multicast()
            && self.kinds.get(&header.stream_id).is_some_and(|kind| kind.has_destinations)
        {
            coverage.hit("data to a group that is a destination");
        }
        let Some(session) = self.sessions.get_mut(&(header.stream_id, header.session_id)) else {
            return self.violate("frames", format!("data of {} before its SETUP", header.session_id));
        };
        let (begin, whole_end) = session.reach(data);
        let end = begin + data.bytes.len() as i64;
        let (allowed, sent) = (session.granted.limit(now_ns, coverage), session.sent);
        session.sent = sent.max(whole_end);
        if whole_end > sent {
            session.granted.on_new_data();
        }
        let may_repeat = session.was_asked || session.is_repeated || self.are_sends_short;
        let (session_id, stream_id) = (header.session_id, header.stream_id);
        let sent_to = session.sent_to.entry(to).or_insert(begin);
        let sent_before = std::mem::replace(sent_to, whole_end.max(*sent_to));
        if begin < sent_before {
            coverage.hit("data sent again");
            if !may_repeat {
                let text = format!("{session_id} sent {begin} again although nobody asked");
                return self.violate("retransmit", text);
            }
            if whole_end > sent && !self.are_sends_short {
                let text = format!("{session_id} sent {begin} to {whole_end} again, behind {sent}");
                return self.violate("retransmit", text);
            }
            if !session.is_repeated
                && !self.are_sends_short
                && let Some(excess) = session.owed.on_resent(data.bytes.len())
            {
                let text =
                    format!("{session_id} sent {begin} again: {excess} bytes more than it was asked for");
                return self.violate("retransmit", text);
            }
        }
        if whole_end > sent && end > allowed {
            let text = format!(
                "{session_id} of stream {stream_id} was sent up to {end} at {now_ns}, its receivers allow {allowed}"
            );
            self.violate("window", text);
        }
    }
}
