//! StopInstances, StartInstances, and status checks.
//!
//! A stopped instance keeps its volumes and interfaces, releases its capacity, and is no fence: any user may
//! start it.

use perennial_workers::port::ImpairedView;
use perennial_workflows::model::aws::{InstanceId, InstanceState};
use perennial_workflows::model::signal::StatusCheck;

use super::events::{Happening, rfc3339};
use super::requests::SpotKind;
use super::settings::Capacity;
use super::{ApiError, Transition, World, ids_of};

/// Until EC2 first tries to start an instance again that it stopped, or one whose pool got capacity (guess).
const RESTART_MS: u64 = 10_000;
/// Between its attempts (guess); longer, as nothing ends them.
pub(super) const RESTART_AGAIN_MS: u64 = 300_000;

/// The result of the status checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Not decided yet.
    Initializing,
    /// Passed.
    Ok,
    /// Failed.
    Impaired,
    /// The instance does not run.
    NotApplicable,
}

impl World {
    /// StopInstances: all, or none. The states before, in order.
    ///
    /// # Errors
    /// InvalidInstanceID.NotFound, IncorrectInstanceState while pending or over, UnsupportedOperation for an
    /// instance of a one-time spot request.
    pub fn stop_instances(
        &mut self,
        now_ms: u64,
        ids: &[InstanceId],
    ) -> Result<Vec<InstanceState>, ApiError> {
        self.begin_counted(now_ms, "StopInstances", ids.len() as u64)?;
        for id in ids {
            let instance = self.known_instance(id)?;
            if matches!(instance.state, InstanceState::Pending) || instance.state.is_over() {
                let message = format!("The instance '{id}' is not in a state from which it can be stopped.");
                return Err(ApiError::new("IncorrectInstanceState", message));
            }
            if instance.stop_protected {
                let message = format!(
                    "The instance '{id}' may not be stopped. Modify its 'disableApiStop' instance attribute and try again."
                );
                return Err(ApiError::new("OperationNotPermitted", message));
            }
            if self.request_of(id).is_some_and(|request| request.kind == SpotKind::OneTime) {
                let message = format!(
                    "You can't stop the Spot Instance '{id}' because it is associated with a one-time Spot Instance request. You can only stop Spot Instances associated with persistent Spot Instance requests."
                );
                return Err(ApiError::new("UnsupportedOperation", message));
            }
        }
        let before = ids.iter().map(|id| self.instances[id].state).collect();
        for id in ids {
            self.begin_stop(id, "Client.UserInitiatedShutdown", "instance-stopped-by-user");
        }
        Ok(before)
    }

    pub(super) fn begin_stop(&mut self, id: &InstanceId, reason: &str, status: &'static str) {
        let now_ms = self.now_ms;
        let Some(instance) = self.instances.get_mut(id) else { return };
        if !matches!(instance.state, InstanceState::Running | InstanceState::Pending) {
            return;
        }
        instance.state = InstanceState::Stopping;
        instance.state_reason = Some(reason.to_owned());
        instance.transition_reason = transition_reason(reason, now_ms);
        instance.reclaim_at_ms = None;
        let request = instance.spot_request.clone();
        if let Some(request) = request.and_then(|request| self.spot_requests.get_mut(&request)) {
            request.status = status.into();
            if request.state == "active" {
                request.state = "disabled".into();
            }
        }
        self.tell(id, Happening::Changed(InstanceState::Stopping));
        self.after(self.settings.latencies.shutdown, Transition::Stopped(id.clone()));
    }

