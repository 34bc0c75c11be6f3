//! The control surface, `/_region/…`: what a rehearsal does to a region that no AWS call can. JSON in and out; see
//! `docs/region.md` for every path.
//!
//! Deeds that change the world go through [`act`], which the log of the state repeats; the others (clock, faults) are
//! of this process only.

use std::collections::BTreeSet;
use std::time::Duration;

use perennial_workflows::model::aws::{InstanceId, InterfaceId, VolumeId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::config::{AdoptionWord, FaultSpec, PoolSpec, RULES_MAX, checked_speed};
use super::region::Region;
use super::{EventTrouble, QueueTrouble, ec2};
use crate::world::hangs::Hang;
use crate::world::settings::RootAdoption;
use crate::world::{ApiError, Notice, Outcome, Script, World};

/// The longest step of the clock: ten years.
const ADVANCE_MAX_S: f64 = 315_360_000.0;
/// Bytes of a record on a volume.
const RECORD_MAX: usize = 64 * 1024;

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new("BadRequest", message)
}

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
            "paths": [
                "GET dump", "GET leaks?owner=", "GET check", "GET calls", "GET faults", "GET clock",
                "GET volumes/<id>", "GET queues", "POST queues", "GET events", "POST events", "POST clock", "POST faults", "DELETE faults", "POST interrupt",
                "POST rebalance", "POST spare", "POST command", "POST forget-commands", "POST manage", "POST terminate", "POST capacity", "POST fail-launch",
                "POST stick", "POST hang", "POST let-go", "POST adoption", "POST uefi", "POST impair", "POST write", "POST mount", "POST unmount", "POST detach-interface",
            ],
        })),
        ("GET", "dump") => Ok(region.look(|world, _| world.dump())),
        ("GET", "check") => Ok(json!({ "violations": region.look(|world, _| world.check_invariants()) })),
        ("GET", "calls") => Ok(json!({ "calls": region.calls() })),
        ("GET", "leaks") => {
            let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            let owner = pairs.iter().find(|(key, _)| key == "owner").map(|(_, value)| value.clone());
            let expected: BTreeSet<String> =
                pairs.into_iter().filter(|(key, _)| key == "expected").map(|(_, value)| value).collect();
            let owner = owner.ok_or_else(|| bad("name the owner: leaks?owner=…&expected=id…"))?;
            Ok(json!({ "leaks": region.look(|world, _| world.leaks(&owner, &expected)) }))
        }
        ("GET", "clock") => Ok(clock(region)),
        ("POST", "clock") => {
            let speed = number(&request, "speed")?;
            let speed = speed.map(checked_speed).transpose().map_err(bad)?;
            let ahead = number(&request, "advance_s")?.unwrap_or(0.0);
            if !(0.0..=ADVANCE_MAX_S).contains(&ahead) {
                return Err(bad("time moves forwards only, and at most ten years at once"));
            }
            region.move_clock((ahead * 1000.0) as u64, speed);
            Ok(clock(region))
        }
        ("GET", "faults") => {
            let faults = region.faults();
            let rules =
                faults.rules().map(|(rule, seen)| json!({ "rule": format!("{rule:?}"), "seen": seen }));
            Ok(json!({ "faults": rules.collect::<Vec<_>>() }))
        }
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
        ("POST", "faults") => {
            let rule = parsed::<FaultSpec>(&request)?.rule().map_err(wrong)?;
            let mut faults = region.faults();
            if faults.rules().count() >= RULES_MAX {
                return Err(bad(format!("at most {RULES_MAX} rules; DELETE faults first")));
            }
            faults.add(rule);
            Ok(json!({}))
        }
        ("DELETE", "faults") => {
            region.faults().clear();
            Ok(json!({}))
        }
        ("GET", other) if other.starts_with("volumes/") => {
            let id = other.trim_start_matches("volumes/");
            let id = VolumeId::parse(id).map_err(|error| bad(error.to_string()))?;
            region.look(|world, _| match world.volume(&id) {
                Some(volume) => Ok(json!({ "id": id, "content": volume.content })),
                None => Err(ApiError::with_status(404, "InvalidVolume.NotFound", format!("no volume {id}"))),
            })
        }
        ("POST", deed) => region.control(deed, &request),
        _ => Err(ApiError::with_status(
            404,
            "NotFound",
            format!("there is no {method} {path}; see GET /_region/"),
        )),
    }
}

fn clock(region: &Region) -> Json {
    json!({ "now_ms": region.now_ms(), "speed": region.speed() })
}

