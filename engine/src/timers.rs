//! Timers: commands that are due at a time, and reactions, which are timers that are due at once.
//!
//! ```text
//!  append ─► timers set ─► agenda ─► due: look at the stream ─► command ─► append
//!                            ▲  ▲                                  │
//!  scan of what is due soon ─┘  └─ it still stands: it rests ◄─────┘
//! ```
//!
//! A timer stands in the projection of its stream, so a crash loses none. The agenda is only a hint of when
//! to look where: it holds what is due soon, learns of new timers from the engine's appends, and reads the
//! journal again with each scan. Nothing but the streams of due timers is loaded.
//!
//! # Guarantees
//! - A timer's command is executed at its time or later, and again until the stream shows the timer no more,
//!   or another time.
//! - What is due is begun in order of its time, at most [`RUNNING_MAX`] at once, and within the [`Pace`] of
//!   its name. A name that has to wait for its pace does not hold the others up.
//! - A timer that is due later than it can ever have been set for is due at once: the clock was set back.
//!   Such timers are looked for at the start, when the clock goes back, and among those that are set.
//! - A timer whose command leaves it as it is rests before it is tried again, longer each time ([`REST`]): a
//!   command that is refused or has nothing to do costs a few looks, not a processor.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tracing::{debug, error, info, warn};

use crate::domain::{Domain, Pace, Timer};
use crate::engine::{Engine, ExecuteError};
use crate::ids::StreamId;
use crate::journal::{ReadError, TimerRow};
use crate::limits::Limits;
use crate::retry::Intervals;
use crate::shutdown::Shutdown;

/// How many commands of timers are executed at once. They only append, and the journal commits many together;
/// more would only wait in its line, before the reports of steps.
const RUNNING_MAX: usize = 16;

/// How long a timer rests that its command has left as it is. A minute is little beside what timers are for
/// (backups, retention), and ten thousand of them that are all refused cost under two hundred looks a second,
/// at states that are in memory.
const REST: Intervals =
    Intervals { first: Duration::from_secs(1), longest: Duration::from_secs(60), jitter: 0.0 };

/// How many timers the agenda holds: what is overdue and what is due until after the next scan. About 200
/// bytes each. The soonest are read first; those for which there is no room are read by a later scan.
const AGENDA_MAX: usize = 65_536;

/// How many timers one page of a scan holds, and how many are taken from the engine at once.
const PAGE: usize = 1_000;

/// A timer's stream and name.
type Key = (StreamId, String);

/// What became of a timer that was due.
struct Fired {
    /// Whether the timer was due, so that its command was tried.
    is_due: bool,
    /// Whether its command wrote anything.
    wrote: bool,
    /// The timer as the stream shows it now, if it does.
    stands: Result<Option<Timer>, ReadFailed>,
}

/// The stream could not be read after its command.
struct ReadFailed;

