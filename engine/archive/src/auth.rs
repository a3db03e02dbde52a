//! Who may connect, and do what (spec 03 §6.5).

/// Decides about clients by their credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticator {
    /// Everybody may connect.
    AllowAll,
    /// Whoever shows one of these credentials.
    Credentials(Vec<Vec<u8>>),
    /// Whoever answers a challenge with the right bytes.
    Challenge {
        /// What is asked.
        challenge: Vec<u8>,
        /// What has to be answered.
        answer: Vec<u8>,
    },
}

/// What becomes of a client that connects.
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
            Self::Credentials(known) if known.iter().any(|own| own == credentials) => Verdict::Authenticated,
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

/// Decides about requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorisationService {
    /// Everything is allowed.
    AllowAll,
    /// Nothing is allowed.
    DenyAll,
    /// All requests but those with these template ids.
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
