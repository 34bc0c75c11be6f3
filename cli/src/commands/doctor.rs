//! `perennial doctor`: is everything in place, and if not, what to do.

use std::path::PathBuf;

use clap::Args;
use perennial_engine::clock::Clock;
use perennial_engine::queue::{Queue, QueueError, circle};
use perennial_views::Views;
use perennial_views::model::doctor::DoctorReport;
use perennial_views::model::node::{BEHIND, NodeLine};
use perennial_views::model::progress::{Advice, Progress};
use perennial_views::model::server::{Server, check_tasks};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::spec::node::NodeSpec;

#[cfg(feature = "aws")]
use crate::commands::preflight;
use crate::commands::serve::OWN_DEAD_LETTERS;
use crate::commands::{files, present};
use crate::failure::Failure;
use crate::installation::config::{CloudKind, Config};
use crate::installation::journal_file::{self, Holder};
use crate::installation::{Installation, Role, status_file};
use crate::output::{Output, doctor, screen, words};

/// An event from further in the future than this was written under another clock.
const SKEW_MAX_MS: u64 = 5_000;

/// How many dead letters are looked at; their number is known in any case.
const DEAD_LETTERS_SHOWN: usize = 1;

/// The variables that are read; another one with our prefix is likely a slip.
const VARIABLES: [&str; 15] = [
    "PERENNIAL_AS",
    "PERENNIAL_CLOUD",
    "PERENNIAL_CONFIG",
    "PERENNIAL_DATA",
    "PERENNIAL_DATA_DIR",
    "PERENNIAL_LOG",
    "PERENNIAL_OUTPUT",
    "PERENNIAL_OWNER",
    "PERENNIAL_QUEUES_INTERRUPTIONS",
    "PERENNIAL_QUEUES_KIND",
    "PERENNIAL_QUEUES_STEPS",
    "PERENNIAL_QUEUES_SUBMISSIONS",
    "PERENNIAL_SIM_SEED",
    "PERENNIAL_SIM_SPEED",
    "PERENNIAL_SWEEP_EVERY_S",
];

/// Of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Also check what this node file asks for, as `node apply` does. It may hold several documents, be a
    /// directory of files, and be given several times
    #[arg(long = "file", short = 'f', value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// The report when the configuration cannot be read: nothing else can be checked.
pub(crate) fn no_configuration(failure: &Failure, output: Output) -> Result<(), Failure> {
    let mut report = DoctorReport::default();
    report.fail("configuration", failure.message(), "correct it; nothing else can be checked before");
    end(&report, output)
}

/// Checks everything.
pub(crate) async fn run(
    args: &DoctorArgs,
    installation: &Installation,
    output: Output,
) -> Result<(), Failure> {
    let specs: Vec<NodeSpec> = files::nodes(&args.files)?.into_iter().map(|(_, spec)| spec).collect();
    let config = &installation.config;
    let mut report = DoctorReport::default();
    configuration(config, &mut report);
    journal(config, present::now_ms(installation).await, &mut report).await;
    let mut places = Vec::new();
    for (name, role) in
        [("submissions", Role::Submissions), ("interruptions", Role::Interruptions), ("steps", Role::Steps)]
    {
        let queue = installation.queue(role).await;
        places.push((name, queue.as_ref().ok().and_then(|queue| queue.places())));
        queue_checks(&format!("queue {name}"), queue, &mut report).await;
    }
    if let Some(circle) = circle(&places) {
        report.fail("dead letters", circle, OWN_DEAD_LETTERS);
    }
    disk(&config.data_dir, &mut report);
    match config.cloud {
        CloudKind::Sim => report.warn(
            "cloud",
            "a simulated region inside `serve`; it ends with the process",
            "for rehearsals only: set cloud = \"ec2\" for the real one",
        ),
        CloudKind::Region => {
            report.warn(
                "cloud",
                "a simulated region, and its clock",
                "for rehearsals only: set cloud = \"ec2\" for the real one",
            );
            ec2(installation, &specs, &mut report).await;
        }
        CloudKind::Ec2 => ec2(installation, &specs, &mut report).await,
    }
    end(&report, output)
}

