//! Log events in error texts.

use std::fmt;

/// Number of message bytes in an error text.
const SHOWN_BYTES: usize = 16;

/// An event that a service handles.
#[derive(Clone, Copy)]
pub(super) enum Event<'a> {
    SessionOpen { session_id: i64 },
    SessionClose { session_id: i64 },
    Message { session_id: i64, payload: &'a [u8] },
    Timer { correlation_id: i64 },
    NewLeadershipTerm { leadership_term_id: i64 },
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SessionOpen { session_id } => write!(f, "the opening of session {session_id}"),
            Self::SessionClose { session_id } => write!(f, "the end of session {session_id}"),
            Self::Timer { correlation_id } => write!(f, "timer {correlation_id}"),
            Self::NewLeadershipTerm { leadership_term_id } => {
                write!(f, "the begin of leadership term {leadership_term_id}")
            }
            Self::Message { session_id, payload } => {
                write!(f, "a message of session {session_id} with {} bytes", payload.len())?;
                let shown = &payload[..payload.len().min(SHOWN_BYTES)];
                if shown.is_empty() {
                    return Ok(());
                }
                f.write_str(" (hex")?;
                shown.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                f.write_str(if payload.len() > SHOWN_BYTES { " …)" } else { ")" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shows_its_session_length_and_first_bytes() {
        let text = |payload: &[u8]| Event::Message { session_id: 7, payload }.to_string();
        assert_eq!(text(b""), "a message of session 7 with 0 bytes");
        assert_eq!(text(b"ab"), "a message of session 7 with 2 bytes (hex 61 62)");
        let long = text(&[0xFF; 17]);
        assert!(
            long.starts_with("a message of session 7 with 17 bytes (hex ff ff") && long.ends_with(" …)"),
            "{long}"
        );
    }
}
