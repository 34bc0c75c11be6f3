//! The one screen for three in the morning: is the node up, since when, why, what it waits for, is the data
//! safe, what is the address, when does it end, and what must a person do.

use perennial_views::model::node::{Condition, NodeView};
use perennial_views::model::progress::{Advice, CapacityWait, OpenStepView, Progress};
use perennial_workflows::model::operation_id::OperationKind;
use perennial_workflows::model::signal::{Cause, News};

use crate::output::width;
use crate::output::words::{lasting, moment, wrapped};

/// Where the text of a row begins.
const INDENT: usize = 10;

/// Where the server's state stands in the first line.
const SERVER_AT: usize = 56;

/// How many open steps are told.
const STEPS_TOLD: usize = 4;

/// A reader does not feel that a step takes less than this beyond its typical time.
const TYPICAL_MIN_MS: u64 = 1_000;

/// The screen of a node.
pub(crate) fn of(view: &NodeView, now_ms: u64) -> String {
    let mut lines = first_lines(view, now_ms);
    let mut row = |name: &str, text: &str| lines.push(wrapped(&format!("{name:<9}"), text, INDENT));
    if let Some(why) = why(view, now_ms) {
        row("why", &why);
    }
    for (index, now) in now(view, now_ms).iter().enumerate() {
        row(if index == 0 { "now" } else { "" }, now);
    }
    for (index, data) in data(view).iter().enumerate() {
        row(if index == 0 { "data" } else { "" }, data);
    }
    if let Some(address) = address(view) {
        row("address", &address);
    }
    if let Some(ends) = view.open.as_ref().and_then(|open| ends(open, now_ms)) {
        row("ends", if is_unattended(view) { "not before a server runs" } else { &ends });
    }
    lines.extend(you(view));
    lines.push(format!("{:<INDENT$}{}", "more", more(view)));
    lines.join("\n")
}

/// Whether it is known that no server runs.
fn is_unattended(view: &NodeView) -> bool {
    view.server.as_ref().is_some_and(|server| !server.running)
}

/// The name, the state and since when, and whether a server runs; that has a line of its own where it does
/// not fit.
fn first_lines(view: &NodeView, now_ms: u64) -> Vec<String> {
    let head = format!("{:<9} {}", view.name.to_string(), state(view, now_ms));
    let Some(server) = &view.server else { return vec![head] };
    let server = if server.running { "running" } else { "NOT RUNNING" };
    let length = head.chars().count();
    let fits = width().is_none_or(|width| length + "  server: ".len() + server.len() <= width);
    if length + 2 <= SERVER_AT {
        vec![format!("{head:<SERVER_AT$}server: {server}")]
    } else if fits {
        vec![format!("{head}  server: {server}")]
    } else {
        vec![head, format!("{:<INDENT$}{server}", "server")]
    }
}

/// The state, and since when it is so.
fn state(view: &NodeView, now_ms: u64) -> String {
    let since = view.since_ms.map_or_else(String::new, |since_ms| {
        format!(" for {}, since {}", lasting(now_ms.saturating_sub(since_ms)), moment(since_ms, now_ms))
    });
    let long =
        view.since_ms.map_or_else(String::new, |since_ms| format!(" since {}", moment(since_ms, now_ms)));
    match (view.condition, &view.open) {
        (Condition::Behind, _) => format!("BEHIND the account{since}"),
        (Condition::Stuck, _) if view.down.is_some() => format!("STUCK and DOWN{since}"),
        (Condition::Stuck, open) => {
            let up = if open.as_ref().is_some_and(|open| serves(open.kind)) {
                "; it serves meanwhile"
            } else {
                ""
            };
            format!("STUCK{since}{up}")
        }
        (Condition::Down, _) => format!("DOWN{since}"),
        (Condition::Working, Some(open)) => {
            format!("{}{since}", working(open.kind))
        }
        (Condition::Working, None) | (Condition::InPlace, _) => format!("UP{long}"),
        (Condition::Paused, _) => format!("PAUSED{long}"),
        (Condition::Deleted, _) => format!("DELETED{long}"),
    }
}