/// Executes what is due until the shutdown is asked for.
pub(crate) async fn run<D: Domain>(engine: &Engine<D>, limits: &Limits, shutdown: &Shutdown) {
    let Some(mut set) = engine.take_timers() else {
        error!("BUG: two dispatchers over one engine; this one leaves the timers to the other");
        return;
    };
    let clock = engine.clock();
    let mut agenda = Agenda::new(D::pace);
    let mut running = Running::default();
    let mut heard = Vec::new();
    let scan_every_ms = limits.scan_every.as_millis() as u64;
    // Scans go by monotonic time, what is due by wall time.
    let (mut scan_at_ms, mut seen_ms) = (0, 0);
    loop {
        let (now_ms, monotonic_ms) = (clock.now_ms(), clock.monotonic_ms());
        if now_ms < std::mem::replace(&mut seen_ms, now_ms) {
            agenda.set_back(now_ms);
            scan_at_ms = 0;
        }
        if monotonic_ms >= scan_at_ms {
            scan_at_ms = monotonic_ms.saturating_add(scan_every_ms);
            agenda.horizon_ms = now_ms.saturating_add(2 * scan_every_ms);
            scan(engine, &mut agenda, now_ms).await;
        }
        while running.tasks.len() < RUNNING_MAX
            && let Some(key) = agenda.next(now_ms)
        {
            running.spawn(engine.clone(), key);
        }
        let room = running.tasks.len() < RUNNING_MAX;
        let until_due_ms = agenda.wake_at_ms().filter(|_| room).unwrap_or(u64::MAX).saturating_sub(now_ms);
        let until_scan_ms = scan_at_ms.saturating_sub(clock.monotonic_ms());
        let pause = Duration::from_millis(until_due_ms.min(until_scan_ms));
        tokio::select! {
            biased;
            () = shutdown.asked() => break,
            Some(ended) = running.tasks.join_next_with_id() => {
                let (key, fired) = running.ended(ended);
                agenda.ended(&key, fired, clock.now_ms());
            }
            count = set.recv_many(&mut heard, PAGE) => {
                if count == 0 {
                    break;
                }
                let now_ms = clock.now_ms();
                for row in heard.drain(..) {
                    agenda.note(row, now_ms);
                }
            }
            () = clock.sleep(pause) => {}
        }
    }
    // Each is one command; what is not written by then stands in the journal.
    let drained = tokio::time::timeout(clock.real(limits.drain), async {
        while running.tasks.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        warn!(
            commands = running.tasks.len(),
            "commands of timers were given up; the next start goes on with them"
        );
    }
}

/// Reads what is due until the horizon into the agenda, and once all that a clock that was set back puts off.
async fn scan<D: Domain>(engine: &Engine<D>, agenda: &mut Agenda, now_ms: u64) {
    let until_ms = if agenda.looks_at_all { u64::MAX } else { agenda.horizon_ms };
    match read(engine, agenda, now_ms, until_ms).await {
        Ok(count) if agenda.is_new && count > 0 => info!(timers = count, "timers found in the journal"),
        Ok(count) => debug!(timers = count, "scan of the timers"),
        Err(error) => return warn!(%error, "the timers could not be read; trying again"),
    }
    agenda.is_new = false;
    // What there was no room for is looked for by the next scan.
    agenda.looks_at_all &= agenda.entries.len() >= AGENDA_MAX;
}

async fn read<D: Domain>(
    engine: &Engine<D>,
    agenda: &mut Agenda,
    now_ms: u64,
    until_ms: u64,
) -> Result<usize, ReadError> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = engine.journal().timers(until_ms, after.take(), PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().cloned();
        for row in page {
            count += usize::from(agenda.note(row, now_ms));
        }
        if !full || agenda.entries.len() >= AGENDA_MAX {
            return Ok(count);
        }
    }
}

/// The commands under way.
#[derive(Default)]
struct Running {
    tasks: JoinSet<Fired>,
    keys: HashMap<Id, Key>,
}

impl Running {
    fn spawn<D: Domain>(&mut self, engine: Engine<D>, key: Key) {
        let (stream, name) = key.clone();
        let task = self.tasks.spawn(async move { fire(&engine, &stream, &name).await });
        self.keys.insert(task.id(), key);
    }

    fn ended(&mut self, ended: Result<(Id, Fired), JoinError>) -> (Key, Fired) {
        let (id, fired) = match ended {
            Ok(ended) => ended,
            Err(panicked) => {
                error!(error = %panicked, "BUG: the command of a timer panicked; it is tried again");
                (panicked.id(), Fired { is_due: true, wrote: false, stands: Err(ReadFailed) })
            }
        };
        let key = self.keys.remove(&id);
        (key.unwrap_or_else(|| unreachable!("BUG: each task has a key until it has ended")), fired)
    }
}