/// Prints the report; a failed check is a failure.
fn end(report: &DoctorReport, output: Output) -> Result<(), Failure> {
    output.show(report, || doctor::report(report))?;
    match report.failed() {
        0 => Ok(()),
        1 => Err(Failure::failed("one check failed")),
        failed => Err(Failure::failed(format!("{failed} checks failed"))),
    }
}

fn configuration(config: &Config, report: &mut DoctorReport) {
    let file = match &config.file {
        Some(path) => path.display().to_string(),
        None => "no file, defaults".to_owned(),
    };
    report.ok("configuration", format!("{file}; owner {}", config.owner));
    let mut unknown: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("PERENNIAL_") && !VARIABLES.contains(&name.as_str()))
        .collect();
    unknown.sort();
    if !unknown.is_empty() {
        report.warn("environment", format!("not read: {}", unknown.join(", ")), "is one of them misspelled?");
    }
}

async fn journal(config: &Config, now_ms: u64, report: &mut DoctorReport) {
    let path = config.journal_path();
    let shown = path.display();
    let views = match journal_file::find(&path) {
        Ok(Some(journal)) => Views::new(journal),
        Ok(None) => return report.warn("journal", format!("none at {shown}"), "`perennial serve` makes it"),
        Err(failure) => return report.fail("journal", failure.message(), failure.advice()),
    };
    match views.checked_head().await {
        Ok(None) => report.ok("journal", format!("{shown}, empty")),
        Ok(Some(head)) => {
            let position = head.position;
            report.ok("journal", format!("{shown}, {position} events, the last one's hash is right"));
            clock(head.recorded_at_ms, now_ms, report);
        }
        Err(error) => {
            report.fail("journal", Failure::from(error).message(), "run `perennial journal verify`");
        }
    }
    let open = troubles(&views, now_ms, report).await;
    let server = match journal_file::holder(&path) {
        Holder::Server(process) => {
            report.ok("server", format!("running (process {process})"));
            Server::Running
        }
        Holder::Nobody => {
            match open {
                0 => report.warn("server", "none runs on this journal", "start `perennial serve`"),
                open => {
                    let found = format!("none runs on this journal, and {open} workflows are open");
                    report.fail("server", found, "start `perennial serve`");
                }
            }
            Server::Absent
        }
        Holder::Unknown(error) => {
            report.fail("server", format!("the lock cannot be tried: {error}"), "use a local file system");
            return;
        }
    };
    let status = status_file::read(&config.data_dir);
    check_tasks(server, status.as_ref(), Clock::system().now_ms(), report);
}

/// How much room the journal should find: some thousand events.
const ROOM_BYTES: usize = 1024 * 1024;

