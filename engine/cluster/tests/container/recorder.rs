//! A service that records every callback and follows instructions in messages.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use harrier_cluster::codec::{CloseReason, Role};
use harrier_cluster::service::{
    ClientSession, Cluster, ClusterError, ClusteredService, Header, LeadershipTerm, ServiceFailure,
    SnapshotImage, SnapshotPublication,
};

/// Events that the services of a test have seen, in order.
pub type Seen = Rc<RefCell<Vec<String>>>;

/// Additional instructions for a service.
#[derive(Default)]
pub struct Orders {
    /// Length of the state after the count, bytes.
    pub state_length: Cell<usize>,
    /// Name of the callback that fails.
    pub fails_in: Cell<Option<&'static str>>,
    /// Name of the callback that panics.
    pub panics_in: Cell<Option<&'static str>>,
    /// True to send from callbacks that must not send.
    pub sends_everywhere: Cell<bool>,
    /// Number of calls of the background work.
    pub background: Cell<usize>,
}

pub struct Recorder {
    pub seen: Seen,
    pub orders: Rc<Orders>,
    count: u64,
}

impl Recorder {
    pub fn new(seen: Seen, orders: Rc<Orders>) -> Self {
        Self { seen, orders, count: 0 }
    }

    fn note(&self, cluster: &Cluster<'_>, text: &str) {
        let (position, time, role) = (cluster.log_position(), cluster.time(), cluster.role());
        self.seen.borrow_mut().push(format!("{text} @{position} t{time} {role:?}"));
    }

    fn enter(&self, callback: &'static str) -> Result<(), ServiceFailure> {
        assert!(self.orders.panics_in.get() != Some(callback), "told to panic in {callback}");
        if self.orders.fails_in.get() == Some(callback) {
            return Err(format!("told to fail in {callback}").into());
        }
        Ok(())
    }

    /// Checks that every send is refused with the callback's name.
    fn try_all(&self, cluster: &mut Cluster<'_>, callback: &'static str) {
        if !self.orders.sends_everywhere.get() {
            return;
        }
        let refused = Err(ClusterError::NotAllowed(callback));
        let id = cluster.client_sessions().next().map_or(1, |session| session.id);
        assert_eq!(cluster.offer(b"x").map(drop), refused);
        assert_eq!(cluster.try_claim(1).map(drop), refused);
        assert_eq!(cluster.schedule_timer(1, 1), refused);
        assert_eq!(cluster.cancel_timer(1), refused);
        assert_eq!(cluster.close_client_session(id), refused);
        assert_eq!(cluster.send_to_session(id, b"x").map(drop), refused);
        assert_eq!(cluster.try_claim_to_session(id, 1).map(drop), refused);
        self.note(cluster, &format!("refused in {callback}"));
    }

    fn obey(&self, cluster: &mut Cluster<'_>, text: &str) -> Result<String, ClusterError> {
        let mut words = text.split(' ');
        let command = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse::<i64>().ok()).unwrap_or(-7);
        Ok(match command {
            "timer" => {
                let (id, deadline) = (number(), number());
                cluster.schedule_timer(id, deadline).map(|()| "set".to_owned())?
            }
            "cancel" => cluster.cancel_timer(number()).map(|()| "cancelled".to_owned())?,
            "offer" => cluster.offer(text.as_bytes()).map(|_| "offered".to_owned())?,
            "flood" => {
                let mut taken = 0;
                let error = loop {
                    match cluster.offer(&[b'y'; 7_000]) {
                        Ok(_) => taken += 1,
                        Err(error) => break error,
                    }
                };
                format!("{taken} taken, then {} {error}", error.is_retryable())
            }
            "claim" => {
                let mut claim = cluster.try_claim(text.len())?;
                claim.put(0, text.as_bytes());
                claim.commit();
                "claimed".to_owned()
            }
            "send" => format!("sent {}", i64::from(cluster.send_to_session(number(), text.as_bytes())? > 1)),
            "claim-to" => {
                let mut claim = cluster.try_claim_to_session(number(), text.len())?;
                claim.put(0, text.as_bytes());
                let is_real = claim.position() > 1;
                claim.commit();
                format!("claimed {}", i64::from(is_real))
            }
            "close" => {
                let id = number();
                cluster.close_client_session(id)?;
                format!("closing {}", cluster.is_closing(id))
            }
            "sessions" => {
                let ids: Vec<i64> = cluster.client_sessions().map(|session| session.id).collect();
                format!("{ids:?} {}", cluster.client_session(ids[0]).is_some())
            }
            "facts" => format!(
                "member {} service {} unit {:?}",
                cluster.member_id(),
                cluster.service_id(),
                cluster.time_unit()
            ),
            "idle" => {
                let until_ns = cluster.now().ns + number() * 1_000_000;
                while cluster.now().ns < until_ns {
                    cluster.idle(0);
                }
                "idled".to_owned()
            }
            _ => "done".to_owned(),
        })
    }
}

