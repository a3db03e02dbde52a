//! A service with timers: clients ask to be reminded, and may change their minds.
//!
//! ```text
//! cargo run --release -p harrier --example timers
//! ```

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use harrier::cluster::client::EgressListener;
use harrier::cluster::codec::CloseReason;
use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};
use support::{Base, Outcome};

/// A reminder that is due some time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reminder {
    session_id: i64,
    text: String,
}

/// Reminders by the correlation id of their timer. Timers themselves live in the consensus module and its snapshots; the
/// service keeps what they mean.
#[derive(Default)]
struct Reminders {
    by_timer: BTreeMap<i64, Reminder>,
}

impl Reminders {
    /// `ID MILLISECONDS TEXT`, from the message's time on; without milliseconds the reminder is taken back.
    fn obey(&mut self, cluster: &mut Cluster<'_>, session: &ClientSession, order: &str) {
        let mut words = order.splitn(3, ' ');
        let Some(id) = words.next().and_then(|word| word.parse::<i64>().ok()) else { return };
        match (words.next().and_then(|word| word.parse::<i64>().ok()), words.next()) {
            (Some(delay), Some(text)) => {
                // Cluster time, never the host's: all members must come to the same deadline. A timer that is set again
                // moves.
                let deadline = cluster.time() + delay;
                let _set = cluster.retry(|cluster| cluster.schedule_timer(id, deadline));
                self.by_timer.insert(id, Reminder { session_id: session.id, text: text.to_owned() });
            }
            _ => {
                let _cancelled = cluster.retry(|cluster| cluster.cancel_timer(id));
                self.by_timer.remove(&id);
            }
        }
    }
}

impl ClusteredService for Reminders {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        snapshot.read_to_end(cluster, &mut |message| {
            let (Some(id), Some(session_id)) = (word(message, 0), word(message, 8)) else { return };
            let text = String::from_utf8_lossy(&message[16..]).into_owned();
            self.by_timer.insert(id, Reminder { session_id, text });
        })?;
        Ok(())
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        _timestamp: i64,
        message: &[u8],
        _header: &Header<'_>,
    ) {
        if let (Some(session), Ok(orders)) = (session, std::str::from_utf8(message)) {
            orders.lines().for_each(|order| self.obey(cluster, session, order));
        }
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, _timestamp: i64) {
        // A timer that was taken back may have fired already.
        let Some(reminder) = self.by_timer.remove(&correlation_id) else { return };
        let (id, text) = (reminder.session_id, reminder.text);
        let _sent = cluster.reply(id, text.as_bytes());
    }

    fn on_session_close(
        &mut self,
        _cluster: &mut Cluster<'_>,
        session: &ClientSession,
        _timestamp: i64,
        _reason: CloseReason,
    ) {
        self.by_timer.retain(|_, reminder| reminder.session_id != session.id);
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        for (id, reminder) in &self.by_timer {
            let (id, session_id) = (id.to_le_bytes(), reminder.session_id.to_le_bytes());
            let parts: [&[u8]; 3] = [&id, &session_id, reminder.text.as_bytes()];
            cluster.retry(|_| Ok(snapshot.offer_parts(&parts)?))?;
        }
        Ok(())
    }
}

fn word(message: &[u8], at: usize) -> Option<i64> {
    message.get(at..)?.first_chunk().map(|word| i64::from_le_bytes(*word))
}

#[derive(Default)]
struct Heard(Vec<String>);

impl EgressListener for Heard {
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, message: &[u8]) {
        self.0.push(String::from_utf8_lossy(message).into_owned());
    }
}

/// Sets reminders out of order, moves one, takes one back; returns them as they came.
pub fn run(base: &Path) -> Outcome<Vec<String>> {
    let cluster = support::Cluster::new(base)?;
    let node = cluster.start(vec![Box::new(|| Box::new(Reminders::default()))])?;
    let mut client = cluster.connect()?;
    let mut heard = Heard::default();
    // All in one message have one time: how soon the next one comes does not change their order.
    let orders =
        ["1 400 last", "2 50 never", "3 200 middle", "4 3600000 moved to the front", "2", "4 60 first"];
    client.offer(orders.join("\n").as_bytes(), &mut heard)?;
    client.wait(&mut heard, |heard| heard.0.len() == 3)?;
    client.close();
    node.stop()?;
    Ok(heard.0)
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    let base = Base::new("timers")?;
    println!("{:?}", run(base.path())?);
    Ok(())
}
