//! Shell completions and man pages, made from the commands themselves.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::installation::file_failure;
use crate::output::{Output, stdout, written};

/// Of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory of the pages; it is made if there is none
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Prints the completions of a shell.
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "perennial", &mut script);
    written(std::io::Write::write_all(&mut stdout(), &script))
}

/// Writes a page for each command.
pub(crate) fn man(args: &ManArgs, command: Command, output: Output) -> Result<(), Failure> {
    let directory = &args.to;
    std::fs::create_dir_all(directory).map_err(|error| file_failure("making", directory, &error))?;
    clap_mangen::generate_to(command, directory)
        .map_err(|error| file_failure("writing to", directory, &error))?;
    output.text(&format!("written: man pages in {}", directory.display()))
}
