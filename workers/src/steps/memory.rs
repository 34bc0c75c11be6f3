//! What a step remembers between the passes of one process. Losing it costs looks, never a wrong act.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use perennial_engine::ids::{StreamId, Token};
use perennial_workflows::model::aws::SnapshotId;

/// How many steps are remembered. A worker pool has at most 4,096 in hand; the rest is room for steps that
/// ended without a word.
const MEMORIES_MAX: usize = 10_000;

/// A step without a pass for this long is over: it was parked, fenced or given up, and the runner is not
/// told. The longest pause between two passes of a step is a quarter of an hour (a volume that was modified a
/// moment ago).
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// How many things that are not its own a step tells of: a person reads them.
const TOLD_MAX: usize = 16;

/// Looks in a row that missed an object, or answers in a row of another kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Missed {
    /// Since when, in milliseconds, and how many.
    since: Option<(u64, u32)>,
    /// Something else was seen after the first of them.
    vouched: bool,
    /// Nothing else was seen when it was asked for.
    doubted: bool,
}

impl Missed {
    /// Counts a look that missed; whether enough did for long enough: more than one, over this length.
    pub(super) fn for_at_least(&mut self, length: Duration, now_ms: u64) -> bool {
        let (since_ms, looks) = self.since.get_or_insert((now_ms, 0));
        *looks += 1;
        *looks > 1 && (self.doubted || Duration::from_millis(now_ms.saturating_sub(*since_ms)) >= length)
    }

    /// When it was first missed, in milliseconds.
    pub(super) fn since_ms(&self) -> Option<u64> {
        self.since.map(|(since_ms, _)| since_ms)
    }

    /// A look found it.
    pub(super) const fn found(&mut self) {
        self.since = None;
        self.vouched = false;
        self.doubted = false;
    }

    /// Nothing else is seen either: each further look that misses it is trouble, until something is.
    pub(super) const fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Whether nothing else was seen at the last look.
    pub(super) const fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Something else was seen: what the next look misses is missing.
    pub(super) const fn vouch(&mut self) {
        self.vouched = true;
    }

    /// Whether something else was seen since it is missed.
    pub(super) const fn is_vouched(&self) -> bool {
        self.vouched
    }
}

/// What one step remembers.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// How long after the step's intention this process first looked, by the wall time.
    pub(super) late_by: Duration,
    /// When this process first looked, or an answer was unclear, in monotonic milliseconds.
    pub(super) first_look_ms: u64,
    /// When it began to wait for its turn at a call, in monotonic milliseconds.
    pub(super) queued_ms: Option<u64>,
    /// When its act was carried out last, in monotonic milliseconds.
    pub(super) acted_ms: Option<u64>,
    /// Failed calls in a row.
    pub(super) failures: u32,
    /// What the last failed call said, for people.
    pub(super) trouble: Option<String>,
    /// Looks that missed the object.
    pub(super) object: Missed,
    /// Looks that missed the instance the step works on.
    pub(super) instance: Missed,
    /// Answers that something which the request names is not there.
    pub(super) unknown: Missed,
    /// What its own calls said that they have made, by id.
    answers: BTreeSet<String>,
    /// What carries its tags and is not its own, and was told; at most [`TOLD_MAX`].
    told: BTreeSet<String>,
    by_step: ByStep,
}

/// Makes something with a client token.
#[derive(Debug, Clone, Default)]
pub(super) struct Creation {
    /// A call of this step succeeded or was unclear.
    pub(super) tried: bool,
    /// When the last unclear answer came, in monotonic milliseconds.
    pub(super) doubt_since_ms: u64,
    /// How often the source was in a state in which it cannot be copied.
    pub(super) unfit: u32,
    /// Answers that refused permission, where there is another way.
    pub(super) refused: Missed,
}

/// Takes snapshots, without a client token.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshots {
    /// Those that our call said it has made.
    pub(super) made: Vec<SnapshotId>,
    /// How many answers were unclear.
    pub(super) unclear: u32,
    /// Answers that refused permission.
    pub(super) refused: Missed,
    /// The last refusal, for people.
    pub(super) refusal: Option<String>,
}

