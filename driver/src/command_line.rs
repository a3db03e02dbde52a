//! Command line of `harrier-driver` (spec 02 §6.3).

use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harrier_driver::configuration::Properties;

const HELP: &str = "\
harrier-driver: an Aeron-compatible media driver

usage: harrier-driver [-v] [--ready] [-Dname=value]... [properties-file or file:// or http:// URL]...

  -Dname=value   sets a setting, e.g. -Daeron.threading.mode=SHARED; overrides AERON_* variables
  --ready        prints one line of JSON once clients can connect
  -v             prints the version

Settings are Aeron's: see tuning.md. The driver runs until SIGINT or SIGTERM, whose number is then its exit code, or until an
allowed terminate command, with exit code 0.

example: harrier-driver --ready -Daeron.dir=/dev/shm/aeron-demo -Daeron.threading.mode=SHARED
";

/// Longest wait for the server of a URL.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of a driver.
pub struct Arguments {
    pub properties: Properties,
    pub prints_ready: bool,
}

/// Action that the command line requests.
pub enum Wish {
    Run(Box<Arguments>),
    Print(String),
}

/// Parses the command line of `program`, which overrides settings of the environment. An error is a text for the user.
pub fn parse(program: &str, arguments: impl Iterator<Item = String>) -> Result<Wish, String> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut properties = Properties::from_environment(variables);
    let mut prints_ready = false;
    for argument in arguments {
        if let Some(definition) = argument.strip_prefix("-D") {
            properties.define(definition).map_err(|error| error.to_string())?;
        } else if argument == "-v" {
            return Ok(Wish::Print(version(program)));
        } else if argument == "--help" || argument == "-h" {
            return Ok(Wish::Print(HELP.to_owned()));
        } else if argument == "--ready" {
            prints_ready = true;
        } else if argument.starts_with('-') {
            return Err(format!("Usage: {program} [-v][-Dname=value]"));
        } else {
            load(&argument, &mut properties)?;
        }
    }
    Ok(Wish::Run(Box::new(Arguments { properties, prints_ready })))
}

fn version(program: &str) -> String {
    let aeron = harrier_protocol::AERON_VERSION;
    let mut parts = aeron.split('.');
    let mut part = || parts.next().unwrap_or("0");
    let (major, minor, patch) = (part(), part(), part());
    let commit = option_env!("HARRIER_COMMIT").unwrap_or(concat!("harrier-", env!("CARGO_PKG_VERSION")));
    format!(
        "{program} <aeron version={aeron} commit={commit}> major {major} minor {minor} patch {patch} git {commit}\n"
    )
}

fn load(argument: &str, properties: &mut Properties) -> Result<(), String> {
    let failed = |code: i32, text: &dyn std::fmt::Display| {
        format!("ERROR: loading properties from {argument} ({code}) {text}")
    };
    let text = read(argument).map_err(|error| failed(error.raw_os_error().unwrap_or(-1), &error))?;
    properties.load(&text).map_err(|error| failed(22, &error))
}

fn read(argument: &str) -> Result<String, Error> {
    if let Some(address) = argument.strip_prefix("http://") {
        return fetch(address);
    }
    std::fs::read_to_string(argument.strip_prefix("file://").unwrap_or(argument))
}

/// Fetches the body of `host:port/path` from a web server.
fn fetch(address: &str) -> Result<String, Error> {
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let server = if has_port { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || Error::new(ErrorKind::InvalidData, "the server's answer is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.lines().next().unwrap_or_default();
    match status.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some(_) => Err(Error::other(format!("the server says {status}"))),
        None => Err(malformed()),
    }
}
