//! Security groups: that they exist. Their rules are not modelled, no packet is.

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::GroupId;

use super::state::Group;
use super::{ApiError, World};

impl World {
    pub(super) fn check_groups(&self, groups: &[GroupId]) -> Result<(), ApiError> {
        match groups.iter().find(|id| !self.groups.contains_key(id)) {
            Some(id) => Err(no_group(id)),
            None => Ok(()),
        }
    }

    /// CreateSecurityGroup.
    ///
    /// # Errors
    /// InvalidGroup.Duplicate.
    pub fn create_group(
        &mut self,
        now_ms: u64,
        name: &str,
        description: &str,
        tags: &Tags,
    ) -> Result<GroupId, ApiError> {
        self.begin(now_ms, "CreateSecurityGroup")?;
        if self.groups.values().any(|group| group.name == name) {
            let message = format!("The security group '{name}' already exists");
            return Err(ApiError::new("InvalidGroup.Duplicate", message));
        }
        let id = GroupId::parse(&self.fresh("sg-")).expect("BUG: made to fit");
        let (name, description) = (name.to_owned(), description.to_owned());
        self.groups.insert(id.clone(), Group { id: id.clone(), name, description, tags: tags.clone() });
        Ok(id)
    }

    /// DeleteSecurityGroup.
    ///
    /// # Errors
    /// InvalidGroup.NotFound, CannotDelete for the default one, DependencyViolation while an interface has
    /// it.
    pub fn delete_group(&mut self, now_ms: u64, id: &GroupId) -> Result<(), ApiError> {
        self.begin(now_ms, "DeleteSecurityGroup")?;
        self.check_groups(std::slice::from_ref(id))?;
        if *id == self.default_group {
            return Err(ApiError::new(
                "CannotDelete",
                format!("the specified group: \"{id}\" is the default"),
            ));
        }
        if self.interfaces.values().any(|interface| interface.groups.contains(id)) {
            return Err(ApiError::new(
                "DependencyViolation",
                format!("resource {id} has a dependent object"),
            ));
        }
        self.groups.remove(id);
        Ok(())
    }
}

fn no_group(id: &GroupId) -> ApiError {
    ApiError::new("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
}
