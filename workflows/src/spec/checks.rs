//! The checks of a node file that concern several of its sections, and the checks of a change of the file.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::capacity::MarketPolicy;
use crate::model::metadata::HOP_LIMIT_MAX;
use crate::model::resources::HeldVolume;
use crate::model::volume::Slot;
use crate::spec::error::SpecError;
use crate::spec::node::{
    CapacitySpec, DATA_VOLUMES_MAX, DataMode, DataVolumeSpec, Handover, INSTANCE_TYPES_MAX, MIN_LIFETIME_MIN,
    MIN_LIFETIME_MIN_MAX, NetworkMode, NodeSpec, OTHER_SUBNETS_MAX, ReturnToSpot, RootMode, TAGS_MAX,
    USER_DATA_BYTES_MAX, ZoneChange,
};
use crate::spec::signals::{IMPAIRED_AFTER_S_MAX, IMPAIRED_AFTER_S_MIN, ImpairedPolicy, RebalancePolicy};
use crate::spec::windows;

/// Checks the fields about voluntary moves.
pub(crate) fn check_moves(spec: &NodeSpec) -> Result<(), SpecError> {
    windows::check_windows(&spec.maintenance_windows)?;
    let capacity = &spec.capacity;
    if capacity.min_lifetime_min > MIN_LIFETIME_MIN_MAX {
        return wrong(
            "capacity.min_lifetime_min",
            "is more than a month; say `return_to_spot: never` instead",
        );
    }
    let after_s = spec.signals.unwrap_or_default().impaired_after_s;
    if !(IMPAIRED_AFTER_S_MIN..=IMPAIRED_AFTER_S_MAX).contains(&after_s) {
        let why = format!("is {after_s}; it takes {IMPAIRED_AFTER_S_MIN} to {IMPAIRED_AFTER_S_MAX} seconds");
        return wrong("signals.impaired_after_s", why);
    }
    match capacity.return_to_spot {
        ReturnToSpot::Never if spec.signals.unwrap_or_default().rebalance == RebalancePolicy::Move => {
            return Ok(());
        }
        ReturnToSpot::Never => {
            if !spec.maintenance_windows.is_empty() {
                return wrong(
                    "maintenance_windows",
                    "nothing moves the node in them; say `capacity.return_to_spot: window` or `signals.rebalance: move`, or remove them",
                );
            }
            let escapes = spec.signals.unwrap_or_default().impaired == ImpairedPolicy::Move;
            if capacity.min_lifetime_min != MIN_LIFETIME_MIN && !escapes {
                return wrong(
                    "capacity.min_lifetime_min",
                    "has no effect with `return_to_spot: never`, `signals.impaired: note` and without `signals.rebalance: move`; remove it",
                );
            }
            return Ok(());
        }
        ReturnToSpot::WhenAvailable if !spec.maintenance_windows.is_empty() => {
            return wrong(
                "maintenance_windows",
                "`return_to_spot: when_available` means at any time; say `window`, or remove them",
            );
        }
        ReturnToSpot::WhenAvailable if !makes_before_it_breaks(spec) => {
            return wrong(
                "capacity.return_to_spot",
                "here the old instance goes first (`primary_eni`, `persist.root: image` or `persist.data: snapshot`), an outage \
                 that cannot be undone: say `window`",
            );
        }
        ReturnToSpot::Window if spec.maintenance_windows.is_empty() => {
            return wrong("capacity.return_to_spot", "`window` needs `maintenance_windows`");
        }
        ReturnToSpot::WhenAvailable | ReturnToSpot::Window => {}
    }
    if capacity.market != MarketPolicy::SpotThenOnDemand {
        return wrong(
            "capacity.return_to_spot",
            "needs `market: spot_then_on_demand`: with another one the node stays on its market; remove it",
        );
    }
    Ok(())
}

/// Whether the new instance runs before the old one loses anything.
pub(crate) fn makes_before_it_breaks(spec: &NodeSpec) -> bool {
    spec.makes_before_breaks() && !launches_late(spec)
}

