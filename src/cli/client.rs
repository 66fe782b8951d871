//! A question to the daemon, over its socket or an address.
//!
//! Owns as much of HTTP/1.1 as one question and one answer need. Refuses connections that stay, TLS, and answers that are
//! larger than any the daemon gives.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use zeroize::Zeroizing;

use super::config::Directory;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::{Context, secrets};
use crate::daemon::Places;
use crate::policy::{self, DaemonConfig};

/// The daemon itself gives up after 30 s.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A page of 500 runs with a hundred problems each is far below.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Where a packaged service listens, whatever the environment of the person who asks.
const SYSTEM_SOCKET: &str = "/run/lifeboat/api.sock";

/// How to reach the daemon.
#[derive(clap::Args)]
pub struct Daemon {
    #[command(flatten)]
    config: Directory,
    /// The daemon's socket; else the one that the configuration names
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// The daemon's address, such as http://127.0.0.1:7420, in place of its socket
    #[arg(long, value_name = "URL", conflicts_with = "socket")]
    url: Option<String>,
    /// A file with an API token; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub struct Client {
    target: Target,
    token: Option<Zeroizing<String>>,
    /// Why the socket may be the wrong one.
    doubt: Option<String>,
}

enum Target {
    Socket(PathBuf),
    /// `host:port`, as it stands in the Host header.
    Address(String),
}

/// What the daemon said, if it did not refuse.
pub struct Answer {
    pub body: Value,
    pub location: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("the daemon cannot be reached at {at}")]
struct Unreachable {
    at: String,
    #[source]
    cause: io::Error,
}

#[derive(Debug, thiserror::Error)]
#[error("the answer makes no sense: {0}")]
struct Malformed(&'static str);

impl Client {
    pub fn new(context: &Context, daemon: &Daemon) -> Result<Self> {
        let token = daemon.token_file.as_deref().map(|path| token(context, path)).transpose()?;
        let (target, doubt) = match (&daemon.url, &daemon.socket) {
            (Some(url), _) => (Target::Address(authority(url)?), None),
            (None, Some(socket)) => (Target::Socket(socket.clone()), None),
            (None, None) => configured_socket(&daemon.config.directory)?,
        };
        Ok(Self { target, token, doubt })
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.ask("POST", path, Some(body))
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let (host, at) = match &self.target {
            Target::Socket(socket) => ("localhost", socket.display().to_string()),
            Target::Address(authority) => (authority.as_str(), format!("http://{authority}")),
        };
        let mut request = Zeroizing::new(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"));
        if let Some(token) = &self.token {
            request.push_str("Authorization: Bearer ");
            request.push_str(token);
            request.push_str("\r\n");
        }
        match body {
            Some(body) => {
                let body = body.to_string();
                let length = body.len();
                request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"));
            }
            None => request.push_str("\r\n"),
        }
        let answered = match &self.target {
            Target::Socket(socket) => connect_unix(socket).and_then(|stream| exchange(stream, &request)),
            Target::Address(authority) => connect_tcp(authority).and_then(|stream| exchange(stream, &request)),
        };
        let bytes = answered.map_err(|cause| {
            let denied = cause.kind() == io::ErrorKind::PermissionDenied;
            let exit = if denied { Exit::Denied } else { Exit::Unreachable };
            let failure = Failure::new(exit, Unreachable { at, cause });
            match &self.doubt {
                Some(doubt) => failure.hint(doubt),
                None if denied => failure.hint("ask as the daemon's user or as root, or use --url with --token-file"),
                None => failure
                    .hint("is it running? --socket, --url or [daemon] socket in lifeboat.toml name another place"),
            }
        })?;
        read_answer(&bytes)
    }
}

fn token(context: &Context, path: &Path) -> Result<Zeroizing<String>> {
    let bytes = secrets::read_passphrase(path, &context.screen)?;
    let text = std::str::from_utf8(&bytes).ok().map(str::trim).filter(|text| {
        // Anything else could end the header and begin another.
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    match text {
        Some(text) => Ok(Zeroizing::new(text.to_owned())),
        None => Err(Failure::usage(format!("{} holds no token", path.display()))),
    }
}

fn authority(url: &str) -> Result<String> {
    let hint = "write it as http://127.0.0.1:7420; a daemon elsewhere is reached through an SSH tunnel";
    let wrong = || Failure::usage(format!("{url:?} is no address of a daemon")).hint(hint);
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(good) {
        return Err(wrong());
    }
    Ok(authority.to_owned())
}

/// The socket of the configuration. One that cannot be read is no reason not to ask: a daemon may run on an older one.
fn configured_socket(directory: &Path) -> Result<(Target, Option<String>)> {
    let loaded = policy::load(directory);
    let doubt = loaded.is_err().then(|| {
        format!(
            "the configuration in {} cannot be read, so its socket is not known; --socket names it",
            directory.display()
        )
    });
    let config = loaded.map_or_else(|_| DaemonConfig::default(), |config| config.daemon);
    let by_default = config.socket.is_none();
    let found = Places::find(&config, |name| std::env::var_os(name));
    let socket = match found {
        Ok(places) if !by_default || places.socket.exists() => places.socket,
        _ if Path::new(SYSTEM_SOCKET).exists() => PathBuf::from(SYSTEM_SOCKET),
        Ok(places) => places.socket,
        Err(error) => return Err(Failure::new(Exit::Unreachable, error).hint("--socket names the daemon's socket")),
    };
    Ok((Target::Socket(socket), doubt))
}

fn connect_unix(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
    Ok(stream)
}

fn connect_tcp(authority: &str) -> io::Result<TcpStream> {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
                stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    // A server that refuses early closes its end; what it said is still to be read.
    let written = stream.write_all(request.as_bytes()).and_then(|()| stream.flush());
    let mut bytes = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes);
    match (written, read) {
        (Err(error), _) | (_, Err(error)) if bytes.is_empty() => Err(error),
        _ if bytes.len() as u64 > ANSWER_BYTES_MAX => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too large to be a daemon's"))
        }
        _ if bytes.is_empty() => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed without an answer")),
        _ => Ok(bytes),
    }
}

fn read_answer(bytes: &[u8]) -> Result<Answer> {
    let malformed = |what| Failure::new(Exit::Unreachable, Malformed(what));
    let end = bytes.windows(4).position(|at| at == b"\r\n\r\n").ok_or_else(|| malformed("it has no head"))?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| malformed("its head is no text"))?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines
        .next()
        .and_then(|first| first.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok())
        .ok_or_else(|| malformed("it is no HTTP"))?;
    let (mut length, mut chunked, mut location) = (None, false, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse::<usize>().ok(),
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "location" => location = Some(value.to_owned()),
            _ => {}
        }
    }
    let rest = &bytes[end + 4..];
    let body = match (chunked, length) {
        (true, _) => unchunk(rest).ok_or_else(|| malformed("it broke off"))?,
        (false, Some(length)) => rest.get(..length).ok_or_else(|| malformed("it broke off"))?.to_vec(),
        (false, None) => rest.to_vec(),
    };
    let parsed = serde_json::from_slice::<Value>(&body);
    if (200..300).contains(&status) {
        let body = parsed.map_err(|_| malformed("it is no JSON"))?;
        return Ok(Answer { body, location });
    }
    Err(refusal(status, parsed.ok().as_ref().and_then(|body| body["detail"].as_str())))
}

