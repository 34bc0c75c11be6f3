//! What is due by the journal alone: a timer is set, moved and taken off by what happens to a node.

use perennial_engine::domain::{Domain as _, Timer};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::Command;
use perennial_workflows::domain::submission::{PauseParams, ResumeNodeParams, Work};
use perennial_workflows::domain::timers::{BACKUP, BACKUPS, RETENTION};
use perennial_workflows::model::operation_id::{OperationKind, node_stream};
use perennial_workflows::model::schedule::slot_after;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, example};

use crate::desk::{Desk, NODE, OWNER, name};
use crate::regressions::{running, well};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

fn spec(every_min: Option<u32>) -> NodeSpec {
    let mut spec = example(NODE, NetworkMode::SecondaryIp, RootMode::Image);
    spec.backup =
        every_min.map(|every_min| BackupSpec { every_min, at_release: false, ..BackupSpec::default() });
    spec
}

impl Desk {
    /// Every timer of every stream.
    pub fn timers(&self) -> Vec<Timer> {
        let of =
            self.streams.iter().flat_map(|(stream, (state, ..))| Perennial::project(stream, state).timers);
        of.collect()
    }

    /// When a timer is due.
    fn due_ms(&self, timer: &str) -> Option<u64> {
        self.timers().iter().find(|shown| shown.name == timer).map(|shown| shown.due_ms)
    }

