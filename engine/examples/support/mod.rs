//! Support for the examples: a node on this host, and a client of it.

use std::error::Error;
use std::path::{Path, PathBuf};

use harrier::cluster::client::ClusterClientContext;
use harrier::platform::free_ports;
use harrier::ringbuf::idle::IdleStrategy;
use harrier::{BlockingClusterClient, Node, NodeContext, ServiceFactory};

/// The result of an example.
pub type Outcome<V> = Result<V, Box<dyn Error>>;

/// A directory that is removed when the value is dropped.
pub struct Base(PathBuf);

impl Base {
    /// A directory of this process in shared memory.
    pub fn new(name: &str) -> Outcome<Self> {
        let path = Path::new("/dev/shm").join(format!("harrier-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // If this fails, the directory remains in /dev/shm, where it can be found.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// A cluster of one member on this host.
pub struct Cluster {
    base: PathBuf,
    ports: Vec<u16>,
    /// See [`NodeContext`].
    pub fresh_timestamps: bool,
}

impl Cluster {
    /// A cluster with its files below `base`, on ports that are free.
    pub fn new(base: &Path) -> Outcome<Self> {
        Ok(Self { base: base.to_owned(), ports: free_ports(5)?, fresh_timestamps: false })
    }

    /// Directory of the node's media driver.
    pub fn aeron_directory(&self) -> PathBuf {
        self.base.join("aeron")
    }

    /// Settings of the node. They are small, and they suit a host that also does other work.
    pub fn context(&self) -> NodeContext {
        let endpoints: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let members = format!("0,{}", endpoints.join(","));
        let mut context = NodeContext::new(self.base.join("node"), self.aeron_directory(), 0, members);
        context.log_term_length = 64 << 10;
        context.segment_length = 128 << 10;
        context.sparse_logs = true;
        context.idle = IdleStrategy::Yield;
        context.fresh_timestamps = self.fresh_timestamps;
        // Such a host may stop the whole node for seconds. The reader of a replay and a client must not count as gone
        // then.
        for name in ["aeron.archive.connect.timeout", "aeron.publication.connection.timeout"] {
            context.properties.set(name, "60s");
        }
        context
    }

    /// Starts the node and waits until clients are served.
    pub fn start(&self, services: Vec<ServiceFactory>) -> Outcome<Node> {
        let mut context = self.context();
        context.service_count = services.len();
        let node = Node::launch(context, services)?;
        while !node.is_ready() {
            if node.is_ending() {
                return Err(format!("the node has ended: {:?}", node.failures()).into());
            }
            std::thread::yield_now();
        }
        Ok(node)
    }

    /// Opens a session; the client works with the node's media driver.
    pub fn connect(&self) -> Outcome<BlockingClusterClient> {
        Ok(BlockingClusterClient::connect(self.aeron_directory(), self.client_context())?)
    }

    /// Settings of a session. Their timeouts are long, because the host may be busy.
    pub fn client_context(&self) -> ClusterClientContext {
        let endpoints = format!("0=127.0.0.1:{}", self.ports[0]);
        let mut context =
            ClusterClientContext::new(endpoints, "aeron:udp?endpoint=127.0.0.1:0|term-length=64k");
        context.message_timeout_ns = 60_000_000_000;
        context
    }
}
