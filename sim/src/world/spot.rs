//! Capacity and interruptions.
//!
//! A notice marks the spot request at once (documented for capacity interruptions:
//! `instance-terminated-no-capacity` while the instance still runs), sends an event if it shall, and reclaims
//! the instance at its deadline. AWS promises none of it: a notice may be silent, and an instance may go
//! without one.

use std::time::Duration;

use perennial_workflows::model::aws::{InstanceId, InstanceState, Market};

use serde::{Deserialize, Serialize};

use super::events::Happening;
use super::requests::Behaviour;
use super::settings::Capacity;
use super::state::SpotRequest;
use super::{ApiError, Transition, World};

/// An interruption to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// From the notice to the reclaim. AWS says two minutes; 108 seconds were seen.
    pub lead: Duration,
    /// Whether EventBridge gets an event. The spot request is marked in any case.
    pub with_event: bool,
    /// A rebalance recommendation now, and the notice so much later.
    pub rebalance_first: Option<Duration>,
}

impl Default for Notice {
    fn default() -> Self {
        Self { lead: Duration::from_secs(120), with_event: true, rebalance_first: None }
    }
}

impl World {
    /// Sets the capacity of a pool (type, zone, market).
    pub fn set_capacity(&mut self, instance_type: &str, zone: &str, market: Market, capacity: Capacity) {
        self.capacity.insert((instance_type.to_owned(), zone.to_owned(), market), capacity);
        if !matches!(capacity, Capacity::Free(0) | Capacity::Unsupported) {
            self.capacity_came();
        }
    }

    pub(super) fn take_capacity(
        &mut self,
        instance_type: &str,
        zone: &str,
        market: Market,
    ) -> Result<(), ApiError> {
        match self.capacity.get_mut(&(instance_type.to_owned(), zone.to_owned(), market)) {
            None | Some(Capacity::Unlimited) => Ok(()),
            Some(Capacity::Free(free @ 1..)) => {
                *free -= 1;
                Ok(())
            }
            Some(Capacity::Free(_)) => Err(ApiError::with_status(
                500,
                "InsufficientInstanceCapacity",
                format!("We currently do not have sufficient {instance_type} capacity in {zone}."),
            )),
            Some(Capacity::Unsupported) => Err(ApiError::new(
                "Unsupported",
                format!("Your requested instance type ({instance_type}) is not supported in {zone}."),
            )),
        }
    }

    /// Announces that EC2 will reclaim a spot instance.
    ///
    /// # Errors
    /// When it is not a live spot instance, or has a notice already.
    pub fn interrupt(&mut self, now_ms: u64, id: &InstanceId, notice: Notice) -> Result<(), ApiError> {
        self.advance(now_ms);
        self.interruptible(id)?;
        match notice.rebalance_first {
            Some(ahead) => {
                self.recommends(id);
                let due = self.now_ms + ahead.as_millis() as u64;
                self.at(due, Transition::Warn(id.clone(), notice));
            }
            None => self.warns(id, &notice),
        }
        Ok(())
    }

    /// Sends the event that an instance is at elevated risk, and does nothing else.
    ///
    /// # Errors
    /// When it is not a live spot instance.
    pub fn recommend_rebalance(&mut self, now_ms: u64, id: &InstanceId) -> Result<(), ApiError> {
        self.advance(now_ms);
        self.interruptible(id)?;
        self.recommends(id);
        Ok(())
    }

    fn recommends(&mut self, id: &InstanceId) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.rebalance_at_ms.get_or_insert(self.now_ms);
        }
        self.tell(id, Happening::Rebalance);
    }

    /// The action of an interruption of this instance, as its notice names it.
    #[must_use]
    pub fn interruption_action(&self, id: &InstanceId) -> &'static str {
        match self.request_of(id).map(|request| request.behaviour) {
            Some(Behaviour::Stop) => "stop",
            Some(Behaviour::Terminate) | None => "terminate",
        }
    }

    pub(super) fn request_of(&self, id: &InstanceId) -> Option<&SpotRequest> {
        self.spot_requests.get(self.instances.get(id)?.spot_request.as_ref()?)
    }

    /// Withdraws a notice: the instance was warned and is not interrupted.
    pub fn spare(&mut self, now_ms: u64, id: &InstanceId) {
        self.advance(now_ms);
        if let Some(instance) = self.instances.get_mut(id) {
            instance.reclaim_at_ms = None;
        }
    }

    /// Reclaims a spot instance at once, without a notice. The spot request says so; state-change events are
    /// sent.
    ///
    /// # Errors
    /// When it is not a live spot instance.
    pub fn reclaim_now(&mut self, now_ms: u64, id: &InstanceId) -> Result<(), ApiError> {
        self.advance(now_ms);
        self.interruptible(id)?;
        self.take_back(id);
        Ok(())
    }

    /// As [`reclaim_now`](Self::reclaim_now), with no event at all: only a describe shows it.
    ///
    /// # Errors
    /// When it is not a live spot instance.
    pub fn vanish(&mut self, now_ms: u64, id: &InstanceId) -> Result<(), ApiError> {
        self.advance(now_ms);
        self.interruptible(id)?;
        if let Some(instance) = self.instances.get_mut(id) {
            instance.silenced = true;
        }
        self.take_back(id);
        Ok(())
    }

    fn interruptible(&self, id: &InstanceId) -> Result<(), ApiError> {
        match self.instances.get(id) {
            None => Err(ApiError::new("InvalidInstanceID.NotFound", format!("no instance {id}"))),
            Some(instance) if instance.market != Market::Spot => {
                Err(ApiError::new("UnsupportedOperation", format!("{id} is no spot instance")))
            }
            Some(instance) if !matches!(instance.state, InstanceState::Pending | InstanceState::Running) => {
                Err(ApiError::new("IncorrectInstanceState", format!("{id} is {}", instance.state)))
            }
            Some(_) => Ok(()),
        }
    }

    pub(super) fn warns(&mut self, id: &InstanceId, notice: &Notice) {
        if self.interruptible(id).is_err() {
            return;
        }
        let deadline_ms = self.now_ms + notice.lead.as_millis() as u64;
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.reclaim_at_ms.is_some_and(|earlier| earlier <= deadline_ms) {
            return;
        }
        instance.reclaim_at_ms = Some(deadline_ms);
        self.mark_spot_request(id);
        if notice.with_event {
            self.tell(id, Happening::Warning);
        }
        self.at(deadline_ms, Transition::Reclaim(id.clone()));
    }

    /// The status changes at the notice, the request is closed when the instance goes.
    fn mark_spot_request(&mut self, id: &InstanceId) {
        let request = self.instances.get(id).and_then(|instance| instance.spot_request.clone());
        if let Some(request) = request.and_then(|request| self.spot_requests.get_mut(&request)) {
            let status = match request.behaviour {
                Behaviour::Terminate => "instance-terminated-no-capacity",
                Behaviour::Stop => "marked-for-stop",
            };
            request.status = status.into();
        }
    }

    pub(super) fn reclaims(&mut self, id: &InstanceId) {
        let due = self.instances.get(id).and_then(|instance| instance.reclaim_at_ms);
        if due.is_some_and(|due| due <= self.now_ms) {
            self.take_back(id);
        }
    }

    fn take_back(&mut self, id: &InstanceId) {
        if self.interruption_action(id) == "stop" {
            self.begin_stop(id, "Server.SpotInstanceShutdown", "instance-stopped-no-capacity");
            return;
        }
        self.shut_down(id, "Server.SpotInstanceTermination");
        self.close_spot_request(id, "instance-terminated-no-capacity");
    }
}
