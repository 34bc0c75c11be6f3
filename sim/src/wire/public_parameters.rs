//! The public parameters of Systems Manager that name the newest image of a system. There is one image here,
//! for x86_64: every name that means such an image has it, whatever the system.

use serde_json::{Value as Json, json};

use crate::world::{ApiError, World};

/// How the names of images begin, and how they may end (Systems Manager User Guide, public parameters).
const IMAGES: [(&str, &[&str]); 8] = [
    ("/aws/service/ami-amazon-linux-latest/", &[""]),
    ("/aws/service/ami-windows-latest/", &[""]),
    ("/aws/service/canonical/ubuntu/", &["/ami-id"]),
    ("/aws/service/debian/", &["/amd64"]),
    ("/aws/service/bottlerocket/", &["/image_id"]),
    ("/aws/service/ecs/optimized-ami/", &["/image_id"]),
    ("/aws/service/eks/optimized-ami/", &["/image_id"]),
    ("/aws/service/suse/sles/", &[""]),
];

/// Names that a list of a path has.
const LISTED: [&str; 6] = [
    "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
    "/aws/service/ami-amazon-linux-latest/al2023-ami-minimal-kernel-default-x86_64",
    "/aws/service/ami-amazon-linux-latest/amzn2-ami-hvm-x86_64-gp2",
    "/aws/service/ami-amazon-linux-latest/amzn2-ami-kernel-5.10-hvm-x86_64-gp2",
    "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id",
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
];

/// The image that a parameter names.
pub(super) fn image(world: &World, name: &str) -> Option<String> {
    // Another image of another architecture there is none.
    let is_of_arm = ["arm64", "aarch64"].iter().any(|word| name.contains(word));
    let is_image = |(start, ends): &(&str, &[&str])| {
        name.strip_prefix(start)
            .is_some_and(|rest| !rest.is_empty() && ends.iter().any(|end| rest.ends_with(end)))
    };
    (!is_of_arm && IMAGES.iter().any(is_image)).then(|| world.default_image().to_string())
}

fn shown(world: &World, name: &str) -> Option<Json> {
    let value = image(world, name)?;
    let region = &world.settings.region;
    Some(json!({
        "Name": name,
        "Type": "String",
        "Value": value,
        "Version": 1,
        "LastModifiedDate": world.now_ms() as f64 / 1000.0,
        "ARN": format!("arn:aws:ssm:{region}::parameter{name}"),
        "DataType": "text",
    }))
}

/// GetParameter.
pub(super) fn one(world: &World, request: &Json) -> Result<Json, ApiError> {
    let name = request["Name"].as_str().unwrap_or_default();
    let found = shown(world, name).ok_or_else(|| ApiError::new("ParameterNotFound", ""))?;
    Ok(json!({ "Parameter": found }))
}

/// GetParameters: those that there are, and the names of the others.
pub(super) fn some(world: &World, request: &Json) -> Json {
    let names: Vec<&str> =
        request["Names"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let found: Vec<_> = names.iter().filter_map(|name| shown(world, name)).collect();
    let others: Vec<_> = names.iter().filter(|name| image(world, name).is_none()).collect();
    json!({ "Parameters": found, "InvalidParameters": others })
}

/// GetParametersByPath.
pub(super) fn by_path(world: &World, request: &Json) -> Json {
    let path = request["Path"].as_str().unwrap_or_default().trim_end_matches('/');
    let is_recursive = request["Recursive"].as_bool().unwrap_or_default();
    let below = |name: &&&str| {
        let rest = name.strip_prefix(path).and_then(|rest| rest.strip_prefix('/'));
        rest.is_some_and(|rest| is_recursive || !rest.contains('/'))
    };
    let found: Vec<_> = LISTED.iter().filter(below).filter_map(|name| shown(world, name)).collect();
    json!({ "Parameters": found })
}
