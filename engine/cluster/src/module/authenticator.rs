//! Who may open a session (spec 04 §3.3).

/// Decides about clients by their credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticator {
    /// Everybody, with an empty principal.
    AllowAll,
    /// Whoever shows one of these credentials; the credentials become the principal.
    Credentials(Vec<Vec<u8>>),
    /// Whoever answers a challenge with the right bytes.
    Challenge {
        /// What is asked.
        challenge: Vec<u8>,
        /// What has to be answered.
        answer: Vec<u8>,
    },
}

/// What becomes of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Authenticated { principal: Vec<u8> },
    Challenged { challenge: Vec<u8> },
    Rejected,
}

impl Authenticator {
    pub(super) fn on_connect(&self, credentials: &[u8]) -> Verdict {
        match self {
            Self::AllowAll => Verdict::Authenticated { principal: Vec::new() },
            Self::Credentials(known) if known.iter().any(|own| own == credentials) => {
                Verdict::Authenticated { principal: credentials.to_vec() }
            }
            Self::Credentials(_) => Verdict::Rejected,
            Self::Challenge { challenge, .. } => Verdict::Challenged { challenge: challenge.clone() },
        }
    }

    pub(super) fn on_answer(&self, credentials: &[u8]) -> Verdict {
        match self {
            Self::Challenge { answer, .. } if answer == credentials => {
                Verdict::Authenticated { principal: credentials.to_vec() }
            }
            Self::AllowAll => Verdict::Authenticated { principal: Vec::new() },
            _ => Verdict::Rejected,
        }
    }
}
