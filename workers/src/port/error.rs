//! Errors of EC2, classified once.
//!
//! The table follows `errors-overview` of the EC2 API reference and what the EBS CSI driver, Karpenter and
//! Terraform rely on. Every caller asks [`CloudError::disposition`]; no caller looks at codes.

use std::fmt;

/// A call we make, by EC2's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the name of the EC2 action")]
pub enum Action {
    DescribeInstances,
    DescribeVolumes,
    DescribeNetworkInterfaces,
    DescribeSnapshots,
    DescribeImages,
    DescribeSubnets,
    DescribeSpotInstanceRequests,
    DescribeInstanceStatus,
    DescribeReplaceRootVolumeTasks,
    GetInstanceUefiData,
    RunInstances,
    TerminateInstances,
    CancelSpotInstanceRequests,
    ModifyInstanceAttribute,
    ModifyNetworkInterfaceAttribute,
    CreateVolume,
    DeleteVolume,
    AttachVolume,
    DetachVolume,
    CreateReplaceRootVolumeTask,
    CopyVolumes,
    CreateSnapshot,
    CreateSnapshots,
    DeleteSnapshot,
    RegisterImage,
    DeregisterImage,
    CreateNetworkInterface,
    DeleteNetworkInterface,
    AttachNetworkInterface,
    DetachNetworkInterface,
    AssignPrivateIpAddresses,
    UnassignPrivateIpAddresses,
    DescribeAddresses,
    AssociateAddress,
    ModifyVolume,
    DescribeSpotPriceHistory,
    GetSpotPlacementScores,
    DescribeInstanceTypes,
    DescribeInstanceTypeOfferings,
    GetCallerIdentity,
}

impl Action {
    /// EC2's name for the call.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// Whether the call only looks.
    #[must_use]
    pub const fn is_look(self) -> bool {
        use Action as A;
        match self {
            A::DescribeInstances
            | A::DescribeVolumes
            | A::DescribeNetworkInterfaces
            | A::DescribeSnapshots
            | A::DescribeImages
            | A::DescribeSubnets
            | A::DescribeSpotInstanceRequests
            | A::DescribeInstanceStatus
            | A::DescribeReplaceRootVolumeTasks
            | A::GetInstanceUefiData
            | A::DescribeAddresses
            | A::DescribeSpotPriceHistory
            | A::GetSpotPlacementScores
            | A::DescribeInstanceTypes
            | A::DescribeInstanceTypeOfferings
            | A::GetCallerIdentity => true,
            A::RunInstances
            | A::TerminateInstances
            | A::CancelSpotInstanceRequests
            | A::ModifyInstanceAttribute
            | A::ModifyNetworkInterfaceAttribute
            | A::CreateVolume
            | A::DeleteVolume
            | A::AttachVolume
            | A::DetachVolume
            | A::CreateReplaceRootVolumeTask
            | A::CopyVolumes
            | A::CreateSnapshot
            | A::CreateSnapshots
            | A::DeleteSnapshot
            | A::RegisterImage
            | A::DeregisterImage
            | A::CreateNetworkInterface
            | A::DeleteNetworkInterface
            | A::AttachNetworkInterface
            | A::DetachNetworkInterface
            | A::AssignPrivateIpAddresses
            | A::UnassignPrivateIpAddresses
            | A::AssociateAddress
            | A::ModifyVolume => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What kind of trouble an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The account's request budget for this action is spent.
    Throttled,
    /// A server error, a lost connection, a cut answer.
    Transient,
    /// The object is on its way to a state in which the call will work.
    WrongState,
    /// The object is not known, which proves nothing while it is young.
    NotFound,
    /// The object has a holder; who decides what to do knows whether that is us.
    InUse,
    /// This pool has no capacity or cannot serve the request; another may.
    NoCapacity,
    /// A quota of the account is reached; another class of capacity may still serve.
    Quota,
    /// What was asked for is already so.
    AlreadyDone,
    /// The client token made an instance that is over already.
    TokenSpent,
    /// This endpoint, region or instance cannot do the call at all.
    Unsupported,
    /// Not allowed, or not valid: repeating it cannot help.
    Person,
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same call again, later, with the same token.
    Retry,
    /// Another pool, type, zone or method.
    Elsewhere,
    /// Nothing: look to confirm.
    Done,
    /// Stop and say what is needed.
    Person,
}

/// Whether the call may have taken effect although it answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Surely nothing happened.
    None,
    /// It may have happened: look until it is known.
    Unknown,
}

/// A call that did not answer with success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action} was answered with {}: {message}", if .code.is_empty() { "no code" } else { .code })]
pub struct CloudError {
    /// The call.
    pub action: Action,
    /// EC2's code; empty when there was none.
    pub code: String,
    /// EC2's message, or what the transport says.
    pub message: String,
    /// What kind of trouble it is.
    pub class: Class,
    /// Whether it may have taken effect.
    pub effect: Effect,
}

impl CloudError {
    /// An answer with an EC2 error code.
    #[must_use]
    pub fn coded(action: Action, code: &str, message: impl Into<String>) -> Self {
        let class = classify(action, code);
        let effect = match class {
            Class::Transient if !action.is_look() => Effect::Unknown,
            _ => Effect::None,
        };
        Self { action, code: code.to_owned(), message: message.into(), class, effect }
    }

