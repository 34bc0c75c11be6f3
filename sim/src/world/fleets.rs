//! Launch templates and CreateFleet of type `instant`.

use std::collections::BTreeMap;

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::InstanceId;

use super::requests::RunInstances;
use super::state::Template;
use super::{ApiError, World};

/// Launch templates of one account (a bound of this model; the default quota is 5000).
const TEMPLATES_MAX: usize = 5_000;

/// The parameters of CreateFleet that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetRequest {
    /// Empty for none.
    pub client_token: String,
    /// How many instances.
    pub target: u32,
    /// Fewer than this is none at all (`MinTargetCapacity`).
    pub least: u32,
    /// One launch per override, in the order in which they shall be tried. Their counts are not used.
    pub overrides: Vec<RunInstances>,
}

/// The answer to CreateFleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetAnswer {
    /// `fleet-…`.
    pub id: String,
    /// By the override's index.
    pub launched: Vec<(usize, Vec<InstanceId>)>,
    /// By the override's index: why it gave less than it was asked for.
    pub refused: Vec<(usize, ApiError)>,
}

impl World {
    /// CreateFleet of type `instant`: each override gives as many as it can until the target is reached. A
    /// fleet that gets less, or nothing, is a success with errors in it (EC2 User Guide, instant fleets). It
    /// is a guess that a repeated token answers with the instances of the first call.
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
        let mut missing = request.target;
        for (index, launch) in request.overrides.iter().enumerate() {
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
                        answer.refused.push((index, no_more(&launch.instance_type)));
                    }
                    answer.launched.push((index, ids));
                }
                Err(refusal) => answer.refused.push((index, refusal)),
            }
        }
        if request.target - missing < request.least {
            for id in answer.launched.drain(..).flat_map(|(_, ids)| ids) {
                self.shut_down(&id, "Client.UserInitiatedShutdown");
                self.close_spot_request(&id, "instance-terminated-by-user");
            }
            self.capacity = before;
        }
        self.remember(ACTION, "", &request.client_token, parameters, &memory(&answer));
        Ok(answer)
    }

    /// CreateLaunchTemplate. The parameters are those of RunInstances by their names on the wire.
    ///
    /// # Errors
    /// InvalidLaunchTemplateName.AlreadyExistsException.
    pub fn create_template(
        &mut self,
        now_ms: u64,
        name: &str,
        parameters: BTreeMap<String, String>,
        tags: &Tags,
    ) -> Result<String, ApiError> {
        self.begin(now_ms, "CreateLaunchTemplate")?;
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
            default_version: 1,
            tags: tags.clone(),
        };
        self.templates.insert(id.clone(), template);
        Ok(id)
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
    /// The parameters of a version: a number, `$Default` or `$Latest`.
    ///
    /// # Errors
    /// InvalidLaunchTemplateId.VersionNotFound.
    pub fn version(&self, version: Option<&str>) -> Result<&BTreeMap<String, String>, ApiError> {
        let number = match version {
            None | Some("" | "$Default") => self.default_version,
            Some("$Latest") => self.versions.len(),
            Some(number) => number.parse().unwrap_or(0),
        };
        number.checked_sub(1).and_then(|index| self.versions.get(index)).ok_or_else(|| {
            let message = format!("Could not find launch template version {version:?} of {}", self.id);
            ApiError::new("InvalidLaunchTemplateId.VersionNotFound", message)
        })
    }
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
    let launched = answer.launched.iter().map(|(index, ids)| {
        let ids: Vec<_> = ids.iter().map(InstanceId::as_str).collect();
        format!("{index}={}", ids.join(","))
    });
    std::iter::once(answer.id.clone()).chain(launched).collect::<Vec<_>>().join(";")
}

fn remembered(text: &str) -> FleetAnswer {
    let mut parts = text.split(';');
    let id = parts.next().unwrap_or_default().to_owned();
    let launched = parts.filter_map(|part| {
        let (index, ids) = part.split_once('=')?;
        let ids = ids.split(',').filter_map(|id| InstanceId::parse(id).ok()).collect();
        Some((index.parse().ok()?, ids))
    });
    FleetAnswer { id, launched: launched.collect(), refused: Vec::new() }
}
