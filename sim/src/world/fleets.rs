//! Launch templates and CreateFleet of type `instant`.

use std::collections::BTreeMap;

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::{InstanceId, Market};
use serde::{Deserialize, Serialize};

use super::requests::RunInstances;
use super::state::Template;
use super::{ApiError, World};

/// Launch templates of one account (a bound of this model; the default quota is 5000).
const TEMPLATES_MAX: usize = 5_000;

/// Fleets of one account that are remembered (a bound of this model); the oldest are forgotten.
const FLEETS_MAX: usize = 10_000;

/// The parameters of CreateFleet that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetRequest {
    /// Empty for none.
    pub client_token: String,
    /// What is asked for of each market; on-demand instances are launched first.
    pub parts: Vec<FleetPart>,
    /// Of the fleet itself.
    pub tags: Tags,
}

/// What a fleet asks for in one market.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetPart {
    /// The market of all its launches.
    pub market: Market,
    /// How many instances.
    pub target: u32,
    /// Fewer than this, and the fleet launches none at all (`MinTargetCapacity`).
    pub least: u32,
    /// One launch per override, in the order in which they shall be tried. Their counts are not used.
    pub overrides: Vec<RunInstances>,
}

/// The answer to CreateFleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetAnswer {
    /// `fleet-…`.
    pub id: String,
    /// By the override's index, with the market.
    pub launched: Vec<(usize, Market, Vec<InstanceId>)>,
    /// By the override's index, with the market: why it gave less than it was asked for.
    pub refused: Vec<(usize, Market, ApiError)>,
}

/// A fleet that was created.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct Fleet {
    pub id: String,
    pub client_token: String,
    pub created_at_ms: u64,
    /// How many instances were asked for, on demand and on spot.
    pub targets: (u32, u32),
    pub instances: Vec<InstanceId>,
    pub deleted: bool,
    pub tags: Tags,
}

/// Why DeleteFleets does not delete a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are EC2's")]
pub enum NotDeleted {
    FleetIdDoesNotExist,
    FleetIdMalformed,
    FleetNotInDeletableState,
}

impl NotDeleted {
    /// EC2's code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::FleetIdDoesNotExist => "fleetIdDoesNotExist",
            Self::FleetIdMalformed => "fleetIdMalformed",
            Self::FleetNotInDeletableState => "fleetNotInDeletableState",
        }
    }
}

impl World {
    /// CreateFleet of type `instant`: each override gives as many as it can until the target of its market is
    /// reached. A fleet that gets less, or nothing, is a success with errors in it (EC2 User Guide, instant
    /// fleets). It is a guess that a repeated token answers with the instances of the first call.
    ///
    /// # Errors
    /// IdempotentParameterMismatch; everything else is in the answer.
    pub fn create_fleet(&mut self, now_ms: u64, request: &FleetRequest) -> Result<FleetAnswer, ApiError> {
        const ACTION: &str = "CreateFleet";
        self.begin(now_ms, ACTION)?;
        let parameters = format!("{request:?}");
        if let Some(answer) = self.replayed(ACTION, "", &request.client_token, &parameters)? {
            return Ok(remembered(&answer));
        }
        let before = self.capacity.clone();
        let hex = self.fresh("");
        let id = format!("fleet-{}-{}", &hex[1..9], &hex[9..]);
        let mut answer = FleetAnswer { id, ..FleetAnswer::default() };
        let mut is_enough = true;
        for part in &request.parts {
            is_enough &= self.launch_part(part, &mut answer) >= part.least;
        }
        if !is_enough {
            for id in answer.launched.drain(..).flat_map(|(_, _, ids)| ids) {
                self.shut_down(&id, "Client.UserInitiatedShutdown");
                self.close_spot_request(&id, "instance-terminated-by-user");
            }
            self.capacity = before;
        }
        self.remember(ACTION, "", &request.client_token, parameters, &memory(&answer));
        self.keep_fleet(request, &answer);
        Ok(answer)
    }

    /// Launches what is asked for in one market, and gives how many there are.
    fn launch_part(&mut self, part: &FleetPart, answer: &mut FleetAnswer) -> u32 {
        let mut missing = part.target;
        for (index, launch) in part.overrides.iter().enumerate() {
            if missing == 0 {
                break;
            }
            let mut launch = launch.clone();
            launch.client_token.clear();
            launch.more.count_min = 1;
            launch.more.count_max = missing;
            match self.launch_counted(&launch) {
                Ok(ids) => {
                    missing -= ids.len() as u32;
                    if missing > 0 {
                        answer.refused.push((index, part.market, no_more(&launch.instance_type)));
                    }
                    answer.launched.push((index, part.market, ids));
                }
                Err(refusal) => answer.refused.push((index, part.market, refusal)),
            }
        }
        part.target - missing
    }

