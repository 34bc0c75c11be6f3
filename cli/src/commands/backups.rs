//! `perennial node backups`: what could be restored, how old it is, and what fails.

use perennial_engine::clock::Clock;
use perennial_store::JournalReader;
use perennial_workflows::backup::{Backup, BackupId, BackupSpec, Carried, Progress};
use perennial_workflows::node::{Node, OperationId};
use perennial_workflows::spec::NodeName;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::words::{length, time, wrapped};
use crate::output::{Output, table};
use crate::query;

/// What there is of a node's backups, for programs.
#[derive(Serialize)]
pub(crate) struct Shown {
    node: NodeName,
    /// The schedule; none are taken without.
    schedule: Option<BackupSpec>,
    /// How old the newest complete one is: what a loss of the volumes would cost now. None: everything.
    loss_window_ms: Option<u64>,
    backups: Vec<Line>,
    failed_in_a_row: u32,
    failures: Vec<Failed>,
    /// Snapshots that could not be deleted yet, with the reason.
    left_over: Vec<LeftOver>,
    /// Those that new nodes are being made from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<Held>,
    paused: Option<String>,
}

#[derive(Serialize)]
struct Line {
    id: BackupId,
    /// `timed`, `asked`, or `final`: of free volumes, at the end of an instance.
    kind: &'static str,
    state: Progress,
    /// Of which moment it is.
    taken_at_ms: Option<u64>,
    complete_at_ms: Option<u64>,
    age_ms: u64,
    cause: String,
    /// The sum of the volumes' sizes, as far as known; the snapshots are incremental and cost less.
    size_gib: Option<u64>,
    volumes: Vec<Volume>,
}

#[derive(Serialize)]
struct Volume {
    slot: String,
    volume: String,
    snapshot: Option<String>,
    size_gib: Option<u32>,
}

#[derive(Serialize)]
struct Failed {
    id: BackupId,
    at_ms: u64,
    because: String,
}

#[derive(Serialize)]
struct Held {
    backup: BackupId,
    by: OperationId,
}

#[derive(Serialize)]
struct LeftOver {
    snapshot: String,
    of: BackupId,
    because: String,
}

impl Shown {
    /// Of a node and its present book.
    pub(crate) fn new(name: &NodeName, node: &Node, book: &Carried, now_ms: u64) -> Self {
        let id = |number| BackupId::new(name.clone(), number);
        let left = book.condemned.iter().filter_map(|(snapshot, condemned)| {
            let because = condemned.because.clone()?;
            Some(LeftOver { snapshot: snapshot.to_string(), of: id(condemned.backup), because })
        });
        let failures = book.failures.iter().map(|failure| Failed {
            id: id(failure.backup),
            at_ms: failure.at_ms,
            because: failure.because.clone(),
        });
        Self {
            node: name.clone(),
            schedule: node.spec.as_ref().and_then(|spec| spec.backup).filter(|_| node.exists()),
            loss_window_ms: book.last_complete().map(|last| now_ms.saturating_sub(moment(last))),
            backups: book.backups.iter().rev().map(|backup| line(name, backup, now_ms)).collect(),
            failed_in_a_row: book.failed_in_a_row,
            failures: failures.collect(),
            left_over: left.collect(),
            held: book.holders().map(|(by, of)| Held { backup: id(of), by: by.clone() }).collect(),
            paused: book.paused(),
        }
    }

    /// Whether there is nothing to restore.
    pub(crate) const fn is_empty(&self) -> bool {
        self.backups.is_empty()
    }

    /// For `node show`: names and values.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let last = self.backups.iter().find(|line| line.state == Progress::Complete);
        rows.push(match (&self.schedule, last) {
            (None, None) => ("backups", "none: the loss window is open (no section `backup`)".to_owned()),
            (Some(spec), None) => ("backups", format!("none yet; {}", schedule(spec))),
            (Some(spec), Some(last)) => {
                ("last backup", format!("{} of {}; {}", last.id, time(taken(last)), schedule(spec)))
            }
            (None, Some(last)) => {
                ("last backup", format!("{} of {}; no schedule", last.id, time(taken(last))))
            }
        });
        if let Some(window) = self.loss_window_ms {
            rows.push(("loss window", format!("{} now", length(window))));
        }
        if let Some(failure) = self.failures.last().filter(|_| self.failed_in_a_row > 0) {
            let times = self.failed_in_a_row;
            rows.push(("FAILING", format!("{times} backups in a row; {}: {}", failure.id, failure.because)));
        }
        if let Some(paused) = &self.paused {
            rows.push(("PAUSED", paused.clone()));
        }
        rows
    }
}

/// Every how long, and how many.
fn schedule(spec: &BackupSpec) -> String {
    let last = if spec.at_release { " and the last of an instance" } else { "" };
    format!("every {} min, {} kept{last}", spec.every_min, spec.keep)
}

/// The moment a backup is of, as far as it is known.
fn moment(backup: &Backup) -> u64 {
    backup.taken_at_ms.unwrap_or(backup.began_at_ms)
}

fn taken(line: &Line) -> u64 {
    line.taken_at_ms.unwrap_or_default()
}

fn line(name: &NodeName, backup: &Backup, now_ms: u64) -> Line {
    let volumes = backup.order.volumes.iter().map(|(slot, volume)| {
        let taken = backup.snapshots.get(slot);
        Volume {
            slot: slot.to_string(),
            volume: volume.to_string(),
            snapshot: taken.map(|taken| taken.snapshot.to_string()),
            size_gib: taken.and_then(|taken| taken.size_gib),
        }
    });
    let sizes = backup.snapshots.values().map(|taken| taken.size_gib.map(u64::from));
    Line {
        id: BackupId::new(name.clone(), backup.order.number),
        kind: backup.order.cause.kind(),
        state: backup.progress,
        taken_at_ms: backup.taken_at_ms,
        complete_at_ms: backup.complete_at_ms,
        age_ms: now_ms.saturating_sub(moment(backup)),
        cause: backup.order.cause.to_string(),
        size_gib: sizes.sum::<Option<u64>>().filter(|_| !backup.snapshots.is_empty()),
        volumes: volumes.collect(),
    }
}

