//! The events of a run as lines that people read.

use harrier_cluster::election::{Action, Input, MemberMessage};

/// A line for what a member is told.
pub(super) fn input(now: u64, index: usize, input: &Input) -> String {
    let text = match input {
        Input::Message(message) => format!("hears    {}", describe(message)),
        Input::Timer(kind) => format!("timer    {kind:?}"),
        Input::Done(done) => format!("done     {:?} (epoch {})", done.completion, done.epoch),
        Input::Observed(what) => format!("observes {what:?}"),
        Input::Trigger(what) => format!("trigger  {what:?}"),
    };
    line(now, index, &text)
}

/// A line for what a member does; none for timers.
pub(super) fn action(now: u64, index: usize, action: &Action) -> Option<String> {
    let text = match action {
        Action::SetTimer { .. } | Action::CancelTimer(_) | Action::LeaderHeard => return None,
        Action::State(state) => format!("  ENTERS {} ({})", state.name(), state.code()),
        Action::Send { to, message } => format!("  tells {to}: {}", describe(message)),
        Action::Broadcast(message) => format!("  tells all: {}", describe(message)),
        other => format!("  {other:?}"),
    };
    Some(line(now, index, &text))
}

pub(super) fn line(now: u64, index: usize, text: &str) -> String {
    format!("{now:>6} ms {:indent$}{index}| {text}", "", indent = index * 4)
}

fn describe(message: &MemberMessage) -> String {
    match message {
        MemberMessage::CanvassPosition(own) => format!(
            "CanvassPosition of {}: log ({}, {}), term {}",
            own.follower_member_id, own.log_leadership_term_id, own.log_position, own.leadership_term_id
        ),
        MemberMessage::RequestVote(own) => format!(
            "RequestVote of {} for term {}: log ({}, {})",
            own.candidate_member_id, own.candidate_term_id, own.log_leadership_term_id, own.log_position
        ),
        MemberMessage::Vote(own) => format!(
            "Vote of {} for {} in term {}: {}",
            own.follower_member_id,
            own.candidate_member_id,
            own.candidate_term_id,
            if own.vote { "YES" } else { "NO" }
        ),
        MemberMessage::NewLeadershipTerm(own) => format!(
            "NewLeadershipTerm of {}: term {} from {}, log term {} then {} from {} to {}, position {}, commit {}",
            own.leader_member_id,
            own.leadership_term_id,
            own.term_base_log_position,
            own.log_leadership_term_id,
            own.next_leadership_term_id,
            own.next_term_base_log_position,
            own.next_log_position,
            own.log_position,
            own.commit_position
        ),
        MemberMessage::AppendPosition(own) => format!(
            "AppendPosition of {}: ({}, {}) flags {:#x}",
            own.follower_member_id, own.leadership_term_id, own.log_position, own.flags
        ),
        MemberMessage::CommitPosition(own) => {
            format!(
                "CommitPosition of {}: ({}, {})",
                own.leader_member_id, own.leadership_term_id, own.log_position
            )
        }
        other => format!("{other:?}"),
    }
}