/// Checks `persist.root_loss`.
///
/// # Errors
/// The field, and how to correct it.
pub(crate) fn check_root_loss(spec: &NodeSpec) -> Result<(), SpecError> {
    if spec.persist.root == RootMode::None && spec.persist.root_loss.is_some() {
        return wrong(
            "persist.root_loss",
            "the root is not kept (`persist.root: none`), so none is lost; remove the field",
        );
    }
    Ok(())
}

/// Whether the launch waits for the old volumes although the network mode does not require it.
pub(crate) fn launches_late(spec: &NodeSpec) -> bool {
    spec.persist.root == RootMode::Image
        || (spec.persist.data == DataMode::Snapshot && !spec.data_volumes.is_empty())
}

/// Checks the address pools of a node file.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check_address_pools(spec: &NodeSpec) -> Result<(), SpecError> {
    let (network, elsewhere) = (&spec.network, &spec.network.ip_pools_elsewhere);
    if spec.persist.network != NetworkMode::IpPool {
        let needs = "needs `persist.network: ip_pool`; remove it".to_owned();
        return match (&network.ip_pool, elsewhere.is_empty()) {
            (Some(_), _) => wrong("network.ip_pool", needs),
            (None, false) => wrong("network.ip_pools_elsewhere", needs),
            (None, true) => Ok(()),
        };
    }
    let Some(home) = &network.ip_pool else {
        return wrong("network.ip_pool", "name the pool that the address comes from");
    };
    if spec.private_ip.is_some() {
        return wrong("private_ip", "the address comes from `network.ip_pool`; remove it");
    }
    let others = &spec.capacity.other_subnets;
    if let Some(i) = others.iter().position(|other| !elsewhere.contains_key(other)) {
        let why = format!(
            "the node's address there comes from a pool as well; name one of {} in `network.ip_pools_elsewhere`, or remove the subnet",
            others[i]
        );
        return wrong(format!("capacity.other_subnets[{i}]"), why);
    }
    let mut named = vec![home];
    for (subnet, pool) in elsewhere {
        let field = format!("network.ip_pools_elsewhere.{subnet}");
        if !others.contains(subnet) {
            let why = "is none of `capacity.other_subnets`; add it there, or remove the pool";
            return wrong(field, why);
        }
        if named.contains(&pool) {
            let why =
                format!("the pool {pool} is named already, and has addresses of one subnet; name another");
            return wrong(field, why);
        }
        named.push(pool);
    }
    Ok(())
}

/// The largest `persist.retain_days`: ten years. A longer time has the effect of no limit.
pub const RETAIN_DAYS_MAX: u32 = 3_650;

/// Checks `persist.retain_days`.
///
/// # Errors
/// What is wrong.
pub(crate) fn check_retention(spec: &NodeSpec) -> Result<(), SpecError> {
    let Some(days) = spec.persist.retain_days else { return Ok(()) };
    let wrong = |why: String| Err(SpecError { field: "persist.retain_days".to_owned(), why });
    if days == 0 || days > RETAIN_DAYS_MAX {
        return wrong(format!(
            "must be between 1 and {RETAIN_DAYS_MAX}; without it volumes are retained for ever"
        ));
    }
    if spec.persist.root == RootMode::None && spec.data_volumes.is_empty() {
        return wrong(
            "the node keeps no volume, so none is ever retained; remove it, or keep a volume".to_owned(),
        );
    }
    Ok(())
}

/// An error of one field.
fn wrong(field: impl Into<String>, why: impl Into<String>) -> Result<(), SpecError> {
    Err(SpecError { field: field.into(), why: why.into() })
}

/// Checks the list of instance types.
fn check_instance_types(capacity: &CapacitySpec) -> Result<(), SpecError> {
    let types = &capacity.instance_types;
    if types.is_empty() && capacity.requirements.is_none() || types.len() > INSTANCE_TYPES_MAX {
        return wrong(
            "capacity.instance_types",
            format!(
                "name between 1 and {INSTANCE_TYPES_MAX} types, or say in `capacity.requirements` what they must be like"
            ),
        );
    }
    for (i, name) in types.iter().enumerate() {
        let shaped = name.len() <= 32
            && name.split_once('.').is_some_and(|(family, size)| !family.is_empty() && !size.is_empty())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-');
        if !shaped {
            return wrong(
                format!("capacity.instance_types[{i}]"),
                format!("{name:?} is not an instance type such as \"m6i.large\""),
            );
        }
        if types[..i].contains(name) {
            return wrong(format!("capacity.instance_types[{i}]"), format!("{name} stands there twice"));
        }
    }
    Ok(())
}

