//! Messages of all kinds, on a whole Perennial over the simulated region: odd ones, hostile ones, and good
//! ones while the journal cannot be written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::lab::{EPOCH_MS, Lab};
use perennial_engine::domain::Domain as _;
use perennial_engine::ids::Position;
use perennial_engine::journal::{EVENT_BODY_MAX, Journal as _};
use perennial_engine::queue::{MESSAGE_BYTES_MAX, Outgoing, Queue as _};
use perennial_sim::world::Notice;
use perennial_sim::world::settings::Settings;
use perennial_workers::ingest::SUBMISSION_BYTES_MAX;
use perennial_workers::ingest::events::{self, Arrival, Parsed};
use perennial_workflows::aggregate::inbox::{Disposition, InboxEvent};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::Event;
use perennial_workflows::domain::submission::{Reply, Submission};
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::spec::node::{NetworkMode, RootMode};
use serde_json::{Value, json};

const ACCOUNT: &str = "111122223333";

fn warning(id: &str, instance: &InstanceId, time: &str) -> Value {
    json!({
        "version": "0", "id": id, "detail-type": "EC2 Spot Instance Interruption Warning", "source": "aws.ec2",
        "account": ACCOUNT, "time": time, "region": "us-east-1",
        "resources": [format!("arn:aws:ec2:us-east-1a:instance/{instance}")],
        "detail": { "instance-id": instance, "instance-action": "terminate" }
    })
}

fn submission(id: &str, workflow: &str, node: &str, params: Value) -> Value {
    json!({
        "schema": "perennial.submission/v1", "id": id, "workflow": workflow, "node": node, "params": params,
        "requested_by": "tests", "reply_to": "answers"
    })
}

/// The time of the lab, as an event has it.
fn now(lab: &Lab) -> String {
    let now = i64::try_from(lab.clock.now_ms()).unwrap();
    jiff::Timestamp::from_millisecond(now).unwrap().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn lab_with_a_node() -> Lab {
    let mut lab = Lab::new(Settings::calm(7));
    lab.provision(&lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::None)).await;
    lab
}

async fn tell(lab: &Lab, body: impl Into<String>) {
    lab.interruptions.send(vec![Outgoing::now(body)]).await.unwrap();
}

async fn ask(lab: &Lab, body: &Value) -> Reply {
    lab.submissions.send(vec![Outgoing::now(body.to_string())]).await.unwrap();
    let answers = lab.answers.receive(1, Duration::from_secs(20)).await.unwrap();
    lab.answers.delete(&[answers[0].receipt.clone()]).await.unwrap();
    serde_json::from_str(&answers[0].body).unwrap()
}

/// The events of the inbox, with their streams.
async fn inbox(lab: &Lab) -> Vec<(String, InboxEvent)> {
    let mut inbox = Vec::new();
    for event in lab.journal.read_all(Position(0), 1_000_000).await.unwrap() {
        if let Event::Inbox(told) = Perennial::decode(&event.data).unwrap() {
            inbox.push((event.stream.to_string(), told));
        }
    }
    inbox
}

#[tokio::test(start_paused = true)]
async fn an_id_names_one_request_and_the_other_one_hears_no() {
    let lab = lab_with_a_node().await;
    let first = submission("same-1", "node.backup", "db-1", json!({}));
    assert!(ask(&lab, &first).await.accepted);
    let keep = json!({"root": false, "data": false, "network": false, "backups": false});
    for other in [
        submission("same-1", "node.delete", "db-1", json!({ "keep": keep })),
        submission("same-1", "node.backup", "db-2", json!({})),
        submission("same-1", "node.backup", "db-1", json!({"reason": "another"})),
    ] {
        let answer = ask(&lab, &other).await;
        assert!(matches!(answer.disposition, Disposition::Mismatch { .. }), "{answer:?}");
        assert!(!answer.accepted && answer.message.contains("db-1.b1"), "{answer:?}");
    }
    let mut again = first.clone();
    again["requested_by"] = "another".into();
    assert!(ask(&lab, &again).await.accepted, "a repetition hears what the first one heard");
    assert!(lab.node("db-1").await.exists());
    let inbox = inbox(&lab).await;
    let of = |is: fn(&InboxEvent) -> bool| inbox.iter().filter(|(_, event)| is(event)).count();
    assert_eq!(of(|event| matches!(event, InboxEvent::Mismatched { .. })), 3);
    assert_eq!(of(|event| matches!(event, InboxEvent::Repeated { .. })), 1);
    // However often it comes, the journal stays small.
    for number in 0..50 {
        let other = submission("same-1", "node.pause", "db-1", json!({"reason": format!("{number}")}));
        assert!(!ask(&lab, &other).await.accepted);
    }
    let mismatched = self::inbox(&lab).await;
    let mismatched = mismatched.iter().filter(|(_, event)| matches!(event, InboxEvent::Mismatched { .. }));
    assert_eq!(mismatched.count(), 10);
}

