//! The agent for jobs that may block: resolving names, opening sockets, creating and removing log files (spec 02 §5.4).

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;

use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::logbuffer::{LogBuffers, LogSettings};
use harrier_ringbuf::position::PARTITION_COUNT;
use harrier_ringbuf::transport::SocketSpec;
use harrier_ringbuf::{Agent, AgentError, AtomicBuffer, Memory, Now, Region, Transport, TransportError};

use crate::channel::UdpChannel;
use crate::failure::Failure;
use crate::log_files::{self, LogFile, StorageChecks};
use crate::resolver::Names;

/// A job that may block.
#[derive(Debug)]
pub(crate) enum Job {
    /// Resolve the names of a channel.
    Channel { uri: Box<ChannelUri>, text: String },
    /// Open the socket of a channel, and with `control` a second one on which receivers are heard.
    Socket { spec: Box<SocketSpec>, control: Option<Box<SocketSpec>>, channel: String },
    /// Create a log.
    CreateLog {
        path: PathBuf,
        settings: Box<LogSettings>,
        storage: StorageChecks,
        /// Positions that are allocated at first; with `None` the settings decide.
        first: Option<Range<i64>>,
    },
    /// Allocate a range of positions of a log.
    Allocate { id: i64, path: PathBuf, log: LogBuffers, positions: Range<i64> },
    /// Remove a log.
    Free(LogFile),
}

/// Open sockets of a channel.
pub(crate) struct Opened<S> {
    pub(crate) socket: S,
    /// Socket on which receivers are heard, when it is not the sending socket.
    pub(crate) control: Option<S>,
}

/// Result of a job.
pub(crate) enum JobResult<T: Transport> {
    Channel(Result<Box<UdpChannel>, Failure>),
    Socket(Result<Opened<T::Socket>, Failure>),
    /// The log, and a warning when the file system runs low.
    Log(Result<(LogFile, Option<String>), Failure>),
    /// A log and the position up to which it is allocated now, or the reason of the failure.
    Allocated {
        id: i64,
        outcome: Result<i64, Failure>,
    },
    /// Number of bytes that are no longer mapped, or the reason why the file still exists.
    Freed(Result<usize, Failure>),
}

impl<T: Transport> JobResult<T> {
    /// Returns a new log whose pages are all allocated.
    fn allocated_log(&self) -> Option<&LogFile> {
        match self {
            Self::Log(Ok((file, _))) if !file.log.settings().sparse && !file.is_partial => Some(file),
            _ => None,
        }
    }
}

/// Bytes whose pages are entered in one piece. The executor's thread runs no job meanwhile.
const SLICE_LENGTH: usize = 1 << 20;

/// The queue of the executor is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExecutorFull;

/// A job, or its result, with the conductor's mark.
type Marked<J> = (u64, J);

/// The conductor's side of the executor.
pub(crate) enum Executor<M: Memory, T: Transport> {
    /// The conductor does each job at once.
    Inline { worker: Worker<M, T>, done: VecDeque<Marked<JobResult<T>>> },
    /// Jobs go to an [`ExecutorAgent`].
    Queued { jobs: rtrb::Producer<Marked<Job>>, results: rtrb::Consumer<Marked<JobResult<T>>> },
}

impl<M: Memory, T: Transport> Executor<M, T> {
    /// Creates an executor that does its jobs inside `submit`.
    pub(crate) fn inline(memory: M, names: Names<T>) -> Self {
        Self::Inline { worker: Worker { memory, names }, done: VecDeque::new() }
    }

    /// Creates an executor whose jobs are done by the agent that is returned with it.
    pub(crate) fn queued(memory: M, names: Names<T>, capacity: usize) -> (Self, ExecutorAgent<M, T>) {
        let (jobs, job_queue) = rtrb::RingBuffer::new(capacity);
        let (result_queue, results) = rtrb::RingBuffer::new(capacity);
        let agent = ExecutorAgent {
            worker: Worker { memory, names },
            jobs: job_queue,
            results: result_queue,
            unsent: None,
            fresh: VecDeque::new(),
        };
        (Self::Queued { jobs, results }, agent)
    }

    /// Submits a job. The job is returned when the queue is full.
    pub(crate) fn submit(&mut self, mark: u64, job: Job) -> Result<(), Box<Job>> {
        match self {
            Self::Inline { worker, done } => {
                done.push_back((mark, worker.run_whole(job)));
                Ok(())
            }
            Self::Queued { jobs, .. } => {
                jobs.push((mark, job)).map_err(|rtrb::PushError::Full((_, job))| Box::new(job))
            }
        }
    }

    /// Runs one duty cycle of the work that needs no job, unless an agent does it; returns the work done.
    pub(crate) fn work(&mut self, now: &Now) -> usize {
        match self {
            Self::Inline { worker, .. } => worker.names.work(now),
            Self::Queued { .. } => 0,
        }
    }

    /// Time of the next work that needs no job, ns.
    pub(crate) fn next_deadline(&self) -> Option<i64> {
        match self {
            Self::Inline { worker, .. } => worker.names.next_deadline(),
            Self::Queued { .. } => None,
        }
    }

