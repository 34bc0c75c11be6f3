//! The resources that a call of EC2 touches.

use std::collections::BTreeSet;

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::{InstanceId, VolumeId};

use super::document::Policy;
use super::question::{Context, Question, Verdict};
use crate::world::{ACCOUNT, ApiError, World};

/// Kinds of resources whose ARN names no account (Service Authorization Reference).
const WITHOUT_ACCOUNT: &[&str] = &["image", "snapshot"];

/// Where the Service Authorization Reference lists no `aws:ResourceTag` for a resource that exists: the
/// condition key is absent there.
const TAGS_UNKNOWN: &[(&str, &str)] = &[
    ("RunInstances", "network-interface"),
    ("RunInstances", "volume"),
    ("CopyVolumes", "volume"),
    ("CreateReplaceRootVolumeTask", "volume"),
];

/// What a call asks for, as far as policies look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// EC2's name for the call.
    pub action: String,
    /// The objects that it names, by id.
    pub named: Vec<String>,
    /// The kinds of objects that it creates, with the tags they get.
    pub made: Vec<(&'static str, Tags)>,
    /// Tags that it puts on (or takes from) the objects that it names.
    pub tags: Tags,
    /// The key pair of a launch.
    pub key_pair: Option<String>,
    /// The instance profile of a launch.
    pub profile: Option<String>,
    /// The devices of the instance that it names.
    pub devices: Vec<String>,
    /// Of a set of snapshots: the volumes that are left out.
    pub without: BTreeSet<String>,
    /// Of a set of snapshots: the root is left out.
    pub without_root: bool,
}

/// Of what has none here.
static NO_TAGS: Tags = Tags::new();

/// One resource.
struct Touched {
    kind: &'static str,
    /// Its id, or `*` where it is to be made.
    id: String,
    /// Of one that exists.
    tags: Option<Tags>,
    /// Those that the call asks for.
    requested: Tags,
}

impl Asked {
    /// A call of this name that touches nothing.
    #[must_use]
    pub fn to(action: impl ToString) -> Self {
        Self { action: action.to_string(), ..Self::default() }
    }

    /// The same on these objects.
    #[must_use]
    pub fn on<Id: ToString>(mut self, ids: impl IntoIterator<Item = Id>) -> Self {
        self.named.extend(ids.into_iter().map(|id| id.to_string()));
        self
    }

    /// The same, making an object of this kind.
    #[must_use]
    pub fn making(mut self, kind: &'static str, tags: &Tags) -> Self {
        self.made.push((kind, tags.clone()));
        self
    }

    /// Everything that it touches and that exists, or is to be made.
    fn touched(&self, world: &World) -> Vec<Touched> {
        let mut ids: BTreeSet<String> = self.named.iter().cloned().collect();
        for id in &self.named {
            ids.extend(self.beside(world, id));
        }
        let mut touched: Vec<_> = ids.iter().filter_map(|id| existing(world, id, &self.tags)).collect();
        touched.extend(self.key_pair.as_ref().map(|name| Touched {
            kind: "key-pair",
            id: name.clone(),
            tags: Some(Tags::new()),
            requested: Tags::new(),
        }));
        touched.extend(self.made.iter().map(|(kind, tags)| Touched {
            kind,
            id: "*".to_owned(),
            tags: None,
            requested: tags.clone(),
        }));
        touched
    }

    /// What a call touches beside an object that it names.
    fn beside(&self, world: &World, id: &str) -> Vec<String> {
        let instance = || world.all_instances().find(|instance| instance.id.as_str() == id);
        let attached = |keep: &dyn Fn(&str) -> bool| -> Vec<String> {
            let volumes = world.all_volumes().filter(|volume| {
                volume.attachment.as_ref().is_some_and(|it| it.instance.as_str() == id && keep(&it.device))
            });
            volumes.map(|volume| volume.id.to_string()).collect()
        };
        match self.action.as_str() {
            "DetachNetworkInterface" => world
                .all_interfaces()
                .filter_map(|interface| Some((interface, interface.attachment.as_ref()?)))
                .filter(|(_, plug)| plug.id.as_str() == id)
                .flat_map(|(interface, plug)| [interface.id.to_string(), plug.instance.to_string()])
                .collect(),
            "RunInstances" => world
                .all_interfaces()
                .filter(|interface| interface.id.as_str() == id)
                .flat_map(|interface| {
                    let groups = interface.groups.iter().map(ToString::to_string);
                    groups.chain([interface.subnet.to_string()]).collect::<Vec<_>>()
                })
                .collect(),
            "ModifyInstanceAttribute" => attached(&|device| self.devices.iter().any(|of| of == device)),
            "CreateSnapshots" => {
                let root = instance().map(|instance| instance.root_device.clone());
                let mut found = attached(&|device| !(self.without_root && root.as_deref() == Some(device)));
                found.retain(|volume| !self.without.contains(volume));
                found
            }
            _ => Vec::new(),
        }
    }
}