/// Executes the command of a timer that should be due.
async fn fire<D: Domain>(engine: &Engine<D>, stream: &StreamId, name: &str) -> Fired {
    // The stream says what is due, not the agenda: the timer may be gone, or have moved.
    match engine.timer(stream, name).await {
        Ok(Some(timer)) if timer.is_due(engine.clock().now_ms()) => {}
        Ok(stands) => return Fired { is_due: false, wrote: false, stands: Ok(stands) },
        Err(error) => return failed(stream, name, &error),
    }
    let wrote = match engine.execute(D::timer_due(stream, name)).await {
        Ok(executed) => executed.events > 0,
        Err(ExecuteError::AlreadyDone { .. }) => false,
        Err(ExecuteError::Rejected(rejection)) => {
            debug!(%stream, timer = name, %rejection, "the command of a timer was refused; it is tried again later");
            false
        }
        Err(error) => return failed(stream, name, &error),
    };
    match engine.timer(stream, name).await {
        Ok(stands) => Fired { is_due: true, wrote, stands: Ok(stands) },
        Err(error) => Fired { wrote, ..failed(stream, name, &error) },
    }
}

fn failed<R: std::error::Error + 'static>(stream: &StreamId, name: &str, error: &ExecuteError<R>) -> Fired {
    warn!(%stream, timer = name, %error, "the command of a timer failed; it is tried again later");
    Fired { is_due: true, wrote: false, stands: Err(ReadFailed) }
}

/// When to look at a timer: when it is due, or now if the clock has put it off.
fn look_at_ms(row: &TimerRow, now_ms: u64) -> u64 {
    if row.is_due(now_ms) { row.due_ms.min(now_ms) } else { row.due_ms }
}

/// When to look where. Pure: time is an argument.
struct Agenda {
    /// What is due later is not held.
    horizon_ms: u64,
    /// Whether no scan has ended yet.
    is_new: bool,
    /// Whether the next scan looks for all that a clock that was set back has put off.
    looks_at_all: bool,
    entries: HashMap<Key, Entry>,
    lines: BTreeMap<String, Line>,
    pace: fn(&str) -> Option<Pace>,
}

struct Entry {
    row: TimerRow,
    place: Place,
    /// How often its command has left it as it is.
    tries: u32,
}

enum Place {
    /// In line, to be begun at this time: when it is due, or has rested.
    Waiting { at_ms: u64 },
    /// Its command is under way since this time.
    Running {
        since_ms: u64,
        /// A timer of this name that was set meanwhile.
        set: Option<TimerRow>,
    },
}

/// The timers of one name.
struct Line {
    pace: Option<Pace>,
    waiting: BTreeSet<(u64, StreamId)>,
    /// When the last ones were begun, as many as the pace counts.
    begun: VecDeque<u64>,
}

impl Line {
    /// From when on one more may begin.
    fn free_at_ms(&self) -> u64 {
        let full = self.pace.as_ref().filter(|pace| self.begun.len() >= pace.begun_max);
        match (full, self.begun.front()) {
            (Some(pace), Some(first)) => first.saturating_add(pace.per.as_millis() as u64),
            (Some(_), None) => u64::MAX,
            (None, _) => 0,
        }
    }

    /// When its first one can be begun.
    fn next_at_ms(&self) -> Option<u64> {
        self.waiting.first().map(|(at_ms, _)| (*at_ms).max(self.free_at_ms()))
    }

    fn begin(&mut self, now_ms: u64) {
        let Some(pace) = &self.pace else { return };
        self.begun.push_back(now_ms);
        while self.begun.len() > pace.begun_max {
            self.begun.pop_front();
        }
    }
}

impl Agenda {
    fn new(pace: fn(&str) -> Option<Pace>) -> Self {
        let (entries, lines) = (HashMap::new(), BTreeMap::new());
        Self { horizon_ms: 0, is_new: true, looks_at_all: true, entries, lines, pace }
    }

