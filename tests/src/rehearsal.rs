//! `perennial region` as a process, an installation of Perennial that takes it for AWS, and an outsider (boto3) who judges
//! what came of it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use perennial_sim::wire::RegionClient;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::resources::Resources;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::node::{DataMode, Handover, NetworkMode, PersistSpec, RootMode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::emulators::{Kind, python};
use crate::installation::{Installation, PATIENCE, binary};

/// The region's name, and the clients'.
const REGION: &str = "us-east-1";

/// The queue that gets the region's events.
pub const EVENTS: &str = "perennial-interruptions";

/// Every region has this image (`docs/region.md`).
const IMAGE: &str = "ami-00000000000000000";

/// Below it are well-known ports, above it those that the system gives to connections: a region that is killed must find its own
/// port free when it comes back.
const PORTS: std::ops::Range<u16> = 18_000..32_000;

/// For a region to say that it is ready, with a state to read.
const READY_MAX: Duration = Duration::from_secs(60);

/// The device of the data volume.
pub const DATA_DEVICE: &str = "/dev/sdf";
/// The device of the root, in the image that every region has.
pub const ROOT_DEVICE: &str = "/dev/xvda";

const VERDICT: &str = include_str!("../outsider/verdict.py");

/// A region in a process of its own, with a state that survives it.
#[derive(Debug)]
pub struct RegionProcess {
    directory: TempDir,
    port: u16,
    speed: f64,
    seed: u64,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RegionProcess {
    /// Starts one with further arguments, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(seed: u64, speed: f64, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut new = Self { directory, port: free_port(), speed, seed, arguments, child: None };
        new.restart().await;
        new
    }

    /// What clients are given as their endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its control surface.
    ///
    /// # Panics
    /// Never: the endpoint is one.
    #[must_use]
    pub fn client(&self) -> RegionClient {
        RegionClient::new(&self.endpoint()).expect("it is an endpoint")
    }

    /// Does something to it that must succeed.
    ///
    /// # Panics
    /// When the region refuses.
    pub async fn post(&self, deed: &str, body: Value) -> Value {
        let answer = self.client().post(deed, &body).await;
        answer.unwrap_or_else(|error| panic!("{deed} {body}: {error}\n{}", self.log()))
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the region runs");
        child.kill().expect("our own child can be killed");
        let status = child.wait().expect("our own child can be waited for");
        assert_eq!(status.code(), None, "the region had ended by itself: {status}\n{}", self.log());
    }

    /// Starts it again where it was, with its state.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "the region runs already");
        let ready = self.directory.path().join("ready");
        let output = File::create(&ready).expect("the directory can be written");
        let log =
            File::options().create(true).append(true).open(self.log_path()).expect("the log can be written");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary());
        command.args(["region", "--port", &self.port.to_string(), "--seed", &self.seed.to_string()]);
        command
            .args(["--speed", &self.speed.to_string(), "--state"])
            .arg(self.directory.path().join("state"));
        command.args(&self.arguments).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let child = command.stdin(Stdio::null()).stdout(output).stderr(log).spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("setpriv (util-linux): {error}")));
        let started = Instant::now();
        while !fs::read_to_string(&ready).is_ok_and(|said| said.starts_with("ready:")) {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok()).flatten() {
                panic!("the region has ended: {status}\n{}", self.log());
            }
            assert!(started.elapsed() < READY_MAX, "the region is not ready\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("region.log")
    }

    fn log(&self) -> String {
        format!("the region said:\n{}", fs::read_to_string(self.log_path()).unwrap_or_default())
    }
}

impl Drop for RegionProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// A port that nobody listens on. Test processes begin at different places; each goes through all of them.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    let begin = (std::process::id() % u32::from(count)) as u16;
    for _ in 0..count {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = PORTS.start + (begin + step) % count;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// Whose time the engine goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineClock {
    /// The region's (`cloud = "region"`).
    Region,
    /// The machine's (`cloud = "ec2"`), as on AWS: a fast region leaves little time then.
    Machine,
}

/// Where the engine's queues are; the events come by SQS in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineQueues {
    /// Embedded.
    Embedded,
    /// All on the region's SQS.
    Sqs,
}