    /// No answer, or one without a code: a lost connection, a time-out, a cut or foreign body.
    #[must_use]
    pub fn lost(action: Action, message: impl Into<String>) -> Self {
        let effect = if action.is_look() { Effect::None } else { Effect::Unknown };
        Self { action, code: String::new(), message: message.into(), class: Class::Transient, effect }
    }

    /// Whether it says that a pool has no capacity at all, and not only that it cannot serve this
    /// request.
    #[must_use]
    pub fn is_of_the_pool(&self) -> bool {
        matches!(
            self.code.as_str(),
            "InsufficientInstanceCapacity"
                | "UnfulfillableCapacity"
                | "InsufficientHostCapacity"
                | "Server.InsufficientInstanceCapacity"
        )
    }

    /// Whether it says that the image of a launch does not exist, or may not be used. EC2 answers a launch of
    /// another account's image that is shared no more with AuthFailure, "Not authorized for images".
    #[must_use]
    pub fn is_of_the_image(&self) -> bool {
        let is_unshared = self.code == "AuthFailure" && self.message.contains("images");
        self.action == Action::RunInstances && (self.code.starts_with("InvalidAMIID") || is_unshared)
    }

    /// Whether it says that no address is free in the subnet.
    #[must_use]
    pub fn is_of_the_addresses(&self) -> bool {
        self.code == "InsufficientFreeAddressesInSubnet"
    }

    /// Whether it says that a launch cannot be as the node's file wants it: something that the file names
    /// does not exist, or does not fit. Neither a wait nor other rights would change that.
    #[must_use]
    pub fn is_of_the_file(&self) -> bool {
        let is_missing = self.code.ends_with(".NotFound") || self.code.ends_with(".Malformed");
        is_missing
            || matches!(
                self.code.as_str(),
                "InvalidParameterValue"
                    | "InvalidParameterCombination"
                    | "InvalidBlockDeviceMapping"
                    | "InvalidInstanceType"
            )
            || self.is_of_the_image()
    }

    /// What a person does about it, as a clause.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self.code.as_str() {
            "" => "check the network, AWS_REGION and AWS_ENDPOINT_URL",
            "UnauthorizedOperation" | "AccessDenied" => "allow it: see the IAM policy",
            "InsufficientFreeAddressesInSubnet" => {
                "free an address of the subnet, or name further ones in `capacity.other_subnets`"
            }
            "InvalidKeyPair.NotFound" => "correct `key_name`",
            "InvalidGroup.NotFound" | "InvalidGroupId.Malformed" => "correct `security_groups`",
            code if code.starts_with("InvalidAMIID") => "name another image",
            code if code.starts_with("Invalid") => "correct the node file",
            _ if self.is_of_the_image() => "name another image, or have it shared again",
            _ => "see what EC2 says",
        }
    }

    /// What the caller does next.
    #[must_use]
    pub const fn disposition(&self) -> Disposition {
        match self.class {
            Class::Throttled | Class::Transient | Class::WrongState | Class::NotFound | Class::InUse => {
                Disposition::Retry
            }
            Class::NoCapacity | Class::Quota | Class::TokenSpent | Class::Unsupported => {
                Disposition::Elsewhere
            }
            Class::AlreadyDone => Disposition::Done,
            Class::Person => Disposition::Person,
        }
    }
}

/// The class of an EC2 error code at an action (`ec2-semantics` §1.4).
#[must_use]
pub fn classify(action: Action, code: &str) -> Class {
    at_the_action(action, code).unwrap_or_else(|| of_the_code(code))
}

