//! Building and starting the released Java client, media driver and archive.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::peers::peer::{self, Kind, Peer};
use crate::support::source;

/// Flags of every virtual machine: small, quick to start, without files for its own monitors, open where Agrona needs
/// it.
const FLAGS: [&str; 6] = [
    "-Xms32m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dagrona.disable.bounds.checks=false",
];

/// Packages that the samples and tools of the jar need opened.
const OPENED: [&str; 3] = [
    "--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.util.zip=ALL-UNNAMED",
];

/// True when the Java peer can run. Otherwise says so loudly, or panics when peers are required.
pub fn is_available() -> bool {
    Kind::Java.is_available()
}

/// The jar with the peer and the released classes.
pub fn jar() -> Result<&'static Path, &'static str> {
    static JAR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    JAR.get_or_init(build).as_deref().map_err(String::as_str)
}

fn build() -> Result<PathBuf, String> {
    for tool in ["java", "javac", "mvn"] {
        Command::new(tool)
            .arg("-version")
            .output()
            .map_err(|error| format!("{tool} does not run: {error}"))?;
    }
    let root = source("peers/java");
    let sources = [root.join("pom.xml"), root.join("src/main/java/peertest")];
    peer::build("java", &sources, "peertest.jar", |output| {
        let mut command = Command::new("mvn");
        command.args(["--quiet", "--batch-mode", "package"]);
        command.arg(format!("-Dpeertest.output={}", output.display())).current_dir(root);
        command
    })
}

/// A program of the released jar with its arguments, e.g. `io.aeron.samples.AeronStat`.
pub fn program(properties: &[String], class: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(FLAGS).args(OPENED).args(properties.iter().map(|property| format!("-D{property}")));
    command.arg("-cp").arg(jar().unwrap()).arg(class).args(arguments);
    command
}

/// The peer as a client of a directory, optionally with a server: `driver`, or `archive` for both.
pub fn peer(directory: &Path, server: Option<&str>, settings: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(FLAGS).args(OPENED).args(settings.iter().map(|property| format!("-D{property}")));
    command.arg("-jar").arg(jar().unwrap()).arg(directory).args(server);
    command
}

/// A client with the released media driver and the released archive beside it, which keeps its files in the
/// driver's directory with `-archive` behind it.
pub fn with_archive(directory: &Path, settings: &[&str]) -> Peer {
    Peer::start(Kind::Java, &mut peer(directory, Some("archive"), settings))
}
