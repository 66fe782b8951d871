//! The one page: can we recover, what is worst, what runs, what is next.
//!
//! Owns its HTML. Refuses scripts, outside assets and unescaped text: everything from a policy, a file or the engine goes
//! through `esc`. State is told by word, shape and colour together.

use std::fmt::{self, Write};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::{SignedDuration, Timestamp};

use super::markup::{ago, badge, esc, grouped, points, shape, size, span, time};
use super::problem::Problem;
use super::runs::blocking;
use crate::catalog::{Filter, Run, RunKind, RunState};
use crate::daemon::engine::Progress;
use crate::daemon::{Core, PolicyStatus, Standing, Status};
use crate::names::hex;

const CSS: &str = include_str!("page.css");
const RUNS_SHOWN: usize = 10;
const DRILLS_SHOWN: usize = 5;
/// Bars and arrows are drawn, not loaded.
const LOGO: &str = "<svg class=\"logo\" viewBox=\"0 0 32 32\" aria-hidden=\"true\"><circle cx=\"16\" cy=\"16\" r=\"11\" \
    fill=\"none\" stroke=\"currentColor\" stroke-width=\"7\"/><circle cx=\"16\" cy=\"16\" r=\"11\" fill=\"none\" \
    class=\"bands\" stroke-width=\"7\" stroke-dasharray=\"8.64 8.64\" stroke-dashoffset=\"4.32\"/></svg>";

pub async fn show(State(core): State<Arc<Core>>) -> Result<Response, Problem> {
    let html = blocking(move || {
        let status = core.status()?;
        let of = |kind| Filter { kind: Some(kind), ..Filter::default() };
        let runs = core.catalog.runs(&of(RunKind::Backup), RUNS_SHOWN)?;
        let drills = core.catalog.runs(&of(RunKind::Drill), DRILLS_SHOWN)?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(crate::catalog::CatalogError::Random)?;
        let nonce = hex(&nonce);
        Ok((write(&status, &runs, &drills, &nonce), nonce))
    });
    let (html, nonce) = html.await?;
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, "DENY".to_owned()),
    ];
    Ok((headers, html).into_response())
}

fn level_of(state: RunState) -> &'static str {
    match state {
        RunState::Succeeded => "good",
        RunState::Failed | RunState::TimedOut => "bad",
        RunState::Partial | RunState::Cancelled | RunState::Interrupted => "attention",
        RunState::Queued | RunState::Running => "busy",
    }
}

fn percent(progress: &Progress) -> Option<u64> {
    let of = |done: u64, total: Option<u64>| {
        total.filter(|total| *total > 0).map(|total| (u128::from(done) * 100 / u128::from(total)).min(100) as u64)
    };
    of(progress.bytes, progress.bytes_total).or_else(|| of(progress.files, progress.files_total))
}

pub fn write(status: &Status, runs: &[Run], drills: &[Run], nonce: &str) -> String {
    let mut html = String::with_capacity(32 << 10);
    // Writing to a string cannot fail.
    let _ = compose(&mut html, status, runs, drills, nonce);
    html
}

fn compose(html: &mut String, status: &Status, runs: &[Run], drills: &[Run], nonce: &str) -> fmt::Result {
    let now = status.now;
    let level = status.level.as_str();
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta http-equiv=\"refresh\" content=\"30\">\
         <title>{} · Lifeboat on {}</title><style nonce=\"{nonce}\">{CSS}</style></head><body>",
        esc(&status.sentence),
        esc(&status.host),
    )?;
    write!(
        html,
        "<header><div class=\"brand\">{LOGO}<b>Lifeboat</b></div><ul class=\"facts\"><li>{}</li><li>{}</li>\
         <li>up {}</li><li>version {}</li></ul></header>\n<main>",
        esc(&status.host),
        now.strftime("%Y-%m-%d %H:%M UTC"),
        span(now.duration_since(status.started)),
        env!("CARGO_PKG_VERSION"),
    )?;
    write!(
        html,
        "<section class=\"answer {level}\">{}<div><h2>Can we recover?</h2><h1>{}</h1><p class=\"tally\">",
        shape(level),
        esc(&status.sentence)
    )?;
    tally(html, status)?;
    html.push_str("</p></div></section>\n");
    troubles(html, status)?;
    tiles(html, status)?;
    policies(html, status)?;
    run_table(html, "Last backups", "No backup has been recorded yet.", runs, now)?;
    drill_table(html, drills, now)?;
    html.push_str(
        "</main>\n<footer>All times UTC unless a zone is named. This page renews itself every 30 s. \
         As data: <a href=\"/v1/status\">status</a>, <a href=\"/metrics\">metrics</a>.</footer>\n</body></html>\n",
    );
    Ok(())
}