    pub(super) fn is_stopped(&mut self, id: &InstanceId) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.state != InstanceState::Stopping {
            return;
        }
        instance.state = InstanceState::Stopped;
        instance.running_since_ms = None;
        let by_user = instance.state_reason.as_deref() == Some("Client.UserInitiatedShutdown");
        instance.occupies = false;
        let pool = (instance.instance_type.clone(), instance.zone.clone(), instance.market);
        if let (true, Some(Capacity::Free(free))) = (by_user, self.capacity.get_mut(&pool)) {
            *free += 1;
        }
        let volumes = ids_of(&self.instances[id].volumes);
        for volume in volumes {
            self.no_longer_busy(&volume);
        }
        self.tell(id, Happening::Changed(InstanceState::Stopped));
        if self.waits_for_capacity(id) {
            self.at(self.now_ms + RESTART_MS, Transition::Restart(id.clone()));
        }
    }

    /// Whether EC2 stopped it and may start it again: its request still stands.
    fn waits_for_capacity(&self, id: &InstanceId) -> bool {
        self.instances.get(id).is_some_and(|instance| instance.state == InstanceState::Stopped)
            && self.request_of(id).is_some_and(|request| {
                request.status == "instance-stopped-no-capacity" && request.state == "disabled"
            })
    }

    /// EC2 starts an instance again that it stopped, in the same pool, when there is capacity (EC2 User
    /// Guide, behaviour of Spot Instance interruptions). One whose root was taken is terminated instead, as
    /// documented.
    pub(super) fn restarts(&mut self, id: &InstanceId) {
        if !self.waits_for_capacity(id) {
            return;
        }
        let has_root =
            self.instances.get(id).is_some_and(|found| self.volume_at(found, &found.root_device).is_some());
        if !has_root {
            self.shut_down(id, "Server.SpotInstanceTermination");
            self.close_spot_request(id, "instance-terminated-no-capacity");
        } else if self.starts(id).is_err() {
            self.at(self.now_ms + RESTART_AGAIN_MS, Transition::Restart(id.clone()));
        }
    }

    /// A pool got capacity: instances and requests that wait for it are tried soon.
    pub(super) fn capacity_came(&mut self) {
        let stopped: Vec<_> =
            self.instances.keys().filter(|id| self.waits_for_capacity(id)).cloned().collect();
        for id in stopped {
            self.at(self.now_ms + RESTART_MS, Transition::Restart(id));
        }
        let open = self.spot_requests.values().filter(|request| request.state == "open");
        let open: Vec<_> = open.map(|request| request.id.clone()).collect();
        for id in open {
            self.at(self.now_ms + RESTART_MS, Transition::Respawn(id));
        }
    }

    /// StartInstances: all, or none. The states before, in order.
    ///
    /// # Errors
    /// InvalidInstanceID.NotFound, IncorrectInstanceState unless it is stopped or runs,
    /// IncorrectSpotRequestState when EC2 stopped it (only EC2 may start it again), InvalidParameterValue
    /// without a root volume, capacity.
    pub fn start_instances(
        &mut self,
        now_ms: u64,
        ids: &[InstanceId],
    ) -> Result<Vec<InstanceState>, ApiError> {
        self.begin_counted(now_ms, "StartInstances", ids.len() as u64)?;
        for id in ids {
            self.check_start(id)?;
        }
        let before: Vec<_> = ids.iter().map(|id| self.instances[id].state).collect();
        for (id, state) in ids.iter().zip(&before) {
            if *state == InstanceState::Stopped {
                self.starts(id)?;
            }
        }
        Ok(before)
    }

    fn check_start(&self, id: &InstanceId) -> Result<(), ApiError> {
        let instance = self.known_instance(id)?;
        match instance.state {
            InstanceState::Running | InstanceState::Pending => return Ok(()),
            InstanceState::Stopped => {}
            InstanceState::Stopping | InstanceState::ShuttingDown | InstanceState::Terminated => {
                let message = format!("The instance '{id}' is not in a state from which it can be started.");
                return Err(ApiError::new("IncorrectInstanceState", message));
            }
        }
        if self.request_of(id).is_some_and(|request| request.status == "instance-stopped-no-capacity") {
            let message = format!("'{id}' was stopped by an interruption; EC2 starts it again");
            return Err(ApiError::new("IncorrectSpotRequestState", message));
        }
        if self.volume_at(instance, &instance.root_device).is_none() {
            let message = format!(
                "Invalid value '{id}' for instanceId. Instance does not have a volume attached at root ({})",
                instance.root_device
            );
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        Ok(())
    }

    fn starts(&mut self, id: &InstanceId) -> Result<(), ApiError> {
        let instance = &self.instances[id];
        let (kind, zone, market) = (instance.instance_type.clone(), instance.zone.clone(), instance.market);
        self.take_capacity(&kind, &zone, market)?;
        let now_ms = self.now_ms;
        let Some(instance) = self.instances.get_mut(id) else { return Ok(()) };
        instance.state = InstanceState::Pending;
        instance.state_reason = None;
        instance.transition_reason = String::new();
        instance.occupies = true;
        instance.launched_at_ms = now_ms;
        let request = instance.spot_request.clone();
        if let Some(request) = request.and_then(|request| self.spot_requests.get_mut(&request))
            && request.state == "disabled"
        {
            request.state = "active".into();
            request.status = "fulfilled".into();
        }
        self.tell(id, Happening::Changed(InstanceState::Pending));
        self.after(self.settings.latencies.start, Transition::Running(id.clone()));
        Ok(())
    }

    /// The result of an instance's status checks.
    #[must_use]
    pub fn check_of(&self, id: &InstanceId) -> Check {
        let Some(instance) = self.instances.get(id).filter(|i| i.state == InstanceState::Running) else {
            return Check::NotApplicable;
        };
        let since_ms = instance.running_since_ms.unwrap_or(self.now_ms);
        match instance.impaired {
            true => Check::Impaired,
            false if self.now_ms < since_ms + self.settings.latencies.checks.max_ms => Check::Initializing,
            false => Check::Ok,
        }
    }

    /// Makes the status checks of an instance fail, or pass again.
    pub fn set_impaired(&mut self, id: &InstanceId, impaired: bool) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.impaired_since_ms = impaired.then(|| instance.impaired_since_ms.unwrap_or(self.now_ms));
            instance.impaired = impaired;
        }
    }

    /// The guest of an instance changes its UEFI variables (base64).
    pub fn set_uefi_data(&mut self, id: &InstanceId, data: &str) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.uefi_data = Some(data.to_owned());
        }
    }

    /// GetInstanceUefiData.
    ///
    /// # Errors
    /// As of every call; `IncorrectInstanceState` of one that is over.
    pub fn uefi_data(&mut self, now_ms: u64, id: &InstanceId) -> Result<Option<String>, ApiError> {
        self.begin_read(now_ms, "GetInstanceUefiData")?;
        let instance = self.known_instance(id)?;
        if instance.state.is_over() {
            let message = format!("The instance '{id}' is {}", instance.state);
            return Err(ApiError::new("IncorrectInstanceState", message));
        }
        Ok(instance.uefi_data.clone())
    }

    /// The instances whose status checks fail; here all of them do at once.
    #[must_use]
    pub fn impaired(&self) -> Vec<ImpairedView> {
        let failing = self.all_instances().filter(|instance| self.check_of(&instance.id) == Check::Impaired);
        failing
            .map(|instance| ImpairedView {
                instance: instance.id.clone(),
                checks: vec![StatusCheck::System, StatusCheck::Instance, StatusCheck::AttachedEbs],
                since_ms: instance.impaired_since_ms,
            })
            .collect()
    }
}

/// As EC2 writes it into `StateTransitionReason`.
pub(super) fn transition_reason(reason: &str, now_ms: u64) -> String {
    let by = match reason {
        "Client.UserInitiatedShutdown" => "User initiated",
        other => other,
    };
    let time = rfc3339(now_ms).replace('T', " ").replace('Z', " GMT");
    format!("{by} ({time})")
}
