//! Back to spot: finds nodes that had to go on demand and may go back, and asks the workflow to.
//!
//! Whether a node may move at all, and how a return that finds no capacity ends, is decided by the workflow
//! (`rules::capacity` of the workflows). This task looks at spot where such a node lives, and asks only
//! after it has looked available for [`STEADY`]. Where the endpoint says nothing of it, the workflow allows
//! a try now and then.
//!
//! Looks are kept in memory only: after a restart they begin anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::ReadError;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::command::{Command, Rejection};
use perennial_workflows::domain::keys::ON_DEMAND_KEY;
use perennial_workflows::domain::movement::{SpotSeen, may_return};
use perennial_workflows::domain::states::State;
use perennial_workflows::domain::{Perennial, movement};
use perennial_workflows::model::aws::Market;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::node_stream;
use perennial_workflows::model::requirements::SCORED_TYPES_MIN;
use perennial_workflows::spec::node::NodeSpec;
use tracing::{debug, info, warn};

use super::driver::{Failure, Task};
use crate::capacity::pool::PoolKey;
use crate::capacity::refusals::CapacityRefusals;
use crate::port::Cloud;

/// Between two looks at the nodes on demand. A return is not urgent; a minute keeps the looks of one window
/// fresh.
pub const EVERY: Duration = Duration::from_secs(60);

/// For how long spot must look available without a break. Past the three minutes for which a pool without
/// capacity is remembered, and long against a shortage that flickers.
pub const STEADY: Duration = Duration::from_secs(600);

/// The least placement score that counts as available. AWS calls 10 "highly likely" and promises nothing.
pub const SCORE_MIN: u8 = 7;

/// The task.
pub struct ReturnToSpot {
    engine: Engine<Perennial>,
    cloud: Arc<dyn Cloud>,
    owner: String,
    refusals: Arc<CapacityRefusals>,
    /// Since when spot has looked available to a node, in milliseconds.
    steady_since_ms: HashMap<NodeName, u64>,
}

/// What one look says of spot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Available(String),
    Unavailable(String),
    Unknown,
}

/// Types and zone of a node, so that nodes of one kind share their looks.
type Place = (Vec<String>, String, Option<String>);

#[async_trait]
impl Task for ReturnToSpot {
    fn name(&self) -> &'static str {
        "return_to_spot"
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn once(&mut self) -> Result<(), Failure> {
        Ok(self.look_at_all().await?)
    }
}

impl ReturnToSpot {
    /// A task over all nodes.
    #[must_use]
    pub fn new(
        engine: Engine<Perennial>,
        cloud: Arc<dyn Cloud>,
        owner: String,
        refusals: Arc<CapacityRefusals>,
    ) -> Self {
        Self { engine, cloud, owner, refusals, steady_since_ms: HashMap::new() }
    }

    /// One look at every node on demand.
    ///
    /// # Errors
    /// When the journal cannot be read.
    async fn look_at_all(&mut self) -> Result<(), ReadError> {
        let mut waiting = BTreeSet::new();
        let mut looks: BTreeMap<Place, Look> = BTreeMap::new();
        let engine = self.engine.clone();
        for stream in engine.journal().lookup(ON_DEMAND_KEY).await? {
            let Ok(name) = NodeName::parse(stream.name()) else { continue };
            match self.consider(&name, &mut looks).await {
                Ok(true) => {
                    waiting.insert(name);
                }
                Ok(false) => {}
                Err(error) => warn!(node = %name, %error, "whether it may go back to spot is not known"),
            }
        }
        self.steady_since_ms.retain(|name, _| waiting.contains(name));
        Ok(())
    }

