//! What can be known about a node file before anything is made: whether EC2 would take what it asks for.
//!
//! Everything here only looks, or asks with `DryRun`. A check that fails is one that no wait would mend. What
//! could not be looked at is a warning: the one who applies a file need not have the rights of the one who
//! carries it out.
//!
//! - Each subnet exists; the first private address is one of the first subnet's.
//! - The image exists and is available.
//! - Each instance type exists, has the image's architecture, and is offered in the zone.
//! - The data volumes keep the limits of their types ("Amazon EBS volume types", EBS User Guide, 2026).
//! - RunInstances would be allowed in each pool of the first subnet. Capacity and quotas are not asked.

use std::net::Ipv4Addr;

use perennial_workflows::model::boot::Needs;
use perennial_workflows::model::capacity::CapacityPool;
use perennial_workflows::spec::node::{DataVolumeSpec, NodeSpec};

use perennial_workflows::model::aws::ImageId;

use crate::port::error::CloudError;
use crate::port::{
    Cloud, ImageState, ImageView, LaunchNetwork, LaunchRequest, Select, SubnetView, TypeQuery,
};
use crate::steps::traits_of;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It could not be looked at, or may change by itself.
    Warn,
    /// EC2 would refuse it.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub check: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub to_do: String,
}

/// The checks of one file.
#[derive(Debug, Default)]
struct Report(Vec<Check>);

impl Report {
    fn add(&mut self, check: &str, verdict: Verdict, found: impl Into<String>, to_do: &str) {
        self.0.push(Check { check: check.to_owned(), verdict, found: found.into(), to_do: to_do.to_owned() });
    }

    fn ok(&mut self, check: &str, found: impl Into<String>) {
        self.add(check, Verdict::Ok, found, "");
    }

    fn fail(&mut self, check: &str, found: impl Into<String>, to_do: &str) {
        self.add(check, Verdict::Fail, found, to_do);
    }

    fn not_seen(&mut self, check: &str, error: &CloudError) {
        self.add(check, Verdict::Warn, error.to_string(), error.remedy());
    }
}

/// Looks at everything that a node file asks for. `is_new`: the node does not exist yet; a present one keeps
/// its interface and its address, so a subnet that is full does not matter to it.
pub async fn of_node(cloud: &dyn Cloud, spec: &NodeSpec, is_new: bool) -> Vec<Check> {
    let mut report = Report::default();
    for volume in &spec.data_volumes {
        volume_check(volume, &mut report);
    }
    let home = subnets(cloud, spec, is_new, &mut report).await;
    let image = image(cloud, spec, &mut report).await;
    types(cloud, spec, image.as_ref(), home.as_ref(), &mut report).await;
    if let Some(home) = home {
        for pool in spec.ladder(&spec.subnet, None).iter().filter(|pool| pool.subnet.is_none()) {
            launch(cloud, spec, pool, &home, is_new, &mut report).await;
        }
    }
    report.0
}

/// Whether an image can be launched: for a new root from it.
pub async fn of_image(cloud: &dyn Cloud, image: &ImageId) -> Result<(), String> {
    match cloud.images(&Select::Ids(vec![image.clone()])).await {
        Ok(found) if found.is_empty() => Err(format!("there is no image {image}")),
        // Who asks need not have the right to look. The operation looks again, and is undone where there is
        // none.
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn subnets(
    cloud: &dyn Cloud,
    spec: &NodeSpec,
    is_new: bool,
    report: &mut Report,
) -> Option<SubnetView> {
    let asked: Vec<_> = spec.subnets().cloned().collect();
    let found = match cloud.subnets(&asked).await {
        Ok(found) => found,
        Err(error) => {
            report.not_seen("subnet", &error);
            return None;
        }
    };
    for (i, subnet) in asked.iter().enumerate() {
        let name = if i == 0 { "subnet".to_owned() } else { format!("subnet {subnet}") };
        match found.iter().find(|view| view.id == *subnet) {
            Some(view) => report.ok(&name, format!("{subnet}, {} in {}", view.cidr, view.zone)),
            None => report.fail(&name, format!("{subnet} does not exist"), "name another one"),
        }
    }
    let home = found.into_iter().find(|view| view.id == spec.subnet)?;
    if let Some(address) = spec.private_ip.filter(|_| is_new)
        && is_in(&home.cidr, address) == Some(false)
    {
        let found = format!("{address} is not one of {} ({})", home.id, home.cidr);
        report.fail("private_ip", found, "name an address of the subnet, or none");
    }
    Some(home)
}

/// Whether an address is in a range such as `10.0.0.0/20`; `None` where the range cannot be read.
fn is_in(cidr: &str, address: Ipv4Addr) -> Option<bool> {
    let (network, prefix) = cidr.split_once('/')?;
    let (network, prefix) = (network.parse::<Ipv4Addr>().ok()?, prefix.parse::<u32>().ok()?);
    let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix)?).unwrap_or(0);
    Some(u32::from(network) & mask == u32::from(address) & mask)
}

