//! Volumes, snapshots, images, root replacement.

use perennial_workers::port::{ImageRequest, ImageTraits, VolumeRequest};
use perennial_workflows::model::aws::{ImageId, InstanceId, RootTaskId, SnapshotId, VolumeId};

use super::super::params::Scope;
use super::super::xml::Element;
use super::call::{Call, specified_tags};
use super::select::{Bounds, Filters, page};
use super::{instances, select, show};
use crate::world::state::{Image, Volume};
use crate::world::{ACCOUNT, ApiError, Detach, ModifyVolume, RootSource, SnapshotSet};

fn volume_id(call: &Call<'_>) -> Result<VolumeId, ApiError> {
    select::id(call.params.required("VolumeId")?, "InvalidVolumeID", VolumeId::parse)
}

fn instance_id(call: &Call<'_>) -> Result<InstanceId, ApiError> {
    select::id(call.params.required("InstanceId")?, "InvalidInstanceID", InstanceId::parse)
}

fn no_volume(id: &VolumeId) -> ApiError {
    ApiError::new("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
}

/// An error that names the first of these, if there is one.
fn no_volumes<'a>(mut unknown: impl Iterator<Item = &'a VolumeId>) -> Result<(), ApiError> {
    unknown.next().map_or(Ok(()), |id| Err(no_volume(id)))
}

pub(super) fn create_volume(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let params = &call.params;
    let snapshot = params.text("SnapshotId");
    let snapshot = snapshot.map(|id| select::id(id, "InvalidSnapshotID", SnapshotId::parse)).transpose()?;
    let size_gib = params.number("Size")?;
    if snapshot.is_none() && size_gib.is_none() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter size/snapshot",
        ));
    }
    // One of both.
    let zone = match (params.text("AvailabilityZone"), params.text("AvailabilityZoneId")) {
        (Some(_), Some(_)) => {
            let message = "AvailabilityZone and AvailabilityZoneId exclude each other";
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
        (None, Some(id)) => {
            let found = call.world.zones().into_iter().find(|zone| show::zone_id(zone) == id);
            found.ok_or_else(|| {
                ApiError::new("InvalidParameterValue", format!("Invalid availability zone id: [{id}]"))
            })?
        }
        (_, None) => params.required("AvailabilityZone")?.to_owned(),
    };
    let request = VolumeRequest {
        client_token: params.owned("ClientToken").unwrap_or_default(),
        zone,
        size_gib: size_gib.unwrap_or(0),
        volume_type: params.owned("VolumeType").unwrap_or_else(|| "gp2".to_owned()),
        iops: params.number("Iops")?,
        throughput: params.number("Throughput")?,
        encrypted: params.is_set("Encrypted")?,
        kms_key: params.owned("KmsKeyId"),
        snapshot,
        tags: call.tags_for("volume")?,
    };
    if request.kms_key.is_some() && !request.encrypted {
        let message = "The parameter KmsKeyId requires the parameter Encrypted to be set.";
        return Err(ApiError::new("InvalidParameterDependency", message));
    }
    // Of io1 and io2 only (EC2 API reference, CreateVolume).
    let multi_attach = params.is_set("MultiAttachEnabled")?;
    if multi_attach && !matches!(request.volume_type.as_str(), "io1" | "io2") {
        let message = "MultiAttachEnabled is supported with io1 and io2 volumes only";
        return Err(ApiError::new("InvalidParameterCombination", message));
    }
    let id = call.world.create_volume(call.now_ms, &request)?;
    if multi_attach {
        call.world.enable_multi_attach(&id);
    }
    shown_volume(call, &id)
}

fn shown_volume(call: &Call<'_>, id: &VolumeId) -> Result<Element, ApiError> {
    call.world.volume(id).map(|volume| show::created(show::volume(volume))).ok_or_else(|| no_volume(id))
}

