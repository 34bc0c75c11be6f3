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
//! - A timer whose command leaves it as it is rests before it is tried again, longer each time ([`REST`]): a
//!   command that is refused or has nothing to do costs a few looks, not a processor.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tracing::{debug, error, info, warn};

use crate::domain::{Domain, Pace};
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
    /// Whether its command wrote anything.
    wrote: bool,
    /// When the timer is due now; `None` when the stream shows it no more, or that is not known.
    stands: Result<Option<u64>, ReadFailed>,
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
        }
        if monotonic_ms >= scan_at_ms {
            scan_at_ms = monotonic_ms.saturating_add(scan_every_ms);
            scan(engine, &mut agenda, now_ms.saturating_add(2 * scan_every_ms)).await;
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
                agenda.ended(&key, &fired, clock.now_ms());
            }
            count = set.recv_many(&mut heard, PAGE) => {
                if count == 0 {
                    break;
                }
                heard.drain(..).for_each(|row| agenda.note(row));
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

/// Reads what is due until the horizon into the agenda.
async fn scan<D: Domain>(engine: &Engine<D>, agenda: &mut Agenda, horizon_ms: u64) {
    match read(engine, agenda, horizon_ms).await {
        Ok(0) => {}
        Ok(count) if agenda.horizon_ms == 0 => info!(timers = count, "timers found in the journal"),
        Ok(count) => debug!(timers = count, "scan of the timers"),
        Err(error) => warn!(%error, "the timers could not be read; trying again"),
    }
    agenda.horizon_ms = horizon_ms;
}

async fn read<D: Domain>(
    engine: &Engine<D>,
    agenda: &mut Agenda,
    horizon_ms: u64,
) -> Result<usize, ReadError> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = engine.journal().timers(horizon_ms, after.take(), PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().cloned();
        count += page.len();
        page.into_iter().for_each(|row| agenda.hold(row));
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
                (panicked.id(), Fired { wrote: false, stands: Err(ReadFailed) })
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
        Ok(Some(due_ms)) if due_ms <= engine.clock().now_ms() => {}
        Ok(stands) => return Fired { wrote: false, stands: Ok(stands) },
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
        Ok(stands) => Fired { wrote, stands: Ok(stands) },
        Err(error) => Fired { wrote, ..failed(stream, name, &error) },
    }
}

fn failed<R: std::error::Error + 'static>(stream: &StreamId, name: &str, error: &ExecuteError<R>) -> Fired {
    warn!(%stream, timer = name, %error, "the command of a timer failed; it is tried again later");
    Fired { wrote: false, stands: Err(ReadFailed) }
}

/// When to look where. Pure: time is an argument.
struct Agenda {
    /// What is due later is not held.
    horizon_ms: u64,
    entries: HashMap<Key, Entry>,
    lines: BTreeMap<String, Line>,
    pace: fn(&str) -> Option<Pace>,
}