fn number(request: &Json, name: &str) -> Result<Option<f64>, ApiError> {
    match &request[name] {
        Json::Null => Ok(None),
        value => value
            .as_f64()
            .filter(|n| n.is_finite())
            .map(Some)
            .ok_or_else(|| bad(format!("{name} is a number"))),
    }
}

fn text<'a>(request: &'a Json, name: &str) -> Result<&'a str, ApiError> {
    request[name].as_str().ok_or_else(|| bad(format!("{name} is missing")))
}

fn seconds(request: &Json, name: &str) -> Result<Option<Duration>, ApiError> {
    match number(request, name)? {
        None => Ok(None),
        Some(s) if (0.0..=ADVANCE_MAX_S).contains(&s) => Ok(Some(Duration::from_secs_f64(s))),
        Some(_) => Err(bad(format!("{name} is out of range"))),
    }
}

/// A part of a request that has a form of its own, and what of it is wrong.
fn parsed<T: DeserializeOwned>(request: &Json) -> Result<T, ApiError> {
    serde_json::from_value(request.clone()).map_err(|error| bad(error.to_string()))
}

fn wrong((field, why): (&'static str, String)) -> ApiError {
    bad(format!("{field}: {why}"))
}

/// What commands shall do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptSpec {
    instance: Option<String>,
    contains: Option<String>,
    next: Option<u64>,
    #[serde(default)]
    outcome: OutcomeWord,
    exit_code: Option<i32>,
    stdout: Option<String>,
    stderr: Option<String>,
    delay_s: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeWord {
    #[default]
    Exits,
    Hangs,
    Undeliverable,
    Unfetched,
}

fn script(request: &Json) -> Result<Script, ApiError> {
    let spec: ScriptSpec = parsed(request)?;
    let instance = spec.instance.as_deref().map(InstanceId::parse).transpose();
    let after = seconds(request, "delay_s")?.unwrap_or(Duration::from_secs(1));
    let text = |text: Option<String>, name: &str| match text {
        Some(text) if text.len() > RECORD_MAX => Err(bad(format!("{name} has at most {RECORD_MAX} bytes"))),
        text => Ok(text.unwrap_or_default()),
    };
    let exits = spec.exit_code.is_some() || spec.stdout.is_some() || spec.stderr.is_some();
    let outcome = match spec.outcome {
        OutcomeWord::Exits => Outcome::Exits {
            code: spec.exit_code.unwrap_or(0),
            stdout: text(spec.stdout, "stdout")?,
            stderr: text(spec.stderr, "stderr")?,
            after,
        },
        _ if exits => return Err(bad("outcome: only one that exits has an exit_code, stdout and stderr")),
        OutcomeWord::Hangs => Outcome::Hangs,
        OutcomeWord::Undeliverable => Outcome::Undeliverable(after),
        OutcomeWord::Unfetched => Outcome::Unfetched,
    };
    if spec.delay_s.is_some() && matches!(outcome, Outcome::Hangs | Outcome::Unfetched) {
        return Err(bad("delay_s: what hangs or is not fetched takes as long as its timeout"));
    }
    Ok(Script {
        instance: instance.map_err(|error| bad(error.to_string()))?,
        contains: Some(text(spec.contains, "contains")?).filter(|part| !part.is_empty()),
        left: spec.next,
        outcome,
    })
}

/// A volume that there is.
fn known(world: &World, id: VolumeId) -> Result<VolumeId, ApiError> {
    match world.volume(&id) {
        Some(_) => Ok(id),
        None => Err(ApiError::with_status(404, "InvalidVolume.NotFound", format!("no volume {id}"))),
    }
}

/// Changes the world.
pub(super) fn act(world: &mut World, now_ms: u64, deed: &str, request: &Json) -> Result<Json, ApiError> {
    let instance = || InstanceId::parse(text(request, "instance")?).map_err(|error| bad(error.to_string()));
    let volume = || VolumeId::parse(text(request, "volume")?).map_err(|error| bad(error.to_string()));
    let guest = |error: crate::world::GuestError| bad(error.to_string());
    match deed {
        "interrupt" => {
            let id = instance()?;
            match request["notice"].as_str().unwrap_or("full") {
                "none" => world.reclaim_now(now_ms, &id)?,
                "vanish" => world.vanish(now_ms, &id)?,
                notice @ ("full" | "silent") => {
                    let usual = Notice::default();
                    let notice = Notice {
                        lead: seconds(request, "lead_s")?.unwrap_or(usual.lead),
                        with_event: notice == "full",
                        rebalance_first: seconds(request, "rebalance_first_s")?,
                    };
                    world.interrupt(now_ms, &id, notice)?;
                }
                other => return Err(bad(format!("{other} is no notice: full, silent, none, vanish"))),
            }
            let found = world.instance(&id);
            Ok(
                json!({ "instance": id, "reclaim_at_ms": found.and_then(|i| i.reclaim_at_ms), "now_ms": now_ms }),
            )
        }
        "rebalance" => world.recommend_rebalance(now_ms, &instance()?).map(|()| json!({})),
        "spare" => {
            world.spare(now_ms, &instance()?);
            Ok(json!({}))
        }
        "terminate" => {
            let state = world.terminate_instances(now_ms, &instance()?)?;
            Ok(json!({ "state": state }))
        }
        "capacity" => {
            for pool in parsed::<PoolSpec>(request)?.pools(&world.zones()).map_err(wrong)? {
                world.set_capacity(&pool.instance_type, &pool.zone, pool.market, pool.capacity);
            }
            Ok(json!({}))
        }
        "fail-launch" => {
            world.fail_next_launch(request["reason"].as_str().unwrap_or("Server.InternalError"));
            Ok(json!({}))
        }
        "stick" => match text(request, "what")? {
            "attach" => {
                world.stick_next_attach();
                Ok(json!({}))
            }
            "detach" => {
                world.stick_next_detach();
                Ok(json!({}))
            }
            other => Err(bad(format!("{other} does not stick: attach, detach"))),
        },
        "uefi" => {
            world.set_uefi_data(&instance()?, text(request, "data")?);
            Ok(json!({}))
        }
        "hang" => {
            let hang = match request["withstands"].as_str().unwrap_or("detach") {
                "detach" => Hang::UntilForced,
                "force" => Hang::ForEver,
                other => return Err(bad(format!("{other} is nothing to withstand: detach, force"))),
            };
            let length_ms = seconds(request, "for_s")?.map(|length| length.as_millis() as u64);
            world.hang_volume(now_ms, &known(world, volume()?)?, hang, length_ms);
            Ok(json!({}))
        }
        "let-go" => {
            world.let_go(now_ms, &known(world, volume()?)?);
            Ok(json!({}))
        }
        "adoption" => {
            world.set_root_adoption(match (text(request, "what")?, &request["volume"]) {
                ("fails", Json::String(_)) => RootAdoption::FailsFor(known(world, volume()?)?.to_string()),
                (word, Json::Null) => serde_json::from_value::<AdoptionWord>(json!(word))
                    .map_err(|_| {
                        bad(format!(
                            "{word} is no way of adopting: supported, unsupported, fails, fails-detached"
                        ))
                    })?
                    .into(),
                (word, _) => return Err(bad(format!("volume: only with `fails`, not with {word}"))),
            });
            Ok(json!({}))
        }
        "impair" => {
            world.set_impaired(&instance()?, request["impaired"].as_bool().unwrap_or(true));
            Ok(json!({}))
        }
        "write" => {
            let record = text(request, "record")?;
            if record.len() > RECORD_MAX {
                return Err(bad(format!("a record has at most {RECORD_MAX} bytes")));
            }
            match request["device"].as_str() {
                Some(device) => world.write(now_ms, &instance()?, device, record).map_err(guest)?,
                None => world.write_volume(now_ms, &volume()?, record)?,
            }
            Ok(json!({}))
        }
        "command" => {
            world.script_commands(script(request)?)?;
            Ok(json!({}))
        }
        "forget-commands" => {
            world.forget_scripts();
            Ok(json!({}))
        }
        "manage" => {
            world.set_managed(now_ms, &instance()?, request["managed"].as_bool().unwrap_or(true));
            Ok(json!({}))
        }
        "mount" => world.mount(now_ms, &instance()?, &volume()?).map(|()| json!({})).map_err(guest),
        "unmount" => world.unmount(now_ms, &instance()?, &volume()?).map(|()| json!({})).map_err(guest),
        "detach-interface" => {
            let id = text(request, "interface")?;
            let id = InterfaceId::parse(id).map_err(|error| bad(error.to_string()))?;
            let plug = world.interface(&id).and_then(|interface| interface.attachment.clone());
            let plug = plug.ok_or_else(|| bad(format!("{id} is not attached")))?;
            world.detach_interface(now_ms, &plug.id).map(|()| json!({}))
        }
        other => Err(ApiError::with_status(
            404,
            "NotFound",
            format!("there is no POST {other}; see GET /_region/"),
        )),
    }
}
