//! The binary `perennial`: commands, configuration, output, exit codes. The only place that prints.
//!
//! A command is a thin function over the libraries. Commands that change something send a message to the
//! submissions queue; commands that read ask the journal ([`perennial_views`]). Both work whether or not a
//! server is running.
//!
//! | folder | what |
//! | --- | --- |
//! | `installation/` | what a configuration names, opened |
//! | `output/` | answers for people, and the only functions that print |
//! | `commands/` | one file a command: arguments, a question or a submission, an answer |

mod commands;
mod failure;
mod installation;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[cfg(feature = "region")]
use crate::commands::region;
use crate::commands::{
    address_pool, audit, demo, doctor, journal, node, pages, policy, schema, serve, status, workflow,
};
use crate::failure::{EXIT_CODES, Failure};
use crate::installation::Installation;
use crate::installation::config::{Config, Overrides};
use crate::output::paint::Color;
use crate::output::{Format, Output};

/// The heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// The width of help in a pipe.
const HELP_WIDTH: usize = 80;

/// Keeps stateful nodes alive on AWS spot capacity: the node comes back with its volumes and its address.
#[derive(Debug, Parser)]
#[command(name = "perennial", version, about, after_help = EXIT_CODES, after_long_help = LONG_HELP)]
struct Cli {
    /// The configuration file [default: ./perennial.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "PERENNIAL_CONFIG",
        hide_env = true,
        help_heading = GLOBAL
    )]
    config: Option<PathBuf>,
    /// The directory of journal and queues [default: ./.perennial]
    #[arg(long, global = true, value_name = "DIR", help_heading = GLOBAL)]
    data: Option<PathBuf>,
    /// The output format
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        env = "PERENNIAL_OUTPUT",
        hide_env = true,
        help_heading = GLOBAL
    )]
    output: Format,
    /// Show user data as well, which may hold passwords
    #[arg(long, global = true)]
    secrets: bool,
    /// Colours: on a terminal, unless NO_COLOR is set; always; or never
    #[arg(long, global = true, value_enum, default_value_t, hide_possible_values = true, value_name = "WHEN", help_heading = GLOBAL)]
    color: Color,
    /// Log more to stderr (-vv: still more)
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

/// The end of `perennial --help`.
const LONG_HELP: &str = "\
Configuration: perennial.toml, overridden by PERENNIAL_… variables, overridden
by flags. Keys: owner, data_dir, cloud (ec2 | region | sim), sweep_every_s,
reserve_percent, log, [queues] kind (embedded | sqs), submissions,
interruptions, steps, [sim] seed, speed; docs/cli.md explains them. AWS region, credentials and endpoint
follow AWS's own conventions.

Exit codes: 0 done · 1 the answer is no (rejected, stuck, damaged) · 2 usage or
input · 3 configuration · 4 environment (journal locked or missing, AWS out of
reach) · 5 outcome not yet known · 70 bug

Begin with: perennial demo";

#[derive(Debug, Subcommand)]
enum Command {
    /// See three simulated nodes survive an interruption, offline
    #[command(after_help = "Example: perennial demo --keep /tmp/demo")]
    Demo(demo::DemoArgs),
    /// Run the server: the engine, its queues and its workers
    #[command(after_help = "Example: perennial --data /var/lib/perennial serve")]
    Serve,
    /// Declare, show and change nodes
    #[command(subcommand, after_help = "Example: perennial node apply -f db-1.yaml --wait")]
    Node(node::NodeCommand),
    /// Declare and show address pools: addresses that nodes share
    #[command(subcommand, after_help = "Example: perennial pool apply -f brokers.yaml --wait")]
    Pool(address_pool::PoolCommand),
    /// List, watch, resume and cancel workflows
    #[command(subcommand, after_help = "Example: perennial workflow watch db-1.3")]
    Workflow(workflow::WorkflowCommand),
    /// List submissions, and show what became of one
    #[command(subcommand, after_help = "Example: perennial submission list --rejected")]
    Submission(audit::SubmissionCommand),
    /// Who or what asked for what, when, and what became of it
    #[command(
        after_help = "Example: perennial audit db-1 --since 2026-10-01\n         perennial audit --by alice --what node.delete --format csv\n         perennial audit --since 30d --format html > audit.html"
    )]
    Audit(audit::AuditArgs),
    /// Verify, export and back up the journal
    #[command(subcommand, after_help = "Example: perennial journal verify")]
    Journal(journal::JournalCommand),
    /// Show what is stuck or down in a few lines; an exit code for cron
    #[command(after_help = "Example: perennial status --quiet --fail-on stuck,down,server")]
    Status(status::StatusArgs),
    /// Check configuration, journal, queues and cloud; say what to fix
    #[command(after_help = "Example: perennial doctor -f db-1.yaml")]
    Doctor(doctor::DoctorArgs),
    /// Print the IAM policy that the engine needs, filled in
    #[command(
        after_help = "Example: perennial policy --owner prod-eu --account 111122223333 --role db-node\n         perennial policy --need queue-of-events --account 111122223333 --region eu-central-1"
    )]
    Policy(policy::PolicyArgs),
    /// Run a simulated region for any AWS client, or act on one
    #[cfg(feature = "region")]
    #[command(after_help = "Example: perennial region --port 4566 --speed 10")]
    Region(Box<region::RegionArgs>),
    /// Print the completions of a shell
    #[command(after_help = "Example: perennial completions bash > /etc/bash_completion.d/perennial")]
    Completions(pages::CompletionsArgs),
    /// Write the man pages
    #[command(after_help = "Example: perennial man --to /usr/local/share/man/man1")]
    Man(pages::ManArgs),
    /// Print the JSON Schema of a file, a message or an output
    #[command(after_help = "Example: perennial schema node > node.schema.json")]
    Schema(schema::SchemaArgs),
}