    /// Holds a timer that is due before the horizon, or by a clock that was set back since; whether it does.
    /// One that is known with this time stays where it is, so that it goes on resting.
    fn note(&mut self, row: TimerRow, now_ms: u64) -> bool {
        let at_ms = look_at_ms(&row, now_ms);
        if at_ms > self.horizon_ms {
            return false;
        }
        let key = (row.stream.clone(), row.name.clone());
        let full = self.entries.len() >= AGENDA_MAX;
        match self.entries.get_mut(&key) {
            Some(Entry { place: Place::Running { set, .. }, .. }) => *set = Some(row),
            Some(known) if known.row.due_ms == row.due_ms => {}
            Some(_) => {
                self.drop_waiting(&key);
                self.wait(row, at_ms, 0);
            }
            None if full => return false,
            None => self.wait(row, at_ms, 0),
        }
        true
    }

    fn wait(&mut self, row: TimerRow, at_ms: u64, tries: u32) {
        if !self.lines.contains_key(&row.name) {
            let line =
                Line { pace: (self.pace)(&row.name), waiting: BTreeSet::new(), begun: VecDeque::new() };
            self.lines.insert(row.name.clone(), line);
        }
        if let Some(line) = self.lines.get_mut(&row.name) {
            line.waiting.insert((at_ms, row.stream.clone()));
        }
        let key = (row.stream.clone(), row.name.clone());
        self.entries.insert(key, Entry { row, place: Place::Waiting { at_ms }, tries });
    }

    fn drop_waiting(&mut self, key: &Key) {
        if let Some(Entry { place: Place::Waiting { at_ms }, .. }) = self.entries.remove(key)
            && let Some(line) = self.lines.get_mut(&key.1)
        {
            line.waiting.remove(&(at_ms, key.0.clone()));
        }
    }

