//! The walk: every state, breadth first, by how many things have gone wrong; the laws in every state; and
//! backwards from every end, whether each state can come to one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;

use perennial_workflows::operation::state::Status;

use super::laws::broken;
use super::state::{Fingerprints, State};
use super::world::Excuse;

/// How far a walk goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many things go otherwise than well on one way.
    pub deviations: u8,
    /// How many states are looked at.
    pub states: usize,
}

/// What a walk has seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub states: usize,
    pub transitions: usize,
    pub depth: usize,
    /// Whether every state within the deviations was looked at.
    pub is_complete: bool,
    pub ends: BTreeMap<String, usize>,
    pub stuck: usize,
    /// Transitions by their label without ids.
    pub kinds: BTreeMap<String, usize>,
    /// Ends without a root that EC2 deleted in the one moment in which nothing can be done.
    pub lost: usize,
    /// Those of them with a snapshot of all that the instance before had written.
    pub copied: usize,
}

struct Visited {
    from: u32,
    label: u32,
    depth: u32,
    is_open: bool,
}

/// A walk under way.
struct Walk {
    bounds: Bounds,
    seen: Seen,
    by_key: HashMap<u128, u32>,
    visited: Vec<Visited>,
    labels: Vec<String>,
    by_label: HashMap<String, u32>,
    friendly: Vec<(u32, u32)>,
    ends: Vec<u32>,
    fingerprints: Fingerprints,
    queues: Vec<VecDeque<(u32, State)>>,
    /// The first story of each way in which a law was broken.
    stories: BTreeMap<String, String>,
}

/// How many ways of breaking a law are told before the walk ends.
const STORIES_MAX: usize = 8;

/// Walks from a beginning.
///
/// # Errors
/// The shortest way to a state that breaks a law, for each law and way of breaking it.
pub fn walk(begin: State, bounds: Bounds) -> Result<Seen, String> {
    let mut walk = Walk {
        bounds,
        seen: Seen::default(),
        by_key: HashMap::new(),
        visited: Vec::new(),
        labels: Vec::new(),
        by_label: HashMap::new(),
        friendly: Vec::new(),
        ends: Vec::new(),
        fingerprints: Fingerprints::default(),
        queues: (0..=bounds.deviations).map(|_| VecDeque::new()).collect(),
        stories: BTreeMap::new(),
    };
    walk.seen.is_complete = true;
    walk.arrive(None, "begins".to_owned(), begin);
    for spent in 0..walk.queues.len() {
        while let Some((id, state)) = walk.queues[spent].pop_front() {
            if walk.stories.len() >= STORIES_MAX {
                break;
            }
            walk.expand(id, &state);
        }
    }
    walk.nothing_is_a_dead_end();
    if walk.stories.is_empty() {
        return Ok(walk.seen);
    }
    let stories: Vec<String> = walk.stories.into_values().collect();
    Err(stories.join("\n"))
}

impl Walk {
    fn expand(&mut self, id: u32, state: &State) {
        self.visited[id as usize].is_open = false;
        for transition in state.transitions(self.bounds.deviations) {
            self.seen.transitions += 1;
            *self.seen.kinds.entry(kind_of(&transition.label)).or_default() += 1;
            let to = match transition.to {
                Ok(to) => self.arrive(Some(id), transition.label, to),
                Err(why) => {
                    self.tell(Some(id), &transition.label, &why, state);
                    continue;
                }
            };
            if transition.is_friendly {
                self.friendly.push((id, to));
            }
        }
    }