/// A region and an installation that takes it for AWS.
#[derive(Debug)]
pub struct Rehearsal {
    /// The region.
    pub region: RegionProcess,
    /// The installation; its server runs.
    pub perennial: Installation,
    /// Of the first zone.
    pub subnet: String,
    /// Of the second zone.
    pub other_subnet: String,
}

impl Rehearsal {
    /// Starts both.
    ///
    /// # Panics
    /// When one of them does not start.
    pub async fn start(
        seed: u64,
        speed: f64,
        clock: EngineClock,
        queues: EngineQueues,
        arguments: &[&str],
    ) -> Self {
        let mut all =
            vec!["--events-queue", EVENTS, "--queue", "perennial-submissions", "--queue", "perennial-steps"];
        all.extend(arguments);
        let region = RegionProcess::start(seed, speed, &all).await;
        let (kind, steps) = match queues {
            EngineQueues::Embedded => ("embedded", "embedded:steps"),
            EngineQueues::Sqs => ("sqs", "sqs:perennial-steps"),
        };
        let cloud = match clock {
            EngineClock::Region => "region",
            EngineClock::Machine => "ec2",
        };
        let config = format!(
            "owner = \"default\"\ncloud = \"{cloud}\"\nlog = \"info\"\nsweep_every_s = 10\n\
             [queues]\nkind = \"{kind}\"\ninterruptions = \"sqs:{EVENTS}\"\nsteps = \"{steps}\"\n"
        );
        let endpoint = region.endpoint();
        let environment = [
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "any"),
            ("AWS_SECRET_ACCESS_KEY", "any"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ENDPOINT_URL", &endpoint),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mut perennial = Installation::new(&config, environment);
        perennial.start().await;
        let dump = region.client().get("dump").await.expect("the region tells what it is");
        let subnet_of = |zone: &str| {
            let mut subnets = dump["subnets"].as_object().into_iter().flatten();
            let found = subnets.find(|(_, subnet)| subnet["zone"] == format!("{REGION}{zone}"));
            found.expect("each zone has a subnet").0.clone()
        };
        let (subnet, other_subnet) = (subnet_of("a"), subnet_of("b"));
        Self { region, perennial, subnet, other_subnet }
    }

    /// Private addresses of the first zone's subnet, by their place in it, both ends included.
    ///
    /// # Panics
    /// When the region does not say what its subnet's network is.
    pub async fn addresses(&self, from: u32, to: u32) -> Vec<String> {
        self.addresses_in(&self.subnet, from, to).await
    }

    /// The same of any subnet.
    ///
    /// # Panics
    /// When the region does not say what its network is.
    pub async fn addresses_in(&self, subnet: &str, from: u32, to: u32) -> Vec<String> {
        let dump = self.region.client().get("dump").await.expect("the region tells what it is");
        let network =
            dump["subnets"][subnet]["network"].as_str().and_then(|text| text.parse::<Ipv4Addr>().ok());
        let network = network.expect("a subnet has a network").to_bits();
        (from..=to).map(|place| Ipv4Addr::from_bits(network + place).to_string()).collect()
    }

    /// A node file as JSON, of which YAML is more.
    #[must_use]
    pub fn node_file(&self, name: &str, persist: PersistSpec) -> Value {
        json!({
            "schema": "perennial.node/v1", "name": name, "image": IMAGE, "subnet": self.subnet,
            "capacity": {"instance_types": ["m6i.large", "m5.large"]},
            "persist": persist,
            "data_volumes": [{"name": "data", "device": DATA_DEVICE, "size_gib": 8}],
        })
    }

    /// Provisions nodes, and writes onto each of their volumes.
    ///
    /// # Panics
    /// When one of them is not provisioned.
    pub async fn apply(&mut self, files: &[Value]) -> Vec<Kept> {
        let name = |file: &Value| file["name"].as_str().expect("a node has a name").to_owned();
        for file in files {
            let path = format!("{}.yaml", name(file));
            self.perennial.write(&path, &file.to_string());
            let output = self.perennial.cli(&["node", "apply", "-f", &path]).await;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let mut all = Vec::new();
        for name in files.iter().map(name) {
            let before = self.at_rest(&name, 1).await.resources;
            let mut kept = Kept { name, before, root: Vec::new(), data: Vec::new() };
            assert!(self.write(&mut kept, "written in peace").await, "a running node can be written to");
            all.push(kept);
        }
        all
    }

    /// Writes through the guest, onto both volumes. Whether it could: an instance may be gone, a volume detached. What could be
    /// written must be there for ever.
    pub async fn write(&self, kept: &mut Kept, record: &str) -> bool {
        let instance = kept.before.carrier.as_ref().expect("it was provisioned").instance.to_string();
        let mut all = true;
        for (device, records) in [(ROOT_DEVICE, &mut kept.root), (DATA_DEVICE, &mut kept.data)] {
            let body = json!({ "instance": instance, "device": device, "record": record });
            match self.region.client().post("write", &body).await {
                Ok(_) => records.push(record.to_owned()),
                Err(_) => all = false,
            }
        }
        all
    }

    /// Takes a node's first instance away.
    pub async fn interrupt(&self, kept: &Kept, more: Value) {
        let instance = kept.before.carrier.as_ref().expect("it was provisioned").instance.to_string();
        let mut body = json!({ "instance": instance });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        self.region.post("interrupt", body).await;
    }

    /// Waits until a node is at rest after so many operations, on an instance that nobody takes away.
    ///
    /// # Panics
    /// When it never is.
    pub async fn at_rest(&mut self, name: &str, operations: u64) -> Node {
        let client = self.region.client();
        self.perennial
            .within(PATIENCE, &format!("{name} at rest after operation {operations}"), async |perennial| {
                let node = perennial.node(name).await;
                let carrier = node.resources.carrier.as_ref()?.instance.to_string();
                if node.operations < operations || node.open.is_some() {
                    return None;
                }
                let dump = client.get("dump").await.ok()?;
                let instance = &dump["instances"][&carrier];
                (instance["state"] == "running" && instance["reclaim_at_ms"].is_null()).then_some(node)
            })
            .await
    }

    /// Judges what came of a node, from outside: boto3 and what is on the volumes.
    ///
    /// # Panics
    /// With everything that is not as it should be.
    pub async fn check(&self, kept: &Kept, after: &Node) {
        // A root that is adopted is the very same volume, unless the journal says why an image of it had to do.
        let stream = format!("workflow/{}.", kept.name);
        let events = self.perennial.events().await;
        let mut replacements = events.iter().filter(|event| event.stream.as_str().starts_with(&stream));
        let fell = replacements.any(|event| event.data.kind == "operation.root_method_chosen");
        let mut expected = self.expectation(kept, after, fell);
        if let Some(known) = expected["known"].as_array_mut() {
            let backups = self.perennial.json(&["node", "backups", &kept.name]).await;
            known.extend(ids(&backups.to_string()).into_iter().map(Value::from));
        }
        let findings = verdict(&expected).await;
        let none = Vec::<String>::new();
        assert_eq!(findings, none, "{}: {expected:#}\n{}", kept.name, self.perennial.log_tail());
        let persist = after.spec.as_ref().expect("it is registered").persist;
        // An old root goes on as another volume where an image of it is taken or it comes to another zone.
        let replacements = after.generation.saturating_sub(1) as usize;
        let has_moved = kept.before.subnet != after.resources.subnet || after.resources.subnet.is_some();
        let old_roots = match persist.root {
            RootMode::Image => replacements,
            RootMode::Adopt if fell || has_moved => replacements,
            RootMode::Adopt | RootMode::None => 0,
        };
        let data_volumes = after.resources.volumes.keys().filter(|slot| **slot != Slot::Root).count();
        let copied = if copies_data(kept, after) || has_moved { data_volumes * replacements } else { 0 };
        let retained = &after.resources.retained;
        assert!(
            retained.len() <= old_roots + copied,
            "{}: more is retained than what went on as a copy: {retained:?}",
            kept.name
        );
    }

    /// What the outsider is to find, as he takes it. `fell`: an image of the root instead of the root itself will do.
    ///
    /// # Panics
    /// When the node has nothing to expect anything of.
    #[must_use]
    pub fn expectation(&self, kept: &Kept, after: &Node, fell: bool) -> Value {
        let spec = after.spec.as_ref().expect("it is registered");
        let (was, is) = (&kept.before, &after.resources);
        let root_of = |resources: &Resources| resources.volumes[&Slot::Root].volume.to_string();
        let data = Slot::Data(spec.data_volumes[0].name.clone());
        let root_kept = spec.persist.root != RootMode::None;
        let moved = is.subnet != was.subnet;
        let same_root = spec.persist.root == RootMode::Adopt && !fell && !moved;
        let data_volume = if copies_data(kept, after) { &is.volumes[&data] } else { &was.volumes[&data] };
        let kept_from = if moved { is } else { was };
        let address = kept_from.address.map(|address| address.to_string());
        let (interface, address) = match spec.persist.network {
            NetworkMode::None => (None, None),
            NetworkMode::SecondaryIp | NetworkMode::IpPool => (None, address),
            NetworkMode::PrimaryEni | NetworkMode::SecondaryEni => {
                (kept_from.interface.as_ref().map(|held| held.interface.to_string()), address)
            }
        };
        json!({
            "endpoint": self.region.endpoint(),
            "region": REGION,
            "owner": "default",
            "node": kept.name,
            "instance": is.carrier.as_ref().map(|carrier| carrier.instance.to_string()),
            "not_instance": was.carrier.as_ref().map(|carrier| carrier.instance.to_string()),
            "root_device": ROOT_DEVICE,
            "root_volume": root_kept.then(|| root_of(is)),
            "root_records": root_kept.then_some(&kept.root),
            "root_same_as": same_root.then(|| root_of(was)),
            "data_device": DATA_DEVICE,
            "data_volume": data_volume.volume.to_string(),
            "data_records": kept.data,
            "interface": interface,
            "interfaces": if spec.persist.network == NetworkMode::SecondaryEni { 2 } else { 1 },
            "address": address,
            "known": ids(&serde_json::to_string(is).expect("resources are JSON")),
        })
    }

    /// The journal is whole, and the region's model has no contradiction.
    ///
    /// # Panics
    /// When one of them is not so.
    pub async fn check_books(&self) {
        let report = self.perennial.json(&["journal", "verify"]).await;
        assert_eq!(report["findings"], json!([]), "{report}");
        let check = self.region.client().get("check").await.expect("the region checks itself");
        assert_eq!(check["violations"], json!([]), "{check}");
    }
}

/// Whether a node's data has gone on as a copy.
fn copies_data(kept: &Kept, after: &Node) -> bool {
    let spec = after.spec.as_ref().expect("it is registered");
    spec.persist.data == DataMode::Snapshot || after.resources.subnet != kept.before.subnet
}

/// What a node must bring back.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// What it was made of.
    pub before: Resources,
    /// What was written onto its root, in order.
    pub root: Vec<String>,
    /// What was written onto its data volume, in order.
    pub data: Vec<String>,
}

/// Every way of keeping a node's state that a node file can say, with a name for a node of it.
#[must_use]
pub fn modes() -> Vec<(String, PersistSpec)> {
    let mut modes = Vec::new();
    for (root, root_name) in
        [(RootMode::Adopt, "adopt"), (RootMode::Image, "image"), (RootMode::None, "none")]
    {
        for (handover, handover_name) in [(Handover::Terminate, "t"), (Handover::Detach, "d")] {
            for (network, network_name) in [
                (NetworkMode::PrimaryEni, "eni"),
                (NetworkMode::SecondaryEni, "eni2"),
                (NetworkMode::SecondaryIp, "ip"),
                (NetworkMode::None, "none"),
            ] {
                let persist = PersistSpec { root, network, handover, ..PersistSpec::default() };
                modes.push((format!("{root_name}-{handover_name}-{network_name}"), persist));
            }
        }
    }
    modes
}

/// Everything in a text that is an id of EC2's.
fn ids(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let is_id = |word: &&str| {
        word.split_once('-').is_some_and(|(kind, rest)| {
            ["i", "vol", "eni", "snap", "ami"].contains(&kind)
                && rest.len() >= 8
                && rest.bytes().all(|b| b.is_ascii_hexdigit())
        })
    };
    words.filter(is_id).map(str::to_owned).collect()
}

/// What the outsider has to say.
///
/// # Panics
/// When he cannot look.
pub async fn verdict(expected: &Value) -> Vec<String> {
    let python = python(Kind::Moto).unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new(python);
    command.args(["-c", VERDICT, &expected.to_string()]).stdin(Stdio::null());
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("the thread has not panicked");
    let output = output.expect("python runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the outsider failed: {}\n{complaint}", output.status);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("the outsider: {error}\n{complaint}"))
}
