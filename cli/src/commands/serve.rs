//! `perennial serve`: the engine, until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::Head;
use perennial_engine::limits::Limits;
use perennial_engine::queue::{Outgoing, Queue, circle};
use perennial_engine::shutdown::Shutdown;
use perennial_sim::cloud::SimRegion;
use perennial_sim::world::settings::Settings;
use perennial_views::Views;
use perennial_workers::port::Cloud;
use perennial_workers::service::{Parts, Service, ServiceError};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::{Command, Rejection};
use perennial_workflows::model::installation::Place;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::commands::signals::Signals;
use crate::failure::{Failure, chain};
use crate::installation::config::{CloudKind, Config};
use crate::installation::{Installation, Role, heads, journal_file, status_file};
use crate::output::{Format, Output};

/// How many events of the simulated region wait for the queue.
const EVENTS_MAX: usize = 1_000;

/// What to do about dead letters that would be received again.
pub(crate) const OWN_DEAD_LETTERS: &str =
    "name a queue in its RedrivePolicy that is none of Perennial's own, such as perennial-interruptions-dead";

/// How long the last event may take: an append takes milliseconds.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Runs until SIGINT or SIGTERM; a second signal ends it at once.
pub(crate) async fn run(installation: &Installation, output: Output) -> Result<(), Failure> {
    let config = &installation.config;
    // The lock first: a second server must not touch the queues.
    installation.make_data_dir()?;
    let journal = journal_file::open_for_the_engine(&config.journal_path())?;
    // Under the lock: what follows reads an end that nobody moves.
    let noted = heads::read_if_there(&config.heads.file)?;
    journal_file::check_tail(&config.journal_path(), newest(&noted))?;
    let shipping = installation.shipping().await?;
    let mut signals = Signals::new()?;
    let submissions = installation.queue(Role::Submissions).await?;
    let interruptions = installation.queue(Role::Interruptions).await?;
    let steps = installation.queue(Role::Steps).await?;
    let places = [("submissions", &submissions), ("interruptions", &interruptions), ("steps", &steps)];
    if let Some(circle) = circle(&places.map(|(name, queue)| (name, queue.places()))) {
        return Err(Failure::configuration(circle).hint(OWN_DEAD_LETTERS));
    }
    let Reached { cloud, clock, name: place, region } = cloud(installation, &interruptions).await?;
    let here = here(config, cloud.as_ref(), region).await?;
    let servers_clock = clock.clone();
    let shipped = Arc::clone(&journal);
    let service = Service::new(Parts {
        journal,
        steps,
        submissions,
        interruptions: Some(interruptions),
        cloud,
        clock,
        place: here,
        installation: uuid::Uuid::now_v7().simple().to_string(),
        replies: installation.replies().await,
        limits: Limits::default(),
        sweep_every: config.sweep_every(),
        reserve: config.reserve(),
    });
    let engine = service.engine();
    // Before anything is written: nothing was done since then.
    let last_ms = Views::new(Arc::clone(engine.journal())).last_event_ms().await?;
    service.bind().await.map_err(not_here)?;
    began(&engine, last_ms).await?;
    let (periodic, data_dir) = (service.periodic(), config.data_dir.clone());
    tokio::spawn(async move { status_file::write_repeatedly(&data_dir, &periodic, &servers_clock).await });
    let (trigger, shutdown) = Shutdown::new();
    // The last head is that of the journal at its end, when nothing more is written.
    let (last_is_written, at_the_end) = Shutdown::new();
    let last_head = tokio::spawn(shipping.run(shipped, at_the_end));
    let mut running = tokio::spawn(Box::pin(service.run(shutdown)));
    ready(installation, output, &place)?;
    tokio::select! {
        ended = &mut running => {
            ended_cleanly(&engine).await;
            return ended_by_itself(ended);
        }
        () = signals.next() => {}
    }
    info!("stopping: steps under way may finish, the rest is kept for the next start (again: stop at once)");
    trigger.ask();
    tokio::select! {
        ended = running => {
            ended_cleanly(&engine).await;
            last_is_written.ask();
            if let Err(error) = last_head.await {
                warn!(%error, "BUG: the shipping of heads panicked");
            }
            ended_by_itself(ended)
        }
        () = signals.next() => {
            ended_cleanly(&engine).await;
            warn!("stopped at once; the next start goes on with what was under way");
            Ok(())
        }
    }
}

