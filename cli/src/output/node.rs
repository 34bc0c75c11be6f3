//! Nodes for people.

use perennial_views::model::node::{NodeLine, NodeView, WaitingStep};
use perennial_workflows::model::resources::Resources;
use perennial_workflows::model::restore::Keep;
use perennial_workflows::model::volume::Slot;
use serde::Serialize;

use crate::output::{backups, history, pairs, prune, table, words};

/// Names and values, in order.
type Rows = Vec<(&'static str, String)>;

/// The nodes.
pub(crate) fn list(lines: &[NodeLine]) -> String {
    if lines.is_empty() {
        return "no nodes yet: `perennial node apply -f FILE` makes one".to_owned();
    }
    table(
        &["NODE", "STATE", "GEN", "INSTANCE", "TYPE", "ADDRESS"],
        &[2],
        lines.iter().map(|line| {
            let carrier = line.carrier.as_ref();
            let address = line.address.or_else(|| carrier.map(|carrier| carrier.private_ip));
            vec![
                line.name.clone(),
                line.state.clone(),
                line.generation.to_string(),
                carrier.map_or_else(|| "-".to_owned(), |carrier| carrier.instance.to_string()),
                carrier.map_or_else(|| "-".to_owned(), |carrier| carrier.instance_type.clone()),
                address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            ]
        }),
    )
}

/// One node with all that belongs to it.
pub(crate) fn show(view: &NodeView, now_ms: u64) -> String {
    let resources = &view.resources;
    let mut rows = state(view, now_ms);
    rows.extend(place(view));
    rows.extend(volumes(resources));
    if resources.carrier.is_some() {
        rows.extend(history::losses(&resources.recovery_points).into_iter().map(|loss| ("last loss", loss)));
    }
    if !view.deleted || !view.backups.backups.is_empty() {
        rows.extend(backups::rows(&view.backups));
    }
    rows.extend(remains(view, now_ms));
    pairs(rows)
}

/// What a deletion that keeps these classes takes away, and what it leaves.
pub(crate) fn deletion(view: &NodeView, keep: Keep) -> String {
    let resources = &view.resources;
    let fate = |kept: bool| if kept { "kept" } else { "DELETED" };
    let mut rows = vec![("node", format!("{} is deleted", view.name))];
    if let Some(carrier) = &resources.carrier {
        rows.push(("instance", format!("{} is TERMINATED", carrier.instance)));
    }
    for (slot, held) in &resources.volumes {
        let kept = if *slot == Slot::Root { keep.root } else { keep.data };
        rows.push(("volume", format!("{slot} {}: {}", held.volume, fate(kept))));
    }
    rows.extend(
        resources.retained.iter().map(|held| ("retained", format!("{}: {}", held.volume, fate(keep.root)))),
    );
    if let Some(held) = &resources.interface {
        rows.push(("interface", format!("{}: {}", held.interface, fate(keep.network))));
    }
    let backups = view.backups.backups.len();
    if backups > 0 {
        rows.push(("backups", format!("{backups}: {}", fate(keep.backups))));
    }
    pairs(rows)
}

/// What it is doing, and what it should be.
fn state(view: &NodeView, now_ms: u64) -> Rows {
    let mut rows = vec![("node", view.name.to_string())];
    let open = view.open.as_ref();
    let state = match open {
        Some(open) => match &open.stuck {
            Some(stuck) => format!("STUCK in {} {}: {}", open.kind, open.workflow, stuck.because),
            None => format!("{} {}: {}", open.kind, open.workflow, open.open_steps.join(", ")),
        },
        None => view.at_rest().to_owned(),
    };
    rows.push(("state", state));
    if let Some(down) = &view.down {
        let lasts = words::length(now_ms.saturating_sub(down.since_ms));
        let since = words::time(down.since_ms);
        rows.push(("DOWN", format!("for {lasts}, since {since}: {}", down.because)));
    }
    if let Some(stuck) = open.and_then(|open| open.stuck.as_ref()) {
        rows.push(("needs", stuck.needs.clone()));
    }
    for WaitingStep { step, since_ms, waits } in open.into_iter().flat_map(|open| &open.waits) {
        let since = words::time(*since_ms);
        rows.push(("waits for", format!("{step}, since {since}: {}", waits.because)));
    }
    for newer in &view.newer {
        rows.push(("BEHIND", newer.clone()));
    }
    if !view.newer.is_empty() {
        rows.push((
            "needs",
            "the journal is older than the world: stop the server, then `perennial journal adopt --dry-run`"
                .to_owned(),
        ));
    }
    rows.push(("generation", view.generation.to_string()));
    rows.push(("changed", words::time(view.changed_at_ms)));
    if let Some(spec) = &view.spec {
        let persist = format!(
            "root {}, data {}, network {}",
            name(&spec.persist.root),
            name(&spec.persist.data),
            name(&spec.persist.network),
        );
        rows.push(("persist", persist));
    }
    rows
}

/// The name that a file gives to one of several modes.
fn name<T: Serialize>(mode: &T) -> String {
    let value = serde_json::to_value(mode).ok();
    value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Its instance and its addresses.
fn place(view: &NodeView) -> Rows {
    let resources = &view.resources;
    let mut rows = Rows::new();
    if let Some(carrier) = &resources.carrier {
        let zone = resources.placement.as_ref().map_or_else(String::new, |place| format!(", {}", place.zone));
        rows.push(("instance", carrier.instance.to_string()));
        rows.push(("", format!("{} {}{zone}", carrier.instance_type, carrier.market)));
        rows.push(("its address", format!("{} on {}", carrier.private_ip, carrier.interface)));
    }
    if let Some(address) = resources.address {
        let keeper = resources.address_interface.as_ref();
        let keeper = keeper.map_or_else(String::new, |interface| format!(", kept by {interface}"));
        rows.push(("kept address", format!("{address}{keeper}")));
    }
    for (subnet, address) in &resources.addresses_elsewhere {
        let pool = view.spec.as_ref().and_then(|spec| spec.pool_in(subnet));
        let pool = pool.map_or_else(String::new, |pool| format!(" (pool {pool})"));
        rows.push(("kept elsewhere", format!("{address} in {subnet}{pool}")));
    }
    if let Some(held) = &resources.elastic {
        rows.push(("public address", format!("{} ({})", held.public_ip, held.allocation)));
    }
    rows
}

/// Its volumes, and those on its instance that it does not manage.
fn volumes(resources: &Resources) -> Rows {
    let mut rows = Rows::new();
    for (slot, held) in &resources.volumes {
        let size = held.size_gib.map_or_else(String::new, |size| format!(", {size} GiB"));
        let found = match &held.found {
            None => "",
            Some(found) if found.named && found.is_copy => ", a copy of the one that the file names",
            Some(found) if found.named => ", there before the node",
            Some(_) => ", found on the instance",
        };
        rows.push(("volume", format!("{} {} at {}{size}{found}", slot, held.volume, held.device)));
    }
    for other in &resources.unmanaged {
        rows.push(("unmanaged", format!("{} at {}: {}", other.volume, other.device, other.because)));
    }
    rows
}

/// What earlier instances and workflows have left.
fn remains(view: &NodeView, now_ms: u64) -> Rows {
    let resources = &view.resources;
    let mut rows = Rows::new();
    for image in &resources.root_images {
        rows.push(("root image", format!("{} of {}", image.image, image.snapshot)));
    }
    rows.extend(prune::rows(resources, now_ms));
    for left in &resources.orphans {
        rows.push(("orphan", format!("{}: {}", left.resource.id(), left.because)));
    }
    for noted in &view.noted {
        let at = words::minute(noted.signal.at_ms);
        rows.push(("noted", format!("{at} {}; {}", noted.signal, noted.because)));
    }
    if !view.past_instances.is_empty() {
        rows.push(("before", view.past_instances.join(" ")));
    }
    rows
}
