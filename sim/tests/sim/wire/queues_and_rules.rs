//! What clients met on the queues and rules of the region and would not meet on AWS.

use serde_json::{Value as Json, json};

use super::lab::{Answer, Lab};

/// The code of a refusal as clients of the older protocol know it too, or nothing.
fn code(answer: &Answer) -> String {
    if answer.status == 200 {
        return String::new();
    }
    let kind = answer.json()["__type"].as_str().unwrap_or_default().to_owned();
    kind.rsplit('#').next().unwrap_or_default().to_owned()
}

fn arn(name: &str) -> String {
    format!("arn:aws:sqs:us-east-1:111122223333:{name}")
}

impl Lab {
    async fn create(&self, name: &str, attributes: Json) -> String {
        code(&self.sqs("CreateQueue", json!({ "QueueName": name, "Attributes": attributes })).await)
    }

    async fn events(&self, action: &str, request: Json) -> Answer {
        self.target(&format!("AWSEvents.{action}"), &request).await
    }

    async fn attributes(&self, url: &str, names: &[&str]) -> Answer {
        self.sqs("GetQueueAttributes", json!({ "QueueUrl": url, "AttributeNames": names })).await
    }

    /// The bodies of all messages that are there.
    async fn bodies(&self, url: &str) -> Vec<String> {
        let request = json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1 });
        let answer = self.sqs("ReceiveMessage", request).await.json();
        let all = answer["Messages"].as_array().cloned().unwrap_or_default();
        all.iter().map(|message| message["Body"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_dead_letter_queue_exists_and_is_of_its_sources_type() {
    let lab = Lab::new().await;
    let policy =
        |target: &str| json!({ "deadLetterTargetArn": arn(target), "maxReceiveCount": 3 }).to_string();
    let fifo = |target: &str| json!({ "FifoQueue": "true", "RedrivePolicy": policy(target) });
    let plain = |target: &str| json!({ "RedrivePolicy": policy(target) });
    let bad = "InvalidParameterValue";
    assert_eq!(lab.create("early", plain("dead")).await, bad, "it does not exist yet");
    assert_eq!(lab.create("dead", json!({})).await, "");
    assert_eq!(lab.create("dead.fifo", json!({ "FifoQueue": "true" })).await, "");
    assert_eq!(lab.create("early", plain("dead")).await, "");
    assert_eq!(lab.create("one.fifo", fifo("dead")).await, bad);
    assert_eq!(lab.create("one", plain("dead.fifo")).await, bad);
    assert_eq!(lab.create("one.fifo", fifo("dead.fifo")).await, "");
    let url = lab.queue("two", json!({})).await;
    for (target, expected) in [("gone", bad), ("dead.fifo", bad), ("dead", "")] {
        let request = json!({ "QueueUrl": url, "Attributes": plain(target) });
        assert_eq!(code(&lab.sqs("SetQueueAttributes", request).await), expected, "{target}");
    }
    // A target that is deleted later does not matter to other changes.
    let dead = lab.sqs("GetQueueUrl", json!({ "QueueName": "dead" })).await.json();
    lab.sqs("DeleteQueue", json!({ "QueueUrl": dead["QueueUrl"] })).await;
    let request = json!({ "QueueUrl": url, "Attributes": { "VisibilityTimeout": "5" } });
    assert_eq!(code(&lab.sqs("SetQueueAttributes", request).await), "");
}

#[tokio::test]
async fn attributes_of_queues_are_those_that_sqs_knows() {
    let lab = Lab::new().await;
    let url = lab.queue("plain", json!({ "Policy": "{\"Statement\":[]}" })).await;
    assert_eq!(code(&lab.attributes(&url, &["Nonsense"]).await), "InvalidAttributeName");
    assert_eq!(code(&lab.attributes(&url, &["All", "visibilitytimeout"]).await), "InvalidAttributeName");
    for known in [
        "All",
        "Policy",
        "QueueArn",
        "RedrivePolicy",
        "FifoQueue",
        "DeduplicationScope",
        "KmsMasterKeyId",
        "ApproximateNumberOfMessages",
        "CreatedTimestamp",
    ] {
        assert_eq!(code(&lab.attributes(&url, &[known]).await), "", "{known}");
    }
    let shown = |answer: &Answer, name: &str| answer.json()["Attributes"][name].clone();
    assert_eq!(shown(&lab.attributes(&url, &["All"]).await, "Policy"), "{\"Statement\":[]}");
    let set = async |attributes: Json| {
        code(&lab.sqs("SetQueueAttributes", json!({ "QueueUrl": url, "Attributes": attributes })).await)
    };
    assert_eq!(set(json!({ "Policy": "" })).await, "");
    assert_eq!(shown(&lab.attributes(&url, &["All"]).await, "Policy"), Json::Null, "an empty one goes away");
    assert_eq!(set(json!({ "Policy": "no JSON" })).await, "InvalidAttributeValue");
    for of_fifo in ["FifoQueue", "ContentBasedDeduplication"] {
        assert_eq!(set(json!({ of_fifo: "true" })).await, "InvalidAttributeName", "{of_fifo}");
        assert_eq!(
            lab.create("other", json!({ of_fifo: "false" })).await,
            "InvalidAttributeName",
            "{of_fifo}"
        );
    }
    let fifo = lab.queue("q.fifo", json!({ "FifoQueue": "true" })).await;
    let all = lab.attributes(&fifo, &["All"]).await;
    assert_eq!(
        (shown(&all, "DeduplicationScope"), shown(&all, "FifoThroughputLimit")),
        (json!("queue"), json!("perQueue"))
    );
    let request = json!({ "QueueUrl": fifo, "Attributes": { "FifoThroughputLimit": "perMessageGroupId" } });
    assert_eq!(code(&lab.sqs("SetQueueAttributes", request).await), "InvalidAttributeValue");
    for (name, fifo, expected) in [
        (
            "a b",
            false,
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
        ),
        (
            "a.fifo",
            false,
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
        ),
        ("a", true, "The name of a FIFO queue can only include"),
    ] {
        let attributes = if fifo { json!({ "FifoQueue": "true" }) } else { json!({}) };
        let answer = lab.sqs("CreateQueue", json!({ "QueueName": name, "Attributes": attributes })).await;
        assert!(answer.json()["message"].as_str().unwrap().starts_with(expected), "{}", answer.body);
    }
}

#[tokio::test]
async fn the_content_of_a_message_and_its_digest_are_one_deduplication_id_in_the_scope_of_the_queue() {
    let lab = Lab::new().await;
    for (scope, expected) in [("queue", 1), ("messageGroup", 2)] {
        let attributes = json!({
            "FifoQueue": "true", "ContentBasedDeduplication": "true", "DeduplicationScope": scope,
        });
        let url = lab.queue(&format!("{scope}.fifo"), attributes).await;
        // SHA-256 of "one".
        let digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
        for (body, group, id) in [("one", "a", None), ("two", "a", Some(digest)), ("one", "b", None)] {
            let mut request = json!({ "QueueUrl": url, "MessageBody": body, "MessageGroupId": group });
            if let Some(id) = id {
                request["MessageDeduplicationId"] = json!(id);
            }
            assert_eq!(code(&lab.sqs("SendMessage", request).await), "");
        }
        let found = lab.bodies(&url).await;
        assert_eq!(found, vec!["one"; expected], "{scope}");
    }
}

#[tokio::test]
async fn what_a_message_and_a_tag_may_not_be_is_refused() {
    let lab = Lab::new().await;
    let url = lab.queue("q", json!({})).await;
    let send = async |name: &str| {
        let attributes = json!({ name: { "DataType": "String", "StringValue": "v" } });
        let request = json!({ "QueueUrl": url, "MessageBody": "b", "MessageAttributes": attributes });
        code(&lab.sqs("SendMessage", request).await)
    };
    for name in ["öther", "AWS.x", "aws.x", "Amazon.y", ".a", "a.", "a..b", "a b", "", &"n".repeat(257)] {
        assert_eq!(send(name).await, "InvalidParameterValue", "{name}");
    }
    for name in ["a", "A-b_c.d9", "AWSx", &"n".repeat(256)] {
        assert_eq!(send(name).await, "", "{name}");
    }
    let tag = async |tags: Json| code(&lab.sqs("TagQueue", json!({ "QueueUrl": url, "Tags": tags })).await);
    let many = |from: usize, count: usize| -> Json {
        (from..from + count).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into()
    };
    assert_eq!(tag(json!({})).await, "MissingParameter");
    assert_eq!(tag(many(0, 51)).await, "InvalidParameterValue");
    assert_eq!(tag(many(0, 50)).await, "");
    assert_eq!(tag(many(0, 50)).await, "", "the same again");
    assert_eq!(tag(many(50, 1)).await, "InvalidParameterValue", "one more");
    assert_eq!(tag(json!({ "aws:x": "v" })).await, "InvalidParameterValue");
    let untag =
        async |keys: Json| code(&lab.sqs("UntagQueue", json!({ "QueueUrl": url, "TagKeys": keys })).await);
    assert_eq!(untag(json!([])).await, "MissingParameter");
    assert_eq!(untag(json!(["k0"])).await, "");
    for (action, entry) in [
        ("SendMessageBatch", "SendMessageBatchRequestEntry"),
        ("DeleteMessageBatch", "DeleteMessageBatchRequestEntry"),
        ("ChangeMessageVisibilityBatch", "ChangeMessageVisibilityBatchRequestEntry"),
    ] {
        let answer = lab.sqs(action, json!({ "QueueUrl": url, "Entries": [] })).await;
        assert!(answer.body.contains(&format!("at least one {entry} in")), "{}", answer.body);
    }
    let fifo = lab.queue("q.fifo", json!({ "FifoQueue": "true", "ContentBasedDeduplication": "true" })).await;
    let late = json!({ "QueueUrl": fifo, "MessageBody": "b", "MessageGroupId": "g", "DelaySeconds": 5 });
    let answer = lab.sqs("SendMessage", late).await;
    assert!(
        answer.body.contains("Value 5 for parameter DelaySeconds is invalid. Reason: "),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_rule_has_a_pattern_that_is_one() {
    let lab = Lab::new().await;
    let put = async |pattern: &str| {
        code(&lab.events("PutRule", json!({ "Name": "r", "EventPattern": pattern })).await)
    };
    for wrong in [
        "{}",
        "{",
        "[]",
        "\"x\"",
        "{\"source\":\"x\"}",
        "{\"source\":[]}",
        "{\"detail\":{\"a\":[{\"foo\":1}]}}",
        "{\"source\":[{\"prefix\":1}]}",
    ] {
        assert_eq!(put(wrong).await, "InvalidEventPatternException", "{wrong}");
    }
    assert_eq!(put("{\"source\":[\"mine\"]}").await, "");
    let request = json!({ "Name": "r", "EventBusName": "other", "EventPattern": "{\"source\":[\"x\"]}" });
    assert_eq!(code(&lab.events("PutRule", request).await), "ResourceNotFoundException");
}

#[tokio::test]
async fn a_target_gets_the_input_that_it_asks_for_and_what_has_no_effect_is_named() {
    let lab = Lab::new().await;
    lab.events("PutRule", json!({ "Name": "r", "EventPattern": "{\"source\":[\"mine\"]}" })).await;
    let transformer = json!({
        "InputPathsMap": { "i": "$.detail.instance-id", "n": "$.detail.n" },
        "InputTemplate": "{\"instance\": <i>, \"text\": \"<i> has <n>\"}",
    });
    let inputs = [
        ("whole", json!({})),
        ("constant", json!({ "Input": "{\"fixed\":true}" })),
        ("part", json!({ "InputPath": "$.detail" })),
        ("made", json!({ "InputTransformer": transformer, "RetryPolicy": { "MaximumRetryAttempts": 3 } })),
    ];
    let mut targets = Vec::new();
    for (name, input) in &inputs {
        lab.queue(name, json!({})).await;
        let mut target = input.clone();
        target["Id"] = json!(name);
        target["Arn"] = json!(arn(name));
        targets.push(target);
    }
    let put = lab.events("PutTargets", json!({ "Rule": "r", "Targets": targets })).await;
    assert_eq!(put.status, 200, "{}", put.body);
    let listed = lab.events("ListTargetsByRule", json!({ "Rule": "r" })).await.json();
    for target in &targets {
        assert!(listed["Targets"].as_array().unwrap().contains(target), "{target} in {listed}");
    }
    let calls = lab.get("/_region/calls").await.json();
    let ignored: Vec<_> =
        calls["calls"].as_array().unwrap().iter().filter_map(|call| call["ignored"].as_array()).collect();
    assert_eq!(ignored, [&vec![json!("Targets.4.RetryPolicy")]]);
    let detail = json!({ "instance-id": "i-1", "n": 7 });
    let event = json!({ "Source": "mine", "DetailType": "test", "Detail": detail.to_string() });
    lab.events("PutEvents", json!({ "Entries": [event] })).await;
    let mut found = Vec::new();
    for (name, _) in &inputs {
        let url = lab.sqs("GetQueueUrl", json!({ "QueueName": name })).await.json();
        let bodies = lab.bodies(url["QueueUrl"].as_str().unwrap()).await;
        found.push(serde_json::from_str::<Json>(&bodies[0]).unwrap());
    }
    assert_eq!(found[0]["detail"], detail);
    assert_eq!(found[1], json!({ "fixed": true }));
    assert_eq!(found[2], detail);
    assert_eq!(found[3], json!({ "instance": "i-1", "text": "i-1 has 7" }));
    for wrong in [
        json!({ "Id": "x", "Arn": "arn:aws:sns:us-east-1:111122223333:topic" }),
        json!({ "Id": "x", "Arn": arn("q.fifo") }),
        json!({ "Id": "x", "Arn": arn("made"), "Input": "{" }),
        json!({ "Id": "x" }),
    ] {
        let answer = lab.events("PutTargets", json!({ "Rule": "r", "Targets": [wrong] })).await;
        assert_eq!(code(&answer), "ValidationException", "{}", answer.body);
    }
}
