//! Authentication and authorisation of clients (spec 03 §6.5).

/// Authenticates clients by their credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticator {
    /// Accepts every client.
    AllowAll,
    /// Accepts clients with one of these credentials.
    Credentials(Vec<Vec<u8>>),
    /// Accepts clients that answer a challenge correctly.
    Challenge {
        /// Bytes of the challenge.
        challenge: Vec<u8>,
        /// Expected answer.
        answer: Vec<u8>,
    },
}

/// Result of an authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Authenticated,
    Challenged(Vec<u8>),
    Rejected,
}

impl Authenticator {
    pub(crate) fn on_connect(&self, credentials: &[u8]) -> Verdict {
        match self {
            Self::AllowAll => Verdict::Authenticated,
            Self::Credentials(known) if known.iter().any(|accepted| accepted == credentials) => {
                Verdict::Authenticated
            }
            Self::Credentials(_) => Verdict::Rejected,
            Self::Challenge { challenge, .. } => Verdict::Challenged(challenge.clone()),
        }
    }

    pub(crate) fn on_challenge_response(&self, credentials: &[u8]) -> Verdict {
        match self {
            Self::Challenge { answer, .. } if answer == credentials => Verdict::Authenticated,
            Self::AllowAll => Verdict::Authenticated,
            _ => Verdict::Rejected,
        }
    }
}

/// Authorises requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorisationService {
    /// Allows every request.
    AllowAll,
    /// Denies every request.
    DenyAll,
    /// Denies requests with these template ids.
    Deny(Vec<u16>),
}

impl AuthorisationService {
    pub(crate) fn allows(&self, template_id: u16) -> bool {
        match self {
            Self::AllowAll => true,
            Self::DenyAll => false,
            Self::Deny(denied) => !denied.contains(&template_id),
        }
    }
}
