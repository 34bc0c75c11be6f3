//! EventBridge's calls over the region: the calls of the rules, and PutEvents.
//!
//! Unlike AWS, PutEvents takes events whose source starts with `aws.`: a rehearsal may need those of services
//! that this region does not have.

use serde_json::{Value as Json, json};

use super::region::Region;
use super::sqs::model::Refusal;
use crate::world::{ACCOUNT, rfc3339};

/// Entries of PutEvents (EventBridge API reference).
const ENTRIES_MAX: usize = 10;

/// One call.
pub(crate) fn call(region: &Region, action: &str, body: &[u8]) -> Result<Json, Refusal> {
    let request: Json = serde_json::from_slice(body)
        .map_err(|error| Refusal::new("SerializationException", format!("not JSON: {error}")))?;
    match action {
        "PutEvents" => put_events(region, &request),
        _ => region.events(action, &request),
    }
}

fn put_events(region: &Region, request: &Json) -> Result<Json, Refusal> {
    let entries = request["Entries"].as_array().filter(|entries| (1..=ENTRIES_MAX).contains(&entries.len()));
    let entries = entries.ok_or_else(|| {
        Refusal::new("ValidationException", format!("1 to {ENTRIES_MAX} entries are needed"))
    })?;
    let (mut answers, mut failed) = (Vec::new(), 0);
    for entry in entries {
        let detail = entry["Detail"].as_str().and_then(|text| serde_json::from_str::<Json>(text).ok());
        let (Some(source), Some(kind)) = (entry["Source"].as_str(), entry["DetailType"].as_str()) else {
            failed += 1;
            answers.push(
                json!({ "ErrorCode": "InvalidArgument", "ErrorMessage": "Source and DetailType are needed" }),
            );
            continue;
        };
        let Some(detail) = detail.filter(Json::is_object) else {
            failed += 1;
            answers.push(json!({ "ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed." }));
            continue;
        };
        let id = region.fresh_id();
        let resources = if entry["Resources"].is_array() { entry["Resources"].clone() } else { json!([]) };
        region.tell(&json!({
            "version": "0",
            "id": id,
            "detail-type": kind,
            "source": source,
            "account": ACCOUNT,
            "time": rfc3339(region.now_ms()),
            "region": region.region_name(),
            "resources": resources,
            "detail": detail,
        }));
        answers.push(json!({ "EventId": id }));
    }
    Ok(json!({ "FailedEntryCount": failed, "Entries": answers }))
}