    fn keep_fleet(&mut self, request: &FleetRequest, answer: &FleetAnswer) {
        if self.fleets.len() >= FLEETS_MAX {
            let oldest = self.fleets.values().min_by_key(|fleet| fleet.created_at_ms).map(|f| f.id.clone());
            oldest.map(|id| self.fleets.remove(&id));
        }
        let wanted = |market| request.parts.iter().filter(|p| p.market == market).map(|p| p.target).sum();
        let fleet = Fleet {
            id: answer.id.clone(),
            client_token: request.client_token.clone(),
            created_at_ms: self.now_ms,
            targets: (wanted(Market::OnDemand), wanted(Market::Spot)),
            instances: answer.launched.iter().flat_map(|(_, _, ids)| ids.clone()).collect(),
            deleted: false,
            tags: request.tags.clone(),
        };
        self.fleets.insert(fleet.id.clone(), fleet);
    }

    /// Every fleet, deleted ones as well.
    pub fn all_fleets(&self) -> impl Iterator<Item = &Fleet> {
        self.fleets.values()
    }

    /// DeleteFleets of one fleet, with its instances: a fleet of type `instant` is not deleted without them
    /// (EC2 API reference). The reason of that refusal is a guess. Gives the instances that were terminated.
    ///
    /// # Errors
    /// EC2's reasons, which stand in the answer of the call.
    pub fn delete_fleet(&mut self, id: &str, terminates: bool) -> Result<Vec<InstanceId>, NotDeleted> {
        let is_well_formed = id.strip_prefix("fleet-").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        });
        if !is_well_formed {
            return Err(NotDeleted::FleetIdMalformed);
        }
        let fleet = self.fleets.get_mut(id).ok_or(NotDeleted::FleetIdDoesNotExist)?;
        if fleet.deleted || !terminates {
            return Err(NotDeleted::FleetNotInDeletableState);
        }
        fleet.deleted = true;
        let ids = fleet.instances.clone();
        for id in &ids {
            if self.instances.get(id).is_some_and(|found| !found.state.is_over()) {
                self.shut_down(id, "Client.UserInitiatedShutdown");
                self.close_spot_request(id, "instance-terminated-by-user");
            }
        }
        Ok(ids)
    }

    /// CreateLaunchTemplate. The parameters are those of RunInstances by their names on the wire.
    ///
    /// # Errors
    /// InvalidLaunchTemplateName.AlreadyExistsException and .MalformedException.
    pub fn create_template(
        &mut self,
        now_ms: u64,
        name: &str,
        parameters: BTreeMap<String, String>,
        tags: &Tags,
    ) -> Result<String, ApiError> {
        self.begin(now_ms, "CreateLaunchTemplate")?;
        check_template_name(name)?;
        if self.templates.values().any(|template| template.name == name) {
            let message = "Launch template name already in use.";
            return Err(ApiError::new("InvalidLaunchTemplateName.AlreadyExistsException", message));
        }
        if self.templates.len() >= TEMPLATES_MAX {
            return Err(ApiError::new("ResourceLimitExceeded", "too many launch templates"));
        }
        let id = self.fresh("lt-");
        let template = Template {
            id: id.clone(),
            name: name.to_owned(),
            created_at_ms: self.now_ms,
            versions: vec![parameters],
            descriptions: BTreeMap::new(),
            default_version: 1,
            tags: tags.clone(),
        };
        self.templates.insert(id.clone(), template);
        Ok(id)
    }

    /// Describes a version that exists.
    pub fn describe_version(&mut self, id: &str, number: usize, description: &str) {
        if let Some(template) = self.templates.get_mut(id)
            && !description.is_empty()
        {
            template.descriptions.insert(number, description.to_owned());
        }
    }

    /// ModifyLaunchTemplate: the version that is meant when a launch names none.
    ///
    /// # Errors
    /// InvalidLaunchTemplateId.NotFound, .VersionNotFound.
    pub fn set_default_version(&mut self, now_ms: u64, id: &str, version: &str) -> Result<(), ApiError> {
        self.begin(now_ms, "ModifyLaunchTemplate")?;
        let template = self.templates.get_mut(id).ok_or_else(|| no_template(id))?;
        template.default_version = template.number(Some(version))?;
        Ok(())
    }

    /// CreateLaunchTemplateVersion: the number of the new version.
    ///
    /// # Errors
    /// InvalidLaunchTemplateId.NotFound.
    pub fn create_template_version(
        &mut self,
        now_ms: u64,
        id: &str,
        parameters: BTreeMap<String, String>,
    ) -> Result<usize, ApiError> {
        self.begin(now_ms, "CreateLaunchTemplateVersion")?;
        let template = self.templates.get_mut(id).ok_or_else(|| no_template(id))?;
        template.versions.push(parameters);
        Ok(template.versions.len())
    }

    /// DeleteLaunchTemplate.
    ///
    /// # Errors
    /// InvalidLaunchTemplateId.NotFound.
    pub fn delete_template(&mut self, now_ms: u64, id: &str) -> Result<Template, ApiError> {
        self.begin(now_ms, "DeleteLaunchTemplate")?;
        self.templates.remove(id).ok_or_else(|| no_template(id))
    }

    /// A template by id, or by name.
    ///
    /// # Errors
    /// InvalidLaunchTemplateId.NotFound, InvalidLaunchTemplateName.NotFoundException.
    pub fn template(&self, id: Option<&str>, name: Option<&str>) -> Result<&Template, ApiError> {
        match (id, name) {
            (Some(id), _) => self.templates.get(id).ok_or_else(|| no_template(id)),
            (None, Some(name)) => self.templates.values().find(|t| t.name == name).ok_or_else(|| {
                let message = "At least one of the launch templates specified in the request does not exist.";
                ApiError::new("InvalidLaunchTemplateName.NotFoundException", message)
            }),
            (None, None) => Err(ApiError::new("MissingParameter", "a launch template needs an id or a name")),
        }
    }
}

