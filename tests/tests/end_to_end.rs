//! The real binary, real processes, `kill -9`, and an EC2 and SQS that we did not write.
//!
//! `perennial serve` runs on SQS queues and on EC2, both moto's; the tests play AWS (an event in EventBridge's shape on
//! the queue, an instance that goes away) and look at the result through moto's own API. moto has no time, no client
//! tokens and frees no interface, and it adopts no root: so the nodes here keep a secondary address, their data volume is
//! attached again, and the ladder's rung `image` carries the root. moto boots a blank root from any registered image,
//! so that the root's content comes back is the simulated region's to show. moto's SQS is slow: doorbells stay in the
//! embedded queue, but for the test that has every queue on MiniStack.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::Credentials;
use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName};
use perennial_engine::clock::Clock;
use perennial_tests::emulators::{Emulator, Kind};
use perennial_tests::installation::Installation;
use perennial_tests::rehearsal::RegionProcess;
use perennial_workers::aws::{EnsureQueue, ensure_queue, sqs_client};
use perennial_workflows::aggregate::inbox::{Disposition, InboxEvent};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::states::Event;
use perennial_workflows::domain::submission::Reply;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::event::OperationEvent;
use serde_json::{Value, json};

const REGION: &str = "us-east-1";
const SUBMISSIONS: &str = "perennial-submissions";
const INTERRUPTIONS: &str = "perennial-interruptions";
const STEPS: &str = "perennial-steps";
const ANSWERS: &str = "answers";

/// A lost instance is found within this time, event or not (DESIGN §2; the sweep looks every 20 s).
const FOUND_WITHIN: Duration = Duration::from_secs(60);

/// Larger than what ingest takes, smaller than what SQS takes.
const OVERSIZED: usize = 200 * 1024;

/// An instance of nobody's.
const FOREIGN: &str = "i-0f0f0f0f0f0f0f0f0";

/// Who plays AWS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aws {
    /// moto; doorbells are embedded, because its SQS is slow.
    Moto,
    /// moto, with all queues on MiniStack.
    MotoAndMiniStack,
    /// `perennial region`, twenty times as fast as the world, with all queues.
    Region,
}

/// What answers; ends when dropped.
enum Server {
    Emulator(Emulator),
    Region(Box<RegionProcess>),
}

impl Server {
    fn emulator(kind: Kind) -> Self {
        Self::Emulator(Emulator::start(kind).unwrap_or_else(|error| panic!("{error}")))
    }

    fn endpoint(&self) -> String {
        match self {
            Self::Emulator(emulator) => emulator.endpoint(),
            Self::Region(region) => region.endpoint(),
        }
    }
}

/// An emulated account with an installation of Perennial on it, whose server runs.
struct World {
    perennial: Installation,
    ec2: aws_sdk_ec2::Client,
    sqs: aws_sdk_sqs::Client,
    image: String,
    subnet: String,
    _servers: Vec<Server>,
}