/// Whether an instance still carries the node while nothing was taken from it.
const fn serves(kind: OperationKind) -> bool {
    match kind {
        OperationKind::Replace | OperationKind::Grow | OperationKind::AdoptVolumes | OperationKind::Prune => {
            true
        }
        OperationKind::Provision | OperationKind::Delete | OperationKind::Pause | OperationKind::Resume => {
            false
        }
    }
}

const fn working(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Provision => "being made",
        OperationKind::Replace => "UP, being replaced",
        OperationKind::Delete => "being deleted",
        OperationKind::Grow => "UP, its volumes grow",
        OperationKind::Pause => "being paused",
        OperationKind::Resume => "coming back",
        OperationKind::AdoptVolumes => "UP, volumes become its own",
        OperationKind::Prune => "UP, old volumes are deleted",
    }
}

/// What happened.
fn why(view: &NodeView, now_ms: u64) -> Option<String> {
    if !view.newer.is_empty() {
        return Some(format!("the account has what this journal cannot know: {}", view.newer.join("; ")));
    }
    if let Some(adopted) = view.adopted.as_ref().filter(|_| view.open.is_none()) {
        let at = moment(adopted.at_ms, now_ms);
        return Some(format!("adopted as the account showed it, by {}, {at}", adopted.requested_by));
    }
    if let Some(paused) = view.paused_by.as_ref().filter(|_| view.condition == Condition::Paused) {
        return Some(format!("{} (pause): {}", paused.workflow, paused.cause));
    }
    let carrier = view.resources.carrier.as_ref();
    let zone = view.resources.placement.as_ref().map_or("an unknown zone", |place| place.zone.as_str());
    let machine = carrier.map(|carrier| format!("{} {}, {zone}", carrier.instance_type, carrier.market));
    match (&view.open, &view.last_move) {
        (Some(open), _) => {
            let machine = machine.map_or_else(String::new, |machine| format!(" ({machine})"));
            let mut text = match &open.cause {
                Cause::Signal { signal } => {
                    let (instance, at) = (&signal.instance, moment(signal.at_ms, now_ms));
                    match &signal.news {
                        News::SpotInterruption { deadline_ms, .. } => {
                            let by = moment(*deadline_ms, now_ms);
                            format!("EC2 takes back {instance}{machine} by {by}, warned {at}")
                        }
                        News::ReservationInterruption { .. } => {
                            format!("{instance}{machine} loses its capacity reservation, warned {at}")
                        }
                        News::StateChange { state } => format!("{instance}{machine} is {state}, since {at}"),
                        News::Missing { .. } => format!("{instance}{machine} is gone, noticed {at}"),
                        News::Rebalance | News::ScheduledChange { .. } | News::Impaired { .. } => {
                            format!("{signal}, {at}")
                        }
                    }
                }
                cause => cause.to_string(),
            };
            let is_told = matches!(&open.cause, Cause::Signal { signal }
                if matches!(signal.news, News::StateChange { .. } | News::Missing { .. }));
            if let Some(down) = view.down.as_ref().filter(|_| !is_told) {
                text.push_str(&format!("; down since {}", down.because));
            }
            Some(text)
        }
        (None, Some(last)) if view.condition == Condition::InPlace => {
            let outage = last.outage_ms.map_or_else(String::new, |outage_ms| {
                let lost = if last.lost { "DATA WAS LOST" } else { "nothing lost" };
                format!("; outage {}, {lost}", lasting(outage_ms))
            });
            Some(format!("{} ({}): {}{outage}", last.workflow, last.kind, last.cause))
        }
        _ => None,
    }
}

