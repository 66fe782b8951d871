//! A running daemon: the shipped binary with a configuration of its own, and a plain HTTP client.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::repo::noise;
use super::shipped::{good, lifeboat};

/// For whatever has to happen, on however slow a machine. No claim is made about how soon it does.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

/// Tries until there is an answer.
#[track_caller]
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(PAUSE);
    }
}

/// A configuration, its repository and its source. The policy `hand` runs when it is asked to.
pub struct House {
    dir: tempfile::TempDir,
}

impl House {
    pub fn new() -> Self {
        let house = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(house.path("source/sub")).unwrap();
        fs::create_dir_all(house.path("etc/policies")).unwrap();
        for n in 0..20 {
            fs::write(house.path(&format!("source/sub/file-{n}")), noise(3000 + n, n as u64)).unwrap();
        }
        let (repository, key) = (house.path("repository"), house.path("admin.key"));
        good(lifeboat(&house.path(""), ["init", "--repo"]).arg(&repository).arg("--key-out").arg(&key));
        house.policy("hand", "@yearly");
        house
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub fn policy(&self, name: &str, schedule: &str) {
        let source = self.path("source");
        let text = format!(
            "[policy.{name}]\nsource = {source:?}\nrepo = \"main\"\nschedule = \"{schedule}\"\nkeep = \"7d\"\ndrill = {{ files = 1000 }}\n"
        );
        fs::write(self.path(&format!("etc/policies/{name}.toml")), text).unwrap();
    }

    fn configure(&self, file: &Path, port: u16) {
        let place = |name| self.path(name);
        let text = format!(
            "[daemon]\nlisten = \"127.0.0.1:{port}\"\nstate = {:?}\ncache = {:?}\nsocket = {:?}\n\n[repository.main]\nurl = {:?}\nkey = \"file:{}\"\n",
            place("state"),
            place("cache"),
            place("api.sock"),
            place("repository"),
            place("admin.key").display(),
        );
        fs::write(file, text).unwrap();
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(&self) -> Daemon {
        // A port that was free a moment ago may be somebody's by now: then the next one.
        for _ in 0..5 {
            let (mut child, port) = self.spawn();
            let daemon = until("readiness", || {
                if child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                get(port, "/readyz").filter(|answer| answer.status == 200).map(|_| true)
            });
            if daemon {
                return Daemon { child, port };
            }
        }
        panic!("the daemon did not start: {}", fs::read_to_string(self.path("log")).unwrap());
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(&self) -> (Child, u16) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.configure(&self.path("etc/lifeboat.toml"), port);
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = lifeboat(&self.path(""), ["daemon", "--config"]);
        command.arg(self.path("etc")).stdout(Stdio::null()).stderr(log);
        (command.spawn().unwrap(), port)
    }

    /// A new token of this role.
    pub fn token(&self, role: &str) -> String {
        let mut command = lifeboat(&self.path(""), ["token", "create", "--name", role, "--role", role, "--config"]);
        good(command.arg(self.path("etc"))).trim().to_owned()
    }
}

/// Killed when it is dropped, if it still lives.
pub struct Daemon {
    child: Child,
    pub port: u16,
}

impl Daemon {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it at once: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and waits.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        until("the daemon's end", || self.child.try_wait().unwrap())
    }

    pub fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.ask("GET", path, token, &[], "")
    }

    pub fn post(&self, path: &str, token: Option<&str>, body: &str) -> Answer {
        self.ask("POST", path, token, &[("Content-Type", "application/json")], body)
    }

    pub fn ask(&self, method: &str, path: &str, token: Option<&str>, headers: &[(&str, &str)], body: &str) -> Answer {
        let token = token.map(|token| format!("Bearer {token}"));
        let mut headers = headers.to_vec();
        headers.extend(token.as_deref().map(|token| ("Authorization", token)));
        ask(self.port, method, path, &headers, body).expect("the daemon answers")
    }

    pub fn status(&self) -> Value {
        let answer = self.get("/v1/status", None);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// What the status says of one policy.
    pub fn policy(&self, name: &str) -> Value {
        let status = self.status();
        let policies = status["policies"].as_array().unwrap();
        policies.iter().find(|policy| policy["id"] == name).unwrap_or_else(|| panic!("{status}")).clone()
    }

    /// Asks for a run or a drill, and follows it to its end.
    #[track_caller]
    pub fn run(&self, path: &str, token: &str) -> Value {
        let accepted = self.post(path, Some(token), "{}");
        assert_eq!(accepted.status, 202, "{accepted:?}");
        let location = accepted.header("location").expect("a Location").to_owned();
        self.ended(&location, token)
    }

    #[track_caller]
    pub fn ended(&self, location: &str, token: &str) -> Value {
        until("the run's end", || {
            let run = self.get(location, Some(token));
            assert_eq!(run.status, 200, "{run:?}");
            (!run.body["ended_at"].is_null()).then_some(run.body)
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

fn get(port: u16, path: &str) -> Option<Answer> {
    ask(port, "GET", path, &[], "")
}

/// One request on one connection; none if nobody answers. A Host among `headers` replaces ours.
fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: 127.0.0.1:{port}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap_or(Value::Null) })
}
