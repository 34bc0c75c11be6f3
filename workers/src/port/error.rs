//! Errors of EC2, classified once.
//!
//! One table ([`TABLE`]) says of each code, where it matters at each action, what kind of trouble it is
//! ([`Class`], and with it what to do: [`Disposition`]) and what it is about ([`Scope`]). It follows
//! `errors-overview` of the EC2 API reference and what the EBS CSI driver, Karpenter and Terraform rely on.
//! Every caller asks [`CloudError::disposition`]; no caller looks at codes.
//!
//! What passes by itself is repeated: credentials, permissions, throttling, outages for as long as it takes;
//! what depends on one object for the step's budget. A look never ends with a person.

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
    /// The account's request budget for this action is spent, or our own.
    Throttled,
    /// A server error, a lost connection, a cut answer; for a look, also a refusal we do not know.
    Transient,
    /// Credentials or permissions are refused. They expire, are renewed and take time to spread.
    Access,
    /// Something that the call names was made a moment ago, and is not known everywhere yet.
    Spreading,
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

/// What a refusal is about: what else would be refused in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Launches of this type on this market in this subnet.
    Pool,
    /// All launches on this market.
    Market,
    /// All launches in this subnet and zone.
    Zone,
    /// This request, or the object that it names.
    Request,
    /// Every call of the account, or every call of this action.
    Account,
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same call again, later, with the same token: it passes by itself.
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
    /// What it is about.
    pub scope: Scope,
    /// Whether it may have taken effect.
    pub effect: Effect,
}

impl CloudError {
    /// An answer with an EC2 error code.
    #[must_use]
    pub fn coded(action: Action, code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let (class, scope) = classify(action, code, &message);
        let effect = match class {
            Class::Transient if !action.is_look() => Effect::Unknown,
            _ => Effect::None,
        };
        Self { action, code: code.to_owned(), message, class, scope, effect }
    }

    /// No answer, or one without a code: a lost connection, a time-out, a cut or foreign body.
    #[must_use]
    pub fn lost(action: Action, message: impl Into<String>) -> Self {
        let effect = if action.is_look() { Effect::None } else { Effect::Unknown };
        let (class, scope) = (Class::Transient, Scope::Account);
        Self { action, code: String::new(), message: message.into(), class, scope, effect }
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

    /// Whether it says nothing of the object, and only that it could not be seen or asked: time in which that
    /// is so does not count against a step.
    #[must_use]
    pub const fn hinders(&self) -> bool {
        matches!(self.class, Class::Throttled | Class::Transient | Class::Access)
    }

    /// Whether it says that the image of a launch does not exist, or may not be used. EC2 answers a launch of
    /// another account's image that is shared no more with AuthFailure, "Not authorized for images".
    #[must_use]
    pub fn is_of_the_image(&self) -> bool {
        let is_unshared = self.code == "AuthFailure" && self.message.contains("images");
        self.action == Action::RunInstances && (self.code.starts_with("InvalidAMIID") || is_unshared)
    }

    /// Whether it says that a zone has no room for what is to be made in it, which changes by itself, and no
    /// other place would serve: what is made there belongs there.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        let is_bound = matches!(
            self.action,
            Action::CreateNetworkInterface | Action::AssignPrivateIpAddresses | Action::CreateVolume
        );
        is_bound && self.class == Class::NoCapacity
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
        let is_missing = self.code.ends_with(".NotFound")
            || self.code.ends_with(".Malformed")
            || self.code.starts_with("InvalidLaunchTemplate");
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
            code if code.starts_with("InvalidLaunchTemplate") => "correct `launch_template`",
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
            Class::Throttled
            | Class::Transient
            | Class::Access
            | Class::Spreading
            | Class::WrongState
            | Class::NotFound
            | Class::InUse => Disposition::Retry,
            Class::NoCapacity | Class::Quota | Class::TokenSpent | Class::Unsupported => {
                Disposition::Elsewhere
            }
            Class::AlreadyDone => Disposition::Done,
            Class::Person => Disposition::Person,
        }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// The actions it is about; none: every action.
    pub at: &'static [Action],
    /// The codes. A star at the beginning or the end stands for any text there.
    pub codes: &'static [&'static str],
    /// Words of which the message has one, in lower case; none: whatever it says.
    pub says: &'static [&'static str],
    /// What it means.
    pub class: Class,
    /// What it is about.
    pub scope: Scope,
}

