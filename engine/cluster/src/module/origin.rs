//! Which image may send the messages of a session (spec 04 §3.5).
//!
//! A session is bound to the image of its connect request, or to that of its first message after a restart or a change of
//! leader. While that image is alive, no other image can send messages of the session.

use super::ingress::IngressLink;

/// Decision about a message of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// The message comes from the session's image.
    Admit,
    /// The session's image may have ended. The message stays in its image until the next poll decides.
    Ask,
    /// The message comes from another image while the session's own is alive.
    Refuse,
}

/// A message of a session that came from another image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) session_id: i64,
    /// Image that the session is bound to.
    pub(super) bound: IngressLink,
    /// Image that the message came from.
    pub(super) link: IngressLink,
}

/// Decisions about messages from images that sessions are not bound to.
///
/// Images cannot be inspected while they are polled, so a poll only asks, and the decision holds for the next poll.
#[derive(Debug, Default)]
pub(super) struct Origins {
    asked: Option<Stranger>,
    refused: Option<Stranger>,
}

impl Origins {
    /// Judges a message of a session that is bound to `bound`. A session without an image is bound to that of the message.
    #[inline]
    pub(super) fn admit(
        &mut self,
        session_id: i64,
        bound: &mut Option<IngressLink>,
        link: IngressLink,
    ) -> Admission {
        match *bound {
            Some(bound) if bound == link => Admission::Admit,
            Some(bound) => self.judge(Stranger { session_id, bound, link }),
            None => {
                *bound = Some(link);
                Admission::Admit
            }
        }
    }

    #[cold]
    fn judge(&mut self, stranger: Stranger) -> Admission {
        if self.refused == Some(stranger) {
            return Admission::Refuse;
        }
        self.asked.get_or_insert(stranger);
        Admission::Ask
    }

    /// Ends a poll. Returns the session that must be bound to another image, because its own one has ended.
    pub(super) fn decide(&mut self, is_alive: impl FnOnce(IngressLink) -> bool) -> Option<Stranger> {
        self.refused = None;
        let stranger = self.asked.take()?;
        if is_alive(stranger.bound) {
            self.refused = Some(stranger);
            return None;
        }
        Some(stranger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: IngressLink = IngressLink { stream: 0, session_id: 1 };
    const SECOND: IngressLink = IngressLink { stream: 0, session_id: 2 };

    #[test]
    fn the_first_message_binds_a_session() {
        let (mut origins, mut bound) = (Origins::default(), None);
        assert_eq!(origins.admit(7, &mut bound, FIRST), Admission::Admit);
        assert_eq!(bound, Some(FIRST));
        assert_eq!(origins.admit(7, &mut bound, FIRST), Admission::Admit);
    }

    #[test]
    fn another_image_is_refused_while_the_first_is_alive() {
        let (mut origins, mut bound) = (Origins::default(), Some(FIRST));
        for _ in 0..2 {
            assert_eq!(origins.admit(7, &mut bound, SECOND), Admission::Ask);
            assert_eq!(origins.decide(|link| link == FIRST), None);
            for _ in 0..3 {
                assert_eq!(origins.admit(7, &mut bound, SECOND), Admission::Refuse);
            }
            // Another session of the same image is another question.
            assert_eq!(origins.admit(8, &mut bound, SECOND), Admission::Ask);
            assert_eq!(origins.decide(|_| true), None);
            // A decision holds for one poll: the image may end meanwhile.
        }
    }

    #[test]
    fn another_image_takes_over_once_the_first_has_ended() {
        let (mut origins, mut bound) = (Origins::default(), Some(FIRST));
        assert_eq!(origins.admit(7, &mut bound, SECOND), Admission::Ask);
        let stranger = origins.decide(|_| false).unwrap();
        assert_eq!(stranger, Stranger { session_id: 7, bound: FIRST, link: SECOND });
        bound = Some(stranger.link);
        assert_eq!(origins.admit(7, &mut bound, SECOND), Admission::Admit);
    }
}
