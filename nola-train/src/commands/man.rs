//! `nola-train man`: manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueHint};
use clap_mangen::Man;

use super::{Cli, print_line, print_part};
use crate::Error;

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write the page of the program and one of each command into this folder, such as `~/.local/share/man/man1`.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
}

pub fn run(args: &ManArgs) -> Result<(), Error> {
    // The pages are the help.
    let command = Cli::command().disable_help_subcommand(true);
    let command = command.mut_subcommands(|command| command.disable_help_subcommand(true));
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page).expect("memory takes every page");
        return Ok(print_part(&String::from_utf8_lossy(&page))?);
    };
    let output = |source| Error::Output { path: folder.clone(), source };
    std::fs::create_dir_all(folder).map_err(output)?;
    clap_mangen::generate_to(command, folder).map_err(output)?;
    Ok(print_line(&format!("manual pages  {}", folder.display()))?)
}
