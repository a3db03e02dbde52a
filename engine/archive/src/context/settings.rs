//! Settings by name: reading and printing them (spec 03 §6.2, §6.3).

use std::fmt::Write;
use std::path::PathBuf;

use harrier_protocol::uri::{parse_duration_ns, parse_size};

use super::{ArchiveContext, InvalidSetting, SyncLevel};
use crate::auth::{Authenticator, AuthorisationService};
use crate::checksum::Checksum;

/// The place of one setting in a context.
enum Setting<'a> {
    Text(&'a mut String),
    OptionalText(&'a mut Option<String>),
    Path(&'a mut PathBuf),
    OptionalPath(&'a mut Option<PathBuf>),
    Flag(&'a mut bool),
    Number(&'a mut i32),
    OptionalId(&'a mut Option<i64>),
    Count(&'a mut usize),
    Length(&'a mut i32),
    Size(&'a mut usize),
    Space(&'a mut u64),
    Time(&'a mut i64),
    Level(&'a mut SyncLevel),
    Checksum(&'a mut Option<Checksum>),
    Authenticator(&'a mut Authenticator),
    Authorisation(&'a mut AuthorisationService),
}

/// Parses a truth value as the driver does (spec 02 §6.1).
fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "on" | "true" => Some(true),
        "0" | "off" | "false" => Some(false),
        _ => None,
    }
}

/// Stores a parsed value; returns false when there is none.
fn put<V>(target: &mut V, value: Option<V>) -> bool {
    match value {
        Some(value) => {
            *target = value;
            true
        }
        None => false,
    }
}

const LENGTH_RULE: &str = "must be a size such as 64k or 128m";

impl Setting<'_> {
    /// Reads a value.
    ///
    /// # Errors
    /// Description of valid values.
    fn set(&mut self, text: &str) -> Result<(), &'static str> {
        let owned = text.to_owned();
        let (is_valid, rule) = match self {
            Self::Text(target) => (put(*target, Some(owned)), ""),
            Self::OptionalText(target) => (put(*target, Some(Some(owned))), ""),
            Self::Path(target) => (put(*target, Some(owned.into())), ""),
            Self::OptionalPath(target) => (put(*target, Some(Some(owned.into()))), ""),
            Self::Flag(target) => (put(*target, flag(text)), "must be true or false"),
            Self::Number(target) => (put(*target, text.parse().ok()), "must be a number"),
            Self::OptionalId(target) => {
                let id = text.parse().ok().map(|id: i64| (id != -1).then_some(id));
                (put(*target, id), "must be a number")
            }
            Self::Count(target) => (put(*target, text.parse().ok()), "must be a number"),
            Self::Length(target) => {
                let length = parse_size(text).and_then(|size| i32::try_from(size).ok());
                (put(*target, length), LENGTH_RULE)
            }
            Self::Size(target) => {
                let size = parse_size(text).and_then(|size| usize::try_from(size).ok());
                (put(*target, size), LENGTH_RULE)
            }
            Self::Space(target) => {
                let size = parse_size(text).and_then(|size| u64::try_from(size).ok());
                (put(*target, size), LENGTH_RULE)
            }
            Self::Time(target) => {
                (put(*target, parse_duration_ns(text)), "must be a time such as 10s or 200ms")
            }
            Self::Level(target) => {
                let level = text.parse().ok().and_then(SyncLevel::from_level);
                (put(*target, level), "must be 0, 1 or 2")
            }
            Self::Checksum(target) => {
                (put(*target, Checksum::by_name(text).map(Some)), "must be CRC-32 or CRC-32C")
            }
            Self::Authenticator(target) => {
                let known = (text == ALLOW_ALL).then_some(Authenticator::AllowAll);
                (put(*target, known), "must be ALLOW_ALL; a program can set another authenticator")
            }
            Self::Authorisation(target) => {
                let known = match text {
                    ALLOW_ALL => Some(AuthorisationService::AllowAll),
                    DENY_ALL => Some(AuthorisationService::DenyAll),
                    _ => None,
                };
                (put(*target, known), "must be ALLOW_ALL or DENY_ALL; a program can set another service")
            }
        };
        if is_valid { Ok(()) } else { Err(rule) }
    }

    /// Formats the value so that it can be read back. An unset value is empty.
    fn text(&self) -> String {
        match self {
            Self::Text(value) => (*value).clone(),
            Self::OptionalText(value) => value.as_deref().unwrap_or_default().to_owned(),
            Self::Path(value) => value.display().to_string(),
            Self::OptionalPath(value) => {
                value.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
            }
            Self::Flag(value) => value.to_string(),
            Self::Number(value) | Self::Length(value) => value.to_string(),
            Self::OptionalId(value) => value.unwrap_or(-1).to_string(),
            Self::Count(value) | Self::Size(value) => value.to_string(),
            Self::Space(value) => value.to_string(),
            Self::Time(value) => format!("{value}ns"),
            Self::Level(value) => (**value as i32).to_string(),
            Self::Checksum(value) => value.map_or(String::new(), |checksum| checksum.name().to_owned()),
            Self::Authenticator(Authenticator::AllowAll) => ALLOW_ALL.to_owned(),
            Self::Authorisation(AuthorisationService::AllowAll) => ALLOW_ALL.to_owned(),
            Self::Authorisation(AuthorisationService::DenyAll) => DENY_ALL.to_owned(),
            Self::Authenticator(_) | Self::Authorisation(_) => "set by the program".to_owned(),
        }
    }
}

const ALLOW_ALL: &str = "ALLOW_ALL";
const DENY_ALL: &str = "DENY_ALL";
const CONTROL_CHANNEL_ENABLED: &str = "aeron.archive.control.channel.enabled";

impl ArchiveContext {
    /// Returns every setting with its name, without `aeron.archive.`.
    fn settings(&mut self) -> [(&'static str, Setting<'_>); 37] {
        use Setting::{Count, Flag, Length, Level, Number, OptionalText, Size, Space, Text, Time};
        [
            ("dir", Setting::Path(&mut self.archive_directory)),
            ("dir.delete.on.start", Flag(&mut self.delete_directory_on_start)),
            ("mark.file.dir", Setting::OptionalPath(&mut self.mark_file_directory)),
            ("id", Setting::OptionalId(&mut self.archive_id)),
            ("control.channel", OptionalText(&mut self.control_channel)),
            ("control.stream.id", Number(&mut self.control_stream_id)),
            ("local.control.channel", Text(&mut self.local_control_channel)),
            ("local.control.stream.id", Number(&mut self.local_control_stream_id)),
            ("control.term.buffer.length", Length(&mut self.control_term_buffer_length)),
            ("control.term.buffer.sparse", Flag(&mut self.control_term_buffer_sparse)),
            ("control.mtu.length", Length(&mut self.control_mtu_length)),
            ("recording.events.enabled", Flag(&mut self.recording_events_enabled)),
            ("recording.events.channel", Text(&mut self.recording_events_channel)),
            ("recording.events.stream.id", Number(&mut self.recording_events_stream_id)),
            ("replication.channel", OptionalText(&mut self.replication_channel)),
            ("control.response.channel", OptionalText(&mut self.replication_response_channel)),
            ("message.timeout", Time(&mut self.replication_message_timeout_ns)),
            ("segment.file.length", Length(&mut self.segment_file_length)),
            ("file.io.max.length", Size(&mut self.file_io_max_length)),
            ("file.sync.level", Level(&mut self.file_sync_level)),
            ("catalog.file.sync.level", Level(&mut self.catalog_file_sync_level)),
            ("low.storage.space.threshold", Space(&mut self.low_storage_space_threshold)),
            ("max.concurrent.recordings", Count(&mut self.max_concurrent_recordings)),
            ("max.concurrent.replays", Count(&mut self.max_concurrent_replays)),
            ("catalog.capacity", Size(&mut self.catalog_capacity)),
            ("connect.timeout", Time(&mut self.connect_timeout_ns)),
            ("session.liveness.check.interval", Time(&mut self.session_liveness_check_interval_ns)),
            ("replay.linger.timeout", Time(&mut self.replay_linger_timeout_ns)),
            ("record.checksum", Setting::Checksum(&mut self.record_checksum)),
            ("replay.checksum", Setting::Checksum(&mut self.replay_checksum)),
            ("authenticator.supplier", Setting::Authenticator(&mut self.authenticator)),
            ("authorisation.service.supplier", Setting::Authorisation(&mut self.authorisation)),
            ("conductor.cycle.threshold", Time(&mut self.conductor_cycle_threshold_ns)),
            ("recorder.cycle.threshold", Time(&mut self.recorder_cycle_threshold_ns)),
            ("replayer.cycle.threshold", Time(&mut self.replayer_cycle_threshold_ns)),
            ("error.buffer.length", Size(&mut self.error_buffer_length)),
            ("max.control.sessions", Count(&mut self.max_control_sessions)),
        ]
    }

    /// Reads every setting by its name, such as `aeron.archive.dir`. `lookup` returns `None` for a setting that keeps its
    /// value.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn apply(&mut self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<(), InvalidSetting> {
        for (name, mut setting) in self.settings() {
            let name = format!("aeron.archive.{name}");
            if let Some(text) = lookup(&name) {
                let invalid = |rule| InvalidSetting { setting: format!("{name}={text}"), rule };
                setting.set(&text).map_err(invalid)?;
            }
        }
        if let Some(text) = lookup(CONTROL_CHANNEL_ENABLED) {
            let setting = format!("{CONTROL_CHANNEL_ENABLED}={text}");
            let invalid = InvalidSetting { setting, rule: "must be true or false" };
            if !flag(&text).ok_or(invalid)? {
                self.control_channel = None;
            }
        }
        self.validate()
    }

    /// Formats the effective configuration: one line for each setting, by its name.
    pub fn printed(&self) -> String {
        let mut context = self.clone();
        let mut text =
            format!("aeron_archive_context {{\n    aeron.dir={}\n", self.aeron_directory.display());
        let is_enabled = self.control_channel.is_some();
        for (name, setting) in context.settings() {
            let _infallible = writeln!(text, "    aeron.archive.{name}={}", setting.text());
        }
        let _infallible = writeln!(text, "    {CONTROL_CHANNEL_ENABLED}={is_enabled}");
        text.push_str("}\n");
        text
    }
}
