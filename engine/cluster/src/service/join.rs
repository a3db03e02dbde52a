//! Joining a log that the consensus module names (spec 04 §4.14, §7.1).

use harrier_client::{Image, Subscription};
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::assembly::ImageFragmentAssembler;

use super::ClusteredService;
use super::container::ServiceContainer;
use super::error::ContainerError;
use super::log::ActiveLog;
use super::session::EgressSession;
use crate::codec::Role;

/// A log to join, as requested by the consensus module.
#[derive(Debug, Clone)]
pub(super) struct Join {
    pub(super) log_position: i64,
    pub(super) max_log_position: i64,
    pub(super) member_id: i32,
    pub(super) session_id: i32,
    pub(super) stream_id: i32,
    pub(super) is_startup: bool,
    pub(super) role: Role,
    pub(super) is_standby: bool,
    pub(super) channel: String,
}

/// State of joining a log.
pub(super) enum Joining {
    Idle,
    AwaitSubscription { join: Join, id: i64 },
    AwaitImage { join: Join, subscription: Subscription },
    AwaitEgress { join: Join },
    Ack { join: Join },
}

impl<T: ClusteredService, M: Memory> ServiceContainer<T, M> {
    /// Queues the next log and ends the current one where it begins.
    pub(super) fn on_join(&mut self, join: Join) {
        if let Some(log) = &mut self.log {
            log.max_position = join.log_position;
        }
        self.wanted = Some(join);
    }

    /// True when the last joined log may be read.
    pub(super) fn has_joined(&self) -> bool {
        matches!(self.joining, Joining::Idle)
    }

    pub(super) fn go_on_joining(&mut self) -> Result<usize, ContainerError> {
        // The image of a log whose leader died between the request and the subscription never comes. The consensus module
        // then asks for another log (spec 07 §9).
        if self.wanted.is_some()
            && matches!(self.joining, Joining::AwaitSubscription { .. } | Joining::AwaitImage { .. })
        {
            self.joining = Joining::Idle;
        }
        if matches!(self.joining, Joining::Idle) && (self.wanted.is_none() || self.log.is_some()) {
            return Ok(0);
        }
        let joining = std::mem::replace(&mut self.joining, Joining::Idle);
        let (next, is_step) = self.join_step(joining)?;
        self.joining = next;
        Ok(usize::from(is_step))
    }

    fn join_step(&mut self, joining: Joining) -> Result<(Joining, bool), ContainerError> {
        let Some(core) = &mut self.core else { return Ok((joining, false)) };
        Ok(match joining {
            Joining::Idle => match self.wanted.take() {
                None => (Joining::Idle, false),
                Some(join) => {
                    if join.role != Role::Leader {
                        core.disconnect_sessions();
                    }
                    let mut uri = ChannelUri::parse(&join.channel)?;
                    uri.put(key::ALIAS, format_args!("log-sc-{}", self.context.service_id));
                    let id = core.aeron.add_subscription(&uri.to_string(), join.stream_id)?;
                    (Joining::AwaitSubscription { join, id }, true)
                }
            },
            Joining::AwaitSubscription { join, id } => match core.aeron.subscription(id)? {
                None => (Joining::AwaitSubscription { join, id }, false),
                Some(subscription) => (Joining::AwaitImage { join, subscription }, true),
            },
            Joining::AwaitImage { join, mut subscription } => {
                let id =
                    subscription.image_by_session_id(join.session_id).map(|image| image.correlation_id());
                match id.and_then(|id| subscription.take_image(id)) {
                    None => (Joining::AwaitImage { join, subscription }, false),
                    Some(image) => {
                        self.log = Some(active_log(&join, image, subscription, core.log_position)?);
                        if join.role == Role::Leader {
                            prepare(&mut core.sessions, |session| {
                                session.is_closing = false;
                                if self.context.is_responder && !join.is_startup {
                                    session.connect(&mut core.aeron);
                                }
                            });
                        }
                        (Joining::AwaitEgress { join }, true)
                    }
                }
            }
            // The first callback may reply, so the egress streams must exist before it.
            Joining::AwaitEgress { join } => {
                if core.sessions.values_mut().all(|session| session.is_settled(&mut core.aeron)) {
                    (Joining::Ack { join }, true)
                } else {
                    (Joining::AwaitEgress { join }, false)
                }
            }
            Joining::Ack { join } => {
                if !core.send_ack(join.log_position, -1) {
                    return Ok((Joining::Ack { join }, false));
                }
                core.member_id = join.member_id;
                self.is_standby = join.is_standby;
                self.mark.set_member_id(join.member_id);
                self.change_role(join.role);
                (Joining::Idle, true)
            }
        })
    }

    pub(super) fn change_role(&mut self, role: Role) {
        let Some(core) = &mut self.core else { return };
        if core.role == role {
            return;
        }
        core.role = role;
        let service = &mut self.service;
        core.call(self.waiter.as_mut(), Some("on_role_change"), |cluster| {
            service.on_role_change(cluster, role);
        });
    }
}

fn prepare(
    sessions: &mut std::collections::BTreeMap<i64, EgressSession>,
    prepare: impl FnMut(&mut EgressSession),
) {
    sessions.values_mut().for_each(prepare);
}

fn active_log(
    join: &Join,
    image: Image,
    subscription: Subscription,
    own_position: i64,
) -> Result<ActiveLog, ContainerError> {
    let joined = image.join_position();
    if joined != join.log_position || own_position != join.log_position {
        return Err(ContainerError::Log(format!(
            "joined at {joined} with the service at {own_position}, wanted {}",
            join.log_position
        )));
    }
    Ok(ActiveLog {
        _subscription: subscription,
        image,
        assembler: ImageFragmentAssembler::new(),
        max_position: join.max_log_position,
    })
}