fn tally(html: &mut String, status: &Status) -> fmt::Result {
    let mut words: Vec<(Standing, usize)> = Vec::new();
    for policy in &status.policies {
        match words.last_mut() {
            Some((standing, n)) if *standing == policy.standing => *n += 1,
            _ => words.push((policy.standing, 1)),
        }
    }
    for (standing, n) in words {
        write!(html, "<span class=\"{}\">{n} {}</span> ", standing.level().as_str(), standing.word().to_lowercase())?;
    }
    Ok(())
}

fn troubles(html: &mut String, status: &Status) -> fmt::Result {
    if let Some(rejected) = &status.loaded.rejected {
        write!(
            html,
            "<section class=\"trouble\">{}<div><b>The newest configuration was refused</b> {}; the one before stays in \
             force.<ul>",
            shape("bad"),
            ago(rejected.at, status.now)
        )?;
        for problem in rejected.problems.list.iter().take(5) {
            let place = &problem.place;
            write!(
                html,
                "<li><code>{} {}:{}</code> {}</li>",
                esc(problem.code),
                esc(&place.file),
                place.line,
                esc(&problem.message)
            )?;
        }
        let more = rejected.problems.list.len().saturating_sub(5);
        if more > 0 {
            write!(html, "<li>and {more} more</li>")?;
        }
        html.push_str("</ul></div></section>\n");
    }
    let health = status.health;
    for (wrong, sentence) in [
        (!health.alive, "The scheduler has stopped coming round: nothing new will begin."),
        (!health.recording, "The catalog takes no writes: runs cannot be recorded."),
        (health.stopping, "The daemon is stopping."),
    ] {
        if wrong {
            write!(html, "<section class=\"trouble\">{}<div><b>{sentence}</b></div></section>", shape("bad"))?;
        }
    }
    Ok(())
}

fn tiles(html: &mut String, status: &Status) -> fmt::Result {
    html.push_str("<section class=\"tiles\">");
    match status.worst() {
        Some(worst) => write!(
            html,
            "<div><h2>Worst</h2><p class=\"big\">{}</p><p>{} {}</p></div>",
            esc(worst.policy.name.as_str()),
            badge(worst.standing.level().as_str(), worst.standing.word()),
            esc(&worst.reason),
        )?,
        None => {
            html.push_str("<div><h2>Worst</h2><p class=\"big quiet\">nothing</p><p>no policy needs a person</p></div>")
        }
    }
    html.push_str("<div><h2>Running</h2>");
    if status.open.is_empty() {
        html.push_str("<p class=\"big quiet\">nothing</p>");
    }
    for (run, progress) in status.open.iter().take(4) {
        running(html, run, progress.as_ref(), status.now)?;
    }
    let more = status.open.len().saturating_sub(4);
    if more > 0 {
        write!(html, "<p>and {more} more</p>")?;
    }
    html.push_str("</div><div><h2>Next</h2>");
    match status.next() {
        Some((policy, at)) => write!(
            html,
            "<p class=\"big\">{}</p><p>{} · {}</p>",
            time(at, &format!("in {}", span(at.duration_since(status.now)))),
            esc(policy.policy.name.as_str()),
            local(policy, at),
        )?,
        None => html.push_str("<p class=\"big quiet\">nothing is scheduled</p>"),
    }
    html.push_str("</div><div><h2>Last proof</h2>");
    let proof = status
        .policies
        .iter()
        .filter_map(|entry| Some((entry, entry.memory.last_passed_drill.as_ref()?)))
        .max_by_key(|(_, drill)| drill.ended);
    match proof {
        Some((entry, drill)) => write!(
            html,
            "<p class=\"big\">{}</p><p>{} files of {} came back equal</p>",
            drill.ended.map(|at| ago(at, status.now)).unwrap_or_default(),
            drill.drill.map_or(0, |found| found.checked_files),
            esc(entry.policy.name.as_str()),
        )?,
        None => html.push_str("<p class=\"big quiet\">none yet</p><p>no drill has restored anything</p>"),
    }
    html.push_str("</div></section>\n");
    Ok(())
}

fn running(html: &mut String, run: &Run, progress: Option<&Progress>, now: Timestamp) -> fmt::Result {
    let since = run.started.map_or_else(|| "waits".to_owned(), |at| format!("for {}", span(now.duration_since(at))));
    write!(
        html,
        "<p class=\"run\">{} <b>{}</b> {} <span class=\"quiet\">{since}</span></p>",
        shape("busy"),
        esc(&run.policy),
        run.kind
    )?;
    let Some(progress) = progress else { return Ok(()) };
    if let Some(percent) = percent(progress) {
        write!(html, "<progress max=\"100\" value=\"{percent}\">{percent} %</progress>")?;
    }
    write!(
        html,
        "<p class=\"quiet\">{} · {} files · {}{}</p>",
        esc(progress.phase),
        grouped(progress.files),
        size(progress.bytes),
        progress.bytes_total.map(|total| format!(" of {}", size(total))).unwrap_or_default(),
    )
}

