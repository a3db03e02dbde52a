//! Carries out the actions of elections.

use harrier_cluster::codec::Role;
use harrier_cluster::election::{
    Action, Completion, Delay, Done, Input, MemberMessage, Observation, State, TimerKind, Trigger,
};

use super::ENTRY;
use super::member::{Publication, Replaying, Replicating, Subscription, Write};
use super::model_log::Entry;
use super::run::{Event, World};
use super::timeline;

impl World {
    /// Hands an input to a member's election and carries out what it asks for.
    pub(super) fn feed(&mut self, index: usize, input: Input) {
        let member = &mut self.members[index];
        member.refresh();
        let before = member.election.state();
        self.actions.clear();
        let (terms, reports) = (&member.disk.terms[..], &mut member.reports);
        member.election.on(input, terms, reports, &mut self.actions);
        self.inputs += 1;
        self.trace(index, &input);
        let mut state = before;
        for place in 0..self.actions.as_slice().len() {
            let action = self.actions.as_slice()[place];
            self.note_action(index, &mut state, &action);
            self.carry_out(index, action);
        }
    }

    fn note_action(&mut self, index: usize, state: &mut State, action: &Action) {
        if self.plan.keep_lines {
            let line = timeline::action(self.now, index, action);
            self.lines.extend(line);
        }
        if let Action::State(next) = action {
            if next != state {
                self.coverage.transition(*state, *next);
            }
            *state = *next;
        }
        self.coverage.action(*state, action);
    }

    fn carry_out(&mut self, index: usize, action: Action) {
        match action {
            Action::Send { to, message } => self.send(index, to as usize, message),
            Action::Broadcast(message) => {
                self.check_told(index, &message);
                for to in (0..self.plan.members).filter(|to| *to != index) {
                    self.send(index, to, message);
                }
            }
            Action::SetTimer { kind, delay } => self.set_timer(index, kind, delay),
            Action::CancelTimer(kind) => self.members[index].timers[kind as usize] += 1,
            Action::Persist { candidate_term_id, voted_term_id, epoch, .. } => {
                let write = Write::Persist { candidate: candidate_term_id, voted: voted_term_id };
                self.write(index, epoch, write, Completion::Persisted { candidate_term_id, voted_term_id });
            }
            Action::WriteTerm { term_id, base, epoch } => {
                let done = Completion::TermWritten { term_id };
                self.write(index, epoch, Write::Term { id: term_id, base }, done);
            }
            Action::CloseTerm { term_id, position, epoch } => {
                let done = Completion::TermWritten { term_id };
                self.write(index, epoch, Write::Close { id: term_id, position }, done);
            }
            Action::Truncate { position, epoch, .. } => {
                self.truth.on_truncate(index, &self.members[index], position);
                self.drop_streams(index);
                self.write(index, epoch, Write::Truncate { position }, Completion::Truncated { position });
            }
            Action::Prepare { epoch, .. } => {
                self.drop_streams(index);
                self.members[index].rounds += 1;
                self.write(index, epoch, Write::Nothing, Completion::Prepared);
            }
            Action::Complete { role, term_id, .. } => self.on_complete(index, role, term_id),
            Action::State(State::LeaderLogReplication) => {
                let term = self.members[index].election.leadership_term();
                self.truth.on_elected(index, term, &self.members[index]);
            }
            Action::State(State::CandidateBallot) => {
                let term = self.members[index].election.candidate_term();
                self.truth.on_yes(index, term, index as i32, &self.members[index]);
            }
            Action::State(State::FollowerReplay | State::FollowerLogReplication) => {
                self.truth.on_follow(index, &self.members[index]);
            }
            Action::LeaderHeard => self.members[index].leader_heard = Some(self.now),
            Action::Fatal(reason) => {
                if !self.truth.is_void {
                    self.truth.fail("no member ends itself", format!("member {index}: {reason:?}"));
                }
                self.coverage.hit("member ended itself");
                self.members[index].is_up = false;
                self.members[index].has_ended = true;
            }
            Action::Role(_) | Action::State(_) | Action::Begun(_) | Action::Record(_) => {}
            request => self.carry_out_stream(index, request),
        }
    }

