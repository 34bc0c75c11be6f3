//! Nodes for people.

use perennial_views::model::node::{Condition, NodeLine, NodeView};
use perennial_workflows::model::resources::Resources;
use perennial_workflows::model::restore::Keep;
use perennial_workflows::model::volume::Slot;
use serde::Serialize;

use crate::output::{backups, fits, history, pairs, prune, screen, table, words};

/// Names and values, in order.
type Rows = Vec<(&'static str, String)>;

/// Which columns a list of nodes has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    /// As many as fit.
    Fitting,
    /// All of them.
    Wide,
}

/// The columns of a list of nodes, in order; those that are left out first where the line is short.
const COLUMNS: [(&str, u8); 9] = [
    ("NODE", 9),
    ("STATE", 9),
    ("SINCE", 6),
    ("GEN", 1),
    ("INSTANCE", 5),
    ("TYPE", 3),
    ("MARKET", 2),
    ("ZONE", 2),
    ("ADDRESS", 4),
];

/// The importance of the columns that only a wide list has.
const WIDE_ONLY: u8 = 2;

/// Columns of this importance stay, however short the line is.
const LAST_TO_GO: u8 = 6;

/// The nodes, under a line that counts them.
pub(crate) fn list(lines: &[NodeLine], shown: &[&NodeLine], columns: Columns, now_ms: u64) -> String {
    if lines.is_empty() {
        return "no nodes yet: `perennial node apply -f FILE` makes one".to_owned();
    }
    format!("{}\n\n{}", summary(lines, shown.len()), rows(shown, columns, now_ms))
}

/// The nodes, one a row.
pub(crate) fn rows(shown: &[&NodeLine], columns: Columns, now_ms: u64) -> String {
    let cells: Vec<Vec<String>> = shown.iter().map(|line| row(line, now_ms)).collect();
    let mut least = if columns == Columns::Wide { 0 } else { WIDE_ONLY + 1 };
    loop {
        let chosen: Vec<usize> = (0..COLUMNS.len()).filter(|index| COLUMNS[*index].1 >= least).collect();
        let header: Vec<&str> = chosen.iter().map(|index| COLUMNS[*index].0).collect();
        let rows: Vec<Vec<String>> =
            cells.iter().map(|row| chosen.iter().map(|index| row[*index].clone()).collect()).collect();
        if columns == Columns::Wide || least >= LAST_TO_GO || fits(&header, &rows) {
            return table(&header, &[], rows);
        }
        least += 1;
    }
}

fn row(line: &NodeLine, now_ms: u64) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    // What carried a node that is down is gone; a journal that is behind does not know what carries it.
    let is_known = line.down.is_none() && line.condition != Condition::Behind;
    let carrier = line.carrier.as_ref().filter(|_| is_known);
    let address = line.address.or_else(|| carrier.map(|carrier| carrier.private_ip));
    let is_told = !matches!(line.condition, Condition::Stuck | Condition::Behind);
    let doing =
        line.doing.as_ref().filter(|_| is_told).map_or_else(String::new, |doing| format!(": {doing}"));
    let since = line.since_ms.map(|since_ms| words::age(now_ms.saturating_sub(since_ms)));
    vec![
        line.name.clone(),
        format!("{}{doing}", line.state),
        or_dash(since),
        line.generation.to_string(),
        or_dash(carrier.map(|carrier| carrier.instance.to_string())),
        or_dash(carrier.map(|carrier| carrier.instance_type.clone())),
        or_dash(carrier.map(|carrier| carrier.market.to_string())),
        or_dash(line.zone.clone()),
        or_dash(address.map(|address| address.to_string())),
    ]
}

/// How many nodes there are of each condition, worst first.
pub(crate) fn summary(lines: &[NodeLine], shown: usize) -> String {
    let count = |condition| lines.iter().filter(|line| line.condition == condition).count();
    let parts: Vec<String> =
        Condition::ALL.into_iter().filter_map(|condition| counted(condition, count(condition))).collect();
    let is_part = shown < lines.len();
    let part = if is_part { format!("  ({shown} of {} shown)", lines.len()) } else { String::new() };
    format!("{}{part}", parts.join(" · "))
}

/// How many nodes are of a condition, if any is.
pub(crate) fn counted(condition: Condition, number: usize) -> Option<String> {
    let loud = matches!(condition, Condition::Behind | Condition::Stuck | Condition::Down);
    let word = if loud { condition.words().to_uppercase() } else { condition.words().to_owned() };
    (number > 0).then(|| format!("{word} {number}"))
}

/// One node with all that belongs to it: first what a person must know, then the details.
pub(crate) fn show(view: &NodeView, now_ms: u64) -> String {
    let resources = &view.resources;
    let mut rows = state(view);
    rows.extend(place(view));
    rows.extend(volumes(resources));
    if resources.carrier.is_some() && view.down.is_none() && view.condition != Condition::Behind {
        rows.extend(history::losses(&resources.recovery_points).into_iter().map(|loss| ("last loss", loss)));
    }
    if !view.deleted || !view.backups.backups.is_empty() {
        rows.extend(backups::rows(&view.backups));
    }
    rows.extend(remains(view, now_ms));
    format!("{}\n\n{}", screen::of(view, now_ms), pairs(rows))
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

/// What it should be.
fn state(view: &NodeView) -> Rows {
    let mut rows = Rows::new();
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
        let gone = match view.condition {
            Condition::Behind => " (by this older journal)",
            _ if view.down.is_some() => " (gone, or about to be)",
            _ => "",
        };
        rows.push(("instance", format!("{}{gone}", carrier.instance)));
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
