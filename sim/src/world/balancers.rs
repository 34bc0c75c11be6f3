//! Target groups of Elastic Load Balancing v2, as far as registering a node goes. No load balancer stands in
//! front of them; each group counts as used.
//!
//! A target is `initial` until its first health check, `healthy` while its machine is up and passes its
//! status checks, `draining` for the group's deregistration delay after it was taken out or its machine began
//! to go.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::{InstanceId, InstanceState};
use serde::{Deserialize, Serialize};

use super::{ACCOUNT, ApiError, World};

/// Target groups of a region (ELB quotas: 3,000).
const GROUPS_MAX: usize = 3_000;
/// Targets of a group (ELB quotas: 1,000).
const TARGETS_MAX: usize = 1_000;
/// The attribute that the model acts on.
const DELAY: &str = "deregistration_delay.timeout_seconds";
/// Its default (ELB API reference).
const DELAY_DEFAULT_S: u64 = 300;
/// Its longest.
const DELAY_MAX_S: u64 = 3_600;
/// Attributes of a group, the ones that are only kept included (a bound of this model; ELB knows some
/// twenty).
const ATTRIBUTES_MAX: usize = 50;

/// The parameters of CreateTargetGroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are ELB's")]
pub struct TargetGroupSettings {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    /// `instance` or `ip`.
    pub target_type: String,
    /// The other parameters by their names, kept and shown.
    pub others: BTreeMap<String, String>,
}

/// A target: its id (an instance or an address) and its port.
pub type TargetKey = (String, u16);

/// A target group.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are ELB's")]
pub struct TargetGroup {
    pub arn: String,
    pub settings: TargetGroupSettings,
    pub attributes: BTreeMap<String, String>,
    #[serde(with = "super::persistence::pairs")]
    pub targets: BTreeMap<TargetKey, Target>,
    pub tags: Tags,
}

/// A registration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    /// When its first health check is over.
    pub checked_at_ms: u64,
    /// When it is gone, once it was taken out.
    pub gone_at_ms: Option<u64>,
}

/// The health of one target, as DescribeTargetHealth reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Such as `healthy`.
    pub state: &'static str,
    /// Such as `Target.NotRegistered`; empty for healthy ones.
    pub reason: &'static str,
    /// For people.
    pub description: &'static str,
}

const fn health(state: &'static str, reason: &'static str, description: &'static str) -> Health {
    Health { state, reason, description }
}

const NOT_REGISTERED: Health =
    health("unused", "Target.NotRegistered", "Target is not registered to the target group");
const DRAINING: Health =
    health("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress");

impl TargetGroup {
    fn delay_ms(&self) -> u64 {
        let said = self.attributes.get(DELAY).and_then(|value| value.parse::<u64>().ok());
        said.unwrap_or(DELAY_DEFAULT_S) * 1000
    }
}

fn no_group(arn: &str) -> ApiError {
    ApiError::new("TargetGroupNotFound", format!("Target groups '{arn}' not found"))
}

fn invalid_target(why: &str, ids: &[String]) -> ApiError {
    ApiError::new("InvalidTarget", format!("The following targets {why}: '{}'", ids.join("', '")))
}

impl World {
    /// CreateTargetGroup; again with the same settings is a success.
    ///
    /// # Errors
    /// DuplicateTargetGroupName, ValidationError, TooManyTargetGroups.
    pub fn create_target_group(
        &mut self,
        now_ms: u64,
        settings: &TargetGroupSettings,
        tags: &Tags,
    ) -> Result<&TargetGroup, ApiError> {
        self.advance(now_ms);
        let name = &settings.name;
        let fine = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !fine {
            return Err(ApiError::new("ValidationError", format!("'{name}' is no name of a target group")));
        }
        if !matches!(settings.target_type.as_str(), "instance" | "ip") {
            return Err(ApiError::new(
                "ValidationError",
                "this region knows the target types instance and ip",
            ));
        }
        let known = self.target_groups.values().find(|group| group.settings.name == *name);
        if let Some(known) = known {
            if known.settings != *settings {
                let message =
                    format!("A target group with the same name '{name}' exists, but with different settings");
                return Err(ApiError::new("DuplicateTargetGroupName", message));
            }
            let arn = known.arn.clone();
            return self.target_group(&arn);
        }
        if self.target_groups.len() >= GROUPS_MAX {
            return Err(ApiError::new(
                "TooManyTargetGroups",
                "The maximum number of target groups is reached",
            ));
        }
        let region = &self.settings.region;
        let prefix = format!("arn:aws:elasticloadbalancing:{region}:{ACCOUNT}:targetgroup/{name}/");
        let arn = format!("{prefix}{}", &self.fresh("")[1..]);
        let group = TargetGroup {
            arn: arn.clone(),
            settings: settings.clone(),
            attributes: BTreeMap::new(),
            targets: BTreeMap::new(),
            tags: tags.clone(),
        };
        Ok(self.target_groups.entry(arn).or_insert(group))
    }