    /// The next finished job.
    pub(crate) fn poll(&mut self) -> Option<Marked<JobResult<T>>> {
        match self {
            Self::Inline { done, .. } => done.pop_front(),
            Self::Queued { results, .. } => results.pop().ok(),
        }
    }
}

/// Runs the jobs.
pub(crate) struct Worker<M: Memory, T: Transport> {
    memory: M,
    names: Names<T>,
}

impl<M: Memory, T: Transport> Worker<M, T> {
    /// Runs a job when there is no executor thread. The pages of a new log are entered at once, because no agent could
    /// do it later.
    fn run_whole(&mut self, job: Job) -> JobResult<T> {
        let result = self.run(job);
        if let Some(file) = result.allocated_log() {
            (0..PARTITION_COUNT).for_each(|term| self.memory.populate(file.log.term(term)));
        }
        result
    }

    fn open(&self, spec: &SocketSpec) -> Result<T::Socket, Failure> {
        self.names.transport.open(spec).map_err(|error| {
            let attempt = match &error {
                TransportError::Connect { address, .. } => format!("failed to connect to {address}"),
                _ => format!("failed to bind to {}", spec.bind),
            };
            let failure = Failure::from(error);
            Failure { message: format!("{attempt}: {}", failure.message), ..failure }
        })
    }

    fn run(&mut self, job: Job) -> JobResult<T> {
        match job {
            Job::Channel { uri, text } => {
                self.names.note_lookup();
                let resolved = UdpChannel::resolve(*uri, &text, &self.names).map(Box::new);
                JobResult::Channel(resolved.map_err(|failure| failure.on_channel(&text)))
            }
            Job::Socket { spec, control, channel } => {
                let opened = self.open(&spec).and_then(|socket| {
                    let control = control.map(|control| self.open(&control)).transpose()?;
                    Ok(Opened { socket, control })
                });
                JobResult::Socket(opened.map_err(|failure| failure.on_channel(&channel)))
            }
            Job::CreateLog { path, settings, storage, first } => JobResult::Log(
                log_files::create(&self.memory, &path, &settings, storage, first).map(|file| {
                    let directory = path.parent().unwrap_or(&path);
                    let warning = log_files::low_space_warning(&self.memory, directory, storage);
                    (file, warning)
                }),
            ),
            Job::Allocate { id, path, log, positions } => {
                let end = positions.end;
                let done = log_files::allocate(&self.memory, &path, log.term_length(), positions.clone());
                if done.is_ok() {
                    log_files::populate(&self.memory, &log, positions);
                }
                JobResult::Allocated { id, outcome: done.map(|()| end) }
            }
            Job::Free(file) => {
                let length = file.length;
                JobResult::Freed(log_files::free(&self.memory, file).map(|()| length).map_err(Failure::from))
            }
        }
    }
}

/// A log whose pages are not all entered yet.
struct Fresh {
    path: PathBuf,
    log: LogBuffers,
    /// Number of leading bytes of the terms whose pages are entered.
    done: usize,
}

impl Fresh {
    /// Returns the next slice; `None` when all pages are entered.
    fn next(&mut self) -> Option<AtomicBuffer> {
        let term_length = self.log.term_length();
        let (term, offset) = (self.done / term_length, self.done % term_length);
        if term == PARTITION_COUNT {
            return None;
        }
        let length = SLICE_LENGTH.min(term_length - offset);
        self.done += length;
        Some(self.log.term(term).slice(offset, length))
    }
}

/// The agent of a queued executor. Between jobs it enters the pages of new logs ahead of their writers.
pub struct ExecutorAgent<M: Memory, T: Transport> {
    worker: Worker<M, T>,
    jobs: rtrb::Consumer<Marked<Job>>,
    results: rtrb::Producer<Marked<JobResult<T>>>,
    unsent: Option<Marked<JobResult<T>>>,
    fresh: VecDeque<Fresh>,
}

impl<M: Memory, T: Transport> ExecutorAgent<M, T> {
    fn run(&mut self, job: Job) -> JobResult<T> {
        if let Job::Free(file) = &job {
            self.fresh.retain(|fresh| fresh.path != file.path);
        }
        let result = self.worker.run(job);
        if let Some(file) = result.allocated_log() {
            self.fresh.push_back(Fresh { path: file.path.clone(), log: file.log.clone(), done: 0 });
        }
        result
    }

    /// Enters the next slice of the oldest log; returns the work done.
    fn populate(&mut self) -> usize {
        let Some(fresh) = self.fresh.front_mut() else { return 0 };
        match fresh.next() {
            Some(pages) => self.worker.memory.populate(&pages),
            None => drop(self.fresh.pop_front()),
        }
        1
    }
}

impl<M: Memory, T: Transport> Agent for ExecutorAgent<M, T> {
    fn role_name(&self) -> &str {
        "aeron-executor"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        let told = self.worker.names.work(now);
        let result = match self.unsent.take() {
            Some(result) => result,
            None => match self.jobs.pop() {
                Ok((mark, job)) => (mark, self.run(job)),
                Err(_) => return Ok(told + self.populate()),
            },
        };
        if let Err(rtrb::PushError::Full(result)) = self.results.push(result) {
            self.unsent = Some(result);
            return Ok(0);
        }
        Ok(1)
    }

    fn next_deadline(&self) -> Option<i64> {
        self.worker.names.next_deadline()
    }
}