    fn carry_out_stream(&mut self, index: usize, action: Action) {
        let member = &mut self.members[index];
        match action {
            Action::Replicate { source, stop, epoch, .. } => {
                member.replicating = Some(Replicating { source: source as usize, stop, epoch });
            }
            Action::Replay { to, epoch, .. } => member.replaying = Some(Replaying { to, epoch }),
            Action::PublishLog { position, epoch, .. } => {
                self.sessions += 1;
                let session = self.sessions;
                member.publication = Some(Publication { session, base: position, entries: Vec::new() });
                self.later(index, epoch, Completion::LogPublished { session_id: session });
            }
            Action::SubscribeLog { session_id, with_catchup, epoch } => {
                member.subscription = Some(Subscription {
                    session: session_id,
                    epoch,
                    has_catchup: with_catchup,
                    is_live: !with_catchup,
                    image: None,
                    last_data: self.now,
                });
                let (end, leader) = (member.disk.end(), member.election.leader());
                let start = leader.map_or(0, |leader| self.members[leader as usize].disk.start);
                let done = match with_catchup && start > end {
                    true => Completion::SourceStartsAbove { position: start },
                    false => Completion::Subscribed,
                };
                self.later(index, epoch, done);
            }
            Action::RecordLog { epoch, .. } => {
                self.later(index, epoch, Completion::Recording { recording_id: 7 });
            }
            Action::JoinLog { epoch, .. } => self.later(index, epoch, Completion::Joined),
            Action::AddLiveDestination { epoch } => {
                self.later(index, epoch, Completion::LiveDestinationAdded);
            }
            Action::RemoveCatchupDestination => {
                if let Some(subscription) = &mut member.subscription {
                    subscription.has_catchup = false;
                }
            }
            Action::StartCatchup { member_id, position } => {
                member.catchups[member_id as usize] = Some(position);
            }
            Action::StopCatchup { member_id } => member.catchups[member_id as usize] = None,
            Action::AppendTermEvent { epoch } => self.later(index, epoch, Completion::TermEventAppended),
            _ => {}
        }
    }

    /// Ends everything that the last leadership used.
    fn drop_streams(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.publication = None;
        member.subscription = None;
        member.is_recording = false;
        member.have_services_joined = false;
        member.catchups = Default::default();
        member.replicating = None;
        member.replaying = None;
    }

    fn set_timer(&mut self, index: usize, kind: TimerKind, delay: Delay) {
        let (plan, members) = (&self.plan, self.plan.members as u64);
        let scaled = |time: u64| time * plan.rates[index] / 100;
        let heard = self.members[index].leader_heard;
        let at = match delay {
            Delay::StatusInterval => self.now + scaled(plan.status),
            Delay::StartupCanvass => self.now + scaled(plan.startup),
            Delay::SinceLeaderHeard => {
                heard.map_or(self.now, |heard| self.now.max(heard + scaled(plan.timeout)))
            }
            Delay::Nomination { rank, attempt } => {
                let part = (plan.election / (2 * members)).max(1);
                self.now + u64::from(rank) * part + self.rng.below(part << attempt)
            }
            Delay::ElectionTimeout => self.now + scaled(plan.election),
            Delay::HeartbeatInterval => self.now + scaled(plan.interval),
            Delay::HeartbeatTimeout => self.now + scaled(plan.timeout),
        };
        let member = &mut self.members[index];
        member.timers[kind as usize] += 1;
        let (life, generation) = (member.life, member.timers[kind as usize]);
        self.at(at.max(self.now + 1), Event::Timer { index, life, kind, generation });
    }

    /// Queues a write; writes end in their order.
    fn write(&mut self, index: usize, epoch: u32, write: Write, completion: Completion) {
        let time = 1 + self.rng.below(self.plan.disk);
        let member = &mut self.members[index];
        member.disk_free = member.disk_free.max(self.now) + time;
        member.writes.push_back((write, Done { epoch, completion }));
        let (at, life) = (member.disk_free, member.life);
        self.at(at, Event::Written { index, life });
    }

    pub(super) fn later(&mut self, index: usize, epoch: u32, completion: Completion) {
        let longest = if self.rng.chance(1, 20) { 2 * self.plan.timeout } else { 6 };
        let at = self.now + 1 + self.rng.below(longest);
        let life = self.members[index].life;
        self.at(at, Event::Done { index, life, done: Done { epoch, completion } });
    }

    /// The oldest write ended.
    pub(super) fn on_written(&mut self, index: usize) {
        let member = &mut self.members[index];
        let Some((write, mut done)) = member.writes.pop_front() else { return };
        if !member.apply(write) {
            let text = format!("member {index}: {write:?} contradicts {:?}", member.disk.terms);
            if !self.truth.is_void {
                self.truth.fail("terms join", text);
            }
            done.completion = Completion::Failed;
        }
        self.feed(index, Input::Done(done));
    }

