//! One run under strace: what it called, what was made of one of the calls, and how it ended.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::points::{Fault, Point};

/// Calls after which something stays on disk that was not there, or is gone; and the last call of all.
const CALLS: &str = "write,pwrite64,writev,pwritev,pwritev2,copy_file_range,ftruncate,fallocate,openat,mkdir,mkdirat,link,linkat,\
                     rename,renameat,renameat2,unlink,unlinkat,fsync,fdatasync,syncfs,exit_group";

pub struct Call {
    pub thread: String,
    pub name: String,
    /// What it is about: the path of its descriptor, or its paths, made absolute.
    pub paths: Vec<PathBuf>,
    /// Its arguments as strace shows them.
    pub shown: String,
    pub succeeded: bool,
    /// Failed by us.
    pub injected: bool,
}

pub struct Ended {
    /// None: killed.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    /// In the order of their ends. A call before which the process was killed is not among them.
    pub calls: Vec<Call>,
}

/// Runs `command` under strace, which writes to `log`, with a fault at a point.
pub fn run(command: &Command, log: &Path, fault: Option<&(Point, Fault)>) -> Ended {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "0", "-o"]).arg(log).args(["-e", &format!("trace={CALLS}")]);
    if let Some((point, fault)) = fault {
        strace.args(["-e", &format!("inject={}:{}:when={}", point.call, fault.injection(), point.number)]);
    }
    strace.arg(command.get_program()).args(command.get_args());
    strace.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    strace.current_dir(command.get_current_dir().unwrap_or(Path::new("/"))).stdin(std::process::Stdio::null());
    let output = strace.output().expect("strace is there (package strace, which scripts/test installs)");
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    let ended = Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        calls: calls(&text),
    };
    assert!(ended.code.is_some() || output.status.signal() == Some(9), "{:?}: {}", output.status, ended.err);
    assert!(!text.is_empty(), "strace saw nothing; may it trace here? {}", ended.err);
    ended
}

fn calls(log: &str) -> Vec<Call> {
    let mut unfinished = std::collections::HashMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, begun);
            continue;
        }
        let whole = match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, end)) => unfinished.remove(thread).unwrap_or_default().to_owned() + end,
            None => rest.to_owned(),
        };
        calls.extend(call(thread, &whole));
    }
    calls
}

fn call(thread: &str, text: &str) -> Option<Call> {
    let (call, result) = text.rsplit_once(" = ")?;
    let (name, arguments) = call.split_once('(')?;
    let arguments = arguments.trim_end().trim_end_matches(')');
    if result.starts_with('?') && name != "exit_group" {
        return None;
    }
    Some(Call {
        thread: thread.to_owned(),
        name: name.to_owned(),
        paths: paths(name, arguments),
        shown: arguments.to_owned(),
        succeeded: !result.starts_with('-'),
        injected: result.contains("(INJECTED)"),
    })
}

/// Descriptors are shown with their paths in angle brackets; a name after one is below it.
fn paths(name: &str, arguments: &str) -> Vec<PathBuf> {
    let descriptors = || arguments.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(path, _)| path);
    match name {
        "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "ftruncate" | "fallocate" | "fsync"
        | "fdatasync" | "syncfs" => return descriptors().take(1).map(PathBuf::from).collect(),
        "copy_file_range" => return descriptors().skip(1).map(PathBuf::from).collect(),
        _ => {}
    }
    let (mut found, mut below, mut rest) = (Vec::new(), PathBuf::new(), arguments);
    while let Some(at) = rest.find(['<', '"']) {
        let end = if rest[at..].starts_with('<') { '>' } else { '"' };
        let Some((inner, after)) = rest[at + 1..].split_once(end) else { break };
        match end {
            '>' => below = PathBuf::from(inner),
            _ => found.push(std::mem::take(&mut below).join(inner)),
        }
        rest = after;
    }
    found
}