/// Checks the limit of the price on the spot market.
fn check_price(capacity: &CapacitySpec) -> Result<(), SpecError> {
    let Some(price) = &capacity.price_max else { return Ok(()) };
    if price.parse::<f64>().is_ok_and(|price| price > 0.0 && price.is_finite()) {
        return Ok(());
    }
    wrong("capacity.price_max", format!("{price:?} is not a price per hour such as \"0.12\""))
}

/// Checks the further subnets.
fn check_other_subnets(spec: &NodeSpec) -> Result<(), SpecError> {
    let others = &spec.capacity.other_subnets;
    if others.len() > OTHER_SUBNETS_MAX {
        return wrong("capacity.other_subnets", format!("at most {OTHER_SUBNETS_MAX}"));
    }
    for (i, other) in others.iter().enumerate() {
        if *other == spec.subnet || others[..i].contains(other) {
            return wrong(
                format!("capacity.other_subnets[{i}]"),
                format!("{other} is named already; remove it"),
            );
        }
    }
    if !others.is_empty()
        && spec.network.zone_change == ZoneChange::Forbid
        && spec.persist.network != NetworkMode::None
    {
        return wrong(
            "capacity.other_subnets",
            "the private address ends in another subnet; say `network.zone_change: allow`, or remove the subnets",
        );
    }
    Ok(())
}

/// Checks the section `backup`.
fn check_backup(spec: &NodeSpec) -> Result<(), SpecError> {
    let Some(backup) = &spec.backup else { return Ok(()) };
    backup.check()?;
    if spec.persist.root == RootMode::None && spec.data_volumes.is_empty() {
        return wrong(
            "backup",
            "the node keeps no volume, so there is nothing to back up; remove the section, or keep a volume",
        );
    }
    Ok(())
}

/// Checks the data volumes, each by itself and against those before it.
fn check_data_volumes(volumes: &[DataVolumeSpec]) -> Result<(), SpecError> {
    if volumes.len() > DATA_VOLUMES_MAX {
        return wrong("data_volumes", format!("at most {DATA_VOLUMES_MAX} fit an instance"));
    }
    let (mut names, mut devices) = (BTreeSet::new(), BTreeSet::new());
    for (i, volume) in volumes.iter().enumerate() {
        let field = |field: &str| format!("data_volumes[{i}].{field}");
        if volume.name.as_str() == "root" || !names.insert(&volume.name) {
            return wrong(
                field("name"),
                format!("{:?} is taken; give each data volume its own name (and none `root`)", volume.name),
            );
        }
        if let Some(device) = &volume.device {
            if !is_data_device(device) {
                return wrong(
                    field("device"),
                    format!(
                        "{device:?} is not a data device name: use /dev/sdf to /dev/sdp, or /dev/xvdba to /dev/xvddx"
                    ),
                );
            }
            if !devices.insert(canonical_device(device)) {
                return wrong(
                    field("device"),
                    format!("{device} names the same device as another volume (sd and xvd are one)"),
                );
            }
        }
        if volume.size_gib == 0 || volume.size_gib > 65_536 {
            return wrong(field("size_gib"), "must be between 1 and 65536");
        }
        if volume.kms_key.is_some() && !volume.encrypted {
            return wrong(field("kms_key"), "needs `encrypted: true`");
        }
        check_volume_type(
            &format!("data_volumes[{i}]"),
            &volume.volume_type,
            volume.iops,
            volume.throughput,
        )?;
    }
    Ok(())
}

/// The volume types of EBS, and what may be said of each: the least and the most IOPS, and whether it has a
/// throughput (EBS User Guide, "Amazon EBS volume types").
const VOLUME_TYPES: [(&str, Option<(u32, u32)>); 7] = [
    ("gp3", Some((3_000, 80_000))),
    ("gp2", None),
    ("io1", Some((100, 64_000))),
    ("io2", Some((100, 256_000))),
    ("st1", None),
    ("sc1", None),
    ("standard", None),
];