pub(super) fn copy_volumes(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let params = &call.params;
    let source = select::id(params.required("SourceVolumeId")?, "InvalidVolumeID", VolumeId::parse)?;
    let token = params.owned("ClientToken").unwrap_or_default();
    let change = dimensions(params)?;
    let tags = call.tags_for("volume")?;
    let id = call.world.copy_volume(call.now_ms, &source, &change, &token, &tags)?;
    let shown = shown_volume(call, &id)?.with("sourceVolumeId", &source);
    Ok(Element::new().list("volumeSet", [shown]))
}

/// The parameters that say how large and how fast a volume shall be.
fn dimensions(params: &Scope<'_>) -> Result<ModifyVolume, ApiError> {
    Ok(ModifyVolume {
        size_gib: params.number("Size")?,
        volume_type: params.owned("VolumeType"),
        iops: params.number("Iops")?,
        throughput: params.number("Throughput")?,
    })
}

pub(super) fn delete_volume(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = volume_id(call)?;
    call.world.delete_volume(call.now_ms, &id)?;
    Ok(Element::done())
}

pub(super) fn attach_volume(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let (id, instance) = (volume_id(call)?, instance_id(call)?);
    let device = call.params.required("Device")?;
    call.world.attach_volume(call.now_ms, &id, &instance, device)?;
    let volume = call.world.volume(&id).ok_or_else(|| no_volume(&id))?;
    Ok(volume.attachment.as_ref().map(|at| show::attachment(volume, at)).unwrap_or_default())
}

pub(super) fn detach_volume(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = volume_id(call)?;
    let instance = call.params.text("InstanceId");
    let instance = instance.map(|id| select::id(id, "InvalidInstanceID", InstanceId::parse)).transpose()?;
    let how = if call.params.is_set("Force")? { Detach::Forced } else { Detach::Orderly };
    let before = call.world.volume(&id).and_then(|volume| volume.attachment.clone());
    let device = call.params.text("Device");
    if let (Some(device), Some(at)) = (device, before.as_ref())
        && device != at.device
    {
        let message = format!("The volume '{id}' is not attached as device '{device}'");
        return Err(ApiError::new("InvalidAttachment.NotFound", message));
    }
    call.world.detach_volume_with(call.now_ms, &id, instance.as_ref(), how)?;
    let volume = call.world.volume(&id).ok_or_else(|| no_volume(&id))?;
    let now = volume.attachment.clone().or(before);
    Ok(now.map(|at| show::attachment(volume, &at)).unwrap_or_default())
}

