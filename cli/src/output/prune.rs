//! What a node retains, and what a prune would delete of it.

use perennial_views::model::prune::PrunePreview;
use perennial_workflows::domain::retention::{age_ms, length};
use perennial_workflows::model::resources::PruneItem;
use perennial_workflows::model::resources::Resources;

use crate::output::table;

/// What a prune would do.
pub(crate) fn preview(view: &PrunePreview, now_ms: u64) -> String {
    let mut parts = Vec::new();
    if !view.delete.is_empty() {
        parts.push(deletions(&view.delete, now_ms));
    }
    if !view.stay.is_empty() {
        let rows = view.stay.iter().map(|stays| {
            vec![
                stays.retained.volume.to_string(),
                stays.retained.slot.to_string(),
                length(age_ms(&stays.retained, now_ms)),
                gib(stays.retained.size_gib),
                stays.stays_because.clone(),
            ]
        });
        parts.push(table(&["STAYS", "WAS", "AGE", "GIB", "BECAUSE"], &[3], rows));
    }
    if parts.is_empty() {
        return format!("{} retains no volume", view.node);
    }
    parts.join("\n\n")
}

fn gib(size_gib: Option<u32>) -> String {
    size_gib.map_or_else(|| "?".to_owned(), |size_gib| size_gib.to_string())
}

/// What would be deleted.
pub(crate) fn deletions(items: &[PruneItem], now_ms: u64) -> String {
    let rows = items.iter().map(|item| {
        vec![
            item.volume.to_string(),
            item.slot.to_string(),
            length(now_ms.saturating_sub(item.since_ms)),
            gib(item.size_gib),
            item.because.clone(),
        ]
    });
    table(&["DELETE", "WAS", "AGE", "GIB", "BECAUSE"], &[3], rows)
}

/// What a node retains, for `node show`.
pub(crate) fn rows(resources: &Resources, now_ms: u64) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    for old in &resources.retained {
        let size = old.size_gib.map_or_else(String::new, |size_gib| format!(", {size_gib} GiB"));
        let age = length(age_ms(old, now_ms));
        let failed_deletion = old.failed_deletion.as_ref().map_or_else(String::new, |failed_deletion| {
            let ago = length(now_ms.saturating_sub(failed_deletion.at_ms));
            format!("; it could not be deleted {ago} ago: {}", failed_deletion.because)
        });
        let text = format!("{} ({}{size}) for {age}: {}{failed_deletion}", old.volume, old.slot, old.because);
        rows.push(("retained", text));
    }
    let known: u64 = resources.retained.iter().filter_map(|old| old.size_gib).map(u64::from).sum();
    let unknown = resources.retained.iter().filter(|old| old.size_gib.is_none()).count();
    if known > 0 || unknown > 0 {
        let unknown = match unknown {
            0 => String::new(),
            unknown => format!(" and {unknown} of unknown size"),
        };
        rows.push(("", format!("{known} GiB{unknown} are paid for; `node prune --dry-run`")));
    }
    rows
}
