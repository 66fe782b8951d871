//! `lifeboat man`: the manual, made from the same words as --help.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;
use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::text::{path_json, plural};
use super::{Context, command};

const HELP: &str = "\
Examples:
  lifeboat man | man -l -
  lifeboat man --out /usr/local/share/man/man1
  man lifeboat-backup";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Write a page for each command into DIR, which is made if need be [default: print the main page]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let screen = &context.screen;
    let mut whole = command().disable_help_subcommand(true);
    whole.build();
    let Some(directory) = &arguments.out else {
        let page = page(&whole).map_err(|cause| Failure::new(Exit::Failed, cause))?;
        screen.raw(&String::from_utf8_lossy(&page))?;
        return Ok(Exit::Done);
    };
    fs::create_dir_all(directory).map_err(|cause| Failure::file("create", directory, cause))?;
    let mut pages = Vec::new();
    write(&whole, directory, &mut pages)?;
    if screen.json {
        let shown: Vec<_> = pages.iter().map(|path| path_json(path)).collect();
        screen.document(&json!({ "pages": shown }))?;
    } else {
        screen.say(format!("wrote {} to {}", plural(pages.len() as u64, "page", "pages"), directory.display()));
    }
    Ok(Exit::Done)
}

/// The pages of a command and of all beneath it.
fn write(command: &Command, directory: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    let path = directory.join(Man::new(command.clone()).get_filename());
    let failed = |cause| Failure::file("write", &path, cause);
    let bytes = page(command).map_err(failed)?;
    fs::write(&path, bytes).map_err(failed)?;
    pages.push(path);
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).try_for_each(|sub| write(sub, directory, pages))
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .manual("Lifeboat")
        .source(concat!("Lifeboat ", env!("CARGO_PKG_VERSION")))
        .render(&mut page)?;
    Ok(page)
}
