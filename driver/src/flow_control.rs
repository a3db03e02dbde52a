//! Flow control, which limits the position of a sender (spec 02 §4).

use harrier_protocol::uri::parse_duration_ns;
use harrier_ringbuf::planted::{Bug, is_planted};

use crate::failure::Failure;

/// Most receivers that a group follows. Others cannot join until some have gone.
const MAX_GROUP_RECEIVERS: usize = 1_024;

/// Content of a status message that flow control uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReceiverStatus {
    pub(crate) receiver_id: i64,
    pub(crate) group_tag: Option<i64>,
    pub(crate) position: i64,
    pub(crate) window: i32,
    pub(crate) is_eos: bool,
}

/// Defaults of the driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlowControlDefaults<'a> {
    pub(crate) multicast: &'a str,
    pub(crate) receiver_timeout_ns: i64,
    pub(crate) group_tag: i64,
    pub(crate) group_min_size: i32,
    pub(crate) unicast_rrwm: i32,
    pub(crate) multicast_rrwm: i32,
}

/// A flow control strategy.
#[derive(Debug)]
pub(crate) struct FlowControl {
    strategy: Strategy,
    /// Longest retransmit as a multiple of the receiver window.
    pub(crate) retransmit_window_multiple: i32,
}

#[derive(Debug)]
enum Strategy {
    /// The furthest receiver decides, for unicast and multicast `max`.
    Max,
    /// The slowest receiver decides. With a tag, only receivers that carry it count.
    Min(Group),
}

#[derive(Debug)]
struct Group {
    tag: Option<i64>,
    min_size: usize,
    receiver_timeout_ns: i64,
    receivers: Vec<Receiver>,
    last_setup: Option<LastSetup>,
    is_setup_tagged: bool,
}

#[derive(Debug)]
struct Receiver {
    id: i64,
    position: i64,
    limit: i64,
    last_heard_ns: i64,
    is_eos: bool,
}

#[derive(Debug, Clone, Copy)]
struct LastSetup {
    limit: i64,
    at_ns: i64,
}

impl FlowControl {
    /// Creates the strategy of a unicast channel.
    pub(crate) fn unicast(defaults: &FlowControlDefaults<'_>) -> Self {
        Self { strategy: Strategy::Max, retransmit_window_multiple: defaults.unicast_rrwm }
    }

    /// Creates the strategy of a channel with several receivers: that of `fc=NAME[,options]`, else the driver's.
    pub(crate) fn group(
        parameter: Option<&str>,
        defaults: &FlowControlDefaults<'_>,
    ) -> Result<Self, Failure> {
        let text = parameter.unwrap_or(defaults.multicast);
        let mut options = text.split(',');
        let name = options.next().unwrap_or_default();
        let mut receiver_timeout_ns = defaults.receiver_timeout_ns;
        let mut tag = defaults.group_tag;
        let mut min_size = defaults.group_min_size;
        let mut rrwm = defaults.multicast_rrwm;
        for option in options {
            let invalid = || Failure::generic(format!("unrecognised option {option} in fc={text}"));
            match option.split_once(':').ok_or_else(invalid)? {
                ("t", value) => receiver_timeout_ns = parse_duration_ns(value).ok_or_else(invalid)?,
                ("g", value) => {
                    let (own_tag, size) = value.split_once('/').map_or((value, None), |(t, s)| (t, Some(s)));
                    if !own_tag.is_empty() {
                        tag = own_tag.parse().map_err(|_| invalid())?;
                    }
                    if let Some(size) = size {
                        min_size = size.parse().ok().filter(|size| *size >= 0).ok_or_else(invalid)?;
                    }
                }
                ("rrwm", value) => {
                    rrwm = value.parse().ok().filter(|multiple| *multiple > 0).ok_or_else(invalid)?;
                }
                _ => return Err(invalid()),
            }
        }
        let group = |tag| {
            Strategy::Min(Group {
                tag,
                min_size: min_size as usize,
                receiver_timeout_ns,
                receivers: Vec::new(),
                last_setup: None,
                is_setup_tagged: false,
            })
        };
        let strategy = match name {
            "max" => Strategy::Max,
            "min" => group(None),
            "tagged" => group(Some(tag)),
            _ => {
                return Err(Failure::generic(format!(
                    "Invalid flow control strategy name: {name} from fc={text}"
                )));
            }
        };
        Ok(Self { strategy, retransmit_window_multiple: rrwm })
    }

    /// Handles a status message; returns the new sender limit.
    pub(crate) fn on_status(&mut self, status: &ReceiverStatus, limit: i64, now_ns: i64) -> i64 {
        let own_limit = status.position + i64::from(status.window);
        match &mut self.strategy {
            Strategy::Max => limit.max(own_limit),
            Strategy::Min(group) => group.on_status(status, own_limit, limit, now_ns),
        }
    }

