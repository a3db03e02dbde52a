//! Messages of services and tools, and whether the services live (spec 04 §1.5, §4.6, §4.11, §4.14).

use harrier_ringbuf::Memory;
use harrier_ringbuf::counters::CountersReader;
use harrier_ringbuf::storage::Storage;

use super::acks::{Ack, Purpose, Refusal};
use super::core::{Core, Life};
use super::counters::Heartbeat;
use super::error::ModuleError;
use super::state::{ServiceCommand, ServiceEffect};
use crate::codec::{ActiveMember, ModuleMessage, ServiceMessage};

/// A question of a tool for the members of the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct MembersQuery {
    correlation_id: i64,
    is_extended: bool,
}

/// Limit of the questions that wait.
const MAX_QUERIES: usize = 64;

/// The driver's client of a service.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServiceClient {
    client_id: Option<i64>,
    heartbeat: Option<Heartbeat>,
}

impl ServiceClient {
    /// Takes note of the client of a service that has started; the client lives as long as its heartbeat. The heartbeat is
    /// looked up at once, because the end of a client whose heartbeat was never found would go unnoticed.
    pub(super) fn on_started(&mut self, client_id: i64, counters: &CountersReader) {
        self.client_id = Some(client_id);
        self.heartbeat = Heartbeat::find(counters, client_id);
    }
}

impl<M: Memory, S: Storage> Core<M, S> {
    /// Takes messages of services. Calls `on_closing` with each session that a service closes.
    #[inline]
    pub(super) fn poll_services(&mut self, mut on_closing: impl FnMut(i64)) -> usize {
        let Self { link, state, acks, members_queries, mark, counters, now, next_slow_tick_ns, .. } = self;
        let mut report = |text: &str| {
            mark.errors.record(now.epoch_ms, text);
            counters.errors.increment();
        };
        link.poll(&mut |message| {
            let message = match message {
                Ok(message) => message,
                Err(error) => return report(&format!("undecodable message of a service: {error}")),
            };
            let effect = match message {
                ServiceMessage::Ack { log_position, timestamp, ack_id, relevant_id, service_id } => {
                    let ack = Ack { ack_id, log_position, timestamp, relevant_id };
                    if let Err(refusal) = acks.on_ack(service_id, ack) {
                        report(&refusal_text(refusal, service_id, &ack));
                    }
                    return;
                }
                ServiceMessage::MembersQuery { correlation_id, is_extended } => {
                    if members_queries.len() < MAX_QUERIES {
                        members_queries.push(MembersQuery { correlation_id, is_extended });
                    }
                    return;
                }
                _ => command(&message).map_or(ServiceEffect::None, |command| state.on_service(command)),
            };
            match effect {
                ServiceEffect::None => {}
                ServiceEffect::SessionClosing { session_id } => {
                    on_closing(session_id);
                    *next_slow_tick_ns = now.ns;
                }
                ServiceEffect::Refused => report(&untaken_text(&message)),
            }
        })
    }

    /// Takes one ack of each service once all of them have reached a position, bytes.
    pub(super) fn take_acks(
        &mut self,
        log_position: i64,
        purpose: Purpose,
    ) -> Result<Option<Vec<Ack>>, ModuleError> {
        let taken = self.acks.take_set(log_position, purpose);
        for (service_id, ack) in self.acks.take_strays() {
            let (ack_id, position) = (ack.ack_id, ack.log_position);
            let text = format!("stray ack {ack_id} of service {service_id} at {position}");
            self.record_error(&text);
        }
        taken.map_err(|wrong| ModuleError::Service {
            service_id: wrong.service_id,
            reason: format!("ack out of sequence: {:?}, expected position {log_position}", wrong.ack),
        })
    }

    /// Returns the error of the first service whose ack has not come in time.
    pub(super) fn missing_service(&self, reason: &str) -> ModuleError {
        let service_id = self.acks.missing().first().copied().unwrap_or(0);
        ModuleError::Service { service_id, reason: reason.to_owned() }
    }

    /// Lets services that have sent fewer messages than the log has of them continue behind the log. All services have
    /// reached the end of what they read.
    pub(super) fn skip_logged_messages(&mut self) {
        let Self { state, mark, counters, now, .. } = self;
        state.skip_logged_messages(|service_id| {
            let text = format!(
                "service {service_id} sent fewer messages than the log has of it: is it deterministic?"
            );
            mark.errors.record(now.epoch_ms, &text);
            counters.errors.increment();
        });
    }