#[tokio::test(start_paused = true)]
async fn two_events_with_one_id_are_two_events_and_one_that_comes_twice_is_one() {
    let mut lab = lab_with_a_node().await;
    lab.provision(&lab.spec("db-2", NetworkMode::SecondaryIp, RootMode::None)).await;
    let time = now(&lab);
    for name in ["db-1", "db-2"] {
        let event = warning("spot", &lab.instance(name).await, &time);
        tell(&lab, event.to_string()).await;
        tell(&lab, json!({"Type": "Notification", "Message": event.to_string()}).to_string()).await;
    }
    lab.rest("db-1", 2).await;
    lab.rest("db-2", 2).await;
    let repeated = inbox(&lab).await;
    let repeated = repeated.iter().filter(|(_, event)| matches!(event, InboxEvent::Repeated { .. }));
    assert_eq!(repeated.count(), 2, "the copies through SNS");
    // The same words on another day are another event, where they have no time of their own.
    for number in 3..5 {
        let mut timeless = warning("spot", &lab.instance("db-1").await, "");
        timeless["time"] = Value::Null;
        tell(&lab, timeless.to_string()).await;
        lab.rest("db-1", number).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_of_another_account_or_region_or_from_before_the_launch_is_noted_only() {
    let mut lab = lab_with_a_node().await;
    lab.kill().await;
    lab.home = (Some(ACCOUNT.to_owned()), Some("us-east-1".to_owned()));
    lab.start();
    let instance = lab.instance("db-1").await;
    let time = now(&lab);
    let with = |id: &str, field: &str, value: &str| {
        let mut event = warning(id, &instance, &time);
        event[field] = value.into();
        event
    };
    for event in [
        with("account", "account", "999999999999"),
        with("region", "region", "eu-north-1"),
        with("old", "time", "2026-09-13T16:00:00Z"),
        with("older", "time", "1970-01-01T00:00:00Z"),
    ] {
        tell(&lab, event.to_string()).await;
    }
    lab.clock.sleep(Duration::from_secs(120)).await;
    assert_eq!(lab.node("db-1").await.operations, 1, "{}", lab.story().await);
    let dispositions = lab.dispositions().await;
    for why in ["account 999999999999", "region eu-north-1", "older than its instance"] {
        assert!(
            dispositions.iter().any(|told| told.contains("noted") && told.contains(why)),
            "{dispositions:#?}"
        );
    }
    // What names neither is believed, as before.
    let mut bare = warning("bare", &instance, &time);
    bare.as_object_mut().unwrap().retain(|field, _| field != "account" && field != "region");
    tell(&lab, bare.to_string()).await;
    lab.rest("db-1", 2).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_journal_cannot_be_written_nothing_is_received_and_nothing_dies() {
    let mut lab = lab_with_a_node().await;
    let old = lab.instance("db-1").await;
    lab.is_full.store(true, Ordering::SeqCst);
    let time = now(&lab);
    tell(&lab, warning("important", &old, &time).to_string()).await;
    for number in 0..140 {
        let body = submission(&format!("s-{number}"), "node.backup", "db-1", json!({})).to_string();
        lab.submissions.send(vec![Outgoing::now(body)]).await.unwrap();
    }
    // Far longer than a queue lets messages come again.
    lab.clock.sleep(Duration::from_secs(3 * 3_600)).await;
    let depth = lab.submissions.depth().await.unwrap();
    assert_eq!((depth.dead, depth.in_flight), (0, 100), "a hundred are held, the others wait: {depth:?}");
    assert_eq!(lab.interruptions.depth().await.unwrap().dead, 0);
    lab.is_full.store(false, Ordering::SeqCst);
    lab.clock.sleep(Duration::from_secs(600)).await;
    lab.rest("db-1", 2).await;
    assert_ne!(lab.instance("db-1").await, old);
    for queue in [&lab.submissions, &lab.interruptions] {
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.visible, depth.in_flight, depth.dead), (0, 0, 0), "{depth:?}");
    }
    let answered = inbox(&lab).await;
    let answered = answered.iter().filter(|(stream, event)| {
        stream.starts_with("inbox/submissions/s-") && matches!(event, InboxEvent::Answered { .. })
    });
    assert_eq!(answered.count(), 140);
}

/// What names an instance of ours rings, in whatever form: a look decides.
#[tokio::test(start_paused = true)]
async fn a_message_that_names_our_instance_is_a_doorbell_whatever_it_is() {
    let mut lab = lab_with_a_node().await;
    for (number, form) in (2..).zip(["old", "detail", "text", "cloudtrail"]) {
        let instance = lab.instance("db-1").await;
        let body = |id: &str| match form {
            "old" => warning(id, &instance, "2026-09-13T16:00:00Z").to_string(),
            "detail" => json!({"instance-id": instance, "note": id}).to_string(),
            "text" => json!(format!("{id}: spot interruption of {instance}")).to_string(),
            _ => json!({
                "id": id, "source": "aws.ec2", "detail-type": "AWS Service Event via CloudTrail",
                "detail": {"serviceEventDetails": {"instanceIdSet": [instance]}}
            })
            .to_string(),
        };
        tell(&lab, body(&format!("{form}-1"))).await;
        lab.clock.sleep(Duration::from_secs(5)).await;
        assert_eq!(lab.node("db-1").await.operations, number - 1, "{form}: the instance is well");
        let silent = Notice { with_event: false, ..Notice::default() };
        lab.region.with(|world, now_ms| world.interrupt(now_ms, &instance, silent)).unwrap();
        tell(&lab, body(&format!("{form}-2"))).await;
        lab.clock.sleep(Duration::from_secs(2)).await;
        assert_eq!(lab.node("db-1").await.operations, number, "{form}: {}", lab.story().await);
        lab.rest("db-1", number).await;
    }
}

/// A dead-letter queue that is read as well, by a mistake of the configuration: the queue itself, or the
/// other one. What is given up comes back a few times, is accounted for, and is gone; what is good goes on.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_never_circles_even_where_its_queue_is_one_that_is_read() {
    for crossed in [false, true] {
        let mut lab = lab_with_a_node().await;
        lab.kill().await;
        let (submissions, interruptions) = (lab.submissions.clone(), lab.interruptions.clone());
        lab.dead_letters_to =
            Some(if crossed { [interruptions, submissions] } else { [submissions, interruptions] });
        lab.start();
        let before = lab.journal.read_all(Position(0), 1_000_000).await.unwrap().len();
        for number in 0..20 {
            tell(&lab, format!("not an event {number}")).await;
            let body = format!("not a submission {number}");
            lab.submissions.send(vec![Outgoing::now(body)]).await.unwrap();
        }
        lab.clock.sleep(Duration::from_secs(3_600)).await;
        for queue in [&lab.submissions, &lab.interruptions] {
            let depth = queue.depth().await.unwrap();
            assert_eq!(
                (depth.visible, depth.in_flight, depth.delayed),
                (0, 0, 0),
                "crossed: {crossed}, {depth:?}"
            );
        }
        let given_up = lab.given_up.load(Ordering::SeqCst);
        assert!((40..=40 * 10).contains(&given_up), "crossed: {crossed}, {given_up} dead letters of forty");
        let written = lab.journal.read_all(Position(0), 1_000_000).await.unwrap().len() - before;
        assert!(written < 40 * 2 * 8, "crossed: {crossed}, {written} events for forty messages");
        let instance = lab.instance("db-1").await;
        tell(&lab, warning("good", &instance, &now(&lab)).to_string()).await;
        lab.rest("db-1", 2).await;
        assert_ne!(lab.instance("db-1").await, instance, "crossed: {crossed}");
    }
}

