//! Connecting a client to its session, and to the next leader (spec 04 §3.1, §3.2).

use std::collections::BTreeMap;

use harrier_client::Aeron;
use harrier_protocol::uri::{ChannelUri, key};

use super::attempt::Attempt;
use super::egress::SessionNews;
use super::ingress::IngressStream;
use super::{ClusterClient, ClusterClientError, EgressListener, Stage};
use crate::codec::{EventCode, Ingress, PROTOCOL_VERSION};

impl ClusterClient {
    pub(super) fn check_deadline(&mut self) -> Result<(), ClusterClientError> {
        let timeout_ns = self.context.message_timeout_ns;
        let deadline_ns = *self.deadline_ns.get_or_insert(self.now_ns + timeout_ns);
        if self.now_ns <= deadline_ns {
            return Ok(());
        }
        let stage = match self.stage {
            Stage::Begin | Stage::AwaitEgress { .. } => "adding the egress subscription",
            Stage::AwaitIngress => "adding the ingress publications",
            Stage::AwaitConnected => "connecting to the ingress",
            Stage::SendConnect => "sending the connect request",
            _ => "waiting for the connect response",
        };
        Err(self.timeout(timeout_ns, stage))
    }

    pub(super) fn check_leader_deadline(
        &self,
        deadline_ns: i64,
        stage: &'static str,
    ) -> Result<(), ClusterClientError> {
        if self.now_ns <= deadline_ns {
            return Ok(());
        }
        let timeout_ns = match self.stage {
            Stage::AwaitNewLeader { .. } => self.context.new_leader_timeout_ns(self.heartbeat_timeout_ns),
            _ => self.context.message_timeout_ns,
        };
        Err(self.timeout(timeout_ns, stage))
    }

    fn timeout(&self, timeout_ns: i64, stage: &'static str) -> ClusterClientError {
        let mut streams: Vec<String> = self.ingress.iter().map(IngressStream::describe).collect();
        if streams.is_empty() {
            streams
                .push(format!("ingress {} {}", self.context.ingress_channel, self.context.ingress_endpoints));
        }
        streams.push(format!("egress {}", self.context.egress_channel));
        ClusterClientError::Timeout { timeout_ns, stage, streams: streams.join(", ") }
    }

    pub(super) fn connect_step(
        &mut self,
        stage: Stage,
        aeron: &mut Aeron,
        listener: &mut impl EgressListener,
    ) -> Result<usize, ClusterClientError> {
        match stage {
            Stage::Begin => {
                let mut uri = ChannelUri::parse(&self.context.egress_channel)?;
                if uri.is_udp() {
                    uri.put(key::REJOIN, false);
                }
                let id = aeron.add_subscription(&uri.to_string(), self.context.egress_stream_id)?;
                self.stage = Stage::AwaitEgress { id };
            }
            Stage::AwaitEgress { id } => {
                let Some(subscription) = aeron.subscription(id)? else { return Ok(0) };
                self.egress = Some(subscription);
                self.add_ingress(aeron)?;
                self.stage = Stage::AwaitIngress;
            }
            Stage::AwaitIngress => {
                if !self.ingress_is_settled(aeron) {
                    return Ok(0);
                }
                self.stage = Stage::AwaitConnected;
            }
            Stage::AwaitConnected => {
                let connected = self.ingress.iter().enumerate().filter(|(_, stream)| stream.is_connected());
                let members = connected.map(|(index, stream)| (index, stream.member_id));
                let Some(index) = self.attempt.choose(self.now_ns, members) else { return Ok(0) };
                self.leader = index;
                self.stage = Stage::SendConnect;
            }
            Stage::SendConnect => return self.send_connect(aeron),
            Stage::AwaitResponse { correlation_id } => {
                return self.read_egress(aeron, listener, Some(correlation_id));
            }
            Stage::SendChallengeResponse => {
                let correlation_id = aeron.next_correlation_id();
                let answer = match &self.context.challenge_responder {
                    Some(responder) => responder.answer(&self.challenge),
                    None => self.context.challenge_answer.clone(),
                };
                let session_id = self.session_id;
                let request = Ingress::ChallengeResponse { correlation_id, session_id, credentials: &answer };
                if !self.send(&request)? {
                    return Ok(0);
                }
                self.attempt.begin_waiting(self.now_ns, self.context.message_timeout_ns);
                self.stage = Stage::AwaitResponse { correlation_id };
            }
            _ => {}
        }
        Ok(1)
    }