    /// Notes that a receiver has asked for a SETUP.
    pub(crate) fn on_trigger_setup(&mut self, group_tag: Option<i64>) {
        if let Strategy::Min(group) = &mut self.strategy
            && group.matches(group_tag)
        {
            group.is_setup_tagged = true;
        }
    }

    /// Notes that a requested SETUP is sent. The sender must not outrun the joining receiver.
    pub(crate) fn on_setup(&mut self, limit: i64, now_ns: i64) {
        if let Strategy::Min(group) = &mut self.strategy
            && std::mem::take(&mut group.is_setup_tagged)
            && !group.receivers.is_empty()
        {
            group.last_setup = Some(LastSetup { limit, at_ns: now_ns });
        }
    }

    /// Returns the sender limit when nothing was sent. It may decrease when receivers have gone.
    pub(crate) fn on_idle(&mut self, limit: i64, now_ns: i64) -> i64 {
        match &mut self.strategy {
            Strategy::Max => limit,
            Strategy::Min(group) => group.on_idle(limit, now_ns),
        }
    }

    /// Handles the rejection by a receiver.
    pub(crate) fn on_error(&mut self, receiver_id: i64) {
        if let Strategy::Min(group) = &mut self.strategy
            && let Some(receiver) = group.receivers.iter_mut().find(|receiver| receiver.id == receiver_id)
        {
            receiver.is_eos = true;
        }
    }

    /// False while too few receivers have joined.
    pub(crate) fn has_required_receivers(&self) -> bool {
        match &self.strategy {
            Strategy::Max => true,
            Strategy::Min(group) => group.receivers.len() >= group.min_size,
        }
    }

    /// Returns the number of receivers that count; `None` when the strategy keeps no list.
    pub(crate) fn receiver_count(&self) -> Option<usize> {
        match &self.strategy {
            Strategy::Max => None,
            Strategy::Min(group) => Some(group.receivers.len()),
        }
    }
}

impl Group {
    fn matches(&self, tag: Option<i64>) -> bool {
        self.tag.is_none() || self.tag == tag
    }

    fn floor(&mut self, now_ns: i64) -> i64 {
        match self.last_setup {
            Some(setup) if now_ns - setup.at_ns < self.receiver_timeout_ns => setup.limit,
            _ => {
                self.last_setup = None;
                i64::MAX
            }
        }
    }

    fn on_status(&mut self, status: &ReceiverStatus, own_limit: i64, limit: i64, now_ns: i64) -> i64 {
        let matches = self.matches(status.group_tag);
        let mut is_known = false;
        let mut min = self.floor(now_ns);
        for receiver in &mut self.receivers {
            if matches && receiver.id == status.receiver_id {
                receiver.is_eos = status.is_eos;
                receiver.position = receiver.position.max(status.position);
                receiver.limit = own_limit;
                receiver.last_heard_ns = now_ns;
                is_known = true;
            }
            if !is_planted(Bug::SlowestReceiverIgnored) || receiver.id == status.receiver_id {
                min = min.min(receiver.limit);
            }
        }
        let is_near = self.receivers.is_empty() || own_limit >= min - i64::from(status.window);
        let has_room = self.receivers.len() < MAX_GROUP_RECEIVERS;
        if !is_known && !status.is_eos && matches && is_near && has_room {
            self.receivers.push(Receiver {
                id: status.receiver_id,
                position: status.position,
                limit: own_limit,
                last_heard_ns: now_ns,
                is_eos: false,
            });
            min = min.min(own_limit);
            self.last_setup = None;
        }
        if self.receivers.len() < self.min_size {
            limit
        } else if self.receivers.is_empty() {
            limit.max(own_limit)
        } else {
            limit.max(min)
        }
    }