impl Row {
    fn is_about(&self, action: Action, code: &str, message: &str) -> bool {
        (self.at.is_empty() || self.at.contains(&action))
            && self.codes.iter().any(|pattern| is_like(code, pattern))
            && (self.says.is_empty() || self.says.iter().any(|word| message.contains(word)))
    }
}

fn is_like(code: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => code.ends_with(end),
        (None, Some(beginning)) => code.starts_with(beginning),
        (None, None) => code == pattern,
    }
}

/// What an EC2 error means at an action: the first row of [`TABLE`] that is about it.
#[must_use]
pub fn classify(action: Action, code: &str, message: &str) -> (Class, Scope) {
    let message = message.to_lowercase();
    let known = TABLE.iter().find(|row| row.is_about(action, code, &message));
    match known.map(|row| (row.class, row.scope)) {
        // A look changes nothing, and what it asks is of our own making: no person can mend it but by mending
        // the account, after which it works.
        Some((Class::Person, scope)) if action.is_look() => (Class::Transient, scope),
        None if action.is_look() => (Class::Transient, Scope::Request),
        Some(known) => known,
        // InvalidParameter*, Missing*, *Malformed, IdempotentParameterMismatch, OperationNotPermitted,
        // UnsupportedOperation, InvalidVolume.ZoneMismatch, EncryptedVolumesNotSupported, limits of volumes,
        // snapshots and addresses, and every code we do not know: a person must look.
        None => (Class::Person, Scope::Request),
    }
}

/// What EC2 says of an instance type: its parameter, or what it does not fit.
const OF_THE_TYPE: &[&str] = &["instance type", "instancetype", "architecture"];