/// What it does, and what that waits for.
fn now(view: &NodeView, now_ms: u64) -> Vec<String> {
    let mut lines = Vec::new();
    if view.condition == Condition::Behind {
        lines.push("nothing is launched, moved or deleted for it until it is adopted".to_owned());
    }
    let Some(open) = &view.open else { return lines };
    if is_unattended(view) {
        let last = view.server.as_ref().and_then(|server| server.last_event_ms);
        let ago = last.map_or_else(String::new, |last_ms| {
            format!(" (last event {} ago)", lasting(now_ms.saturating_sub(last_ms)))
        });
        lines.push(format!("nothing moves: no server runs on this journal{ago}"));
    }
    if let Some(stuck) = &open.stuck {
        lines.push(format!("stuck at {}: {}", stuck.step, stuck.because));
        return lines;
    }
    if let Some(wait) = &open.capacity {
        let zone =
            view.resources.placement.as_ref().map_or_else(String::new, |place| format!(" in {}", place.zone));
        lines.push(format!("waits for capacity: {}{zone} had none", wait.pools.join(", ")));
        lines.push(tried(wait, now_ms));
    }
    let told = |step: &&OpenStepView| {
        !(open.capacity.is_some() && matches!(step.step.as_str(), "launch" | "survey"))
    };
    let steps: Vec<&OpenStepView> = open.steps.iter().filter(told).collect();
    lines.extend(steps.iter().take(STEPS_TOLD).map(|step| under_way(step, now_ms)));
    if steps.len() > STEPS_TOLD {
        lines.push(format!("and {} steps more", steps.len() - STEPS_TOLD));
    }
    lines
}

/// The tries for capacity.
pub(crate) fn tried(wait: &CapacityWait, now_ms: u64) -> String {
    let times = if wait.refused == 1 { "once".to_owned() } else { format!("{} times", wait.refused) };
    let next = match wait.next_ms {
        Some(next_ms) if next_ms > now_ms => format!("; next {}", moment(next_ms, now_ms)),
        Some(_) => "; asks now".to_owned(),
        None => String::new(),
    };
    format!("tried {times}, last {} ({}){next}", moment(wait.last_ms, now_ms), wait.last_refusal)
}

/// A step that runs, or waits for its time.
pub(crate) fn under_way(step: &OpenStepView, now_ms: u64) -> String {
    if step.not_before_ms > now_ms {
        return format!("{} at {}", step.step, moment(step.not_before_ms, now_ms));
    }
    let lasts = lasting(now_ms.saturating_sub(step.since_ms.max(step.not_before_ms)));
    let again = if step.attempt > 1 { format!(" (try {})", step.attempt) } else { String::new() };
    let typical = match step.typical_ms {
        TYPICAL_MIN_MS.. => format!(", typically {}", lasting(step.typical_ms)),
        _ => String::new(),
    };
    let waits = step.waits.as_ref().map_or_else(String::new, |waits| format!(": {}", waits.because));
    format!("{}{again} for {lasts}{typical}{waits}", step.step)
}

/// Where each volume is.
fn data(view: &NodeView) -> Vec<String> {
    match &view.open {
        Some(open) => {
            let line = |volume: &perennial_views::model::progress::VolumeNow| {
                let id = volume.volume.as_ref().map_or_else(String::new, |id| format!(" {id}"));
                let returns = if volume.returns.is_empty() { "" } else { ", " };
                format!("{}{id}: {}{returns}{}", volume.slot, volume.place, volume.returns)
            };
            open.volumes.iter().map(line).collect()
        }
        None => {
            let held = view.resources.volumes.iter();
            let held: Vec<String> = held.map(|(slot, held)| format!("{slot} {}", held.volume)).collect();
            if held.is_empty() {
                return Vec::new();
            }
            if view.condition == Condition::Behind {
                let knows = "not touched; where it is, the account knows. By this older journal:";
                return vec![format!("{knows} {}", held.join(", "))];
            }
            let on = view.resources.carrier.as_ref();
            let on = on.map_or_else(|| "free".to_owned(), |carrier| format!("on {}", carrier.instance));
            let backup = view.backups.loss_window_ms;
            let backup = backup.map_or_else(
                || "no backup".to_owned(),
                |age_ms| format!("last backup {} ago", lasting(age_ms)),
            );
            vec![format!("{}: {on}; {backup}", held.join(", "))]
        }
    }
}

/// Where its address is.
fn address(view: &NodeView) -> Option<String> {
    let resources = &view.resources;
    if let Some(open) = &view.open {
        return match &open.address {
            Some(address) => Some(format!("{} is {}", address.address, address.place)),
            None => (!matches!(open.kind, OperationKind::Delete)).then(|| "a new one each time".to_owned()),
        };
    }
    let keeper = resources.address_interface.as_ref();
    if view.condition == Condition::Behind {
        return resources.address.map(|address| format!("{address}, by this older journal"));
    }
    match (resources.address, &resources.carrier, keeper) {
        (Some(address), Some(_), _) => Some(address.to_string()),
        (Some(address), None, Some(keeper)) => Some(format!("{address} is kept by {keeper}")),
        (Some(address), None, None) => Some(format!("{address} is kept")),
        (None, Some(carrier), _) => Some(format!("{}, a new one each time", carrier.private_ip)),
        (None, None, _) => None,
    }
}