/// Terminates an instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Fence {
    /// The state the instance was first found in.
    pub(super) found: Option<String>,
    /// Whether we asked for its termination.
    pub(super) terminated: bool,
    /// Since when every look has shown it shutting down.
    pub(super) shutting_down_since_ms: Option<u64>,
    /// When its termination by force is asked for again; `None` before it was.
    pub(super) force_again_ms: Option<u64>,
}

/// Changes something that shows the change later.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    /// Whether it was asked for with success.
    pub(super) asked: bool,
}

/// Attaches a volume.
#[derive(Debug, Clone, Default)]
pub(super) struct Attachment {
    /// How often its device name was in use.
    pub(super) device_busy: u32,
}

/// Replaces a root.
#[derive(Debug, Clone, Default)]
pub(super) struct Adoption {
    /// How many answers were unclear.
    pub(super) unclear: u32,
    /// Answers that refused permission.
    pub(super) refused: Missed,
}

/// Sees a volume come free.
#[derive(Debug, Clone, Default)]
pub(super) struct Release {
    /// When it is detached by force again, in monotonic milliseconds; `None` before it was.
    pub(super) force_again_ms: Option<u64>,
}

/// Lets volumes and interfaces survive an instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Preservation {
    /// Looks that missed another volume, which the instance lists.
    pub(super) other_volume: Missed,
    /// Questions about root replacements that were not answered.
    pub(super) root_tasks: Missed,
    /// Questions about UEFI variables that were not answered.
    pub(super) uefi: Missed,
    /// Answers that refused permission for it.
    pub(super) refused: Missed,
    /// EC2 refused to let an interface outlive its instance.
    pub(super) interface_dies: bool,
}

/// Deletes a retained volume.
#[derive(Debug, Clone, Default)]
pub(super) struct Deletion {
    /// Looks that found it attached.
    pub(super) attached: Missed,
}

/// What only one kind of step remembers: nothing until it does so.
macro_rules! by_step {
    ($($kind:ident: fn $name:ident;)*) => {
        #[derive(Debug, Clone, Default)]
        enum ByStep {
            #[default]
            Nothing,
            $($kind($kind),)*
        }

        impl Memory {
            $(pub(super) fn $name(&mut self) -> &mut $kind {
                if !matches!(self.by_step, ByStep::$kind(_)) {
                    self.by_step = ByStep::$kind($kind::default());
                }
                let ByStep::$kind(own) = &mut self.by_step else { unreachable!("BUG: made so a line above") };
                own
            })*
        }
    };
}

by_step! {
    Creation: fn creation;
    Snapshots: fn snapshots;
    Fence: fn fence;
    Change: fn change;
    Attachment: fn attachment;
    Adoption: fn adoption;
    Release: fn release;
    Preservation: fn preservation;
    Deletion: fn deletion;
}

impl Memory {
    fn new(late_by: Duration, now_ms: u64) -> Self {
        Self {
            late_by,
            first_look_ms: now_ms,
            queued_ms: None,
            acted_ms: None,
            failures: 0,
            trouble: None,
            object: Missed::default(),
            instance: Missed::default(),
            unknown: Missed::default(),
            answers: BTreeSet::new(),
            told: BTreeSet::new(),
            by_step: ByStep::Nothing,
        }
    }

    /// The step has waited for its turn: in that time it has not looked.
    pub(super) const fn turn_has_come(&mut self, now_ms: u64) {
        if let Some(queued_ms) = self.queued_ms.take() {
            self.first_look_ms = self.first_look_ms.saturating_add(now_ms.saturating_sub(queued_ms));
        }
    }

    /// Whether a call of the step was permitted.
    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// A call of the step said that it has made this.
    pub(super) fn note_answer(&mut self, id: &str) {
        self.answers.insert(id.to_owned());
    }

    /// Whether a call of the step said that it has made this.
    pub(super) fn is_answer(&self, id: &str) -> bool {
        self.answers.contains(id)
    }

    /// Whether a thing that is not the step's own is to be told: once.
    pub(super) fn tells(&mut self, id: &str) -> bool {
        self.told.len() < TOLD_MAX && self.told.insert(id.to_owned())
    }
}

/// The memories of all steps under way.
#[derive(Debug, Default)]
pub(super) struct Memories {
    /// With the time of the step's last pass, in monotonic milliseconds.
    kept: HashMap<(StreamId, Token), (u64, Memory)>,
}

