//! What clients met on the region and would not meet on EC2: the requests of the AWS CLI, boto3 and others,
//! by hand.

use serde_json::json;

use super::lab::{Answer, IMAGE, Lab, SPOT, ZONE};

/// The code of a refusal, or nothing.
fn code(answer: &Answer) -> String {
    answer.all("Code").into_iter().next().unwrap_or_default()
}

impl Lab {
    async fn code(&self, form: &str) -> String {
        code(&self.ec2(form).await)
    }

    async fn volume(&self, more: &str) -> Answer {
        self.ec2(&format!("Action=CreateVolume&AvailabilityZone={ZONE}{more}")).await
    }

    async fn template(&self, name: &str, data: &str) -> String {
        let form = format!("Action=CreateLaunchTemplate&LaunchTemplateName={name}{data}");
        self.ec2(&form).await.one("launchTemplateId")
    }
}

#[tokio::test]
async fn describes_of_storage_answer_a_thousand_when_they_are_asked_for_more() {
    let lab = Lab::new().await;
    let id = lab.volume("&Size=1").await.one("volumeId");
    lab.advance(5).await;
    lab.ec2(&format!("Action=CreateSnapshot&VolumeId={id}")).await;
    lab.ec2(&format!("Action=ModifyVolume&VolumeId={id}&Size=2")).await;
    for action in
        ["DescribeVolumes", "DescribeSnapshots", "DescribeVolumesModifications", "DescribeVolumeStatus"]
    {
        for most in [5, 500, 501, 1_000, 1_001, 4_000_000] {
            let answer = lab.ec2(&format!("Action={action}&MaxResults={most}")).await;
            assert_eq!(answer.status, 200, "{action} {most}: {}", answer.body);
            assert!(!answer.all("item").is_empty(), "{action}: {}", answer.body);
        }
        for few in [0, 4] {
            assert_eq!(lab.code(&format!("Action={action}&MaxResults={few}")).await, "InvalidParameterValue");
        }
    }
    // Where the reference names no such rule, more is an error.
    for action in ["DescribeInstances", "DescribeTags", "DescribeSubnets"] {
        assert_eq!(lab.code(&format!("Action={action}&MaxResults=1001")).await, "InvalidParameterValue");
    }
}

#[tokio::test]
async fn a_launch_without_a_type_is_of_ec2s_default_and_types_that_do_not_exist_are_refused() {
    let lab = Lab::new().await;
    let run = format!("Action=RunInstances&ImageId={IMAGE}&MinCount=1&MaxCount=1");
    assert_eq!(lab.ec2(&run).await.one("instanceType"), "m1.small");
    let template = lab.template("plain", &format!("&LaunchTemplateData.ImageId={IMAGE}")).await;
    let of_template =
        format!("Action=RunInstances&MinCount=1&MaxCount=1&LaunchTemplate.LaunchTemplateId={template}");
    assert_eq!(lab.ec2(&of_template).await.one("instanceType"), "m1.small");
    for real in ["m1.small", "t1.micro", "u-6tb1.metal", "c7i.metal-48xl", "m8i.96xlarge"] {
        assert_eq!(lab.ec2(&format!("{run}&InstanceType={real}")).await.one("instanceType"), real);
        let shown = lab.ec2(&format!("Action=DescribeInstanceTypes&InstanceType.1={real}")).await;
        assert_eq!(shown.one("instanceType"), real);
    }
    for none in ["m99.large", "m5.3xlarge", "t3.metal", "c5.112xlarge", "zz9.plural", "m5", "m5.LARGE"] {
        assert_eq!(lab.code(&format!("{run}&InstanceType={none}")).await, "InvalidParameterValue", "{none}");
        let describe = format!("Action=DescribeInstanceTypes&InstanceType.1={none}");
        assert_eq!(lab.code(&describe).await, "InvalidInstanceType", "{none}");
        let scores = format!("Action=GetSpotPlacementScores&TargetCapacity=1&InstanceType.1={none}");
        assert_eq!(lab.code(&scores).await, "InvalidParameterValue", "{none}");
        let offered = format!(
            "Action=DescribeInstanceTypeOfferings&Filter.1.Name=instance-type&Filter.1.Value.1={none}"
        );
        assert_eq!(lab.ec2(&offered).await.all("instanceType"), [""; 0], "{none}");
    }
}

