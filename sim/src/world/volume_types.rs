//! What a volume type permits: sizes, IOPS, throughput (EC2 API reference, CreateVolume; EBS User Guide).
//!
//! The codes are those that EC2 was reported to answer with; that of a volume that is too small is a guess.

use super::ApiError;

/// The limits of a type.
struct VolumeType {
    name: &'static str,
    sizes_gib: (u32, u32),
    /// Where IOPS can be provisioned, and how many of them per GiB.
    iops: Option<(u32, u32)>,
    iops_per_gib: u32,
    throughput: Option<(u32, u32)>,
}

const TYPES: [VolumeType; 7] = [
    of("gp2", (1, 16_384), None, 0),
    VolumeType { throughput: Some((125, 2_000)), ..of("gp3", (1, 65_536), Some((3_000, 80_000)), 500) },
    of("io1", (4, 16_384), Some((100, 64_000)), 50),
    of("io2", (4, 65_536), Some((100, 256_000)), 1_000),
    of("sc1", (125, 16_384), None, 0),
    of("st1", (125, 16_384), None, 0),
    of("standard", (1, 1_024), None, 0),
];

const fn of(
    name: &'static str,
    sizes_gib: (u32, u32),
    iops: Option<(u32, u32)>,
    iops_per_gib: u32,
) -> VolumeType {
    VolumeType { name, sizes_gib, iops, iops_per_gib, throughput: None }
}

/// The baseline of gp3, which a volume of any size has (EBS User Guide).
const GP3_IOPS: u32 = 3_000;
/// MiB/s for each IOPS are a quarter at most (EBS User Guide).
const IOPS_PER_MIBPS: u32 = 4;

/// Checks a volume of a size.
///
/// # Errors
/// UnknownVolumeType, InvalidParameterCombination, InvalidParameterValue.
pub(super) fn check(
    volume_type: &str,
    size_gib: u32,
    iops: Option<u32>,
    throughput: Option<u32>,
) -> Result<(), ApiError> {
    let Some(limits) = TYPES.iter().find(|known| known.name == volume_type) else {
        return refuse(
            "UnknownVolumeType",
            format!("Unsupported volume type '{volume_type}' for volume creation."),
        );
    };
    let (least, most) = limits.sizes_gib;
    if size_gib > most {
        let message = format!(
            "Volume of {size_gib}GiB is too large for volume type {volume_type}; maximum is {most}GiB"
        );
        return refuse("InvalidParameterValue", message);
    }
    if size_gib < least {
        let message = format!("Volume of {size_gib}GiB is too small; minimum is {least}GiB.");
        return refuse("InvalidParameterValue", message);
    }
    check_iops(limits, size_gib, iops)?;
    check_throughput(limits, iops, throughput)
}

fn check_iops(limits: &VolumeType, size_gib: u32, iops: Option<u32>) -> Result<(), ApiError> {
    let name = limits.name;
    match (iops, limits.iops) {
        (Some(_), None) => {
            let message = format!("The parameter iops is not supported for {name} volumes.");
            refuse("InvalidParameterCombination", message)
        }
        (None, Some(_)) if name != "gp3" => {
            let message = format!("The parameter iops must be specified for {name} volumes.");
            refuse("InvalidParameterCombination", message)
        }
        (Some(iops), Some((least, _))) if iops < least => {
            refuse("InvalidParameterValue", format!("Volume iops of {iops} is too low; minimum is {least}."))
        }
        (Some(iops), Some((_, most))) if iops > most => {
            refuse("InvalidParameterValue", format!("Volume iops of {iops} is too high; maximum is {most}."))
        }
        (Some(iops), Some(_)) => {
            let most = limits.iops_per_gib;
            let is_baseline = name == "gp3" && iops <= GP3_IOPS;
            if is_baseline || u64::from(iops) <= u64::from(size_gib) * u64::from(most) {
                return Ok(());
            }
            let ratio = f64::from(iops) / f64::from(size_gib);
            let message = format!("Iops to volume size ratio of {ratio:.6} is too high; maximum is {most}");
            refuse("InvalidParameterValue", message)
        }
        (None, _) => Ok(()),
    }
}

fn check_throughput(limits: &VolumeType, iops: Option<u32>, throughput: Option<u32>) -> Result<(), ApiError> {
    let iops = iops.unwrap_or(GP3_IOPS);
    match (throughput, limits.throughput) {
        (None, _) => Ok(()),
        (Some(_), None) => refuse(
            "InvalidParameterCombination",
            "throughput can only be specified for volumeType gp3.".to_owned(),
        ),
        (Some(mibps), Some((least, most))) if !(least..=most).contains(&mibps) => {
            let (what, bound, limit) =
                if mibps < least { ("low", "minimum", least) } else { ("high", "maximum", most) };
            let message = format!("Volume throughput of {mibps} is too {what}; {bound} is {limit}.");
            refuse("InvalidParameterValue", message)
        }
        (Some(mibps), Some(_)) if u64::from(mibps) * u64::from(IOPS_PER_MIBPS) > u64::from(iops) => {
            let ratio = f64::from(mibps) / f64::from(iops);
            let message = format!(
                "Throughput (MiBps) to iops ratio of {ratio:.6} is too high; maximum is 0.250000 MiBps per iops"
            );
            refuse("InvalidParameterValue", message)
        }
        (Some(_), Some(_)) => Ok(()),
    }
}

fn refuse(code: &str, message: String) -> Result<(), ApiError> {
    Err(ApiError::new(code, message))
}

/// The IOPS that a volume has, provisioned or not: gp2 has three per GiB, from 100 to 16,000.
#[must_use]
pub fn iops_of(volume_type: &str, size_gib: u32, provisioned: Option<u32>) -> Option<u32> {
    provisioned.or(match volume_type {
        "gp3" => Some(GP3_IOPS),
        "gp2" => Some(size_gib.saturating_mul(3).clamp(100, 16_000)),
        _ => None,
    })
}
