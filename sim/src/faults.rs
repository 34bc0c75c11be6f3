//! Trouble on the way to the region and back.
//!
//! A [`Rule`] names its calls, the time when it strikes, and its effect. The first rule that strikes decides;
//! each rule counts its own matching calls. Chance is seeded.

use std::time::Duration;

use perennial_workers::port::error::Action;

/// The effect on a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this code, without effect.
    Before(String),
    /// Takes effect, and is answered with this code.
    After(String),
    /// Does not arrive: no effect and no answer.
    LostRequest,
    /// Takes effect, and the answer is lost.
    LostReply,
    /// Takes effect this much later.
    Delay(Duration),
}

/// The calls of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This action.
    Only(Action),
    /// The action of this name, of any service.
    Named(String),
    /// Every call that changes something.
    Acts,
    /// Every call that only reads.
    Looks,
    /// Every call.
    All,
}

impl Target {
    fn matches(&self, action: &str, is_look: bool) -> bool {
        match self {
            Self::Only(wanted) => wanted.name() == action,
            Self::Named(wanted) => wanted == action,
            Self::Acts => !is_look,
            Self::Looks => is_look,
            Self::All => true,
        }
    }
}

/// When a rule strikes, counted over the calls it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Only at the n-th call from now; 1 is the next.
    Nth(u64),
    /// At each of the next n calls.
    Next(u64),
    /// At each call.
    Always,
    /// At so many calls in a thousand, by chance.
    PerMille(u16),
}

/// One kind of trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The calls.
    pub target: Target,
    /// The time.
    pub when: When,
    /// The effect.
    pub fault: Fault,
}

impl Rule {
    /// This trouble at the next call of an action.
    #[must_use]
    pub const fn next(action: Action, fault: Fault) -> Self {
        Self { target: Target::Only(action), when: When::Nth(1), fault }
    }
}

/// A plan of faults.
#[derive(Debug)]
pub struct Faults {
    rules: Vec<(Rule, u64)>,
    rng: fastrand::Rng,
}

impl Faults {
    /// No trouble, with the seed of chance.
    #[must_use]
    pub fn none(seed: u64) -> Self {
        Self { rules: Vec::new(), rng: fastrand::Rng::with_seed(seed) }
    }

    /// Adds a rule after the others.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push((rule, 0));
    }

    /// Ends this trouble.
    pub fn remove(&mut self, rule: &Rule) {
        self.rules.retain(|(known, _)| known != rule);
    }

    /// Ends all trouble.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// The rules, and how many matching calls each has seen.
    pub fn rules(&self) -> impl Iterator<Item = &(Rule, u64)> {
        self.rules.iter()
    }

    /// The fault that strikes this call, if any.
    pub fn strike(&mut self, action: Action) -> Option<Fault> {
        self.strike_named(&action.name(), action.is_look())
    }

    /// The fault that strikes a call of any service, if any.
    pub fn strike_named(&mut self, action: &str, is_look: bool) -> Option<Fault> {
        let mut struck = None;
        for (rule, seen) in &mut self.rules {
            if !rule.target.matches(action, is_look) {
                continue;
            }
            *seen += 1;
            let strikes = match rule.when {
                When::Nth(n) => *seen == n,
                When::Next(n) => *seen <= n,
                When::Always => true,
                When::PerMille(chance) => self.rng.u16(0..1000) < chance,
            };
            if strikes && struck.is_none() {
                struck = Some(rule.fault.clone());
            }
        }
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_counts_only_the_calls_it_is_for() {
        let mut faults = Faults::none(1);
        faults.add(Rule { target: Target::Acts, when: When::Nth(2), fault: Fault::LostReply });
        faults.add(Rule { target: Target::Looks, when: When::Next(1), fault: Fault::LostRequest });
        let calls = [
            (Action::CreateVolume, None),
            (Action::DescribeVolumes, Some(Fault::LostRequest)),
            (Action::DescribeVolumes, None),
            (Action::AttachVolume, Some(Fault::LostReply)),
            (Action::AttachVolume, None),
        ];
        for (action, expected) in calls {
            assert_eq!(faults.strike(action), expected, "{action}");
        }
    }

    #[test]
    fn chance_is_seeded() {
        let run = |seed| {
            let mut faults = Faults::none(seed);
            faults.add(Rule { target: Target::All, when: When::PerMille(300), fault: Fault::LostReply });
            (0..100).map(|_| faults.strike(Action::CreateVolume).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!((10..60).contains(&run(7).iter().filter(|struck| **struck).count()));
    }
}