pub(super) fn describe_volumes(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("VolumeId");
    select::not_with_ids(call, &texts, "volumeSet")?;
    let ids = select::ids(&texts, "InvalidVolumeID", VolumeId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeVolumes")?;
    let now_ms = call.world.now_ms();
    let filters = Filters::read(&call.params)?;
    let known = |id: &VolumeId| call.world.all_volumes().any(|v| v.id == *id && v.visible_at_ms <= now_ms);
    no_volumes(ids.iter().filter(|id| !known(id)))?;
    let mut found = Vec::new();
    for volume in call.world.all_volumes() {
        if volume.visible_at_ms <= now_ms
            && (ids.is_empty() || ids.contains(&volume.id))
            && filters.admit(&volume.tags, |name| volume_field(volume, name))
        {
            found.push((volume.id.to_string(), show::volume(volume)));
        }
    }
    Ok(select::answer("volumeSet", page(call, &Bounds::STORAGE, found)?))
}

pub(super) fn modify_volume(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = volume_id(call)?;
    let change = dimensions(&call.params)?;
    let modification = call.world.modify_volume(call.now_ms, &id, &change)?;
    Ok(Element::new().inside("volumeModification", show::modification(&id, &modification)))
}

pub(super) fn describe_modifications(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("VolumeId");
    let ids = select::ids(&texts, "InvalidVolumeID", VolumeId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeVolumesModifications")?;
    let filters = Filters::read(&call.params)?;
    for id in &ids {
        let volume = call.world.all_volumes().find(|volume| volume.id == *id).ok_or_else(|| no_volume(id))?;
        if volume.modification.is_none() {
            let message = format!("Modification for volume '{id}' does not exist.");
            return Err(ApiError::new("InvalidVolumeModification.NotFound", message));
        }
    }
    let mut found = Vec::new();
    for volume in call.world.all_volumes().filter(|volume| ids.is_empty() || ids.contains(&volume.id)) {
        let Some(modification) = &volume.modification else { continue };
        let one = |value: String| Some(vec![value]);
        let fields = |name: &str| match name {
            "volume-id" => one(volume.id.to_string()),
            "modification-state" => one(modification.stage.as_str().to_owned()),
            "original-size" => one(modification.original.0.to_string()),
            "original-volume-type" => one(modification.original.1.clone()),
            "target-size" => one(modification.target.0.to_string()),
            "target-volume-type" => one(modification.target.1.clone()),
            _ => None,
        };
        if filters.admit(&volume.tags, fields) {
            found.push((volume.id.to_string(), show::modification(&volume.id, modification)));
        }
    }
    Ok(select::answer("volumeModificationSet", page(call, &Bounds::MODIFICATIONS, found)?))
}

fn volume_field(volume: &Volume, name: &str) -> Option<Vec<String>> {
    let one = |value: String| Some(vec![value]);
    let at = volume.attachment.as_ref();
    let maybe = |value: Option<String>| Some(value.into_iter().collect());
    match name {
        "volume-id" => one(volume.id.to_string()),
        "status" => one(show::volume_state(volume.state).to_owned()),
        "availability-zone" => one(volume.zone.clone()),
        "size" => one(volume.size_gib.to_string()),
        "snapshot-id" => maybe(volume.snapshot.as_ref().map(ToString::to_string)),
        "volume-type" => one(volume.volume_type.clone()),
        "encrypted" => one(volume.encrypted.to_string()),
        "availability-zone-id" => one(show::zone_id(&volume.zone)),
        "fast-restored" | "multi-attach-enabled" | "operator.managed" => one("false".to_owned()),
        "create-time" => one(show::time(volume.created_at_ms)),
        "attachment.instance-id" => maybe(at.map(|at| at.instance.to_string())),
        "attachment.device" => maybe(at.map(|at| at.device.clone())),
        "attachment.status" => maybe(at.map(|at| show::attachment_state(at.state).to_owned())),
        // As it is shown; when it was attached is not kept.
        "attachment.attach-time" => maybe(at.map(|_| show::time(volume.created_at_ms))),
        "attachment.delete-on-termination" => maybe(at.map(|at| at.delete_on_termination.to_string())),
        _ => None,
    }
}

pub(super) fn create_snapshot(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = volume_id(call)?;
    let tags = call.tags_for("snapshot")?;
    let snapshot = call.world.create_snapshot(call.now_ms, &id, &tags)?;
    call.world.describe_snapshot_as(&snapshot, call.params.text("Description").unwrap_or_default());
    let made = call.world.snapshot(&snapshot).expect("BUG: just created");
    Ok(show::created(show::snapshot(made, call.world.now_ms(), "status")))
}

pub(super) fn create_snapshots(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let specification = call.params.scope("InstanceSpecification");
    let instance = select::id(specification.required("InstanceId")?, "InvalidInstanceID", InstanceId::parse)?;
    let without = specification.texts("ExcludeDataVolumeId");
    let set = SnapshotSet {
        without_root: specification.is_set("ExcludeBootVolume")?,
        without: select::ids(&without, "InvalidVolumeID", VolumeId::parse)?,
        description: call.params.owned("Description").unwrap_or_default(),
        tags: call.tags_for("snapshot")?,
    };
    let ids = call.world.create_snapshots(call.now_ms, &instance, &set)?;
    let made = ids.iter().filter_map(|id| call.world.snapshot(id));
    let shown = made.map(|made| show::created(show::snapshot(made, call.world.now_ms(), "state")));
    Ok(Element::new().list("snapshotSet", shown))
}

pub(super) fn delete_snapshot(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("SnapshotId")?, "InvalidSnapshotID", SnapshotId::parse)?;
    call.world.delete_snapshot(call.now_ms, &id)?;
    Ok(Element::done())
}

pub(super) fn describe_snapshots(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("SnapshotId");
    select::not_with_ids(call, &texts, "snapshotSet")?;
    let ids = select::ids(&texts, "InvalidSnapshotID", SnapshotId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeSnapshots")?;
    let now_ms = call.world.now_ms();
    let filters = Filters::read(&call.params)?;
    let owners = owners(call, "Owner");
    for id in &ids {
        if call.world.snapshot(id).is_none_or(|snapshot| snapshot.visible_at_ms > now_ms) {
            let message = format!("The snapshot '{id}' does not exist.");
            return Err(ApiError::new("InvalidSnapshot.NotFound", message));
        }
    }
    let mut found = Vec::new();
    for snapshot in call.world.all_snapshots() {
        let fields = |name: &str| {
            let one = |value: String| Some(vec![value]);
            match name {
                "snapshot-id" => one(snapshot.id.to_string()),
                "status" => one(show::snapshot_state(snapshot.state).to_owned()),
                "volume-id" => Some(snapshot.volume.iter().map(ToString::to_string).collect()),
                "volume-size" => one(snapshot.size_gib.to_string()),
                "description" => one(snapshot.description.clone()),
                "owner-id" => one(show::snapshot_owner(snapshot).to_owned()),
                "start-time" => one(show::time(snapshot.started_at_ms)),
                "encrypted" => one(snapshot.encrypted.to_string()),
                "owner-alias" => Some(
                    (show::snapshot_owner(snapshot) == show::AMAZON)
                        .then(|| "amazon".to_owned())
                        .into_iter()
                        .collect(),
                ),
                "progress" => one(show::progress(snapshot, now_ms)),
                "storage-tier" => one("standard".to_owned()),
                _ => None,
            }
        };
        if snapshot.visible_at_ms <= now_ms
            && (ids.is_empty() || ids.contains(&snapshot.id))
            && (owners.is_empty() || owners.iter().any(|owner| owner == show::snapshot_owner(snapshot)))
            && filters.admit(&snapshot.tags, fields)
        {
            found.push((snapshot.id.to_string(), show::snapshot(snapshot, now_ms, "status")));
        }
    }
    Ok(select::answer("snapshotSet", page(call, &Bounds::STORAGE, found)?))
}

/// The accounts that owners mean.
fn owners(call: &Call<'_>, name: &str) -> Vec<String> {
    let account = |text: &str| match text {
        "self" => ACCOUNT.to_owned(),
        "amazon" => show::AMAZON.to_owned(),
        other => other.to_owned(),
    };
    call.params.texts(name).into_iter().map(account).collect()
}

pub(super) fn register_image(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let params = &call.params;
    let root_device = params.owned("RootDeviceName").unwrap_or_else(|| "/dev/sda1".to_owned());
    let mut devices = Vec::new();
    for mapping in params.each("BlockDeviceMapping") {
        devices.extend(instances::device(&mapping)?);
    }
    let root = devices.iter_mut().find(|device| device.device == root_device);
    let root_snapshot = root.and_then(|device| device.snapshot.take()).ok_or_else(|| {
        let message = format!("No snapshot is mapped at the root device {root_device}");
        ApiError::new("InvalidBlockDeviceMapping", message)
    })?;
    let request = ImageRequest {
        name: params.required("Name")?.to_owned(),
        root_snapshot,
        traits: ImageTraits {
            architecture: params.owned("Architecture").unwrap_or_else(|| "i386".to_owned()),
            root_device,
            boot_mode: params.owned("BootMode"),
            ena_support: params.is_set("EnaSupport")?,
            tpm_support: params.owned("TpmSupport"),
            imds_support: params.owned("ImdsSupport"),
            platform: None,
        },
        uefi_data: params.owned("UefiData"),
        tags: call.tags_for("image")?,
    };
    let id = call.world.register_image_with(call.now_ms, &request, &devices)?;
    Ok(Element::new().with("imageId", id))
}

/// The instance is never rebooted here; a reboot would change nothing in this model.
pub(super) fn create_image(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let instance = instance_id(call)?;
    let name = call.params.required("Name")?;
    let [tags, snapshot_tags] = specified_tags(&call.params, ["image", "snapshot"])?;
    let id = call.world.create_image(call.now_ms, &instance, name, &tags, &snapshot_tags)?;
    Ok(Element::new().with("imageId", id))
}

pub(super) fn describe_image_attribute(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("ImageId")?, "InvalidAMIID", ImageId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeImageAttribute")?;
    let now_ms = call.world.now_ms();
    let Some(image) = call.world.image(&id).filter(|image| image.visible_at_ms <= now_ms) else {
        let message = format!("The image id '[{id}]' does not exist");
        return Err(ApiError::new("InvalidAMIID.NotFound", message));
    };
    let answer = Element::new().with("imageId", &id);
    Ok(match call.params.required("Attribute")? {
        "description" => {
            let value =
                (!image.description.is_empty()).then(|| Element::new().with("value", &image.description));
            answer.inside("description", value.unwrap_or_default())
        }
        // Not shared, and not made from a product of the marketplace.
        "launchPermission" => answer.inside("launchPermission", Element::new()),
        "productCodes" => answer.inside("productCodes", Element::new()),
        "kernel" => answer.inside("kernel", Element::new()),
        "ramdisk" => answer.inside("ramdisk", Element::new()),
        other => return Err(no_attribute(other)),
    })
}

pub(super) fn describe_snapshot_attribute(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("SnapshotId")?, "InvalidSnapshotID", SnapshotId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeSnapshotAttribute")?;
    let now_ms = call.world.now_ms();
    if call.world.snapshot(&id).is_none_or(|snapshot| snapshot.visible_at_ms > now_ms) {
        return Err(ApiError::new(
            "InvalidSnapshot.NotFound",
            format!("The snapshot '{id}' does not exist."),
        ));
    }
    let codes = call.world.snapshot(&id).map(|snapshot| &snapshot.product_codes);
    let answer = Element::new().with("snapshotId", &id);
    Ok(match call.params.required("Attribute")? {
        "createVolumePermission" => answer.inside("createVolumePermission", Element::new()),
        "productCodes" => answer.list("productCodes", codes.into_iter().flat_map(show::product_codes)),
        other => return Err(no_attribute(other)),
    })
}

pub(super) fn describe_volume_attribute(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = volume_id(call)?;
    call.world.begin_read(call.now_ms, "DescribeVolumeAttribute")?;
    let now_ms = call.world.now_ms();
    let volume = call.world.volume(&id).filter(|volume| volume.visible_at_ms <= now_ms);
    let codes = volume.map(|volume| &volume.product_codes).ok_or_else(|| no_volume(&id))?;
    let answer = Element::new().with("volumeId", &id);
    Ok(match call.params.required("Attribute")? {
        "autoEnableIO" => answer.inside("autoEnableIO", Element::new().with("value", false)),
        "productCodes" => answer.list("productCodes", show::product_codes(codes)),
        other => return Err(no_attribute(other)),
    })
}

/// `ok`, `impaired` for a volume in `error`, and not known while it is made.
pub(super) fn describe_volume_status(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("VolumeId");
    select::not_with_ids(call, &texts, "volumeSet")?;
    let ids = select::ids(&texts, "InvalidVolumeID", VolumeId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeVolumeStatus")?;
    let now_ms = call.world.now_ms();
    let filters = Filters::read(&call.params)?;
    let known = |id: &VolumeId| call.world.all_volumes().any(|v| v.id == *id && v.visible_at_ms <= now_ms);
    no_volumes(ids.iter().filter(|id| !known(id)))?;
    let mut found = Vec::new();
    for volume in call.world.all_volumes() {
        let (status, enabled) = show::volume_status(volume.state);
        let fields = |name: &str| match name {
            "availability-zone" => Some(vec![volume.zone.clone()]),
            "volume-status.status" => Some(vec![status.to_owned()]),
            "volume-status.details-name" => Some(vec!["io-enabled".to_owned(), "io-performance".to_owned()]),
            "volume-status.details-status" => Some(vec![enabled.to_owned(), "not-applicable".to_owned()]),
            // No volume here has an event or an action.
            "action.code" | "action.description" | "action.event-id" | "event.description"
            | "event.event-id" | "event.event-type" | "event.not-after" | "event.not-before" => {
                Some(Vec::new())
            }
            _ => None,
        };
        if volume.visible_at_ms <= now_ms
            && (ids.is_empty() || ids.contains(&volume.id))
            && filters.admit(&volume.tags, fields)
        {
            let detail = |name: &str, status: &str| Element::new().with("name", name).with("status", status);
            let details = [detail("io-enabled", enabled), detail("io-performance", "not-applicable")];
            let shown = Element::new()
                .with("volumeId", &volume.id)
                .with("availabilityZone", &volume.zone)
                .with("availabilityZoneId", show::zone_id(&volume.zone))
                .inside("volumeStatus", Element::new().with("status", status).list("details", details))
                .inside("eventsSet", Element::new())
                .inside("actionsSet", Element::new());
            found.push((volume.id.to_string(), shown));
        }
    }
    Ok(select::answer("volumeStatusSet", page(call, &Bounds::STORAGE, found)?))
}

fn no_attribute(name: &str) -> ApiError {
    ApiError::new("InvalidParameterValue", format!("Invalid value '{name}' for attribute."))
}

pub(super) fn deregister_image(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let id = select::id(call.params.required("ImageId")?, "InvalidAMIID", ImageId::parse)?;
    call.world.deregister_image(call.now_ms, &id)?;
    Ok(Element::done())
}

pub(super) fn describe_images(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("ImageId");
    let ids = select::ids(&texts, "InvalidAMIID", ImageId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeImages")?;
    let now_ms = call.world.now_ms();
    let filters = Filters::read(&call.params)?;
    let owners = owners(call, "Owner");
    call.params.text("IncludeDeprecated");
    let is_unknown = |id: &&ImageId| call.world.image(id).is_none_or(|image| image.visible_at_ms > now_ms);
    let unknown: Vec<_> = ids.iter().filter(is_unknown).map(ImageId::as_str).collect();
    if !unknown.is_empty() {
        let (s, verb) = if unknown.len() == 1 { ("", "does") } else { ("s", "do") };
        let message = format!("The image id{s} '[{}]' {verb} not exist", unknown.join(", "));
        return Err(ApiError::new("InvalidAMIID.NotFound", message));
    }
    let owner_of =
        |image: &Image| if image.id == call.world.default_image() { show::AMAZON } else { ACCOUNT };
    let mut found = Vec::new();
    for image in call.world.all_images() {
        let fields = |name: &str| {
            let one = |value: &str| Some(vec![value.to_owned()]);
            match name {
                "image-id" => one(image.id.as_str()),
                "name" => one(&image.name),
                "state" => one(show::image_state(image.state)),
                "architecture" => one(&image.traits.architecture),
                "description" => one(&image.description),
                "owner-id" => one(owner_of(image)),
                "owner-alias" if owner_of(image) == show::AMAZON => one("amazon"),
                "owner-alias" => Some(Vec::new()),
                "root-device-name" => one(&image.traits.root_device),
                "root-device-type" => one("ebs"),
                "virtualization-type" => one("hvm"),
                "image-type" => one("machine"),
                "is-public" => one(if owner_of(image) == show::AMAZON { "true" } else { "false" }),
                "platform" => Some(image.traits.platform.iter().cloned().collect()),
                "creation-date" => one(&show::time(image.created_at_ms)),
                "ena-support" => one(&image.traits.ena_support.to_string()),
                "imds-support" => Some(image.traits.imds_support.iter().cloned().collect()),
                "boot-mode" => Some(image.traits.boot_mode.iter().cloned().collect()),
                "tpm-support" => Some(image.traits.tpm_support.iter().cloned().collect()),
                "hypervisor" => one("xen"),
                "manifest-location" => one(&format!("{}/{}", owner_of(image), image.name)),
                "sriov-net-support" => one("simple"),
                "block-device-mapping.device-name" => {
                    let others = image.devices.iter().map(|device| device.device.clone());
                    Some(std::iter::once(image.traits.root_device.clone()).chain(others).collect())
                }
                "block-device-mapping.snapshot-id" => {
                    let others = image.devices.iter().filter_map(|device| device.snapshot.as_ref());
                    Some(
                        std::iter::once(&image.root_snapshot)
                            .chain(others)
                            .map(ToString::to_string)
                            .collect(),
                    )
                }
                _ => None,
            }
        };
        if image.visible_at_ms <= now_ms
            && (ids.is_empty() || ids.contains(&image.id))
            && (owners.is_empty() || owners.iter().any(|owner| owner == owner_of(image)))
            && filters.admit(&image.tags, fields)
        {
            found.push((image.id.to_string(), show::image(call.world, image)));
        }
    }
    Ok(select::answer("imagesSet", page(call, &Bounds::strict(1, 1000), found)?))
}

pub(super) fn replace_root(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let instance = instance_id(call)?;
    let params = &call.params;
    let source = match (params.text("VolumeId"), params.text("SnapshotId"), params.text("ImageId")) {
        (Some(id), None, None) => RootSource::Volume(select::id(id, "InvalidVolumeID", VolumeId::parse)?),
        (None, Some(id), None) => {
            RootSource::Snapshot(select::id(id, "InvalidSnapshotID", SnapshotId::parse)?)
        }
        (None, None, Some(id)) => RootSource::Image(select::id(id, "InvalidAMIID", ImageId::parse)?),
        (None, None, None) => RootSource::LaunchState,
        _ => {
            let message = "A root is replaced by one of a volume, a snapshot and an image";
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
    };
    let deletes = params.is_set("DeleteReplacedRootVolume")?;
    let token = params.owned("ClientToken").unwrap_or_default();
    let tags = call.tags_for("replace-root-volume-task")?;
    let id = call.world.replace_root_with(call.now_ms, &instance, &source, deletes, &token, &tags)?;
    let task = call.world.all_root_tasks().find(|task| task.id == id).expect("BUG: just created");
    Ok(Element::new().inside("replaceRootVolumeTask", show::root_task(task)))
}

pub(super) fn describe_root_tasks(call: &mut Call<'_>) -> Result<Element, ApiError> {
    let texts = call.params.texts("ReplaceRootVolumeTaskId");
    let ids = select::ids(&texts, "InvalidReplaceRootVolumeTaskId", RootTaskId::parse)?;
    call.world.begin_read(call.now_ms, "DescribeReplaceRootVolumeTasks")?;
    let filters = Filters::read(&call.params)?;
    let mut found = Vec::new();
    for task in call.world.all_root_tasks() {
        let fields = |name: &str| match name {
            "instance-id" => Some(vec![task.instance.to_string()]),
            _ => None,
        };
        if (ids.is_empty() || ids.contains(&task.id)) && filters.admit(&task.tags, fields) {
            found.push((task.id.to_string(), show::root_task(task)));
        }
    }
    Ok(select::answer("replaceRootVolumeTaskSet", page(call, &Bounds::strict(1, 50), found)?))
}
