//! Deeds of the control surface: changes of the world for which AWS has no call. The log of the state repeats
//! them.

use std::time::Duration;

use perennial_workflows::model::aws::{InstanceId, InterfaceId, SnapshotId, VolumeId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::config::{AddressPoolSpec, AdoptionWord};
use crate::world::settings::RootAdoption;
use crate::world::stuck_detach::StuckDetach;
use crate::world::{ApiError, GuestError, Notice, Outcome, Script, World};

/// The longest step of the clock, and any other length of time: ten years.
pub(super) const ADVANCE_MAX_S: f64 = 315_360_000.0;
/// Bytes of a record on a volume.
const RECORD_MAX: usize = 64 * 1024;

/// Changes the world.
pub(super) fn act(world: &mut World, now_ms: u64, deed: &str, request: &Json) -> Result<Json, ApiError> {
    let mut call = Deed { world, now_ms, request };
    match deed {
        "interrupt" => return call.interrupt(),
        "terminate" => return call.terminate(),
        "rebalance" => call.rebalance(),
        "spare" => call.spare(),
        "capacity" => call.capacity(),
        "fail-launch" => call.fail_launch(),
        "fail-snapshot" => call.fail_snapshot(),
        "stick" => call.stick(),
        "uefi" => call.uefi(),
        "hang" => call.hang(),
        "hang-shutdown" => call.hang_shutdown(),
        "product-code" => call.product_code(),
        "let-go" => call.let_go(),
        "adoption" => call.adoption(),
        "impair" => call.impair(),
        "write" => call.write(),
        "command" => call.command(),
        "forget-commands" => call.forget_commands(),
        "manage" => call.manage(),
        "mount" => call.mount(),
        "unmount" => call.unmount(),
        "detach-interface" => call.detach_interface(),
        other => {
            let message = format!("there is no POST {other}; see GET /_region/");
            Err(ApiError::with_status(404, "NotFound", message))
        }
    }?;
    Ok(json!({}))
}

/// A refusal of a request that is wrong.
pub(super) fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new("BadRequest", message)
}

fn guest(error: GuestError) -> ApiError {
    bad(error.to_string())
}

/// A deed under way.
struct Deed<'a> {
    world: &'a mut World,
    now_ms: u64,
    request: &'a Json,
}

impl Deed<'_> {
    fn instance(&self) -> Result<InstanceId, ApiError> {
        InstanceId::parse(text(self.request, "instance")?).map_err(|error| bad(error.to_string()))
    }

    fn volume(&self) -> Result<VolumeId, ApiError> {
        VolumeId::parse(text(self.request, "volume")?).map_err(|error| bad(error.to_string()))
    }

    /// A volume that exists.
    fn known_volume(&self) -> Result<VolumeId, ApiError> {
        let id = self.volume()?;
        match self.world.volume(&id) {
            Some(_) => Ok(id),
            None => Err(ApiError::with_status(404, "InvalidVolume.NotFound", format!("no volume {id}"))),
        }
    }
}

/// Instances and their capacity.
impl Deed<'_> {
    fn interrupt(&mut self) -> Result<Json, ApiError> {
        let (request, now_ms) = (self.request, self.now_ms);
        let id = self.instance()?;
        match request["notice"].as_str().unwrap_or("full") {
            "none" => self.world.reclaim_now(now_ms, &id)?,
            "vanish" => self.world.vanish(now_ms, &id)?,
            notice @ ("full" | "silent") => {
                let usual = Notice::default();
                let notice = Notice {
                    lead: seconds(request, "lead_s")?.unwrap_or(usual.lead),
                    with_event: notice == "full",
                    rebalance_first: seconds(request, "rebalance_first_s")?,
                };
                self.world.interrupt(now_ms, &id, notice)?;
            }
            other => return Err(bad(format!("{other} is no notice: full, silent, none, vanish"))),
        }
        let reclaim_at_ms = self.world.instance(&id).and_then(|found| found.reclaim_at_ms);
        Ok(json!({ "instance": id, "reclaim_at_ms": reclaim_at_ms, "now_ms": now_ms }))
    }

    fn terminate(&mut self) -> Result<Json, ApiError> {
        let id = self.instance()?;
        let state = self.world.terminate_instances(self.now_ms, &id)?;
        Ok(json!({ "state": state }))
    }

    fn hang_shutdown(&mut self) -> Result<(), ApiError> {
        let id = self.instance()?;
        self.world.hang_shutdown(&id);
        Ok(())
    }

    fn rebalance(&mut self) -> Result<(), ApiError> {
        let id = self.instance()?;
        self.world.recommend_rebalance(self.now_ms, &id)
    }

    fn spare(&mut self) -> Result<(), ApiError> {
        let id = self.instance()?;
        self.world.spare(self.now_ms, &id);
        Ok(())
    }

    fn capacity(&mut self) -> Result<(), ApiError> {
        for pool in parsed::<AddressPoolSpec>(self.request)?.pools(&self.world.zones()).map_err(wrong)? {
            self.world.set_capacity(&pool.instance_type, &pool.zone, pool.market, pool.capacity);
        }
        Ok(())
    }

    fn fail_launch(&mut self) -> Result<(), ApiError> {
        let reason = self.request["reason"].as_str().unwrap_or("Server.InternalError");
        self.world.fail_next_launch(reason);
        Ok(())
    }

    fn impair(&mut self) -> Result<(), ApiError> {
        let id = self.instance()?;
        self.world.set_impaired(&id, self.request["impaired"].as_bool().unwrap_or(true));
        Ok(())
    }

    fn uefi(&mut self) -> Result<(), ApiError> {
        let id = self.instance()?;
        self.world.set_uefi_data(&id, text(self.request, "data")?);
        Ok(())
    }

    fn detach_interface(&mut self) -> Result<(), ApiError> {
        let id = text(self.request, "interface")?;
        let id = InterfaceId::parse(id).map_err(|error| bad(error.to_string()))?;
        let plug = self.world.interface(&id).and_then(|interface| interface.attachment.clone());
        let plug = plug.ok_or_else(|| bad(format!("{id} is not attached")))?;
        self.world.detach_interface(self.now_ms, &plug.id)
    }
}