impl Template {
    /// The number of a version: of `$Default`, of `$Latest`, or of one that exists.
    ///
    /// # Errors
    /// InvalidLaunchTemplateId.VersionNotFound.
    pub fn number(&self, version: Option<&str>) -> Result<usize, ApiError> {
        let number = match version {
            None | Some("" | "$Default") => self.default_version,
            Some("$Latest") => self.versions.len(),
            Some(number) => number.parse().unwrap_or(0),
        };
        if (1..=self.versions.len()).contains(&number) {
            return Ok(number);
        }
        let (version, id) = (version.unwrap_or_default(), &self.id);
        let message =
            format!("Could not find the specified version {version} for the launch template with ID {id}.");
        Err(ApiError::new("InvalidLaunchTemplateId.VersionNotFound", message))
    }

    /// The parameters of a version.
    ///
    /// # Errors
    /// InvalidLaunchTemplateId.VersionNotFound.
    pub fn version(&self, version: Option<&str>) -> Result<&BTreeMap<String, String>, ApiError> {
        self.number(version).map(|number| &self.versions[number - 1])
    }
}

/// 3 to 128 letters, digits and `( ) . / _ -` (EC2 API reference, CreateLaunchTemplate).
fn check_template_name(name: &str) -> Result<(), ApiError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"().-/_".contains(&byte);
    if (3..=128).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(());
    }
    let message = "Launch template name must be between 3 and 128 characters and may contain letters, numbers, and \
                   the following characters: ( ) . / _ -";
    Err(ApiError::new("InvalidLaunchTemplateName.MalformedException", message))
}

fn no_template(id: &str) -> ApiError {
    let message = format!("The specified launch template, with template ID {id}, does not exist.");
    ApiError::new("InvalidLaunchTemplateId.NotFound", message)
}

fn no_more(instance_type: &str) -> ApiError {
    let message =
        format!("We currently do not have sufficient {instance_type} capacity for all that was asked.");
    ApiError::with_status(500, "InsufficientInstanceCapacity", message)
}

/// The part of an answer that a token remembers: the instances, not the refusals.
fn memory(answer: &FleetAnswer) -> String {
    let launched = answer.launched.iter().map(|(index, market, ids)| {
        let ids: Vec<_> = ids.iter().map(InstanceId::as_str).collect();
        format!("{index} {market}={}", ids.join(","))
    });
    std::iter::once(answer.id.clone()).chain(launched).collect::<Vec<_>>().join(";")
}

fn remembered(text: &str) -> FleetAnswer {
    let mut parts = text.split(';');
    let id = parts.next().unwrap_or_default().to_owned();
    let launched = parts.filter_map(|part| {
        let (key, ids) = part.split_once('=')?;
        let (index, market) = key.split_once(' ').unwrap_or((key, ""));
        let market = if market == Market::Spot.to_string() { Market::Spot } else { Market::OnDemand };
        let ids = ids.split(',').filter_map(|id| InstanceId::parse(id).ok()).collect();
        Some((index.parse().ok()?, market, ids))
    });
    FleetAnswer { id, launched: launched.collect(), refused: Vec::new() }
}
