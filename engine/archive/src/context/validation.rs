//! Valid settings, and how they limit each other (spec 03 §6.2).

use harrier_protocol::uri::{ChannelUri, MAX_MTU_LENGTH, MAX_TERM_LENGTH, MIN_TERM_LENGTH};

use super::{ArchiveContext, InvalidSetting};

/// Minimum length of the error log in a mark file, bytes.
const MIN_ERROR_BUFFER_LENGTH: usize = 1 << 20;

fn check(is_valid: bool, name: &str, value: impl ToString, rule: &'static str) -> Result<(), InvalidSetting> {
    if is_valid {
        return Ok(());
    }
    Err(InvalidSetting { setting: format!("aeron.archive.{name}={}", value.to_string()), rule })
}

impl ArchiveContext {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        self.check_files()?;
        self.check_streams()?;
        self.check_limits()
    }

    fn check_files(&self) -> Result<(), InvalidSetting> {
        let length = self.segment_file_length;
        check(
            length.count_ones() == 1 && (64 << 10..=1 << 30).contains(&length),
            "segment.file.length",
            length,
            "must be a power of two in 64 KiB..1 GiB",
        )?;
        check(
            self.file_io_max_length.is_power_of_two() && self.file_io_max_length >= 64 << 10,
            "file.io.max.length",
            self.file_io_max_length,
            "must be a power of two of at least 64 KiB",
        )?;
        check(
            self.catalog_file_sync_level >= self.file_sync_level,
            "catalog.file.sync.level",
            self.catalog_file_sync_level as i32,
            "must be at least aeron.archive.file.sync.level",
        )?;
        check(
            (32..=i32::MAX as usize).contains(&self.catalog_capacity),
            "catalog.capacity",
            self.catalog_capacity,
            "must be in 32..2147483647",
        )?;
        check(
            (MIN_ERROR_BUFFER_LENGTH..=i32::MAX as usize).contains(&self.error_buffer_length),
            "error.buffer.length",
            self.error_buffer_length,
            "must be in 1 MiB..2 GiB",
        )
    }

    fn check_streams(&self) -> Result<(), InvalidSetting> {
        let channels = [
            ("control.channel", self.control_channel.as_ref(), "must be a UDP channel"),
            ("local.control.channel", Some(&self.local_control_channel), "must be an IPC channel"),
            ("recording.events.channel", Some(&self.recording_events_channel), "must be an Aeron channel"),
            ("replication.channel", self.replication_channel.as_ref(), "must be an Aeron channel"),
            (
                "control.response.channel",
                self.replication_response_channel.as_ref(),
                "must be an Aeron channel",
            ),
        ];
        for (name, channel, rule) in channels {
            let Some(channel) = channel else { continue };
            let is_valid = ChannelUri::parse(channel).is_ok_and(|uri| match name {
                "control.channel" => uri.is_udp(),
                "local.control.channel" => uri.is_ipc(),
                _ => true,
            });
            check(is_valid, name, channel, rule)?;
        }
        let length = self.control_term_buffer_length;
        check(
            length.count_ones() == 1 && (MIN_TERM_LENGTH..=MAX_TERM_LENGTH).contains(&length),
            "control.term.buffer.length",
            length,
            "must be a power of two in 64 KiB..1 GiB",
        )?;
        let mtu = self.control_mtu_length;
        check(
            mtu % 32 == 0 && (64..=MAX_MTU_LENGTH).contains(&mtu),
            "control.mtu.length",
            mtu,
            "must be a multiple of 32 in 64..65504",
        )
    }

    fn check_limits(&self) -> Result<(), InvalidSetting> {
        let times = [
            ("connect.timeout", self.connect_timeout_ns),
            ("session.liveness.check.interval", self.session_liveness_check_interval_ns),
            ("message.timeout", self.replication_message_timeout_ns),
        ];
        for (name, time_ns) in times {
            check(time_ns > 0, name, time_ns, "must be longer than 0 ns")?;
        }
        check(
            self.max_concurrent_recordings > 0,
            "max.concurrent.recordings",
            self.max_concurrent_recordings,
            "must be at least 1",
        )?;
        check(
            self.max_concurrent_replays > 0,
            "max.concurrent.replays",
            self.max_concurrent_replays,
            "must be at least 1",
        )
    }
}
