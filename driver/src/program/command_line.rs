//! Command line of the standalone programs (spec 02 §6.3).

use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::configuration::Properties;

/// Longest wait for the server of a URL.
const PATIENCE: Duration = Duration::from_secs(10);

/// Contents of a program's command line.
#[derive(Debug, Clone, Copy)]
pub struct CommandLine<'a> {
    /// Name by which the program was called.
    pub program: &'a str,
    /// Text of `--help`.
    pub help: &'static str,
    /// Flags besides `-v`, `-D` and `--help`.
    pub flags: &'static [&'static str],
}

/// Arguments of a program.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Settings of the environment, the properties files and the command line.
    pub properties: Properties,
    flags: Vec<String>,
}

impl Arguments {
    /// True when the command line has a flag.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }
}

/// Action that the command line requests.
#[derive(Debug, Clone)]
pub enum Wish {
    /// Run the program.
    Run(Box<Arguments>),
    /// Print a text and end.
    Print(String),
}

impl CommandLine<'_> {
    /// Parses the arguments, which override settings of the environment. A later argument overrides an earlier one.
    ///
    /// # Errors
    /// A text for the user.
    pub fn parse(&self, arguments: impl Iterator<Item = String>) -> Result<Wish, String> {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut properties = Properties::from_environment(variables);
        let mut flags = Vec::new();
        for argument in arguments {
            if let Some(definition) = argument.strip_prefix("-D") {
                properties.define(definition).map_err(|error| error.to_string())?;
            } else if argument == "-v" {
                return Ok(Wish::Print(version(self.program)));
            } else if argument == "--help" || argument == "-h" {
                return Ok(Wish::Print(self.help.to_owned()));
            } else if self.flags.contains(&argument.as_str()) {
                flags.push(argument);
            } else if argument.starts_with('-') {
                return Err(format!("Usage: {} [-v][-Dname=value]", self.program));
            } else {
                load(&argument, &mut properties)?;
            }
        }
        Ok(Wish::Run(Box::new(Arguments { properties, flags })))
    }
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
