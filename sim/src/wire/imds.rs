//! The instance metadata service, one path per instance: `/imds/<instance-id>/latest/…`. Software inside an instance
//! is pointed there with `AWS_EC2_METADATA_SERVICE_ENDPOINT`.

use perennial_workflows::aws::{InstanceId, InstanceState, Market};
use serde_json::json;

use super::region::Region;
use crate::world::{ACCOUNT, Shape, World, rfc3339};

/// A token for everybody; a client that needs one must have asked.
const TOKEN: &str = "AQAEAsimulatedtokenofthisregion==";

/// What a path holds, or the status of why not.
pub(super) fn get(region: &Region, path: &str, token: Option<&str>) -> Result<String, u16> {
    let (id, rest) = path.split_once('/').ok_or(404_u16)?;
    let id = InstanceId::parse(id).map_err(|_| 404_u16)?;
    let rest = rest.trim_end_matches('/').strip_prefix("latest").ok_or(404_u16)?.trim_start_matches('/');
    region.look(|world, _| {
        let instance = world.instance(&id).filter(|instance| instance.has_guest()).ok_or(404_u16)?;
        if token.is_some_and(|token| token != TOKEN)
            || (token.is_none()
                && instance.metadata.get("HttpTokens").is_some_and(|tokens| tokens == "required"))
        {
            return Err(401);
        }
        content(world, &id, rest).ok_or(404)
    })
}

/// A session token (IMDSv2).
pub(super) fn token(path: &str) -> Result<String, u16> {
    let rest = path.split_once('/').map(|(_, rest)| rest);
    if rest == Some("latest/api/token") { Ok(TOKEN.to_owned()) } else { Err(404) }
}

fn content(world: &World, id: &InstanceId, path: &str) -> Option<String> {
    let instance = world.instance(id)?;
    let primary = || {
        let interfaces = instance.interfaces.iter().filter_map(|id| world.interface(id));
        interfaces.into_iter().find(|i| i.attachment.as_ref().is_some_and(|plug| plug.device_index == 0))
    };
    let action = || {
        let at_ms = instance.reclaim_at_ms.filter(|_| instance.state == InstanceState::Running)?;
        Some((world.interruption_action(id), rfc3339(at_ms)))
    };
    let listing = "ami-id\nevents/\nhostname\ninstance-action\ninstance-id\ninstance-life-cycle\ninstance-type\nlocal-ipv4\nplacement/\npublic-ipv4\nspot/\ntags/";
    Some(match path {
        "" => "dynamic\nmeta-data\nuser-data".to_owned(),
        "meta-data" => listing.to_owned(),
        "meta-data/ami-id" => instance.image.to_string(),
        "meta-data/instance-id" => id.to_string(),
        "meta-data/instance-type" => instance.instance_type.clone(),
        "meta-data/instance-action" => "none".to_owned(),
        "meta-data/instance-life-cycle" => match instance.market {
            Market::Spot => "spot".to_owned(),
            Market::OnDemand => "on-demand".to_owned(),
        },
        "meta-data/placement/availability-zone" => instance.zone.clone(),
        "meta-data/placement/region" => world.settings.region.clone(),
        "meta-data/local-ipv4" => primary()?.primary_ip.to_string(),
        "meta-data/hostname" | "meta-data/local-hostname" => {
            format!("ip-{}.ec2.internal", primary()?.primary_ip.to_string().replace('.', "-"))
        }
        "meta-data/public-ipv4" => world.elastic_of(primary()?.primary_ip)?.address.to_string(),
        "meta-data/security-groups" => "default".to_owned(),
        "meta-data/iam/info" => {
            let name = instance.instance_profile.as_ref()?;
            json!({ "Code": "Success", "InstanceProfileArn": format!("arn:aws:iam::{ACCOUNT}:instance-profile/{name}") })
                .to_string()
        }
        "meta-data/spot/instance-action" => {
            let (action, time) = action()?;
            json!({ "action": action, "time": time }).to_string()
        }
        // Older, and only for terminations.
        "meta-data/spot/termination-time" => action().filter(|(action, _)| *action == "terminate")?.1,
        "meta-data/events/recommendations/rebalance" => {
            json!({ "noticeTime": rfc3339(instance.rebalance_at_ms?) }).to_string()
        }
        "meta-data/tags/instance" => {
            instance.metadata.get("InstanceMetadataTags").filter(|tags| *tags == "enabled")?;
            instance.tags.keys().cloned().collect::<Vec<_>>().join("\n")
        }
        "dynamic/instance-identity/document" => json!({
            "accountId": ACCOUNT,
            "architecture": Shape::of(&instance.instance_type).map_or("x86_64", |shape| shape.architecture),
            "availabilityZone": instance.zone,
            "imageId": instance.image,
            "instanceId": id,
            "instanceType": instance.instance_type,
            "pendingTime": rfc3339(instance.launched_at_ms),
            "privateIp": primary()?.primary_ip,
            "region": world.settings.region,
            "version": "2017-09-30",
        })
        .to_string(),
        "user-data" => instance.user_data.clone()?,
        other => {
            let key = other.strip_prefix("meta-data/tags/instance/")?;
            instance.metadata.get("InstanceMetadataTags").filter(|tags| *tags == "enabled")?;
            instance.tags.get(key)?.clone()
        }
    })
}