/// When it is over.
pub(crate) fn ends(open: &Progress, now_ms: u64) -> Option<String> {
    if open.stuck.is_some() {
        return Some("when a person has helped".to_owned());
    }
    let left_ms = open.remaining.map(|left| left.whole_ms.unwrap_or(left.total_ms))?;
    let left = lasting(left_ms.max(TYPICAL_MIN_MS));
    if open.capacity.is_some() {
        return Some(format!("when there is capacity; then about {left}"));
    }
    let mut waits = open.steps.iter().filter_map(|step| Some((step, step.waits.as_ref()?)));
    if let Some((step, waits)) = waits.next() {
        let patience = match waits.by_itself {
            true => "; it is waited for as long as it takes".to_owned(),
            false if step.deadline_ms > now_ms => {
                let deadline = moment(step.deadline_ms, now_ms);
                format!(". If it has not passed at {deadline}, another way is taken, or you are asked")
            }
            false => String::new(),
        };
        return Some(format!("when what it waits for has passed, then about {left}{patience}"));
    }
    let at = moment(now_ms.saturating_add(left_ms), now_ms);
    Some(format!("in about {left}, at {at}, if all takes its typical time"))
}

/// What a person has to do, each command on a line of its own.
fn you(view: &NodeView) -> Vec<String> {
    let advice = advice(view);
    let mut lines = vec![wrapped(&format!("{:<9}", "you"), &advice.text, INDENT)];
    lines.extend(advice.commands.iter().map(|command| format!("{:INDENT$}  {command}", "")));
    lines
}

/// What a person has to do, or may do, whether a workflow is open or not.
fn advice(view: &NodeView) -> Advice {
    let said = |needed: bool, text: &str, commands: &[&str]| {
        let commands = commands.iter().map(|command| (*command).to_owned()).collect();
        Advice { needed, text: text.to_owned(), commands }
    };
    let serve = "perennial serve";
    let resume = format!("perennial node resume {}", view.name);
    let unattended = is_unattended(view);
    match (view.condition, &view.open) {
        (Condition::Behind, _) => {
            let process = view.server.as_ref().filter(|server| server.running);
            let process = process.and_then(|server| server.process.as_ref());
            let stop = process.map_or_else(String::new, |id| format!("stop the server (process {id}); "));
            let text = format!("{stop}look at what the account has, adopt it, and start the server again");
            said(true, &text, &["perennial journal adopt --dry-run", "perennial journal adopt", serve])
        }
        (_, Some(open)) if unattended => {
            let mut advice = said(true, "start the server; then it goes on by itself", &[serve]);
            if open.advice.needed || open.capacity.is_some() {
                let then = open.advice.text.trim_start_matches("nothing; ");
                advice.text = format!("start the server; then {then}");
                advice.commands.extend(open.advice.commands.iter().cloned());
            }
            advice
        }
        (_, Some(open)) => open.advice.clone(),
        (Condition::Paused, None) => {
            let text = if unattended {
                "nothing; to bring it back, start the server, then"
            } else {
                "nothing; to bring it back"
            };
            let commands = [serve, &resume];
            said(false, text, if unattended { &commands } else { &commands[1..] })
        }
        (Condition::Deleted, None) => said(false, "nothing", &[]),
        (_, None) if unattended => said(
            true,
            "start the server: without one no interruption is answered, and no backup is taken",
            &[serve],
        ),
        (_, None) => said(false, "nothing", &[]),
    }
}

fn more(view: &NodeView) -> String {
    let history = format!("perennial node history {}", view.name);
    match &view.open {
        Some(open) => format!("perennial workflow watch {} · {history}", open.workflow),
        None => format!("{history} · perennial node plan {}", view.name),
    }
}