#[tokio::test]
async fn encryption_is_carried_from_a_volume_to_everything_that_is_made_of_it() {
    let lab = Lab::new().await;
    for wanted in ["true", "false"] {
        let encrypted = |answer: &Answer| answer.all("encrypted");
        let volume = lab.volume(&format!("&Size=8&Encrypted={wanted}")).await;
        assert_eq!(encrypted(&volume), [wanted]);
        let volume = volume.one("volumeId");
        lab.advance(5).await;
        let snapshot = lab.ec2(&format!("Action=CreateSnapshot&VolumeId={volume}")).await;
        assert_eq!(encrypted(&snapshot), [wanted]);
        let snapshot = snapshot.one("snapshotId");
        lab.advance(300).await;
        let described = lab.ec2(&format!("Action=DescribeSnapshots&SnapshotId.1={snapshot}")).await;
        assert_eq!(encrypted(&described), [wanted]);
        let again = lab.volume(&format!("&SnapshotId={snapshot}")).await;
        assert_eq!(encrypted(&again), [wanted], "a volume from the snapshot");
        let copy = lab.ec2(&format!("Action=CopyVolumes&SourceVolumeId={volume}")).await;
        assert_eq!(encrypted(&copy), [wanted], "a copy");
        let image = lab
            .ec2(&format!(
                "Action=RegisterImage&Name=of-{wanted}&Architecture=x86_64&RootDeviceName=/dev/xvda\
                 &BlockDeviceMapping.1.DeviceName=/dev/xvda&BlockDeviceMapping.1.Ebs.SnapshotId={snapshot}\
                 &BlockDeviceMapping.2.DeviceName=/dev/sdb&BlockDeviceMapping.2.Ebs.VolumeSize=4\
                 &BlockDeviceMapping.2.Ebs.Encrypted={wanted}"
            ))
            .await
            .one("imageId");
        let shown = lab.ec2(&format!("Action=DescribeImages&ImageId.1={image}")).await;
        assert_eq!(encrypted(&shown), [wanted; 2], "the image's devices");
        let run = format!("Action=RunInstances&ImageId={image}&InstanceType=m5.large&MinCount=1&MaxCount=1");
        let id = lab.ec2(&run).await.one("instanceId");
        lab.advance(10).await;
        let of_instance = format!("Filter.1.Name=attachment.instance-id&Filter.1.Value.1={id}");
        let volumes = lab.ec2(&format!("Action=DescribeVolumes&{of_instance}")).await;
        assert_eq!(encrypted(&volumes), [wanted; 2], "the instance's volumes");
        let set = lab.ec2(&format!("Action=CreateSnapshots&InstanceSpecification.InstanceId={id}")).await;
        assert_eq!(encrypted(&set), [wanted; 2], "a set of snapshots");
        lab.ec2(&format!("Action=CreateReplaceRootVolumeTask&InstanceId={id}&SnapshotId={snapshot}")).await;
        lab.advance(300).await;
        let volumes = lab.ec2(&format!("Action=DescribeVolumes&{of_instance}")).await;
        assert_eq!(encrypted(&volumes), [wanted; 2], "a root that was replaced");
    }
    // A volume may be encrypted that its snapshot is not, and not the other way round.
    let plain = lab.volume("&Size=1").await.one("volumeId");
    lab.advance(5).await;
    let snapshot = lab.ec2(&format!("Action=CreateSnapshot&VolumeId={plain}")).await.one("snapshotId");
    lab.advance(300).await;
    assert_eq!(lab.volume(&format!("&SnapshotId={snapshot}&Encrypted=true")).await.one("encrypted"), "true");
    assert_eq!(code(&lab.volume("&Size=1&KmsKeyId=alias/mine").await), "InvalidParameterDependency");
}

#[tokio::test]
async fn a_fleet_launches_as_many_of_each_market_as_it_is_asked_for() {
    let template = format!("&LaunchTemplateData.ImageId={IMAGE}&LaunchTemplateData.InstanceType=m5.large");
    for (capacity, expected) in [
        (
            "TotalTargetCapacity=2&OnDemandTargetCapacity=1&SpotTargetCapacity=1&DefaultTargetCapacityType=on-demand",
            (1, 1),
        ),
        ("TotalTargetCapacity=3&OnDemandTargetCapacity=1&DefaultTargetCapacityType=spot", (1, 2)),
        ("TotalTargetCapacity=3&SpotTargetCapacity=1&DefaultTargetCapacityType=on-demand", (2, 1)),
        ("TotalTargetCapacity=2&DefaultTargetCapacityType=spot", (0, 2)),
        ("TotalTargetCapacity=2", (2, 0)),
        (
            "TotalTargetCapacity=2&OnDemandTargetCapacity=0&SpotTargetCapacity=2&DefaultTargetCapacityType=on-demand",
            (0, 2),
        ),
    ] {
        let lab = Lab::new().await;
        let id = lab.template("fleet", &template).await;
        let specification: String =
            capacity.split('&').map(|part| format!("&TargetCapacitySpecification.{part}")).collect();
        let form = format!(
            "Action=CreateFleet&Type=instant&ClientToken=once{specification}\
             &LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId={id}\
             &LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version=$Latest"
        );
        let fleet = lab.ec2(&form).await;
        assert_eq!(fleet.status, 200, "{}", fleet.body);
        assert!(fleet.all("version").iter().all(|version| version == "1"), "{}", fleet.body);
        assert_eq!(lab.ec2(&form).await.all("lifecycle"), fleet.all("lifecycle"), "the same token");
        let instances = lab.ec2("Action=DescribeInstances").await;
        let (all, spot) = (instances.all("instanceId").len(), instances.all("instanceLifecycle").len());
        assert_eq!((all - spot, spot), expected, "{capacity}");
        let in_answer: Vec<_> = fleet.all("lifecycle");
        let markets = [("on-demand", expected.0), ("spot", expected.1)];
        let told: Vec<_> = markets.iter().filter(|(_, n)| *n > 0).map(|(market, _)| *market).collect();
        assert_eq!(in_answer, told, "{capacity}");
    }
}