    /// Executes what is due, as the engine would, until it writes nothing more.
    fn fire(&mut self) {
        for _ in 0..20 {
            let before = self.written().count();
            for (stream, (state, ..)) in self.streams.clone() {
                for timer in Perennial::project(&stream, &state).timers {
                    if timer.is_due(self.now_ms) {
                        self.execute(&Perennial::timer_due(&stream, &timer.name)).unwrap();
                    }
                }
            }
            if self.written().count() == before {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.timers());
    }

    /// Settles every step of every backup.
    fn settle_backups(&mut self) {
        while let Some(step) = self.catalog().1.open_steps().into_iter().next() {
            let id = self.catalog().0;
            let evidence = crate::regressions::backed_up(&step.intent, step.token);
            self.report(id.stream(), step.token, evidence).unwrap();
        }
    }
}

/// The node's first turn after a time.
fn turn_after(every_min: u64, after_ms: u64) -> u64 {
    slot_after(&name(NODE), every_min * MINUTE_MS, after_ms)
}

#[test]
fn a_backup_is_due_from_the_moment_at_which_the_node_is_in_place() {
    let mut desk = running(&spec(Some(60)));
    assert_eq!(desk.due_ms(BACKUPS), Some(0), "the catalog is to be told at once");
    desk.fire();
    assert_eq!(desk.due_ms(BACKUPS), None, "it was told");
    let in_place_ms = desk.node().changed_at_ms;
    let first_ms = turn_after(60, in_place_ms);
    assert_eq!(desk.due_ms(BACKUP), Some(first_ms));
    desk.now_ms = first_ms - 2;
    desk.fire();
    assert_eq!(desk.catalog().1.known.newest, 0, "not before its time");
    desk.now_ms = first_ms;
    desk.fire();
    let began = desk.catalog().1.known;
    assert_eq!((began.newest, began.under_way().map(|backup| backup.order.owner.as_str())), (1, Some(OWNER)));
    assert_eq!(desk.due_ms(BACKUP), None, "none while one is under way");
    desk.settle_backups();
    assert_eq!(desk.due_ms(BACKUP), Some(first_ms + 60 * MINUTE_MS));
}

#[test]
fn a_clock_that_is_set_back_puts_the_next_backup_off_by_an_interval_at_most() {
    for back_ms in [MINUTE_MS, 20 * MINUTE_MS, DAY_MS, 9 * DAY_MS, 400 * DAY_MS] {
        let mut desk = running(&spec(Some(60)));
        desk.now_ms += 500 * DAY_MS;
        desk.fire();
        desk.settle_backups();
        let (newest, took_ms) = (desk.catalog().1.known.newest, desk.now_ms);
        desk.now_ms -= back_ms;
        for _ in 0..12 {
            desk.now_ms += 5 * MINUTE_MS;
            desk.fire();
            desk.settle_backups();
        }
        let known = desk.catalog().1.known;
        assert!(
            (newest + 1..=newest + 2).contains(&known.newest),
            "{back_ms}: {} after {newest}",
            known.newest
        );
        // From then on the schedule goes by the time that the clock shows now.
        let next_ms = desk.due_ms(BACKUP).unwrap();
        assert!(next_ms <= desk.now_ms + 60 * MINUTE_MS, "{back_ms}: {next_ms}");
        assert!(back_ms < DAY_MS || known.newest_began_at_ms.unwrap() < took_ms, "{back_ms}");
    }
}

#[test]
fn a_changed_file_moves_the_next_backup_and_one_without_the_section_takes_it_off() {
    let mut desk = running(&spec(Some(60)));
    desk.fire();
    desk.apply(&spec(Some(5)));
    desk.fire();
    assert_eq!(desk.due_ms(BACKUP), Some(turn_after(5, desk.node().changed_at_ms)));
    let mut tagged = spec(Some(5));
    tagged.tags.insert("team".into(), "storage".into());
    desk.apply(&tagged);
    assert_eq!(desk.due_ms(BACKUPS), None, "what is not about backups tells the catalog nothing");
    desk.apply(&spec(None));
    desk.fire();
    assert_eq!((desk.due_ms(BACKUP), desk.due_ms(BACKUPS)), (None, None));
    desk.apply(&spec(Some(720)));
    desk.fire();
    assert_eq!(desk.due_ms(BACKUP), Some(turn_after(720, desk.node().changed_at_ms)));
}

#[test]
fn a_pause_takes_the_next_backup_off_and_the_return_sets_it_again() {
    let mut desk = running(&spec(Some(60)));
    desk.fire();
    desk.submit(Work::Pause(PauseParams { reason: None })).unwrap();
    desk.drive(&well);
    desk.fire();
    assert!(desk.node().is_paused());
    assert_eq!((desk.due_ms(BACKUP), desk.due_ms(BACKUPS)), (None, None));
    desk.submit(Work::ResumeNode(ResumeNodeParams { reason: None })).unwrap();
    desk.drive(&well);
    desk.fire();
    assert_eq!(desk.due_ms(BACKUP), Some(turn_after(60, desk.node().changed_at_ms)));
}

#[test]
fn a_replacement_tells_the_catalog_nothing() {
    let mut desk = running(&spec(Some(60)));
    desk.fire();
    desk.now_ms = desk.due_ms(BACKUP).unwrap();
    desk.fire();
    desk.settle_backups();
    let due_ms = desk.due_ms(BACKUP);
    desk.lose();
    desk.drive(&well);
    assert_eq!((desk.node().generation, desk.due_ms(BACKUPS)), (2, None));
    assert_eq!(desk.due_ms(BACKUP), due_ms);
}

#[test]
fn a_deletion_takes_everything_off_and_gives_up_the_backups() {
    for keeps in [true, false] {
        let mut desk = running(&spec(Some(60)));
        desk.fire();
        desk.back_up();
        desk.delete(false, false, keeps);
        desk.drive(&well);
        assert!(desk.node().deleted);
        assert_eq!(desk.due_ms(BACKUPS), Some(0));
        desk.fire();
        desk.settle_backups();
        assert_eq!(desk.timers(), [], "keeps: {keeps}");
        assert_eq!(desk.catalog().1.known.backups.is_empty(), !keeps);
    }
}

#[test]
fn the_thousandth_backup_under_way_is_the_last_that_begins() {
    let mut desk = running(&spec(Some(60)));
    desk.fire();
    desk.now_ms = desk.due_ms(BACKUP).unwrap();
    let catalog =
        |n: usize| perennial_workflows::model::backup_id::CatalogId::new(name(&format!("n-{n}")), 1);
    let key = perennial_workflows::domain::keys::UNDER_WAY_KEY;
    desk.stale.insert(key.to_owned(), (0..1_000).map(|n| catalog(n).stream()).collect());
    let refused = desk.execute(&Command::ReconcileBackups { node: name(NODE) });
    assert!(refused.is_err_and(|why| why.to_string().contains("1000 backups are under way")));
    desk.stale.insert(key.to_owned(), (0..999).map(|n| catalog(n).stream()).collect());
    desk.fire();
    assert_eq!(desk.catalog().1.known.newest, 1);
}

#[test]
fn what_is_retained_is_due_when_its_days_are_over_and_not_while_an_operation_holds_the_node() {
    let mut changed = spec(None);
    changed.persist.retain_days = Some(3);
    let mut desk = running(&changed);
    assert_eq!(desk.due_ms(RETENTION), None, "nothing is retained");
    desk.lose();
    desk.drive(&well);
    let since_ms = desk.node().resources.retained.iter().filter_map(|old| old.since_ms).min();
    let Some(since_ms) = since_ms else { panic!("the old root is retained: {:?}", desk.node().resources) };
    let due_ms = desk.due_ms(RETENTION).expect("it is to be deleted");
    assert!((since_ms + 3 * DAY_MS..=since_ms + 3 * DAY_MS + 60 * MINUTE_MS).contains(&due_ms), "{due_ms}");
    changed.persist.retain_days = Some(5);
    desk.apply(&changed);
    assert_eq!(desk.due_ms(RETENTION), Some(due_ms + 2 * DAY_MS), "a changed file moves it");
    desk.now_ms = due_ms + 2 * DAY_MS;
    desk.fire();
    assert_eq!(desk.node().open.map(|(_, kind)| kind), Some(OperationKind::Prune));
    assert_eq!(desk.open().unwrap().order.owner, OWNER);
    assert_eq!(desk.due_ms(RETENTION), None, "the operation holds the node");
    desk.drive(&well);
    assert_eq!(desk.timers(), []);
    let node = desk.state(&node_stream(&name(NODE)));
    assert_eq!(Perennial::project(&node_stream(&name(NODE)), &node).timers, []);
}