    fn on_idle(&mut self, limit: i64, now_ns: i64) -> i64 {
        let timeout_ns = if is_planted(Bug::StaleMemberCounts) { i64::MAX } else { self.receiver_timeout_ns };
        self.receivers.retain(|receiver| !receiver.is_eos && now_ns - receiver.last_heard_ns <= timeout_ns);
        if self.receivers.is_empty() || self.receivers.len() < self.min_size {
            return limit;
        }
        let floor = self.floor(now_ns);
        self.receivers.iter().fold(floor, |min, receiver| min.min(receiver.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: FlowControlDefaults<'_> = FlowControlDefaults {
        multicast: "max",
        receiver_timeout_ns: 100,
        group_tag: -1,
        group_min_size: 0,
        unicast_rrwm: 16,
        multicast_rrwm: 4,
    };

    fn status(receiver_id: i64, position: i64, group_tag: Option<i64>) -> ReceiverStatus {
        ReceiverStatus { receiver_id, group_tag, position, window: 1_000, is_eos: false }
    }

    #[test]
    fn max_never_goes_back() {
        let mut flow = FlowControl::unicast(&DEFAULTS);
        assert_eq!(flow.on_status(&status(1, 500, None), 0, 0), 1_500);
        assert_eq!(flow.on_status(&status(1, 100, None), 1_500, 0), 1_500);
        assert_eq!((flow.retransmit_window_multiple, flow.receiver_count()), (16, None));
    }

    #[test]
    fn min_follows_the_slowest_and_forgets_the_dead() {
        let mut flow = FlowControl::group(Some("min,t:100ns,rrwm:2"), &DEFAULTS).unwrap();
        let mut limit = flow.on_status(&status(1, 2_000, None), 0, 0);
        assert_eq!(limit, 3_000);
        limit = flow.on_status(&status(2, 2_500, None), limit, 50);
        assert_eq!(limit, 3_000);
        assert_eq!(flow.on_idle(limit, 101), 3_500);
        assert_eq!((flow.receiver_count(), flow.retransmit_window_multiple), (Some(1), 2));
    }

    #[test]
    fn tagged_waits_for_its_group() {
        let mut flow = FlowControl::group(Some("tagged,g:7/1"), &DEFAULTS).unwrap();
        assert!(!flow.has_required_receivers());
        assert_eq!(flow.on_status(&status(1, 100, None), 5, 0), 5);
        assert_eq!(flow.on_status(&status(2, 200, Some(7)), 5, 0), 1_200);
        assert!(flow.has_required_receivers());
    }

    #[test]
    fn a_joining_receiver_is_not_outrun() {
        let mut flow = FlowControl::group(Some("min"), &DEFAULTS).unwrap();
        let limit = flow.on_status(&status(1, 0, None), 0, 0);
        flow.on_trigger_setup(None);
        flow.on_setup(limit, 10);
        assert_eq!(flow.on_status(&status(1, 5_000, None), limit, 20), 1_000);
        assert_eq!(flow.on_status(&status(1, 5_000, None), limit, 110), 6_000);
    }

    #[test]
    fn a_receiver_that_ends_or_refuses_no_longer_holds_the_group_back() {
        let mut flow = FlowControl::group(Some("min"), &DEFAULTS).unwrap();
        let mut limit = flow.on_status(&status(1, 0, None), 0, 0);
        limit = flow.on_status(&status(2, 600, None), limit, 0);
        assert_eq!(limit, 1_000);
        limit = flow.on_status(&ReceiverStatus { is_eos: true, ..status(1, 0, None) }, limit, 1);
        assert_eq!((limit, flow.receiver_count()), (1_000, Some(2)));
        assert_eq!(flow.on_idle(limit, 2), 1_600);
        flow.on_error(2);
        assert_eq!(flow.on_idle(1_600, 3), 1_600);
        assert_eq!(flow.receiver_count(), Some(0));
    }

    #[test]
    fn a_receiver_far_behind_does_not_join() {
        let mut flow = FlowControl::group(Some("min"), &DEFAULTS).unwrap();
        let limit = flow.on_status(&status(1, 5_000, None), 0, 0);
        assert_eq!(flow.on_status(&status(2, 3_900, None), limit, 0), 6_000);
        assert_eq!(flow.receiver_count(), Some(1));
        assert_eq!(flow.on_status(&status(2, 4_000, None), limit, 0), 6_000);
        assert_eq!(flow.receiver_count(), Some(2));
    }

    #[test]
    fn receivers_of_a_group_are_limited_in_number() {
        let mut flow = FlowControl::group(Some("min,t:9223372036s"), &DEFAULTS).unwrap();
        for id in 0..2 * MAX_GROUP_RECEIVERS as i64 {
            flow.on_status(&status(id, 0, None), 0, i64::MAX / 2);
        }
        assert_eq!(flow.receiver_count(), Some(MAX_GROUP_RECEIVERS));
        assert_eq!(flow.on_idle(1_000, i64::MAX - 1), 1_000);
    }

    #[test]
    fn a_tag_of_another_group_counts_only_while_the_group_is_empty() {
        let mut flow = FlowControl::group(Some("tagged,g:7"), &DEFAULTS).unwrap();
        assert_eq!(flow.on_status(&status(1, 100, Some(8)), 5, 0), 1_100);
        assert_eq!(flow.on_status(&status(2, 200, Some(7)), 1_100, 0), 1_200);
        assert_eq!(flow.on_status(&status(1, 9_000, Some(8)), 1_200, 0), 1_200);
    }

    #[test]
    fn unknown_names_and_options_are_refused() {
        let message = |text| FlowControl::group(Some(text), &DEFAULTS).unwrap_err().message;
        assert!(message("bogus").contains("Invalid flow control strategy name: bogus"));
        assert!(message("min,x:1").contains("unrecognised option"));
    }
}