    /// A target group.
    ///
    /// # Errors
    /// TargetGroupNotFound.
    pub fn target_group(&self, arn: &str) -> Result<&TargetGroup, ApiError> {
        self.target_groups.get(arn).ok_or_else(|| no_group(arn))
    }

    /// All target groups, by ARN.
    pub fn all_target_groups(&self) -> impl Iterator<Item = &TargetGroup> {
        self.target_groups.values()
    }

    /// DeleteTargetGroup. One that does not exist is deleted (ELB API reference knows no error for it).
    pub fn delete_target_group(&mut self, now_ms: u64, arn: &str) {
        self.advance(now_ms);
        self.target_groups.remove(arn);
    }

    /// ModifyTargetGroupAttributes. Others than the deregistration delay are kept and shown.
    ///
    /// # Errors
    /// TargetGroupNotFound, InvalidConfigurationRequest.
    pub fn modify_target_group(
        &mut self,
        now_ms: u64,
        arn: &str,
        changes: &BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        self.advance(now_ms);
        let group = self.target_groups.get_mut(arn).ok_or_else(|| no_group(arn))?;
        let refuse = |message: String| Err(ApiError::new("InvalidConfigurationRequest", message));
        for (key, value) in changes {
            let named =
                !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if !named || key.len() > 256 || value.len() > 1024 {
                return refuse(format!("Target group attribute key '{key}' is not recognized"));
            }
            if key == DELAY && value.parse::<u64>().ok().is_none_or(|delay| delay > DELAY_MAX_S) {
                return refuse(format!("'{key}' must be between 0 and {DELAY_MAX_S}"));
            }
        }
        let mut attributes = group.attributes.clone();
        attributes.extend(changes.clone());
        if attributes.len() > ATTRIBUTES_MAX {
            return refuse(format!("more than {ATTRIBUTES_MAX} attributes"));
        }
        group.attributes = attributes;
        Ok(())
    }

    /// DescribeTargetGroupAttributes.
    ///
    /// # Errors
    /// TargetGroupNotFound.
    pub fn target_group_attributes(&self, arn: &str) -> Result<BTreeMap<String, String>, ApiError> {
        let mut attributes: BTreeMap<_, _> = [
            (DELAY.to_owned(), DELAY_DEFAULT_S.to_string()),
            ("stickiness.enabled".to_owned(), "false".to_owned()),
        ]
        .into();
        attributes.extend(self.target_group(arn)?.attributes.clone());
        Ok(attributes)
    }

    /// RegisterTargets: all, or none. A target that drains is taken in again.
    ///
    /// # Errors
    /// TargetGroupNotFound; InvalidTarget for a target that is no instance, does not run, or is no address of
    /// a subnet.
    pub fn register_targets(
        &mut self,
        now_ms: u64,
        arn: &str,
        targets: &[(String, Option<u16>)],
    ) -> Result<(), ApiError> {
        self.advance(now_ms);
        self.sweep_targets(arn);
        let group = self.target_group(arn)?;
        let by_instance = group.settings.target_type == "instance";
        let wrong = |fits: &dyn Fn(&str) -> bool| -> Vec<String> {
            targets.iter().map(|(id, _)| id.clone()).filter(|id| !fits(id)).collect()
        };
        let (why, wrong) = if by_instance {
            let runs = |id: &str| {
                let id = InstanceId::parse(id).ok();
                let found = id.and_then(|id| self.known_instance(&id).ok());
                found.is_some_and(|found| found.state == InstanceState::Running)
            };
            ("are not in a running state and cannot be registered", wrong(&runs))
        } else {
            let inside = |id: &str| {
                let address = id.parse::<Ipv4Addr>().ok();
                address.is_some_and(|address| self.subnets.values().any(|subnet| subnet.contains(address)))
            };
            ("are no addresses of this VPC", wrong(&inside))
        };
        if !wrong.is_empty() {
            return Err(invalid_target(why, &wrong));
        }
        let port = group.settings.port;
        let mut keys: Vec<_> = targets.iter().map(|(id, own)| (id.clone(), own.unwrap_or(port))).collect();
        keys.retain(|key| group.targets.get(key).is_none_or(|known| known.gone_at_ms.is_some()));
        if group.targets.len() + keys.len() > TARGETS_MAX {
            let message = format!("A target group has at most {TARGETS_MAX} targets");
            return Err(ApiError::new("TooManyTargets", message));
        }
        let span = self.settings.latencies.target_check;
        for key in keys {
            let checked_at_ms = self.now_ms + span.draw(&mut self.rng);
            if let Some(group) = self.target_groups.get_mut(arn) {
                group.targets.insert(key, Target { checked_at_ms, gone_at_ms: None });
            }
        }
        Ok(())
    }

