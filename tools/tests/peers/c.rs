//! Building and starting the released C client and media driver from the sources in `rusteron-client` and
//! `rusteron-media-driver`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::peers::peer;
use crate::support::source;

/// Versions of CMake that build the sources: first, and first unsupported.
const CMAKE: [(u32, u32); 2] = [(3, 30), (4, 0)];

/// Additional variables of a driver: it shares few cores with others and deletes its files.
const DEFAULTS: [(&str, &str); 5] = [
    ("AERON_THREADING_MODE", "SHARED"),
    ("AERON_SHARED_IDLE_STRATEGY", "backoff"),
    ("AERON_TERM_BUFFER_SPARSE_FILE", "true"),
    ("AERON_DIR_DELETE_ON_START", "true"),
    ("AERON_DIR_DELETE_ON_SHUTDOWN", "true"),
];

/// Path of the peer's program.
pub fn binary() -> Result<&'static Path, &'static str> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY.get_or_init(build).as_deref().map_err(String::as_str)
}

fn build() -> Result<PathBuf, String> {
    Command::new("clang")
        .arg("--version")
        .output()
        .map_err(|error| format!("clang does not run: {error}"))?;
    let path = path_with_cmake()?;
    let root = source("peers/c");
    let sources = ["Cargo.toml", "Cargo.lock", "build.rs", "src"].map(|name| root.join(name));
    peer::build("c", &sources, "release/peertest", |output| {
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--quiet", "--locked", "--release", "--target-dir"]).arg(output);
        command.env("PATH", path).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").current_dir(root);
        command
    })
}

/// The search path with a suitable CMake in front: the one of `.ci/lib.sh`, or the first on the path.
fn path_with_cmake() -> Result<std::ffi::OsString, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let built = peer::target().join("cmake/bin");
    for folder in std::iter::once(built).chain(std::env::split_paths(&path)) {
        let output = Command::new(folder.join("cmake")).arg("--version").output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if text.is_ok_and(|text| fits(&text)) {
            let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
            return std::env::join_paths(folders).map_err(|error| error.to_string());
        }
    }
    let [from, before] = CMAKE.map(|(major, minor)| format!("{major}.{minor}"));
    Err(format!("no CMake of {from} or later, before {before}, is on the PATH"))
}

fn fits(text: &str) -> bool {
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    CMAKE[0] <= found && found < CMAKE[1]
}

/// The peer as a client of a directory, optionally with a server: `driver`. Settings become variables, as spec 02 §6.1
/// maps them.
pub fn peer(directory: &Path, server: Option<&str>, settings: &[&str]) -> Command {
    let mut command = Command::new(binary().unwrap());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AERON_")) {
        command.env_remove(name);
    }
    command.envs(DEFAULTS);
    for setting in settings {
        let (name, value) = setting.split_once('=').unwrap();
        command.env(name.replace('.', "_").to_uppercase(), value);
    }
    command.arg(directory).args(server);
    command
}