/// The kind of an id, by what it begins with.
fn kind_of(id: &str) -> Option<&'static str> {
    let (prefix, rest) = id.split_once('-')?;
    if prefix == "fleet" {
        return Some("fleet");
    }
    if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None; // eni-attach-… is no resource.
    }
    Some(match prefix {
        "i" => "instance",
        "vol" => "volume",
        "snap" => "snapshot",
        "ami" => "image",
        "eni" => "network-interface",
        "sir" => "spot-instances-request",
        "replacevol" => "replace-root-volume-task",
        "sg" => "security-group",
        "subnet" => "subnet",
        "eipalloc" => "elastic-ip",
        "lt" => "launch-template",
        _ => return None,
    })
}

fn existing(world: &World, id: &str, requested: &Tags) -> Option<Touched> {
    let kind = kind_of(id)?;
    let tags = match kind {
        "instance" => InstanceId::parse(id).ok().and_then(|id| Some(&world.instance(&id)?.tags)),
        "volume" => VolumeId::parse(id).ok().and_then(|id| Some(&world.volume(&id)?.tags)),
        "subnet" => world.all_subnets().find(|subnet| subnet.id.as_str() == id).map(|_| &NO_TAGS),
        _ => world.all_tagged().find(|found| found.kind == kind && found.id == id).map(|found| found.tags),
    };
    let tags = tags.cloned();
    Some(Touched { kind, id: id.to_owned(), tags: Some(tags?), requested: requested.clone() })
}

impl Touched {
    fn arn(&self, region: &str) -> String {
        let account = if WITHOUT_ACCOUNT.contains(&self.kind) { "" } else { ACCOUNT };
        format!("arn:aws:ec2:{region}:{account}:{}/{}", self.kind, self.id)
    }

    fn context(&self, action: &str, region: &str) -> Context {
        let mut context = of_region(region);
        let known = self.tags.iter().flatten().filter(|_| !TAGS_UNKNOWN.contains(&(action, self.kind)));
        for (key, value) in known {
            context.insert(format!("aws:ResourceTag/{key}"), vec![value.clone()]);
        }
        for (key, value) in &self.requested {
            context.insert(format!("aws:RequestTag/{key}"), vec![value.clone()]);
        }
        if !self.requested.is_empty() {
            context.insert("aws:TagKeys".to_owned(), self.requested.keys().cloned().collect());
        }
        context
    }
}

fn of_region(region: &str) -> Context {
    ["aws:RequestedRegion", "ec2:Region"].map(|key| (key.to_owned(), vec![region.to_owned()])).into()
}

impl Policy {
    /// Checks a call of EC2 on everything that it touches. Returns the statements without which it would be
    /// refused.
    ///
    /// # Errors
    /// UnauthorizedOperation, with the action and the first resource that is not allowed.
    pub fn check(&self, world: &World, asked: &Asked) -> Result<BTreeSet<String>, ApiError> {
        let region = &world.settings.region;
        let action = format!("ec2:{}", asked.action);
        let mut needed = BTreeSet::new();
        let mut ask = |action: &str, resource: &str, context: &Context| {
            needed.extend(self.allows(action, resource, context)?);
            Ok::<(), ApiError>(())
        };
        let touched = asked.touched(world);
        if touched.is_empty() && asked.named.is_empty() {
            ask(&action, "*", &of_region(region))?;
        }
        for one in &touched {
            let arn = one.arn(region);
            let mut context = one.context(&asked.action, region);
            ask(&action, &arn, &context)?;
            if one.tags.is_none() && !one.requested.is_empty() {
                context.insert("ec2:CreateAction".to_owned(), vec![asked.action.clone()]);
                ask("ec2:CreateTags", &arn, &context)?;
            }
        }
        if let Some(profile) = &asked.profile {
            let role = format!("arn:aws:iam::{ACCOUNT}:role/{profile}");
            let service = ("iam:PassedToService".to_owned(), vec!["ec2.amazonaws.com".to_owned()]);
            ask("iam:PassRole", &role, &Context::from([service]))?;
        }
        Ok(needed)
    }

    /// The statement without which the answer would be no, if there is only one that allows it.
    fn allows(&self, action: &str, resource: &str, context: &Context) -> Result<Option<String>, ApiError> {
        let why = match self.judge(&Question { action, resource, context }) {
            Verdict::Allowed(by) => return Ok((by.len() == 1).then(|| by[0].to_owned())),
            refusal => refusal.why(action),
        };
        Err(ApiError::with_status(
            403,
            "UnauthorizedOperation",
            format!(
                "You are not authorized to perform this operation. User: arn:aws:iam::{ACCOUNT}:user/rehearsal \
                 is not authorized to perform: {action} on resource: {resource} {why}"
            ),
        ))
    }
}

