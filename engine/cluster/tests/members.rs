//! Messages of other members, which the only member of a cluster has no use for (spec 04 §1.6).

use harrier_cluster::codec::{
    AppendPosition, BackupRequest, CONSENSUS_VERSION, CanvassPosition, CatchupPosition, CommitPosition,
    ConsensusMessage, NewLeadershipTerm, RequestVote, StopCatchup, TerminationAck, TerminationPosition, Vote,
};

use crate::rig::{Node, Plan, counter, directory, ports, value};

/// One message of each template, all of a term far ahead.
fn messages() -> [ConsensusMessage<'static>; 10] {
    let (leadership_term_id, log_position, member_id) = (900, 1 << 20, 1);
    [
        ConsensusMessage::CanvassPosition(CanvassPosition {
            log_leadership_term_id: 900,
            log_position,
            leadership_term_id,
            follower_member_id: member_id,
            protocol_version: CONSENSUS_VERSION,
        }),
        ConsensusMessage::RequestVote(RequestVote {
            log_leadership_term_id: 900,
            log_position,
            candidate_term_id: 901,
            candidate_member_id: member_id,
            protocol_version: CONSENSUS_VERSION,
        }),
        ConsensusMessage::Vote(Vote {
            candidate_term_id: 901,
            log_leadership_term_id: 900,
            log_position,
            candidate_member_id: 0,
            follower_member_id: member_id,
            vote: true,
        }),
        ConsensusMessage::NewLeadershipTerm(NewLeadershipTerm {
            log_leadership_term_id: 900,
            next_leadership_term_id: -1,
            next_term_base_log_position: -1,
            next_log_position: -1,
            leadership_term_id,
            term_base_log_position: 0,
            log_position,
            leader_recording_id: 0,
            timestamp: 0,
            leader_member_id: member_id,
            log_session_id: 1,
            app_version: 1,
            is_startup: false,
            commit_position: log_position,
        }),
        ConsensusMessage::AppendPosition(AppendPosition {
            leadership_term_id,
            log_position,
            follower_member_id: member_id,
            flags: 0,
        }),
        ConsensusMessage::CommitPosition(CommitPosition {
            leadership_term_id,
            log_position,
            leader_member_id: member_id,
        }),
        ConsensusMessage::CatchupPosition(CatchupPosition {
            leadership_term_id,
            log_position,
            follower_member_id: member_id,
            catchup_endpoint: "127.0.0.1:1",
        }),
        ConsensusMessage::StopCatchup(StopCatchup { leadership_term_id, follower_member_id: 0 }),
        ConsensusMessage::TerminationPosition(TerminationPosition { leadership_term_id, log_position: 0 }),
        ConsensusMessage::TerminationAck(TerminationAck { leadership_term_id, log_position, member_id }),
    ]
}

#[test]
fn messages_of_other_members_are_counted_and_change_nothing() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    node.exchange(client, "before");
    let (elections, commit) =
        (node.counter(counter::ELECTIONS).unwrap(), node.counter(counter::COMMIT).unwrap());
    let channel = format!("aeron:udp?term-length=64k|endpoint=127.0.0.1:{}", ports[1]);
    let id = node.tool.add_exclusive_publication(&channel, 108).unwrap();
    let mut stream = node.until("the stream", |node| node.tool.exclusive_publication(id).unwrap());
    node.until("the member", |_| stream.is_connected().then_some(()));
    let mut bytes = [0; 512];
    // A suspended member reads the stream, too.
    for (round, toggle) in [value::NEUTRAL, value::SUSPEND].into_iter().enumerate() {
        node.set(counter::TOGGLE, toggle);
        if toggle == value::SUSPEND {
            node.await_value(counter::STATE, value::SUSPENDED);
        }
        for message in messages() {
            let length = message.encode(&mut bytes).unwrap();
            node.until("room", |_| stream.offer(&bytes[..length]).ok());
        }
        node.until("room", |_| stream.offer(b"no message of a member at all").ok());
        node.await_value(counter::CONSENSUS_REFUSED, 11 * (round as i64 + 1));
    }
    assert!(node.logged_errors().iter().any(|text| text.contains("undecodable consensus message")));
    node.set(counter::TOGGLE, value::RESUME);
    node.await_value(counter::STATE, value::ACTIVE);
    assert!(node.is_at(counter::ELECTIONS, elections));
    assert!(node.counter(counter::COMMIT).unwrap() < commit + 1_024, "nobody else's position is committed");
    node.exchange(client, "after");
    // Requests of backups on the same stream are still taken: this one cannot be answered.
    let request = BackupRequest::Heartbeat {
        correlation_id: 5,
        response_stream_id: 9,
        response_channel: "no channel",
        credentials: b"",
    };
    let length = request.encode(&mut bytes).unwrap();
    node.until("room", |_| stream.offer(&bytes[..length]).ok());
    node.await_value(counter::CONSENSUS_REFUSED, 23);
}
