//! SQS's calls over the region: changes are logged, and ReceiveMessage waits for messages.
//!
//! Queues keep the machine's time at every speed of the region, because the programs that poll them do.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::region::Region;
use super::sqs::model::Refusal;
use super::sqs::{self, Answer, BATCH_MAX, Endpoint, VISIBILITY_MAX_S, delivered, number, queue_name};

/// The longest wait of a receive (SQS API reference, ReceiveMessage).
const WAIT_MAX_S: u64 = 20;
/// The calls that change nothing; they are not logged.
const READS: [&str; 5] =
    ["GetQueueUrl", "ListQueues", "GetQueueAttributes", "ListQueueTags", "ListDeadLetterSourceQueues"];

/// One call.
pub(super) async fn call(region: &Region, action: &str, body: &[u8], host: &str) -> Answer {
    let request: Json = match body.is_empty() {
        true => json!({}),
        false => serde_json::from_slice(body)
            .map_err(|error| Refusal::new("SerializationException", format!("not JSON: {error}")))?,
    };
    let named = request["QueueName"].as_str().map(str::to_owned);
    let queue = named.unwrap_or_else(|| queue_name(&request).unwrap_or_default());
    region.authorize_queue(action, &queue)?;
    if action == "ReceiveMessage" {
        return receive(region, &request).await;
    }
    let endpoint = Endpoint { region: region.region_name(), host };
    if READS.contains(&action) {
        let now_ms = region.real_ms();
        return sqs::answer(&mut region.queues(), endpoint, action, &request, now_ms);
    }
    region.change_queues(action, &request, |queues, now_ms| {
        sqs::answer(queues, endpoint, action, &request, now_ms)
    })
}

async fn receive(region: &Region, request: &Json) -> Answer {
    let name = queue_name(request)?;
    let most = number(request, "MaxNumberOfMessages", 1..=BATCH_MAX as u64)?.unwrap_or(1) as usize;
    let visibility_s = number(request, "VisibilityTimeout", 0..=VISIBILITY_MAX_S)?;
    let wait_s = number(request, "WaitTimeSeconds", 0..=WAIT_MAX_S)?;
    let wait_s = match wait_s {
        Some(wait_s) => wait_s,
        None => region.queues().queue(&name)?.attributes.wait_s,
    };
    let deadline = Instant::now() + Duration::from_secs(wait_s);
    loop {
        let changed = region.queue_bell().notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        let now_ms = region.real_ms();
        let due_ms = {
            let mut queues = region.queues();
            if queues.has_visible(&name, now_ms) {
                region.log_receive(&name, most, visibility_s, now_ms);
            }
            let found = queues.receive(&name, most, visibility_s, now_ms)?;
            if !found.is_empty() {
                let messages: Vec<_> =
                    found.iter().map(|found| delivered(region.region_name(), request, found)).collect();
                return Ok(json!({ "Messages": messages }));
            }
            queues.next_due_ms(&name, now_ms)
        };
        if Instant::now() >= deadline {
            return Ok(json!({}));
        }
        let due = due_ms.map_or(deadline, |at_ms| {
            deadline.min(Instant::now() + Duration::from_millis(at_ms.saturating_sub(now_ms).max(1)))
        });
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(due) => {}
        }
    }
}
