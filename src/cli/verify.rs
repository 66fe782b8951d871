//! `lifeboat verify`: is what is stored what was stored?

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::text::{count, duration, plural};
use super::{Context, interrupt, open, progress};
use crate::bucket::Traffic;
use crate::repository::Errand;
use crate::seal::key::Role;
use crate::units::ByteCount;
use crate::verify::{self, Control, Level, Report, Request, Sample, Severity};

#[derive(clap::Args)]
pub struct Arguments {
    /// structure: listing, index, small objects; metadata: every tree too; data: every stored byte
    #[arg(long, value_name = "LEVEL", default_value = "structure")]
    level: Level,
    /// At level data, read only so many packs, chosen by chance: a share such as 5%, or a number
    #[arg(long, value_name = "SHARE")]
    sample: Option<Sample>,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    if arguments.sample.is_some() && arguments.level != Level::Data {
        return Err(verify::Error::SampleWithoutData(arguments.level).into());
    }
    let repository = open::repository_for(globals, screen, Errand::Verify)?;
    let control = Control::default();
    interrupt::watch(control.cancel.clone())?;
    let request = Request { level: arguments.level, sample: arguments.sample, ..Request::default() };
    let watched = &control.progress;
    let look = || progress::Seen {
        bytes: watched.bytes.load(Ordering::Relaxed),
        bytes_total: Some(watched.bytes_total.load(Ordering::Relaxed)).filter(|total| *total > 0),
        guessed: false,
        bytes_new: None,
        things: plural(watched.packs.load(Ordering::Relaxed), "pack", "packs"),
        problems: watched.findings.load(Ordering::Relaxed),
        current: String::new(),
    };
    let report = progress::while_running(screen, &|| None, &look, || verify::run(&repository, &request, &control))?;
    show(context, &report, repository.role() == Role::Writer, repository.store.traffic())
}

/// A writer key reads no index of other groups, so it cannot tell their packs from leftovers.
fn show(context: &Context, report: &Report, blind: bool, requests: Option<Traffic>) -> Result<Exit> {
    let screen = &context.screen;
    if screen.json {
        let mut document = serde_json::to_value(report).map_err(|error| Failure::new(Exit::Failed, error))?;
        if let Value::Object(fields) = &mut document {
            fields.insert("sound".to_owned(), json!(report.is_sound()));
            fields.insert("requests".to_owned(), json!(requests));
        }
        screen.document(&document)?;
    } else {
        for finding in &report.findings {
            let word = match finding.severity {
                Severity::Damage => "DAMAGE ",
                Severity::Warning => "warning",
            };
            screen.line(format!("{word}  {finding}"))?;
        }
        if report.findings_omitted > 0 {
            screen.line(format!("and {} more findings", count(report.findings_omitted)))?;
        }
        screen.line(format!(
            "checked {} ({}): {}, {}, {}",
            report.level.as_str(),
            duration(report.seconds),
            plural(report.snapshots, "snapshot", "snapshots"),
            plural(report.objects, "object", "objects"),
            plural(report.packs, "pack", "packs"),
        ))?;
        screen.line(format!(
            "read    {}; {} read whole; {} named again",
            ByteCount(report.bytes_read),
            plural(report.packs_read, "pack", "packs"),
            plural(report.chunks_checked, "chunk", "chunks"),
        ))?;
        if let Some(sampled) = &report.sampled {
            screen.line(&sampled.statement)?;
        }
        if report.unreferenced_packs > 0 {
            let whose = match blind {
                true => "that no index of this key's group names: other groups', or left by interrupted backups",
                false => "that no index names: left by interrupted backups, no damage",
            };
            screen.line(format!(
                "{} ({}) {whose}",
                plural(report.unreferenced_packs, "pack", "packs"),
                ByteCount(report.unreferenced_bytes)
            ))?;
        }
    }
    for note in &report.notes {
        screen.say(format!("note: {note}"));
    }
    screen.flush()?;
    if report.is_sound() {
        screen.say("no damage was found");
        return Ok(Exit::Done);
    }
    let damaged = report.damaged() as u64 + report.findings_omitted;
    let sentence = format!("{} damaged", plural(damaged, "object is", "objects are"));
    Err(Failure::new(Exit::Damage, sentence)
        .hint("restore what is whole with `lifeboat restore`, and keep the store as it is until the cause is known"))
}
