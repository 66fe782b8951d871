//! The command line: arguments in, exit code out.
//!
//! Owns verbs, flags, and what people see of both. Refuses to do the work: each verb turns its arguments into a request, hands
//! it to the journey of that name, and shows the report. Data go to standard output, talk to standard error; a verb appears
//! here when it works.

mod backup;
mod client;
mod cloud;
mod completions;
mod config;
mod daemon;
mod diff;
mod doctor;
mod dump;
mod exit;
mod failure;
mod find;
mod forget;
mod hold;
mod init;
mod intake;
mod interrupt;
mod judged;
mod key;
mod log;
mod ls;
mod man;
mod memory;
mod moment;
mod open;
mod owners;
mod pick;
mod place;
mod progress;
mod prune;
mod restore;
mod run;
mod screen;
mod secrets;
mod select;
mod snapshots;
mod stats;
mod status;
mod text;
mod token;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;
use failure::Result;
use screen::Screen;

/// Backups that prove they restore.
#[derive(Parser)]
#[command(name = "lifeboat", version, after_help = exit::HELP, max_term_width = 100, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags that stand anywhere.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// The repository: a directory, or a bucket as s3://, gs:// or az://BUCKET/PREFIX
    #[arg(long, global = true, value_name = "URL", env = "LIFEBOAT_REPO", hide_env_values = true)]
    repo: Option<String>,
    /// A key file or recovery sheet; `-` reads it from standard input [env: LIFEBOAT_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file with the passphrase of a key slot; `-` reads it from standard input
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// No progress and no notes; warnings and errors stay
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Whole ids in tables, and events of interest; twice for what is of use to developers
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print one JSON document on standard output, and a JSON object for each message on standard error
    #[arg(long, global = true)]
    json: bool,
    /// No colour (so does NO_COLOR in the environment)
    #[arg(long, global = true)]
    no_color: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a repository
    Init(init::Arguments),
    /// Save files and directories as a snapshot
    Backup(Box<backup::Arguments>),
    /// List snapshots
    Snapshots(snapshots::Arguments),
    /// List what a snapshot holds
    Ls(ls::Arguments),
    /// Find files in all snapshots
    Find(find::Arguments),
    /// Show what changed between snapshots, or in a file
    Diff(diff::Arguments),
    /// Print a file's content, or a directory as an archive
    Dump(dump::Arguments),
    /// Bring files back from a snapshot
    Restore(Box<restore::Arguments>),
    /// Let snapshots go, by rules or by their ids
    Forget(Box<forget::Arguments>),
    /// Take forgotten snapshots back
    Undelete(hold::Undelete),
    /// Keep snapshots whatever rules say
    Hold(hold::Hold),
    /// Free what no snapshot needs any more
    Prune(prune::Arguments),
    /// Prove that what is stored is what was stored
    Verify(verify::Arguments),
    /// Tell how much the repository holds
    Stats(stats::Arguments),
    /// Look at everything that backups and restores rest on
    Doctor,
    /// Keys: who may open, read and write
    #[command(subcommand)]
    Key(key::Verb),
    /// Check and explain configuration files
    #[command(subcommand)]
    Config(config::Verb),
    /// Run the service: schedules, drills, and the HTTP endpoint
    Daemon(daemon::Arguments),
    /// Tell whether the running daemon could recover its policies now
    Status(status::Arguments),
    /// Runs of the daemon: start, list, show, cancel
    #[command(subcommand)]
    Run(run::Verb),
    /// Drills of the daemon: prove that a policy restores
    #[command(subcommand)]
    Drill(run::DrillVerb),
    /// Tokens for the daemon's HTTP endpoint
    #[command(subcommand)]
    Token(token::Verb),
    /// Print what a shell needs to complete commands
    Completions(completions::Arguments),
    /// Print the manual, or write its pages
    Man(man::Arguments),
}

/// What every verb gets.
pub struct Context {
    globals: Globals,
    screen: Screen,
}