impl ClusteredService for Recorder {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        self.enter("on_start")?;
        self.try_all(cluster, "on_start");
        let unit = cluster.time_unit();
        let Some(snapshot) = snapshot else {
            self.note(cluster, &format!("start member {} {unit:?}", cluster.member_id()));
            return Ok(());
        };
        let mut is_first = true;
        let mut length = 0;
        let count = &mut self.count;
        snapshot.read_to_end(cluster, &mut |message| {
            if std::mem::take(&mut is_first) {
                *count = message.try_into().map_or(0, u64::from_le_bytes);
            } else {
                length += message.len();
            }
        })?;
        let sessions: Vec<String> = cluster
            .client_sessions()
            .map(|session| format!("{} {}", session.id, String::from_utf8_lossy(&session.principal)))
            .collect();
        self.note(cluster, &format!("start {} +{length} {sessions:?} {unit:?}", self.count));
        Ok(())
    }

    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, session: &ClientSession, timestamp: i64) {
        assert_eq!(cluster.time(), timestamp);
        self.count += 1;
        let principal = String::from_utf8_lossy(&session.principal).into_owned();
        let stream = session.response_stream_id;
        self.note(cluster, &format!("open {} {principal} {stream}", session.id));
    }

    fn on_session_close(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: &ClientSession,
        timestamp: i64,
        reason: CloseReason,
    ) {
        assert_eq!(cluster.time(), timestamp);
        self.count += 1;
        let is_known = cluster.client_session(session.id).is_some();
        self.note(cluster, &format!("close {} {} {is_known}", session.id, reason.name()));
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        timestamp: i64,
        message: &[u8],
        header: &Header<'_>,
    ) {
        assert_eq!((cluster.time(), cluster.log_position()), (timestamp, header.position()));
        self.enter("on_session_message").unwrap();
        self.count += 1;
        let text = String::from_utf8_lossy(message).into_owned();
        let outcome = self.obey(cluster, &text).unwrap_or_else(|error| error.to_string());
        let id = session.map(|session| session.id);
        let head: String = text.chars().take(16).collect();
        self.note(cluster, &format!("message {id:?} {head} +{}: {outcome}", message.len()));
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, timestamp: i64) {
        assert_eq!(cluster.time(), timestamp);
        self.count += 1;
        self.note(cluster, &format!("timer {correlation_id}"));
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        self.enter("on_take_snapshot")?;
        self.note(cluster, &format!("snapshot {}", self.count));
        cluster.retry(|_| Ok(snapshot.offer(&self.count.to_le_bytes())?))?;
        let mut left = self.orders.state_length.get();
        while left > 0 {
            let chunk = vec![7; left.min(5_000)];
            cluster.retry(|_| Ok(snapshot.offer(&chunk)?))?;
            left -= chunk.len();
        }
        Ok(())
    }

    fn on_role_change(&mut self, cluster: &mut Cluster<'_>, role: Role) {
        self.try_all(cluster, "on_role_change");
        self.note(cluster, &format!("role {role:?} member {}", cluster.member_id()));
    }

    fn on_terminate(&mut self, cluster: &mut Cluster<'_>) {
        self.try_all(cluster, "on_terminate");
        self.note(cluster, "terminate");
    }

    fn on_new_leadership_term_event(&mut self, cluster: &mut Cluster<'_>, term: &LeadershipTerm) {
        assert_eq!((cluster.time(), cluster.log_position()), (term.timestamp, term.log_position));
        self.note(cluster, &format!("{term:?}"));
    }

    fn do_background_work(&mut self, cluster: &mut Cluster<'_>, now_ns: i64) -> usize {
        assert!(now_ns > 0);
        if self.orders.background.get() == 0 {
            self.try_all(cluster, "do_background_work");
        }
        self.orders.background.set(self.orders.background.get() + 1);
        0
    }
}