/// The least and the most throughput of gp3, in MiB/s.
const THROUGHPUT: (u32, u32) = (125, 2_000);

/// Checks a volume's type, and what is said about its speed.
fn check_volume_type(
    at: &str,
    volume_type: &str,
    iops: Option<u32>,
    throughput: Option<u32>,
) -> Result<(), SpecError> {
    let names = || VOLUME_TYPES.map(|(name, _)| name).join(", ");
    let Some((_, takes)) = VOLUME_TYPES.iter().find(|(name, _)| *name == volume_type) else {
        return wrong(format!("{at}.volume_type"), format!("{volume_type:?} is none of {}", names()));
    };
    match (iops, takes) {
        (Some(_), None) => {
            return wrong(
                format!("{at}.iops"),
                format!("{volume_type} has none of its own; remove the field"),
            );
        }
        (Some(iops), Some((least, most))) if !(*least..=*most).contains(&iops) => {
            return wrong(format!("{at}.iops"), format!("is {iops}; {volume_type} takes {least} to {most}"));
        }
        _ => {}
    }
    let (least, most) = THROUGHPUT;
    match throughput {
        Some(_) if volume_type != "gp3" => wrong(
            format!("{at}.throughput"),
            format!("only gp3 takes one, not {volume_type}; remove the field"),
        ),
        Some(mib) if !(least..=most).contains(&mib) => {
            wrong(format!("{at}.throughput"), format!("is {mib} MiB/s; gp3 takes {least} to {most}"))
        }
        _ => Ok(()),
    }
}

/// Checks the root volume.
fn check_root(spec: &NodeSpec) -> Result<(), SpecError> {
    let root = &spec.root;
    if root.kms_key.is_some() && !root.encrypted {
        return wrong("root.kms_key", "needs `encrypted: true`");
    }
    match &root.volume_type {
        Some(volume_type) => check_volume_type("root", volume_type, root.iops, root.throughput),
        None if root.iops.is_some() || root.throughput.is_some() => {
            wrong("root.volume_type", "name it where `iops` or `throughput` are said, such as gp3")
        }
        None => Ok(()),
    }
}

/// Checks the options of the metadata service.
fn check_metadata(spec: &NodeSpec) -> Result<(), SpecError> {
    match spec.metadata_options.hop_limit {
        Some(hops) if !(1..=HOP_LIMIT_MAX).contains(&hops) => {
            wrong("metadata_options.hop_limit", format!("is {hops}; it takes 1 to {HOP_LIMIT_MAX}"))
        }
        _ => Ok(()),
    }
}

/// Checks the version of the launch template.
fn check_template(spec: &NodeSpec) -> Result<(), SpecError> {
    match &spec.launch_template {
        Some(template) if template.version == 0 => {
            wrong("launch_template.version", "is 0; versions are numbered from 1")
        }
        _ => Ok(()),
    }
}

/// Checks the length of the user data.
fn check_user_data(spec: &NodeSpec) -> Result<(), SpecError> {
    let bytes = spec.user_data.as_ref().map_or(0, String::len);
    if bytes > USER_DATA_BYTES_MAX {
        return wrong("user_data", format!("{bytes} bytes; EC2 takes at most {USER_DATA_BYTES_MAX}"));
    }
    Ok(())
}

/// Checks that the ways in which data and address persist do not contradict other fields.
fn check_persist(spec: &NodeSpec) -> Result<(), SpecError> {
    if spec.persist.data == DataMode::Snapshot && spec.persist.handover == Handover::Detach {
        return wrong(
            "persist.handover",
            "`detach` has no effect with `persist.data: snapshot`, whose launch waits for the snapshots; use `terminate`",
        );
    }
    if spec.private_ip.is_some() && spec.persist.network == NetworkMode::None {
        return wrong("private_ip", "is not kept with `persist.network: none`; remove one of the two");
    }
    Ok(())
}

