//! `perennial serve`: the engine, until it is told to stop.

use std::sync::Arc;

use perennial_engine::clock::Clock;
use perennial_engine::limits::Limits;
use perennial_engine::queue::{Outgoing, Queue};
use perennial_engine::shutdown::Shutdown;
use perennial_sim::cloud::SimRegion;
use perennial_sim::world::settings::Settings;
use perennial_workers::port::Cloud;
use perennial_workers::service::{Parts, Service};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::commands::signals::Signals;
use crate::failure::Failure;
use crate::installation::config::CloudKind;
use crate::installation::{Installation, Role, journal_file, status_file};
use crate::output::{Format, Output};

/// How many events of the simulated region wait for the queue.
const EVENTS_MAX: usize = 1_000;

/// Runs until SIGINT or SIGTERM; a second signal ends it at once.
pub(crate) async fn run(installation: &Installation, output: Output) -> Result<(), Failure> {
    let config = &installation.config;
    // The lock first: a second server must not touch the queues.
    installation.make_data_dir()?;
    let journal = journal_file::open_for_the_engine(&config.journal_path())?;
    let mut signals = Signals::new()?;
    let submissions = installation.queue(Role::Submissions).await?;
    let interruptions = installation.queue(Role::Interruptions).await?;
    let steps = installation.queue(Role::Steps).await?;
    let (cloud, clock, place) = cloud(installation, &interruptions).await?;
    let servers_clock = clock.clone();
    let service = Service::new(Parts {
        journal,
        steps,
        submissions,
        interruptions: Some(interruptions),
        cloud,
        clock,
        owner: config.owner.clone(),
        replies: installation.replies().await,
        limits: Limits::default(),
        sweep_every: config.sweep_every(),
    });
    let (periodic, data_dir) = (service.periodic(), config.data_dir.clone());
    tokio::spawn(async move { status_file::write_repeatedly(&data_dir, &periodic, &servers_clock).await });
    let (trigger, shutdown) = Shutdown::new();
    let mut running = tokio::spawn(Box::pin(service.run(shutdown)));
    ready(installation, output, &place)?;
    tokio::select! {
        ended = &mut running => return ended.map_err(|error| Failure::internal(format!("the service ended: {error}"))),
        () = signals.next() => {}
    }
    info!("stopping: steps under way may finish, the rest is kept for the next start (again: stop at once)");
    trigger.ask();
    tokio::select! {
        ended = running => ended.map_err(|error| Failure::internal(format!("the service ended: {error}"))),
        () = signals.next() => {
            warn!("stopped at once; the next start goes on with what was under way");
            Ok(())
        }
    }
}

fn ready(installation: &Installation, output: Output, place: &str) -> Result<(), Failure> {
    let config = &installation.config;
    match output.format {
        Format::Table => {
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

/// The region, its time, and a name for it.
async fn cloud(
    installation: &Installation,
    interruptions: &Arc<dyn Queue>,
) -> Result<(Arc<dyn Cloud>, Clock, String), Failure> {
    let config = &installation.config;
    match config.cloud {
        CloudKind::Ec2 => ec2(installation).await,
        CloudKind::Region => region(installation).await,
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
            Ok((Arc::new(region), clock, place))
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

#[cfg(feature = "aws")]
async fn ec2(installation: &Installation) -> Result<(Arc<dyn Cloud>, Clock, String), Failure> {
    let aws = installation.aws().await;
    let Some(region) = aws.region() else {
        return Err(Failure::configuration("no AWS region is configured")
            .hint("set AWS_REGION, or a region in ~/.aws/config for the profile in use"));
    };
    Ok((aws.cloud(), Clock::system(), format!("EC2 in {region}")))
}

#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "the same signature as with AWS")]
async fn ec2(_: &Installation) -> Result<(Arc<dyn Cloud>, Clock, String), Failure> {
    Err(crate::installation::no_aws("cloud = \"ec2\""))
}

#[cfg(all(feature = "aws", feature = "region"))]
async fn region(installation: &Installation) -> Result<(Arc<dyn Cloud>, Clock, String), Failure> {
    let clock = crate::commands::region::client::clock().await?;
    let (cloud, _, place) = ec2(installation).await?;
    Ok((cloud, clock, format!("simulated {place}, its clock")))
}

#[cfg(not(all(feature = "aws", feature = "region")))]
#[expect(clippy::unused_async, reason = "the same signature as with both")]
async fn region(_: &Installation) -> Result<(Arc<dyn Cloud>, Clock, String), Failure> {
    Err(Failure::configuration(
        "cloud = \"region\" needs the features aws and region, which this build has not",
    )
    .hint("build without --no-default-features, or set cloud = \"sim\""))
}
