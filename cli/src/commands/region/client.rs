//! The control surface of a simulated region: where it is, and what names mean there.

#[cfg(feature = "aws")]
use std::time::Duration;

use clap::Args;
#[cfg(feature = "aws")]
use perennial_engine::clock::Clock;
use perennial_sim::wire::{ControlError, RegionClient};
use serde_json::Value;
#[cfg(feature = "aws")]
use tracing::info;

use crate::failure::Failure;

/// Where a region is looked for unless it is named.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:4566";

/// Between two looks at how fast the region's clock runs.
#[cfg(feature = "aws")]
const FOLLOWED_EVERY: Duration = Duration::from_secs(1);

/// Which region a command is for.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The region [default: AWS_ENDPOINT_URL, or http://127.0.0.1:4566]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

impl At {
    /// A client of the control surface of that region.
    pub(crate) fn client(&self) -> Result<RegionClient, Failure> {
        let named = self.endpoint.clone().or_else(endpoint);
        RegionClient::new(named.as_deref().unwrap_or(DEFAULT_ENDPOINT)).map_err(refused)
    }
}

/// The endpoint that AWS's clients use, by their own conventions.
fn endpoint() -> Option<String> {
    let named = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    ["AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"].into_iter().find_map(named)
}

/// The clock of the region that AWS's clients are pointed at: an engine that goes by it has as much time
/// between a notice and the end as it would have on AWS, whatever the region's speed.
#[cfg(feature = "aws")]
pub(crate) async fn followed_clock() -> Result<Clock, Failure> {
    let (client, clock) = asked().await?;
    tokio::spawn(follow(client, clock.clone()));
    Ok(clock)
}

/// The same as it runs now.
#[cfg(feature = "aws")]
pub(crate) async fn clock() -> Result<Clock, Failure> {
    Ok(asked().await?.1)
}

#[cfg(feature = "aws")]
async fn asked() -> Result<(RegionClient, Clock), Failure> {
    let Some(endpoint) = endpoint() else {
        return Err(Failure::configuration("cloud is \"region\", and no endpoint is set")
            .hint("set AWS_ENDPOINT_URL to what `perennial region` prints"));
    };
    let client = RegionClient::new(&endpoint).map_err(refused)?;
    let clock = client.get("clock").await.map_err(refused)?;
    match (clock["now_ms"].as_u64(), clock["speed"].as_f64()) {
        (Some(now_ms), Some(speed)) if speed > 0.0 => Ok((client, Clock::paced(now_ms, speed))),
        (Some(_), Some(_)) => Err(Failure::environment("the region's clock stands still")
            .hint("let it run with `perennial region clock --speed 1`, or set cloud = \"ec2\"")),
        _ => Err(Failure::environment(format!("{endpoint} tells no time"))),
    }
}

/// Lets a clock run as fast as the region's. One that stands still for a while, or does not answer, changes
/// nothing.
#[cfg(feature = "aws")]
async fn follow(client: RegionClient, clock: Clock) {
    loop {
        tokio::time::sleep(FOLLOWED_EVERY).await;
        let Ok(told) = client.get("clock").await else { continue };
        let speed = told["speed"].as_f64().unwrap_or_default();
        if speed > 0.0 && speed.total_cmp(&clock.speed()).is_ne() {
            info!(speed, "the region's clock runs at another speed");
            clock.run_at(speed);
        }
    }
}

/// What the refusal of a region means to a command.
pub(crate) fn refused(error: ControlError) -> Failure {
    match &error {
        ControlError::Endpoint { .. } => Failure::user(error),
        ControlError::Unreachable { .. } => Failure::environment(error)
            .hint("start one with `perennial region --port 4566`, or name it with --endpoint URL"),
        ControlError::Refused { .. } => Failure::failed(error),
    }
}

/// An instance's id, or the id of the one live instance that carries this name.
pub(crate) async fn instance(client: &RegionClient, text: &str) -> Result<String, Failure> {
    if text.starts_with("i-") {
        return Ok(text.to_owned());
    }
    let dump = client.get("dump").await.map_err(refused)?;
    let named = entries(&dump["instances"]).filter(|(_, instance)| {
        let tags = &instance["tags"];
        tags["perennial:node"] == *text || tags["Name"] == *text
    });
    let live: Vec<_> = named.filter(|(_, instance)| instance["state"] != "terminated").collect();
    match live.as_slice() {
        [(id, _)] => Ok(id.to_string()),
        [] => Err(Failure::user(format!("no live instance has the name or node {text:?}"))
            .hint("`perennial region dump` shows what there is")),
        several => {
            let ids: Vec<_> = several.iter().map(|(id, _)| id.as_str()).collect();
            Err(Failure::user(format!("{text:?} is the name of several: {}", ids.join(", ")))
                .hint("give one's id"))
        }
    }
}

/// The id of the volume that an instance has at a device.
pub(crate) async fn volume_at(client: &RegionClient, name: &str, device: &str) -> Result<String, Failure> {
    let id = instance(client, name).await?;
    let dump = client.get("dump").await.map_err(refused)?;
    let found = entries(&dump["volumes"]).find(|(_, volume)| {
        volume["attachment"]["instance"] == id && volume["attachment"]["device"] == *device
    });
    found.map(|(volume, _)| volume.clone()).ok_or_else(|| {
        Failure::user(format!("{id} has no volume at {device}"))
            .hint("`perennial region dump` shows what there is")
    })
}

/// The entries of an object of the region's answer.
fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flatten()
}
