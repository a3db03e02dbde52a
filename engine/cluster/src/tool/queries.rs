//! Queries to a member's archive: the recovery plan and the latest snapshot of the consensus module.

use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext, ArchiveClientError};
use harrier_client::{Aeron, ClientError};
use harrier_ringbuf::Now;
use thiserror::Error;

use crate::codec::{SnapshotMarker, SnapshotMessage, snapshot_type};
use crate::recording_log::{Entry, LogExtent, PlanError, RecoveryPlan, last_term};
use crate::snapshot::{SnapshotError, SnapshotExpectation, SnapshotLoader};

const READ_LIMIT: usize = 64;

/// Errors of a query.
#[derive(Debug, Error)]
pub enum QueryError {
    /// The archive is gone or refused a request.
    #[error(transparent)]
    Archive(#[from] ArchiveClientError),
    /// The driver is gone or refused a request.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The files of the member and of its archive do not match.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The snapshot cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The archive answered with an error.
    #[error("archive refused: error {code}: {message}")]
    Refused {
        /// Error code of spec 03 §1.2.
        code: i64,
        /// Error text of the archive.
        message: String,
    },
}

/// Connection to a member's archive.
pub struct ArchiveLink {
    client: ArchiveClient,
}

impl ArchiveLink {
    /// Creates a connection to the archive that listens on a stream of the same driver.
    pub fn new(control_stream_id: i32, seed: u64) -> Self {
        let context = ArchiveClientContext {
            control_request_stream_id: control_stream_id,
            // Other clients of the archive on this driver use streams 20 and 120.
            control_response_stream_id: 220,
            client_name: "harrier-tool".into(),
            seed,
            ..ArchiveClientContext::ipc()
        };
        Self { client: ArchiveClient::new(context) }
    }

    /// Connects, or reads answers. Returns true once connected.
    ///
    /// # Errors
    /// See [`ArchiveClientError`].
    pub fn poll(&mut self, aeron: &mut Aeron, now: &Now) -> Result<bool, ArchiveClientError> {
        self.client.poll(aeron, now)?;
        Ok(self.client.is_connected())
    }

    /// Ends the session.
    pub fn close(&mut self) {
        self.client.close();
    }
}

/// Query for the recovery plan of a member.
pub struct PlanQuery {
    entries: Vec<Entry>,
    service_count: usize,
    correlation_id: Option<i64>,
    extent: Option<LogExtent>,
}

impl PlanQuery {
    /// Creates a query for the plan from the entries of recording.log.
    pub fn new(entries: Vec<Entry>, service_count: usize) -> Self {
        Self { entries, service_count, correlation_id: None, extent: None }
    }

    /// Advances over a connected link and returns the plan once complete. An active log ends at its current recorded
    /// position.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn poll(
        &mut self,
        aeron: &Aeron,
        link: &mut ArchiveLink,
    ) -> Result<Option<RecoveryPlan>, QueryError> {
        let Some(recording_id) = last_term(&self.entries).map(|term| term.recording_id) else {
            return self.plan(None);
        };
        if self.correlation_id.is_none() {
            let asked = match &self.extent {
                None => link.client.list_recording(aeron, recording_id),
                Some(_) => link.client.max_recorded_position(aeron, recording_id),
            };
            match asked {
                Ok(id) => self.correlation_id = Some(id),
                Err(ArchiveClientError::BackPressured) => {}
                Err(error) => return Err(error.into()),
            }
        }
        while let Some(answer) = link.client.poll_answer() {
            if Some(answer.correlation_id()) != self.correlation_id {
                continue;
            }
            self.correlation_id = None;
            match answer {
                ArchiveAnswer::Descriptor { descriptor, .. } => {
                    let extent = LogExtent::from(&*descriptor);
                    if extent.stop_position != -1 {
                        return self.plan(Some(extent));
                    }
                    self.extent = Some(extent);
                    return Ok(None);
                }
                ArchiveAnswer::Ok { relevant_id, .. } => {
                    let extent = self.extent.map(|extent| LogExtent { stop_position: relevant_id, ..extent });
                    return self.plan(extent);
                }
                ArchiveAnswer::Error { code, message, .. } => {
                    return Err(QueryError::Refused { code, message });
                }
                _ => return self.plan(None),
            }
        }
        Ok(None)
    }

    fn plan(&self, extent: Option<LogExtent>) -> Result<Option<RecoveryPlan>, QueryError> {
        Ok(Some(RecoveryPlan::of(&self.entries, self.service_count, extent)?))
    }
}

/// Query for the snapshot of a consensus module.
pub struct SnapshotQuery {
    recording_id: i64,
    channel: String,
    stream_id: i32,
    timeout_ns: i64,
    app_version: i32,
    loader: SnapshotLoader,
}

impl SnapshotQuery {
    /// Creates a query that replays a snapshot's recording on a channel and stream.
    pub fn new(recording_id: i64, replay_channel: &str, replay_stream_id: i32, timeout_ns: i64) -> Self {
        let loader = loader(recording_id, replay_channel, replay_stream_id, timeout_ns, 0);
        Self {
            recording_id,
            channel: replay_channel.to_owned(),
            stream_id: replay_stream_id,
            timeout_ns,
            app_version: 0,
            loader,
        }
    }

    /// Advances over a connected link and passes each message of the snapshot to `on_message`. Returns the BEGIN marker
    /// once everything is read.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn poll(
        &mut self,
        aeron: &mut Aeron,
        link: &mut ArchiveLink,
        now: &Now,
        on_message: &mut impl FnMut(&SnapshotMessage<'_>),
    ) -> Result<Option<SnapshotMarker>, QueryError> {
        while let Some(answer) = link.client.poll_answer() {
            self.loader.on_answer(&answer);
        }
        self.loader.poll(aeron, &mut link.client, now)?;
        if self.loader.is_readable() {
            let read = self.loader.read(READ_LIMIT, &mut |message| {
                on_message(message);
                Ok(())
            });
            match read {
                Ok(_) => {}
                // A tool reads snapshots of every application; the first marker shows the version.
                Err(SnapshotError::Version { snapshot, .. }) if snapshot != self.app_version => {
                    self.app_version = snapshot;
                    let next =
                        loader(self.recording_id, &self.channel, self.stream_id, self.timeout_ns, snapshot);
                    std::mem::replace(&mut self.loader, next).close(aeron, &mut link.client);
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(if self.loader.is_complete() { self.loader.marker().copied() } else { None })
    }
}

fn loader(
    recording_id: i64,
    channel: &str,
    stream_id: i32,
    timeout_ns: i64,
    app_version: i32,
) -> SnapshotLoader {
    let expectation = SnapshotExpectation { type_id: snapshot_type::MODULE, app_version, time_unit: None };
    SnapshotLoader::new(recording_id, channel, stream_id, expectation, timeout_ns)
}