/// Runs one command.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Clap tells of mistakes before anything is parsed.
    let has = |flag: &str| arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == flag);
    let parsed = parse(&arguments, screen::color_choice(has("--no-color")));
    let Arguments { globals, verb } = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            if error.use_stderr() && has("--json") {
                let screen = Screen::new(true, false, 0, true);
                screen.fail(&failure::of_arguments(&error));
                return Exit::Usage.into();
            }
            // Help goes to standard output and is done; a mistake goes to standard error. A closed pipe changes neither.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let screen = Screen::new(globals.json, globals.quiet, globals.verbose, globals.no_color);
    match &verb {
        Verb::Daemon(_) => log::of_the_daemon(&screen),
        _ => log::of_a_command(&screen),
    }
    let context = Context { globals, screen };
    let result = verb.run(&context).and_then(|exit| context.screen.flush().map(|()| exit));
    context.screen.wipe();
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // What was printed so far is still true.
            let _ = context.screen.flush();
            context.screen.fail(&failure);
            failure.exit.into()
        }
    }
}

/// The whole command line, as completions and manual describe it.
fn command() -> clap::Command {
    use clap::CommandFactory;
    Arguments::command()
}

fn parse(arguments: &[OsString], color: clap::ColorChoice) -> std::result::Result<Arguments, clap::Error> {
    use clap::{CommandFactory, FromArgMatches};
    let mut command = Arguments::command().color(color);
    let matches = command.try_get_matches_from_mut(arguments)?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

impl Verb {
    fn run(self, context: &Context) -> Result<Exit> {
        match self {
            Verb::Init(arguments) => init::run(context, &arguments),
            Verb::Backup(arguments) => backup::run(context, *arguments),
            Verb::Snapshots(arguments) => snapshots::run(context, &arguments),
            Verb::Ls(arguments) => ls::run(context, &arguments),
            Verb::Find(arguments) => find::run(context, &arguments),
            Verb::Diff(arguments) => diff::run(context, &arguments),
            Verb::Dump(arguments) => dump::run(context, &arguments),
            Verb::Restore(arguments) => restore::run(context, *arguments),
            Verb::Forget(arguments) => forget::run(context, &arguments),
            Verb::Undelete(arguments) => hold::undelete(context, &arguments),
            Verb::Hold(arguments) => hold::hold(context, &arguments),
            Verb::Prune(arguments) => prune::run(context, &arguments),
            Verb::Verify(arguments) => verify::run(context, &arguments),
            Verb::Stats(arguments) => stats::run(context, &arguments),
            Verb::Doctor => doctor::run(context),
            Verb::Key(verb) => key::run(context, &verb),
            Verb::Config(verb) => config::run(context, &verb),
            Verb::Daemon(arguments) => daemon::run(context, &arguments),
            Verb::Status(arguments) => status::run(context, &arguments),
            Verb::Run(verb) => run::run(context, &verb),
            Verb::Drill(verb) => run::drill(context, &verb),
            Verb::Token(verb) => token::run(context, &verb),
            Verb::Completions(arguments) => completions::run(context, &arguments),
            Verb::Man(arguments) => man::run(context, &arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_contradict_nothing() {
        Arguments::command().debug_assert();
    }

    fn leaves(command: &clap::Command, above: &str, found: &mut Vec<String>) {
        for sub in command.get_subcommands() {
            let name = format!("{above} {}", sub.get_name()).trim().to_owned();
            if sub.has_subcommands() { leaves(sub, &name, found) } else { found.push(name) }
        }
    }

    #[test]
    fn the_page_of_documents_knows_every_command_and_no_other() {
        let page = include_str!("JSON.md");
        let (sections, without) = page.split_once("\n## Commands without a document\n").unwrap();
        let mut known: Vec<&str> =
            without.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let headings = sections.lines().filter_map(|line| line.strip_prefix("## ")).filter(|name| *name != "Errors");
        known.extend(headings.map(|name| name.split(" --").next().unwrap()));
        // Commands that share a section are named under its heading.
        let also = sections.lines().filter(|line| line.starts_with("Also of `"));
        known.extend(also.flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|name| !name.starts_with("--")));
        let mut commands = Vec::new();
        leaves(&command(), "", &mut commands);
        let unknown: Vec<&String> = commands.iter().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(unknown.is_empty() && commands.len() > 20, "JSON.md does not say what {unknown:?} print");
        known.retain(|name| !commands.iter().any(|command| command == name));
        assert!(known.is_empty(), "JSON.md describes what is no command: {known:?}");
    }
}
