//! The history of a node: [`NodeHistory`], with what its backup catalogue adds to it.

use perennial_workflows::aggregate::backup_catalog::{BackupCause, Carried};
use perennial_workflows::model::backup_id::BackupId;
use perennial_workflows::view::history::{Entry, NodeHistory};

/// Adds what belongs into a node's history of the backups that its present catalogue lists: the backups that
/// failed, and those that the schedule did not take. The others stand in `node backups`.
pub fn add_backups(history: &mut NodeHistory, catalog: &Carried) {
    let id = |number| BackupId::new(history.node.clone(), number);
    let failed = catalog.failures.iter().map(|failure| {
        (failure.at_ms, format!("backup {} has failed: {}", id(failure.backup), failure.because))
    });
    let requested = catalog.backups.iter().filter(|backup| backup.order.cause != BackupCause::Schedule);
    let requested = requested.map(|backup| {
        let (order, progress) = (&backup.order, backup.progress);
        (backup.began_at_ms, format!("backup {} ({progress}): {}", id(order.number), order.cause))
    });
    let remarks: Vec<Entry> =
        failed.chain(requested).map(|(at_ms, text)| Entry::Remark { at_ms, text }).collect();
    let first_ms = history.entries.first().map_or(0, began_ms);
    history.entries.extend(remarks.into_iter().filter(|remark| began_ms(remark) >= first_ms));
    history.entries.sort_by_key(began_ms);
}

/// Removes everything before the first workflow that the history still has.
pub(crate) fn begin_with_a_workflow(history: &mut NodeHistory) {
    if let Some(began) = history.entries.iter().position(|entry| matches!(entry, Entry::Operation(_))) {
        history.entries.drain(..began);
    }
}

const fn began_ms(entry: &Entry) -> u64 {
    match entry {
        Entry::Remark { at_ms, .. } => *at_ms,
        Entry::Operation(story) => story.started_at_ms,
    }
}

#[cfg(test)]
mod tests {
    use perennial_workflows::aggregate::backup_catalog::Failure;
    use perennial_workflows::model::name::NodeName;

    use super::*;

    #[test]
    fn a_backup_that_failed_stands_in_the_history_at_its_time() {
        let remark = |at_ms, text: &str| Entry::Remark { at_ms, text: text.to_owned() };
        let mut history = NodeHistory {
            node: NodeName::parse("db-1").unwrap(),
            entries: vec![remark(1_000, "registered"), remark(9_000, "spec changed")],
        };
        let failures = [(500, "long ago"), (5_000, "not allowed")];
        let failures = failures.map(|(at_ms, because)| Failure { backup: 4, at_ms, because: because.into() });
        add_backups(&mut history, &Carried { failures: failures.into(), ..Carried::default() });
        let expected = [
            remark(1_000, "registered"),
            remark(5_000, "backup db-1.b4 has failed: not allowed"),
            remark(9_000, "spec changed"),
        ];
        assert_eq!(history.entries, expected, "what lies before the part that is shown is left out");
    }
}