fn local(policy: &PolicyStatus, at: Timestamp) -> String {
    let zone = &policy.policy.zone;
    let text = at.to_zoned(zone.clone()).strftime("%a %d %b %H:%M").to_string();
    format!("{} {}", esc(&text), esc(zone.iana_name().unwrap_or("")))
}

fn policies(html: &mut String, status: &Status) -> fmt::Result {
    let now = status.now;
    html.push_str("<section><h2>Policies</h2>");
    if status.policies.is_empty() {
        html.push_str(
            "<p class=\"empty\">Nothing is configured. Write <code>[policy.NAME]</code> with <code>source</code>, \
             <code>repo</code>, <code>schedule</code> and <code>keep</code>, then reload the daemon.</p></section>\n",
        );
        return Ok(());
    }
    html.push_str(
        "<table><thead><tr><th>State</th><th>Policy</th><th>Last good point</th><th>Last drill</th><th>Last run</th>\
         <th>Next run</th><th>Keep</th></tr></thead><tbody>\n",
    );
    for entry in &status.policies {
        let policy = &entry.policy;
        write!(
            html,
            "<tr><td data-label=\"State\">{}</td><td data-label=\"Policy\"><b>{}</b>",
            badge(entry.standing.level().as_str(), entry.standing.word()),
            esc(policy.name.as_str())
        )?;
        for tag in policy.tags.iter().take(6) {
            write!(html, " <span class=\"tag\">{}</span>", esc(tag))?;
        }
        write!(html, "<small>{}</small></td><td data-label=\"Last good point\">", esc(&entry.reason))?;
        match &entry.memory.last_point {
            Some(point) => write!(
                html,
                "{}<small>{}\u{a0}files</small><small>{}</small><small>{}</small>",
                ago(point.frozen(), now),
                grouped(point.counts.files),
                size(point.counts.bytes),
                points(entry.memory.points),
            )?,
            None => html.push_str("<span class=\"quiet\">none</span>"),
        }
        html.push_str("</td><td data-label=\"Last drill\">");
        match &entry.memory.last_drill {
            Some(drill) => {
                let (level, word) = drill_verdict(drill);
                write!(html, "{} {}", badge(level, word), drill.ended.map(|at| ago(at, now)).unwrap_or_default())?;
                if let Some(found) = drill.drill {
                    write!(
                        html,
                        "<small>{} of {} files equal</small>",
                        found.checked_files.saturating_sub(found.mismatches),
                        found.checked_files + found.not_run
                    )?;
                }
            }
            None => html.push_str("<span class=\"quiet\">none</span>"),
        }
        html.push_str("</td><td data-label=\"Last run\">");
        match &entry.memory.last_backup {
            Some(run) => {
                let state = run.state.as_str().replace('_', " ");
                write!(html, "{} {}", badge(level_of(run.state), &state), ago(run.ended.unwrap_or(run.queued), now))?;
                if let Some(took) = took(run) {
                    write!(html, "<small>took {took}</small>")?;
                }
            }
            None => html.push_str("<span class=\"quiet\">none</span>"),
        }
        html.push_str("</td><td data-label=\"Next run\">");
        match (entry.open.iter().find(|run| run.kind == RunKind::Backup), entry.next) {
            (Some(run), _) => html.push_str(&badge("busy", run.state.as_str())),
            (None, Some(at)) => write!(
                html,
                "{}<small>{}</small>",
                time(at, &format!("in {}", span(at.duration_since(now)))),
                local(entry, at)
            )?,
            (None, None) => html.push_str("<span class=\"quiet\">never again</span>"),
        }
        write!(
            html,
            "</td><td class=\"keep\" data-label=\"Keep\">{}<small>not active yet</small></td></tr>",
            esc(&policy.keep.to_string())
        )?;
    }
    html.push_str("</tbody></table></section>\n");
    Ok(())
}

fn drill_verdict(drill: &Run) -> (&'static str, &'static str) {
    match drill.state {
        RunState::Queued | RunState::Running => ("busy", drill.state.as_str()),
        _ if drill.is_passed_drill() => ("good", "passed"),
        RunState::Failed | RunState::TimedOut => ("bad", "failed"),
        RunState::Cancelled | RunState::Interrupted => ("attention", drill.state.as_str()),
        RunState::Succeeded | RunState::Partial => ("attention", "inconclusive"),
    }
}

