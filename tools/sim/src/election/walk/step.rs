//! One state of the walk, and the steps from it.

use std::collections::VecDeque;

use harrier_cluster::codec::{AppendPosition, CommitPosition, JOINED_FLAG, StopCatchup};
use harrier_cluster::election::{
    Action, Actions, Completion, Done, Election, Input, MemberMessage, Observation, Reports, State,
    TimerKind, Trigger,
};

use harrier_ringbuf::Rng;

use super::super::model_log::{Disk, Entry};
use super::super::{ENTRY, Scenario, member};

const MEMBERS: usize = 3;
/// Terms 0 and 1.
const LAST_TERM: i64 = 1;
/// Most entries of a log.
const ENTRIES: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    election: Election,
    reports: Reports,
    disk: Disk,
    /// Session of the own log publication.
    session: Option<i32>,
    /// Session whose log is read, once its image exists.
    image: Option<i32>,
    wants_image: Option<(i32, u32)>,
    catchups: [bool; MEMBERS],
    last_yes: Option<(i64, i32)>,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The message at this place arrives.
    Deliver(usize),
    /// A timer fires.
    Fire(usize, TimerKind),
    /// A follower does not hear its leader for too long.
    LeaderSilent(usize),
    /// A client offers a message to a leader.
    Offer(usize),
    /// A follower records one more entry.
    Receive(usize),
    /// A process dies and starts again.
    Crash(usize),
}

/// A state of the whole cluster.
#[derive(Debug, Clone, Hash)]
pub(super) struct Walker {
    nodes: [Node; MEMBERS],
    network: Vec<(u8, u8, MemberMessage)>,
    committed: Vec<Entry>,
    leaders: [Option<u8>; 2],
    votes: [[Option<i32>; MEMBERS]; 2],
    crashes: u8,
    next_id: u64,
    broken: Option<&'static str>,
}

impl Walker {
    /// Three members that have just started for the first time.
    pub(super) fn fresh() -> Self {
        let plan = plan();
        let nodes = std::array::from_fn(|index| Node {
            election: Election::new(member::settings(index, &plan), Disk::new().node),
            reports: member::reports(index, &plan),
            disk: Disk::new(),
            session: None,
            image: None,
            wants_image: None,
            catchups: [false; MEMBERS],
            last_yes: None,
        });
        let mut walker = Self {
            nodes,
            network: Vec::new(),
            committed: Vec::new(),
            leaders: [None; 2],
            votes: [[None; MEMBERS]; 2],
            crashes: 0,
            next_id: 0,
            broken: None,
        };
        for index in 0..MEMBERS {
            walker.feed(index, Input::Trigger(Trigger::NodeStarted));
        }
        walker
    }

    /// A leader of term 0 and two followers; its second entry has reached nobody.
    pub(super) fn steady() -> Self {
        let mut walker = Self::fresh();
        let mut rng = Rng::new(1);
        for _ in 0..2_000 {
            let choices = walker.choices();
            let is_fair = |choice: &&Choice| {
                matches!(
                    choice,
                    Choice::Deliver(_)
                        | Choice::Receive(_)
                        | Choice::Fire(0, TimerKind::Nomination)
                        | Choice::Fire(_, TimerKind::Status | TimerKind::Heartbeat)
                )
            };
            let fair: Vec<&Choice> = choices.iter().filter(is_fair).collect();
            if fair.is_empty() {
                break;
            }
            walker.take(*fair[rng.below(fair.len() as u64) as usize]);
            let are_steady = walker.nodes.iter().all(|node| node.election.state() == State::Closed);
            if are_steady && walker.committed.len() == 1 {
                break;
            }
        }
        let leader = walker.nodes.iter().position(|node| node.leads());
        if let Some(leader) = leader {
            walker.offer(leader);
        }
        walker.network.clear();
        walker
    }

    /// A state that a random way reaches from the steady one.
    pub(super) fn wandered(seed: u64) -> Self {
        let mut walker = Self::steady();
        let mut rng = Rng::new(seed);
        for _ in 0..10 * seed {
            let choices = walker.choices();
            if choices.is_empty() {
                break;
            }
            let mut next = walker.clone();
            next.take(choices[rng.below(choices.len() as u64) as usize]);
            if next.is_within_bounds() {
                walker = next;
            }
        }
        walker
    }

    pub(super) fn election_states(&self) -> impl Iterator<Item = u8> {
        self.nodes.iter().map(|node| node.election.state().code())
    }

    pub(super) fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    pub(super) fn is_within_bounds(&self) -> bool {
        self.nodes.iter().all(|node| node.election.candidate_term() <= LAST_TERM)
    }