async fn image(cloud: &dyn Cloud, spec: &NodeSpec, report: &mut Report) -> Option<ImageView> {
    let found = match cloud.images(&Select::Ids(vec![spec.image.clone()])).await {
        Ok(found) => found,
        Err(error) => {
            report.not_seen("image", &error);
            return None;
        }
    };
    let Some(image) = found.into_iter().next() else {
        let found = format!("{} does not exist, or is not shared with this account", spec.image);
        report.fail("image", found, "name another one");
        return None;
    };
    match image.state {
        ImageState::Available => {
            report.ok("image", format!("{}, {}", image.id, image.traits.architecture));
        }
        state => report.add(
            "image",
            Verdict::Warn,
            format!("{} is {state:?}", image.id).to_lowercase(),
            "wait until it is available",
        ),
    }
    Some(image)
}

async fn types(
    cloud: &dyn Cloud,
    spec: &NodeSpec,
    image: Option<&ImageView>,
    home: Option<&SubnetView>,
    report: &mut Report,
) {
    let named = &spec.capacity.instance_types;
    if named.is_empty() {
        return;
    }
    let facts = match cloud.instance_types(&TypeQuery::Named(named.clone())).await {
        Ok(facts) => facts,
        Err(error) if error.is_of_the_file() => {
            return report.fail("instance types", error.to_string(), error.remedy());
        }
        Err(error) => return report.not_seen("instance types", &error),
    };
    let offered = match home {
        Some(home) => cloud.offered_types(&home.zone).await.ok().map(|offered| (home, offered)),
        None => None,
    };
    let needs = image.map(|image| Needs::of(&traits_of(&image.traits)));
    let mut fitting = 0;
    for name in named {
        let Some(facts) = facts.iter().find(|facts| facts.name == *name) else {
            report.fail(name, "there is no such instance type in this region", "correct or remove it");
            continue;
        };
        let wrong = image.filter(|image| !facts.architectures.contains(&image.traits.architecture));
        if let Some(image) = wrong {
            let is = facts.architectures.join(" or ");
            let found = format!("it is {is}, the image is {}", image.traits.architecture);
            report.fail(name, found, "name types of the image's architecture, or another image");
        } else if let Some(missing) = needs.as_ref().and_then(|needs| needs.missing(&facts.boots)) {
            // What a description leaves out counts as missing: this may be wrong; EC2 decides at the launch.
            report.add(name, Verdict::Warn, missing, "name types that can boot the image, or another image");
        } else if let Some((home, _)) = offered.as_ref().filter(|(_, offered)| !offered.contains(name)) {
            let found = format!("{} does not offer it", home.zone);
            let to_do = "name types that the zone offers; this one is of use in other subnets only";
            report.add(name, Verdict::Warn, found, to_do);
        } else {
            fitting += 1;
        }
    }
    if fitting == named.len() {
        report.ok("instance types", format!("{fitting} exist and fit the image"));
    }
}

/// The limits of a volume type: sizes in GiB, and IOPS where they can be said.
struct Limits {
    name: &'static str,
    sizes: (u32, u32),
    iops: Option<(u32, u32)>,
    throughput: Option<(u32, u32)>,
}

/// "Amazon EBS volume types" (EBS User Guide).
const LIMITS: [Limits; 7] = [
    Limits { name: "gp3", sizes: (1, 65_536), iops: Some((3_000, 80_000)), throughput: Some((125, 2_000)) },
    Limits { name: "gp2", sizes: (1, 16_384), iops: None, throughput: None },
    Limits { name: "io1", sizes: (4, 16_384), iops: Some((100, 64_000)), throughput: None },
    Limits { name: "io2", sizes: (4, 65_536), iops: Some((100, 256_000)), throughput: None },
    Limits { name: "st1", sizes: (125, 16_384), iops: None, throughput: None },
    Limits { name: "sc1", sizes: (125, 16_384), iops: None, throughput: None },
    Limits { name: "standard", sizes: (1, 1_024), iops: None, throughput: None },
];