/// What a code means can depend on the call it answers.
fn at_the_action(action: Action, code: &str) -> Option<Class> {
    use Action as A;
    match (action, code) {
        (A::DetachVolume, "IncorrectState" | "InvalidAttachment.NotFound" | "InvalidVolume.NotFound") => {
            Some(Class::AlreadyDone)
        }
        (A::DeleteVolume | A::DeleteSnapshot | A::DeleteNetworkInterface | A::DeregisterImage, code)
            if code.ends_with(".NotFound") || code.ends_with("ID.NotFound") =>
        {
            Some(Class::AlreadyDone)
        }
        (A::DeregisterImage, "InvalidAMIID.Unavailable") => Some(Class::AlreadyDone),
        (A::RegisterImage, "InvalidAMIName.Duplicate") => Some(Class::AlreadyDone),
        (A::AssignPrivateIpAddresses, "Resource.AlreadyAssigned") => Some(Class::InUse),
        (A::AttachVolume, "InvalidParameterValue" | "InvalidDevice.InUse") => Some(Class::InUse),
        // A group that the file names: no wait makes it.
        (A::ModifyNetworkInterfaceAttribute, "InvalidGroup.NotFound") => Some(Class::Person),
        // "Interface: [eni-…] in use"; the next look shows by whom.
        (A::AttachNetworkInterface, "InvalidParameterValue") => Some(Class::InUse),
        // An attachment's id is never used again: that one is over.
        (A::DetachNetworkInterface, "InvalidAttachmentID.NotFound" | "InvalidAttachment.NotFound") => {
            Some(Class::AlreadyDone)
        }
        // "Network interface '…' is currently in use" (amazon-vpc-cni-k8s issue 1399).
        (A::DeleteNetworkInterface, "InvalidParameterValue") => Some(Class::InUse),
        // The mapping or attachment has changed under us: the next look shows how.
        (A::ModifyInstanceAttribute, "InvalidInstanceAttributeValue") => Some(Class::WrongState),
        (
            A::CreateReplaceRootVolumeTask | A::CopyVolumes,
            "InvalidParameterValue" | "InvalidParameterCombination" | "UnsupportedOperation",
        ) => Some(Class::Unsupported),
        _ => None,
    }
}

/// What a code means wherever it comes.
fn of_the_code(code: &str) -> Class {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "RequestThrottledException" => Class::Throttled,

        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "Unavailable"
        | "RequestExpired"
        | "ConcurrentTagAccess" => Class::Transient,

        // Of one volume, whose last snapshot is too young: it says nothing of the account's budget.
        "SnapshotCreationPerVolumeRateExceeded"
        | "IncorrectState"
        | "IncorrectInstanceState"
        | "InvalidAMIID.Unavailable"
        | "IncorrectModificationState"
        | "DependencyViolation"
        | "ConcurrentSnapshotLimitExceeded"
        | "PendingSnapshotLimitExceeded"
        | "ConcurrentCreateImageNoRebootLimitExceeded"
        | "ResourceLimitExceeded" => Class::WrongState,

        "VolumeInUse"
        | "InvalidNetworkInterface.InUse"
        | "InvalidIPAddress.InUse"
        | "Resource.AlreadyAssigned"
        | "InvalidSnapshot.InUse"
        | "Resource.AlreadyAssociated" => Class::InUse,

        "InsufficientInstanceCapacity"
        | "UnfulfillableCapacity"
        | "InsufficientHostCapacity"
        | "SpotMaxPriceTooLow"
        | "Unsupported"
        | "ReservationCapacityExceeded"
        | "InsufficientFreeAddressesInSubnet"
        | "InsufficientVolumeCapacity"
        | "VolumeTypeNotAvailableInZone"
        | "AttachmentLimitExceeded"
        | "Server.InsufficientInstanceCapacity"
        | "Server.InternalError" => Class::NoCapacity,

        "MaxSpotInstanceCountExceeded"
        | "VcpuLimitExceeded"
        | "InstanceLimitExceeded"
        | "MaxFleetCountExceeded" => Class::Quota,

        "IdempotentInstanceTerminated" => Class::TokenSpent,

        "InvalidAction" | "NotImplemented" | "NotImplementedException" | "UnknownOperationException" => {
            Class::Unsupported
        }

        code if code.ends_with(".NotFound") || code.ends_with(".Unknown") => Class::NotFound,

        // UnauthorizedOperation, AuthFailure, InvalidParameter*, Missing*, *Malformed,
        // IdempotentParameterMismatch, OperationNotPermitted, UnsupportedOperation, ZoneMismatch, limits of
        // volumes and addresses, and every code we do not know: a person must look.
        _ => Class::Person,
    }
}