    /// All steps from here.
    pub(super) fn choices(&self) -> Vec<Choice> {
        let mut choices: Vec<Choice> = (0..self.network.len()).map(Choice::Deliver).collect();
        for (index, node) in self.nodes.iter().enumerate() {
            for kind in TimerKind::ALL {
                if node.election.is_timer_running(kind) {
                    choices.push(Choice::Fire(index, kind));
                }
            }
            if self.receivable(index).is_some() {
                choices.push(Choice::Receive(index));
            }
            if node.leads() && node.disk.log.len() < ENTRIES {
                choices.push(Choice::Offer(index));
            }
            if node.election.state() == State::Closed && !node.leads() {
                choices.push(Choice::LeaderSilent(index));
            }
            if self.crashes == 0 {
                choices.push(Choice::Crash(index));
            }
        }
        choices
    }

    pub(super) fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Deliver(place) => {
                let (_, to, message) = self.network[place];
                self.deliver(usize::from(to), message);
            }
            Choice::Fire(index, kind) => self.feed(index, Input::Timer(kind)),
            Choice::LeaderSilent(index) => self.feed(index, Input::Trigger(Trigger::LeaderSilent)),
            Choice::Offer(index) => self.offer(index),
            Choice::Receive(index) => self.receive(index),
            Choice::Crash(index) => self.crash(index),
        }
        self.settle();
    }

    fn crash(&mut self, index: usize) {
        self.crashes += 1;
        let plan = plan();
        let node = &mut self.nodes[index];
        node.election = Election::new(member::settings(index, &plan), node.disk.node);
        node.reports = member::reports(index, &plan);
        (node.session, node.image, node.wants_image, node.last_yes) = (None, None, None, None);
        node.catchups = [false; MEMBERS];
        self.feed(index, Input::Trigger(Trigger::NodeStarted));
    }

    fn offer(&mut self, index: usize) {
        self.next_id += 1;
        let term = self.nodes[index].election.leadership_term();
        self.nodes[index].disk.log.push(Entry { term, id: self.next_id });
        self.count(index);
    }

    /// Entry that a follower can record next.
    fn receivable(&self, index: usize) -> Option<Entry> {
        let node = &self.nodes[index];
        let session = node.image?;
        let source = self.nodes.iter().find(|other| other.session == Some(session))?;
        source.disk.entry(node.disk.end())
    }

    fn receive(&mut self, index: usize) {
        let Some(entry) = self.receivable(index) else { return };
        self.nodes[index].disk.log.push(entry);
        if self.nodes[index].election.state() == State::Closed {
            self.report(index);
        } else {
            self.feed(index, Input::Observed(Observation::Appended));
        }
    }

    fn report(&mut self, index: usize) {
        let node = &self.nodes[index];
        let Some(leader) = node.election.leader() else { return };
        let message = AppendPosition {
            leadership_term_id: node.election.leadership_term(),
            log_position: node.disk.end(),
            follower_member_id: index as i32,
            flags: JOINED_FLAG,
        };
        self.send(index, leader as usize, MemberMessage::AppendPosition(message));
    }

    /// The latest message of a kind replaces the one before.
    fn send(&mut self, from: usize, to: usize, message: MemberMessage) {
        if let MemberMessage::Vote(vote) = &message {
            self.check_vote(from, vote.candidate_term_id, vote.candidate_member_id, vote.vote);
        }
        let kind = std::mem::discriminant(&message);
        let key = (from as u8, to as u8);
        self.network.retain(|(f, t, old)| (*f, *t) != key || std::mem::discriminant(old) != kind);
        self.network.push((key.0, key.1, message));
        self.network.sort_by_key(|(f, t, own)| (*f, *t, rank(own)));
    }

    fn check_vote(&mut self, voter: usize, term: i64, candidate: i32, is_yes: bool) {
        let node = &self.nodes[voter];
        let Some(slot) = usize::try_from(term).ok().and_then(|term| self.votes.get_mut(term)) else { return };
        if !is_yes {
            if node.last_yes == Some((term, candidate)) {
                self.broken = Some("a vote was taken back");
            }
            return;
        }
        if slot[voter].is_some_and(|known| known != candidate) {
            self.broken = Some("a member voted for two candidates of a term");
        }
        slot[voter] = Some(candidate);
        self.nodes[voter].last_yes = Some((term, candidate));
    }

    /// Steady reports and commit positions bypass the election, as in the owner.
    fn deliver(&mut self, index: usize, message: MemberMessage) {
        let node = &mut self.nodes[index];
        match message {
            MemberMessage::AppendPosition(append)
                if node.leads() && append.leadership_term_id <= node.election.leadership_term() =>
            {
                node.refresh();
                if node.reports.on_append_position(&append, false) {
                    let to = append.follower_member_id as usize;
                    node.catchups[to] = false;
                    let stop = StopCatchup {
                        leadership_term_id: append.leadership_term_id,
                        follower_member_id: to as i32,
                    };
                    self.send(index, to, MemberMessage::StopCatchup(stop));
                }
                self.count(index);
            }
            MemberMessage::CommitPosition(commit)
                if node.follows()
                    && node.election.leader() == Some(commit.leader_member_id)
                    && node.election.leadership_term() == commit.leadership_term_id =>
            {
                node.reports.own.notified = node.reports.own.notified.max(commit.log_position);
            }
            message => self.feed(index, Input::Message(message)),
        }
    }

    /// A steady leader counts the quorum.
    fn count(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.refresh();
        let term = node.election.leadership_term();
        let quorum = node.reports.quorum_position(term, &node.disk.terms[..]);
        if quorum <= node.reports.own.commit {
            return;
        }
        self.raise_commit(index, quorum);
        let message = MemberMessage::CommitPosition(CommitPosition {
            leadership_term_id: term,
            log_position: quorum,
            leader_member_id: index as i32,
        });
        (0..MEMBERS).filter(|to| *to != index).for_each(|to| self.send(index, to, message));
    }

    fn raise_commit(&mut self, index: usize, to: i64) {
        let node = &mut self.nodes[index];
        for place in (node.reports.own.commit / ENTRY) as usize..(to / ENTRY) as usize {
            match (node.disk.log.get(place), self.committed.get(place)) {
                (Some(own), Some(known)) if own == known => {}
                (Some(own), None) => self.committed.push(*own),
                _ => self.broken = Some("members committed different entries"),
            }
        }
        node.reports.own.commit = node.reports.own.commit.max(to);
    }

    /// Events without a message or timer: images appear, and services read committed entries.
    fn settle(&mut self) {
        for index in 0..MEMBERS {
            self.find_image(index);
            let node = &self.nodes[index];
            let limit = node.election.consume_limit(&node.reports.own);
            if let Some(limit) = limit.map(|limit| limit.min(node.disk.end()))
                && limit > node.reports.own.commit
            {
                self.raise_commit(index, limit);
                if self.nodes[index].election.state() != State::Closed {
                    self.feed(index, Input::Observed(Observation::Consumed));
                }
            }
            if self.nodes[index].disk.contradiction().is_some() {
                self.broken = Some("recording.log contradicts the log");
            }
            self.nodes[index].election.reset_epoch();
        }
    }

    fn find_image(&mut self, index: usize) {
        let Some((session, epoch)) = self.nodes[index].wants_image else { return };
        let state = self.nodes[index].election.state();
        let source = self.nodes.iter().position(|other| other.session == Some(session));
        let Some(source) = source else { return };
        let join_position = match state {
            State::FollowerLogAwait => self.nodes[source].disk.end(),
            State::FollowerCatchupAwait if self.nodes[source].catchups[index] => self.nodes[index].disk.end(),
            _ => return,
        };
        self.nodes[index].wants_image = None;
        self.nodes[index].image = Some(session);
        let completion = Completion::ImageAvailable { join_position };
        // Epochs were renumbered since the request.
        let _ = epoch;
        let epoch = self.nodes[index].election.epoch();
        self.feed(index, Input::Done(Done { epoch, completion }));
    }

    /// Hands in an input, and the ends of the requests that follow from it.
    fn feed(&mut self, index: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let mut actions = Actions::new();
        while let Some(input) = inputs.pop_front() {
            let node = &mut self.nodes[index];
            node.refresh();
            actions.clear();
            node.election.on(input, &node.disk.terms[..], &mut node.reports, &mut actions);
            for action in actions.as_slice() {
                let epoch = self.nodes[index].election.epoch();
                if let Some(completion) = self.carry_out(index, *action) {
                    inputs.push_back(Input::Done(Done { epoch, completion }));
                }
            }
        }
    }

    fn carry_out(&mut self, index: usize, action: Action) -> Option<Completion> {
        let node = &mut self.nodes[index];
        match action {
            Action::Send { to, message } => self.send(index, to as usize, message),
            Action::Broadcast(message) => {
                (0..MEMBERS).filter(|to| *to != index).for_each(|to| self.send(index, to, message));
            }
            Action::Persist { candidate_term_id, voted_term_id, .. } => {
                node.disk.node.candidate = node.disk.node.candidate.max(candidate_term_id);
                node.disk.node.voted = node.disk.node.voted.max(voted_term_id);
                return Some(Completion::Persisted { candidate_term_id, voted_term_id });
            }
            Action::WriteTerm { term_id, base, .. } => {
                if !node.disk.write_term(term_id, base) {
                    self.broken = Some("a term contradicts recording.log");
                }
                return Some(Completion::TermWritten { term_id });
            }
            Action::CloseTerm { term_id, position, .. } => {
                node.disk.close_term(term_id, position);
                return Some(Completion::TermWritten { term_id });
            }
            Action::Truncate { position, .. } => {
                let place = (position / ENTRY) as usize;
                if position < node.reports.own.commit
                    || (node.disk.log.get(place).is_some()
                        && node.disk.log.get(place) == self.committed.get(place))
                {
                    self.broken = Some("committed entries were truncated");
                }
                node.disk.truncate(position);
                return Some(Completion::Truncated { position });
            }
            Action::State(State::LeaderLogReplication) => self.check_elected(index),
            Action::State(State::CandidateBallot) => {
                let term = node.election.candidate_term();
                self.check_vote(index, term, index as i32, true);
            }
            Action::Fatal(_) => self.broken = Some("a member ended itself"),
            request => return self.carry_out_stream(index, request),
        }
        None
    }

    fn carry_out_stream(&mut self, index: usize, action: Action) -> Option<Completion> {
        let node = &mut self.nodes[index];
        Some(match action {
            Action::Prepare { .. } => {
                (node.session, node.image, node.wants_image) = (None, None, None);
                node.catchups = [false; MEMBERS];
                Completion::Prepared
            }
            Action::Replicate { source, stop, .. } => {
                let from = self.nodes[source as usize].disk.log.clone();
                let node = &mut self.nodes[index];
                let (begin, end) = ((node.disk.end() / ENTRY) as usize, (stop / ENTRY) as usize);
                node.disk.log.extend(from.iter().take(end).skip(begin));
                Completion::Replicated { position: node.disk.end() }
            }
            Action::Replay { to, .. } => {
                self.raise_commit(index, to);
                Completion::Replayed { position: to }
            }
            Action::PublishLog { term_id, .. } => {
                node.session = Some(term_id as i32);
                Completion::LogPublished { session_id: term_id as i32 }
            }
            Action::SubscribeLog { session_id, epoch, .. } => {
                node.wants_image = Some((session_id, epoch));
                Completion::Subscribed
            }
            Action::RecordLog { .. } => {
                node.disk.has_recording = true;
                Completion::Recording { recording_id: 7 }
            }
            Action::JoinLog { .. } => Completion::Joined,
            Action::AddLiveDestination { .. } => Completion::LiveDestinationAdded,
            Action::StartCatchup { member_id, .. } => {
                node.catchups[member_id as usize] = true;
                return None;
            }
            Action::StopCatchup { member_id } => {
                node.catchups[member_id as usize] = false;
                return None;
            }
            Action::AppendTermEvent { .. } => {
                let term = node.election.leadership_term();
                node.disk.log.push(Entry { term, id: 0 });
                Completion::TermEventAppended
            }
            _ => return None,
        })
    }

    fn check_elected(&mut self, index: usize) {
        let node = &self.nodes[index];
        let log = &node.disk.log;
        if log.len() < self.committed.len() || log[..self.committed.len()] != self.committed[..] {
            self.broken = Some("a leader lacks what is committed");
        }
        let term = node.election.leadership_term() as usize;
        if let Some(slot) = self.leaders.get_mut(term)
            && slot.replace(index as u8).is_some_and(|known| known != index as u8)
        {
            self.broken = Some("a term has two leaders");
        }
    }
}

impl Node {
    fn refresh(&mut self) {
        let own = &mut self.reports.own;
        own.append = self.disk.end();
        own.publication = if self.session.is_some() { self.disk.end() } else { 0 };
        own.recording_id = self.disk.has_recording.then_some(7);
    }

    fn leads(&self) -> bool {
        self.election.state() == State::Closed && self.session.is_some()
    }

    fn follows(&self) -> bool {
        self.election.state() == State::Closed && self.session.is_none()
    }
}

fn plan() -> Scenario {
    let mut plan = Scenario::draw(1, false);
    plan.members = MEMBERS;
    plan.appointed = None;
    plan
}

fn rank(message: &MemberMessage) -> u8 {
    match message {
        MemberMessage::CanvassPosition(_) => 0,
        MemberMessage::RequestVote(_) => 1,
        MemberMessage::Vote(_) => 2,
        MemberMessage::NewLeadershipTerm(_) => 3,
        MemberMessage::AppendPosition(_) => 4,
        MemberMessage::CommitPosition(_) => 5,
        MemberMessage::CatchupPosition(_) => 6,
        MemberMessage::StopCatchup(_) => 7,
    }
}