struct Entry {
    due_ms: u64,
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
        /// The time of a timer of this name that was set meanwhile.
        set_ms: Option<u64>,
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
        Self { horizon_ms: 0, entries: HashMap::new(), lines: BTreeMap::new(), pace }
    }

    /// A timer was set.
    fn note(&mut self, row: TimerRow) {
        if row.due_ms <= self.horizon_ms {
            self.hold(row);
        }
    }

    /// Holds a timer. One that is known with this time stays where it is, so that it goes on resting.
    fn hold(&mut self, row: TimerRow) {
        let TimerRow { due_ms, stream, name } = row;
        let key = (stream, name);
        let full = self.entries.len() >= AGENDA_MAX;
        match self.entries.get_mut(&key) {
            Some(Entry { place: Place::Running { set_ms, .. }, .. }) => *set_ms = Some(due_ms),
            Some(known) if known.due_ms == due_ms => {}
            Some(_) => {
                self.drop_waiting(&key);
                self.wait(key, due_ms, due_ms, 0);
            }
            None if full => {}
            None => self.wait(key, due_ms, due_ms, 0),
        }
    }

    fn wait(&mut self, key: Key, due_ms: u64, at_ms: u64, tries: u32) {
        let (stream, name) = &key;
        if !self.lines.contains_key(name) {
            let line = Line { pace: (self.pace)(name), waiting: BTreeSet::new(), begun: VecDeque::new() };
            self.lines.insert(name.clone(), line);
        }
        if let Some(line) = self.lines.get_mut(name) {
            line.waiting.insert((at_ms, stream.clone()));
        }
        self.entries.insert(key, Entry { due_ms, place: Place::Waiting { at_ms }, tries });
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
            entry.place = Place::Running { since_ms: now_ms, set_ms: None };
        }
        Some(key)
    }

    /// The clock was set back to this time: rests and paces that were counted by the old one are over.
    fn set_back(&mut self, now_ms: u64) {
        let resting = self.entries.iter().filter_map(|(key, entry)| match entry.place {
            Place::Waiting { at_ms } if at_ms > entry.due_ms.max(now_ms) => {
                Some((key.clone(), entry.due_ms, entry.tries))
            }
            _ => None,
        });
        for (key, due_ms, tries) in resting.collect::<Vec<_>>() {
            self.drop_waiting(&key);
            self.wait(key, due_ms, due_ms.max(now_ms), tries);
        }
        self.lines.values_mut().for_each(|line| line.begun.clear());
    }

    /// When the next one can be begun.
    fn wake_at_ms(&self) -> Option<u64> {
        self.lines.values().filter_map(Line::next_at_ms).min()
    }

    /// What became of one that was taken.
    fn ended(&mut self, key: &Key, fired: &Fired, now_ms: u64) {
        let Some(Entry { due_ms, place: Place::Running { since_ms, set_ms }, tries }) =
            self.entries.remove(key)
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
        let stands = match fired.stands {
            Ok(stands) => stands,
            Err(ReadFailed) => Some(due_ms),
        };
        if stands == Some(due_ms) {
            let tries = tries.saturating_add(1);
            let rest = REST.after(tries, 0.5).as_millis() as u64;
            self.wait(key.clone(), due_ms, now_ms.saturating_add(rest), tries);
        }
        let (stream, name) = key;
        for due_ms in stands.into_iter().chain(set_ms) {
            self.note(TimerRow { due_ms, stream: stream.clone(), name: name.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(due_ms: u64) -> TimerRow {
        let stream = StreamId::parse("s/1").unwrap();
        TimerRow { due_ms, stream, name: "ring".into() }
    }

    fn agenda() -> Agenda {
        Agenda { horizon_ms: 1_000, ..Agenda::new(|_| None) }
    }

    #[test]
    fn a_timer_that_is_set_while_its_command_is_under_way_is_not_forgotten() {
        let mut agenda = agenda();
        agenda.note(row(10));
        assert_eq!((agenda.next(9), agenda.wake_at_ms()), (None, Some(10)));
        let key = agenda.next(10).unwrap();
        assert_eq!((agenda.next(10), agenda.wake_at_ms()), (None, None), "it is under way");
        // Set after its command was executed and the stream was asked, heard before that is known.
        agenda.note(row(50));
        agenda.ended(&key, &Fired { wrote: true, stands: Ok(None) }, 20);
        assert_eq!((agenda.next(49), agenda.next(50)), (None, Some(key)));
    }

    #[test]
    fn a_scan_ends_no_rest_and_another_time_does() {
        let mut agenda = agenda();
        agenda.note(row(10));
        let key = agenda.next(10).unwrap();
        agenda.ended(&key, &Fired { wrote: false, stands: Ok(Some(10)) }, 10);
        agenda.hold(row(10));
        assert_eq!(agenda.wake_at_ms(), Some(1_010));
        agenda.hold(row(300));
        assert_eq!(agenda.wake_at_ms(), Some(300));
        assert_eq!(agenda.next(300), Some(key.clone()));
        // A stream that cannot be read rests as well, and is asked again.
        agenda.ended(&key, &Fired { wrote: false, stands: Err(ReadFailed) }, 300);
        assert_eq!(agenda.wake_at_ms(), Some(1_300));
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_no_rest_and_no_pace() {
        let slow = |_: &str| Some(Pace { begun_max: 1, per: Duration::from_secs(60) });
        let mut agenda = Agenda { horizon_ms: 10_000_000, ..Agenda::new(slow) };
        agenda.note(row(5_000_000));
        let key = agenda.next(8_000_000).unwrap();
        agenda.ended(&key, &Fired { wrote: true, stands: Ok(Some(5_000_000)) }, 8_000_000);
        assert_eq!(agenda.wake_at_ms(), Some(8_060_000));
        agenda.set_back(4_400_000);
        assert_eq!(agenda.wake_at_ms(), Some(5_000_000), "when it is due");
        assert_eq!(agenda.next(5_000_000), Some(key));
    }

    #[test]
    fn what_is_due_later_than_the_horizon_is_not_held() {
        let mut agenda = agenda();
        agenda.note(row(1_001));
        assert!(agenda.entries.is_empty() && agenda.lines.is_empty());
        agenda.note(row(1_000));
        let key = agenda.next(1_000).unwrap();
        agenda.ended(&key, &Fired { wrote: true, stands: Ok(Some(5_000)) }, 1_000);
        assert!(agenda.entries.is_empty(), "the scan reads it again");
    }
}