/// Checks the tags of the file.
fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), SpecError> {
    if tags.len() > TAGS_MAX {
        return wrong("tags", format!("{} tags; at most {TAGS_MAX}", tags.len()));
    }
    for (key, value) in tags {
        if key.starts_with("perennial:") || key.starts_with("aws:") {
            return wrong("tags", format!("{key:?} is reserved; choose another prefix"));
        }
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            return wrong("tags", format!("{key:?}: a key has 1 to 128 characters, a value at most 256"));
        }
    }
    Ok(())
}

impl NodeSpec {
    /// Checks the rules that the types do not express.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        self.check_all().into_iter().next().map_or(Ok(()), Err)
    }

    /// Checks the rules that the types do not express, and goes on after one that is broken.
    #[must_use]
    pub fn check_all(&self) -> Vec<SpecError> {
        let mut wrong: Vec<SpecError> = [
            check_instance_types(&self.capacity),
            check_price(&self.capacity),
            self.capacity.check_on_demand(),
            self.capacity.check_requirements(),
            check_moves(self),
            check_other_subnets(self),
            check_address_pools(self),
            check_backup(self),
            check_data_volumes(&self.data_volumes),
            check_existing_volumes(self),
            check_retention(self),
            check_root_loss(self),
            check_root(self),
            check_metadata(self),
            check_template(self),
            check_user_data(self),
            check_persist(self),
            check_tags(&self.tags),
        ]
        .into_iter()
        .filter_map(Result::err)
        .collect();
        // A list's check ends with its first mistake; each volume by itself shows the others.
        for (i, volume) in self.data_volumes.iter().enumerate() {
            if let Err(error) = check_data_volumes(std::slice::from_ref(volume)) {
                let field = error.field.replacen("data_volumes[0]", &format!("data_volumes[{i}]"), 1);
                let is_new = wrong.iter().all(|known| known.field != field);
                wrong.extend(is_new.then_some(SpecError { field, ..error }));
            }
        }
        wrong
    }

    /// What a change from the present file of a registered node does not do by itself.
    #[must_use]
    pub fn remark_on_change_from(&self, old: &Self) -> Option<String> {
        let boots = match old.persist.root {
            RootMode::None => return None,
            RootMode::Adopt => "it boots the temporary root of each replacement",
            RootMode::Image => "it boots nothing while the root goes on as an image of itself",
        };
        if self.loses_groups_of(old) {
            let remark = "the interface keeps the security groups it has; name those it is to have";
            return Some(remark.to_owned());
        }
        (self.image != old.image).then(|| {
            format!(
                "the root volume is kept, so the new image does not change its content ({boots}); `perennial node recycle {} --reimage {}` makes a new root from it",
                self.name, self.image
            )
        })
    }

    /// Whether it names no security groups for a kept interface that had some named.
    fn loses_groups_of(&self, old: &Self) -> bool {
        self.keeps_interface() && self.security_groups.is_empty() && !old.security_groups.is_empty()
    }

    /// Checks that this file may follow the present file of a registered node. What of the present file never
    /// took effect may always be taken back.
    ///
    /// # Errors
    /// The first change that a later replacement cannot apply without losing state.
    pub fn check_change_from(&self, old: &Self, present: &Present<'_>) -> Result<(), SpecError> {
        if self.subnet != old.subnet {
            return wrong(
                "subnet",
                "it says where the node lived at first; name further ones in `capacity.other_subnets`, or register a new node",
            );
        }
        if self.persist.root != old.persist.root && old.persist.root == RootMode::None {
            return wrong(
                "persist.root",
                "the present root was launched as one that is not kept; register a new node instead",
            );
        }
        if self.persist.network != old.persist.network {
            return wrong(
                "persist.network",
                "the kind of address cannot change on a registered node; register a new node instead",
            );
        }
        if self.network.ip_pool != old.network.ip_pool {
            return wrong(
                "network.ip_pool",
                "the node has an address of its pool; register a new node for another one",
            );
        }
        let had_groups = present.good.is_none_or(|good| !good.security_groups.is_empty());
        if self.loses_groups_of(old) && had_groups {
            return wrong(
                "security_groups",
                "the interface is kept and would keep the groups it has; name those it is to have",
            );
        }
        if self.private_ip.is_some() && self.private_ip != old.private_ip {
            return wrong(
                "private_ip",
                "the node keeps the address it has; remove the field or give the present one",
            );
        }
        for volume in old.data_volumes.iter().filter_map(|volume| present.of(volume)) {
            match self.data_volumes.iter().find(|new| new.name == volume.name) {
                None => {
                    return wrong(
                        "data_volumes",
                        "a registered data volume cannot be removed; delete the node with the data kept instead",
                    );
                }
                Some(new) if new.size_gib < volume.size_gib => {
                    return wrong(
                        format!("data_volumes.{}.size_gib", volume.name),
                        format!(
                            "a volume can only grow; it has {} GiB. For a smaller one add another volume and move the data",
                            volume.size_gib
                        ),
                    );
                }
                Some(new) if DataVolumeSpec { size_gib: volume.size_gib, ..new.clone() } != volume => {
                    return wrong(
                        "data_volumes",
                        "a registered data volume can grow, and nothing else; add another volume instead",
                    );
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// What of a node's present file has taken effect.
#[derive(Debug, Clone, Copy, Default)]
pub struct Present<'a> {
    /// The last file that an instance was launched by.
    pub good: Option<&'a NodeSpec>,
    /// The volumes that exist, with their sizes where they are known; `None` where an operation may be
    /// changing them now.
    pub volumes: Option<&'a BTreeMap<Slot, HeldVolume>>,
}

impl Present<'_> {
    /// A data volume of the present file as it is; `None` for one that was never made.
    fn of(&self, volume: &DataVolumeSpec) -> Option<DataVolumeSpec> {
        let Some(volumes) = self.volumes else { return Some(volume.clone()) };
        let good = self.good.into_iter().flat_map(|good| &good.data_volumes);
        let good = good.into_iter().find(|good| good.name == volume.name);
        let held = volumes.get(&Slot::Data(volume.name.clone()));
        let known = held.and(good.or(Some(volume))).or(good)?;
        let size_gib = held.and_then(|held| held.size_gib).unwrap_or(known.size_gib);
        Some(DataVolumeSpec { size_gib, ..known.clone() })
    }
}

/// `/dev/sdf` and `/dev/xvdf` are the same device to the guest.
pub(crate) fn canonical_device(device: &str) -> &str {
    device.strip_prefix("/dev/xvd").or_else(|| device.strip_prefix("/dev/sd")).unwrap_or(device)
}

fn is_data_device(device: &str) -> bool {
    match (device.strip_prefix("/dev/xvd"), device.strip_prefix("/dev/sd")) {
        (Some(tail), _) => match tail.as_bytes() {
            [c] => (b'b'..=b'z').contains(c),
            [a, b] => (b'b'..=b'd').contains(a) && b.is_ascii_lowercase(),
            _ => false,
        },
        (None, Some(tail)) => matches!(tail.as_bytes(), [c] if (b'b'..=b'z').contains(c)),
        (None, None) => false,
    }
}

/// Checks the existing volumes that a file names.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check_existing_volumes(spec: &NodeSpec) -> Result<(), SpecError> {
    for (i, wanted) in spec.data_volumes.iter().enumerate() {
        let Some(volume) = &wanted.volume else { continue };
        let wrong = |field: String, why: &str| Err(SpecError { field, why: format!("{volume} {why}") });
        let of = |field: &str| format!("data_volumes[{i}].{field}");
        if spec.data_volumes[..i].iter().any(|other| other.volume.as_ref() == Some(volume)) {
            return wrong(of("volume"), "stands there twice; name each volume once");
        }
        let fixed = [
            ("snapshot", wanted.snapshot.is_some()),
            ("iops", wanted.iops.is_some()),
            ("throughput", wanted.throughput.is_some()),
            ("encrypted", wanted.encrypted),
        ];
        if let Some((field, _)) = fixed.iter().find(|(_, is_there)| *is_there) {
            return wrong(of(field), "exists and is taken as it is; remove the field");
        }
        if spec.persist.data != DataMode::Reattach {
            return wrong(
                "persist.data".into(),
                "goes on itself, and with `snapshot` the first replacement would leave it behind for a copy: say `reattach`, or name a snapshot of it \
                 (`data_volumes[].snapshot`) instead of the volume",
            );
        }
    }
    Ok(())
}
