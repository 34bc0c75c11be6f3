//! `perennial region` as a person uses it: the process, its commands, what they print and how they exit.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn perennial(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
    let mine = |name: &str| name.starts_with("PERENNIAL_") || name.starts_with("AWS_");
    for (name, _) in std::env::vars().filter(|(name, _)| mine(name)) {
        command.env_remove(name);
    }
    command.current_dir(directory).args(arguments).stdin(Stdio::null());
    command
}

/// A running region; killed when dropped.
struct Region {
    child: Child,
    endpoint: String,
    told: String,
}

impl Region {
    fn start(directory: &Path, more: &[&str]) -> Self {
        let mut child = perennial(directory, &[&["region"], more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told: Vec<String> = lines.by_ref().take(2).map(Result::unwrap).collect();
        let endpoint = told.first().and_then(|line| line.strip_prefix("ready: "));
        let endpoint = endpoint.and_then(|line| line.split(',').next()).unwrap_or_else(|| panic!("{told:?}"));
        Self { endpoint: endpoint.to_owned(), child, told: told.join("\n") }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A call of EC2's query protocol.
    fn ec2(&self, form: &str) -> String {
        let address = self.endpoint.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let length = form.len();
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {length}\r\n\r\n{form}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A spot instance with this name, which runs.
    fn launch(&self, name: &str) -> String {
        let answer = self.ec2(&format!(
            "Action=RunInstances&Version=2016-11-15&ImageId=ami-00000000000000000&InstanceType=m6i.large&MinCount=1&MaxCount=1\
             &InstanceMarketOptions.MarketType=spot&TagSpecification.1.ResourceType=instance\
             &TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value={name}\
             &TagSpecification.1.Tag.2.Key=perennial:owner&TagSpecification.1.Tag.2.Value=me"
        ));
        let id = answer.split("<instanceId>").nth(1).and_then(|rest| rest.split('<').next());
        let id = id.unwrap_or_else(|| panic!("{answer}")).to_owned();
        self.json(&["clock", "--advance", "60"]);
        id
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = perennial(Path::new("."), &[&["region"], arguments].concat());
        command.env("AWS_ENDPOINT_URL", &self.endpoint).output().unwrap()
    }

    /// What a terminal would show, and the exit code.
    fn transcript(&self, arguments: &[&str]) -> String {
        transcript(&self.run(arguments))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", transcript(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn transcript(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let shown =
        format!("{}{}[exit {}]\n", text(&output.stdout), text(&output.stderr), output.status.code().unwrap());
    let is_message = |line: &&str| line.contains("error: ") || line.starts_with("hint:");
    for line in shown.lines().filter(|line| !is_message(line)) {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line:?}");
    }
    shown
}

#[test]
fn a_region_says_how_to_reach_it_and_its_instance_is_taken_by_name() {
    let region = Region::start(Path::new("."), &["--speed", "0"]);
    assert!(region.told.contains(&format!("export AWS_ENDPOINT_URL={}", region.endpoint)), "{}", region.told);
    let id = region.launch("db");
    let told = region.transcript(&["interrupt", "db", "--lead", "30"]);
    assert_eq!(told, format!("{id} will be taken in 30 s of the region\n[exit 0]\n"));
    region.json(&["clock", "--advance", "31"]);
    let dump = region.json(&["dump"]);
    assert_eq!(dump["instances"][&id]["state"], "shutting-down");
    let shown = region.transcript(&["dump"]);
    assert!(
        shown.contains(&id) && shown.contains("m6i.large us-east-1") && shown.contains("  db"),
        "{shown}"
    );
    region.json(&["clock", "--advance", "600"]);
    let gone = region.transcript(&["interrupt", "db"]);
    assert!(
        gone.starts_with("error: no live instance has the name or node \"db\"") && gone.contains("[exit 2]"),
        "{gone}"
    );
}

#[test]
fn what_is_written_is_read_and_everything_has_its_command() {
    let region = Region::start(Path::new("."), &["--speed", "0", "--queue", "jobs"]);
    let id = region.launch("db");
    assert_eq!(region.transcript(&["write", "db", "/dev/xvda", "order 4711"]), "written\n[exit 0]\n");
    assert!(region.transcript(&["read", "db", "/dev/xvda"]).contains("order 4711\n"));
    let wrong = region.transcript(&["read", "db", "/dev/sdz"]);
    assert!(wrong.contains("has no volume at /dev/sdz") && wrong.contains("[exit 2]"), "{wrong}");

    let leaks = region.transcript(&["leaks", "--owner", "me"]);
    assert!(leaks.contains(&id) && leaks.contains("[exit 1]"), "{leaks}");
    let expected =
        region.json(&["dump"])["instances"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        region.json(&["leaks", "--owner", "me", "--expected", &expected[0]])["leaks"],
        serde_json::json!([])
    );
    assert_eq!(region.transcript(&["check"]), "every invariant holds\n[exit 0]\n");

    assert_eq!(
        region.transcript(&["faults", "add", "RunInstances", "lost-reply", "--next", "1"]),
        "done\n[exit 0]\n"
    );
    assert!(region.transcript(&["faults"]).contains("LostReply"));
    let lost = region.ec2("Action=RunInstances&Version=2016-11-15&ImageId=ami-00000000000000000&MinCount=1&MaxCount=1&InstanceType=m5.large");
    assert_eq!(lost, "", "the reply is lost");
    assert_eq!(region.json(&["dump"])["instances"].as_object().unwrap().len(), 2, "it took effect");
    region.json(&["faults", "clear"]);

    region.json(&["capacity", "m6i.large", "0"]);
    let refused = region.ec2(
        "Action=RunInstances&Version=2016-11-15&ImageId=ami-00000000000000000&MinCount=1&MaxCount=1&InstanceType=m6i.large\
         &InstanceMarketOptions.MarketType=spot",
    );
    assert!(refused.contains("InsufficientInstanceCapacity"), "{refused}");
    assert!(region.transcript(&["calls"]).contains("InsufficientInstanceCapacity"));
    let unknown = region.transcript(&["capacity", "m6i.large", "plenty"]);
    assert!(unknown.contains("unlimited or unsupported") && unknown.contains("[exit 1]"), "{unknown}");

    for deed in [
        &["rebalance", "db"][..],
        &["impair", "db"],
        &["impair", "db", "--heal"],
        &["stick", "attach"],
        &["fail-launch"],
    ] {
        assert_eq!(region.transcript(deed), "done\n[exit 0]\n", "{deed:?}");
    }
    assert_eq!(region.json(&["post", "stick", "what=detach"]), serde_json::json!({}));
    let unknown = region.transcript(&["post", "levitate", "height=3"]);
    assert!(unknown.contains("there is no POST levitate") && unknown.contains("[exit 1]"), "{unknown}");
    assert!(region.transcript(&["post", "stick", "what"]).contains("[exit 2]"));

    assert!(region.transcript(&["clock", "--speed", "5"]).contains("5.0 times as fast as real time"));
    assert_eq!(region.transcript(&["terminate", "db"]), "done\n[exit 0]\n");
}

#[test]
fn a_region_that_is_not_there_is_said_so() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = |endpoint: &str| {
        transcript(&perennial(Path::new("."), &["region", "dump", "--endpoint", endpoint]).output().unwrap())
    };
    let told = at(&format!("http://{nobody}"));
    assert!(
        told.contains("no simulated region answers")
            && told.contains("hint: start one")
            && told.contains("[exit 4]"),
        "{told}"
    );
    let told = at("ec2.eu-west-1.amazonaws.com");
    assert!(told.contains("is no endpoint of a region") && told.contains("[exit 2]"), "{told}");

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").unwrap();
    });
    let told = at(&format!("http://{address}"));
    assert!(told.contains("something else is there") && told.contains("[exit 4]"), "{told}");
    answering.join().unwrap();
}

#[test]
fn what_a_region_cannot_start_with_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| transcript(&perennial(directory.path(), arguments).output().unwrap());
    std::fs::write(directory.path().join("region.toml"), "speed = 10\nsped = 3\n").unwrap();
    let told = run(&["region", "--config", "region.toml"]);
    assert!(
        told.contains("error: region.toml:2:1: unknown field `sped`") && told.contains("[exit 3]"),
        "{told}"
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let told = run(&["region", "--port", &port]);
    assert!(
        told.contains("cannot listen on") && told.contains("--port") && told.contains("[exit 4]"),
        "{told}"
    );
    let told = run(&["region", "--port", "1", "dump"]);
    assert!(told.contains("[exit 2]"), "{told}");
    let told = run(&["region", "--speed", "-1"]);
    assert!(told.contains("[exit 2]"), "{told}");
}

#[test]
fn a_region_with_a_state_survives_a_kill_and_refuses_another_world() {
    let directory = tempfile::tempdir().unwrap();
    let region = Region::start(directory.path(), &["--state", "state", "--seed", "7", "--speed", "0"]);
    let id = region.launch("db");
    let before = region.json(&["dump"]);
    region.kill();
    let region = Region::start(directory.path(), &["--state", "state", "--seed", "7", "--speed", "0"]);
    assert_eq!(region.json(&["dump"])["instances"][&id], before["instances"][&id]);
    region.kill();
    let told = perennial(directory.path(), &["region", "--state", "state", "--seed", "8"]).output().unwrap();
    let told = transcript(&told);
    assert!(told.contains("state") && told.contains("hint:") && told.contains("[exit 4]"), "{told}");
}

#[test]
fn the_example_file_describes_a_region_and_a_flag_goes_before_it() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/region.toml");
    let region = Region::start(
        Path::new("."),
        &["--config", example.to_str().unwrap(), "--port", "0", "--speed", "3"],
    );
    assert!(region.told.contains("speed 3, seed 7"), "{}", region.told);
    assert!(!region.endpoint.ends_with(":4566"), "{}", region.endpoint);
}

