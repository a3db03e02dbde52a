//! Query for the members of a cluster (spec 04 §1.5).

use harrier_client::{Aeron, ClientError, Publication, Subscription};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::assembly::FragmentAssembler;

use crate::codec::{ActiveMember, ModuleMessage, ServiceMessage};
use crate::mark::MarkHeader;

const FRAGMENT_LIMIT: usize = 10;

/// A member as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMember {
    /// Id of the member.
    pub member_id: i32,
    /// Leadership term id of the member.
    pub leadership_term_id: i64,
    /// Log position up to which the member has appended, bytes.
    pub log_position: i64,
    /// Time of the last append position that the leader received, ns of its clock.
    pub time_of_last_append_ns: i64,
    /// Endpoint for clients.
    pub ingress_endpoint: String,
    /// Endpoint for other members.
    pub consensus_endpoint: String,
    /// Endpoint of the log.
    pub log_endpoint: String,
    /// Endpoint that receives catch-up replays.
    pub catchup_endpoint: String,
    /// Endpoint of the member's archive.
    pub archive_endpoint: String,
}

/// The answer of a consensus module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMembers {
    /// Id of the queried member.
    pub member_id: i32,
    /// Id of the leader; -1 for none.
    pub leader_member_id: i32,
    /// Clock time of the member, ns.
    pub current_time_ns: i64,
    /// All members.
    pub members: Vec<ClusterMember>,
}

/// A members query in progress; poll it until it returns the answer.
pub struct MembersQuery {
    publication_id: i64,
    subscription_id: i64,
    publication: Option<Publication>,
    subscription: Option<Subscription>,
    assembler: FragmentAssembler,
    correlation_id: i64,
    answer: Option<ClusterMembers>,
}

impl MembersQuery {
    /// Begins a query to the consensus module of a mark file, through its driver.
    ///
    /// # Errors
    /// A driver that is gone, or a channel that is none.
    pub fn new(aeron: &mut Aeron, mark: &MarkHeader) -> Result<Self, ClientError> {
        let channel = mark.control_channel.as_str();
        Ok(Self {
            subscription_id: aeron.add_subscription(channel, mark.service_stream_id)?,
            publication_id: aeron.add_publication(channel, mark.module_stream_id)?,
            publication: None,
            subscription: None,
            assembler: FragmentAssembler::new(),
            correlation_id: -1,
            answer: None,
        })
    }

    /// Advances the query and returns the answer once received.
    ///
    /// # Errors
    /// A driver that is gone or refuses the streams.
    pub fn poll(&mut self, aeron: &mut Aeron) -> Result<Option<ClusterMembers>, ClientError> {
        if self.subscription.is_none() {
            self.subscription = aeron.subscription(self.subscription_id)?;
        }
        if self.publication.is_none() {
            self.publication = aeron.publication(self.publication_id)?;
        }
        self.read();
        // The query is sent only once the module's image exists, otherwise the answer would be lost.
        let can_hear =
            self.subscription.as_mut().is_some_and(|subscription| !subscription.images().is_empty());
        if self.correlation_id == -1
            && can_hear
            && let Some(publication) =
                self.publication.as_mut().filter(|publication| publication.is_connected())
        {
            let correlation_id = aeron.next_correlation_id();
            let mut bytes = [0; 64];
            let query = ServiceMessage::MembersQuery { correlation_id, is_extended: true };
            let length = query.encode(&mut bytes).unwrap_or(0);
            match publication.offer(&bytes[..length]) {
                Ok(_) => self.correlation_id = correlation_id,
                Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => {}
                Err(error) => {
                    return Err(ClientError::InvalidArgument {
                        argument: "control channel",
                        reason: error.to_string(),
                    });
                }
            }
        }
        Ok(self.answer.take())
    }

    fn read(&mut self) {
        let (Some(subscription), correlation_id) = (&mut self.subscription, self.correlation_id) else {
            return;
        };
        let (assembler, answer) = (&mut self.assembler, &mut self.answer);
        subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| {
                if let Some(read) = decode(message, correlation_id) {
                    *answer = Some(read);
                }
            });
        });
    }
}

fn decode(message: &[u8], wanted: i64) -> Option<ClusterMembers> {
    let Ok(Some(ModuleMessage::MembersExtendedResponse {
        correlation_id,
        current_time_ns,
        leader_member_id,
        member_id,
        ..
    })) = ModuleMessage::decode(message)
    else {
        return None;
    };
    if correlation_id != wanted {
        return None;
    }
    let members = ActiveMember::decode_all(message).ok()?.iter().map(owned).collect();
    Some(ClusterMembers { member_id, leader_member_id, current_time_ns, members })
}

fn owned(member: &ActiveMember<'_>) -> ClusterMember {
    ClusterMember {
        member_id: member.member_id,
        leadership_term_id: member.leadership_term_id,
        log_position: member.log_position,
        time_of_last_append_ns: member.time_of_last_append_ns,
        ingress_endpoint: member.ingress_endpoint.to_owned(),
        consensus_endpoint: member.consensus_endpoint.to_owned(),
        log_endpoint: member.log_endpoint.to_owned(),
        catchup_endpoint: member.catchup_endpoint.to_owned(),
        archive_endpoint: member.archive_endpoint.to_owned(),
    }
}
