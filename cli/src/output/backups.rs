//! The backups of a node: what could be restored, how old it is, and what fails.

use perennial_views::model::backups::{BackupLine, BackupsView};
use perennial_workflows::spec::backup::BackupSpec;

use crate::output::table;
use crate::output::words::{length, time, wrapped};

/// The backups of a node.
pub(crate) fn text(view: &BackupsView) -> String {
    let mut parts = Vec::new();
    if view.backups.is_empty() {
        parts.push(match &view.schedule {
            Some(spec) => format!("no backups yet; {}", schedule(spec)),
            None => format!(
                "no backups: the node file has no section `backup`; `perennial node backup {}` takes one now",
                view.node
            ),
        });
    } else {
        parts.push(table(
            &["BACKUP", "KIND", "TAKEN", "AGE", "STATE", "GIB", "VOLUMES"],
            &[3, 5],
            view.backups.iter().map(|line| {
                let volumes: Vec<&str> = line.volumes.iter().map(|volume| volume.slot.as_str()).collect();
                vec![
                    line.id.to_string(),
                    line.kind.clone(),
                    line.taken_at_ms.map_or_else(|| "-".to_owned(), time),
                    length(line.age_ms),
                    line.state.to_string(),
                    line.size_gib.map_or_else(|| "-".to_owned(), |size| size.to_string()),
                    volumes.join(" "),
                ]
            }),
        ));
    }
    if view.failed_in_a_row > 0 {
        let failures = view.failures.iter().rev().take(view.failed_in_a_row as usize);
        let mut lines = vec![format!("FAILING: {} in a row", view.failed_in_a_row)];
        lines.extend(
            failures.map(|failed| {
                wrapped(&format!("  {} {}", time(failed.at_ms), failed.id), &failed.because, 4)
            }),
        );
        parts.push(lines.join("\n"));
    }
    if !view.pending_deletions.is_empty() {
        let mut lines = vec!["pending deletions:".to_owned()];
        lines.extend(
            view.pending_deletions
                .iter()
                .map(|left| wrapped(&format!("  {} of {}:", left.snapshot, left.of), &left.because, 4)),
        );
        parts.push(lines.join("\n"));
    }
    if !view.held.is_empty() {
        let held = view.held.iter().map(|held| format!("  {} by workflow {}", held.backup, held.by));
        let head = "held, and not pruned, while volumes are made from them:".to_owned();
        parts.push(std::iter::once(head).chain(held).collect::<Vec<_>>().join("\n"));
    }
    if let Some(paused) = &view.paused {
        parts.push(wrapped("PAUSED:", paused, 4));
    }
    parts.join("\n\n")
}

/// For `node show`: names and values.
pub(crate) fn rows(view: &BackupsView) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let last = view.last_complete();
    rows.push(match (&view.schedule, last) {
        (None, None) => ("backups", "none: the loss window is open (no section `backup`)".to_owned()),
        (Some(spec), None) => ("backups", format!("none yet; {}", schedule(spec))),
        (Some(spec), Some(last)) => {
            ("last backup", format!("{} of {}; {}", last.id, time(taken(last)), schedule(spec)))
        }
        (None, Some(last)) => ("last backup", format!("{} of {}; no schedule", last.id, time(taken(last)))),
    });
    if let Some(window) = view.loss_window_ms {
        rows.push(("loss window", format!("{} now", length(window))));
    }
    if let Some(failure) = view.failures.last().filter(|_| view.failed_in_a_row > 0) {
        let times = view.failed_in_a_row;
        rows.push(("FAILING", format!("{times} backups in a row; {}: {}", failure.id, failure.because)));
    }
    if let Some(paused) = &view.paused {
        rows.push(("PAUSED", paused.clone()));
    }
    rows
}

/// Every how long, and how many.
fn schedule(spec: &BackupSpec) -> String {
    let last = if spec.at_release { " and the last of an instance" } else { "" };
    format!("every {} min, {} kept{last}", spec.every_min, spec.keep)
}