/// Prints the backups of a node.
pub(crate) async fn run(journal: &JournalReader, name: &NodeName, output: Output) -> Result<(), Failure> {
    let node = query::node(journal, name).await?;
    let book = query::book(journal, name).await?;
    let shown = Shown::new(name, &node, &book, Clock::system().now_ms());
    output.show(&shown, || text(&shown))
}

fn text(shown: &Shown) -> String {
    let mut parts = Vec::new();
    if shown.backups.is_empty() {
        parts.push(match &shown.schedule {
            Some(spec) => format!("no backups yet; {}", schedule(spec)),
            None => format!(
                "no backups: the node file has no section `backup`; `perennial node backup {}` takes one now",
                shown.node
            ),
        });
    } else {
        parts.push(table(
            &["BACKUP", "KIND", "TAKEN", "AGE", "STATE", "GIB", "VOLUMES"],
            &[3, 5],
            shown.backups.iter().map(|line| {
                let volumes: Vec<&str> = line.volumes.iter().map(|volume| volume.slot.as_str()).collect();
                vec![
                    line.id.to_string(),
                    line.kind.to_owned(),
                    line.taken_at_ms.map_or_else(|| "-".to_owned(), time),
                    length(line.age_ms),
                    line.state.to_string(),
                    line.size_gib.map_or_else(|| "-".to_owned(), |size| size.to_string()),
                    volumes.join(" "),
                ]
            }),
        ));
    }
    if shown.failed_in_a_row > 0 {
        let failures = shown.failures.iter().rev().take(shown.failed_in_a_row as usize);
        let mut lines = vec![format!("FAILING: {} in a row", shown.failed_in_a_row)];
        lines.extend(
            failures.map(|failed| {
                wrapped(&format!("  {} {}", time(failed.at_ms), failed.id), &failed.because, 4)
            }),
        );
        parts.push(lines.join("\n"));
    }
    if !shown.left_over.is_empty() {
        let mut lines = vec!["left over:".to_owned()];
        lines.extend(
            shown
                .left_over
                .iter()
                .map(|left| wrapped(&format!("  {} of {}:", left.snapshot, left.of), &left.because, 4)),
        );
        parts.push(lines.join("\n"));
    }
    if !shown.held.is_empty() {
        let held = shown.held.iter().map(|held| format!("  {} by workflow {}", held.backup, held.by));
        let head = "held, and not pruned, while volumes are made from them:".to_owned();
        parts.push(std::iter::once(head).chain(held).collect::<Vec<_>>().join("\n"));
    }
    if let Some(paused) = &shown.paused {
        parts.push(wrapped("PAUSED:", paused, 4));
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;
    use perennial_workflows::aws::{InstanceId, SnapshotId, VolumeId};
    use perennial_workflows::backup::{BackupCause, BackupOrder, Condemned, Failure, TakenSnapshot};
    use perennial_workflows::spec::{NetworkMode, RootMode, example};
    use perennial_workflows::steps::{Slot, TagMap};

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
        let book = Carried {
            newest: 5,
            backups: vec![
                backup(1, Progress::Complete),
                backup(2, Progress::Complete),
                backup(5, Progress::Taking),
            ],
            condemned: BTreeMap::from([(
                SnapshotId::parse("snap-9").unwrap(),
                Condemned {
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
        let shown = Shown::new(
            &NodeName::parse("db-1").unwrap(),
            &node(Some(BackupSpec::default())),
            &book,
            T0 + 1_560_000,
        );
        let printed = text(&shown);
        assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
        expect![[r#"
            BACKUP   KIND   TAKEN                      AGE  STATE     GIB  VOLUMES
            db-1.b5  timed  -                       60.0 s  taking      -  root data
            db-1.b2  timed  2026-09-14 08:10:01Z  16.0 min  complete   18  root data
            db-1.b1  timed  2026-09-14 08:05:01Z  21.0 min  complete   18  root data

            FAILING: 2 in a row
              2026-09-14 08:20:00Z db-1.b4 UnauthorizedOperation: not allowed
              2026-09-14 08:15:00Z db-1.b3 UnauthorizedOperation: not allowed

            left over:
              snap-9 of db-1.b1: InvalidSnapshot.InUse: used by ami-1"#]]
        .assert_eq(&printed);
        let rows: Vec<String> =
            shown.rows().into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        expect![[r#"
            last backup: db-1.b2 of 2026-09-14 08:10:01Z; every 5 min, 3 kept and the last of an instance
            loss window: 16.0 min now
            FAILING: 2 backups in a row; db-1.b4: UnauthorizedOperation: not allowed
        "#]]
        .assert_eq(&rows.concat());
    }

    #[test]
    fn a_node_without_backups_is_told_what_to_do() {
        let name = NodeName::parse("db-1").unwrap();
        let said = |schedule| text(&Shown::new(&name, &node(schedule), &Carried::default(), T0));
        expect![
            "no backups: the node file has no section `backup`; `perennial node backup db-1` takes one now"
        ]
        .assert_eq(&said(None));
        expect!["no backups yet; every 5 min, 3 kept and the last of an instance"]
            .assert_eq(&said(Some(BackupSpec::default())));
    }
}