fn volume_check(volume: &DataVolumeSpec, report: &mut Report) {
    let check = format!("volume {}", volume.name);
    // One that exists is taken as it is.
    if volume.volume.is_some() {
        return;
    }
    let Some(limits) = LIMITS.iter().find(|limits| limits.name == volume.volume_type) else {
        let names: Vec<&str> = LIMITS.iter().map(|limits| limits.name).collect();
        let found = format!("{:?} is no volume type", volume.volume_type);
        return report.fail(&check, found, &format!("use one of {}", names.join(", ")));
    };
    let outside = |(least, most): (u32, u32), value: u32| !(least..=most).contains(&value);
    let mut wrong = Vec::new();
    let (least, most) = limits.sizes;
    if outside(limits.sizes, volume.size_gib) {
        wrong.push(format!("size_gib {} is not between {least} and {most}", volume.size_gib));
    }
    for (field, value, range) in
        [("iops", volume.iops, limits.iops), ("throughput", volume.throughput, limits.throughput)]
    {
        match (value, range) {
            (Some(_), None) => wrong.push(format!("{field} cannot be said")),
            (Some(value), Some(range)) if outside(range, value) => {
                wrong.push(format!("{field} {value} is not between {} and {}", range.0, range.1));
            }
            _ => {}
        }
    }
    if volume.iops.is_none() && matches!(limits.name, "io1" | "io2") {
        wrong.push("iops must be said".to_owned());
    }
    if wrong.is_empty() {
        report.ok(&check, format!("{}, {} GiB", limits.name, volume.size_gib));
    } else {
        report.fail(&check, format!("{}: {}", limits.name, wrong.join("; ")), "correct the file");
    }
}

async fn launch(
    cloud: &dyn Cloud,
    spec: &NodeSpec,
    pool: &CapacityPool,
    home: &SubnetView,
    is_new: bool,
    report: &mut Report,
) {
    let check = format!("launch {pool}");
    let request = LaunchRequest {
        client_token: "perennial-preflight".to_owned(),
        image: spec.image.clone(),
        instance_type: pool.instance_type.clone(),
        market: pool.market,
        price_max: spec.capacity.price_max.clone(),
        zone: home.zone.clone(),
        network: LaunchNetwork::New { subnet: spec.subnet.clone(), groups: spec.security_groups.clone() },
        volumes: Vec::new(),
        suppress: Vec::new(),
        root: None,
        key_name: spec.key_name.clone(),
        instance_profile: spec.instance_profile.clone(),
        user_data: spec.user_data.clone(),
        metadata: spec.launch_metadata(),
        template: spec.launch_template.clone(),
        tags: spec.tags.clone(),
    };
    match cloud.may_run_instances(&request).await {
        Ok(()) => report.ok(&check, format!("allowed in {}", home.zone)),
        // A present node holds an address; a new one waits for one.
        Err(error) if error.is_of_the_addresses() && !is_new => {
            report.ok(&check, format!("allowed in {}, onto the interface that the node holds", home.zone));
        }
        Err(error) if error.is_of_the_addresses() => {
            report.add(&check, Verdict::Warn, error.to_string(), error.remedy());
        }
        // Another pool may do, or it passes, or the rights of who asks do not suffice.
        Err(error) if !error.is_of_the_file() => report.not_seen(&check, &error),
        Err(error) => report.fail(&check, error.to_string(), error.remedy()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_subnet_or_not() {
        let address = Ipv4Addr::new(10, 0, 15, 9);
        for (cidr, is) in [
            ("10.0.0.0/20", Some(true)),
            ("10.0.16.0/20", Some(false)),
            ("0.0.0.0/0", Some(true)),
            ("10.0.15.9/32", Some(true)),
            ("10.0.15.8/32", Some(false)),
            ("10.0.0.0", None),
            ("10.0.0.0/33", None),
            ("fd00::/64", None),
        ] {
            assert_eq!(is_in(cidr, address), is, "{cidr}");
        }
    }
}
