//! Values that several settings share, with their outcomes.

/// Outcome of a value that cannot be read: the default and a warning.
pub const WARNED: &str = "WARNING";
/// Outcome of a value with which the driver does not start.
pub const REFUSED: &str = "REFUSED";

pub const FLAG: &[(&str, &str)] = &[
    ("true", "true"),
    ("1", "true"),
    ("on", "true"),
    ("false", "false"),
    ("0", "false"),
    ("off", "false"),
    ("maybe", WARNED),
];
pub const FROM_1_US: &[(&str, &str)] = &[
    ("2s", "2000000000"),
    ("30ms", "30000000"),
    ("40us", "40000"),
    ("5000ns", "5000"),
    ("6000", "6000"),
    ("0", "1000"),
    ("soon", WARNED),
    ("5m", WARNED),
];
pub const FROM_0: &[(&str, &str)] = &[("2s", "2000000000"), ("0", "0"), ("soon", WARNED)];
pub const FROM_1_MS: &[(&str, &str)] = &[("2s", "2000000000"), ("1us", "1000000"), ("soon", WARNED)];
pub const TERM: &[(&str, &str)] =
    &[("128k", "131072"), ("1M", "1048576"), ("1", "65536"), ("4g", "1073741824"), ("long", WARNED)];
pub const MTU: &[(&str, &str)] = &[("8k", "8192"), ("1", "32"), ("1m", "65504"), ("x", WARNED)];
pub const WINDOW: &[(&str, &str)] = &[("64k", "65536"), ("4g", "1073741824"), ("-1", WARNED)];
pub const CORE: &[(&str, &str)] =
    &[("3", "Some(3)"), ("-1", "None"), ("-7", "None"), ("999", "Some(255)"), ("x", WARNED)];
pub const TEXT: &[(&str, &str)] = &[("some text", "\"some text\"")];
pub const RANGE: &[(&str, &str)] =
    &[("20700 20710", "(20700, 20710)"), ("5 4", WARNED), ("7", WARNED), ("1 99999", WARNED)];
pub const VECTOR: &[(&str, &str)] = &[("2", "2"), ("0", "1"), ("99", "16"), ("x", WARNED)];
pub const BACKOFF: &str = "Backoff(Backoff{max_spins:10,max_yields:20,min_park_ns:1000,max_park_ns:1000000,spins:0,yields:0,park_ns:1000,},)";
pub const IDLE: &[(&str, &str)] = &[
    ("noop", "Noop"),
    ("spin", "Spin"),
    ("yield", "Yield"),
    ("sleeping", "Sleep{period_ns:1000,}"),
    ("sleep-ns", "Sleep{period_ns:1000,}"),
    ("aeron_idle_strategy_sleeping", "Sleep{period_ns:1000,}"),
    ("sleep-ms", "Sleep{period_ns:1000000,}"),
    ("backoff", BACKOFF),
    ("aeron_idle_strategy_backoff", BACKOFF),
    ("nap", REFUSED),
    ("controllable", REFUSED),
];
