//! The smallest clustered service: it sends every message back.
//!
//! ```text
//! cargo run --release -p harrier --example echo
//! ```

mod support;

use std::path::Path;

use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotPublication,
};
use support::{Base, Outcome};

struct Echo;

impl ClusteredService for Echo {
    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        _timestamp: i64,
        message: &[u8],
        _header: &Header<'_>,
    ) {
        let Some(session) = session else { return };
        // Back pressure ends when the client reads; a client that has gone is no reason to fail.
        let _sent = cluster.reply(session.id, message);
    }

    /// Without state there is nothing to keep.
    fn on_take_snapshot(
        &mut self,
        _cluster: &mut Cluster<'_>,
        _snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        Ok(())
    }
}

/// Starts a node below `base`, sends it some messages and returns its answers.
pub fn run(base: &Path) -> Outcome<Vec<String>> {
    let cluster = support::Cluster::new(base)?;
    let node = cluster.start(vec![Box::new(|| Box::new(Echo))])?;
    let mut client = cluster.connect()?;
    let mut answers = Answers::default();
    for text in ["one", "two", "three"] {
        client.offer(text.as_bytes(), &mut answers)?;
    }
    client.wait(&mut answers, |answers| answers.0.len() == 3)?;
    client.close();
    node.stop()?;
    Ok(answers.0)
}

#[derive(Default)]
struct Answers(Vec<String>);

impl harrier::cluster::client::EgressListener for Answers {
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, message: &[u8]) {
        self.0.push(String::from_utf8_lossy(message).into_owned());
    }
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    let base = Base::new("echo")?;
    println!("{:?}", run(base.path())?);
    Ok(())
}