impl Memories {
    /// What a step remembers. A copy: a pass that is dropped half-way leaves what was.
    pub(super) fn of(&self, step: &(StreamId, Token), late_by: Duration, now_ms: u64) -> Memory {
        self.kept.get(step).map_or_else(|| Memory::new(late_by, now_ms), |(_, memory)| memory.clone())
    }

    /// The step is settled.
    pub(super) fn forget(&mut self, step: &(StreamId, Token)) {
        self.kept.remove(step);
    }

    /// The step goes on. When there is no room, what is over makes some; should every step be live, the one
    /// that has waited longest.
    pub(super) fn keep(&mut self, step: (StreamId, Token), memory: Memory, now_ms: u64) {
        if self.kept.len() >= MEMORIES_MAX && !self.kept.contains_key(&step) {
            self.make_room(now_ms);
        }
        match self.kept.entry(step) {
            Entry::Occupied(mut known) => *known.get_mut() = (now_ms, memory),
            Entry::Vacant(free) => {
                free.insert((now_ms, memory));
            }
        }
    }

    fn make_room(&mut self, now_ms: u64) {
        self.kept.retain(|_, (at_ms, _)| Duration::from_millis(now_ms.saturating_sub(*at_ms)) < IDLE_MAX);
        if self.kept.len() < MEMORIES_MAX {
            return;
        }
        let oldest = self.kept.iter().min_by_key(|(step, (at_ms, _))| (*at_ms, *step));
        if let Some(step) = oldest.map(|(step, _)| step.clone()) {
            self.kept.remove(&step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: usize) -> (StreamId, Token) {
        let name = format!("operation/node-{number}.1");
        (StreamId::parse(&name).unwrap(), Token(1))
    }

    fn remembering(now_ms: u64) -> Memory {
        let mut memory = Memory::new(Duration::ZERO, now_ms);
        memory.fence().terminated = true;
        memory
    }

    #[test]
    fn a_full_memory_forgets_steps_that_are_over_and_no_live_one() {
        let mut memories = Memories::default();
        for number in 0..MEMORIES_MAX {
            let at_ms = if number < 3 { 0 } else { 3_000_000 };
            memories.keep(step(number), remembering(at_ms), at_ms);
        }
        memories.keep(step(MEMORIES_MAX), remembering(3_600_000), 3_600_000);
        assert_eq!(memories.kept.len(), MEMORIES_MAX - 2);
        for live in 3..=MEMORIES_MAX {
            assert!(memories.of(&step(live), Duration::ZERO, 0).fence().terminated, "{live}");
        }
    }

    #[test]
    fn a_memory_full_of_live_steps_forgets_the_one_that_has_waited_longest() {
        let mut memories = Memories::default();
        for number in 0..MEMORIES_MAX {
            memories.keep(step(number), remembering(0), 1_000 + number as u64);
        }
        memories.keep(step(0), remembering(0), 20_000);
        memories.keep(step(MEMORIES_MAX), remembering(0), 20_000);
        assert_eq!(memories.kept.len(), MEMORIES_MAX);
        assert!(!memories.of(&step(1), Duration::ZERO, 20_000).fence().terminated);
        assert!(memories.of(&step(0), Duration::ZERO, 20_000).fence().terminated);
        assert!(memories.of(&step(2), Duration::ZERO, 20_000).fence().terminated);
    }

    #[test]
    fn a_settled_step_leaves_nothing() {
        let mut memories = Memories::default();
        memories.keep(step(1), remembering(5), 5);
        memories.forget(&step(1));
        assert!(memories.kept.is_empty());
        assert_eq!(memories.of(&step(1), Duration::ZERO, 7).first_look_ms, 7);
    }

    #[test]
    fn absence_takes_more_than_one_look() {
        let mut missed = Missed::default();
        assert!(
            !missed.for_at_least(Duration::ZERO, 1_000),
            "one look proves nothing, however short the time"
        );
        assert!(!missed.for_at_least(Duration::from_secs(5), 5_999));
        assert!(missed.for_at_least(Duration::from_secs(5), 6_000));
        missed.found();
        assert!(!missed.for_at_least(Duration::from_secs(5), 60_000), "a look that found it begins anew");
    }
}
