//! Settings by name: environment variables, `-D` definitions and properties files (spec 02 §6.1–6.3).

mod printed;
mod reader;
mod symbols;

use std::collections::BTreeMap;
use thiserror::Error;

use crate::context::{DriverContext, InvalidSetting};
use reader::Reader;

/// Prefixes of the names of settings.
const PREFIXES: [&str; 4] = ["AERON_", "HARRIER_DRIVER_", "HARRIER_IMAGE_", "HARRIER_LOG_ALLOCATION_"];

/// Errors of definitions.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DefinitionError {
    /// A definition without `=`.
    #[error("malformed define: {0}")]
    Malformed(String),
    /// A line of a properties file that is neither a comment nor a definition.
    #[error("line {number} is neither name=value nor name:value: {text}")]
    Line {
        /// Number of the line, from 1; for joined lines that of the last one.
        number: usize,
        /// The joined text.
        text: String,
    },
}

/// Named settings. Names are those of environment variables: `aeron.term.buffer.length` is `AERON_TERM_BUFFER_LENGTH`.
///
/// ```
/// use harrier_driver::configuration::Properties;
/// use harrier_driver::context::DriverContext;
///
/// let mut properties = Properties::default();
/// properties.define("aeron.term.buffer.length=64k").unwrap();
/// let mut context = DriverContext::new("/dev/shm/aeron");
/// assert!(properties.apply(&mut context).unwrap().is_empty());
/// assert_eq!(context.term_buffer_length, 65_536);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Properties {
    values: BTreeMap<String, String>,
}

impl Properties {
    /// Takes the environment variables whose names begin with `AERON_` or with a prefix of Harrier's settings.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Self {
        let is_ours = |(name, _): &(String, String)| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        Self { values: variables.filter(is_ours).filter(|(_, value)| !value.is_empty()).collect() }
    }

    /// Takes `name=value`. The name is dotted or that of a variable.
    ///
    /// # Errors
    /// The text has no `=`.
    pub fn define(&mut self, definition: &str) -> Result<(), DefinitionError> {
        let (name, value) =
            definition.split_once('=').ok_or_else(|| DefinitionError::Malformed(definition.to_owned()))?;
        self.set(name.trim(), value.trim());
        Ok(())
    }

    /// Sets one value. An empty value unsets it.
    pub fn set(&mut self, name: &str, value: &str) {
        let name = variable_name(name);
        if value.is_empty() {
            self.values.remove(&name);
        } else {
            self.values.insert(name, value.to_owned());
        }
    }

    /// Takes a properties file with `name=value` or `name:value` lines and `#` or `!` comments. A trailing `\` joins
    /// lines, and an empty value unsets a setting. The last line may lack its end of line.
    ///
    /// # Errors
    /// The first line that is none of these. The lines before it have been taken.
    pub fn load(&mut self, text: &str) -> Result<(), DefinitionError> {
        let mut joined = String::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if joined.is_empty() && (line.is_empty() || line.starts_with(['#', '!'])) {
                continue;
            }
            if let Some(start) = line.strip_suffix('\\') {
                joined.push_str(start);
                continue;
            }
            joined.push_str(line);
            let Some((name, value)) = joined.split_once(['=', ':']) else {
                return Err(DefinitionError::Line { number: index + 1, text: joined });
            };
            self.set(name.trim(), value.trim());
            joined.clear();
        }
        Ok(())
    }

    /// Returns the value of a setting by its dotted or variable name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(&variable_name(name)).map(String::as_str)
    }

    /// Puts all settings into a context. Returns a warning for each value that cannot be read and is left at its
    /// default.
    ///
    /// # Errors
    /// A value names something that does not exist: an idle strategy (spec 02 §5.10, DECISION), a strategy or function
    /// of a shared object, or a transport.
    pub fn apply(&self, context: &mut DriverContext) -> Result<Vec<String>, InvalidSetting> {
        let mut warnings = Vec::new();
        let mut reader = Reader { properties: self, warnings: &mut warnings };
        reader.process(context);
        reader.lengths(context);
        reader.times(context);
        reader.streams(context);
        reader.network(context);
        reader.names(context);
        symbols::Symbols { values: &self.values, warnings: &mut warnings }.apply(context)?;
        Ok(warnings)
    }
}