/// Chance by a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// The bodies that the reader's own test has.
fn samples() -> Vec<Value> {
    let samples = include_str!("../../../workers/src/ingest/samples/bodies.json");
    let samples: Vec<Value> = serde_json::from_str(samples).unwrap();
    samples.into_iter().map(|mut sample| sample["body"].take()).collect()
}

/// A value that may stand where another one was meant.
fn odd(chance: &mut Chance, number: usize) -> Value {
    match chance.below(16) {
        0 => Value::Null,
        1 => json!([]),
        2 => json!({}),
        3 => json!(true),
        4 => json!(-1),
        5 => json!(u64::MAX),
        6 => json!(1.5e300),
        7 => json!(""),
        8 => json!("y".repeat(20_000)),
        9 => json!("\u{1b}[2J\u{202e}\n2026-11-29T17:00:00Z ERROR forged\u{0}"),
        10 => json!("\u{1}".repeat(3_000)),
        11 => json!({"a": {"b": [number]}}),
        12 => json!(["i-0aaaaaaaaaaaaaaaa"]),
        13 => json!("../../etc/passwd"),
        14 => json!(number),
        _ => json!(format!("text {number}")),
    }
}

/// Changes something, anywhere in a value.
fn mutate(value: &mut Value, chance: &mut Chance, number: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() && chance.below(6) > 0 => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let key = chance.of(&keys).clone();
            match chance.below(5) {
                0 => {
                    fields.remove(&key);
                }
                1 => {
                    let moved = fields.remove(&key).unwrap();
                    fields.insert(format!("{key}x"), moved);
                }
                2 => {
                    fields.insert(key, odd(chance, number));
                }
                _ => mutate(fields.get_mut(&key).unwrap(), chance, number),
            }
        }
        Value::Array(values) if !values.is_empty() && chance.below(4) > 0 => {
            let at = chance.below(values.len());
            mutate(&mut values[at], chance, number);
        }
        value => *value = odd(chance, number),
    }
}

