//! The commands on a running region: each is one request to its control surface.

use serde_json::{Map, Value, json};

use crate::commands::region::args::{FaultKind, FaultsCommand, MarketKind, NoticeKind, RegionCommand};
use crate::commands::region::client::{At, instance, refused, volume_at};
use crate::failure::Failure;
use crate::output::{Output, region};

/// Carries a command out.
pub(crate) async fn act(command: &RegionCommand, output: Output) -> Result<(), Failure> {
    match command {
        RegionCommand::Interrupt { instance, lead, notice, rebalance_first, at } => {
            let warning = request([
                ("notice", json!(notice_word(*notice))),
                ("lead_s", json!(lead)),
                ("rebalance_first_s", json!(rebalance_first)),
            ]);
            interrupt(at, instance, warning, output).await
        }
        RegionCommand::Rebalance { instance, at } => {
            to_instance("rebalance", at, instance, json!({}), output).await
        }
        RegionCommand::Spare { instance, at } => to_instance("spare", at, instance, json!({}), output).await,
        RegionCommand::Terminate { instance, at } => {
            to_instance("terminate", at, instance, json!({}), output).await
        }
        RegionCommand::Impair { instance, heal, at } => {
            to_instance("impair", at, instance, json!({ "impaired": !heal }), output).await
        }
        RegionCommand::DetachInterface { interface, at } => {
            post("detach-interface", at, json!({ "interface": interface }), output).await
        }
        RegionCommand::Capacity { r#type, capacity, zone, market, at } => {
            let capacity = capacity.parse::<u32>().map_or_else(|_| json!(capacity), |number| json!(number));
            let body = request([
                ("type", json!(r#type)),
                ("capacity", capacity),
                ("zone", json!(zone)),
                ("market", json!(market_word(*market))),
            ]);
            post("capacity", at, body, output).await
        }
        RegionCommand::Faults { command, at } => faults(command.as_ref(), at, output).await,
        RegionCommand::FailLaunch { reason, at } => {
            post("fail-launch", at, json!({ "reason": reason }), output).await
        }
        RegionCommand::Stick { what, at } => post("stick", at, json!({ "what": what }), output).await,
        RegionCommand::Clock { advance, speed, at } => {
            let change = request([("advance_s", json!(advance)), ("speed", json!(speed))]);
            clock(at, &change, output).await
        }
        RegionCommand::Write { target, what, at } => write(at, target, what, output).await,
        RegionCommand::Read { target, device, at } => read(at, target, device.as_deref(), output).await,
        RegionCommand::Dump { at } => {
            let answer = at.client()?.get("dump").await.map_err(refused)?;
            output.show(&answer, || region::overview(&answer))
        }
        RegionCommand::Leaks { owner, expected, at } => {
            let answer = at.client()?.leaks(owner, expected).await.map_err(refused)?;
            none_of(&answer, "leaks", "nothing beyond what is expected", output)
        }
        RegionCommand::Post { action, fields, at } => {
            let body = Value::Object(fields.iter().cloned().collect());
            let answer = at.client()?.post(action, &body).await.map_err(refused)?;
            output.json(&answer)
        }
        RegionCommand::Check { at } => {
            let answer = at.client()?.get("check").await.map_err(refused)?;
            none_of(&answer, "violations", "every invariant holds", output)
        }
        RegionCommand::Calls { at } => {
            let answer = at.client()?.get("calls").await.map_err(refused)?;
            output.show(&answer, || region::calls(&answer))
        }
    }
}

/// A request without what was not said.
fn request<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let said = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

const fn notice_word(notice: NoticeKind) -> &'static str {
    match notice {
        NoticeKind::Full => "full",
        NoticeKind::Silent => "silent",
        NoticeKind::None => "none",
        NoticeKind::Vanish => "vanish",
    }
}

const fn market_word(market: MarketKind) -> &'static str {
    match market {
        MarketKind::Spot => "spot",
        MarketKind::OnDemand => "on-demand",
    }
}