/// An error and its causes in words, one after the other, without the Debug form that the SDK's own helper
/// adds. A cause that only repeats the clause before it is left out.
pub(crate) fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let clause = error.to_string();
        if !clause.is_empty() && told.last().is_none_or(|last| !last.contains(&clause)) {
            told.push(clause);
        }
        next = error.source();
    }
    told.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_means_what_the_reference_says_at_its_action() {
        for (action, code, class, disposition) in [
            (Action::RunInstances, "RequestLimitExceeded", Class::Throttled, Disposition::Retry),
            (Action::RunInstances, "InsufficientInstanceCapacity", Class::NoCapacity, Disposition::Elsewhere),
            (Action::RunInstances, "MaxSpotInstanceCountExceeded", Class::Quota, Disposition::Elsewhere),
            (Action::RunInstances, "UnauthorizedOperation", Class::Person, Disposition::Person),
            (Action::RunInstances, "IdempotentParameterMismatch", Class::Person, Disposition::Person),
            (Action::RunInstances, "InvalidNetworkInterface.InUse", Class::InUse, Disposition::Retry),
            (
                Action::CreateSnapshots,
                "SnapshotCreationPerVolumeRateExceeded",
                Class::WrongState,
                Disposition::Retry,
            ),
            (Action::DetachVolume, "IncorrectState", Class::AlreadyDone, Disposition::Done),
            (Action::AttachVolume, "IncorrectState", Class::WrongState, Disposition::Retry),
            (Action::DeleteVolume, "InvalidVolume.NotFound", Class::AlreadyDone, Disposition::Done),
            (Action::AttachVolume, "InvalidVolume.NotFound", Class::NotFound, Disposition::Retry),
            (Action::RegisterImage, "InvalidAMIName.Duplicate", Class::AlreadyDone, Disposition::Done),
            (
                Action::CreateReplaceRootVolumeTask,
                "InvalidAction",
                Class::Unsupported,
                Disposition::Elsewhere,
            ),
            (Action::AttachVolume, "InvalidVolume.ZoneMismatch", Class::Person, Disposition::Person),
            (Action::DeleteNetworkInterface, "InvalidParameterValue", Class::InUse, Disposition::Retry),
            (Action::AttachNetworkInterface, "InvalidParameterValue", Class::InUse, Disposition::Retry),
            (
                Action::AttachNetworkInterface,
                "AttachmentLimitExceeded",
                Class::NoCapacity,
                Disposition::Elsewhere,
            ),
            (
                Action::DetachNetworkInterface,
                "InvalidAttachmentID.NotFound",
                Class::AlreadyDone,
                Disposition::Done,
            ),
            (Action::AttachVolume, "SomethingNew", Class::Person, Disposition::Person),
        ] {
            let error = CloudError::coded(action, code, "");
            assert_eq!((error.class, error.disposition()), (class, disposition), "{action} {code}");
        }
    }

    #[test]
    fn only_an_act_without_a_clear_answer_may_have_taken_effect() {
        assert_eq!(CloudError::lost(Action::RunInstances, "cut").effect, Effect::Unknown);
        assert_eq!(CloudError::lost(Action::DescribeInstances, "cut").effect, Effect::None);
        assert_eq!(CloudError::coded(Action::RunInstances, "InternalError", "").effect, Effect::Unknown);
        assert_eq!(CloudError::coded(Action::RunInstances, "VcpuLimitExceeded", "").effect, Effect::None);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{clause}")]
    struct Link {
        clause: &'static str,
        source: Option<Box<Link>>,
    }

    #[test]
    fn an_error_is_told_by_its_chain_of_clauses_and_not_in_debug_form() {
        let link = |clause, source: Option<Link>| Link { clause, source: source.map(Box::new) };
        let refused = link("Connection refused (os error 111)", None);
        let error = link(
            "dispatch failure",
            Some(link("io error", Some(link("io error", Some(link("tcp connect error", Some(refused))))))),
        );
        assert_eq!(
            in_words(&error),
            "dispatch failure: io error: tcp connect error: Connection refused (os error 111)"
        );
    }
}