fn refusal(status: u16, detail: Option<&str>) -> Failure {
    let exit = match status {
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        400 | 405 | 413 | 415 | 422 => Exit::Usage,
        429 | 502..=504 => Exit::Transient,
        _ => Exit::Failed,
    };
    let sentence = match detail {
        Some(detail) => format!("the daemon refused: {detail}"),
        None => format!("the daemon refused with status {status}"),
    };
    let failure = Failure::new(exit, sentence);
    match status {
        401 => failure.hint("`lifeboat token create` makes a token; give it with --token-file"),
        _ => failure,
    }
}

/// The body of a chunked answer (RFC 9112, section 7.1); none if it broke off.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|at| at == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<Answer> {
        read_answer(text.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let good = answer("HTTP/1.1 202 Accepted\nLocation: /v1/runs/X\nContent-Length: 8\n\n{\"id\":1}").ok().unwrap();
        assert_eq!((good.body["id"].as_i64(), good.location.as_deref()), (Some(1), Some("/v1/runs/X")));
        let chunked = answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n{\"a\"\n3\n:1}\n0\n\n").ok().unwrap();
        assert_eq!(chunked.body["a"].as_i64(), Some(1));
        for broken in [
            "HTTP/1.1 200 OK\nContent-Length: 9\n\n{\"id\":1}",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n{\"a\"\n",
            "SSH-2.0-OpenSSH\n\n",
            "HTTP/1.1 200 OK\n",
        ] {
            assert_eq!(answer(broken).err().map(|failure| failure.exit), Some(Exit::Unreachable), "{broken}");
        }
    }

    #[test]
    fn a_refusal_ends_with_its_row_of_the_table() {
        let exit = |status: u16| answer(&format!("HTTP/1.1 {status} X\nContent-Length: 2\n\n{{}}")).err().unwrap().exit;
        assert_eq!(
            [401, 403, 404, 409, 422, 429, 503, 500].map(exit),
            [
                Exit::Denied,
                Exit::Denied,
                Exit::NotFound,
                Exit::Conflict,
                Exit::Usage,
                Exit::Transient,
                Exit::Transient,
                Exit::Failed
            ]
        );
    }

    #[test]
    fn an_address_that_could_carry_more_than_a_host_is_refused() {
        assert_eq!(authority("http://127.0.0.1:7420/").ok().as_deref(), Some("127.0.0.1:7420"));
        assert_eq!(authority("http://[::1]:7420").ok().as_deref(), Some("[::1]:7420"));
        for bad in ["https://x", "127.0.0.1:7420", "http://", "http://a@b", "http://a/b", "http://a\r\nX: y"] {
            assert_eq!(authority(bad).err().map(|failure| failure.exit), Some(Exit::Usage), "{bad}");
        }
    }
}