#[tokio::test]
async fn a_fleet_that_cannot_be_is_refused_and_one_that_is_can_be_deleted() {
    let lab = Lab::new().await;
    let id = lab.template("fleet", &format!("&LaunchTemplateData.ImageId={IMAGE}")).await;
    let form = |more: &str| {
        format!(
            "Action=CreateFleet&Type=instant&LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId={id}\
             &LaunchTemplateConfigs.1.Overrides.1.InstanceType=m5.large{more}"
        )
    };
    let target = "&TargetCapacitySpecification.TotalTargetCapacity";
    let too_many = format!("{target}=1&TargetCapacitySpecification.SpotTargetCapacity=2");
    assert_eq!(lab.code(&form(&too_many)).await, "InvalidParameterCombination");
    let odd = format!("{target}=1&TargetCapacitySpecification.DefaultTargetCapacityType=reserved");
    assert_eq!(lab.code(&form(&odd)).await, "InvalidParameterValue");
    let tagged = "&TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=k";
    assert_eq!(lab.code(&form(&format!("{target}=1{tagged}"))).await, "InvalidParameterValue");

    // Too few of one market are none at all.
    lab.region("capacity", json!({ "type": "m5.large", "market": "spot", "capacity": 1 })).await;
    let both = format!(
        "{target}=3&TargetCapacitySpecification.OnDemandTargetCapacity=1\
         &TargetCapacitySpecification.SpotTargetCapacity=2&SpotOptions.MinTargetCapacity=2"
    );
    let none = lab.ec2(&form(&both)).await;
    assert_eq!(
        (none.all("instanceIds").len(), none.one("errorCode").as_str()),
        (0, "InsufficientInstanceCapacity")
    );

    let tags = "&TagSpecification.1.ResourceType=fleet&TagSpecification.1.Tag.1.Key=k&TagSpecification.1.Tag.1.Value=v";
    let fleet = lab.ec2(&form(&format!("{target}=2{tags}"))).await;
    let fleet = fleet.one("fleetId");
    assert_eq!(
        lab.ec2("Action=DescribeFleets").await.all("fleetId"),
        [""; 0],
        "instant fleets only by their ids"
    );
    let described = lab.ec2(&format!("Action=DescribeFleets&FleetId.1={fleet}")).await;
    let told = ["fleetState", "type", "totalTargetCapacity", "key"].map(|name| described.one(name));
    assert_eq!(told, ["active", "instant", "2", "k"]);
    let delete = |id: &str, terminates: bool| {
        format!(
            "Action=DeleteFleets&FleetId.1={id}&FleetId.2=fleet-0a0a0a0a-00&FleetId.3=nonsense&TerminateInstances={terminates}"
        )
    };
    let kept = lab.ec2(&delete(&fleet, false)).await;
    let codes = ["fleetNotInDeletableState", "fleetIdDoesNotExist", "fleetIdMalformed"];
    assert_eq!(kept.all("code"), codes);
    let deleted = lab.ec2(&delete(&fleet, true)).await;
    assert_eq!(deleted.one("currentFleetState"), "deleted_terminating");
    assert_eq!(deleted.all("code"), codes[1..]);
    lab.advance(120).await;
    let described = lab.ec2(&format!("Action=DescribeFleets&FleetId.1={fleet}")).await;
    assert_eq!(described.one("fleetState"), "deleted");
    let live = "Action=DescribeInstances&Filter.1.Name=instance-state-name&Filter.1.Value.1=running";
    assert_eq!(lab.ec2(live).await.all("instanceId"), [""; 0]);
    assert_eq!(lab.ec2(&delete(&fleet, true)).await.all("code"), codes);
    assert_eq!(lab.get("/_region/check").await.json()["violations"], json!([]));
}

#[tokio::test]
async fn a_launch_template_answers_with_the_versions_that_are_meant() {
    let lab = Lab::new().await;
    let first = format!(
        "&LaunchTemplateData.ImageId={IMAGE}&LaunchTemplateData.InstanceType=m5.large&VersionDescription=one"
    );
    let id = lab.template("mine", &first).await;
    lab.template("other", "&LaunchTemplateData.InstanceType=c5.large").await;
    let version = |more: &str| format!("Action=CreateLaunchTemplateVersion&LaunchTemplateId={id}{more}");
    let second = "&LaunchTemplateData.InstanceType=c5.large&SourceVersion=1&VersionDescription=two";
    let second = lab.ec2(&version(second)).await;
    let told =
        ["versionNumber", "versionDescription", "instanceType", "imageId"].map(|name| second.one(name));
    assert_eq!(told, ["2", "two", "c5.large", IMAGE], "over those of the source");
    let third = lab.ec2(&version("&LaunchTemplateData.InstanceType=r5.large")).await;
    assert_eq!(third.all("imageId"), [""; 0], "without a source nothing is taken over");
    assert_eq!(lab.code(&version("")).await, "MissingParameter");
    let unknown = "&LaunchTemplateData.InstanceType=r5.large&SourceVersion=9";
    assert_eq!(lab.code(&version(unknown)).await, "InvalidLaunchTemplateId.VersionNotFound");

    let of = |more: &str| format!("Action=DescribeLaunchTemplateVersions&LaunchTemplateId={id}{more}");
    for (more, expected) in [
        ("", &["1", "2", "3"][..]),
        ("&MinVersion=2", &["2", "3"]),
        ("&MaxVersion=2", &["1", "2"]),
        ("&MinVersion=2&MaxVersion=2", &["2"]),
        ("&LaunchTemplateVersion.1=$Latest", &["3"]),
        ("&LaunchTemplateVersion.1=$Default", &["1"]),
        ("&LaunchTemplateVersion.1=3&LaunchTemplateVersion.2=1", &["1", "3"]),
        ("&Filter.1.Name=instance-type&Filter.1.Value.1=c5.*", &["2"]),
        ("&Filter.1.Name=is-default-version&Filter.1.Value.1=true", &["1"]),
    ] {
        assert_eq!(lab.ec2(&of(more)).await.all("versionNumber"), expected, "{more}");
    }
    for (more, expected) in [
        ("&LaunchTemplateVersion.1=9", "InvalidLaunchTemplateId.VersionNotFound"),
        ("&LaunchTemplateVersion.1=0", "InvalidLaunchTemplateId.VersionNotFound"),
        ("&LaunchTemplateVersion.1=latest", "InvalidLaunchTemplateId.VersionNotFound"),
        ("&LaunchTemplateVersion.1=1&MinVersion=1", "InvalidParameterCombination"),
    ] {
        assert_eq!(lab.code(&of(more)).await, expected, "{more}");
    }
    let all = "Action=DescribeLaunchTemplateVersions";
    let latest = lab.ec2(&format!("{all}&LaunchTemplateVersion.1=$Latest")).await;
    assert_eq!(latest.all("launchTemplateName").len(), 2, "the newest of each template");
    assert_eq!(lab.code(all).await, "MissingParameter");
    assert_eq!(lab.code(&format!("{all}&LaunchTemplateVersion.1=1")).await, "MissingParameter");

    let modify = |version: &str| {
        format!("Action=ModifyLaunchTemplate&LaunchTemplateId={id}&SetDefaultVersion={version}")
    };
    assert_eq!(lab.ec2(&modify("2")).await.one("defaultVersionNumber"), "2");
    assert_eq!(lab.ec2(&of("&LaunchTemplateVersion.1=$Default")).await.one("versionNumber"), "2");
    let run = format!("Action=RunInstances&MinCount=1&MaxCount=1&LaunchTemplate.LaunchTemplateId={id}");
    assert_eq!(lab.ec2(&run).await.one("instanceType"), "c5.large");
    assert_eq!(lab.code(&modify("9")).await, "InvalidLaunchTemplateId.VersionNotFound");
    for name in ["ab", "with space", "grün", &"n".repeat(129)] {
        let form =
            format!("Action=CreateLaunchTemplate&LaunchTemplateData.KeyName=k&LaunchTemplateName={name}");
        assert_eq!(lab.code(&form).await, "InvalidLaunchTemplateName.MalformedException", "{name}");
    }
}

