//! A driver without threads: the program drives it, configures it from a properties file, and reads its counters.
//!
//! ```text
//! cargo run --release -p harrier --example embedded_driver
//! ```

use std::error::Error;
use std::path::Path;

use harrier::Properties;
use harrier::client::{Aeron, Context};
use harrier::driver::context::DriverContext;
use harrier::driver::{ExecutorMode, HostDriver};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::{Agent, Clock};

const STREAM: i32 = 1_001;
/// The content of a properties file. The names are Aeron's.
const SETTINGS: &str = "\
# Small and quick.
aeron.term.buffer.length=64k
aeron.ipc.term.buffer.length=64k
aeron.counters.buffer.length=1m
aeron.timer.interval=100ms
";
/// Duty cycles that suffice for anything here.
const PATIENCE: usize = 1_000_000;

/// The outcome of the example.
#[derive(Debug, PartialEq, Eq)]
pub struct Sight {
    /// The text that was read.
    pub text: String,
    /// Labels of the stream's counters, without their ids.
    pub labels: Vec<String>,
    /// The reason why an invalid channel was refused.
    pub refusal: String,
}

/// All agents on this thread, in turn.
struct Engine {
    agents: Vec<Box<dyn Agent>>,
    client: Aeron,
}

impl Engine {
    fn until<V>(&mut self, mut condition: impl FnMut(&mut Aeron) -> Option<V>) -> Result<V, Box<dyn Error>> {
        for _ in 0..PATIENCE {
            let now = SystemClock.now();
            for agent in &mut self.agents {
                agent.do_work(&now)?;
            }
            self.client.do_work(&now)?;
            if let Some(value) = condition(&mut self.client) {
                return Ok(value);
            }
        }
        Err("the driver does not answer".into())
    }
}

/// Sends a message through a driver in this thread and reads its counters.
pub fn run(base: &Path) -> Result<Sight, Box<dyn Error>> {
    let mut settings = Properties::default();
    settings.load(SETTINGS)?;
    let mut context = DriverContext::new(base.join("aeron"));
    for warning in settings.apply(&mut context)? {
        eprintln!("{warning}");
    }
    let directory = context.directory.clone();
    let now = SystemClock.now();
    let driver = HostDriver::on_host(context, ExecutorMode::Inline, &now)?;
    let client = Aeron::connect(Context::new(directory), MappedMemory, &now)?;
    let mut engine = Engine { agents: driver.into_agents(), client };

    let subscription = engine.client.add_subscription("aeron:ipc", STREAM)?;
    let publication = engine.client.add_publication("aeron:ipc", STREAM)?;
    let mut subscription = engine.until(|client| client.subscription(subscription).transpose())??;
    let mut publication = engine.until(|client| client.publication(publication).transpose())??;
    engine.until(|_| publication.offer(b"hello").ok())?;
    let mut text = String::new();
    engine.until(|_| {
        subscription.poll(1, &mut |message, _| text = String::from_utf8_lossy(message).into_owned());
        (!text.is_empty()).then_some(())
    })?;

    let mut labels = Vec::new();
    engine.client.counters().for_each(&mut |_, _, _, label| {
        if label.contains(&format!(" {STREAM} aeron:ipc")) {
            labels.extend(label.split(':').next().map(str::to_owned));
        }
    });
    let bad = engine.client.add_publication("aeron:udp?endpoint=nowhere", STREAM)?;
    let refusal = engine.until(|client| client.publication(bad).err())?.to_string();
    Ok(Sight { text, labels, refusal })
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Result<(), Box<dyn Error>> {
    let base = Path::new("/dev/shm").join(format!("harrier-embedded-driver-{}", std::process::id()));
    std::fs::create_dir_all(&base)?;
    let sight = run(&base);
    std::fs::remove_dir_all(&base)?;
    println!("{:#?}", sight?);
    Ok(())
}