    /// Returns an error when a service has gone, because its state has gone with it (spec 04 §4.11).
    pub(super) fn check_service_clients(&mut self) -> Result<(), ModuleError> {
        if self.life == Life::Terminating {
            return Ok(());
        }
        let counters = self.aeron.counters();
        for (service_id, client) in self.service_clients.iter_mut().enumerate() {
            let Some(client_id) = client.client_id else { continue };
            match client.heartbeat {
                None => client.heartbeat = Heartbeat::find(counters, client_id),
                Some(heartbeat) if heartbeat.is_alive(counters) => {}
                Some(_) => {
                    let reason =
                        format!("Aeron client in service closed unexpectedly: serviceId={service_id}");
                    return Err(ModuleError::Service { service_id, reason });
                }
            }
        }
        Ok(())
    }

    /// Answers the questions of tools; `recorded` is the position up to which the log is recorded, bytes.
    pub(super) fn answer_members_queries(&mut self, is_leading: bool, recorded: Option<i64>) {
        let leader_member_id = if is_leading { self.context.member_id } else { -1 };
        let current_time_ns = self.time().saturating_mul(self.clock.unit().nanos());
        let member = ActiveMember {
            leadership_term_id: self.leadership_term_id,
            log_position: recorded.unwrap_or(self.append_position),
            time_of_last_append_ns: current_time_ns,
            member_id: self.member.id,
            ingress_endpoint: &self.member.ingress,
            consensus_endpoint: &self.member.consensus,
            log_endpoint: &self.member.log,
            catchup_endpoint: &self.member.catchup,
            archive_endpoint: &self.member.archive,
        };
        // A question whose answer the stream does not take now is answered later.
        let mut answered = 0;
        for query in &self.members_queries {
            let correlation_id = query.correlation_id;
            let answer = if query.is_extended {
                ModuleMessage::MembersExtendedResponse {
                    correlation_id,
                    current_time_ns,
                    leader_member_id,
                    member_id: self.context.member_id,
                    active_members: &[member],
                }
            } else {
                let active_members = &self.context.members;
                ModuleMessage::MembersResponse { correlation_id, leader_member_id, active_members }
            };
            if !self.link.send(&answer) {
                break;
            }
            answered += 1;
        }
        self.members_queries.drain(..answered);
    }

    /// Tells the services at which position to end, bytes; returns false when they cannot be told now.
    pub(super) fn tell_termination(&mut self, log_position: i64) -> bool {
        let message = ModuleMessage::TerminationPosition { log_position };
        self.link.send(&message)
    }
}

/// Returns the message as a request for the shared state.
fn command<'a>(message: &ServiceMessage<'a>) -> Option<ServiceCommand<'a>> {
    Some(match *message {
        ServiceMessage::Offer { header, payload } => {
            ServiceCommand::Enqueue { service_id: sender(header.session_id), payload }
        }
        ServiceMessage::CloseSession { session_id } => ServiceCommand::CloseSession { session_id },
        ServiceMessage::ScheduleTimer { correlation_id, deadline } => {
            ServiceCommand::ScheduleTimer { correlation_id, deadline }
        }
        ServiceMessage::CancelTimer { correlation_id } => ServiceCommand::CancelTimer { correlation_id },
        ServiceMessage::Ack { .. } | ServiceMessage::MembersQuery { .. } => return None,
    })
}

/// Returns the service that has sent a message; aeron-go's services name themselves by negative ids (spec 04 §10.3,
/// DECISION).
fn sender(session_id: i64) -> usize {
    usize::try_from(session_id.unsigned_abs()).unwrap_or(usize::MAX)
}

fn untaken_text(message: &ServiceMessage<'_>) -> String {
    let ServiceMessage::Offer { header, .. } = message else { return "request was not taken".into() };
    format!("message of service {} was not taken", header.session_id)
}

fn refusal_text(refusal: Refusal, service_id: i32, ack: &Ack) -> String {
    let Ack { ack_id, log_position, .. } = ack;
    match refusal {
        Refusal::UnknownService => {
            format!("ack {ack_id} at {log_position} of service {service_id}, which this node does not have")
        }
        Refusal::RepeatedStart => format!("initial ack already received from service {service_id}"),
        Refusal::Flood => format!("service {service_id} sends acks that nobody waits for"),
    }
}
