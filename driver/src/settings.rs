//! Settings of the network agents, derived from those of the driver.

use crate::context::{DriverContext, InvalidSetting};
use crate::flow_control::FlowControlDefaults;
use crate::interceptor::Interceptors;
use crate::receiver::ReceiverSettings;
use crate::sender::SenderSettings;

pub(crate) fn sender(context: &DriverContext) -> SenderSettings {
    SenderSettings {
        status_poll_ratio: context.send_to_status_poll_ratio,
        status_poll_timeout_ns: context.status_message_timeout_ns / 2,
        cycle_threshold_ns: context.sender_cycle_threshold_ns,
        re_resolution_interval_ns: context.re_resolution_check_interval_ns,
    }
}

pub(crate) fn receiver(context: &DriverContext, interceptors: Interceptors) -> ReceiverSettings {
    ReceiverSettings {
        cycle_threshold_ns: context.receiver_cycle_threshold_ns,
        re_resolution_interval_ns: context.re_resolution_check_interval_ns,
        stream_session_limit: usize::try_from(context.stream_session_limit).unwrap_or(usize::MAX),
        interceptors,
    }
}

pub(crate) fn interceptor(context: &DriverContext) -> Result<Interceptors, InvalidSetting> {
    Interceptors::parse(
        &context.incoming_interceptors,
        &context.loss_arguments,
        &context.fixed_loss_arguments,
        &context.multi_gap_loss_arguments,
    )
}

pub(crate) fn flow_control(context: &DriverContext) -> FlowControlDefaults<'_> {
    FlowControlDefaults {
        multicast: &context.multicast_flow_control,
        receiver_timeout_ns: context.flow_control_receiver_timeout_ns,
        group_tag: context.flow_control_group_tag,
        group_min_size: context.flow_control_group_min_size,
        unicast_rrwm: context.unicast_flow_control_rrwm,
        multicast_rrwm: context.multicast_flow_control_rrwm,
    }
}
