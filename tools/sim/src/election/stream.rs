//! The model's log streams, archives, services and steady members.

use harrier_cluster::codec::{AppendPosition, CommitPosition, JOINED_FLAG, StopCatchup};
use harrier_cluster::election::{Completion, Done, Input, MemberMessage, Observation, State, Trigger};

use super::ENTRY;
use super::member::Asked;
use super::model_log::Entry;
use super::run::World;

impl World {
    /// One duty cycle of a member: its archive, its streams and its services make progress.
    pub(super) fn work(&mut self, index: usize) {
        if self.now >= self.members[index].next_beat {
            self.beat(index);
        }
        if !self.members[index].is_up {
            return;
        }
        self.replicate(index);
        self.replay(index);
        self.record_own(index);
        self.receive(index);
        self.consume(index);
    }

    fn is_linked(&self, a: usize, b: usize) -> bool {
        !self.blocked[a][b] && !self.blocked[b][a]
    }

    fn is_serving(&self, source: usize) -> bool {
        self.members[source].is_up && self.members[source].paused_until <= self.now
    }

    /// Copies a few entries from another member's archive.
    fn replicate(&mut self, index: usize) {
        let Some(replicating) = self.members[index].replicating else { return };
        let (source, stop, epoch) = (replicating.source, replicating.stop, replicating.epoch);
        if !self.is_serving(source) || !self.is_linked(source, index) {
            return;
        }
        let start = self.members[source].disk.start;
        let mut position = self.members[index].disk.end();
        if position < start {
            self.members[index].replicating = None;
            let done = Done { epoch, completion: Completion::SourceStartsAbove { position: start } };
            self.coverage.hit("07 §31 leader's log starts above");
            return self.on_done(index, done);
        }
        let is_cut_short = self.rng.chance(1, 25);
        for _ in 0..1 + self.rng.below(4) {
            if position >= stop || is_cut_short {
                break;
            }
            let Some(entry) = self.members[source].disk.entry(position) else { break };
            self.members[index].disk.log.push(entry);
            self.members[index].disk.has_recording = true;
            position += ENTRY;
        }
        if position >= stop || is_cut_short {
            self.members[index].replicating = None;
            if position < stop {
                self.coverage.hit("07 §12 replication cut short");
            }
            self.on_done(index, Done { epoch, completion: Completion::Replicated { position } });
        } else {
            // The election reads its own position and learns the growth from the observation.
            let known = self.members[index].reports.own.append;
            if position > known {
                self.feed(index, Input::Observed(Observation::Replicating { position }));
            }
        }
    }

    /// The module reads its own log.
    fn replay(&mut self, index: usize) {
        let Some(replaying) = self.members[index].replaying else { return };
        let commit = self.members[index].reports.own.commit;
        let to = replaying.to.min(commit + (1 + self.rng.below(6) as i64) * ENTRY);
        self.raise_commit(index, to);
        if to < replaying.to {
            return self.feed(index, Input::Observed(Observation::Consumed));
        }
        self.members[index].replaying = None;
        let completion = Completion::Replayed { position: to };
        self.on_done(index, Done { epoch: replaying.epoch, completion });
    }

    /// The archive of a leader records the log publication.
    fn record_own(&mut self, index: usize) {
        let member = &mut self.members[index];
        let Some(publication) = &member.publication else { return };
        if !member.is_recording {
            return;
        }
        let end = member.disk.end();
        if end >= publication.position() {
            return;
        }
        for _ in 0..1 + self.rng.below(3) {
            let Some(entry) = publication.entry(member.disk.end()) else { break };
            member.disk.log.push(entry);
        }
        member.refresh();
        if member.leads() {
            self.lead(index, false);
        } else {
            self.feed(index, Input::Observed(Observation::Appended));
        }
    }