#[tokio::test]
async fn a_volume_is_refused_that_its_type_does_not_permit() {
    let lab = Lab::new().await;
    let (value, both) = ("InvalidParameterValue", "InvalidParameterCombination");
    for (more, expected) in [
        ("Size=1", ""),
        ("Size=1&VolumeType=gp2", ""),
        ("Size=16384&VolumeType=gp2", ""),
        ("Size=16385&VolumeType=gp2", value),
        ("Size=20000&VolumeType=gp2", value),
        ("Size=0&VolumeType=gp2", value),
        ("Size=10&VolumeType=gp2&Iops=100", both),
        ("Size=10&VolumeType=gp2&Throughput=125", both),
        ("Size=10&Throughput=125", both),
        ("Size=1&VolumeType=gp3", ""),
        ("Size=1&VolumeType=gp3&Iops=3000&Throughput=125", ""),
        ("Size=65536&VolumeType=gp3", ""),
        ("Size=65537&VolumeType=gp3", value),
        ("Size=1&VolumeType=gp3&Iops=3001", value),
        ("Size=100&VolumeType=gp3&Iops=2999", value),
        ("Size=160&VolumeType=gp3&Iops=80000&Throughput=2000", ""),
        ("Size=65536&VolumeType=gp3&Iops=80001", value),
        ("Size=65536&VolumeType=gp3&Iops=999999", value),
        ("Size=10&VolumeType=gp3&Throughput=124", value),
        ("Size=10&VolumeType=gp3&Throughput=750", ""),
        ("Size=10&VolumeType=gp3&Throughput=751", value),
        ("Size=100&VolumeType=gp3&Iops=8000&Throughput=2001", value),
        ("Size=10&VolumeType=io1", both),
        ("Size=10&VolumeType=io2", both),
        ("Size=4&VolumeType=io1&Iops=100", ""),
        ("Size=3&VolumeType=io1&Iops=100", value),
        ("Size=10&VolumeType=io1&Iops=99", value),
        ("Size=10&VolumeType=io1&Iops=500", ""),
        ("Size=10&VolumeType=io1&Iops=501", value),
        ("Size=16384&VolumeType=io1&Iops=64001", value),
        ("Size=10&VolumeType=io1&Iops=100&Throughput=125", both),
        ("Size=10&VolumeType=io2&Iops=10000", ""),
        ("Size=10&VolumeType=io2&Iops=10001", value),
        ("Size=300&VolumeType=io2&Iops=256000", ""),
        ("Size=125&VolumeType=st1", ""),
        ("Size=124&VolumeType=st1", value),
        ("Size=124&VolumeType=sc1", value),
        ("Size=500&VolumeType=st1&Iops=500", both),
        ("Size=1024&VolumeType=standard", ""),
        ("Size=1025&VolumeType=standard", value),
        ("Size=10&VolumeType=zz9", "UnknownVolumeType"),
        ("Size=10&VolumeType=GP3", "UnknownVolumeType"),
        ("Iops=3000&VolumeType=gp3", "MissingParameter"),
    ] {
        let answer = lab.volume(&format!("&{more}")).await;
        assert_eq!(code(&answer), expected, "{more}: {}", answer.body);
    }
}

#[tokio::test]
async fn changes_copies_and_launches_are_held_to_a_volumes_type_as_well() {
    let lab = Lab::new().await;
    let (value, both) = ("InvalidParameterValue", "InvalidParameterCombination");
    let id = lab.volume("&Size=10&VolumeType=io1&Iops=200").await.one("volumeId");
    lab.advance(5).await;
    for (more, expected) in [
        ("Iops=501", value),
        ("Throughput=125", both),
        ("VolumeType=gp2&Iops=200", both),
        ("VolumeType=nothing", "UnknownVolumeType"),
        ("Size=99999", value),
    ] {
        assert_eq!(lab.code(&format!("Action=ModifyVolume&VolumeId={id}&{more}")).await, expected, "{more}");
        assert_eq!(
            lab.code(&format!("Action=CopyVolumes&SourceVolumeId={id}&{more}")).await,
            expected,
            "{more}"
        );
    }
    let copy =
        lab.ec2(&format!("Action=CopyVolumes&SourceVolumeId={id}&VolumeType=gp3&Throughput=250")).await;
    assert_eq!((copy.one("iops").as_str(), copy.one("throughput").as_str()), ("3000", "250"));
    let changed = lab.ec2(&format!("Action=ModifyVolume&VolumeId={id}&VolumeType=gp2")).await;
    assert_eq!((changed.all("targetIops"), changed.one("originalIops")), (vec![], "200".to_owned()));
    let device = |more: &str| {
        format!(
            "{SPOT}&BlockDeviceMapping.1.DeviceName=/dev/sdb&BlockDeviceMapping.1.Ebs.VolumeSize=10{}",
            more.split('&').map(|part| format!("&BlockDeviceMapping.1.Ebs.{part}")).collect::<String>()
        )
    };
    for (more, expected) in [
        ("VolumeType=gp2&Iops=100", both),
        ("VolumeType=gp2&Throughput=125", "InvalidBlockDeviceMapping"),
        ("VolumeType=io1", both),
        ("VolumeType=io1&Iops=501", value),
        ("VolumeType=st1", value),
        ("VolumeType=io1&Iops=500", ""),
    ] {
        assert_eq!(lab.code(&device(more)).await, expected, "{more}");
    }
    // gp2 has three for each GiB.
    let shown = |id: &str| format!("Action=DescribeVolumes&VolumeId.1={id}");
    for (size, iops) in [(1, "100"), (100, "300"), (10_000, "16000")] {
        let id = lab.volume(&format!("&Size={size}&VolumeType=gp2")).await.one("volumeId");
        assert_eq!(lab.ec2(&shown(&id)).await.one("iops"), iops);
    }
}

