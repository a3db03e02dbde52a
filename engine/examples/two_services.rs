//! Two services of one node that talk through the log: a desk takes orders, an auditor writes down what the desk did.
//!
//! ```text
//! cargo run --release -p harrier --example two_services
//! ```

mod support;

use std::path::Path;

use harrier::cluster::client::EgressListener;
use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};
use support::{Base, Outcome};

/// Service 0: numbers orders and tells the auditor.
#[derive(Default)]
struct Desk {
    orders: u64,
}

impl ClusteredService for Desk {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        snapshot.read_to_end(cluster, &mut |message| {
            self.orders = message.try_into().map_or(0, u64::from_le_bytes);
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
        // All services get all messages of clients and of services: each takes what is its own.
        let (Some(session), Some(order)) = (session, message.strip_prefix(b"order ")) else { return };
        self.orders += 1;
        let entry = format!("{} {} {}", self.orders, session.id, String::from_utf8_lossy(order));
        // Goes into the log, once, whichever member leads; it comes back without a session.
        let _offered = cluster.retry(|cluster| cluster.offer(entry.as_bytes()));
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        let orders = self.orders.to_le_bytes();
        cluster.retry(|_| Ok(snapshot.offer(&orders)?))?;
        Ok(())
    }
}

/// Service 1: keeps the entries and reads them out.
#[derive(Default)]
struct Auditor {
    entries: Vec<String>,
}

impl ClusteredService for Auditor {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        snapshot.read_to_end(cluster, &mut |message| {
            self.entries.push(String::from_utf8_lossy(message).into_owned());
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
        match session {
            None => self.entries.push(String::from_utf8_lossy(message).into_owned()),
            Some(session) if message == b"audit" => {
                let book = self.entries.join("\n");
                let _sent = cluster.reply(session.id, book.as_bytes());
            }
            Some(_) => {}
        }
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        for entry in &self.entries {
            cluster.retry(|_| Ok(snapshot.offer(entry.as_bytes())?))?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Heard {
    book: Option<Vec<String>>,
}

impl EgressListener for Heard {
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, message: &[u8]) {
        self.book = Some(String::from_utf8_lossy(message).lines().map(str::to_owned).collect());
    }
}

/// Places orders and asks until the auditor has three of them; returns what it read out.
pub fn run(base: &Path) -> Outcome<Vec<String>> {
    let cluster = support::Cluster::new(base)?;
    let node = cluster
        .start(vec![Box::new(|| Box::new(Desk::default())), Box::new(|| Box::new(Auditor::default()))])?;
    let mut client = cluster.connect()?;
    let mut heard = Heard::default();
    for order in ["order 100 apples", "order 7 pears", "order 12 plums"] {
        client.offer(order.as_bytes(), &mut heard)?;
    }
    // Entries pass through the log after the orders: whoever asks too early hears of fewer.
    let book = loop {
        client.offer(b"audit", &mut heard)?;
        client.wait(&mut heard, |heard| heard.book.is_some())?;
        if let Some(book) = heard.book.take()
            && book.len() == 3
        {
            break book;
        }
    };
    client.close();
    node.stop()?;
    Ok(book)
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    let base = Base::new("two-services")?;
    println!("{:?}", run(base.path())?);
    Ok(())
}
