//! When Perennial may move a node by its own decision, such as back to spot.

use std::time::Duration;

use crate::aggregate::node::Node;
use crate::model::aws::Market;
use crate::spec::node::ReturnToSpot;
use crate::spec::windows;

/// The pause between two tries to return to spot when no data says whether it is available and the file names
/// no windows. Four tries a day find the end of a shortage on the same day.
pub const BLIND_TRIES: Duration = Duration::from_secs(6 * 3600);

/// The types that a node asks for in the subnet it lives in, on whatever market: listed or surveyed ones.
#[must_use]
pub fn types_here(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let present = node.resources.subnet.as_ref().unwrap_or(&spec.subnet);
    let mut types: Vec<String> = Vec::new();
    for pool in spec.ladder(present, node.resources.survey.as_deref()) {
        if pool.subnet.is_none() && !types.contains(&pool.instance_type) {
            types.push(pool.instance_type);
        }
    }
    types
}

/// Whether a node that runs well may be moved now.
///
/// # Errors
/// Why not, as a clause for people.
pub fn may_move(node: &Node, now_ms: u64) -> Result<(), String> {
    let Some(spec) = node.spec.as_ref().filter(|_| node.exists()) else {
        return Err("there is no such node".to_owned());
    };
    if let Some((open, _)) = &node.open {
        return Err(format!("workflow {open} holds it"));
    }
    has_settled(node, now_ms)?;
    if !spec.maintenance_windows.is_empty() && windows::open_at(&spec.maintenance_windows, now_ms).is_none() {
        return Err("it is outside of its maintenance windows".to_owned());
    }
    Ok(())
}

/// Whether the present instance has carried a node for long enough to be replaced by choice.
///
/// # Errors
/// Why not, as a clause for people.
pub fn has_settled(node: &Node, now_ms: u64) -> Result<(), String> {
    let min = node.spec.as_ref().map_or(0, |spec| spec.capacity.min_lifetime_min);
    if now_ms < node.carried_since_ms + u64::from(min) * 60_000 {
        return Err(format!("its instance has carried it for less than {min} minutes"));
    }
    Ok(())
}

/// The availability of spot where a node lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpotSeen {
    /// It has looked available for a while; in words.
    Available(String),
    /// No data says whether it is available.
    Unknown,
}

/// Whether a node may return to spot now, with the reasons for it.
///
/// # Errors
/// Why not, as a clause for people.
pub fn may_return(node: &Node, seen: &SpotSeen, now_ms: u64) -> Result<String, String> {
    may_move(node, now_ms)?;
    let Some(spec) = &node.spec else { return Err("there is no such node".to_owned()) };
    if spec.capacity.return_to_spot == ReturnToSpot::Never {
        return Err("its file says `return_to_spot: never`".to_owned());
    }
    if node.resources.carrier.as_ref().is_none_or(|carrier| carrier.market != Market::OnDemand) {
        return Err("it does not run on demand".to_owned());
    }
    let tried_ms = node.returned_at_ms.unwrap_or(0);
    if now_ms < tried_ms + u64::from(spec.capacity.min_lifetime_min) * 60_000 {
        return Err("it has tried a while ago".to_owned());
    }
    let window = windows::open_at(&spec.maintenance_windows, now_ms);
    match (seen, window) {
        (SpotSeen::Available(because), _) => Ok(because.clone()),
        (SpotSeen::Unknown, Some(window)) if tried_ms < window.from_ms => {
            Ok("one try in this maintenance window; nothing says whether spot is available".to_owned())
        }
        (SpotSeen::Unknown, Some(_)) => Err("it has tried in this maintenance window".to_owned()),
        (SpotSeen::Unknown, None) => {
            let pause_ms = u64::try_from(BLIND_TRIES.as_millis()).unwrap_or(u64::MAX / 2);
            if now_ms < tried_ms + pause_ms {
                return Err("it has tried a while ago, and nothing says whether spot is available".to_owned());
            }
            Ok("a try; nothing says whether spot is available".to_owned())
        }
    }
}
