//! What holds for every action of EC2 that the region knows: `DryRun`, pages, filters, quotas, and that nonsense is refused
//! and breaks nothing. The lists are compared with the region's own, so that a new action needs its row.

use std::collections::BTreeSet;

use perennial_sim::wire::{Options, wire_settings};
use perennial_sim::world::settings::Quotas;
use serde_json::json;

use super::lab::{EPOCH_MS, IMAGE, Lab, SPOT, ZONE};

/// Describes that answer as many as they may when they are asked for more (`wire/clients.rs`).
const CAPPED: [&str; 4] =
    ["DescribeSnapshots", "DescribeVolumeStatus", "DescribeVolumes", "DescribeVolumesModifications"];

/// A describe, what else it needs, and which of pages and filters AWS gives it.
const DESCRIBES: &[(&str, &str, bool, bool)] = &[
    ("DescribeAddresses", "", false, true),
    ("DescribeAvailabilityZones", "", false, true),
    ("DescribeFleets", "", true, false),
    ("DescribeImageAttribute", "&ImageId=$M&Attribute=description", false, false),
    ("DescribeImages", "", true, true),
    ("DescribeInstanceAttribute", "&InstanceId=$I&Attribute=userData", false, false),
    ("DescribeInstanceStatus", "", true, true),
    ("DescribeInstanceTypeOfferings", "", true, true),
    ("DescribeInstanceTypes", "", true, true),
    ("DescribeInstances", "", true, true),
    ("DescribeKeyPairs", "", false, true),
    ("DescribeLaunchTemplateVersions", "&LaunchTemplateId=$T", true, true),
    ("DescribeLaunchTemplates", "", true, true),
    ("DescribeNetworkInterfaceAttribute", "&NetworkInterfaceId=$E&Attribute=description", false, false),
    ("DescribeNetworkInterfaces", "", true, true),
    ("DescribeRegions", "", false, false),
    ("DescribeReplaceRootVolumeTasks", "", true, true),
    ("DescribeSecurityGroups", "", true, true),
    ("DescribeSnapshotAttribute", "&SnapshotId=$P&Attribute=createVolumePermission", false, false),
    ("DescribeSnapshots", "", true, true),
    ("DescribeSpotInstanceRequests", "", true, true),
    ("DescribeSpotPriceHistory", "", true, true),
    ("DescribeSubnets", "", true, true),
    ("DescribeTags", "", true, true),
    ("DescribeVolumeAttribute", "&VolumeId=$V&Attribute=productCodes", false, false),
    ("DescribeVolumeStatus", "", true, true),
    ("DescribeVolumes", "", true, true),
    ("DescribeVolumesModifications", "", true, true),
    ("DescribeVpcAttribute", "&VpcId=vpc-00000000000000001&Attribute=enableDnsSupport", false, false),
    ("DescribeVpcs", "", true, true),
    (
        "GetInstanceTypesFromInstanceRequirements",
        "&ArchitectureType.1=x86_64&VirtualizationType.1=hvm&InstanceRequirements.VCpuCount.Min=1&InstanceRequirements.MemoryMiB.Min=1",
        true,
        false,
    ),
    ("GetConsoleOutput", "&InstanceId=$I", false, false),
    ("GetInstanceUefiData", "&InstanceId=$I", false, false),
    ("GetSpotPlacementScores", "&TargetCapacity=1&InstanceType.1=m5.large", true, false),
];