impl World {
    async fn new(aws: Aws) -> Self {
        let servers = match aws {
            Aws::Moto => vec![Server::emulator(Kind::Moto)],
            Aws::MotoAndMiniStack => vec![Server::emulator(Kind::Moto), Server::emulator(Kind::MiniStack)],
            Aws::Region => vec![Server::Region(Box::new(RegionProcess::start(1, 20.0, &[]).await))],
        };
        let ec2_at = servers[0].endpoint();
        let queues_at = servers.last().unwrap_or(&servers[0]).endpoint();
        let ec2 = aws_sdk_ec2::Client::new(&account(&ec2_at).await);
        let sqs = sqs_client(&account(&queues_at).await);
        for name in [SUBMISSIONS, INTERRUPTIONS, STEPS, ANSWERS] {
            let wanted = EnsureQueue {
                name,
                visibility: Duration::from_secs(30),
                dead_letters: &dead(name),
                receives_max: 20,
            };
            ensure_queue(&sqs, &wanted).await.expect("the queue is made");
        }
        let images = ec2.describe_images().owners("amazon").send().await.expect("there are images");
        // moto puts every root volume at /dev/sda1, whatever the image says.
        let good = |device| aws == Aws::Region || device == Some("/dev/sda1");
        let image = images
            .images()
            .iter()
            .find(|image| good(image.root_device_name()) && image.platform().is_none())
            .and_then(|image| image.image_id())
            .expect("there is an image like that");
        let subnets = ec2.describe_subnets().send().await.expect("there are subnets");
        let subnet = subnets.subnets()[0].subnet_id().expect("a subnet has an id");

        let mut config = "owner = \"tests\"\ncloud = \"ec2\"\n[queues]\nkind = \"sqs\"\n".to_owned();
        if aws == Aws::Moto {
            config.push_str("steps = \"embedded:steps\"\n");
        }
        let environment = [
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ENDPOINT_URL_EC2", &ec2_at),
            ("AWS_ENDPOINT_URL_SQS", &queues_at),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mut perennial = Installation::new(&config, environment);
        perennial.start().await;
        let (image, subnet) = (image.to_owned(), subnet.to_owned());
        Self { perennial, ec2, sqs, image, subnet, _servers: servers }
    }

    /// The node file of these tests, as JSON; the CLI reads it as YAML, of which JSON is a part.
    fn node_file(&self, name: &str) -> Value {
        json!({
            "schema": "perennial.node/v1", "name": name, "image": self.image, "subnet": self.subnet,
            "capacity": {"instance_types": ["m5.large", "m5.xlarge"]},
            "persist": {"root": "adopt", "data": "reattach", "network": "secondary_ip"},
            "data_volumes": [{"name": "data", "device": "/dev/sdf", "size_gib": 8}],
        })
    }

    /// Provisions a node through the CLI.
    async fn apply(&self, name: &str) -> Node {
        self.perennial.write("node.yaml", &self.node_file(name).to_string());
        let answer = self.perennial.json(&["node", "apply", "-f", "node.yaml", "--wait"]).await;
        assert_eq!(
            (&answer["state"], &answer["workflow"]),
            (&json!("finished"), &json!(format!("{name}.1")))
        );
        self.perennial.node(name).await
    }

    async fn send(&self, queue: &str, body: &str) {
        let url = self.sqs.get_queue_url().queue_name(queue).send().await.expect("the queue is there");
        let send = self.sqs.send_message().set_queue_url(url.queue_url).message_body(body);
        send.send().await.expect("the queue takes the message");
    }

    /// Everything that is in a queue now, taken out.
    async fn take(&self, queue: &str) -> Vec<String> {
        let url = self.sqs.get_queue_url().queue_name(queue).send().await.expect("the queue is there");
        let url = url.queue_url().expect("a queue has a URL");
        let mut bodies = Vec::new();
        loop {
            let receive = self.sqs.receive_message().queue_url(url).max_number_of_messages(10);
            let messages = receive.send().await.expect("messages are received").messages.unwrap_or_default();
            if messages.is_empty() {
                return bodies;
            }
            for message in messages {
                let receipt = message.receipt_handle.expect("a message has a receipt");
                let delete = self.sqs.delete_message().queue_url(url).receipt_handle(receipt);
                delete.send().await.expect("a message is deleted");
                bodies.push(message.body.unwrap_or_default());
            }
        }
    }

    /// What EC2 does to a spot instance: it says so, and takes it. Gives the event's id.
    async fn interrupt(&self, instance: &str) -> String {
        let event = warning(instance);
        self.send(INTERRUPTIONS, &event.to_string()).await;
        self.terminate(instance).await;
        event["id"].as_str().expect("an event has an id").to_owned()
    }

    async fn terminate(&self, instance: &str) {
        self.ec2.terminate_instances().instance_ids(instance).send().await.expect("moto terminates it");
    }

    /// The instances of a node that are not terminated, by EC2's own account.
    async fn live_instances(&self, node: &str) -> Vec<Instance> {
        let answer = self.ec2.describe_instances().filters(of_node(node)).send().await.expect("moto answers");
        let all = answer.reservations.unwrap_or_default().into_iter();
        let all = all.flat_map(|reservation| reservation.instances.unwrap_or_default());
        let is_live = |instance: &Instance| {
            let state = instance.state().and_then(|state| state.name()).expect("an instance has a state");
            *state != InstanceStateName::Terminated
        };
        all.filter(is_live).collect()
    }

    /// The node came back: one live instance, with the data volume and the address that it had.
    async fn check_same_node(&mut self, before: &Node, after: &Node) {
        let name = after.spec.as_ref().expect("it is registered").name.to_string();
        let carrier = after.resources.carrier.as_ref().expect("it has an instance").instance.to_string();
        let old = before.resources.carrier.as_ref().expect("it had an instance").instance.to_string();
        assert_ne!(carrier, old, "another instance carries it");

        let live = self.live_instances(&name).await;
        let ids: Vec<_> = live.iter().filter_map(Instance::instance_id).collect();
        assert_eq!(ids, [carrier.as_str()], "exactly one live instance\n{}", self.perennial.log_tail());

        let data = data_volume(before);
        let answer = self.ec2.describe_volumes().volume_ids(&data).send().await.expect("the volume is there");
        let held: Vec<_> = answer.volumes()[0].attachments().iter().map(|held| held.instance_id()).collect();
        assert_eq!(held, [Some(carrier.as_str())], "{data} is on the new instance and on no other");

        let address = address(before).to_string();
        let interface = &live[0].network_interfaces()[0];
        let own = |primary| {
            let of_kind =
                interface.private_ip_addresses().iter().filter(move |ip| ip.primary() == Some(primary));
            of_kind.filter_map(|ip| ip.private_ip_address()).collect::<Vec<_>>()
        };
        assert_eq!(
            own(false),
            [address.as_str()],
            "the address that it had; the primary one is {:?}",
            own(true)
        );
    }

    /// The journal is whole.
    async fn check_journal(&self) {
        let report = self.perennial.json(&["journal", "verify"]).await;
        assert_eq!(report["findings"], json!([]), "{report}");
    }
}

async fn account(endpoint: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
        .endpoint_url(endpoint)
        .load()
        .await
}

fn dead(queue: &str) -> String {
    format!("{queue}-dead")
}

fn of_node(node: &str) -> Filter {
    Filter::builder().name("tag:perennial:node").values(node).build()
}

/// An interruption warning (EC2 User Guide, "Spot Instance interruption notices").
/// Of this account, whatever its number is, and of now, to five minutes: what is sent twice is the same.
fn warning(instance: &str) -> Value {
    const MS: u64 = 300_000;
    let at_ms = Clock::system().now_ms() / MS * MS;
    json!({
        "version": "0",
        "id": format!("12345678-1234-1234-1234-{}", &instance[instance.len() - 12..]),
        "detail-type": "EC2 Spot Instance Interruption Warning",
        "source": "aws.ec2",
        "time": at_ms,
        "region": REGION,
        "resources": [format!("arn:aws:ec2:us-east-1b:instance/{instance}")],
        "detail": {"instance-id": instance, "instance-action": "terminate"}
    })
}

fn carrier(node: &Node) -> String {
    node.resources.carrier.as_ref().expect("it has an instance").instance.to_string()
}

fn data_volume(node: &Node) -> String {
    let data = |slot: &&Slot| matches!(slot, Slot::Data(_));
    let slot = node.resources.volumes.keys().find(data).expect("it has a data volume");
    node.resources.volumes[slot].volume.to_string()
}

fn address(node: &Node) -> Ipv4Addr {
    node.resources.address.expect("it has an address")
}

#[tokio::test]
async fn a_node_survives_an_interruption_and_its_history_says_how() {
    let mut world = World::new(Aws::Moto).await;
    let before = world.apply("db-1").await;
    world.interrupt(&carrier(&before)).await;
    let after = world.perennial.at_rest("db-1", 2).await;
    world.check_same_node(&before, &after).await;

    // The commands of the CLI tell the same story.
    let shown = world.perennial.json(&["workflow", "show", "db-1.2"]).await;
    assert_eq!(shown["status"], "finished", "{shown}");
    let steps = shown["steps"].as_array().expect("it has steps");
    let evidence = |step: &str| {
        let of_step =
            steps.iter().filter(|line| line["step"].as_str().is_some_and(|name| name.starts_with(step)));
        of_step.map(|line| line["evidence"].to_string()).collect::<Vec<_>>()
    };
    let [adoption] = &evidence("adopt_root")[..] else { panic!("one try to adopt the root: {shown}") };
    assert!(adoption.contains("adopt_refused"), "{adoption}");
    for (step, times, found) in [("register_image", 1, "image_available"), ("launch", 2, "launched")] {
        let seen = evidence(step);
        assert_eq!(seen.iter().filter(|seen| seen.contains(found)).count(), times, "{step}: {seen:?}");
    }
    let chosen = world.perennial.stream("workflow/db-1.2").await.into_iter().find_map(|event| match event {
        Event::Operation(OperationEvent::RootMethodChosen { because, .. }) => Some(because),
        _ => None,
    });
    let chosen = chosen.expect("the journal says that another rung carries the root, and why");
    assert!(chosen.contains("CreateReplaceRootVolumeTask"), "{chosen}");
    let history = world.perennial.json(&["node", "history", "db-1"]).await.to_string();
    for word in ["provision", "replace", "going on with image", &carrier(&before), &carrier(&after)] {
        assert!(history.contains(word), "the history does not say {word}: {history}");
    }

    // What kept the root's data is kept; the end of the node ends it all.
    assert_eq!(after.resources.root_images.len(), 1, "{after:?}");
    assert_eq!(after.resources.retained.len(), 1, "the old root: {after:?}");
    let answer = world.perennial.json(&["node", "delete", "db-1", "--keep", "none", "--yes", "--wait"]).await;
    assert_eq!(answer["state"], "finished", "{answer}");
    assert!(world.live_instances("db-1").await.is_empty());
    let volumes = world.ec2.describe_volumes().filters(of_node("db-1")).send().await.expect("moto answers");
    assert_eq!(volumes.volumes(), [], "every volume of the node is gone");
    let snapshots =
        world.ec2.describe_snapshots().filters(of_node("db-1")).send().await.expect("moto answers");
    assert_eq!(snapshots.snapshots(), [], "every snapshot of the node is gone");
    // moto keeps no tags of images.
    let image = after.resources.root_images[0].image.to_string();
    let images = world.ec2.describe_images().owners("self").send().await.expect("moto answers");
    assert!(!images.images().iter().any(|left| left.image_id() == Some(&image)), "{image} is registered");
    world.check_journal().await;
}

/// One replacement whose server is killed as soon as the journal shows a step settled, and started again.
async fn survives_a_kill_after(step: &str) {
    let mut world = World::new(Aws::Moto).await;
    let before = world.apply("db-1").await;
    world.interrupt(&carrier(&before)).await;
    world
        .perennial
        .until(&format!("{step} is settled"), async |perennial| {
            settled_steps(perennial, "workflow/db-1.2")
                .await
                .iter()
                .any(|done| done.starts_with(step))
                .then_some(())
        })
        .await;
    world.perennial.kill();
    world.perennial.start().await;
    let after = world.perennial.at_rest("db-1", 2).await;
    world.check_same_node(&before, &after).await;
    assert_eq!(after.operations, 2, "one operation for one interruption");
    world.check_journal().await;
}

/// The names of the steps of an operation that are over, in order.
async fn settled_steps(perennial: &Installation, stream: &str) -> Vec<String> {
    let events = perennial.stream(stream).await;
    let step = |event| match event {
        Event::Operation(OperationEvent::StepSettled { step, .. }) => Some(step.to_string()),
        _ => None,
    };
    events.into_iter().filter_map(step).collect()
}

#[tokio::test]
async fn a_kill_after_the_launch_is_survived() {
    survives_a_kill_after("launch").await;
}

#[tokio::test]
async fn a_kill_after_the_fence_is_survived() {
    survives_a_kill_after("fence:").await;
}

#[tokio::test]
async fn a_kill_after_the_refused_adoption_is_survived() {
    survives_a_kill_after("adopt_root").await;
}

#[tokio::test]
async fn a_kill_after_the_snapshot_is_survived() {
    survives_a_kill_after("snapshot_root").await;
}

#[tokio::test]
async fn a_kill_after_the_attachment_is_survived() {
    survives_a_kill_after("attach:").await;
}

#[tokio::test]
async fn a_server_that_is_killed_after_every_step_comes_to_the_end() {
    let mut world = World::new(Aws::Moto).await;
    let before = world.apply("db-1").await;
    world.interrupt(&carrier(&before)).await;
    let mut survived = 0;
    loop {
        let now = world
            .perennial
            .until("another step is settled, or all is done", async |perennial| {
                let node = perennial.node("db-1").await;
                let settled = settled_steps(perennial, "workflow/db-1.2").await.len();
                let done = node.operations >= 2 && node.open.is_none();
                (done || settled > survived).then_some((done, settled))
            })
            .await;
        if now.0 {
            break;
        }
        survived = now.1;
        world.perennial.kill();
        world.perennial.start().await;
    }
    assert!(survived >= 10, "a replacement has more steps than {survived}");
    let after = world.perennial.at_rest("db-1", 2).await;
    world.check_same_node(&before, &after).await;
    world.check_journal().await;
}

#[tokio::test]
async fn an_instance_that_goes_without_an_event_is_found_by_the_sweep() {
    let mut world = World::new(Aws::Moto).await;
    let before = world.apply("db-1").await;
    world.terminate(&carrier(&before)).await;
    world
        .perennial
        .within(FOUND_WITHIN, "a replacement is under way", async |perennial| {
            (perennial.node("db-1").await.operations >= 2).then_some(())
        })
        .await;
    let after = world.perennial.at_rest("db-1", 2).await;
    world.check_same_node(&before, &after).await;
    let shown = world.perennial.json(&["workflow", "show", "db-1.2"]).await;
    assert_eq!(shown["cause"]["signal"]["signal"]["source"], "sweep", "{shown}");
}

#[tokio::test]
async fn every_message_has_its_fate_and_the_next_good_one_is_handled() {
    every_message_has_its_fate(Aws::Moto).await;
}

#[tokio::test]
async fn every_message_has_its_fate_on_a_region_too() {
    every_message_has_its_fate(Aws::Region).await;
}

async fn every_message_has_its_fate(aws: Aws) {
    let mut world = World::new(aws).await;
    let good = json!({
        "schema": "perennial.submission/v1", "id": "good-1", "workflow": "node.apply", "requested_by": "tests",
        "params": {"spec": world.node_file("db-1")}, "reply_to": ANSWERS,
    });
    let mut bad = good.clone();
    bad["id"] = "bad-1".into();
    bad["params"]["spec"]["persist"]["network"] = "carrier_pigeon".into();
    let oversized = "x".repeat(OVERSIZED);
    for body in ["no JSON", &oversized, &bad.to_string(), &good.to_string(), &good.to_string()] {
        world.send(SUBMISSIONS, body).await;
    }
    let before = world.perennial.at_rest("db-1", 1).await;

    // Each was answered as designed, in the journal …
    let dispositions = world.perennial.dispositions("submissions").await;
    let count = |dispositions: &[Disposition], is: fn(&Disposition) -> bool| {
        dispositions.iter().filter(|disposition| is(disposition)).count()
    };
    assert_eq!(dispositions.len(), 4, "{dispositions:?}");
    assert_eq!(
        count(&dispositions, |disposition| matches!(disposition, Disposition::Malformed { .. })),
        2,
        "{dispositions:?}"
    );
    assert_eq!(
        count(
            &dispositions,
            |disposition| matches!(disposition, Disposition::Oversized { bytes } if *bytes == OVERSIZED as u64)
        ),
        1
    );
    assert_eq!(
        count(&dispositions, |disposition| matches!(disposition, Disposition::Started { .. })),
        1,
        "{dispositions:?}"
    );
    wait_for_a_repetition(&mut world, "inbox/submissions/good-1").await;
    // … in the dead-letter queue, as it came …
    let mut letters = take_some(&mut world, &dead(SUBMISSIONS), 3).await;
    letters.sort_by_key(String::len);
    assert_eq!(letters, ["no JSON".to_owned(), bad.to_string(), oversized.clone()]);
    // … and on the queue that the sender named.
    let answers = take_some(&mut world, ANSWERS, 3).await;
    let answers: Vec<Reply> =
        answers.iter().map(|body| serde_json::from_str(body).expect("a reply")).collect();
    let of = |id: &str| {
        let named = |reply: &&Reply| reply.id.as_ref().is_some_and(|own| own.to_string() == id);
        answers.iter().filter(named).map(|reply| reply.accepted).collect::<Vec<_>>()
    };
    assert_eq!((of("bad-1"), of("good-1")), (vec![false], vec![true, true]), "{answers:?}");
    let because = answers.iter().find(|reply| !reply.accepted).map(|reply| reply.message.clone());
    assert!(because.is_some_and(|because| because.contains("carrier_pigeon")), "{answers:?}");

    // The same for events.
    let lost = carrier(&before);
    let mut other = warning(&lost);
    other["id"] = "other-1".into();
    other["detail-type"] = "EC2 Something New".into();
    (other["detail"], other["resources"]) = (json!({}), json!([]));
    let mut unreadable = warning(&lost);
    (unreadable["detail"], unreadable["resources"]) = (json!({}), json!([]));
    let events = [
        "{}".to_owned(),
        oversized,
        unreadable.to_string(),
        other.to_string(),
        warning(FOREIGN).to_string(),
        warning(&lost).to_string(),
        warning(&lost).to_string(),
    ];
    for body in &events {
        world.send(INTERRUPTIONS, body).await;
    }
    world.terminate(&lost).await;
    let after = world.perennial.at_rest("db-1", 2).await;
    // What is about an instance that nobody knows is put off a while: its launch may be overtaken.
    let dispositions = world
        .perennial
        .until("every event has its fate", async |perennial| {
            let dispositions = perennial.dispositions("interruptions").await;
            (dispositions.len() >= 4).then_some(dispositions)
        })
        .await;
    assert_eq!(dispositions.len(), 4, "those of others and of other kinds are counted: {dispositions:?}");
    // An event may be as large as the queue takes it: the long one is only no JSON.
    assert_eq!(
        count(&dispositions, |disposition| matches!(disposition, Disposition::Malformed { .. })),
        3,
        "{dispositions:?}"
    );
    assert_eq!(
        count(&dispositions, |disposition| matches!(disposition, Disposition::Started { .. })),
        1,
        "{dispositions:?}"
    );
    let id = warning(&lost)["id"].as_str().expect("an event has an id").to_owned();
    wait_for_a_repetition(&mut world, &format!("inbox/interruptions/{id}")).await;
    assert_eq!(take_some(&mut world, &dead(INTERRUPTIONS), 3).await.len(), 3);
    world.check_same_node(&before, &after).await;
    assert_eq!(after.operations, 2, "a message that came twice was carried out once");
}

/// Waits until the journal says that an inbox entry came again.
async fn wait_for_a_repetition(world: &mut World, stream: &str) {
    world
        .perennial
        .until(&format!("{stream} came again"), async |perennial| {
            let repeated = |event: &Event| matches!(event, Event::Inbox(InboxEvent::Repeated { .. }));
            perennial.stream(stream).await.iter().any(repeated).then_some(())
        })
        .await;
}

/// Waits until so many messages are in a queue, and takes them.
async fn take_some(world: &mut World, queue: &str, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    let started = Instant::now();
    while taken.len() < count {
        taken.extend(world.take(queue).await);
        let waited = started.elapsed();
        assert!(waited < FOUND_WITHIN, "{queue} has only {taken:?}\n{}", world.perennial.log_tail());
    }
    taken
}

#[tokio::test]
async fn every_queue_may_be_on_sqs() {
    let mut world = World::new(Aws::MotoAndMiniStack).await;
    let before = world.apply("db-1").await;
    world.interrupt(&carrier(&before)).await;
    world
        .perennial
        .until("the launch is settled", async |perennial| {
            settled_steps(perennial, "workflow/db-1.2")
                .await
                .iter()
                .any(|step| step == "launch")
                .then_some(())
        })
        .await;
    world.perennial.kill();
    world.perennial.start().await;
    let after = world.perennial.at_rest("db-1", 2).await;
    world.check_same_node(&before, &after).await;
    world.check_journal().await;
}