    /// DeregisterTargets. A target that is not registered is a success.
    ///
    /// # Errors
    /// TargetGroupNotFound.
    pub fn deregister_targets(
        &mut self,
        now_ms: u64,
        arn: &str,
        targets: &[(String, Option<u16>)],
    ) -> Result<(), ApiError> {
        self.advance(now_ms);
        self.sweep_targets(arn);
        let now_ms = self.now_ms;
        let group = self.target_groups.get_mut(arn).ok_or_else(|| no_group(arn))?;
        let gone_at_ms = now_ms + group.delay_ms();
        for ((id, port), target) in &mut group.targets {
            let meant =
                targets.iter().any(|(gone, only)| gone == id && only.is_none_or(|only| only == *port));
            if meant {
                target.gone_at_ms.get_or_insert(gone_at_ms);
            }
        }
        Ok(())
    }

    /// DescribeTargetHealth, of all targets or of some.
    ///
    /// # Errors
    /// TargetGroupNotFound.
    pub fn target_health(
        &mut self,
        now_ms: u64,
        arn: &str,
        only: &[(String, Option<u16>)],
    ) -> Result<Vec<(TargetKey, Health)>, ApiError> {
        self.advance(now_ms);
        self.sweep_targets(arn);
        let group = self.target_group(arn)?;
        let of = |key: &TargetKey, target: &Target| (key.clone(), self.health_of(group, key, target));
        if only.is_empty() {
            return Ok(group.targets.iter().map(|(key, target)| of(key, target)).collect());
        }
        let asked = only.iter().map(|(id, port)| {
            let key = (id.clone(), port.unwrap_or(group.settings.port));
            group.targets.get(&key).map_or((key.clone(), NOT_REGISTERED), |target| of(&key, target))
        });
        Ok(asked.collect())
    }

    fn machine_of(&self, group: &TargetGroup, id: &str) -> Option<&super::state::Instance> {
        if group.settings.target_type == "instance" {
            return self.instances.get(&InstanceId::parse(id).ok()?);
        }
        let interface = self.interfaces.get(self.addresses.get(&id.parse().ok()?)?)?;
        self.instances.get(&interface.attachment.as_ref()?.instance)
    }

    fn health_of(&self, group: &TargetGroup, (id, _): &TargetKey, target: &Target) -> Health {
        if target.gone_at_ms.is_some() {
            return DRAINING;
        }
        let failed = health("unhealthy", "Target.FailedHealthChecks", "Health checks failed");
        let by_address = group.settings.target_type == "ip";
        match self.machine_of(group, id) {
            // An address without a holder answers nothing.
            None if by_address => health("unhealthy", "Target.Timeout", "Request timed out"),
            None => NOT_REGISTERED,
            Some(machine) => match machine.state {
                InstanceState::Stopping | InstanceState::Stopped if !by_address => {
                    health("unused", "Target.InvalidState", "Target is in the stopped state")
                }
                InstanceState::Running if machine.impaired || self.is_rebooting(&machine.id) => failed,
                InstanceState::Running if self.now_ms < target.checked_at_ms => {
                    health("initial", "Elb.InitialHealthChecking", "Initial health checks in progress")
                }
                InstanceState::Running => health("healthy", "", ""),
                _ => failed,
            },
        }
    }

    /// An instance begins to go: it is taken out of its groups.
    pub(super) fn drain_targets_of(&mut self, instance: &InstanceId) {
        let now_ms = self.now_ms;
        for group in self.target_groups.values_mut().filter(|group| group.settings.target_type == "instance")
        {
            let gone_at_ms = now_ms + group.delay_ms();
            for (_, target) in group.targets.iter_mut().filter(|((id, _), _)| id == instance.as_str()) {
                target.gone_at_ms.get_or_insert(gone_at_ms);
            }
        }
    }

    /// Forgets targets that drained.
    fn sweep_targets(&mut self, arn: &str) {
        let now_ms = self.now_ms;
        if let Some(group) = self.target_groups.get_mut(arn) {
            group.targets.retain(|_, target| target.gone_at_ms.is_none_or(|gone| gone > now_ms));
        }
    }
}
