//! Authentication of clients, and authorisation of their requests (spec 04 §3.3, §8.3).

use std::fmt;
use std::sync::Arc;

/// Decides who may open a session. The consensus module calls it on its duty cycle, so it must not block.
pub trait Authenticator {
    /// A client has requested a session.
    fn on_connect_request(&mut self, session_id: i64, credentials: &[u8], now_ms: i64) {
        let _ = (session_id, credentials, now_ms);
    }

    /// A client has answered a challenge.
    fn on_challenge_response(&mut self, session_id: i64, credentials: &[u8], now_ms: i64) {
        let _ = (session_id, credentials, now_ms);
    }

    /// The client can be answered. Called until the session is decided.
    fn on_connected_session(&mut self, session: &mut SessionProxy, now_ms: i64);

    /// The client was challenged. Called until the session is decided, also before the client has answered.
    fn on_challenged_session(&mut self, session: &mut SessionProxy, now_ms: i64);
}

/// Decision about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Authenticated { principal: Vec<u8> },
    Challenged { challenge: Vec<u8> },
    Rejected,
}

/// The session that an [`Authenticator`] decides about.
#[derive(Debug)]
pub struct SessionProxy {
    session_id: i64,
    verdict: Option<Verdict>,
}

impl SessionProxy {
    pub(super) fn new(session_id: i64) -> Self {
        Self { session_id, verdict: None }
    }

    pub(super) fn into_verdict(self) -> Option<Verdict> {
        self.verdict
    }

    /// Session id.
    pub fn session_id(&self) -> i64 {
        self.session_id
    }

    /// Sends a challenge to the client.
    pub fn challenge(&mut self, challenge: &[u8]) {
        self.verdict = Some(Verdict::Challenged { challenge: challenge.to_vec() });
    }

    /// Admits the client. A principal longer than 4096 bytes rejects it.
    pub fn authenticate(&mut self, principal: &[u8]) {
        self.verdict = Some(Verdict::Authenticated { principal: principal.to_vec() });
    }

    /// Rejects the client.
    pub fn reject(&mut self) {
        self.verdict = Some(Verdict::Rejected);
    }
}

/// Setting that creates authenticators.
#[derive(Clone)]
pub struct AuthenticatorSupplier {
    name: String,
    make: Arc<dyn Fn() -> Box<dyn Authenticator + Send> + Send + Sync>,
}

impl AuthenticatorSupplier {
    /// Creates a supplier. Its name is written into the mark file.
    pub fn new<A: Authenticator + Send + 'static>(
        name: impl Into<String>,
        make: impl Fn() -> A + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), make: Arc::new(move || Box::new(make())) }
    }

    /// Admits everybody with an empty principal.
    pub fn allow_all() -> Self {
        Self::new("allow-all", || AllowAll)
    }

    /// Admits clients with one of these credentials, which become the principal.
    pub fn credentials(known: Vec<Vec<u8>>) -> Self {
        Self::new("credentials", move || Credentials { known: known.clone(), shown: Vec::new() })
    }

    /// Admits clients that answer a challenge with these bytes, which become the principal.
    pub fn challenge(challenge: impl Into<Vec<u8>>, answer: impl Into<Vec<u8>>) -> Self {
        let (challenge, answer) = (challenge.into(), answer.into());
        Self::new("challenge", move || Challenge {
            challenge: challenge.clone(),
            answer: answer.clone(),
            answers: Vec::new(),
        })
    }

    /// Name of the authenticators.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn make(&self) -> Box<dyn Authenticator + Send> {
        (self.make)()
    }
}

impl fmt::Debug for AuthenticatorSupplier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuthenticatorSupplier").field(&self.name).finish()
    }
}

struct AllowAll;

impl Authenticator for AllowAll {
    fn on_connected_session(&mut self, session: &mut SessionProxy, _: i64) {
        session.authenticate(&[]);
    }

    fn on_challenged_session(&mut self, session: &mut SessionProxy, _: i64) {
        session.authenticate(&[]);
    }
}

/// Credentials of sessions that are not decided.
type Shown = Vec<(i64, Vec<u8>)>;

fn take(shown: &mut Shown, session_id: i64) -> Option<Vec<u8>> {
    let index = shown.iter().position(|(id, _)| *id == session_id)?;
    Some(shown.swap_remove(index).1)
}

/// Limit of the credentials that are kept. Clients that have gone leave theirs behind.
const MAX_SHOWN: usize = 1_024;

fn keep(shown: &mut Shown, session_id: i64, credentials: &[u8]) {
    if shown.len() >= MAX_SHOWN {
        shown.remove(0);
    }
    shown.push((session_id, credentials.to_vec()));
}

struct Credentials {
    known: Vec<Vec<u8>>,
    shown: Shown,
}

impl Authenticator for Credentials {
    fn on_connect_request(&mut self, session_id: i64, credentials: &[u8], _: i64) {
        keep(&mut self.shown, session_id, credentials);
    }

