//! The limits that EC2 publishes for an account and region (EC2 Developer Guide, "Request throttling").

use super::bucket::Rate;
use crate::port::error::Action;

const LAUNCH: Rate = Rate::new(5.0, 2.0);
const LOOK: Rate = Rate::new(100.0, 20.0);
const CHEAP: Rate = Rate::new(100.0, 5.0);
const OTHER: Rate = Rate::new(50.0, 5.0);

/// The bucket that all mutating calls share where an account has no buckets of its own for each (the EBS CSI
/// driver's source says that new accounts do).
pub(super) const SHARED: Rate = OTHER;

/// Of an action's calls.
pub(super) const fn requests(action: Action) -> Rate {
    use Action as A;
    match action {
        A::RunInstances => LAUNCH,
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
        | A::GetCallerIdentity => LOOK,
        A::CreateSnapshot
        | A::CreateSnapshots
        | A::DeleteSnapshot
        | A::CreateVolume
        | A::DeleteVolume
        | A::CreateNetworkInterface
        | A::DeleteNetworkInterface
        | A::ModifyNetworkInterfaceAttribute
        | A::AssignPrivateIpAddresses
        | A::UnassignPrivateIpAddresses
        | A::DeregisterImage
        | A::TerminateInstances => CHEAP,
        A::CancelSpotInstanceRequests
        | A::ModifyInstanceAttribute
        | A::AttachVolume
        | A::DetachVolume
        | A::AttachNetworkInterface
        | A::DetachNetworkInterface
        | A::CreateReplaceRootVolumeTask
        | A::CopyVolumes
        | A::RegisterImage
        | A::AssociateAddress
        | A::ModifyVolume => OTHER,
    }
}

/// Of the instances that an action's calls name, where they are counted as well. StartInstances has 1000/2
/// too; we never call it.
pub(super) const fn resources(action: Action) -> Option<Rate> {
    match action {
        Action::RunInstances => Some(Rate::new(1000.0, 2.0)),
        Action::TerminateInstances => Some(Rate::new(1000.0, 20.0)),
        _ => None,
    }
}