async fn interrupt(at: &At, name: &str, mut body: Value, output: Output) -> Result<(), Failure> {
    let client = at.client()?;
    let id = instance(&client, name).await?;
    body["instance"] = json!(id);
    let answer = client.post("interrupt", &body).await.map_err(refused)?;
    output.show(&answer, || region::interruption(&id, &answer))
}

async fn faults(command: Option<&FaultsCommand>, at: &At, output: Output) -> Result<(), Failure> {
    match command {
        None => {
            let answer = at.client()?.get("faults").await.map_err(refused)?;
            output.show(&answer, || region::faults(&answer))
        }
        Some(FaultsCommand::Clear) => {
            at.client()?.delete("faults").await.map_err(refused)?;
            output.show(&json!({}), || "done".to_owned())
        }
        Some(add) => post("faults", at, fault(add), output).await,
    }
}

fn fault(command: &FaultsCommand) -> Value {
    let FaultsCommand::Add { action, fault, code, delay_ms, next, nth, per_mille, always } = command else {
        return Value::Null;
    };
    let fault = match fault {
        FaultKind::Before => "before",
        FaultKind::After => "after",
        FaultKind::LostRequest => "lost_request",
        FaultKind::LostReply => "lost_reply",
        FaultKind::Delay => "delay",
    };
    request([
        ("action", json!(action)),
        ("fault", json!(fault)),
        ("code", json!(code)),
        ("delay_ms", json!(delay_ms)),
        ("next", json!(next)),
        ("nth", json!(nth)),
        ("per_mille", json!(per_mille)),
        ("always", json!(always.then_some(true))),
    ])
}

/// Shows the region's time, after a change if one is asked for.
async fn clock(at: &At, change: &Value, output: Output) -> Result<(), Failure> {
    let client = at.client()?;
    let is_change = change.as_object().is_some_and(|fields| !fields.is_empty());
    let answer = if is_change { client.post("clock", change).await } else { client.get("clock").await };
    let answer = answer.map_err(refused)?;
    output.show(&answer, || region::clock(&answer))
}

async fn write(at: &At, target: &str, what: &[String], output: Output) -> Result<(), Failure> {
    let client = at.client()?;
    let body = match what {
        [record] => json!({ "volume": target, "record": record }),
        [device, record, ..] => {
            json!({ "instance": instance(&client, target).await?, "device": device, "record": record })
        }
        [] => return Err(Failure::internal("BUG: a write without a record")),
    };
    let answer = client.post("write", &body).await.map_err(refused)?;
    output.show(&answer, || "written".to_owned())
}

async fn read(at: &At, target: &str, device: Option<&str>, output: Output) -> Result<(), Failure> {
    let client = at.client()?;
    let volume = match device {
        None => target.to_owned(),
        Some(device) => volume_at(&client, target, device).await?,
    };
    let answer = client.get(&format!("volumes/{volume}")).await.map_err(refused)?;
    output.show(&answer, || region::content(&answer))
}

/// Does something to an instance.
async fn to_instance(
    action: &str,
    at: &At,
    name: &str,
    mut body: Value,
    output: Output,
) -> Result<(), Failure> {
    let client = at.client()?;
    body["instance"] = json!(instance(&client, name).await?);
    let answer = client.post(action, &body).await.map_err(refused)?;
    output.show(&answer, || "done".to_owned())
}

async fn post(action: &str, at: &At, body: Value, output: Output) -> Result<(), Failure> {
    let answer = at.client()?.post(action, &body).await.map_err(refused)?;
    output.show(&answer, || "done".to_owned())
}

/// Shows a list that should be empty; a failure if it is not.
fn none_of(answer: &Value, name: &str, none: &str, output: Output) -> Result<(), Failure> {
    let found = region::findings(answer, name);
    output.show(answer, || if found.is_empty() { none.to_owned() } else { found.join("\n") })?;
    match found.len() {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{name}: {count}"))),
    }
}
