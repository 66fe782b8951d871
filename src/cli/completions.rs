//! `lifeboat completions`: what a shell needs to complete this command line.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use super::exit::Exit;
use super::failure::Result;
use super::{Context, command};

const HELP: &str = "\
Examples:
  lifeboat completions bash > /usr/share/bash-completion/completions/lifeboat
  lifeboat completions zsh > /usr/share/zsh/vendor-completions/_lifeboat
  lifeboat completions fish > ~/.config/fish/completions/lifeboat.fish";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    shell: Known,
}

#[derive(Clone, Copy, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let shell = match arguments.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "lifeboat", &mut script);
    context.screen.raw(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