/// A call that changes something, and would succeed.
const ACTS: &[(&str, &str)] = &[
    ("AllocateAddress", "&Domain=vpc"),
    ("AssignPrivateIpAddresses", "&NetworkInterfaceId=$E&SecondaryPrivateIpAddressCount=1"),
    ("AssociateAddress", "&AllocationId=$A&NetworkInterfaceId=$E"),
    ("AttachNetworkInterface", "&NetworkInterfaceId=$E&InstanceId=$I&DeviceIndex=1"),
    ("AttachVolume", "&VolumeId=$V&InstanceId=$I&Device=/dev/sdh"),
    ("CancelSpotInstanceRequests", "&SpotInstanceRequestId.1=$R"),
    ("CopyVolumes", "&SourceVolumeId=$V"),
    (
        "CreateFleet",
        "&Type=instant&TargetCapacitySpecification.TotalTargetCapacity=1&LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId=$T&LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version=1",
    ),
    ("CreateImage", "&InstanceId=$I&Name=other&NoReboot=true"),
    ("CreateLaunchTemplate", "&LaunchTemplateName=other&LaunchTemplateData.InstanceType=m5.large"),
    ("CreateLaunchTemplateVersion", "&LaunchTemplateId=$T&LaunchTemplateData.InstanceType=m5.large"),
    ("CreateNetworkInterface", "&SubnetId=$S"),
    ("CreateReplaceRootVolumeTask", "&InstanceId=$I"),
    ("CreateSecurityGroup", "&GroupName=other&GroupDescription=d&VpcId=vpc-00000000000000001"),
    ("CreateSnapshot", "&VolumeId=$V"),
    ("CreateSnapshots", "&InstanceSpecification.InstanceId=$I"),
    ("CreateTags", "&ResourceId.1=$V&Tag.1.Key=k&Tag.1.Value=v"),
    ("CreateVolume", "&AvailabilityZone=us-east-1a&Size=1"),
    ("DeleteFleets", "&FleetId.1=$F&TerminateInstances=true"),
    ("DeleteLaunchTemplate", "&LaunchTemplateId=$T"),
    ("DeleteNetworkInterface", "&NetworkInterfaceId=$E"),
    ("DeleteSecurityGroup", "&GroupId=$G"),
    ("DeleteSnapshot", "&SnapshotId=$P"),
    ("DeleteTags", "&ResourceId.1=$V&Tag.1.Key=k"),
    ("DeleteVolume", "&VolumeId=$V"),
    ("DeregisterImage", "&ImageId=$M"),
    ("DetachNetworkInterface", "&AttachmentId=$X"),
    ("DetachVolume", "&VolumeId=$D"),
    ("DisassociateAddress", "&AssociationId=$B"),
    ("ModifyInstanceAttribute", "&InstanceId=$I&DisableApiTermination.Value=true"),
    ("ModifyInstanceMetadataOptions", "&InstanceId=$I&HttpTokens=required"),
    ("ModifyLaunchTemplate", "&LaunchTemplateId=$T&SetDefaultVersion=1"),
    ("ModifyNetworkInterfaceAttribute", "&NetworkInterfaceId=$E&Description.Value=d"),
    ("ModifyVolume", "&VolumeId=$V&Size=20"),
    ("RebootInstances", "&InstanceId.1=$I"),
    (
        "RegisterImage",
        "&Name=third&RootDeviceName=/dev/xvda&BlockDeviceMapping.1.DeviceName=/dev/xvda&BlockDeviceMapping.1.Ebs.SnapshotId=$P",
    ),
    ("ReleaseAddress", "&AllocationId=$A"),
    ("RunInstances", "&ImageId=ami-00000000000000000&InstanceType=m5.large&MinCount=1&MaxCount=1"),
    ("StartInstances", "&InstanceId.1=$I"),
    ("StopInstances", "&InstanceId.1=$O"),
    ("TerminateInstances", "&InstanceId.1=$I"),
    ("UnassignPrivateIpAddresses", "&NetworkInterfaceId=$Y&PrivateIpAddress.1=$Z"),
];