const fn row(at: &'static [Action], codes: &'static [&'static str], class: Class, scope: Scope) -> Row {
    Row { at, codes, says: &[], class, scope }
}

/// What each refusal means. What a code means can depend on the call that it answers, so rows with actions
/// stand first. Sources: *ER* is `errors-overview` of the EC2 API reference; *API* the page of the action
/// there; names of projects stand for what they rely on.
pub const TABLE: &[Row] = &[
    // API DetachVolume; EBS CSI driver and Terraform: the volume is not attached (any more).
    row(
        &[Action::DetachVolume],
        &["IncorrectState", "InvalidAttachment.NotFound", "InvalidVolume.NotFound"],
        Class::AlreadyDone,
        Scope::Request,
    ),
    // API of each: what is to be deleted does not exist.
    row(
        &[
            Action::DeleteVolume,
            Action::DeleteSnapshot,
            Action::DeleteNetworkInterface,
            Action::DeregisterImage,
        ],
        &["*.NotFound"],
        Class::AlreadyDone,
        Scope::Request,
    ),
    // ER: the image is deregistered already.
    row(&[Action::DeregisterImage], &["InvalidAMIID.Unavailable"], Class::AlreadyDone, Scope::Request),
    // ER: the name is unique; the next look compares what has it.
    row(&[Action::RegisterImage], &["InvalidAMIName.Duplicate"], Class::AlreadyDone, Scope::Request),
    row(&[Action::AssignPrivateIpAddresses], &["Resource.AlreadyAssigned"], Class::InUse, Scope::Request),
    // EBS CSI driver: "already in use" is told with either code.
    row(
        &[Action::AttachVolume],
        &["InvalidParameterValue", "InvalidDevice.InUse"],
        Class::InUse,
        Scope::Request,
    ),
    // A group that the file names: no wait makes it.
    row(
        &[Action::ModifyNetworkInterfaceAttribute],
        &["InvalidGroup.NotFound"],
        Class::Person,
        Scope::Request,
    ),
    // "Interface: [eni-…] in use"; the next look shows by whom.
    row(&[Action::AttachNetworkInterface], &["InvalidParameterValue"], Class::InUse, Scope::Request),
    // Terraform: an attachment's id is never used again, so that one is over.
    row(
        &[Action::DetachNetworkInterface],
        &["InvalidAttachmentID.NotFound", "InvalidAttachment.NotFound"],
        Class::AlreadyDone,
        Scope::Request,
    ),
    // "Network interface '…' is currently in use" (amazon-vpc-cni-k8s issue 1399).
    row(&[Action::DeleteNetworkInterface], &["InvalidParameterValue"], Class::InUse, Scope::Request),
    // The mapping or attachment has changed under us: the next look shows how.
    row(
        &[Action::ModifyInstanceAttribute],
        &["InvalidInstanceAttributeValue"],
        Class::WrongState,
        Scope::Request,
    ),
    // EC2 user guide, "Replace a root volume" and "Copy a volume": this instance or volume cannot.
    row(
        &[Action::CreateReplaceRootVolumeTask, Action::CopyVolumes],
        &["InvalidParameterValue", "InvalidParameterCombination", "UnsupportedOperation"],
        Class::Unsupported,
        Scope::Request,
    ),
    // ER: the spot market needs a role that the account lacks, and that we may not make (karpenter PR 7998,
    // AutoSpotting issue 187). On-demand needs none.
    row(
        &[Action::RunInstances],
        &["AuthFailure.ServiceLinkedRoleCreationNotPermitted"],
        Class::NoCapacity,
        Scope::Market,
    ),
    // Karpenter retries: a profile takes seconds to spread after it was made.
    Row {
        at: &[Action::RunInstances],
        codes: &["InvalidParameterValue"],
        says: &["iam instance profile"],
        class: Class::Spreading,
        scope: Scope::Request,
    },
    // "The architecture '…' of the specified instance type does not match …", "Enhanced networking … is
    // required for the '…' instance type", "Invalid value '…' for InstanceType": another type may fit.
    Row {
        at: &[Action::RunInstances],
        codes: &["InvalidParameterValue", "InvalidParameterCombination", "UnsupportedOperation"],
        says: OF_THE_TYPE,
        class: Class::NoCapacity,
        scope: Scope::Pool,
    },
    // ER: "The specified request includes an unsupported operation"; told of types that cannot be spot, that
    // cannot hibernate, that have no NVMe for the image. Karpenter asks other types.
    row(&[Action::RunInstances], &["UnsupportedOperation"], Class::NoCapacity, Scope::Pool),
    // ER, "Client error codes", and "Troubleshoot request errors": refused for who asks, not for what is
    // asked.
    // Sessions expire and are renewed, policies and new accounts take time to spread, and a person who mends
    // them need not tell us.
    row(
        &[],
        &[
            "UnauthorizedOperation",
            "AuthFailure*",
            "ExpiredToken*",
            "RequestExpired",
            "RequestTimeTooSkewed",
            "InvalidClientTokenId",
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "MissingAuthenticationToken",
            "UnrecognizedClientException",
            "AccessDenied*",
            "OptInRequired",
            "Blocked",
            "PendingVerification",
        ],
        Class::Access,
        Scope::Account,
    ),
    // EC2 developer guide, "Request throttling".
    row(
        &[],
        &["RequestLimitExceeded", "Throttling*", "RequestThrottled*", "EC2ThrottledException"],
        Class::Throttled,
        Scope::Account,
    ),
    // ER, "Server error codes".
    row(
        &[],
        &[
            "InternalError",
            "InternalFailure",
            "InternalServerError",
            "ServiceUnavailable",
            "Unavailable",
            "RequestTimeout",
            "RequestTimeoutException",
            "ConcurrentTagAccess",
        ],
        Class::Transient,
        Scope::Account,
    ),
    // ER: of one object, which is on its way. SnapshotCreationPerVolumeRateExceeded: the last snapshot of the
    // volume is too young; it says nothing of the account's budget.
    row(
        &[],
        &[
            "SnapshotCreationPerVolumeRateExceeded",
            "IncorrectState",
            "IncorrectInstanceState",
            "InvalidAMIID.Unavailable",
            "IncorrectModificationState",
            "VolumeModificationRateExceeded",
            "DependencyViolation",
            "ConcurrentSnapshotLimitExceeded",
            "PendingSnapshotLimitExceeded",
            "ConcurrentCreateImageNoRebootLimitExceeded",
            "ResourceLimitExceeded",
        ],
        Class::WrongState,
        Scope::Request,
    ),
    // ER: something holds it.
    row(
        &[],
        &[
            "VolumeInUse",
            "InvalidNetworkInterface.InUse",
            "InvalidIPAddress.InUse",
            "Resource.AlreadyAssigned",
            "InvalidSnapshot.InUse",
            "Resource.AlreadyAssociated",
        ],
        Class::InUse,
        Scope::Request,
    ),
    // ER; Karpenter's list of codes for which another offering is asked. `Server.*` are state reasons.
    row(
        &[],
        &[
            "InsufficientInstanceCapacity",
            "UnfulfillableCapacity",
            "InsufficientHostCapacity",
            "SpotMaxPriceTooLow",
            "Unsupported",
            "ReservationCapacityExceeded",
            "AttachmentLimitExceeded",
            "Server.InsufficientInstanceCapacity",
            "Server.InternalError",
        ],
        Class::NoCapacity,
        Scope::Pool,
    ),
    // ER: of the subnet, and of the zone.
    row(
        &[],
        &["InsufficientFreeAddressesInSubnet", "InsufficientVolumeCapacity"],
        Class::NoCapacity,
        Scope::Zone,
    ),
    // ER: of the zone, and no wait changes it.
    row(&[], &["VolumeTypeNotAvailableInZone"], Class::Unsupported, Scope::Zone),
    // ER: quotas for each market and class of types. What dies counts for a while, so waiting may serve.
    row(
        &[],
        &[
            "MaxSpotInstanceCountExceeded",
            "VcpuLimitExceeded",
            "InstanceLimitExceeded",
            "MaxFleetCountExceeded",
        ],
        Class::Quota,
        Scope::Market,
    ),
    // ER.
    row(&[], &["IdempotentInstanceTerminated"], Class::TokenSpent, Scope::Request),
    // ER, "Common error codes"; emulators and old partitions.
    row(
        &[],
        &["InvalidAction", "NotImplemented", "NotImplementedException", "UnknownOperationException"],
        Class::Unsupported,
        Scope::Account,
    ),
    // ER: an id that is not known, which is how eventual consistency looks.
    row(
        &[],
        &[
            "*.NotFound",
            "*.Unknown",
            "InvalidLaunchTemplateId.VersionNotFound",
            "InvalidLaunchTemplateId.NotFoundException",
        ],
        Class::NotFound,
        Scope::Request,
    ),
];

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
            (Action::RunInstances, "UnauthorizedOperation", Class::Access, Disposition::Retry),
            (Action::RunInstances, "ExpiredTokenException", Class::Access, Disposition::Retry),
            (Action::DescribeVolumes, "AuthFailure", Class::Access, Disposition::Retry),
            (Action::DescribeVolumes, "SomethingNew", Class::Transient, Disposition::Retry),
            (Action::DescribeVolumes, "OperationNotPermitted", Class::Transient, Disposition::Retry),
            (
                Action::RunInstances,
                "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
                Class::NoCapacity,
                Disposition::Elsewhere,
            ),
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
    fn a_refusal_of_a_type_is_one_of_its_pool_and_any_other_parameter_a_persons() {
        for (code, message, class, scope) in [
            (
                "InvalidParameterValue",
                "The architecture 'x86_64' of the specified instance type does not match that of the specified AMI",
                Class::NoCapacity,
                Scope::Pool,
            ),
            (
                "InvalidParameterCombination",
                "Enhanced networking with the Elastic Network Adapter (ENA) is required for the 'm5.large' instance type.",
                Class::NoCapacity,
                Scope::Pool,
            ),
            ("UnsupportedOperation", "", Class::NoCapacity, Scope::Pool),
            ("MaxSpotInstanceCountExceeded", "", Class::Quota, Scope::Market),
            ("InsufficientFreeAddressesInSubnet", "", Class::NoCapacity, Scope::Zone),
            (
                "InvalidParameterValue",
                "Value (node) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
                Class::Spreading,
                Scope::Request,
            ),
            ("InvalidParameterValue", "User data is limited to 16384 bytes", Class::Person, Scope::Request),
            ("InvalidBlockDeviceMapping", "expect size >= 30GB", Class::Person, Scope::Request),
        ] {
            let error = CloudError::coded(Action::RunInstances, code, message);
            assert_eq!((error.class, error.scope), (class, scope), "{error}");
        }
    }

    #[test]
    fn no_look_ends_with_a_person_whatever_it_is_answered() {
        let codes = TABLE.iter().flat_map(|row| row.codes).map(|code| code.replace('*', "Something"));
        let unknown =
            ["", "SomethingNew", "InvalidParameterValue", "OperationNotPermitted"].map(str::to_owned);
        for code in codes.chain(unknown) {
            for action in [Action::DescribeInstances, Action::DescribeImages, Action::GetCallerIdentity] {
                let error = CloudError::coded(action, &code, "");
                assert_ne!(error.disposition(), Disposition::Person, "{error}");
                assert_eq!(error.effect, Effect::None, "{error}");
            }
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