fn taken(line: &BackupLine) -> u64 {
    line.taken_at_ms.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;
    use perennial_workflows::aggregate::backup_catalog::{
        Backup, BackupCause, BackupOrder, Carried, Failure, PendingDeletion, Progress,
    };
    use perennial_workflows::aggregate::node::Node;
    use perennial_workflows::model::aws::{InstanceId, SnapshotId, VolumeId};
    use perennial_workflows::model::name::NodeName;
    use perennial_workflows::model::volume::TakenSnapshot;
    use perennial_workflows::model::volume::{Slot, TagMap};
    use perennial_workflows::spec::node::{NetworkMode, RootMode, example};

    use super::*;

    const T0: u64 = 1_789_372_800_000;

    fn backup(number: u64, progress: Progress) -> Backup {
        let slots = [("root", 8_u32), ("data", 10)]
            .map(|(slot, size)| (Slot::try_from(slot.to_owned()).unwrap(), size));
        let volume = |n: usize| VolumeId::parse(&format!("vol-{n}")).unwrap();
        let at_ms = T0 + number * 300_000;
        let taken = |n: usize, size_gib: u32| TakenSnapshot {
            snapshot: SnapshotId::parse(&format!("snap-{number}{n}")).unwrap(),
            volume: volume(n),
            size_gib: Some(size_gib),
        };
        let is_taken = progress != Progress::Taking;
        let all = slots.iter().enumerate();
        Backup {
            order: BackupOrder {
                node: NodeName::parse("db-1").unwrap(),
                number,
                owner: "tests".into(),
                installation: None,
                instance: InstanceId::parse("i-1").unwrap(),
                generation: 1,
                volumes: all.clone().map(|(n, (slot, _))| (slot.clone(), volume(n))).collect(),
                keep: 3,
                tags: TagMap::new(),
                cause: BackupCause::Schedule,
            },
            began_at_ms: at_ms,
            progress,
            taken_at_ms: is_taken.then_some(at_ms + 1_000),
            complete_at_ms: (progress == Progress::Complete).then_some(at_ms + 60_000),
            snapshots: all
                .filter(|_| is_taken)
                .map(|(n, (slot, size))| (slot.clone(), taken(n, *size)))
                .collect(),
        }
    }

    fn node(schedule: Option<BackupSpec>) -> Node {
        let mut spec = example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
        spec.backup = schedule;
        Node { spec: Some(spec), ..Node::default() }
    }

    #[test]
    fn the_table_says_what_could_be_restored_what_fails_and_what_is_left() {
        let own = TagMap::new();
        let catalog = Carried {
            newest: 5,
            backups: vec![
                backup(1, Progress::Complete),
                backup(2, Progress::Complete),
                backup(5, Progress::Taking),
            ],
            pending_deletions: BTreeMap::from([(
                SnapshotId::parse("snap-9").unwrap(),
                PendingDeletion {
                    backup: 1,
                    own,
                    because: Some("InvalidSnapshot.InUse: used by ami-1".into()),
                    tried_at: Some(2),
                },
            )]),
            failures: [3, 4]
                .map(|n| Failure {
                    backup: n,
                    at_ms: T0 + n * 300_000,
                    because: "UnauthorizedOperation: not allowed".into(),
                })
                .into(),
            failed_in_a_row: 2,
            ..Carried::default()
        };
        let view = BackupsView::new(
            &NodeName::parse("db-1").unwrap(),
            &node(Some(BackupSpec::default())),
            &catalog,
            T0 + 1_560_000,
        );
        let printed = text(&view);
        assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
        expect![[r#"
            BACKUP   KIND   TAKEN                      AGE  STATE     GIB  VOLUMES
            db-1.b5  timed  -                       60.0 s  taking      -  root data
            db-1.b2  timed  2026-09-14 08:10:01Z  16.0 min  complete   18  root data
            db-1.b1  timed  2026-09-14 08:05:01Z  21.0 min  complete   18  root data

            FAILING: 2 in a row
              2026-09-14 08:20:00Z db-1.b4 UnauthorizedOperation: not allowed
              2026-09-14 08:15:00Z db-1.b3 UnauthorizedOperation: not allowed

            pending deletions:
              snap-9 of db-1.b1: InvalidSnapshot.InUse: used by ami-1"#]]
        .assert_eq(&printed);
        let lines: Vec<String> =
            rows(&view).into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        expect![[r#"
            last backup: db-1.b2 of 2026-09-14 08:10:01Z; every 5 min, 3 kept and the last of an instance
            loss window: 16.0 min now
            FAILING: 2 backups in a row; db-1.b4: UnauthorizedOperation: not allowed
        "#]]
        .assert_eq(&lines.concat());
    }

    #[test]
    fn a_node_without_backups_is_told_what_to_do() {
        let name = NodeName::parse("db-1").unwrap();
        let said = |schedule| text(&BackupsView::new(&name, &node(schedule), &Carried::default(), T0));
        expect![
            "no backups: the node file has no section `backup`; `perennial node backup db-1` takes one now"
        ]
        .assert_eq(&said(None));
        expect!["no backups yet; every 5 min, 3 kept and the last of an instance"]
            .assert_eq(&said(Some(BackupSpec::default())));
    }
}