/// The head that goes furthest.
fn newest(noted: &[Head]) -> &[Head] {
    match noted.iter().enumerate().max_by_key(|(_, head)| head.position) {
        Some((at, _)) => &noted[at..=at],
        None => &[],
    }
}

/// Writes into the journal that an engine runs, and since when nothing was done if the last one was killed.
async fn began(engine: &Engine<Perennial>, last_ms: Option<u64>) -> Result<(), Failure> {
    let started = Command::EngineStarted {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: std::process::id(),
        silent_since_ms: last_ms,
    };
    engine.execute(started).await.map(|_| ()).map_err(Failure::from)
}

/// Writes that it ends. Where that cannot be written, the next start counts it as killed.
async fn ended_cleanly(engine: &Engine<Perennial>) {
    let ends = engine.execute(Command::EngineStopped {});
    match tokio::time::timeout(END_WITHIN, ends).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!(error = chain(&error), "the end could not be written"),
        Err(_) => warn!("the end could not be written in time"),
    }
}

/// How the service ended: a part that panicked ends the process with an error, so that it is started again.
pub(crate) fn ended_by_itself(
    ended: Result<Result<(), ServiceError>, tokio::task::JoinError>,
) -> Result<(), Failure> {
    let failure = match ended {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => chain(&error),
        Err(error) => chain(&error),
    };
    Err(Failure::internal(format!("the service ended: {failure}")))
}

fn ready(installation: &Installation, output: Output, place: &str) -> Result<(), Failure> {
    let config = &installation.config;
    match output.format {
        Format::Table | Format::Wide | Format::Name => {
            let queues = &config.queues;
            output.text(&format!(
                "ready: {place}, owner {}, data {}, submissions {}, interruptions {}, steps {}",
                config.owner,
                config.data_dir.display(),
                queues.submissions,
                queues.interruptions,
                queues.steps
            ))
        }
        Format::Json => {
            output.json_line(&serde_json::json!({"ready": true, "cloud": place, "config": config}))
        }
    }
}

/// A region that is reached.
pub(crate) struct Reached {
    /// The region.
    pub(crate) cloud: Arc<dyn Cloud>,
    /// Its time.
    pub(crate) clock: Clock,
    /// A name for people.
    pub(crate) name: String,
    /// The region's own name, as the journal keeps it.
    pub(crate) region: String,
}

/// How long the question for the account may take: without an answer it stays unknown.
const IDENTITY_WITHIN: Duration = Duration::from_secs(10);

/// Where the configuration leads.
pub(crate) async fn here(config: &Config, cloud: &dyn Cloud, region: String) -> Result<Place, Failure> {
    if config.cloud == CloudKind::Ec2 && !config.owner_is_given {
        return Err(Failure::configuration(
            "owner is not set: it tells this installation's resources from all others in the account",
        )
        .hint("set owner = \"NAME\" in perennial.toml, or PERENNIAL_OWNER; one name an installation"));
    }
    let account = match tokio::time::timeout(IDENTITY_WITHIN, cloud.identity()).await {
        Ok(Ok(account)) => Some(account).filter(|account| !account.is_empty()),
        Ok(Err(error)) => {
            warn!(%error, "the account id is not known (sts:GetCallerIdentity)");
            None
        }
        Err(_) => {
            warn!("the account id is not known: sts:GetCallerIdentity does not answer");
            None
        }
    };
    Ok(Place { owner: config.owner.clone(), account, region: Some(region) })
}

