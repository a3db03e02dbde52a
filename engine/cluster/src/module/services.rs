//! What services and tools say, and whether services live (spec 04 §1.5, §4.6, §4.11, §4.14).

use harrier_ringbuf::Memory;
use harrier_ringbuf::counters::CountersReader;
use harrier_ringbuf::storage::Storage;

use super::acks::{Ack, Purpose, Refusal};
use super::agent::{ConsensusModule, ModuleState};
use super::counters::Heartbeat;
use super::error::ModuleError;
use crate::codec::{ActiveMember, CloseReason, ModuleMessage, ServiceMessage};

/// A question for the members of the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct MembersQuery {
    correlation_id: i64,
    is_extended: bool,
}

/// Questions that wait at most; who asks more is a tool gone wild.
const MAX_QUERIES: usize = 64;

/// The driver's client of a service.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServiceClient {
    client_id: Option<i64>,
    heartbeat: Option<Heartbeat>,
}

impl ServiceClient {
    /// The service has started and named its client, which lives as long as its heartbeat: looked for at once, for one
    /// that dies before it was ever found would not be missed.
    pub(super) fn on_started(&mut self, client_id: i64, counters: Option<&CountersReader>) {
        self.client_id = Some(client_id);
        self.heartbeat = counters.and_then(|counters| Heartbeat::find(counters, client_id));
    }
}

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// Takes what services say.
    #[inline]
    pub(super) fn poll_services(&mut self) -> usize {
        let Some(mut link) = self.link.take() else { return 0 };
        let mut errors = Vec::new();
        let work_count =
            link.poll(&mut |message| self.on_service_message(message), &mut |error| errors.push(error));
        self.link = Some(link);
        for error in errors {
            self.record_error(&error);
        }
        if !self.members_queries.is_empty() {
            self.answer_members_queries();
        }
        work_count
    }

    fn on_service_message(&mut self, message: &ServiceMessage<'_>) {
        match *message {
            ServiceMessage::Offer { header, payload } => {
                // aeron-go's services name themselves by negative ids (spec 04 §10.3, DECISION).
                let service = usize::try_from(header.session_id.unsigned_abs()).unwrap_or(usize::MAX);
                let is_taken =
                    self.pending_messages.get_mut(service).is_some_and(|messages| messages.enqueue(payload));
                if !is_taken {
                    let text = format!("message of service {} was not taken", header.session_id);
                    self.record_error(&text);
                }
            }
            ServiceMessage::CloseSession { session_id } => {
                if let Some(session) = self.sessions.get_mut(&session_id) {
                    session.begin_closing(CloseReason::ServiceAction);
                    self.next_slow_tick_ns = self.now.ns;
                }
            }
            ServiceMessage::ScheduleTimer { correlation_id, deadline } => {
                self.timers.schedule(correlation_id, deadline);
            }
            ServiceMessage::CancelTimer { correlation_id } => {
                self.timers.cancel(correlation_id);
            }
            ServiceMessage::Ack { log_position, timestamp, ack_id, relevant_id, service_id } => {
                self.on_ack(service_id, Ack { ack_id, log_position, timestamp, relevant_id });
            }
            ServiceMessage::MembersQuery { correlation_id, is_extended } => {
                if self.members_queries.len() < MAX_QUERIES {
                    self.members_queries.push(MembersQuery { correlation_id, is_extended });
                }
            }
        }
    }

    fn on_ack(&mut self, service_id: i32, ack: Ack) {
        let Err(refusal) = self.acks.on_ack(service_id, ack) else { return };
        let Ack { ack_id, log_position, .. } = ack;
        let text = match refusal {
            Refusal::UnknownService => {
                format!(
                    "ack {ack_id} at {log_position} of service {service_id}, which this node does not have"
                )
            }
            Refusal::RepeatedStart => format!("initial ack already received from service {service_id}"),
            Refusal::Flood => format!("service {service_id} sends acks that nobody waits for"),
        };
        self.record_error(&text);
    }

    /// One ack of each service, once all have reached a position.
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

    /// The first service whose ack has not come in time.
    pub(super) fn missing_service(&self, reason: &str) -> ModuleError {
        let service_id = self.acks.missing().first().copied().unwrap_or(0);
        ModuleError::Service { service_id, reason: reason.to_owned() }
    }

    /// All services have come to a position: those that have sent fewer messages than the log has of them go on behind it.
    pub(super) fn correct_pending_messages(&mut self) {
        for service_id in 0..self.pending_messages.len() {
            if self.pending_messages[service_id].catch_up_with_log() {
                let text = format!(
                    "service {service_id} sent fewer messages than the log has of it: is it deterministic?"
                );
                self.record_error(&text);
            }
        }
    }

    /// A service whose client the driver has given up is gone, and with it the node's state (spec 04 §4.11).
    pub(super) fn check_service_clients(&mut self) -> Result<(), ModuleError> {
        let Some(aeron) = &self.aeron else { return Ok(()) };
        if self.state == ModuleState::Terminating {
            return Ok(());
        }
        for (service_id, client) in self.service_clients.iter_mut().enumerate() {
            let Some(client_id) = client.client_id else { continue };
            match client.heartbeat {
                None => client.heartbeat = Heartbeat::find(aeron.counters(), client_id),
                Some(heartbeat) if heartbeat.is_alive(aeron.counters()) => {}
                Some(_) => {
                    let reason =
                        format!("Aeron client in service closed unexpectedly: serviceId={service_id}");
                    return Err(ModuleError::Service { service_id, reason });
                }
            }
        }
        Ok(())
    }

    fn answer_members_queries(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        let leader_member_id = if self.is_leading() { self.context.member_id } else { -1 };
        let current_time_ns = self.time().saturating_mul(self.clock.unit().nanos());
        let member = ActiveMember {
            leadership_term_id: self.leadership_term_id,
            log_position: self.recorded_position().unwrap_or(self.append_position),
            time_of_last_append_ns: current_time_ns,
            member_id: self.member.id,
            ingress_endpoint: &self.member.ingress,
            consensus_endpoint: &self.member.consensus,
            log_endpoint: &self.member.log,
            catchup_endpoint: &self.member.catchup,
            archive_endpoint: &self.member.archive,
        };
        // One that the stream does not take now is answered later.
        let (mut answered, queries) = (0, &self.members_queries);
        for query in queries {
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
            if !link.send(&answer) {
                break;
            }
            answered += 1;
        }
        self.link = Some(link);
        self.members_queries.drain(..answered);
    }

    /// Tells the services at which position to end.
    pub(super) fn tell_termination(&mut self, log_position: i64) -> bool {
        let message = ModuleMessage::TerminationPosition { log_position };
        self.link.as_mut().is_some_and(|link| link.send(&message))
    }
}
