//! `nola-train man`: manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueHint};
use clap_mangen::Man;
use nola_core::folder::{create_folders, write_atomically};

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
    create_folders(folder).map_err(output)?;
    // Other programs have pages there, too: each of these is replaced as a whole.
    let scratch = tempfile::tempdir().map_err(output)?;
    clap_mangen::generate_to(command, scratch.path()).map_err(output)?;
    for page in std::fs::read_dir(scratch.path()).map_err(output)? {
        let page = page.map_err(output)?;
        let bytes = std::fs::read(page.path()).map_err(output)?;
        let written = write_atomically(&folder.join(page.file_name()), &bytes);
        written.map_err(|error| Error::from(error).about_output())?;
    }
    Ok(print_line(&format!("manual pages  {}", folder.display()))?)
}