/// One of everything; gives the ids to put in place of `$` and an inbox entry.
async fn furnished(lab: &Lab) -> Vec<(&'static str, String)> {
    let spot = lab.instance().await;
    let owned = lab.ec2(&SPOT.replace("&InstanceMarketOptions.MarketType=spot", "")).await.one("instanceId");
    lab.advance(10).await;
    let volume = || {
        format!(
            "Action=CreateVolume&AvailabilityZone={ZONE}&Size=10&TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=k&TagSpecification.1.Tag.1.Value=v"
        )
    };
    let (free, data) = (lab.ec2(&volume()).await.one("volumeId"), lab.ec2(&volume()).await.one("volumeId"));
    let grown = lab.ec2(&volume()).await.one("volumeId");
    lab.advance(5).await;
    lab.ec2(&format!("Action=ModifyVolume&VolumeId={grown}&Size=11")).await;
    lab.ec2(&format!("Action=AttachVolume&VolumeId={data}&InstanceId={owned}&Device=/dev/sdf")).await;
    let subnet =
        lab.ec2("Action=DescribeSubnets&Filter.1.Name=availability-zone&Filter.1.Value.1=us-east-1a").await;
    let subnet = subnet.one("subnetId");
    let interface = format!("Action=CreateNetworkInterface&SubnetId={subnet}");
    let eni = lab.ec2(&interface).await.one("networkInterfaceId");
    let plugged = lab.ec2(&interface).await.one("networkInterfaceId");
    let plug = format!(
        "Action=AttachNetworkInterface&NetworkInterfaceId={plugged}&InstanceId={owned}&DeviceIndex=1"
    );
    let plug = lab.ec2(&plug).await.one("attachmentId");
    let second = format!(
        "Action=AssignPrivateIpAddresses&NetworkInterfaceId={plugged}&SecondaryPrivateIpAddressCount=1"
    );
    lab.ec2(&second).await;
    lab.advance(5).await;
    let shown = lab.ec2(&format!("Action=DescribeNetworkInterfaces&NetworkInterfaceId.1={plugged}")).await;
    let addresses: BTreeSet<_> = shown.all("privateIpAddress").into_iter().collect();
    let second =
        addresses.into_iter().find(|a| *a != shown.one("privateIpAddress")).expect("a second address");
    let allocation = lab.ec2("Action=AllocateAddress&Domain=vpc").await.one("allocationId");
    let used = lab.ec2("Action=AllocateAddress&Domain=vpc").await.one("allocationId");
    let associate = format!("Action=AssociateAddress&AllocationId={used}&NetworkInterfaceId={plugged}");
    let association = lab.ec2(&associate).await.one("associationId");
    let snapshot = lab.ec2(&format!("Action=CreateSnapshot&VolumeId={free}")).await.one("snapshotId");
    let image = lab
        .ec2(&format!("Action=CreateImage&InstanceId={owned}&Name=mine&NoReboot=true"))
        .await
        .one("imageId");
    lab.ec2(&format!("Action=CreateReplaceRootVolumeTask&InstanceId={spot}")).await;
    lab.advance(300).await;
    let group = lab.ec2("Action=CreateSecurityGroup&GroupName=mine&GroupDescription=d").await.one("groupId");
    let template = format!(
        "Action=CreateLaunchTemplate&LaunchTemplateName=mine&LaunchTemplateData.InstanceType=m5.large&LaunchTemplateData.ImageId={IMAGE}"
    );
    let template = lab.ec2(&template).await.one("launchTemplateId");
    let fleet = format!(
        "Action=CreateFleet&Type=instant&TargetCapacitySpecification.TotalTargetCapacity=1&LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId={template}"
    );
    let fleet = lab.ec2(&fleet).await.one("fleetId");
    let request = lab.ec2("Action=DescribeSpotInstanceRequests").await.one("spotInstanceRequestId");
    vec![
        ("$I", spot),
        ("$O", owned),
        ("$V", free),
        ("$D", data),
        ("$S", subnet),
        ("$E", eni),
        ("$X", plug),
        ("$Y", plugged),
        ("$Z", second),
        ("$A", allocation),
        ("$B", association),
        ("$P", snapshot),
        ("$M", image),
        ("$G", group),
        ("$T", template),
        ("$R", request),
        ("$F", fleet),
    ]
}