    /// A steady leader counts the quorum, and tells and acknowledges what is committed.
    pub(super) fn lead(&mut self, index: usize, is_beat: bool) {
        let member = &mut self.members[index];
        member.refresh();
        let term = member.election.leadership_term();
        let quorum = member.reports.quorum_position(term, &member.disk.terms[..]);
        if quorum > member.reports.own.commit {
            self.truth.on_leader_commit(index, term, quorum, &self.members);
            self.raise_commit(index, quorum);
            if !self.truth.is_void {
                self.truth.acknowledged = self.truth.acknowledged.max((quorum / ENTRY) as usize);
            }
        }
        let member = &mut self.members[index];
        if quorum > member.last_commit_sent || is_beat {
            member.last_commit_sent = quorum;
            let message = CommitPosition {
                leadership_term_id: term,
                log_position: quorum,
                leader_member_id: index as i32,
            };
            for to in (0..self.plan.members).filter(|to| *to != index) {
                self.send(index, to, MemberMessage::CommitPosition(message));
            }
        }
    }

    /// A steady follower reports its append position.
    pub(super) fn report(&mut self, index: usize) {
        let member = &self.members[index];
        let Some(leader) = member.election.leader() else { return };
        let message = AppendPosition {
            leadership_term_id: member.election.leadership_term(),
            log_position: member.disk.end(),
            follower_member_id: index as i32,
            flags: JOINED_FLAG,
        };
        self.send(index, leader as usize, MemberMessage::AppendPosition(message));
    }

    /// A follower receives its leader's log, or the replay of it.
    fn receive(&mut self, index: usize) {
        let Some(subscription) = self.members[index].subscription else { return };
        let session = subscription.session;
        let has_session = |member: &super::member::Member| {
            member.publication.as_ref().is_some_and(|own| own.session == session)
        };
        let source = self.members.iter().position(has_session);
        let source = source.filter(|source| self.is_serving(*source) && self.is_linked(*source, index));
        let Some(source) = source else { return self.miss(index) };
        if let Some(own) = &mut self.members[index].subscription {
            own.last_data = self.now;
        }
        let Some(image) = subscription.image else { return self.join_image(index, source) };
        if !self.members[index].is_recording {
            return;
        }
        let mut position = image;
        for _ in 0..1 + self.rng.below(4) {
            let from = &self.members[source];
            let live = subscription.is_live.then_some(from.publication.as_ref()).flatten();
            let replayed = from.catchups[index].filter(|_| subscription.has_catchup);
            let recorded = replayed.and_then(|_| from.disk.entry(position));
            let Some(entry) = live.and_then(|own| own.entry(position)).or(recorded) else { break };
            self.members[index].disk.log.push(entry);
            position += ENTRY;
        }
        if let Some(own) = &mut self.members[index].subscription {
            own.image = Some(position);
        }
        if position > image {
            let member = &mut self.members[index];
            member.refresh();
            if member.follows() {
                self.report(index);
            } else {
                self.feed(index, Input::Observed(Observation::Appended));
            }
        }
    }

    fn join_image(&mut self, index: usize, source: usize) {
        let Some(subscription) = self.members[index].subscription else { return };
        let from = &self.members[source];
        let join_position = match subscription.is_live {
            true => from.publication.as_ref().map(super::member::Publication::position),
            false => from.catchups[index],
        };
        let Some(join_position) = join_position else { return };
        let is_waiting = matches!(
            self.members[index].election.state(),
            State::FollowerCatchupAwait | State::FollowerLogAwait
        );
        if !is_waiting || !self.rng.chance(1, 3) {
            return;
        }
        if let Some(own) = &mut self.members[index].subscription {
            own.image = Some(join_position);
        }
        let completion = Completion::ImageAvailable { join_position };
        self.on_done(index, Done { epoch: subscription.epoch, completion });
    }

    /// Nothing arrives: the image closes after a while.
    fn miss(&mut self, index: usize) {
        let Some(subscription) = self.members[index].subscription else { return };
        if subscription.image.is_some() && self.now > subscription.last_data + self.plan.timeout / 2 {
            self.members[index].subscription = None;
            let end_of_stream = self.rng.chance(1, 4);
            if end_of_stream {
                self.coverage.hit("07 §18 log ended by its leader");
            }
            self.feed(index, Input::Trigger(Trigger::LogClosed { end_of_stream }));
        }
    }

