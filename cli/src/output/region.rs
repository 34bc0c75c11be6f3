//! Answers of a simulated region for people.

use serde_json::Value;

use crate::output::{pairs, table, words};

/// The longest part of a volume's content that a table shows.
const RECORDS_SHOWN: usize = 20;

/// The answer to an interruption of an instance.
pub(crate) fn interruption(id: &str, answer: &Value) -> String {
    match (answer["reclaim_at_ms"].as_u64(), answer["now_ms"].as_u64()) {
        (Some(end), Some(now)) if end > now => {
            format!("{id} will be taken in {} s of the region", (end - now).div_ceil(1000))
        }
        _ => format!("{id} was taken"),
    }
}

/// The rules by which calls fail.
pub(crate) fn faults(answer: &Value) -> String {
    let rules = answer["faults"].as_array().into_iter().flatten();
    let rows = rules.map(|rule| vec![text(&rule["seen"]), text(&rule["rule"])]);
    table(&["SEEN", "RULE"], &[0], rows)
}

/// The region's time.
pub(crate) fn clock(answer: &Value) -> String {
    let now = answer["now_ms"].as_u64().unwrap_or_default();
    format!("{}, {} times as fast as real time", words::time(now), answer["speed"])
}

/// The newest records on a volume.
pub(crate) fn content(answer: &Value) -> String {
    let records: Vec<_> = answer["content"].as_array().into_iter().flatten().map(text).collect();
    let skipped = records.len().saturating_sub(RECORDS_SHOWN);
    let mut lines: Vec<_> = records[skipped..].to_vec();
    if skipped > 0 {
        lines.insert(0, format!("({skipped} older records)"));
    }
    lines.join("\n")
}

/// The newest calls.
pub(crate) fn calls(answer: &Value) -> String {
    let calls = answer["calls"].as_array().into_iter().flatten();
    let rows = calls.map(|call| {
        let ignored: Vec<_> = call["ignored"].as_array().into_iter().flatten().map(text).collect();
        let mut code = text(&call["code"]);
        if !ignored.is_empty() {
            code.push_str(&format!(" ignored: {}", ignored.join(", ")));
        }
        let at_ms = call["at_ms"].as_u64().unwrap_or_default();
        vec![words::time(at_ms), text(&call["status"]), text(&call["action"]), code]
    });
    table(&["TIME", "STATUS", "ACTION", "CODE"], &[], rows)
}

/// A list that should be empty.
pub(crate) fn findings(answer: &Value, name: &str) -> Vec<String> {
    answer[name].as_array().into_iter().flatten().map(text).collect()
}

/// Everything in the region, in tables.
pub(crate) fn overview(dump: &Value) -> String {
    let name = |tags: &Value| {
        let named = ["perennial:node", "Name"].iter().find_map(|key| tags[*key].as_str());
        named.unwrap_or("–").to_owned()
    };
    let on = |attachment: &Value, more: &str| match attachment["instance"].as_str() {
        Some(instance) => format!("{instance} {}", text(&attachment[more])).trim_end().to_owned(),
        None => "–".to_owned(),
    };
    let instances = entries(&dump["instances"]).map(|(id, instance)| {
        let place = format!("{} {}", text(&instance["instance_type"]), text(&instance["zone"]));
        vec![id.clone(), text(&instance["state"]), place, name(&instance["tags"])]
    });
    let volumes = entries(&dump["volumes"]).map(|(id, volume)| {
        let size = format!("{} GiB", text(&volume["size_gib"]));
        vec![id.clone(), size, on(&volume["attachment"], "device"), name(&volume["tags"])]
    });
    let interfaces = entries(&dump["interfaces"]).map(|(id, interface)| {
        let secondary = interface["secondary_ips"].as_array().into_iter().flatten();
        let addresses: Vec<_> =
            std::iter::once(&interface["primary_ip"]).chain(secondary).map(text).collect();
        vec![id.clone(), addresses.join(" "), on(&interface["attachment"], ""), name(&interface["tags"])]
    });
    let subnets = entries(&dump["subnets"]).map(|(id, subnet)| {
        let network = format!("{}/{}", text(&subnet["network"]), text(&subnet["prefix"]));
        vec![id.clone(), text(&subnet["zone"]), network]
    });
    let images = entries(&dump["images"]).map(|(id, image)| vec![id.clone(), text(&image["name"])]);
    let now = dump["now_ms"].as_u64().unwrap_or_default();
    [
        pairs([("time", words::time(now))]),
        table(&["SUBNET", "ZONE", "NETWORK"], &[], subnets),
        table(&["IMAGE", "NAME"], &[], images),
        table(&["INSTANCE", "STATE", "TYPE AND ZONE", "NODE"], &[], instances),
        table(&["VOLUME", "SIZE", "ATTACHED TO", "NODE"], &[], volumes),
        table(&["INTERFACE", "ADDRESSES", "ATTACHED TO", "NODE"], &[], interfaces),
    ]
    .join("\n\n")
}

/// The entries of an object of the region's answer.
fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