#[tokio::test]
async fn tags_are_for_what_a_call_makes_and_a_specification_has_some() {
    let lab = Lab::new().await;
    let id = lab.instance().await;
    let volume = lab.volume("&Size=1").await.one("volumeId");
    lab.advance(5).await;
    let one = |n: u32, kind: &str| format!("&TagSpecification.{n}.ResourceType={kind}");
    let tag = |n: u32| format!("&TagSpecification.{n}.Tag.1.Key=k&TagSpecification.{n}.Tag.1.Value=v");
    let subnet = lab.ec2("Action=DescribeSubnets").await.one("subnetId");
    for (form, kinds) in [
        (format!("Action=CreateVolume&AvailabilityZone={ZONE}&Size=1"), &["volume"][..]),
        (format!("Action=CreateSnapshot&VolumeId={volume}"), &["snapshot"]),
        (format!("Action=CreateSnapshots&InstanceSpecification.InstanceId={id}"), &["snapshot"]),
        (format!("Action=CreateImage&Name=image-$N&InstanceId={id}"), &["image", "snapshot"]),
        (format!("Action=CreateNetworkInterface&SubnetId={subnet}"), &["network-interface"]),
        ("Action=AllocateAddress".to_owned(), &["elastic-ip"]),
        ("Action=CreateSecurityGroup&GroupName=g-$N&GroupDescription=d".to_owned(), &["security-group"]),
        (
            "Action=CreateLaunchTemplate&LaunchTemplateName=lt-$N&LaunchTemplateData.KeyName=k".to_owned(),
            &["launch-template"],
        ),
        (SPOT.to_owned(), &["instance", "volume", "network-interface", "spot-instances-request"]),
        (format!("Action=CopyVolumes&SourceVolumeId={volume}"), &["volume"]),
    ] {
        let mut names = 0;
        let mut named = || {
            names += 1;
            form.replace("$N", &names.to_string())
        };
        let all: String = (1..).zip(kinds).map(|(n, kind)| one(n, kind) + &tag(n)).collect();
        assert_eq!(lab.code(&(named() + &all)).await, "", "{form}");
        assert_eq!(
            lab.code(&(named() + &one(1, kinds[0]))).await,
            "InvalidParameterValue",
            "no tags: {form}"
        );
        assert_eq!(lab.code(&(named() + &tag(1))).await, "InvalidParameterValue", "no kind: {form}");
        for other in ["vpc", "nonsense"] {
            assert_eq!(
                lab.code(&(named() + &one(1, other) + &tag(1))).await,
                "InvalidParameterValue",
                "{other}: {form}"
            );
        }
    }
    assert_eq!(lab.get("/_region/check").await.json()["violations"], json!([]));
}

#[tokio::test]
async fn an_object_without_tags_has_no_set_of_them_where_ec2_has_none() {
    let lab = Lab::new().await;
    let id = lab.instance().await;
    let volume = lab.volume("&Size=1").await;
    let volume_id = volume.one("volumeId");
    lab.advance(5).await;
    let snapshot = lab.ec2(&format!("Action=CreateSnapshot&VolumeId={volume_id}")).await;
    let run = lab.ec2(SPOT).await;
    for created in [&volume, &snapshot, &run] {
        assert!(created.body.contains("<tagSet></tagSet>"), "{}", created.body);
    }
    lab.ec2("Action=AllocateAddress").await;
    lab.ec2(&format!("Action=CreateImage&Name=image&InstanceId={id}")).await;
    lab.ec2(&format!("Action=CreateReplaceRootVolumeTask&InstanceId={id}")).await;
    let template = lab.template("mine", "&LaunchTemplateData.KeyName=k").await;
    lab.advance(300).await;
    for describe in [
        "Instances",
        "Volumes",
        "Snapshots",
        "Images",
        "Subnets",
        "Vpcs",
        "SecurityGroups",
        "Addresses",
        "LaunchTemplates",
    ] {
        let answer = lab.ec2(&format!("Action=Describe{describe}")).await;
        assert!(!answer.all("item").is_empty() && !answer.body.contains("<tagSet>"), "{}", answer.body);
    }
    for describe in ["NetworkInterfaces", "SpotInstanceRequests", "ReplaceRootVolumeTasks"] {
        let answer = lab.ec2(&format!("Action=Describe{describe}")).await;
        assert!(answer.body.contains("<tagSet></tagSet>"), "{}", answer.body);
    }
    // And with tags all of them have it, also after the last is gone.
    for (resource, describe) in [(&id, "Instances"), (&volume_id, "Volumes"), (&template, "LaunchTemplates")]
    {
        lab.ec2(&format!("Action=CreateTags&ResourceId.1={resource}&Tag.1.Key=k&Tag.1.Value=v")).await;
        let describe = format!("Action=Describe{describe}");
        assert!(lab.ec2(&describe).await.body.contains("<tagSet><item><key>k</key>"), "{describe}");
        lab.ec2(&format!("Action=DeleteTags&ResourceId.1={resource}&Tag.1.Key=k")).await;
        assert!(!lab.ec2(&describe).await.body.contains("<tagSet>"), "{describe}");
    }
}