/// Whether the data directory takes what a server has to write. Nothing else tells before it is needed: the
/// server's own log may be on the same disk.
fn disk(data_dir: &std::path::Path, report: &mut DoctorReport) {
    let to_do = "make room, or move the data directory; nothing is received meanwhile, and nothing is lost";
    match room(data_dir) {
        Ok(()) => report.ok("disk", format!("{} can be written", data_dir.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            let found = format!("no room: {} is full ({error})", data_dir.display());
            report.fail("disk", found, to_do);
        }
        Err(error) if error.kind() == std::io::ErrorKind::QuotaExceeded => {
            report.fail("disk", format!("no room: {error}"), to_do);
        }
        Err(error) => {
            let found = format!("{} cannot be written: {error}", data_dir.display());
            report.warn("disk", found, "run doctor as the user that serves; check the mount");
        }
    }
}

/// Writes a file as long as the journal may need, and deletes it.
fn room(data_dir: &std::path::Path) -> std::io::Result<()> {
    use std::io::Write as _;

    let path = data_dir.join(format!("doctor-{}.tmp", std::process::id()));
    let mut file = perennial_store::private::create_new(&path)?;
    let written = file.write_all(&vec![0; ROOM_BYTES]).and_then(|()| file.sync_data());
    drop(file);
    written.and(std::fs::remove_file(&path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
    })
}

/// Nodes whose resources in the account are newer than the journal, nodes that are down, and workflows that
/// are stuck. How many workflows are open.
async fn troubles(views: &Views, now_ms: u64, report: &mut DoctorReport) -> usize {
    let nodes = match views.nodes(now_ms).await {
        Ok(nodes) => nodes,
        Err(error) => {
            report.fail("nodes", Failure::from(error).message(), "run `perennial journal verify`");
            return 0;
        }
    };
    let mut open = 0;
    for line in nodes.iter().filter(|line| line.operation.is_some()) {
        open += 1;
        let Ok(name) = NodeName::parse(&line.name) else { continue };
        let check = format!("node {name}");
        let progress = match views.node(&name, now_ms).await {
            Ok(node) => node.open,
            Err(error) => {
                let failure = Failure::from(error);
                report.fail(&check, failure.message(), "run `perennial journal verify`");
                continue;
            }
        };
        if let Some(progress) = progress {
            trouble_of(&check, line, &progress, now_ms, report);
        }
    }
    for line in nodes.iter().filter(|line| line.state == BEHIND) {
        let found = "the account has resources of it that this journal cannot know: nothing is done for it";
        let to_do = "stop the server, look, adopt, and start the server again:\n  \
                     perennial journal adopt --dry-run\n  perennial journal adopt\n  perennial serve";
        report.fail(&format!("node {}", line.name), found, to_do);
    }
    open
}

/// A node that is down and has waited longer than this at one step is in trouble: an ordinary replacement is
/// over by then, and few steps of it take a minute.
const OVERDUE_MS: u64 = 5 * 60_000;

/// What to do about a refusal that passes by itself, or never.
const PASSES: &str =
    "it goes on when that passes; if it lasts, see to credentials, permissions and quotas (below)";

/// What is wrong with a node that a workflow holds.
fn trouble_of(check: &str, line: &NodeLine, open: &Progress, now_ms: u64, report: &mut DoctorReport) {
    let workflow = &open.workflow;
    let down = line.down.as_ref().map_or_else(String::new, |down| {
        format!("down for {}; ", words::lasting(now_ms.saturating_sub(down.since_ms)))
    });
    if let Some(stuck) = &open.stuck {
        let found = format!("{down}{workflow} is stuck at {}: {}", stuck.step, stuck.because);
        return report.fail(check, found, &to_do(&open.advice));
    }
    if let Some(wait) = &open.capacity {
        let (pools, tried) = (wait.pools.join(", "), screen::tried(wait, now_ms));
        let found = format!("{down}{workflow} waits for capacity: {pools} had none; {tried}");
        return report.fail(check, found, &to_do(&open.advice));
    }
    for step in &open.steps {
        let Some(waits) = &step.waits else { continue };
        let found = format!("{down}{workflow} waits at {}: {}", step.step, waits.because);
        let lasts_ms = now_ms.saturating_sub(step.since_ms.max(step.not_before_ms));
        let to_do = match waits.by_itself {
            true => PASSES.to_owned(),
            false => to_do(&open.advice),
        };
        if line.down.is_some() && lasts_ms > OVERDUE_MS.max(2 * step.typical_ms) {
            report.fail(check, found, &to_do);
        } else {
            report.warn(check, found, &to_do);
        }
    }
}

/// What a person has to do, or may do: the words, and under them each command.
fn to_do(advice: &Advice) -> String {
    let commands = advice.commands.iter().map(|command| format!("\n  {command}"));
    format!("{}{}", advice.text, commands.collect::<String>())
}

/// Warns when the newest event was written under another clock.
fn clock(newest_ms: u64, now_ms: u64, report: &mut DoctorReport) {
    if newest_ms > now_ms + SKEW_MAX_MS {
        let ahead = words::length(newest_ms - now_ms);
        report.warn(
            "clock",
            format!("the newest event is {ahead} in the future"),
            "set the machine's clock (NTP); or was the journal written by a simulation?",
        );
    }
}

/// Warns when AWS's clock shows another time: then nothing that is retained is deleted for its age.
#[cfg(feature = "aws")]
fn told_clock(ahead_ms: i64, report: &mut DoctorReport) {
    let by = words::length(ahead_ms.unsigned_abs());
    // AWS tells whole seconds.
    if ahead_ms.unsigned_abs() < SKEW_MAX_MS {
        report.ok("time", "as AWS tells it");
    } else {
        let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
        let found = format!("the machine's clock is {by} {side} AWS's");
        report.warn(
            "time",
            found,
            "set the machine's clock (NTP); beyond a minute nothing is deleted by age",
        );
    }
}

async fn queue_checks(
    name: &str,
    queue: Result<std::sync::Arc<dyn Queue>, Failure>,
    report: &mut DoctorReport,
) {
    let queue = match queue {
        Ok(queue) => queue,
        Err(failure) => return report.fail(name, failure.message(), failure.advice()),
    };
    let depth = match queue.depth().await {
        Ok(depth) => depth,
        Err(error) => {
            let failure = Failure::from(error);
            return report.fail(name, failure.message(), failure.advice());
        }
    };
    let found =
        format!("{} waiting, {} in flight, {} delayed", depth.visible, depth.in_flight, depth.delayed);
    match queue.dead_letters(DEAD_LETTERS_SHOWN).await {
        Err(QueueError::Misconfigured { why }) => {
            report.warn(name, format!("{found}; {why}"), "give it a redrive policy with a dead-letter queue");
        }
        Err(error) => report.warn(name, format!("{found}; dead letters: {error}"), "allow reading them"),
        Ok(_) if depth.dead == 0 => report.ok(name, found),
        Ok(dead) => {
            let first = dead.first().map_or_else(String::new, |entry| format!(", such as: {}", entry.reason));
            let found = format!("{found}; {} dead letters{first}", depth.dead);
            report.warn(name, found, "look at them; each is an answer to its sender");
        }
    }
}

#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "the same signature as with AWS")]
async fn ec2(_: &Installation, _: &[NodeSpec], report: &mut DoctorReport) {
    report.fail(
        "cloud",
        "cloud is \"ec2\", and this build has no AWS SDK",
        "build without --no-default-features, or set cloud = \"sim\"",
    );
}

#[cfg(feature = "aws")]
async fn ec2(installation: &Installation, specs: &[NodeSpec], report: &mut DoctorReport) {
    use perennial_workers::port::Select;

    let aws = installation.aws().await;
    match aws.region() {
        Some(region) => report.ok("region", region),
        None => {
            let to_do = "set AWS_REGION, or a region in ~/.aws/config for the profile in use";
            return report.fail("region", "none is configured", to_do);
        }
    }
    let cloud = aws.cloud();
    match cloud.identity().await {
        Ok(account) if account.is_empty() => report.ok("credentials", "found; the endpoint names no account"),
        Ok(account) => report.ok("credentials", format!("account {account}")),
        Err(error) => {
            let to_do = advice(&error, "check AWS_PROFILE, the instance profile, or the keys");
            report.fail("credentials", error.to_string(), to_do);
        }
    }
    let tags = [("perennial:owner".to_owned(), installation.config.owner.clone())].into_iter().collect();
    let described = cloud.instances(&Select::tagged(tags)).await;
    // A rehearsal's region has a time of its own.
    if installation.config.cloud == CloudKind::Ec2
        && let Some(told) = cloud.told_time()
    {
        told_clock(told.ahead_ms(&Clock::system()), report);
    }
    match described {
        Ok(instances) => {
            report.ok(
                "describe",
                format!("{} instances of owner {}", instances.len(), installation.config.owner),
            );
        }
        Err(error) => {
            report.fail("describe", error.to_string(), advice(&error, "allow ec2:DescribeInstances"));
        }
    }
    if specs.is_empty() {
        report.warn("launch", "not asked", "`perennial doctor -f NODE-FILE` asks with a DryRun");
    }
    for spec in specs {
        let is_new = preflight::is_new(&spec.name, installation).await;
        let checks = perennial_workers::preflight::of_node(cloud.as_ref(), spec, is_new).await;
        let of = (specs.len() > 1).then_some(&spec.name);
        preflight::add(&checks, of, report);
    }
}

/// What to do about a call that failed: without an answer the way there is broken, not what was asked.
#[cfg(feature = "aws")]
fn advice(error: &perennial_workers::port::error::CloudError, answered: &'static str) -> &'static str {
    if error.code.is_empty() { "check the network, AWS_REGION and AWS_ENDPOINT_URL" } else { answered }
}