    pub(super) fn add_ingress(&mut self, aeron: &mut Aeron) -> Result<(), ClusterClientError> {
        self.ingress.clear();
        self.leader = 0;
        self.attempt.begin_connecting(self.now_ns, self.context.message_timeout_ns);
        let template = ChannelUri::parse(&self.context.ingress_channel)?;
        let mut channels: Vec<(i32, String)> = self
            .endpoints
            .iter()
            .filter(|(id, _)| self.leader_member_id == -1 || **id == self.leader_member_id)
            .map(|(id, endpoint)| (*id, template.clone().with(key::ENDPOINT, endpoint).to_string()))
            .collect();
        if channels.is_empty() {
            channels.push((0, template.to_string()));
        }
        for (member_id, channel) in channels {
            let (stream_id, is_exclusive) =
                (self.context.ingress_stream_id, self.context.is_ingress_exclusive);
            self.ingress.push(IngressStream::add(aeron, member_id, channel, stream_id, is_exclusive)?);
        }
        Ok(())
    }

    pub(super) fn ingress_is_settled(&mut self, aeron: &mut Aeron) -> bool {
        let mut is_settled = true;
        for ingress in &mut self.ingress {
            is_settled &= ingress.is_settled(aeron);
        }
        is_settled
    }

    pub(super) fn send_connect(&mut self, aeron: &mut Aeron) -> Result<usize, ClusterClientError> {
        let Some(egress) = &self.egress else { return Ok(0) };
        let Some(response_channel) = egress.resolved_channel(aeron.counters()) else { return Ok(0) };
        let correlation_id = aeron.next_correlation_id();
        let credentials = self.context.credentials.clone();
        let client_info = format!(
            "name={} version={} commit=harrier",
            self.context.client_name,
            harrier_protocol::AERON_VERSION
        );
        let request = Ingress::Connect {
            correlation_id,
            response_stream_id: self.context.egress_stream_id,
            version: PROTOCOL_VERSION,
            response_channel: &response_channel,
            credentials: &credentials,
            client_info: &client_info,
        };
        if !self.send(&request)? {
            return Ok(0);
        }
        self.attempt.begin_waiting(self.now_ns, self.context.message_timeout_ns);
        self.stage = Stage::AwaitResponse { correlation_id };
        Ok(1)
    }

    /// Gives up the member that does not connect or answer, and tries all of them again, this one last.
    pub(super) fn try_next_member(&mut self, aeron: &mut Aeron) -> Result<usize, ClusterClientError> {
        let is_asked = matches!(
            self.stage,
            Stage::SendConnect | Stage::AwaitResponse { .. } | Stage::SendChallengeResponse
        );
        let tried = self.ingress.get(self.leader).filter(|_| is_asked || self.ingress.len() == 1);
        let member_id = tried.map(|stream| stream.member_id);
        self.attempt.fail(member_id);
        self.leader_member_id = -1;
        self.add_ingress(aeron)?;
        self.stage = Stage::AwaitIngress;
        Ok(1)
    }

    pub(super) fn on_connect_response(
        &mut self,
        event: &SessionNews,
        aeron: &mut Aeron,
    ) -> Result<(), ClusterClientError> {
        match event.code {
            EventCode::Ok => {
                self.session_id = event.session_id;
                self.leadership_term_id = event.term_id;
                self.leader_member_id = event.leader;
                self.heartbeat_timeout_ns = event.heartbeat_timeout_ns;
                self.egress_session_id = Some(event.egress_session_id);
                let keep = self.leader;
                let mut index = 0;
                self.ingress.retain(|_| {
                    index += 1;
                    index - 1 == keep
                });
                self.leader = 0;
                self.last_sent_ns = self.now_ns;
                self.attempt = Attempt::default();
                self.stage = Stage::Connected;
                Ok(())
            }
            EventCode::Redirect => {
                self.endpoints = parse_endpoints(&event.detail)?;
                self.leader_member_id = event.leader;
                self.add_ingress(aeron)?;
                self.stage = Stage::AwaitIngress;
                Ok(())
            }
            code => Err(ClusterClientError::Refused { code, detail: event.detail.clone() }),
        }
    }

    pub(super) fn reconnect(&mut self, aeron: &mut Aeron) -> Result<(), ClusterClientError> {
        if !self.ingress_is_settled(aeron) {
            return Ok(());
        }
        let leader = self.leader_member_id;
        if let Some(index) = self.ingress.iter().position(|ingress| ingress.member_id == leader) {
            self.leader = index;
        }
        let request =
            Ingress::KeepAlive { leadership_term_id: self.leadership_term_id, session_id: self.session_id };
        if self.send(&request)? {
            self.stage = Stage::Connected;
        }
        Ok(())
    }
}

pub(super) fn parse_endpoints(text: &str) -> Result<BTreeMap<i32, String>, ClusterClientError> {
    let invalid = || ClusterClientError::Endpoints(text.to_owned());
    text.split(',')
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (id, endpoint) = entry.split_once('=').ok_or_else(invalid)?;
            harrier_protocol::uri::Endpoint::parse(endpoint).ok_or_else(invalid)?;
            Ok((id.trim().parse().map_err(|_| invalid())?, endpoint.to_owned()))
        })
        .collect()
}