#[tokio::test]
async fn every_answer_names_its_request_in_a_header() {
    let lab = Lab::new().await;
    let header = |answer: &Answer| {
        let mut lines = answer.head.lines().filter_map(|line| line.strip_prefix("x-amzn-requestid: "));
        lines.next().unwrap_or_else(|| panic!("no id in {}", answer.head)).to_owned()
    };
    let elb = b"Version=2015-12-01&Action=DescribeTargetGroups";
    let elb_error = b"Version=2015-12-01&Action=Nonsense";
    let sts = b"Version=2011-06-15&Action=GetCallerIdentity";
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    for answer in [
        lab.ec2("Action=DescribeVolumes").await,
        lab.ec2("Action=DescribeVolumes&MaxResults=1").await,
        lab.ec2("Action=Nonsense").await,
        lab.http("POST", "/", form, elb).await.unwrap(),
        lab.http("POST", "/", form, elb_error).await.unwrap(),
        lab.http("POST", "/", form, sts).await.unwrap(),
    ] {
        let names = ["requestId", "RequestID", "RequestId"];
        let in_body = names.iter().find_map(|name| answer.all(name).pop());
        assert_eq!(in_body, Some(header(&answer)), "{}", answer.body);
    }
    for target in
        ["AmazonSQS.ListQueues", "AWSEvents.ListRules", "AmazonSSM.ListCommands", "AmazonSQS.Nonsense"]
    {
        assert!(!header(&lab.target(target, &json!({})).await).is_empty());
    }
}

#[tokio::test]
async fn a_snapshot_ends_in_error_when_it_is_ordered_and_takes_its_set_and_its_image_along() {
    let lab = Lab::new().await;
    let id = lab.instance().await;
    let root = lab.ec2("Action=DescribeVolumes").await.one("volumeId");
    let data = lab.volume("&Size=1").await.one("volumeId");
    lab.advance(5).await;
    lab.ec2(&format!("Action=AttachVolume&VolumeId={data}&InstanceId={id}&Device=/dev/sdf")).await;
    lab.advance(300).await;
    let take = async |volume: &str| {
        lab.ec2(&format!("Action=CreateSnapshot&VolumeId={volume}")).await.one("snapshotId")
    };
    let state =
        async |id: &str| lab.ec2(&format!("Action=DescribeSnapshots&SnapshotId.1={id}")).await.one("status");

    // The next one of a volume, whatever others are taken before.
    assert_eq!(lab.region("fail-snapshot", json!({ "volume": data })).await.status, 200);
    let (good, failed) = (take(&root).await, take(&data).await);
    assert_eq!((state(&good).await.as_str(), state(&failed).await.as_str()), ("pending", "pending"));
    lab.advance(300).await;
    assert_eq!((state(&good).await.as_str(), state(&failed).await.as_str()), ("completed", "error"));
    let shown = lab.ec2("Action=DescribeSnapshots&Filter.1.Name=status&Filter.1.Value.1=error").await;
    assert_eq!((shown.all("snapshotId"), shown.one("progress")), (vec![failed.clone()], "0%".to_owned()));
    assert_eq!(code(&lab.volume(&format!("&SnapshotId={failed}")).await), "IncorrectState");
    let image = format!(
        "Action=RegisterImage&Name=broken&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.SnapshotId={failed}"
    );
    assert_eq!(lab.code(&image).await, "IncorrectState");
    assert_eq!(
        lab.code(&format!("Action=DeleteSnapshot&SnapshotId={failed}")).await,
        "",
        "it can be deleted"
    );

    // The next one of any volume, and no other.
    lab.region("fail-snapshot", json!({})).await;
    let (failed, good) = (take(&root).await, take(&data).await);
    lab.advance(300).await;
    assert_eq!((state(&failed).await.as_str(), state(&good).await.as_str()), ("error", "completed"));

    // One that is pending.
    let pending = take(&root).await;
    assert_eq!(lab.region("fail-snapshot", json!({ "snapshot": pending })).await.status, 200);
    lab.advance(300).await;
    assert_eq!(state(&pending).await, "error");
    let over = lab.region("fail-snapshot", json!({ "snapshot": pending })).await;
    assert_eq!((over.status, over.json()["error"].clone()), (400, json!("IncorrectState")));

    // One of a set, and one of an image.
    lab.region("fail-snapshot", json!({ "volume": data })).await;
    let set = lab.ec2(&format!("Action=CreateSnapshots&InstanceSpecification.InstanceId={id}")).await;
    lab.region("fail-snapshot", json!({ "volume": data })).await;
    lab.advance(300).await;
    for snapshot in set.all("snapshotId") {
        assert_eq!(state(&snapshot).await, "error", "all of the set");
    }
    let image = lab.ec2(&format!("Action=CreateImage&InstanceId={id}&Name=broken")).await.one("imageId");
    lab.advance(400).await;
    let shown = lab.ec2(&format!("Action=DescribeImages&ImageId.1={image}")).await;
    assert_eq!(shown.one("imageState"), "failed");
    for wrong in [
        json!({ "volume": "vol-0123456789abcdef0" }),
        json!({ "snapshot": "nonsense" }),
        json!({ "volume": data, "snapshot": pending }),
    ] {
        assert!((400..500).contains(&lab.region("fail-snapshot", wrong).await.status));
    }
    assert_eq!(lab.get("/_region/check").await.json()["violations"], json!([]));
}