    /// Looks for one node, and lets it go back if it may. Whether it is still to be looked for.
    async fn consider(
        &mut self,
        name: &NodeName,
        looks: &mut BTreeMap<Place, Look>,
    ) -> Result<bool, ExecuteError<Rejection>> {
        let (state, _) = self.engine.load(&node_stream(name)).await?;
        let State::Node(node) = state.as_ref() else { return Ok(false) };
        let now_ms = self.engine.clock().now_ms();
        // Nothing is asked for a node that could not go back however available spot is.
        if let Err(why) = may_return(node, &SpotSeen::Available(String::new()), now_ms) {
            debug!(node = %name, %why, "stays on demand");
            return Ok(false);
        }
        let Some((spec, place)) = place(node) else { return Ok(false) };
        let look = match looks.get(&place) {
            Some(look) => look.clone(),
            None => {
                let look = self.look(&place, spec, now_ms).await;
                looks.insert(place, look.clone());
                look
            }
        };
        let seen = match look {
            Look::Available(because) => {
                let since_ms = *self.steady_since_ms.entry(name.clone()).or_insert(now_ms);
                let steady = Duration::from_millis(now_ms.saturating_sub(since_ms));
                if steady < STEADY {
                    return Ok(true);
                }
                SpotSeen::Available(format!("for {} min {because}", steady.as_secs() / 60))
            }
            Look::Unavailable(why) => {
                debug!(node = %name, %why, "stays on demand");
                self.steady_since_ms.remove(name);
                return Ok(false);
            }
            Look::Unknown => SpotSeen::Unknown,
        };
        if may_return(node, &seen, now_ms).is_err() {
            return Ok(true);
        }
        let (node, owner) = (name.clone(), self.owner.clone());
        match self.engine.execute(Command::ReturnToSpot { node, seen, owner }).await {
            Ok(_) => info!(node = %name, "goes back to spot"),
            Err(ExecuteError::Rejected(Rejection::NotNow { .. })) => {}
            Err(error) => return Err(error),
        }
        self.steady_since_ms.remove(name);
        Ok(false)
    }

    /// What the endpoint says of spot at a place. A call that it refuses is left out.
    async fn look(&self, place: &Place, spec: &NodeSpec, now_ms: u64) -> Look {
        let (types, zone, _) = place;
        let is_remembered = |name: &String| {
            let pool = PoolKey { instance_type: name.clone(), zone: zone.clone(), market: Market::Spot };
            self.refusals.recall(&pool).is_some()
        };
        if types.iter().all(is_remembered) {
            return Look::Unavailable("no pool had capacity a moment ago".to_owned());
        }
        let mut said = Vec::new();
        if let Some(max) = spec.capacity.price_max.as_ref().and_then(|max| max.parse::<f64>().ok()) {
            match self.cloud.spot_prices(types, zone, now_ms).await {
                Ok(prices) if !prices.is_empty() => {
                    let known =
                        prices.iter().filter_map(|(name, price)| Some((price.parse::<f64>().ok()?, name)));
                    let cheapest = known.min_by(|(one, _), (other, _)| one.total_cmp(other));
                    match cheapest {
                        Some((price, name)) if price <= max => {
                            said.push(format!("{name} costs {price} on spot"));
                        }
                        _ => return Look::Unavailable(format!("every spot price is above {max}")),
                    }
                }
                Ok(_) => {}
                Err(error) => debug!(%error, "no spot prices"),
            }
        }
        if types.len() >= SCORED_TYPES_MIN {
            match self.cloud.placement_score(types, zone).await {
                Ok(Some(score)) if score >= SCORE_MIN => {
                    said.push(format!("the placement score is {score} of 10"));
                }
                Ok(Some(score)) => return Look::Unavailable(format!("the placement score is {score} of 10")),
                Ok(None) => {}
                Err(error) => debug!(%error, "no placement scores"),
            }
        }
        if said.is_empty() { Look::Unknown } else { Look::Available(said.join(", ")) }
    }
}

/// Where a node would ask for spot.
fn place(node: &Node) -> Option<(&NodeSpec, Place)> {
    let spec = node.spec.as_ref()?;
    let placement = node.resources.placement.as_ref()?;
    let subnet = node.resources.subnet.as_ref();
    let zone = subnet.and_then(|subnet| placement.other_zones.get(subnet)).unwrap_or(&placement.zone);
    Some((spec, (movement::types_here(node), zone.clone(), spec.capacity.price_max.clone())))
}
