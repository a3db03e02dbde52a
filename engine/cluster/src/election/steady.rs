//! CLOSED: what a canvassing member means for a steady leader (spec 04 §4.5, spec 07 §6, §31).

use crate::codec::CanvassPosition;

use super::{Action, Election, Reason, Terms, Turn};

impl Election {
    /// A steady leader tells a member that is in an election what it lacks. A follower ignores it.
    pub(super) fn steady_canvass<T: Terms + ?Sized>(
        &mut self,
        message: &CanvassPosition,
        turn: &mut Turn<'_, T>,
    ) {
        if self.leader != Some(self.settings.member_id) {
            return;
        }
        let (member_id, term_id) = (message.follower_member_id, message.log_leadership_term_id);
        if term_id > self.leadership_term {
            let (position, commit) = (message.log_position, turn.reports.own.commit);
            if position >= commit {
                return self.leave_steady(Reason::CanvassOfLaterTerm { member_id, term_id }, turn);
            }
            return turn.record(Reason::LogOutranksCommitted { member_id, term_id, position, commit });
        }
        turn.reports.on_canvass(message);
        if turn.reports.end_catchup(member_id) {
            turn.push(Action::StopCatchup { member_id });
        }
        self.tell_term(member_id, term_id, turn);
    }
}
