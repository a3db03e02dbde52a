//! Dispatch of egress messages to the client (spec 04 §3.2).

use harrier_client::Aeron;

use super::{ClusterClient, ClusterClientError, EgressListener, Stage, connect};
use crate::codec::{Egress, EventCode};

/// Fragments read per poll.
const FRAGMENT_LIMIT: usize = 10;

/// Egress events that change the client's state.
pub(super) enum News {
    Event(SessionNews),
    NewLeader { term_id: i64, leader: i32, endpoints: String, egress_session_id: i32 },
    Challenge { correlation_id: i64, session_id: i64, challenge: Vec<u8> },
    AdminResponse { correlation_id: i64, request_type: i32, code: i32, message: String },
}

/// Fields of a SessionEvent.
pub(super) struct SessionNews {
    pub(super) correlation_id: i64,
    pub(super) session_id: i64,
    pub(super) term_id: i64,
    pub(super) leader: i32,
    pub(super) code: EventCode,
    pub(super) heartbeat_timeout_ns: Option<i64>,
    pub(super) detail: String,
    pub(super) egress_session_id: i32,
}

impl ClusterClient {
    /// Reads egress; `wanted` is the correlation id of the pending connect request.
    pub(super) fn read_egress(
        &mut self,
        aeron: &mut Aeron,
        listener: &mut impl EgressListener,
        wanted: Option<i64>,
    ) -> Result<usize, ClusterClientError> {
        let Some(egress) = &mut self.egress else { return Ok(0) };
        let (assembler, own_session) = (&mut self.assembler, self.session_id);
        // One poll may return several: OK and NewLeaderEvent after a failover.
        let mut news = Vec::new();
        let work_count = egress.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            let from = header.session_id();
            assembler.on_fragment(payload, header, &mut |message, _| match Egress::decode(message) {
                Ok(Some(Egress::Message { header, payload })) if header.session_id == own_session => {
                    listener.on_message(header.session_id, header.timestamp, payload);
                }
                Ok(Some(other)) => news.extend(news_of(&other, own_session, wanted, from)),
                _ => {}
            });
        });
        let is_silent = news.is_empty() && work_count == 0;
        for item in news {
            self.on_news(item, aeron, listener)?;
        }
        if wanted.is_none() && is_silent {
            self.check_egress();
        }
        Ok(work_count)
    }

    /// Detects a lost leader by its missing image; the next leader will connect again.
    fn check_egress(&mut self) {
        let Some(egress) = &mut self.egress else { return };
        let is_lost = match self.egress_session_id {
            Some(session_id) => egress.image_by_session_id(session_id).is_none(),
            None => egress.images().is_empty(),
        };
        if !is_lost {
            return;
        }
        match self.stage {
            Stage::Connected | Stage::Reconnecting { .. } => self.await_new_leader(),
            _ => {}
        }
    }

    fn on_news(
        &mut self,
        news: News,
        aeron: &mut Aeron,
        listener: &mut impl EgressListener,
    ) -> Result<(), ClusterClientError> {
        match news {
            News::Challenge { session_id, correlation_id, challenge } => {
                if (Stage::AwaitResponse { correlation_id }) == self.stage {
                    self.session_id = session_id;
                    self.challenge = challenge;
                    self.stage = Stage::SendChallengeResponse;
                }
            }
            News::Event(event) => {
                if (Stage::AwaitResponse { correlation_id: event.correlation_id }) == self.stage {
                    return self.on_connect_response(&event, aeron);
                }
                if event.session_id != self.session_id {
                    return Ok(());
                }
                listener.on_session_event(event.code, &event.detail);
                if event.code == EventCode::Closed {
                    return Err(ClusterClientError::Closed(event.detail));
                }
            }
            News::NewLeader { term_id, leader, endpoints, egress_session_id } => {
                listener.on_new_leader(term_id, leader, &endpoints);
                self.leadership_term_id = term_id;
                self.leader_member_id = leader;
                self.egress_session_id = Some(egress_session_id);
                if !self.endpoints.is_empty() {
                    self.endpoints = connect::parse_endpoints(&endpoints)?;
                    self.context.ingress_endpoints = endpoints;
                }
                self.assembler.clear();
                self.add_ingress(aeron)?;
                let deadline_ns = self.now_ns + self.context.message_timeout_ns;
                self.stage = Stage::Reconnecting { deadline_ns };
            }
            News::AdminResponse { correlation_id, request_type, code, message } => {
                listener.on_admin_response(correlation_id, request_type, code, &message);
            }
        }
        Ok(())
    }
}

fn news_of(message: &Egress<'_>, own_session: i64, wanted: Option<i64>, from: i32) -> Option<News> {
    match *message {
        Egress::SessionEvent {
            session_id,
            correlation_id,
            leadership_term_id,
            leader_member_id,
            code,
            leader_heartbeat_timeout_ns,
            detail,
            ..
        } if session_id == own_session || wanted == Some(correlation_id) => Some(News::Event(SessionNews {
            correlation_id,
            session_id,
            term_id: leadership_term_id,
            leader: leader_member_id,
            code,
            heartbeat_timeout_ns: leader_heartbeat_timeout_ns,
            detail: detail.to_owned(),
            egress_session_id: from,
        })),
        Egress::NewLeader { leadership_term_id, session_id, leader_member_id, ingress_endpoints }
            if session_id == own_session =>
        {
            Some(News::NewLeader {
                term_id: leadership_term_id,
                leader: leader_member_id,
                endpoints: ingress_endpoints.to_owned(),
                egress_session_id: from,
            })
        }
        Egress::Challenge { correlation_id, session_id, challenge } if wanted == Some(correlation_id) => {
            Some(News::Challenge { correlation_id, session_id, challenge: challenge.to_vec() })
        }
        Egress::AdminResponse { session_id, correlation_id, request_type, code, message }
            if session_id == own_session =>
        {
            let message = message.to_owned();
            Some(News::AdminResponse { correlation_id, request_type, code, message })
        }
        _ => None,
    }
}