#[tokio::test]
async fn the_calls_that_tools_make_beside_others_are_answered() {
    let lab = Lab::new().await;
    let id = lab.instance().await;
    let root = lab.ec2("Action=DescribeVolumes").await.one("volumeId");
    let young = lab.volume("&Size=1").await.one("volumeId");
    let status = lab.ec2("Action=DescribeVolumeStatus").await;
    let expected = |old: &str, new: &str| {
        if root < young { [old.to_owned(), new.to_owned()] } else { [new.to_owned(), old.to_owned()] }
    };
    assert_eq!(status.all("volumeStatus").len(), 2);
    let told = |body: &Answer| -> Vec<String> {
        body.all("volumeStatus")
            .iter()
            .map(|one| one.split("</status>").next().unwrap().replace("<status>", ""))
            .collect()
    };
    assert_eq!(told(&status), expected("ok", "insufficient-data"));
    lab.advance(5).await;
    let one = format!(
        "Action=DescribeVolumeStatus&VolumeId.1={young}&Filter.1.Name=volume-status.status&Filter.1.Value.1=ok"
    );
    assert_eq!(told(&lab.ec2(&one).await), ["ok"]);
    assert_eq!(
        lab.code("Action=DescribeVolumeStatus&VolumeId.1=vol-0123456789abcdef0").await,
        "InvalidVolume.NotFound"
    );

    let pairs = lab.ec2("Action=DescribeKeyPairs").await;
    assert!(pairs.body.contains("<keySet></keySet>"), "{}", pairs.body);
    assert_eq!(lab.code("Action=DescribeKeyPairs&KeyName.1=mine").await, "InvalidKeyPair.NotFound");

    let modify = |more: &str| format!("Action=ModifyInstanceMetadataOptions&InstanceId={id}{more}");
    let changed = lab.ec2(&modify("&HttpTokens=required&HttpPutResponseHopLimit=3")).await;
    assert_eq!(
        (changed.one("state"), changed.one("httpTokens")),
        ("pending".to_owned(), "required".to_owned())
    );
    let shown = lab.ec2(&format!("Action=DescribeInstances&InstanceId.1={id}")).await;
    assert_eq!(
        (shown.one("httpTokens"), shown.one("httpPutResponseHopLimit")),
        ("required".to_owned(), "3".to_owned())
    );
    assert_eq!(lab.get("/latest/meta-data/instance-id").await.status, 401, "the guest needs a token now");
    for wrong in
        ["&HttpTokens=maybe", "&HttpPutResponseHopLimit=65", "&HttpEndpoint=on", "&InstanceMetadataTags=1"]
    {
        assert_eq!(lab.code(&modify(wrong)).await, "InvalidParameterValue", "{wrong}");
    }
    assert_eq!(lab.code(&format!("{SPOT}&MetadataOptions.HttpTokens=maybe")).await, "InvalidParameterValue");

    let console = lab.ec2(&format!("Action=GetConsoleOutput&InstanceId={id}")).await;
    assert_eq!(console.one("instanceId"), id);
    assert!(console.one("output").len() > 20 && !console.one("timestamp").is_empty());
    let none = "Action=GetConsoleOutput&InstanceId=i-0123456789abcdef0";
    assert_eq!(lab.code(none).await, "InvalidInstanceID.NotFound");
}

/// A describe, a filter that it has, and a value of its objects here (nothing, where they have none).
const FILTERS: &[(&str, &str, &str)] = &[
    ("NetworkInterfaces", "attachment.instance-owner-id", "111122223333"),
    ("NetworkInterfaces", "attachment.attach-time", "20*"),
    ("NetworkInterfaces", "ipv6-addresses.ipv6-address", ""),
    ("NetworkInterfaces", "mac-address", "02:00:*"),
    ("Images", "source-instance-id", ""),
    ("Images", "creation-date", "20*"),
    ("Images", "ena-support", "true"),
    ("Images", "imds-support", "v2.0"),
    ("Images", "block-device-mapping.device-name", "/dev/xvda"),
    ("Volumes", "attachment.attach-time", "20*"),
    ("InstanceTypes", "burstable-performance-supported", "true"),
    ("InstanceTypes", "vcpu-info.default-cores", "2"),
    ("InstanceTypes", "hypervisor", "nitro"),
    ("InstanceTypes", "instance-storage-supported", "false"),
    ("InstanceTypes", "network-info.ena-support", "required"),
    ("InstanceTypes", "free-tier-eligible", "false"),
    ("Subnets", "available-ip-address-count", "4*"),
    ("SecurityGroups", "ip-permission.cidr", ""),
    ("SecurityGroups", "egress.ip-permission.cidr", "0.0.0.0/0"),
    ("InstanceStatus", "event.code", ""),
    ("InstanceStatus", "system-status.reachability", "initializing"),
    ("Instances", "hibernation-options.configured", "false"),
    ("Instances", "network-interface.owner-id", "111122223333"),
    ("Instances", "ebs-optimized", "false"),
    ("Regions", "region-name", "us-east-1"),
    ("AvailabilityZones", "parent-zone-id", ""),
];

#[tokio::test]
async fn every_filter_of_ec2s_is_taken_and_another_is_an_error_even_where_there_is_nothing() {
    let lab = Lab::new().await;
    let of = |describe: &str, name: &str, value: &str| {
        format!("Action=Describe{describe}&Filter.1.Name={name}&Filter.1.Value.1={value}")
    };
    // Nothing to compare with: as wrong as ever.
    for describe in
        ["Instances", "Volumes", "InstanceStatus", "KeyPairs", "LaunchTemplates", "Addresses", "Regions"]
    {
        assert_eq!(lab.code(&of(describe, "no-such", "x")).await, "InvalidParameterValue", "{describe}");
    }
    lab.instance().await;
    for (describe, name, value) in FILTERS {
        let answer = lab.ec2(&of(describe, name, if value.is_empty() { "*" } else { value })).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert_eq!(answer.body.contains("<item>"), !value.is_empty(), "{name}: {}", answer.body);
        assert!(!lab.ec2(&of(describe, name, "nonsense")).await.body.contains("<item>"), "{name}");
        assert_eq!(lab.code(&of(describe, &format!("{name}-x"), "x")).await, "InvalidParameterValue");
    }
}

