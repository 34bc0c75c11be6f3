//! Why a launch does not ask its pool: our own decision, and no answer of EC2's.

use std::fmt;

use super::pool::PoolKey;

/// How many nodes a refusal names.
const NAMED_MAX: usize = 5;

/// What spoke against a pool a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// It answered a launch with this code.
    Refused {
        /// EC2's code.
        code: String,
    },
    /// An instance that came from it got an interruption warning.
    Interrupted,
}

/// Why a launch does not ask its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAsked {
    /// The pool had no capacity a moment ago.
    Remembered {
        /// Which pool.
        pool: PoolKey,
        /// What said so.
        sign: Sign,
        /// How long ago, in seconds.
        ago_s: u64,
        /// When it is asked again, in seconds from now.
        again_in_s: u64,
    },
    /// As many nodes are on demand as may be.
    OnDemandBudget {
        /// The other nodes that are on demand.
        nodes: Vec<String>,
        /// How many there may be.
        max: u32,
    },
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code } => f.write_str(code),
            Self::Interrupted => f.write_str("an instance of it got an interruption warning"),
        }
    }
}

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remembered { pool: PoolKey { zone, market, .. }, sign, ago_s, again_in_s } => write!(
                f,
                "not asked: {market} in {zone} {ago_s} s ago ({sign}); it is asked again in {again_in_s} s"
            ),
            Self::OnDemandBudget { nodes, max } => {
                let named: Vec<&str> = nodes.iter().take(NAMED_MAX).map(String::as_str).collect();
                let more = if nodes.len() > NAMED_MAX { ", …" } else { "" };
                write!(
                    f,
                    "not asked: {} other nodes are on demand, at most {max} may be ({}{more})",
                    nodes.len(),
                    named.join(", ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_names_some_of_the_nodes() {
        let of = |count: usize| {
            let nodes = (1..=count).map(|number| format!("n{number}")).collect();
            NotAsked::OnDemandBudget { nodes, max: 2 }.to_string()
        };
        assert_eq!(of(2), "not asked: 2 other nodes are on demand, at most 2 may be (n1, n2)");
        assert_eq!(of(6), "not asked: 6 other nodes are on demand, at most 2 may be (n1, n2, n3, n4, n5, …)");
    }
}