impl Verdict<'_> {
    /// Why it is refused, in AWS's words.
    #[must_use]
    pub fn why(&self, action: &str) -> String {
        match self {
            Self::Denied(sid) => {
                format!("with an explicit deny in an identity-based policy (statement {sid})")
            }
            Self::Allowed(_) | Self::Unmentioned => {
                format!("because no identity-based policy allows the {action} action")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::world::settings::Settings;

    fn policy(statements: &Json) -> Policy {
        Policy::parse(&json!({ "Version": "2012-10-17", "Statement": statements }).to_string()).unwrap()
    }

    fn tags(owner: &str) -> Tags {
        Tags::from([("perennial:owner".to_owned(), owner.to_owned())])
    }

    #[test]
    fn everything_that_a_call_touches_must_be_allowed() {
        let world = World::new(Settings::calm(7), 0);
        let zone = world.zones()[0].clone();
        let asked = Asked {
            profile: Some("db-node".to_owned()),
            key_pair: Some("ops".to_owned()),
            ..Asked::to("RunInstances")
        }
        .on([
            world.default_image().to_string(),
            world.subnet_in(&zone).to_string(),
            world.default_group().to_string(),
        ])
        .making("instance", &tags("us"))
        .making("volume", &tags("us"));
        let all = json!([
            { "Sid": "From", "Effect": "Allow", "Action": "ec2:RunInstances", "Resource": [
                "arn:aws:ec2:*:*:subnet/*", "arn:aws:ec2:*:*:security-group/*", "arn:aws:ec2:*::image/*", "arn:aws:ec2:*:*:key-pair/ops" ] },
            { "Sid": "Made", "Effect": "Allow", "Action": "ec2:RunInstances", "Resource": ["arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*"],
              "Condition": { "StringEquals": { "aws:RequestTag/perennial:owner": "us" } } },
            { "Sid": "Tags", "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*",
              "Condition": { "StringEquals": { "ec2:CreateAction": "RunInstances" } } },
            { "Sid": "Role", "Effect": "Allow", "Action": "iam:PassRole", "Resource": "arn:aws:iam::*:role/db-*",
              "Condition": { "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } } },
        ]);
        let policy = policy(&all);
        let needed = policy.check(&world, &asked).unwrap();
        assert_eq!(needed.into_iter().collect::<Vec<_>>(), ["From", "Made", "Role", "Tags"]);
        for (sid, refused) in [
            ("From", "ec2:RunInstances on resource: arn:aws:ec2:us-east-1::image/ami-"),
            ("Made", "ec2:RunInstances on resource: arn:aws:ec2:us-east-1:111122223333:instance/*"),
            ("Tags", "ec2:CreateTags on resource: arn:aws:ec2:us-east-1:111122223333:instance/*"),
            ("Role", "iam:PassRole on resource: arn:aws:iam::111122223333:role/db-node"),
        ] {
            let error = policy.clone().without(sid).check(&world, &asked).unwrap_err();
            assert_eq!((error.code.as_str(), error.http_status), ("UnauthorizedOperation", 403));
            assert!(error.message.contains(refused), "{sid}: {}", error.message);
        }
        let foreign = Asked { made: vec![("instance", tags("them"))], ..asked };
        assert!(policy.check(&world, &foreign).is_err());
    }

    #[test]
    fn a_tag_counts_on_what_exists_only_where_the_reference_lists_the_key() {
        let mut world = World::new(Settings::calm(7), 0);
        let zone = world.zones()[0].clone();
        let request = perennial_workers::port::VolumeRequest {
            client_token: "t".to_owned(),
            zone,
            size_gib: 8,
            volume_type: "gp3".to_owned(),
            iops: None,
            throughput: None,
            encrypted: false,
            kms_key: None,
            snapshot: None,
            tags: tags("us"),
        };
        let volume = world.create_volume(0, &request).unwrap();
        let ours = policy(&json!([{ "Effect": "Allow", "Action": "ec2:*", "Resource": "*",
            "Condition": { "StringEquals": { "aws:ResourceTag/perennial:owner": "us" } } }]));
        assert!(ours.check(&world, &Asked::to("DeleteVolume").on([&volume])).is_ok());
        assert!(ours.check(&world, &Asked::to("CopyVolumes").on([&volume])).is_err());
        assert!(ours.check(&world, &Asked::to("DescribeVolumes")).is_err(), "it touches no resource");
        assert!(ours.check(&world, &Asked::to("DeleteVolume").on(["vol-0"])).is_ok(), "EC2 answers NotFound");
    }
}