    /// The module and its services read what is committed.
    fn consume(&mut self, index: usize) {
        let member = &self.members[index];
        let Some(limit) = member.election.consume_limit(&member.reports.own) else { return };
        let commit = member.reports.own.commit;
        if limit <= commit || !self.rng.chance(2, 3) {
            return;
        }
        if !member.have_services_joined {
            let text = format!("member {index} reads {commit} to {limit}, and its services have not joined");
            self.truth.fail("nobody reads before the join", text);
        }
        let step = (1 + self.rng.below(4) as i64) * ENTRY;
        self.raise_commit(index, limit.min(commit + step));
        if self.members[index].election.state() != State::Closed {
            self.feed(index, Input::Observed(Observation::Consumed));
        }
        let member = &mut self.members[index];
        if self.rng.chance(1, 20) {
            member.disk.snapshot = member.reports.own.commit;
            if self.plan.has_purges && self.rng.chance(1, 2) {
                member.disk.start = member.disk.snapshot;
                self.coverage.hit("log purged");
            }
        }
    }

    /// A client offers a message to a member that believes it leads.
    pub(super) fn offer(&mut self, index: usize) {
        let member = &mut self.members[index];
        if !member.leads() {
            return;
        }
        let term = member.election.leadership_term();
        let Some(publication) = &mut member.publication else { return };
        for _ in 0..1 + self.rng.below(3) {
            self.next_id += 1;
            publication.entries.push(Entry { term, id: self.next_id });
        }
        if self.rng.chance(1, 30) {
            let member = &mut self.members[index];
            member.disk.snapshot = member.reports.own.commit;
            if self.plan.has_purges {
                member.disk.start = member.disk.snapshot;
                self.coverage.hit("log purged");
            }
        }
    }

    /// A message arrives. Steady reports and commit positions bypass the election.
    pub(super) fn deliver(&mut self, index: usize, message: MemberMessage) {
        if let Some(from) = message.sender() {
            self.members[index].heard[from as usize] = self.now;
        }
        let member = &mut self.members[index];
        match message {
            MemberMessage::AppendPosition(append)
                if member.leads() && append.leadership_term_id <= member.election.leadership_term() =>
            {
                let has_caught_up = member.reports.on_append_position(&append, false);
                if has_caught_up {
                    let (to, leadership_term_id) = (append.follower_member_id, append.leadership_term_id);
                    member.catchups[to as usize] = None;
                    self.coverage.hit("07 §13 catch-up ended");
                    let stop = StopCatchup { leadership_term_id, follower_member_id: to };
                    self.send(index, to as usize, MemberMessage::StopCatchup(stop));
                }
                self.lead(index, false);
            }
            MemberMessage::CommitPosition(commit)
                if member.follows()
                    && member.election.leader() == Some(commit.leader_member_id)
                    && member.election.leadership_term() == commit.leadership_term_id =>
            {
                member.reports.own.notified = member.reports.own.notified.max(commit.log_position);
                member.leader_heard = Some(self.now);
                member.reports.on_heard(commit.leader_member_id);
            }
            MemberMessage::CatchupPosition(request) => {
                let start = member.disk.start;
                self.feed(index, Input::Message(message));
                if request.log_position < start {
                    let member_id = request.follower_member_id;
                    self.members[index].catchups[member_id as usize] = None;
                    self.feed(index, Input::Observed(Observation::CatchupFailed { member_id }));
                }
            }
            MemberMessage::RequestVote(request) => {
                let theirs = (request.log_leadership_term_id, request.log_position);
                let asked = Asked {
                    term: request.candidate_term_id,
                    position: request.log_position,
                    commit: member.reports.own.known_commit(),
                    is_worse: (member.election.log_term(), member.disk.end()) > theirs,
                };
                let voted = member.election.voted_term();
                self.feed(index, Input::Message(message));
                let member = &mut self.members[index];
                if member.election.voted_term() != voted {
                    member.asked[request.candidate_member_id as usize] = asked;
                }
            }
            message => self.feed(index, Input::Message(message)),
        }
    }
}
