//! Differences between node files, for people.

use perennial_views::model::diff::{Change, Effect, SpecDiff};

use crate::output::words::wrapped;

/// The differences of several files.
pub(crate) fn of_all(diffs: &[SpecDiff]) -> String {
    diffs.iter().map(of_one).collect::<Vec<_>>().join("\n")
}

fn of_one(diff: &SpecDiff) -> String {
    if diff.is_new {
        return format!("{}: new", diff.node);
    }
    if diff.changes.is_empty() {
        return format!("{}: no difference", diff.node);
    }
    let mut lines = vec![format!("{}:", diff.node)];
    for (effect, title) in [
        (Effect::AtOnce, "at once"),
        (Effect::NextMove, "with the next move, unless a workflow takes it at once"),
    ] {
        let of_it: Vec<&Change> = diff.changes.iter().filter(|change| change.effect == effect).collect();
        if !of_it.is_empty() {
            lines.push(format!("  {title}"));
            lines.extend(of_it.into_iter().map(line));
        }
    }
    lines.extend(diff.remark.iter().map(|remark| wrapped("  note   ", remark, 10)));
    lines.extend(diff.refused.iter().map(|refused| wrapped("  REFUSED", refused, 10)));
    lines.join("\n")
}

fn line(change: &Change) -> String {
    let or_nothing = |value: &Option<String>| value.clone().unwrap_or_else(|| "(nothing)".to_owned());
    format!("    {}: {} → {}", change.field, or_nothing(&change.from), or_nothing(&change.to))
}