fn took(run: &Run) -> Option<String> {
    let took = run.ended?.duration_since(run.started?);
    let short = took < SignedDuration::from_secs(10) && !took.is_negative();
    Some(if short { format!("{:.1}\u{a0}s", took.as_secs_f64()) } else { span(took) })
}

/// A number, or a dash where a run never got as far as having one.
fn or_dash(known: bool, text: String) -> String {
    if known { text } else { "–".to_owned() }
}

/// Why a run ended as it did, and what it came upon.
fn remark(run: &Run) -> String {
    let mut text = run.error.as_deref().map(|error| esc(error).to_string()).unwrap_or_default();
    for (n, what) in [(run.counts.unreadable, "unreadable"), (run.counts.vanished, "vanished")] {
        if n > 0 {
            text = format!("{text} <span class=\"quiet\">{n} {what}</span>");
        }
    }
    if run.missed > 0 {
        text = format!("{text} <span class=\"quiet\">makes up for {} missed</span>", run.missed);
    }
    if run.retry_of.is_some() {
        text.push_str(" <span class=\"quiet\">repeats an interrupted run</span>");
    }
    text
}

fn run_table(html: &mut String, title: &str, none: &str, runs: &[Run], now: Timestamp) -> fmt::Result {
    write!(html, "<section><h2>{title}</h2>")?;
    if runs.is_empty() {
        return write!(html, "<p class=\"empty\">{none}</p></section>");
    }
    html.push_str(
        "<table><thead><tr><th>State</th><th>Policy</th><th>Began</th><th>Took</th><th class=\"n\">Files</th>\
         <th class=\"n\">Size</th><th class=\"n\">New</th><th class=\"n\">Stored</th><th>Remark</th></tr></thead><tbody>\n",
    );
    for run in runs {
        let counts = run.counts;
        let known = run.snapshot.is_some() || counts.files > 0;
        write!(
            html,
            "<tr><td data-label=\"State\">{}</td><td data-label=\"Policy\"><b>{}</b></td><td data-label=\"Began\">{}</td>\
             <td data-label=\"Took\">{}</td><td class=\"n\" data-label=\"Files\">{}</td>\
             <td class=\"n\" data-label=\"Size\">{}</td><td class=\"n\" data-label=\"New\">{}</td>\
             <td class=\"n\" data-label=\"Stored\">{}</td><td data-label=\"Remark\">{}</td></tr>",
            badge(level_of(run.state), &run.state.as_str().replace('_', " ")),
            esc(&run.policy),
            ago(run.frozen(), now),
            took(run).unwrap_or_else(|| "–".to_owned()),
            or_dash(known, grouped(counts.files)),
            or_dash(known, size(counts.bytes)),
            or_dash(known, size(counts.new_bytes)),
            or_dash(known, size(counts.stored_bytes)),
            remark(run),
        )?;
    }
    html.push_str("</tbody></table></section>\n");
    Ok(())
}

fn drill_table(html: &mut String, drills: &[Run], now: Timestamp) -> fmt::Result {
    html.push_str("<section><h2>Last drills</h2>");
    if drills.is_empty() {
        html.push_str(
            "<p class=\"empty\">No drill yet. <code>lifeboat drill run POLICY --wait</code> restores a sample and compares \
             it.</p></section>\n",
        );
        return Ok(());
    }
    html.push_str(
        "<table><thead><tr><th>Result</th><th>Policy</th><th>Began</th><th>Took</th><th class=\"n\">Compared</th>\
         <th class=\"n\">Size</th><th class=\"n\">Different</th><th class=\"n\">Not checked</th><th>Remark</th></tr></thead>\
         <tbody>\n",
    );
    for run in drills {
        let (level, word) = drill_verdict(run);
        let found = run.drill.unwrap_or_default();
        write!(
            html,
            "<tr><td data-label=\"Result\">{}</td><td data-label=\"Policy\"><b>{}</b></td><td data-label=\"Began\">{}</td>\
             <td data-label=\"Took\">{}</td><td class=\"n\" data-label=\"Compared\">{}</td>\
             <td class=\"n\" data-label=\"Size\">{}</td><td class=\"n\" data-label=\"Different\">{}</td>\
             <td class=\"n\" data-label=\"Not checked\">{}</td><td data-label=\"Remark\">{}</td></tr>",
            badge(level, word),
            esc(&run.policy),
            ago(run.frozen(), now),
            took(run).unwrap_or_else(|| "–".to_owned()),
            or_dash(run.drill.is_some(), grouped(found.checked_files)),
            or_dash(run.drill.is_some(), size(found.checked_bytes)),
            or_dash(run.drill.is_some(), grouped(found.mismatches)),
            or_dash(run.drill.is_some(), grouped(found.not_run)),
            remark(run),
        )?;
    }
    html.push_str("</tbody></table></section>\n");
    Ok(())
}