/// Volumes, and their use by guests.
impl Deed<'_> {
    fn stick(&mut self) -> Result<(), ApiError> {
        match text(self.request, "what")? {
            "attach" => self.world.stick_next_attach(),
            "detach" => self.world.stick_next_detach(),
            other => return Err(bad(format!("{other} does not stick: attach, detach"))),
        }
        Ok(())
    }

    fn fail_snapshot(&mut self) -> Result<(), ApiError> {
        match (&self.request["snapshot"], &self.request["volume"]) {
            (Json::Null, Json::Null) => self.world.fail_next_snapshot(None),
            (Json::Null, _) => {
                let volume = self.known_volume()?;
                self.world.fail_next_snapshot(Some(&volume));
            }
            (_, Json::Null) => {
                let id = SnapshotId::parse(text(self.request, "snapshot")?);
                let id = id.map_err(|error| bad(error.to_string()))?;
                self.world.fail_snapshot(self.now_ms, &id)?;
            }
            _ => return Err(bad("a snapshot that is pending, or the next one of a volume")),
        }
        Ok(())
    }

    fn hang(&mut self) -> Result<(), ApiError> {
        let withstands = match self.request["withstands"].as_str().unwrap_or("detach") {
            "detach" => StuckDetach::UntilForced,
            "force" => StuckDetach::ForEver,
            other => return Err(bad(format!("{other} is nothing to withstand: detach, force"))),
        };
        let length_ms = seconds(self.request, "for_s")?.map(|length| length.as_millis() as u64);
        let id = self.known_volume()?;
        self.world.stick_detach(self.now_ms, &id, withstands, length_ms);
        Ok(())
    }

    fn product_code(&mut self) -> Result<(), ApiError> {
        let id = self.known_volume()?;
        self.world.set_product_code(&id, text(self.request, "code")?);
        Ok(())
    }

    fn let_go(&mut self) -> Result<(), ApiError> {
        let id = self.known_volume()?;
        self.world.release_stuck_detach(self.now_ms, &id);
        Ok(())
    }

    fn adoption(&mut self) -> Result<(), ApiError> {
        let request = self.request;
        let adoption = match (text(request, "what")?, &request["volume"]) {
            ("fails", Json::String(_)) => RootAdoption::FailsFor(self.known_volume()?.to_string()),
            (word, Json::Null) => serde_json::from_value::<AdoptionWord>(json!(word))
                .map_err(|_| {
                    bad(format!(
                        "{word} is no way of adopting: supported, unsupported, fails, fails-detached"
                    ))
                })?
                .into(),
            (word, _) => return Err(bad(format!("volume: only with `fails`, not with {word}"))),
        };
        self.world.set_root_adoption(adoption);
        Ok(())
    }

    fn write(&mut self) -> Result<(), ApiError> {
        let record = text(self.request, "record")?;
        if record.len() > RECORD_MAX {
            return Err(bad(format!("a record has at most {RECORD_MAX} bytes")));
        }
        match self.request["device"].as_str() {
            Some(device) => {
                let id = self.instance()?;
                self.world.write(self.now_ms, &id, device, record).map_err(guest)
            }
            None => {
                let id = self.volume()?;
                self.world.write_volume(self.now_ms, &id, record)
            }
        }
    }

    fn mount(&mut self) -> Result<(), ApiError> {
        let (instance, volume) = (self.instance()?, self.volume()?);
        self.world.mount(self.now_ms, &instance, &volume).map_err(guest)
    }

    fn unmount(&mut self) -> Result<(), ApiError> {
        let (instance, volume) = (self.instance()?, self.volume()?);
        self.world.unmount(self.now_ms, &instance, &volume).map_err(guest)
    }
}

/// Systems Manager's agents and commands.
impl Deed<'_> {
    fn command(&mut self) -> Result<(), ApiError> {
        self.world.script_commands(script(self.request)?)
    }

    fn forget_commands(&mut self) -> Result<(), ApiError> {
        self.world.forget_scripts();
        Ok(())
    }

    fn manage(&mut self) -> Result<(), ApiError> {
        let id = self.instance()?;
        self.world.set_managed(self.now_ms, &id, self.request["managed"].as_bool().unwrap_or(true));
        Ok(())
    }
}

/// How commands end from now on.
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

/// A finite number, if there is one.
pub(super) fn number(request: &Json, name: &str) -> Result<Option<f64>, ApiError> {
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

/// A request in a form of its own.
pub(super) fn parsed<T: DeserializeOwned>(request: &Json) -> Result<T, ApiError> {
    serde_json::from_value(request.clone()).map_err(|error| bad(error.to_string()))
}

/// The refusal of one field.
pub(super) fn wrong((field, why): (&'static str, String)) -> ApiError {
    bad(format!("{field}: {why}"))
}