/// Changes the text of a message.
fn mangle(text: String, chance: &mut Chance, number: usize) -> String {
    let at = |chance: &mut Chance, text: &str| {
        let mut at = chance.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    match chance.below(14) {
        0 => text[..at(chance, &text)].to_owned() + " ",
        1 => {
            let (before, after) = text.split_at(at(chance, &text));
            format!(
                "{before}{}{after}",
                chance.of(&["\u{0}", "{", "\"", ",", "]", "\u{feff}", "\\ud800", "1e999"])
            )
        }
        2 => format!("\u{feff}{text}"),
        3 => json!({"Type": "Notification", "Message": text}).to_string(),
        4 => json!({"Records": [{"Sns": {"Message": text}}]}).to_string(),
        5 => format!("[{text},{number}]"),
        6 => json!(text).to_string(),
        7 => "[".repeat(chance.below(30_000)) + &number.to_string(),
        8 => format!("{}{number}", "z".repeat(chance.below(300_000))),
        9 => text.replacen('{', "{\"id\":\"doubled\",", 1),
        10 => json!({"requestPayload": text, "n": number}).to_string(),
        _ => text,
    }
}

/// Five thousand messages that something is wrong with, and some that nothing is: the server stays up, takes
/// each of them off its queue with an account of it, and keeps little of them.
///
/// Another seed: `FUZZ_SEED=7`. A failure prints its seed.
#[tokio::test(start_paused = true)]
async fn thousands_of_mutated_messages_are_each_accounted_for_and_the_journal_stays_small() {
    const EACH: usize = 2_500;
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_130);
    // Whatever fails, it can be tried again.
    let _ = writeln!(std::io::stderr(), "FUZZ_SEED={seed}");
    let mut lab = lab_with_a_node().await;
    let mut chance = Chance(seed);
    let ours = lab.instance("db-1").await;
    let foreign = InstanceId::parse("i-0ffffffffffffffff").unwrap();
    let samples = samples();
    let mut sent = BTreeSet::new();
    let (mut expected, mut dead) = (0, 0);
    while sent.len() < EACH {
        let number = sent.len();
        let mut event = match chance.below(2) {
            // Bodies as they come from AWS and through others, about an instance that is none of ours.
            0 => chance.of(&samples).clone(),
            _ => {
                let of = chance.of(&[ours.clone(), foreign.clone()]).clone();
                let mut event = warning(&format!("m-{number}"), &of, &now(&lab));
                event["detail-type"] = (*chance.of(&[
                    "EC2 Instance State-change Notification",
                    "EC2 Instance Rebalance Recommendation",
                    "EBS Volume Notification",
                    "AWS Health Event",
                    "EC2 Something New",
                ]))
                .into();
                event["detail"]["state"] = "running".into();
                event
            }
        };
        for _ in 0..chance.below(4) {
            mutate(&mut event, &mut chance, number);
        }
        let text = event.as_str().map_or_else(|| event.to_string(), str::to_owned);
        let body = mangle(text, &mut chance, number);
        if body.is_empty() || body.len() > MESSAGE_BYTES_MAX || !sent.insert(body.clone()) {
            continue;
        }
        let arrival = Arrival { sent_at_ms: lab.clock.now_ms(), now_ms: lab.clock.now_ms() };
        let parsed = events::parse(&body, arrival);
        expected += parsed.iter().filter(|one| !matches!(one, Parsed::WakeHint(_))).count();
        dead += usize::from(parsed.iter().any(|one| matches!(one, Parsed::Malformed { .. })));
        tell(&lab, body).await;
    }
    let mut asked = BTreeSet::new();
    let mut dead_submissions = 0;
    while asked.len() < EACH {
        let number = asked.len();
        let workflow =
            *chance.of(&["node.replace", "node.backup", "node.delete", "node.prune", "workflow.cancel"]);
        let keep = json!({"root": true, "data": true, "network": true, "backups": true});
        let params = match workflow {
            "node.delete" => json!({ "keep": keep }),
            "workflow.cancel" => json!({"workflow": "db-9.1"}),
            _ => json!({"reason": format!("reason {number}")}),
        };
        let mut body = submission(&format!("m-{number}"), workflow, "db-9", params);
        for _ in 0..chance.below(3) {
            mutate(&mut body, &mut chance, number);
        }
        let body = mangle(body.to_string(), &mut chance, number);
        if body.is_empty() || body.len() > MESSAGE_BYTES_MAX || !asked.insert(body.clone()) {
            continue;
        }
        let is_large = body.len() > SUBMISSION_BYTES_MAX;
        dead_submissions += usize::from(is_large || Submission::parse(&body).is_err());
        lab.submissions.send(vec![Outgoing::now(body)]).await.unwrap();
    }
    lab.clock.sleep(Duration::from_secs(2 * 3_600)).await;

    for (queue, dead) in [(&lab.interruptions, dead), (&lab.submissions, dead_submissions)] {
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.visible, depth.in_flight, depth.delayed), (0, 0, 0), "{depth:?}");
        assert_eq!(depth.dead, dead as u64, "everything that cannot be read is in the dead letters, once");
    }
    let inbox = inbox(&lab).await;
    let account = |queue: &str| {
        let mut count = BTreeMap::<&str, u64>::new();
        for (_, event) in inbox.iter().filter(|(stream, _)| stream.starts_with(&format!("inbox/{queue}/"))) {
            *count
                .entry(match event {
                    InboxEvent::Answered { .. } => "answered",
                    InboxEvent::Repeated { .. } => "repeated",
                    InboxEvent::Mismatched { .. } => "mismatched",
                    _ => "other",
                })
                .or_default() += 1;
        }
        count
    };
    let events = account("interruptions");
    let counted = lab.counted("interruptions").await;
    let told = events["answered"] + events.get("repeated").unwrap_or(&0) + counted.total();
    // The region's own events of the node's instances are among those that are answered or counted.
    assert!(told >= expected as u64, "{events:?}, counted {counted}: {told} of {expected}");
    assert!(told <= expected as u64 + 40, "{events:?}, counted {counted}: {told} of {expected}");
    assert!(counted.foreign > 150 && counted.total() > 1_000, "{counted}");
    let asked_about = account("submissions");
    let told = asked_about["answered"]
        + asked_about.get("repeated").unwrap_or(&0)
        + asked_about.get("mismatched").unwrap_or(&0)
        + lab.counted("submissions").await.total();
    assert!(told >= EACH as u64 && told <= EACH as u64 + 2, "{asked_about:?}");

    // No event of the journal is large, and all of the inbox together is not.
    let mut bytes = 0;
    for event in lab.journal.read_all(Position(0), 1_000_000).await.unwrap() {
        if event.stream.category() == "inbox" {
            assert!(event.data.body.len() < EVENT_BODY_MAX / 4, "{} bytes", event.data.body.len());
            bytes += event.data.body.len();
        }
    }
    assert!(bytes < 2 * EACH * 1_024, "{bytes} bytes of {} messages", 2 * EACH);
    let unread = inbox
        .iter()
        .filter(|(_, event)| matches!(event, InboxEvent::Answered { disposition } if disposition.is_dead()));
    assert!(unread.count() <= 2 * 100 * 3, "what cannot be read is counted beyond a hundred an hour");

    // The next good ones are handled.
    let instance = lab.instance("db-1").await;
    let before = lab.node("db-1").await.operations;
    tell(&lab, warning("good", &instance, &now(&lab)).to_string()).await;
    lab.rest("db-1", before + 1).await;
    assert_ne!(lab.instance("db-1").await, instance);
    assert!(lab.clock.now_ms() > EPOCH_MS);
}