fn filled(form: &str, ids: &[(&'static str, String)]) -> String {
    ids.iter().fold(form.to_owned(), |form, (name, id)| form.replace(name, id))
}

#[tokio::test]
async fn every_action_has_its_row() {
    let lab = Lab::new().await;
    let known = lab.get("/_region/").await.json();
    let known: BTreeSet<_> =
        known["ec2_actions"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect();
    let rows = DESCRIBES.iter().map(|row| row.0).chain(ACTS.iter().map(|row| row.0));
    assert_eq!(known, rows.map(str::to_owned).collect());
}

#[tokio::test]
async fn a_dry_run_of_every_action_says_that_it_would_succeed_and_changes_nothing() {
    let lab = Lab::new().await;
    let ids = furnished(&lab).await;
    let before = lab.get("/_region/dump").await.json();
    for (action, form) in ACTS.iter().copied().chain(DESCRIBES.iter().map(|row| (row.0, row.1))) {
        let form = format!("Action={action}{}&DryRun=true", filled(form, &ids));
        let answer = lab.ec2(&form).await;
        assert_eq!(
            (answer.status, answer.one("Code").as_str()),
            (412, "DryRunOperation"),
            "{form}: {}",
            answer.body
        );
    }
    assert_eq!(lab.get("/_region/dump").await.json(), before);
    // And the same calls do succeed.
    for (action, form) in ACTS {
        let other = Lab::new().await;
        let ids = furnished(&other).await;
        let form = format!("Action={action}{}", filled(form, &ids));
        let answer = other.ec2(&form).await;
        assert_eq!(answer.status, 200, "{form}: {}", answer.body);
        other.kill().await;
    }
}

#[tokio::test]
async fn every_describe_that_aws_pages_has_pages_and_every_filter_that_does_not_exist_is_an_error() {
    let lab = Lab::new().await;
    let ids = furnished(&lab).await;
    for (action, form, pages, filters) in DESCRIBES {
        let form = format!("Action={action}{}", filled(form, &ids));
        assert_eq!(lab.ec2(&form).await.status, 200, "{form}");
        let code = async |more: &str| {
            let answer = lab.ec2(&format!("{form}{more}")).await;
            if answer.status == 200 { String::new() } else { answer.one("Code") }
        };
        if *pages {
            let most = if CAPPED.contains(action) { "" } else { "InvalidParameterValue" };
            assert_eq!(code("&MaxResults=1000000").await, most, "{form}");
            assert_eq!(code("&MaxResults=-1").await, "InvalidParameterValue", "{form}");
            assert_eq!(code("&MaxResults=99999999999999999999999").await, "InvalidParameterValue", "{form}");
            assert_eq!(code("&NextToken=nonsense").await, "InvalidNextToken", "{form}");
        }
        if *filters {
            let nonsense = "&Filter.1.Name=no-such-filter&Filter.1.Value.1=x";
            assert_eq!(code(nonsense).await, "InvalidParameterValue", "{form}");
            let many: String = (1..=201).map(|n| format!("&Filter.1.Value.{n}=x")).collect();
            assert_eq!(code(&format!("&Filter.1.Name=tag:k{many}")).await, "FilterLimitExceeded", "{form}");
        }
    }
}

#[tokio::test]
async fn every_action_is_metered_by_itself() {
    let mut options = Options { speed: 0.0, ..Options::new(wire_settings(7), EPOCH_MS) };
    options.settings.quotas = Quotas::Published;
    let lab = Lab::with(options).await;
    for (action, burst, refill) in [
        ("RunInstances", 5, 2),
        ("CreateSecurityGroup", 50, 5),
        ("DeleteVolume", 100, 5),
        ("DescribeSubnets", 100, 20),
    ] {
        let form = format!(
            "Action={action}&DryRun=true&ImageId={IMAGE}&MinCount=1&MaxCount=1&InstanceType=m5.large&VolumeId=vol-0123456789abcdef0&GroupName=g&GroupDescription=d"
        );
        let throttled = async || lab.ec2(&form).await.status == 503;
        for n in 0..burst {
            assert!(!throttled().await, "{action} {n}");
        }
        let refused = lab.ec2(&form).await;
        assert_eq!((refused.status, refused.one("Code").as_str()), (503, "RequestLimitExceeded"), "{action}");
        lab.advance(1).await;
        let mut more = 0;
        while !throttled().await {
            more += 1;
        }
        assert_eq!(more, refill, "{action}");
    }
}

#[tokio::test]
async fn nonsense_is_refused_and_breaks_nothing() {
    let lab = Lab::new().await;
    let ids = furnished(&lab).await;
    let mut rng = fastrand::Rng::with_seed(1);
    let values = [
        "",
        "-1",
        "0",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1e9",
        "NaN",
        "true",
        "%00",
        "%FF%FE",
        "%F0%9F%8C%B1",
        "vol-",
        "i-0123456789abcdef0",
        "../../etc",
        "%3Cx%3E%26",
        "10.0.0.1",
        "999.1.1.1",
        "'",
        "%24%7Bx%7D",
    ];
    let names = [
        "Size",
        "MaxResults",
        "NextToken",
        "ClientToken",
        "MinCount",
        "MaxCount",
        "Iops",
        "DeviceIndex",
        "Device",
        "TotalTargetCapacity",
        "TargetCapacity",
        "Filter.1.Name",
        "Filter.1.Value.1",
        "Filter.0.Name",
        "Filter.4294967295.Name",
        "Filter.-1.Name",
        "TagSpecification.1.ResourceType",
        "TagSpecification.1.Tag.1.Key",
        "Tag.1.Key",
        "Tag.1.Value",
        "ResourceId.1",
        "TargetCapacitySpecification.TotalTargetCapacity",
        "SecondaryPrivateIpAddressCount",
        "PrivateIpAddress",
        "StartTime",
        "UserData",
        "NetworkInterface.1.DeviceIndex",
        "NetworkInterface.2.DeviceIndex",
        "BlockDeviceMapping.1.Ebs.VolumeSize",
        "BlockDeviceMapping.1.DeviceName",
        "InstanceType",
        "InstanceType.1",
        "Version",
        "LaunchTemplate.LaunchTemplateId",
        "Attribute",
    ];
    let all: Vec<_> = ACTS.iter().copied().chain(DESCRIBES.iter().map(|row| (row.0, row.1))).collect();
    for n in 0..3_000 {
        let (action, form) = all[rng.usize(..all.len())];
        let mut form = format!("Action={action}{}", filled(form, &ids));
        for _ in 0..rng.usize(1..4) {
            let (name, value) = (names[rng.usize(..names.len())], values[rng.usize(..values.len())]);
            form.push_str(&format!("&{name}={value}"));
        }
        if rng.bool() {
            form.push_str("&DryRun=true");
        }
        let answer = lab.http("POST", "/", "", form.as_bytes()).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer, a panic most likely: {form}"));
        assert!(answer.status < 500 || answer.body.contains("<Code>Insufficient"), "{form}: {}", answer.body);
        if n % 100 == 0 {
            lab.advance(7).await;
            assert_eq!(lab.get("/_region/check").await.json()["violations"], json!([]), "{form}");
        }
    }
    let tags: String = (1..=1_900).map(|n| format!("&Tag.{n}.Key=k{n}&Tag.{n}.Value=v")).collect();
    let volume = &ids.iter().find(|(name, _)| *name == "$S").unwrap().1;
    let answer = lab.ec2(&format!("Action=CreateTags&ResourceId.1={volume}{tags}")).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    for (target, body) in [
        ("AmazonSQS.SendMessage", "{"),
        ("AmazonSSM.SendCommand", "[]"),
        ("AWSEvents.PutEvents", "null"),
        ("AmazonSQS.ReceiveMessage", "{\"QueueUrl\":7}"),
        ("AmazonSSM.", "{}"),
        ("x", "{}"),
    ] {
        let headers = format!("X-Amz-Target: {target}\r\n");
        let answer = lab.http("POST", "/", &headers, body.as_bytes()).await.expect("an answer");
        assert!((400..500).contains(&answer.status), "{target}: {}", answer.status);
    }
    assert_eq!(lab.get("/_region/check").await.json()["violations"], json!([]));
}

#[tokio::test]
async fn types_are_found_by_what_a_node_needs() {
    let lab = Lab::new().await;
    let ask = async |more: &str| {
        let form = format!("Action=GetInstanceTypesFromInstanceRequirements&VirtualizationType.1=hvm&{more}");
        let answer = lab.ec2(&form).await;
        if answer.status == 200 { answer.all("instanceType") } else { answer.all("Code") }
    };
    let with = |arch: &str, more: &str| {
        format!(
            "ArchitectureType.1={arch}&InstanceRequirements.VCpuCount.Min=4&InstanceRequirements.MemoryMiB.Min=16000{more}"
        )
    };
    assert_eq!(ask(&with("arm64", "")).await, ["g5g.xlarge"]);
    let few =
        with("x86_64", "&InstanceRequirements.VCpuCount.Max=4&InstanceRequirements.AcceleratorCount.Max=0");
    assert_eq!(ask(&few).await, ["m5.xlarge", "m6i.xlarge", "r6i.xlarge"]);
    let gpu = with("x86_64", "&InstanceRequirements.AcceleratorCount.Min=4");
    assert_eq!(ask(&gpu).await, ["g5.12xlarge", "p4d.24xlarge"]);
    let excluded = with(
        "x86_64",
        "&InstanceRequirements.AcceleratorCount.Min=4&InstanceRequirements.ExcludedInstanceType.1=p4*",
    );
    assert_eq!(ask(&excluded).await, ["g5.12xlarge"]);
    assert_eq!(ask("ArchitectureType.1=x86_64").await, ["MissingParameter"]);
    for zone in ["a", "b", "c"] {
        let zone = format!("us-east-1{zone}");
        lab.region("capacity", json!({ "type": "p4d.24xlarge", "zone": zone, "capacity": "unsupported" }))
            .await;
        lab.region(
            "capacity",
            json!({ "type": "p4d.24xlarge", "zone": zone, "market": "on-demand", "capacity": "unsupported" }),
        )
        .await;
    }
    assert_eq!(ask(&gpu).await, ["g5.12xlarge"], "nowhere offered");
    let shown = lab.ec2("Action=DescribeInstanceTypes&InstanceType.1=g5.12xlarge").await;
    assert_eq!((shown.one("count"), shown.one("totalGpuMemoryInMiB")), ("4".to_owned(), "98304".to_owned()));
}
