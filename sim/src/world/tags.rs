//! CreateTags and DeleteTags, on every object that has tags.

use perennial_workers::port::Tags;

use super::{ApiError, World};

/// Tags of one object (documented).
const TAGS_MAX: usize = 50;

/// One object with its tags.
pub struct Tagged<'a> {
    /// Its id.
    pub id: String,
    /// EC2's name for its kind.
    pub kind: &'static str,
    /// Its tags.
    pub tags: &'a Tags,
}

impl World {
    /// CreateTags: on all, or on none when one is unknown.
    ///
    /// # Errors
    /// The kind's NotFound, InvalidID for an unknown kind, TagLimitExceeded.
    pub fn create_tags(&mut self, now_ms: u64, ids: &[String], tags: &Tags) -> Result<(), ApiError> {
        self.begin(now_ms, "CreateTags")?;
        for id in ids {
            let known = self.tags_of(id)?;
            if known.len() + tags.keys().filter(|key| !known.contains_key(*key)).count() > TAGS_MAX {
                let message = format!("{id} would have more than {TAGS_MAX} tags");
                return Err(ApiError::new("TagLimitExceeded", message));
            }
        }
        for id in ids {
            self.tags_of(id)?.extend(tags.clone());
        }
        Ok(())
    }

    /// DeleteTags: a key with a value only where the value is that one.
    ///
    /// # Errors
    /// As [`create_tags`](Self::create_tags).
    pub fn delete_tags(
        &mut self,
        now_ms: u64,
        ids: &[String],
        tags: &[(String, Option<String>)],
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "DeleteTags")?;
        for id in ids {
            self.tags_of(id)?;
        }
        for id in ids {
            let known = self.tags_of(id)?;
            known.retain(|key, value| {
                !tags.iter().any(|(gone, only)| gone == key && only.as_ref().is_none_or(|only| only == value))
            });
        }
        Ok(())
    }

    /// Everything that can carry tags, by kind and id.
    pub fn all_tagged(&self) -> impl Iterator<Item = Tagged<'_>> {
        macro_rules! of {
            ($map:ident, $kind:literal) => {
                self.$map.values().map(|found| Tagged {
                    id: found.id.to_string(),
                    kind: $kind,
                    tags: &found.tags,
                })
            };
        }
        of!(instances, "instance")
            .chain(of!(volumes, "volume"))
            .chain(of!(snapshots, "snapshot"))
            .chain(of!(images, "image"))
            .chain(of!(interfaces, "network-interface"))
            .chain(of!(spot_requests, "spot-instances-request"))
            .chain(of!(root_tasks, "replace-root-volume-task"))
            .chain(of!(groups, "security-group"))
            .chain(of!(elastic, "elastic-ip"))
            .chain(of!(templates, "launch-template"))
            .chain(of!(fleets, "fleet"))
    }

    fn tags_of(&mut self, id: &str) -> Result<&mut Tags, ApiError> {
        macro_rules! of {
            ($map:ident, $code:literal) => {{
                let key = self.$map.keys().find(|known| known.as_str() == id).cloned();
                key.and_then(|key| self.$map.get_mut(&key)).map(|found| &mut found.tags).ok_or($code)
            }};
        }
        let found = match id.split_once('-').map_or("", |(kind, _)| kind) {
            "i" => of!(instances, "InvalidInstanceID.NotFound"),
            "vol" => of!(volumes, "InvalidVolume.NotFound"),
            "snap" => of!(snapshots, "InvalidSnapshot.NotFound"),
            "ami" => of!(images, "InvalidAMIID.NotFound"),
            "eni" => of!(interfaces, "InvalidNetworkInterfaceID.NotFound"),
            "sir" => of!(spot_requests, "InvalidSpotInstanceRequestID.NotFound"),
            "replacevol" => of!(root_tasks, "InvalidReplaceRootVolumeTaskId.NotFound"),
            "sg" => of!(groups, "InvalidGroup.NotFound"),
            "eipalloc" => of!(elastic, "InvalidAllocationID.NotFound"),
            "fleet" => of!(fleets, "InvalidFleetId.NotFound"),
            "lt" => of!(templates, "InvalidLaunchTemplateId.NotFound"),
            _ => Err("InvalidID"),
        };
        found.map_err(|code| ApiError::new(code, format!("The ID '{id}' is not valid or does not exist")))
    }
}