#[tokio::test]
async fn parameters_that_narrow_or_protect_are_not_ignored() {
    let lab = Lab::new().await;
    let zones = lab.ec2("Action=DescribeAvailabilityZones&ZoneId.1=use1-az2").await;
    assert_eq!(zones.all("zoneName"), ["us-east-1b"]);
    assert_eq!(lab.code("Action=DescribeAvailabilityZones&ZoneId.1=use1-az9").await, "InvalidParameterValue");
    assert_eq!(lab.code("Action=DescribeRegions&RegionName.1=mars-1").await, "InvalidParameterValue");
    let by_id = lab.ec2("Action=CreateVolume&AvailabilityZoneId=use1-az2&Size=1").await;
    assert_eq!(by_id.one("availabilityZone"), "us-east-1b");
    // Types that are not listed, by a filter as by the parameter.
    for describe in ["InstanceTypes", "SpotPriceHistory"] {
        let form =
            format!("Action=Describe{describe}&Filter.1.Name=instance-type&Filter.1.Value.1=m8i.96xlarge");
        assert_eq!(lab.ec2(&form).await.one("instanceType"), "m8i.96xlarge");
    }

    let id = lab
        .ec2(&SPOT.replace(
            "&InstanceMarketOptions.MarketType=spot",
            "&DisableApiStop=true&Monitoring.Enabled=true&EbsOptimized=true",
        ))
        .await;
    let id = id.one("instanceId");
    lab.advance(10).await;
    let shown = lab.ec2(&format!("Action=DescribeInstances&InstanceId.1={id}")).await;
    assert!(shown.body.contains("<monitoring><state>enabled</state></monitoring>"), "{}", shown.body);
    let told = ["ebsOptimized", "capacityReservationPreference", "configured"].map(|name| shown.one(name));
    assert_eq!(told, ["true", "open", "false"]);
    let stop = format!("Action=StopInstances&InstanceId.1={id}");
    assert_eq!(lab.code(&stop).await, "OperationNotPermitted");
    let attribute = format!("Action=DescribeInstanceAttribute&InstanceId={id}&Attribute=disableApiStop");
    assert_eq!(lab.ec2(&attribute).await.one("value"), "true");
    lab.ec2(&format!("Action=ModifyInstanceAttribute&InstanceId={id}&DisableApiStop.Value=false")).await;
    assert_eq!(lab.code(&stop).await, "");

    let spot = lab.instance().await;
    let data = lab.volume("&Size=1").await.one("volumeId");
    lab.advance(5).await;
    lab.ec2(&format!("Action=AttachVolume&VolumeId={data}&InstanceId={spot}&Device=/dev/sdf")).await;
    lab.advance(5).await;
    let detach = |device: &str| format!("Action=DetachVolume&VolumeId={data}&Device={device}");
    assert_eq!(lab.code(&detach("/dev/sdg")).await, "InvalidAttachment.NotFound");
    assert_eq!(lab.code(&detach("/dev/sdf")).await, "");
}

#[tokio::test]
async fn a_refusal_names_all_that_is_wrong_in_ec2s_words() {
    let lab = Lab::new().await;
    let (a, b) = ("i-0123456789abcdef0", "i-0123456789abcdef1");
    let both = format!("&InstanceId.1={a}&InstanceId.2={b}");
    for action in [
        "DescribeInstances",
        "DescribeInstanceStatus",
        "TerminateInstances",
        "StopInstances",
        "StartInstances",
    ] {
        let answer = lab.ec2(&format!("Action={action}{both}")).await;
        assert_eq!(code(&answer), "InvalidInstanceID.NotFound");
        assert_eq!(
            answer.one("Message").replace("&apos;", "'"),
            format!("The instance IDs '{a}, {b}' do not exist")
        );
        let one = lab.ec2(&format!("Action={action}&InstanceId.1={a}")).await;
        assert_eq!(
            one.one("Message").replace("&apos;", "'"),
            format!("The instance ID '{a}' does not exist")
        );
    }
    for action in ["TerminateInstances", "StopInstances", "StartInstances", "RebootInstances"] {
        assert_eq!(lab.code(&format!("Action={action}")).await, "InvalidParameterCombination", "{action}");
    }
    let images = "Action=DescribeImages&ImageId.1=ami-0123456789abcdef0&ImageId.2=ami-0123456789abcdef1";
    assert!(lab.ec2(images).await.body.contains("[ami-0123456789abcdef0, ami-0123456789abcdef1]"));
    let id = lab.instance().await;
    lab.ec2(&format!("Action=TerminateInstances&InstanceId.1={id}")).await;
    let shown = lab.ec2(&format!("Action=DescribeInstances&InstanceId.1={id}")).await;
    assert_eq!(shown.one("message"), "Client.UserInitiatedShutdown: User initiated shutdown");
}

#[tokio::test]
async fn public_parameters_of_systems_manager_name_the_image() {
    let lab = Lab::new().await;
    let known = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64";
    let ask = async |action: &str, request: serde_json::Value| {
        lab.target(&format!("AmazonSSM.{action}"), &request).await
    };
    let one = ask("GetParameter", json!({ "Name": known })).await.json();
    assert_eq!((&one["Parameter"]["Value"], &one["Parameter"]["Name"]), (&json!(IMAGE), &json!(known)));
    let ubuntu = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id";
    let arm = known.replace("x86_64", "arm64");
    let some = ask("GetParameters", json!({ "Names": [ubuntu, arm, "/mine"] })).await.json();
    assert_eq!(some["Parameters"][0]["Value"], IMAGE);
    assert_eq!(some["InvalidParameters"], json!([arm, "/mine"]));
    for none in [
        "/mine",
        "",
        "/aws/service/ami-amazon-linux-latest/",
        "/aws/service/global-infrastructure/regions",
        &arm,
    ] {
        let answer = ask("GetParameter", json!({ "Name": none })).await;
        assert!(answer.status == 400 && answer.body.contains("ParameterNotFound"), "{none}: {}", answer.body);
    }
    let path =
        ask("GetParametersByPath", json!({ "Path": "/aws/service/ami-amazon-linux-latest" })).await.json();
    assert_eq!(path["Parameters"].as_array().unwrap().len(), 4);
    let run = |name: &str| {
        format!("Action=RunInstances&InstanceType=m5.large&MinCount=1&MaxCount=1&ImageId=resolve:ssm:{name}")
    };
    assert_eq!(lab.ec2(&run(known)).await.one("imageId"), IMAGE);
    assert_eq!(lab.code(&run("/mine")).await, "InvalidParameterValue");
}