/// Converts `a.b.c` to `A_B_C` (spec 02 §6.1).
fn variable_name(name: &str) -> String {
    let name = name.replace('.', "_").to_uppercase();
    // This Java property is the only one whose variable has another name.
    if name == "AERON_NAME_RESOLVER_THRESHOLD" { "AERON_DRIVER_NAME_RESOLVER_THRESHOLD".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::NameResolverSupplier;
    use harrier_ringbuf::idle::{Backoff, IdleStrategy};
    use harrier_ringbuf::transport::TransportKind;

    #[test]
    fn a_properties_file_joins_trims_and_unsets() {
        let mut properties = Properties::default();
        properties.load("# a comment\naeron.mtu.length = 8k\naeron.term.buffer.\\\nlength: 1m\naeron.dir=/x\naeron.dir=\n").unwrap();
        assert_eq!(properties.get("aeron.mtu.length"), Some("8k"));
        assert_eq!(properties.get("AERON_TERM_BUFFER_LENGTH"), Some("1m"));
        assert_eq!(properties.get("aeron.dir"), None);
    }

    #[test]
    fn bad_values_warn_and_keep_the_default() {
        let mut properties = Properties::default();
        properties.define("aeron.mtu.length=many").unwrap();
        properties.define("aeron.term.buffer.length=1").unwrap();
        let mut context = DriverContext::new("/d");
        let warnings = properties.apply(&mut context).unwrap();
        assert_eq!(warnings, ["WARNING: AERON_MTU_LENGTH=many is invalid, using default"]);
        assert_eq!((context.mtu_length, context.term_buffer_length), (1_408, 65_536));
        assert_eq!(properties.define("foo"), Err(DefinitionError::Malformed("foo".into())));
    }

    #[test]
    fn names_are_resolved_as_the_settings_say() {
        let mut properties = Properties::default();
        for definition in [
            "aeron.driver.resolver.name=one",
            "aeron.driver.resolver.interface=h:1",
            "aeron.driver.resolver.bootstrap.neighbor=a:1,b:2",
            "aeron.driver.resolver.neighbor.timeout=3s",
            "aeron.driver.resolver.self.resolution.interval=4s",
            "aeron.driver.resolver.neighbor.resolution.interval=5s",
            "aeron.driver.resolver.bootstrap.neighbor.resolution.interval=6s",
        ] {
            properties.define(definition).unwrap();
        }
        properties.set("AERON_NAME_RESOLVER_SUPPLIER", "csv_table");
        properties.set("AERON_NAME_RESOLVER_INIT_ARGS", "a,b,c");
        let mut context = DriverContext::new("/d");
        assert_eq!(properties.apply(&mut context).unwrap(), Vec::<String>::new());
        assert_eq!(context.name_resolver_supplier, NameResolverSupplier::Table);
        let texts = [
            &context.name_resolver_arguments,
            &context.resolver_name,
            &context.resolver_interface,
            &context.resolver_bootstrap_neighbor,
        ];
        assert_eq!(texts, ["a,b,c", "one", "h:1", "a:1,b:2"]);
        let times_ns = [
            context.resolver_neighbor_timeout_ns,
            context.resolver_self_resolution_interval_ns,
            context.resolver_neighbor_resolution_interval_ns,
            context.resolver_bootstrap_neighbor_resolution_interval_ns,
        ];
        assert_eq!(times_ns, [3, 4, 5, 6].map(|seconds: i64| seconds * 1_000_000_000));
        properties.set("AERON_NAME_RESOLVER_SUPPLIER", "other");
        assert!(properties.apply(&mut context).is_err());
    }

    #[test]
    fn the_transport_is_chosen_by_name_and_an_unknown_one_is_refused() {
        let variables =
            [("HARRIER_DRIVER_TRANSPORT", "io_uring"), ("HARRIER_DRIVER_UDP_SEGMENTATION", "off")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut properties = Properties::from_environment(variables.into_iter());
        properties.define("harrier.driver.io_uring.sqpoll=on").unwrap();
        let mut context = DriverContext::new("/d");
        assert!(properties.apply(&mut context).unwrap().is_empty());
        let options = context.transport;
        assert_eq!(
            (options.kind, options.segmentation, options.kernel_polling),
            (TransportKind::IoUring, false, true)
        );
        assert!(format!("{context:#?}").contains("IoUring"), "printed with the configuration");
        properties.set("harrier.driver.transport", "pigeons");
        let error = properties.apply(&mut context).unwrap_err().to_string();
        assert_eq!(error, "HARRIER_DRIVER_TRANSPORT=pigeons must be sockets or io_uring");
    }

    #[test]
    fn an_unknown_idle_strategy_is_refused() {
        let mut properties = Properties::default();
        properties.define("aeron.sender.idle.strategy=nap").unwrap();
        let error = properties.apply(&mut DriverContext::new("/d")).unwrap_err();
        assert!(error.to_string().contains("AERON_SENDER_IDLE_STRATEGY=nap"));
        properties.define("aeron.sender.idle.strategy=backoff").unwrap();
        properties.set("AERON_SENDER_IDLE_STRATEGY_INIT_ARGS", "1-2-3us-4us");
        let mut context = DriverContext::new("/d");
        properties.apply(&mut context).unwrap();
        assert_eq!(context.sender_idle, IdleStrategy::Backoff(Backoff::new(1, 2, 3_000, 4_000)));
    }
}