/// A call of SQS's JSON protocol: the status and the body.
fn sqs(region: &Region, action: &str, body: &str) -> String {
    let address = region.endpoint.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/x-amz-json-1.0\r\n\
         X-Amz-Target: AmazonSQS.{action}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The policy of `perennial policy`, in a file.
fn policy_file(directory: &Path, needs: &str) -> String {
    let arguments = ["policy", "--owner", "me", "--account", "111122223333", "--need", needs];
    let printed = perennial(directory, &arguments).output().unwrap();
    assert!(printed.status.success(), "{}", transcript(&printed));
    let path = directory.join(format!("{needs}.json"));
    std::fs::write(&path, &printed.stdout).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_policy_refuses_what_it_does_not_allow_and_a_restart_does_not_do_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = policy_file(directory.path(), "base");
    let state = directory.path().join("state");
    let options = ["--speed", "0", "--policy", &file, "--state", state.to_str().unwrap()];
    let region = Region::start(directory.path(), &options);
    let volume = |tag: &str| {
        format!(
            "Action=CreateVolume&Version=2016-11-15&AvailabilityZone=us-east-1a&Size=1\
             &TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=perennial:owner\
             &TagSpecification.1.Tag.1.Value={tag}"
        )
    };
    let made = region.ec2(&volume("me"));
    let id = made.split("<volumeId>").nth(1).and_then(|rest| rest.split('<').next()).expect(&made).to_owned();
    let refused = region.ec2(&volume("them"));
    assert!(
        refused.starts_with("HTTP/1.1 403") && refused.contains("<Code>UnauthorizedOperation</Code>"),
        "{refused}"
    );
    let named = "ec2:CreateVolume on resource: arn:aws:ec2:us-east-1:111122223333:volume/* because no";
    assert!(refused.contains(named), "{refused}");
    region.json(&["clock", "--advance", "60"]);
    // Tags are given at creation, and never later; a dry run is refused as the call is; a snapshot needs another file.
    for (form, expected) in [
        (format!("Action=CreateTags&ResourceId.1={id}&Tag.1.Key=a&Tag.1.Value=b"), "UnauthorizedOperation"),
        (format!("Action=CreateSnapshot&DryRun=true&VolumeId={id}"), "UnauthorizedOperation"),
        (format!("Action=DeleteVolume&DryRun=true&VolumeId={id}"), "DryRunOperation"),
        ("Action=DeleteVolume&VolumeId=vol-0badbadbadbadbad0".to_owned(), "InvalidVolume.NotFound"),
        ("Action=StopInstances".to_owned(), "UnauthorizedOperation"),
        ("Action=DescribeVolumes".to_owned(), "volumeSet"),
    ] {
        let answer = region.ec2(&format!("{form}&Version=2016-11-15"));
        assert!(answer.contains(expected), "{form}: {answer}");
    }
    let count = |region: &Region| region.json(&["dump"])["volumes"].as_object().unwrap().len();
    assert_eq!(count(&region), 1);
    region.kill();
    let again = Region::start(directory.path(), &["--speed", "0", "--state", state.to_str().unwrap()]);
    assert_eq!(count(&again), 1, "a refused call is not in the log");
}

#[test]
fn queues_are_under_the_policy_too() {
    let directory = tempfile::tempdir().unwrap();
    let calls = |region: &Region, queue: &str| {
        let named = format!("{{\"QueueName\":\"{queue}\"}}");
        let url = format!("{{\"QueueUrl\":\"http://any/111122223333/{queue}\"");
        [
            sqs(region, "GetQueueUrl", &named),
            sqs(region, "GetQueueAttributes", &format!("{url},\"AttributeNames\":[\"All\"]}}")),
            sqs(
                region,
                "SendMessageBatch",
                &format!("{url},\"Entries\":[{{\"Id\":\"1\",\"MessageBody\":\"m\"}}]}}"),
            ),
            sqs(region, "ReceiveMessage", &format!("{url},\"WaitTimeSeconds\":0}}")),
            sqs(region, "DeleteMessage", &format!("{url},\"ReceiptHandle\":\"h\"}}")),
            sqs(
                region,
                "ChangeMessageVisibility",
                &format!("{url},\"ReceiptHandle\":\"h\",\"VisibilityTimeout\":0}}"),
            ),
        ]
    };
    let refused = |answer: &String| {
        answer.starts_with("HTTP/1.1 403")
            && answer.contains("AccessDenied")
            && answer.contains("on resource: arn:aws:sqs:")
    };
    let (base, queues) = (policy_file(directory.path(), "base"), policy_file(directory.path(), "queues"));
    let names = ["--queue", "perennial-steps", "--queue", "others"];
    // Without the statement each call is refused; with it none is, and only on its queues.
    let region = Region::start(directory.path(), &[&["--policy", &base][..], &names].concat());
    assert!(calls(&region, "perennial-steps").iter().all(refused));
    let region =
        Region::start(directory.path(), &[&["--policy", &base, "--policy", &queues][..], &names].concat());
    for answer in calls(&region, "perennial-steps") {
        assert!(!refused(&answer), "{answer}");
    }
    assert!(calls(&region, "others").iter().all(refused));
    assert!(refused(&sqs(&region, "PurgeQueue", "{\"QueueUrl\":\"http://any/1/perennial-steps\"}")));
}

#[test]
fn a_policy_that_cannot_be_evaluated_stops_the_start_and_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.json");
    let document = |condition: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Sid":"One","Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{condition}}}]}}"#
        )
    };
    for (condition, expected) in [
        (
            r#"{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#,
            "One: IpAddress: aws:SourceIp: the operator is not evaluated here",
        ),
        (r#"{"StringEquals":{"aws:ResourceTag/perennial:owner":"{owner}"}}"#, "`perennial policy` does"),
    ] {
        std::fs::write(&path, document(condition)).unwrap();
        let output = perennial(directory.path(), &["region", "--policy", "p.json"]).output().unwrap();
        let told = transcript(&output);
        assert!(
            told.contains("p.json: One") && told.contains(expected) && told.ends_with("[exit 3]\n"),
            "{told}"
        );
    }
}
