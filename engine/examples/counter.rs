//! A counter that keeps its state in snapshots: after a restart only the log behind the snapshot is read again.
//!
//! ```text
//! cargo run --release -p harrier --example counter
//! ```

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use harrier::ClusterCommand;
use harrier::cluster::client::EgressListener;
use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};
use support::{Base, Outcome};

/// Adds up what clients send and answers with the sum.
struct Counter {
    sum: i64,
    /// Messages that this life of the service has handled: what a restart replays can be seen here.
    handled: Arc<AtomicU64>,
}

impl ClusteredService for Counter {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        let mut sum = None;
        snapshot.read_to_end(cluster, &mut |message| sum = message.try_into().ok())?;
        // A service must not start from an incomplete snapshot. The node ends with this message instead.
        self.sum = i64::from_le_bytes(sum.ok_or("the snapshot holds no sum")?);
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
        self.handled.fetch_add(1, Ordering::Relaxed);
        if let Ok(number) = message.try_into().map(i64::from_le_bytes) {
            self.sum += number;
        }
        let Some(session) = session else { return };
        let sum = self.sum.to_le_bytes();
        let _sent = cluster.reply(session.id, &sum);
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        let sum = self.sum.to_le_bytes();
        cluster.retry(|_| Ok(snapshot.offer(&sum)?))?;
        Ok(())
    }
}

#[derive(Default)]
struct Sums(Vec<i64>);

impl EgressListener for Sums {
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, message: &[u8]) {
        self.0.extend(message.try_into().map(i64::from_le_bytes));
    }
}

/// The outcome of the example, as seen after the restart of the node.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    /// The last sum.
    pub sum: i64,
    /// Messages that the service handled: those behind the snapshot, and the new one.
    pub handled: u64,
}

/// Counts to 5050, takes a snapshot, counts on, restarts the node and asks it.
pub fn run(base: &Path) -> Outcome<Summary> {
    let cluster = support::Cluster::new(base)?;
    let handled = Arc::new(AtomicU64::new(0));
    let counter = || {
        let handled = handled.clone();
        let factory: harrier::ServiceFactory = Box::new(move || Box::new(Counter { sum: 0, handled }));
        vec![factory]
    };
    let node = cluster.start(counter())?;
    let mut client = cluster.connect()?;
    let mut sums = Sums::default();
    for number in 1..=100_i64 {
        client.offer(&number.to_le_bytes(), &mut sums)?;
    }
    client.wait(&mut sums, |sums| sums.0.last() == Some(&5_050))?;

    node.command(ClusterCommand::Snapshot)?;
    while !node.is_command_done()? {
        client.poll(&mut sums)?;
        std::thread::yield_now();
    }
    client.offer(&50_i64.to_le_bytes(), &mut sums)?;
    client.wait(&mut sums, |sums| sums.0.last() == Some(&5_100))?;
    client.close();
    node.stop()?;

    handled.store(0, Ordering::Relaxed);
    let node = cluster.start(counter())?;
    let mut client = cluster.connect()?;
    let mut sums = Sums::default();
    client.offer(&1_i64.to_le_bytes(), &mut sums)?;
    client.wait(&mut sums, |sums| !sums.0.is_empty())?;
    client.close();
    node.stop()?;
    Ok(Summary { sum: sums.0[0], handled: handled.load(Ordering::Relaxed) })
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    let base = Base::new("counter")?;
    println!("{:?}", run(base.path())?);
    Ok(())
}
