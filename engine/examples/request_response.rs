//! Requests and answers over UDP: each client gets the answers to its own requests, and only those.
//!
//! The responder's driver need not know where its clients are: the channel of the answers names only the responder's own
//! address, and each client says which subscription awaits its answers. Driver, clients and responder share one thread here.
//!
//! ```text
//! cargo run --release -p harrier --example request_response
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::path::Path;

use harrier::client::{Aeron, ClientError, Context, ExclusivePublication, Subscription};
use harrier::driver::context::DriverContext;
use harrier::driver::{ExecutorMode, HostDriver};
use harrier::platform::{MappedMemory, SystemClock, free_ports};
use harrier::ringbuf::{Agent, Clock};

/// The result of the example.
pub type Outcome<V> = Result<V, Box<dyn Error>>;

const REQUESTS: i32 = 1;
const ANSWERS: i32 = 2;

/// A driver and one client of it, which does all the work of the program.
struct Local {
    agents: Vec<Box<dyn Agent>>,
    aeron: Aeron,
}

impl Local {
    fn start(base: &Path) -> Outcome<Self> {
        let directory = base.join("aeron");
        let mut context = DriverContext::new(&directory);
        context.term_buffer_length = 64 << 10;
        let now = SystemClock.now();
        let driver = HostDriver::on_host(context, ExecutorMode::Inline, &now)?;
        let aeron = Aeron::connect(Context::new(directory), MappedMemory, &now)?;
        Ok(Self { agents: driver.into_agents(), aeron })
    }

    /// Runs all agents until there is a value.
    fn until<V>(&mut self, mut poll: impl FnMut(&mut Aeron) -> Result<Option<V>, ClientError>) -> Outcome<V> {
        let deadline_ns = SystemClock.now().ns + 60_000_000_000;
        loop {
            let now = SystemClock.now();
            for agent in &mut self.agents {
                agent.do_work(&now)?;
            }
            self.aeron.do_work(&now)?;
            if let Some(value) = poll(&mut self.aeron)? {
                return Ok(value);
            }
            if now.ns > deadline_ns {
                return Err("nothing came".into());
            }
        }
    }

    fn subscribe(&mut self, channel: &str, stream_id: i32) -> Outcome<Subscription> {
        let id = self.aeron.add_subscription(channel, stream_id)?;
        self.until(|aeron| aeron.subscription(id))
    }

    fn publish(&mut self, channel: &str, stream_id: i32) -> Outcome<ExclusivePublication> {
        let id = self.aeron.add_exclusive_publication(channel, stream_id)?;
        self.until(|aeron| aeron.exclusive_publication(id))
    }
}

/// Answers each image of `requests` by a publication of its own.
fn serve(
    local: &mut Local,
    requests: &mut Subscription,
    answers: &str,
    publications: &mut BTreeMap<i64, ExclusivePublication>,
) -> Outcome<()> {
    let mut images = Vec::new();
    requests.images().iter().for_each(|image| images.push(image.correlation_id()));
    publications.retain(|image_id, _| images.contains(image_id));
    for image_id in images {
        if let Entry::Vacant(place) = publications.entry(image_id) {
            let channel = format!("{answers}|response-correlation-id={image_id}");
            place.insert(local.publish(&channel, ANSWERS)?);
        }
    }
    for image in requests.images() {
        let publication = publications.get_mut(&image.correlation_id());
        let Some(publication) = publication.filter(|publication| publication.is_connected()) else {
            continue;
        };
        image.poll(10, &mut |request, _| {
            let answer = String::from_utf8_lossy(request).to_uppercase();
            // A program with longer answers keeps those for which there is no room, and offers them again.
            let _position = publication.offer(answer.as_bytes()).expect("room for a few short answers");
        });
    }
    Ok(())
}

/// Two clients send different requests. Returns the answer to each of them.
pub fn run(base: &Path) -> Outcome<Vec<String>> {
    let mut local = Local::start(base)?;
    let answers = format!("aeron:udp?control-mode=response|control=127.0.0.1:{}", free_ports(1)?[0]);
    let mut requests = local.subscribe("aeron:udp?endpoint=127.0.0.1:0", REQUESTS)?;
    let channel = local.until(|aeron| Ok(requests.resolved_channel(aeron.counters())))?;

    let mut clients = Vec::new();
    for text in ["one", "two"] {
        // The subscription that awaits the answers comes first, then the publication of the requests.
        let subscription = local.subscribe(&answers, ANSWERS)?;
        let id = subscription.registration_id();
        let publication = local.publish(&format!("{channel}|response-correlation-id={id}"), REQUESTS)?;
        clients.push((text, subscription, publication));
    }
    let mut publications = BTreeMap::new();
    let mut texts = Vec::new();
    for (text, subscription, publication) in &mut clients {
        local.until(|_| Ok(publication.is_connected().then_some(())))?;
        publication.offer(text.as_bytes())?;
        let text = loop {
            serve(&mut local, &mut requests, &answers, &mut publications)?;
            let mut answer = None;
            local.until(|_| {
                subscription
                    .poll(1, &mut |bytes, _| answer = Some(String::from_utf8_lossy(bytes).into_owned()));
                Ok(Some(()))
            })?;
            if let Some(answer) = answer {
                break answer;
            }
        };
        texts.push(text);
    }
    Ok(texts)
}

fn main() -> Outcome<()> {
    let base = format!("/dev/shm/harrier-request-response-{}", std::process::id());
    let answers = run(Path::new(&base));
    std::fs::remove_dir_all(base)?;
    println!("{:?}", answers?);
    Ok(())
}
