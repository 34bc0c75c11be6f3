//! The keys under which streams are found by something else than their name (beside
//! [`catalog_key`](crate::model::backup_id::catalog_key)).

use crate::model::aws::InstanceId;

/// The key that leads to every node that an instance on demand carries.
pub const ON_DEMAND_KEY: &str = "nodes/on_demand";

/// The key that leads to every backup catalog with a backup under way. No node has such a name.
pub const UNDER_WAY_KEY: &str = "backups/under_way";

/// The key that leads from an instance to its node, and to the operations that had to do with it.
#[must_use]
pub fn instance_key(instance: &InstanceId) -> String {
    format!("instance/{instance}")
}
