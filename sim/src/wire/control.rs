//! The control surface, `/_region/…`: operations of a rehearsal for which AWS has no call. JSON in and out;
//! see `docs/region.md` for every path.
//!
//! Deeds that change the world are in [`deeds`](super::deeds), which the log of the state repeats; the others
//! (clock, faults) are of this process only.

use std::collections::BTreeSet;

use perennial_workflows::model::aws::VolumeId;
use serde_json::{Value as Json, json};

use super::config::{FaultSpec, RULES_MAX, checked_speed};
use super::deeds::{ADVANCE_MAX_S, bad, number, parsed, wrong};
use super::ec2;
use super::region::Region;
use super::rules::EventTrouble;
use super::sqs::model::Trouble as QueueTrouble;
use crate::world::ApiError;

/// The paths, as the surface lists them.
const PATHS: &[&str] = &[
    "GET dump",
    "GET leaks?owner=",
    "GET check",
    "GET calls",
    "GET faults",
    "GET clock",
    "GET volumes/<id>",
    "GET queues",
    "POST queues",
    "GET events",
    "POST events",
    "POST clock",
    "POST faults",
    "DELETE faults",
    "POST interrupt",
    "POST rebalance",
    "POST spare",
    "POST command",
    "POST forget-commands",
    "POST manage",
    "POST terminate",
    "POST capacity",
    "POST fail-launch",
    "POST fail-snapshot",
    "POST stick",
    "POST hang",
    "POST hang-shutdown",
    "POST product-code",
    "POST let-go",
    "POST adoption",
    "POST uefi",
    "POST impair",
    "POST write",
    "POST mount",
    "POST unmount",
    "POST detach-interface",
];

/// A call of the control surface.
pub(super) fn call(
    region: &Region,
    method: &str,
    path: &str,
    query: &str,
    body: &[u8],
) -> Result<Json, ApiError> {
    let request: Json = match body.is_empty() {
        true => json!({}),
        false => serde_json::from_slice(body).map_err(|error| bad(format!("not JSON: {error}")))?,
    };
    match (method, path) {
        ("GET", "" | "/") => Ok(json!({
            "region": region.region_name(),
            "now_ms": region.now_ms(),
            "speed": region.speed(),
            "documentation": "docs/region.md",
            "ec2_actions": ec2::actions().collect::<Vec<_>>(),
            "paths": PATHS,
        })),
        ("GET", "dump") => Ok(region.look(|world, _| world.dump())),
        ("GET", "check") => Ok(json!({ "violations": region.look(|world, _| world.check_invariants()) })),
        ("GET", "calls") => Ok(json!({ "calls": region.calls() })),
        ("GET", "leaks") => leaks(region, query),
        ("GET", "clock") => Ok(clock(region)),
        ("POST", "clock") => set_clock(region, &request),
        ("GET", "faults") => Ok(faults(region)),
        ("POST", "queues") => {
            region.trouble_queues(parsed::<QueueTrouble>(&request)?.checked().map_err(bad)?);
            Ok(json!({}))
        }
        ("POST", "events") => {
            region.trouble_events(parsed::<EventTrouble>(&request)?.checked().map_err(bad)?);
            Ok(json!({}))
        }
        ("GET", "queues") => Ok(json!(region.queues().trouble)),
        ("GET", "events") => Ok(json!(region.rules().trouble)),
        ("POST", "faults") => add_fault(region, &request),
        ("DELETE", "faults") => {
            region.faults().clear();
            Ok(json!({}))
        }
        ("GET", other) if other.starts_with("volumes/") => {
            volume(region, other.trim_start_matches("volumes/"))
        }
        ("POST", deed) => region.control(deed, &request),
        _ => {
            let message = format!("there is no {method} {path}; see GET /_region/");
            Err(ApiError::with_status(404, "NotFound", message))
        }
    }
}

fn leaks(region: &Region, query: &str) -> Result<Json, ApiError> {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let owner = pairs.iter().find(|(key, _)| key == "owner").map(|(_, value)| value.clone());
    let expected: BTreeSet<String> =
        pairs.into_iter().filter(|(key, _)| key == "expected").map(|(_, value)| value).collect();
    let owner = owner.ok_or_else(|| bad("name the owner: leaks?owner=…&expected=id…"))?;
    Ok(json!({ "leaks": region.look(|world, _| world.leaks(&owner, &expected)) }))
}

fn clock(region: &Region) -> Json {
    json!({ "now_ms": region.now_ms(), "speed": region.speed() })
}

fn set_clock(region: &Region, request: &Json) -> Result<Json, ApiError> {
    let speed = number(request, "speed")?;
    let speed = speed.map(checked_speed).transpose().map_err(bad)?;
    let ahead = number(request, "advance_s")?.unwrap_or(0.0);
    if !(0.0..=ADVANCE_MAX_S).contains(&ahead) {
        return Err(bad("time moves forwards only, and at most ten years at once"));
    }
    region.move_clock((ahead * 1000.0) as u64, speed);
    Ok(clock(region))
}

fn faults(region: &Region) -> Json {
    let faults = region.faults();
    let rules = faults.rules().map(|(rule, seen)| json!({ "rule": format!("{rule:?}"), "seen": seen }));
    json!({ "faults": rules.collect::<Vec<_>>() })
}

fn add_fault(region: &Region, request: &Json) -> Result<Json, ApiError> {
    let rule = parsed::<FaultSpec>(request)?.rule().map_err(wrong)?;
    let mut faults = region.faults();
    if faults.rules().count() >= RULES_MAX {
        return Err(bad(format!("at most {RULES_MAX} rules; DELETE faults first")));
    }
    faults.add(rule);
    Ok(json!({}))
}

fn volume(region: &Region, id: &str) -> Result<Json, ApiError> {
    let id = VolumeId::parse(id).map_err(|error| bad(error.to_string()))?;
    region.look(|world, _| match world.volume(&id) {
        Some(volume) => Ok(json!({ "id": id, "content": volume.content })),
        None => Err(ApiError::with_status(404, "InvalidVolume.NotFound", format!("no volume {id}"))),
    })
}