    /// Takes what is to be begun now, the longest due first.
    fn next(&mut self, now_ms: u64) -> Option<Key> {
        let open = self.lines.iter_mut().filter(|(_, line)| line.free_at_ms() <= now_ms);
        let due = open.filter_map(|(name, line)| {
            let (at_ms, _) = line.waiting.first().filter(|(at_ms, _)| *at_ms <= now_ms)?;
            Some((*at_ms, name, line))
        });
        let (_, name, line) = due.min_by_key(|(at_ms, ..)| *at_ms)?;
        let (_, stream) = line.waiting.pop_first()?;
        line.begin(now_ms);
        let key = (stream, name.clone());
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = Place::Running { since_ms: now_ms, set: None };
        }
        Some(key)
    }

    /// The clock was set back to this time: rests and paces that were counted by the old one are over.
    fn set_back(&mut self, now_ms: u64) {
        self.looks_at_all = true;
        let resting = self.entries.iter().filter_map(|(key, entry)| match entry.place {
            Place::Waiting { at_ms } => {
                let look_ms = look_at_ms(&entry.row, now_ms).max(now_ms);
                (at_ms > look_ms).then(|| (key.clone(), entry.row.clone(), entry.tries, look_ms))
            }
            Place::Running { .. } => None,
        });
        for (key, row, tries, look_ms) in resting.collect::<Vec<_>>() {
            self.drop_waiting(&key);
            self.wait(row, look_ms, tries);
        }
        self.lines.values_mut().for_each(|line| line.begun.clear());
    }

    /// When the next one can be begun.
    fn wake_at_ms(&self) -> Option<u64> {
        self.lines.values().filter_map(Line::next_at_ms).min()
    }

    /// What became of one that was taken.
    fn ended(&mut self, key: &Key, fired: Fired, now_ms: u64) {
        let Some(Entry { row, place: Place::Running { since_ms, set }, tries }) = self.entries.remove(key)
        else {
            return;
        };
        if !fired.wrote
            && let Some(line) = self.lines.get_mut(&key.1)
            && let Some(place) = line.begun.iter().rposition(|begun| *begun == since_ms)
        {
            // What wrote nothing has begun nothing.
            line.begun.remove(place);
        }
        let (stream, name) = key.clone();
        let stands = match fired.stands {
            Ok(None) => None,
            Ok(Some(Timer { due_ms, wait_max_ms, .. })) => {
                Some(TimerRow { due_ms, stream, name, wait_max_ms })
            }
            Err(ReadFailed) => Some(row.clone()),
        };
        if fired.is_due
            && let Some(left) = stands.as_ref().filter(|stands| stands.due_ms == row.due_ms)
        {
            let tries = tries.saturating_add(1);
            let rest = REST.after(tries, 0.5).as_millis() as u64;
            self.wait(left.clone(), now_ms.saturating_add(rest), tries);
        }
        for row in stands.into_iter().chain(set) {
            self.note(row, now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(due_ms: u64) -> TimerRow {
        let stream = StreamId::parse("s/1").unwrap();
        TimerRow { due_ms, stream, name: "ring".into(), wait_max_ms: u64::MAX }
    }

    /// What became of a command that left the timer due then.
    fn fired(wrote: bool, due_ms: Option<u64>) -> Fired {
        let timer = |due_ms| Timer { name: "ring".into(), due_ms, wait_max_ms: u64::MAX };
        Fired { is_due: true, wrote, stands: Ok(due_ms.map(timer)) }
    }

    fn agenda() -> Agenda {
        Agenda { horizon_ms: 1_000, ..Agenda::new(|_| None) }
    }

    #[test]
    fn a_timer_that_is_set_while_its_command_is_under_way_is_not_forgotten() {
        let mut agenda = agenda();
        agenda.note(row(10), 0);
        assert_eq!((agenda.next(9), agenda.wake_at_ms()), (None, Some(10)));
        let key = agenda.next(10).unwrap();
        assert_eq!((agenda.next(10), agenda.wake_at_ms()), (None, None), "it is under way");
        // Set after its command was executed and the stream was asked, heard before that is known.
        agenda.note(row(50), 0);
        agenda.ended(&key, fired(true, None), 20);
        assert_eq!((agenda.next(49), agenda.next(50)), (None, Some(key)));
    }

    #[test]
    fn a_scan_ends_no_rest_and_another_time_does() {
        let mut agenda = agenda();
        agenda.note(row(10), 0);
        let key = agenda.next(10).unwrap();
        agenda.ended(&key, fired(false, Some(10)), 10);
        agenda.note(row(10), 0);
        assert_eq!(agenda.wake_at_ms(), Some(1_010));
        agenda.note(row(300), 0);
        assert_eq!(agenda.wake_at_ms(), Some(300));
        assert_eq!(agenda.next(300), Some(key.clone()));
        // A stream that cannot be read rests as well, and is asked again.
        agenda.ended(&key, Fired { is_due: true, wrote: false, stands: Err(ReadFailed) }, 300);
        assert_eq!(agenda.wake_at_ms(), Some(1_300));
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_no_rest_and_no_pace() {
        let slow = |_: &str| Some(Pace { begun_max: 1, per: Duration::from_secs(60) });
        let mut agenda = Agenda { horizon_ms: 10_000_000, ..Agenda::new(slow) };
        agenda.note(row(5_000_000), 0);
        let key = agenda.next(8_000_000).unwrap();
        agenda.ended(&key, fired(true, Some(5_000_000)), 8_000_000);
        assert_eq!(agenda.wake_at_ms(), Some(8_060_000));
        agenda.set_back(4_400_000);
        assert_eq!(agenda.wake_at_ms(), Some(5_000_000), "when it is due");
        assert_eq!(agenda.next(5_000_000), Some(key));
    }

    #[test]
    fn what_is_due_later_than_the_horizon_is_not_held() {
        let mut agenda = agenda();
        agenda.note(row(1_001), 0);
        assert!(agenda.entries.is_empty() && agenda.lines.is_empty());
        agenda.note(row(1_000), 0);
        let key = agenda.next(1_000).unwrap();
        agenda.ended(&key, fired(true, Some(5_000)), 1_000);
        assert!(agenda.entries.is_empty(), "the scan reads it again");
    }
}