    /// Another request ended. One of an older epoch has no effect any more, but the election hears of it.
    pub(super) fn on_done(&mut self, index: usize, done: Done) {
        let member = &mut self.members[index];
        let is_current = done.epoch == member.election.epoch();
        if !is_current {
            self.coverage.hit("07 late completion ignored");
        }
        if is_current {
            match done.completion {
                Completion::Recording { .. } => {
                    member.is_recording = true;
                    member.disk.has_recording = true;
                }
                Completion::Joined => member.have_services_joined = true,
                Completion::LiveDestinationAdded => {
                    if let Some(subscription) = &mut member.subscription {
                        subscription.is_live = true;
                    }
                }
                Completion::TermEventAppended => {
                    let term = member.election.leadership_term();
                    self.truth.on_append(index, term, &self.members);
                    if let Some(publication) = &mut self.members[index].publication {
                        publication.entries.push(Entry { term, id: 0 });
                    }
                }
                _ => {}
            }
        }
        let before = (!is_current).then(|| self.members[index].election.clone());
        self.feed(index, Input::Done(done));
        if before.is_some_and(|before| before != self.members[index].election) {
            let text = format!("member {index} uses {:?} of epoch {}", done.completion, done.epoch);
            self.truth.fail("late completions are ignored", text);
        }
    }

    fn on_complete(&mut self, index: usize, role: Role, term: i64) {
        let now = self.now;
        self.truth.on_quiet(index, &self.members[index]);
        let member = &mut self.members[index];
        member.leader_heard = Some(now);
        member.next_beat = now;
        member.last_commit_sent = 0;
        member.rounds = 0;
        self.coverage.hit(match role {
            Role::Leader => "leader complete",
            _ => "follower complete",
        });
        self.note(|| format!("member {index} completes as {role:?} of term {term}"));
    }

    /// Raises a commit counter.
    pub(super) fn raise_commit(&mut self, index: usize, to: i64) {
        let from = self.members[index].reports.own.commit;
        if to > from {
            self.truth.on_commit(index, &self.members[index], from, to);
            self.members[index].reports.own.commit = to;
        }
    }

    /// Sends a message through the model network.
    pub(super) fn send(&mut self, from: usize, to: usize, message: MemberMessage) {
        self.check_sent(from, &message);
        if self.blocked[from][to] {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.plan.doubling, 1_000));
        for _ in 0..copies {
            if !self.is_healed && self.rng.chance(self.plan.loss, 1_000) {
                continue;
            }
            let delay = 1 + self.rng.below(self.plan.delay);
            self.at(self.now + delay, Event::Deliver { to, message });
        }
    }

    fn check_sent(&mut self, from: usize, message: &MemberMessage) {
        let MemberMessage::Vote(vote) = message else { return };
        let (term, candidate) = (vote.candidate_term_id, vote.candidate_member_id);
        if vote.vote {
            if self.members[from].last_yes == Some((term, candidate)) {
                self.coverage.hit("07 §7 vote repeated");
            }
            self.truth.on_yes(from, term, candidate, &self.members[from]);
            self.members[from].last_yes = Some((term, candidate));
        } else {
            self.truth.on_no(from, term, candidate, &self.members[from]);
        }
    }

    fn check_told(&mut self, from: usize, message: &MemberMessage) {
        if let MemberMessage::CommitPosition(commit) = message {
            let (term, position) = (commit.leadership_term_id, commit.log_position);
            self.truth.on_leader_commit(from, term, position, &self.members);
        }
    }

    /// Sends heartbeats of a steady member, and detects silent members.
    pub(super) fn beat(&mut self, index: usize) {
        let (now, timeout) = (self.now, self.plan.timeout * self.plan.rates[index] / 100);
        let interval = self.plan.interval;
        let stood_still = now > self.members[index].next_beat + 2 * interval;
        self.members[index].next_beat = now + interval;
        if stood_still {
            self.coverage.hit("member stood still");
            self.members[index].heard = [now; super::MEMBERS];
            self.members[index].leader_heard = Some(now);
        }
        for other in (0..self.plan.members).filter(|other| *other != index) {
            let is_silent = now > self.members[index].heard[other] + timeout;
            let is_active = self.members[index].reports.all()[other].is_active;
            if is_silent && is_active {
                let member_id = other as i32;
                self.feed(index, Input::Observed(Observation::MemberSilent { member_id }));
            }
        }
        let member = &self.members[index];
        if member.leads() {
            if !member.reports.has_active_quorum() {
                self.feed(index, Input::Trigger(Trigger::QuorumLost));
            } else {
                self.members[index].reports.on_heartbeat();
                self.lead(index, true);
            }
        } else if member.follows() {
            if member.leader_heard.is_none_or(|heard| now > heard + timeout) {
                self.feed(index, Input::Trigger(Trigger::LeaderSilent));
            } else {
                self.report(index);
            }
        }
    }

    /// Length of the logs of the model, for reports.
    pub(super) fn committed(&self) -> i64 {
        self.truth.committed.len() as i64 * ENTRY
    }
}
