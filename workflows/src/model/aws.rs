//! AWS's ids and states as types. Text is parsed once at the boundary; inside, the type proves its form.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest id AWS gives is 40 characters; the rest is margin for emulators.
const ID_MAX: usize = 64;

/// Why a text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: it should look like {example:?}")]
pub struct BadId {
    text: String,
    what: &'static str,
    example: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(
            #[schemars(regex(pattern = concat!("^", $prefix, "[0-9a-zA-Z-]+$")), length(max = 64))] String,
        );

        impl $name {
            /// Parses an id as AWS writes it.
            ///
            /// # Errors
            /// [`BadId`] with an example of the right form.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                let rest = text.strip_prefix($prefix).unwrap_or("");
                if !rest.is_empty()
                    && text.len() <= ID_MAX
                    && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(BadId {
                        text: text.chars().take(80).collect(),
                        what: $what,
                        example: concat!($prefix, "0a1b2c3d4e5f60718"),
                    })
                }
            }

            /// The id as AWS writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// An EC2 instance.
    InstanceId, "i-", "an instance id";
    /// An EBS volume.
    VolumeId, "vol-", "a volume id";
    /// An EBS snapshot.
    SnapshotId, "snap-", "a snapshot id";
    /// An AMI.
    ImageId, "ami-", "an image id";
    /// An elastic network interface.
    InterfaceId, "eni-", "a network interface id";
    /// The attachment of a network interface to an instance.
    AttachmentId, "eni-attach-", "an interface attachment id";
    /// The allocation of an Elastic IP address.
    AllocationId, "eipalloc-", "an Elastic IP's allocation id";
    /// A VPC subnet.
    SubnetId, "subnet-", "a subnet id";
    /// A security group.
    GroupId, "sg-", "a security group id";
    /// A spot instance request.
    SpotRequestId, "sir-", "a spot request id";
    /// A launch template.
    LaunchTemplateId, "lt-", "a launch template id";
    /// A root-volume replacement task.
    RootTaskId, "replacevol-", "a root replacement task id";
}

/// How an instance is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Market {
    /// Spare capacity, interruptible with two minutes' notice.
    Spot,
    /// Full price, not interruptible.
    OnDemand,
}

impl fmt::Display for Market {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
        })
    }
}

/// The state of an instance (EC2 API reference, InstanceState).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Being started.
    Pending,
    /// Started; the operating system may still boot.
    Running,
    /// Being terminated; the operating system may still write.
    ShuttingDown,
    /// Gone for good: the permanent fence.
    Terminated,
    /// Being stopped.
    Stopping,
    /// Stopped; can be started again, so no fence.
    Stopped,
}

impl InstanceState {
    /// All states but one.
    pub const NOT_RUNNING: [Self; 5] =
        [Self::Pending, Self::ShuttingDown, Self::Terminated, Self::Stopping, Self::Stopped];

    /// Whether the instance will never run again.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_another_kind_is_refused_with_an_example() {
        assert!(VolumeId::parse("vol-0a1b2c3d4e5f60718").is_ok());
        let error = VolumeId::parse("i-0a1b2c3d4e5f60718").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"i-0a1b2c3d4e5f60718\" is not a volume id: it should look like \"vol-0a1b2c3d4e5f60718\""
        );
        assert!(InstanceId::parse("i-").is_err());
        assert!(InstanceId::parse("i-0a;rm").is_err());
    }
}