impl Command {
    /// Whether `--config` names a file of another kind than an installation's.
    const fn has_its_own_file(&self) -> bool {
        match self {
            #[cfg(feature = "region")]
            Self::Region(_) => true,
            Self::Demo(_)
            | Self::Serve
            | Self::Node(_)
            | Self::Pool(_)
            | Self::Workflow(_)
            | Self::Journal(_)
            | Self::Submission(_)
            | Self::Audit(_)
            | Self::Status(_)
            | Self::Doctor(_)
            | Self::Policy(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Schema(_) => false,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Cli::command().term_width(output::width().unwrap_or(HELP_WIDTH)).get_matches();
    let mut cli = Cli::from_arg_matches(&arguments).unwrap_or_else(|error| error.exit());
    if cli.command.has_its_own_file() && arguments.value_source("config") != Some(ValueSource::CommandLine) {
        // PERENNIAL_CONFIG names the file of an installation.
        cli.config = None;
    }
    let format = cli.output;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure, format);
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let output = Output { format: cli.output, secrets: cli.secrets, colours: cli.color.is_on() };
    let flags = Overrides { config: cli.config.clone(), data: cli.data.clone() };
    // These ask nothing of an installation, not even that its configuration can be read.
    match &cli.command {
        // It describes fields, and has none of their contents.
        Command::Schema(args) => return schema::run(args, Output { secrets: true, ..output }),
        Command::Policy(args) => return policy::run(args, Output { secrets: true, ..output }),
        Command::Completions(args) => return pages::completions(args, Cli::command()),
        Command::Man(args) => return pages::man(args, Cli::command(), output),
        Command::Demo(args) => {
            log(&cli, None)?;
            return on_runtime(Box::pin(demo::run(args, output)));
        }
        #[cfg(feature = "region")]
        Command::Region(args) => {
            log(&cli, None)?;
            return on_runtime(Box::pin(region::run(args, cli.config.as_ref(), output)));
        }
        _ => {}
    }
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(failure) if matches!(cli.command, Command::Doctor(_)) => {
            return doctor::no_configuration(&failure, output);
        }
        Err(failure) => return Err(failure),
    };
    log(&cli, Some(&config))?;
    let installation = Installation::new(config);
    on_runtime(Box::pin(async move {
        match &cli.command {
            Command::Demo(args) => demo::run(args, output).await,
            Command::Schema(args) => schema::run(args, output),
            Command::Policy(args) => policy::run(args, output),
            Command::Completions(args) => pages::completions(args, Cli::command()),
            Command::Man(args) => pages::man(args, Cli::command(), output),
            #[cfg(feature = "region")]
            Command::Region(args) => region::run(args, cli.config.as_ref(), output).await,
            Command::Serve => serve::run(&installation, output).await,
            Command::Node(command) => Box::pin(node::run(command, &installation, output)).await,
            Command::Pool(command) => address_pool::run(command, &installation, output).await,
            Command::Workflow(command) => workflow::run(command, &installation, output).await,
            Command::Journal(command) => journal::run(command, &installation, output).await,
            Command::Submission(command) => audit::submissions(command, &installation, output).await,
            Command::Audit(args) => audit::run(args, &installation, output).await,
            Command::Status(args) => status::run(args, &installation, output).await,
            Command::Doctor(args) => doctor::run(args, &installation, output).await,
        }
    }))
}

/// Runs a command; what it leaves running is dropped, not waited for.
fn on_runtime(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::environment(format!("no threads: {error}")))?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

/// Logs go to stderr, without colours.
fn log(cli: &Cli, config: Option<&Config>) -> Result<(), Failure> {
    let filter = match (cli.verbose, config, &cli.command) {
        (0, Some(config), Command::Serve) => config.log.clone(),
        #[cfg(feature = "region")]
        (0, _, Command::Region(args)) if args.serves() => "warn".to_owned(),
        (0, _, _) => "error".to_owned(),
        (1, _, _) => "perennial=info,info".to_owned(),
        (_, _, _) => "debug".to_owned(),
    };
    let filter = EnvFilter::builder()
        .parse(&filter)
        .map_err(|error| Failure::configuration(format!("log: {filter:?} is no log filter: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .fmt_fields(output::safe::log_fields())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    Ok(())
}