    fn on_connected_session(&mut self, session: &mut SessionProxy, _: i64) {
        match take(&mut self.shown, session.session_id()).filter(|shown| self.known.contains(shown)) {
            Some(principal) => session.authenticate(&principal),
            None => session.reject(),
        }
    }

    fn on_challenged_session(&mut self, session: &mut SessionProxy, _: i64) {
        session.reject();
    }
}

struct Challenge {
    challenge: Vec<u8>,
    answer: Vec<u8>,
    answers: Shown,
}

impl Authenticator for Challenge {
    fn on_challenge_response(&mut self, session_id: i64, credentials: &[u8], _: i64) {
        keep(&mut self.answers, session_id, credentials);
    }

    fn on_connected_session(&mut self, session: &mut SessionProxy, _: i64) {
        session.challenge(&self.challenge);
    }

    fn on_challenged_session(&mut self, session: &mut SessionProxy, _: i64) {
        match take(&mut self.answers, session.session_id()) {
            Some(answer) if answer == self.answer => session.authenticate(&answer),
            Some(_) => session.reject(),
            None => {}
        }
    }
}

/// Decides which requests to the cluster itself a client may send.
pub trait AuthorisationService: Send + Sync {
    /// Returns true when a client may send a request; `action_id` is its template, `request_type` its type.
    fn is_authorised(&self, protocol_id: i32, action_id: i32, request_type: i32, principal: &[u8]) -> bool;
}

/// Setting that holds an authorisation service.
#[derive(Clone)]
pub struct Authorisation {
    name: String,
    service: Arc<dyn AuthorisationService>,
}

/// Templates of requests of backups and standbys (spec 04 §8.3).
const BACKUP_REQUESTS: [i32; 3] = [77, 79, 81];

struct Actions<F>(F);

impl<F: Fn(i32) -> bool + Send + Sync> AuthorisationService for Actions<F> {
    fn is_authorised(&self, _: i32, action_id: i32, _: i32, _: &[u8]) -> bool {
        self.0(action_id)
    }
}

impl Authorisation {
    /// Wraps a service.
    pub fn new(name: impl Into<String>, service: impl AuthorisationService + 'static) -> Self {
        Self { name: name.into(), service: Arc::new(service) }
    }

    /// Allows only requests of backups and standbys. This is the default.
    pub fn backups_only() -> Self {
        Self::new("backups-only", Actions(|action_id| BACKUP_REQUESTS.contains(&action_id)))
    }

    /// Allows everything.
    pub fn allow_all() -> Self {
        Self::new("allow-all", Actions(|_| true))
    }

    /// Allows nothing.
    pub fn deny_all() -> Self {
        Self::new("deny-all", Actions(|_| false))
    }

    /// Name of the service.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_authorised(&self, action_id: i32, request_type: i32, principal: &[u8]) -> bool {
        let protocol_id = i32::from(crate::codec::SCHEMA_ID);
        self.service.is_authorised(protocol_id, action_id, request_type, principal)
    }
}

impl fmt::Debug for Authorisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authorisation").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(authenticator: &mut dyn Authenticator) -> Option<Verdict> {
        let mut proxy = SessionProxy::new(3);
        authenticator.on_connected_session(&mut proxy, 0);
        proxy.into_verdict()
    }

    #[test]
    fn credentials_are_the_principal() {
        let mut authenticator = AuthenticatorSupplier::credentials(vec![b"a".to_vec()]).make();
        authenticator.on_connect_request(3, b"a", 0);
        let verdict = connected(authenticator.as_mut());
        assert_eq!(verdict, Some(Verdict::Authenticated { principal: b"a".to_vec() }));
        authenticator.on_connect_request(3, b"b", 0);
        assert_eq!(connected(authenticator.as_mut()), Some(Verdict::Rejected));
    }

    #[test]
    fn a_challenge_waits_for_its_answer() {
        let mut authenticator = AuthenticatorSupplier::challenge("who?", "me").make();
        authenticator.on_connect_request(3, b"", 0);
        let asked = Some(Verdict::Challenged { challenge: b"who?".to_vec() });
        assert_eq!(connected(authenticator.as_mut()), asked);
        let look = |authenticator: &mut dyn Authenticator| {
            let mut proxy = SessionProxy::new(3);
            authenticator.on_challenged_session(&mut proxy, 0);
            proxy.into_verdict()
        };
        assert_eq!(look(authenticator.as_mut()), None);
        authenticator.on_challenge_response(4, b"me", 0);
        assert_eq!(look(authenticator.as_mut()), None);
        authenticator.on_challenge_response(3, b"you", 0);
        assert_eq!(look(authenticator.as_mut()), Some(Verdict::Rejected));
    }

    #[test]
    fn only_backups_are_served_unless_told() {
        for (authorisation, expected) in [
            (Authorisation::backups_only(), [false, true]),
            (Authorisation::allow_all(), [true, true]),
            (Authorisation::deny_all(), [false, false]),
        ] {
            let allowed = [26, 77].map(|action_id| authorisation.is_authorised(action_id, 0, &[]));
            assert_eq!(allowed, expected, "{authorisation:?}");
        }
    }
}