    /// Comes to a state, by a transition: a new one is looked at, and remembered.
    fn arrive(&mut self, from: Option<u32>, label: String, state: State) -> u32 {
        let key = self.fingerprints.of(&state);
        if let Some(known) = self.by_key.get(&key) {
            return *known;
        }
        let is_broken = broken(&state);
        if let Some(why) = &is_broken {
            self.tell(from, &label, why, &state);
        }
        let id = u32::try_from(self.visited.len()).unwrap();
        let depth = from.map_or(0, |from| self.visited[from as usize].depth + 1);
        let label = self.labelled(label);
        let is_over = state.is_over();
        self.visited.push(Visited {
            from: from.unwrap_or(id),
            label,
            depth,
            is_open: !is_over || is_broken.is_some(),
        });
        self.by_key.insert(key, id);
        self.seen.depth = self.seen.depth.max(depth as usize);
        self.seen.stuck += usize::from(state.is_stuck());
        if let Status::Finished { outcome, .. } = &state.op.status {
            *self.seen.ends.entry(format!("{outcome:?}")).or_default() += 1;
            let is_lost = state.world.excused.values().any(|why| *why == Excuse::Window);
            self.seen.lost += usize::from(is_lost);
            self.seen.copied += usize::from(is_lost && has_copy(&state));
            self.seen.states += 1;
            self.ends.push(id);
        } else if self.visited.len() > self.bounds.states {
            // It is remembered, and where it leads is not looked at.
            self.seen.is_complete = false;
        } else if is_broken.is_none() {
            self.seen.states += 1;
            self.queues[usize::from(state.spent)].push_back((id, state));
        }
        id
    }

    fn labelled(&mut self, label: String) -> u32 {
        if let Some(known) = self.by_label.get(&label) {
            return *known;
        }
        let id = u32::try_from(self.labels.len()).unwrap();
        self.by_label.insert(label.clone(), id);
        self.labels.push(label);
        id
    }

    fn way(&self, to: Option<u32>) -> Vec<&str> {
        let mut way = Vec::new();
        let mut at = to;
        while let Some(id) = at {
            let visited = &self.visited[id as usize];
            way.push(self.labels[visited.label as usize].as_str());
            at = (visited.from != id).then_some(visited.from);
        }
        way.reverse();
        way
    }

    /// Tells how a law was broken, unless it was told of another way to the same.
    fn tell(&mut self, from: Option<u32>, label: &str, why: &str, state: &State) {
        let kind = kind_of(why);
        if self.stories.contains_key(&kind) {
            return;
        }
        let mut story = format!("{why}, after\n");
        for step in self.way(from).into_iter().chain([label]) {
            let _ = writeln!(story, "  {step}");
        }
        let open: Vec<String> = state.op.open_steps().into_iter().map(|step| step.step).collect();
        let _ = writeln!(story, "{:?}; open: {}", state.op.status, open.join(", "));
        for (volume, disk) in &state.world.volumes {
            let _ = writeln!(story, "{volume}: {disk:?}");
        }
        self.stories.insert(kind, story);
    }

    /// From every state a friendly world leads to an end. States that were not looked at any more are taken as
    /// ends.
    fn nothing_is_a_dead_end(&mut self) {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.visited.len()];
        for (from, to) in &self.friendly {
            before[*to as usize].push(*from);
        }
        let mut ends = vec![false; self.visited.len()];
        let open = self.visited.iter().zip(0..).filter(|(visited, _)| visited.is_open).map(|(_, id)| id);
        let mut todo: Vec<u32> = self.ends.iter().copied().chain(open).collect();
        while let Some(id) = todo.pop() {
            if !std::mem::replace(&mut ends[id as usize], true) {
                todo.extend(&before[id as usize]);
            }
        }
        if let Some(id) = ends.iter().position(|ends| !ends) {
            let way = self.way(Some(u32::try_from(id).unwrap()));
            let dead = ends.iter().filter(|ends| !**ends).count();
            let why = "no friendly world brings it to an end";
            let story = format!("{why} ({dead} states), after\n  {}\n", way.join("\n  "));
            self.stories.insert(why.to_owned(), story);
        }
    }
}

/// Whether there is a snapshot of a lost root as the instance before has left it.
fn has_copy(state: &State) -> bool {
    let world = &state.world;
    let lost = world.excused.keys().filter_map(|volume| world.volumes.get(volume).zip(Some(volume)));
    lost.into_iter().all(|(disk, volume)| {
        let of = world.snapshots.values().filter(|shot| shot.volume == *volume && !shot.is_gone);
        of.into_iter().any(|shot| shot.content + 1 >= disk.content)
    })
}

/// A label without ids.
fn kind_of(label: &str) -> String {
    let words = label.split(' ').map(|word| {
        let word = word.split_once(":vol-").map_or(word, |(step, _)| step);
        let is_id = ["i-", "vol-", "snap-", "ami-", "eni-"].iter().any(|prefix| word.starts_with(prefix));
        match word.split_once(":i-") {
            Some((step, _)) => step.to_owned() + ":",
            None if is_id => "…".to_owned(),
            None => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}