/// A journal that belongs somewhere else is not served.
pub(crate) fn not_here(error: ExecuteError<Rejection>) -> Failure {
    match error {
        ExecuteError::Rejected(rejection @ Rejection::AnotherPlace { .. }) => {
            Failure::configuration(rejection.to_string()).hint(
                "correct AWS_PROFILE, AWS_REGION, owner or data_dir; if it is meant: `perennial journal adopt --here`",
            )
        }
        error => Failure::environment(format!("the journal cannot be bound: {}", chain(&error))),
    }
}

/// The region, its time, and a name for it.
async fn cloud(installation: &Installation, interruptions: &Arc<dyn Queue>) -> Result<Reached, Failure> {
    let config = &installation.config;
    match config.cloud {
        CloudKind::Ec2 | CloudKind::Region => reach(installation).await,
        CloudKind::Sim => {
            let now = Clock::system();
            let clock = if (config.sim_speed - 1.0).abs() < f64::EPSILON {
                now
            } else {
                Clock::scaled(now.now_ms(), config.sim_speed)
            };
            let region = SimRegion::new(Settings::realistic(config.sim_seed), clock.clone());
            let place = region.with(|world, _| {
                let subnet = world.subnet_in(&world.zones()[0]);
                format!("simulated region (subnet {subnet}, image {})", world.default_image())
            });
            forward_events(&region, Arc::clone(interruptions));
            Ok(Reached { cloud: Arc::new(region), clock, name: place, region: "simulated".to_owned() })
        }
    }
}

/// Lets time work on a simulated region and carries its events to the queue, as EventBridge would.
pub(crate) fn forward_events(region: &SimRegion, to: Arc<dyn Queue>) {
    let (events, mut forwarded) = mpsc::channel::<String>(EVENTS_MAX);
    let region = region.clone();
    tokio::spawn(async move { region.run(events).await });
    tokio::spawn(async move {
        while let Some(event) = forwarded.recv().await {
            if let Err(error) = to.send(vec![Outgoing::now(event)]).await {
                warn!(%error, "an event of the simulated region was lost, as EventBridge may lose one");
            }
        }
    });
}

/// A region that other processes reach as well.
pub(crate) async fn reach(installation: &Installation) -> Result<Reached, Failure> {
    match installation.config.cloud {
        CloudKind::Ec2 => ec2(installation).await,
        CloudKind::Region => region(installation).await,
        CloudKind::Sim => Err(Failure::configuration("a simulated region ends with its process")
            .hint("use `perennial region` and cloud = \"region\"")),
    }
}

#[cfg(feature = "aws")]
async fn ec2(installation: &Installation) -> Result<Reached, Failure> {
    let aws = installation.aws().await;
    let Some(region) = aws.region() else {
        return Err(Failure::configuration("no AWS region is configured")
            .hint("set AWS_REGION, or a region in ~/.aws/config for the profile in use"));
    };
    let name = format!("EC2 in {region}");
    Ok(Reached { cloud: aws.cloud(), clock: Clock::system(), name, region: region.to_owned() })
}

#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "the same signature as with AWS")]
async fn ec2(_: &Installation) -> Result<Reached, Failure> {
    Err(crate::installation::no_aws("cloud = \"ec2\""))
}

#[cfg(all(feature = "aws", feature = "region"))]
async fn region(installation: &Installation) -> Result<Reached, Failure> {
    let clock = crate::commands::region::client::followed_clock().await?;
    let real = ec2(installation).await?;
    Ok(Reached { clock, name: format!("simulated {}, its clock", real.name), ..real })
}

#[cfg(not(all(feature = "aws", feature = "region")))]
#[expect(clippy::unused_async, reason = "the same signature as with both")]
async fn region(_: &Installation) -> Result<Reached, Failure> {
    Err(Failure::configuration(
        "cloud = \"region\" needs the features aws and region, which this build has not",
    )
    .hint("build without --no-default-features, or set cloud = \"sim\""))
}
