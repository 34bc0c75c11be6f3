//! `perennial region`: the simulated region on the wire, for any AWS client, and what can be done to it.
//!
//! Without a command it serves; every command asks the control surface of a region that runs (`docs/region.md`).

pub(crate) mod client;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use perennial_engine::clock::Clock;
use perennial_sim::wire::config::{ConfigError, options as read_file};
use perennial_sim::wire::{Options, RegionServer, StartError, wire_settings};
use perennial_sim::world::settings::Settings;
use serde_json::{Map, Value, json};

use crate::commands::files;
use crate::commands::region::client::{At, entries, instance, refused, volume_at};
use crate::commands::signals::Signals;
use crate::failure::{Failure, chain};
use crate::installation::config::place;
use crate::output::words;
use crate::output::{Format, Output, pairs, table};

/// The longest part of a volume's content that a table shows.
const RECORDS_SHOWN: usize = 20;

/// Of `region`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct RegionArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    deed: Option<RegionCommand>,
}

impl RegionArgs {
    /// Whether it is the server that is meant, which logs.
    pub(crate) fn serves(&self) -> bool {
        self.deed.is_none()
    }
}

/// Of the region itself. What is not given is the file's (`--config`), or the default.
#[derive(Debug, Args)]
struct ServeArgs {
    /// Listen on this port of loopback [default: any free one]
    #[arg(long)]
    port: Option<u16>,
    /// Listen on this address: whoever reaches it may do everything
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<IpAddr>,
    /// How many times as fast as real time; 0 stands still [default: 1]
    #[arg(long, value_parser = speed)]
    speed: Option<f64>,
    /// All chance in the region comes from it [default: 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the state here, over restarts and kill -9
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Make an SQS queue, and NAME-dead for its dead letters; may be repeated
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,
    /// The same, and it gets every EC2 event of the region
    #[arg(long, value_name = "NAME")]
    events_queue: Option<String>,
    /// Call quotas, latencies and eventual consistency as AWS has them
    #[arg(long)]
    realistic: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.0..=100_000.0).contains(&speed) => Ok(speed),
        _ => Err("use a number from 0 to 100000".to_owned()),
    }
}

fn field(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("use FIELD=VALUE, such as exit_code=1")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    Ok((name.to_owned(), value))
}

/// How a spot instance is told that it goes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum NoticeKind {
    /// By event, metadata and spot request
    Full,
    /// By metadata and spot request, without an event
    Silent,
    /// Not at all; it is terminated at once
    None,
    /// Not at all, and no event tells that it is gone
    Vanish,
}

/// A market of capacity.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum MarketKind {
    /// Spot capacity
    Spot,
    /// On-demand capacity
    OnDemand,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum FaultKind {
    /// Answered with an error, without effect
    Before,
    /// Answered with an error, after it took effect
    After,
    /// The connection is closed, nothing happened
    LostRequest,
    /// It took effect, and the connection is closed
    LostReply,
    /// Answered later
    Delay,
}

/// What can be done to a region.
#[derive(Debug, Subcommand)]
enum RegionCommand {
    /// Take a spot instance away, with two minutes' notice
    #[command(after_help = "Example: perennial region interrupt db-1 --lead 30")]
    Interrupt {
        /// The instance: its id, or its Name or perennial:node tag
        instance: String,
        /// Seconds of the region between notice and end [default: 120]
        #[arg(long, value_name = "SECONDS")]
        lead: Option<f64>,
        /// How it is told
        #[arg(long, value_enum, default_value_t = NoticeKind::Full)]
        notice: NoticeKind,
        /// A rebalance recommendation, so many seconds before the notice
        #[arg(long, value_name = "SECONDS")]
        rebalance_first: Option<f64>,
        #[command(flatten)]
        at: At,
    },
    /// Recommend a rebalance, nothing more
    #[command(after_help = "Example: perennial region rebalance db-1")]
    Rebalance {
        /// The instance
        instance: String,
        #[command(flatten)]
        at: At,
    },
    /// Take a notice back: warned, not interrupted
    #[command(after_help = "Example: perennial region spare db-1")]
    Spare {
        /// The instance
        instance: String,
        #[command(flatten)]
        at: At,
    },
    /// Terminate an instance as if somebody did it by hand
    #[command(after_help = "Example: perennial region terminate db-1")]
    Terminate {
        /// The instance
        instance: String,
        #[command(flatten)]
        at: At,
    },
    /// Let an instance's status checks fail, or pass again
    #[command(after_help = "Example: perennial region impair db-1")]
    Impair {
        /// The instance
        instance: String,
        /// They pass again
        #[arg(long)]
        heal: bool,
        #[command(flatten)]
        at: At,
    },
    /// Detach an interface as if somebody did it by hand
    #[command(after_help = "Example: perennial region detach-interface eni-0123456789abcdef0")]
    DetachInterface {
        /// The interface
        interface: String,
        #[command(flatten)]
        at: At,
    },
    /// Give or take the capacity of a pool
    #[command(after_help = "Example: perennial region capacity m6i.large 0 --zone us-east-1a")]
    Capacity {
        /// The instance type
        r#type: String,
        /// A number of launches, `unlimited` or `unsupported`
        capacity: String,
        /// Only in this zone
        #[arg(long)]
        zone: Option<String>,
        /// Of this market
        #[arg(long, value_enum, default_value_t = MarketKind::Spot)]
        market: MarketKind,
        #[command(flatten)]
        at: At,
    },
    /// Let calls go wrong; without a command, show what will
    #[command(after_help = "Example: perennial region faults add RunInstances lost-reply --next 2")]
    Faults {
        #[command(subcommand)]
        command: Option<FaultsCommand>,
        #[command(flatten)]
        at: At,
    },
    /// Let the next launch end terminated, with a reason
    #[command(after_help = "Example: perennial region fail-launch Client.InternalError")]
    FailLaunch {
        /// The code of the reason
        #[arg(default_value = "Server.InternalError")]
        reason: String,
        #[command(flatten)]
        at: At,
    },
    /// Let the next attachment or detachment of a volume hang
    #[command(after_help = "Example: perennial region stick detach")]
    Stick {
        /// attach or detach
        what: String,
        #[command(flatten)]
        at: At,
    },
    /// Show the region's time; move it, or change its speed
    #[command(after_help = "Example: perennial region clock --advance 3600")]
    Clock {
        /// Seconds to go ahead at once
        #[arg(long, value_name = "SECONDS")]
        advance: Option<f64>,
        /// How many times as fast as real time from now on
        #[arg(long, value_parser = speed)]
        speed: Option<f64>,
        #[command(flatten)]
        at: At,
    },
    /// Write a record onto a volume, as the software on it would
    #[command(after_help = "Example: perennial region write db-1 /dev/sdf 'order 4711'")]
    Write {
        /// The instance with the volume; or a volume's id, and then no device
        target: String,
        /// The device, and the record; of a volume the record alone
        #[arg(required = true, num_args = 1..=2, value_names = ["DEVICE", "RECORD"])]
        what: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Show what is on a volume, also when it is deleted
    #[command(after_help = "Example: perennial region read db-1 /dev/sdf")]
    Read {
        /// The volume's id; or the instance with it, and then its device
        target: String,
        /// The device
        device: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Show what there is, in tables; as JSON the whole world
    #[command(after_help = "Example: perennial region dump --output json | jq .volumes")]
    Dump {
        #[command(flatten)]
        at: At,
    },
    /// Show what an owner has too much; exit 1 if anything
    #[command(after_help = "Example: perennial region leaks --owner default --expected i-0123456789abcdef0")]
    Leaks {
        /// The value of the tag perennial:owner
        #[arg(long, default_value = "default")]
        owner: String,
        /// An id that may exist; may be repeated
        #[arg(long = "expected", value_name = "ID")]
        expected: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Do anything that the control surface knows (docs/region.md)
    #[command(after_help = "Example: perennial region post command contains=backup exit_code=1")]
    Post {
        /// What, such as `mount` or `command`
        deed: String,
        /// With these fields; a value is JSON, or else a text
        #[arg(value_name = "FIELD=VALUE", value_parser = field)]
        fields: Vec<(String, Value)>,
        #[command(flatten)]
        at: At,
    },
    /// Check the invariants of the model; exit 1 if one is broken
    #[command(after_help = "Example: perennial region check")]
    Check {
        #[command(flatten)]
        at: At,
    },
    /// Show the newest calls, and parameters that mean nothing here
    #[command(after_help = "Example: perennial region calls | tail")]
    Calls {
        #[command(flatten)]
        at: At,
    },
}

/// What can be done about calls that go wrong.
#[derive(Debug, Subcommand)]
enum FaultsCommand {
    /// Let calls go wrong
    #[command(after_help = "Example: perennial region faults add RunInstances after --code InternalError")]
    Add {
        /// A call of any service by its name, `acts`, `looks` or `*`
        action: String,
        /// What goes wrong
        #[arg(value_enum)]
        fault: FaultKind,
        /// The code that is answered before or after [default: InternalError]
        #[arg(long)]
        code: Option<String>,
        /// How much later, in milliseconds
        #[arg(long, required_if_eq("fault", "delay"))]
        delay_ms: Option<u64>,
        /// The next N [default: 1]
        #[arg(long, value_name = "N", group = "when")]
        next: Option<u64>,
        /// The N-th from now
        #[arg(long, value_name = "N", group = "when")]
        nth: Option<u64>,
        /// So many of a thousand
        #[arg(long, value_name = "N", group = "when")]
        per_mille: Option<u64>,
        /// Every one
        #[arg(long, group = "when")]
        always: bool,
    },
    /// Let no call go wrong any more
    Clear,
}

/// Runs it. `config` is the file of the region.
pub(crate) async fn run(args: &RegionArgs, config: Option<&PathBuf>, output: Output) -> Result<(), Failure> {
    match &args.deed {
        None => serve(&args.serve, config, output).await,
        Some(deed) => act(deed, output).await,
    }
}

impl ServeArgs {
    /// The file's options, with what the flags say put over them.
    fn options(&self, file: Option<&PathBuf>) -> Result<Options, Failure> {
        let mut options = Options::new(wire_settings(1), Clock::system().now_ms());
        if self.realistic {
            options.settings = Settings::realistic(options.settings.seed);
        }
        if let Some(path) = file {
            let text = files::read(path)?;
            options = read_file(&text, options).map_err(|error| file_failure(path, &text, &error))?;
        }
        if let Some(address) = self.listen {
            options.listen.set_ip(address);
        }
        if let Some(port) = self.port {
            options.listen.set_port(port);
        }
        if let Some(seed) = self.seed {
            options.settings.seed = seed;
        }
        if let Some(speed) = self.speed {
            options.speed = speed;
        }
        if let Some(state) = &self.state {
            options.state = Some(state.clone());
        }
        options.queues.extend(self.queues.iter().cloned());
        if let Some(name) = &self.events_queue {
            options.events_queue = Some(name.clone());
        }
        Ok(options)
    }
}

/// A mistake in the file, with its place.
fn file_failure(path: &Path, text: &str, error: &ConfigError) -> Failure {
    let shown = path.display();
    let message = match error {
        ConfigError::Syntax(error) => {
            let (line, column) = place(text, error.span().map_or(0, |span| span.start));
            format!("{shown}:{line}:{column}: {}", error.message().trim())
        }
        ConfigError::Value { .. } => format!("{shown}: {}", chain(error)),
    };
    Failure::configuration(message).hint("examples/region.toml has every key")
}

async fn serve(args: &ServeArgs, config: Option<&PathBuf>, output: Output) -> Result<(), Failure> {
    let options = args.options(config)?;
    let mut signals = Signals::new()?;
    let (listen, speed, seed) = (options.listen, options.speed, options.settings.seed);
    let name = options.settings.region.clone();
    let server = RegionServer::bind(options).await.map_err(start_failure)?;
    // What a person copies is an address that can be reached: 0.0.0.0 cannot.
    let reached = match listen.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.address().port()),
        _ => server.address(),
    };
    let endpoint = format!("http://{reached}");
    if !listen.ip().is_loopback() {
        output.say("warning: whoever reaches this address may do everything; signatures are not checked");
    }
    match output.format {
        Format::Table => output.text(&format!(
            "ready: {endpoint}, region {name}, speed {speed}, seed {seed}\n\
             export AWS_ENDPOINT_URL={endpoint} AWS_REGION={name} AWS_DEFAULT_REGION={name} \
             AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any"
        ))?,
        Format::Json => output.json_line(
            &json!({"ready": true, "endpoint": endpoint, "region": name, "speed": speed, "seed": seed}),
        )?,
    }
    server.serve(signals.next()).await.map_err(start_failure)
}

fn start_failure(error: StartError) -> Failure {
    let text = chain(&error);
    match error {
        StartError::Listen { .. } => {
            Failure::environment(text).hint("name another port with --port, or 0 for any")
        }
        StartError::State { .. } => Failure::environment(text)
            .hint("begin anew in another directory with --state DIR, or with the options it was begun with"),
        StartError::Queue { .. } => Failure::user(text),
    }
}

/// A request without what was not said.
fn request<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let said = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

async fn act(deed: &RegionCommand, output: Output) -> Result<(), Failure> {
    match deed {
        RegionCommand::Interrupt { instance: name, lead, notice, rebalance_first, at } => {
            let client = at.client()?;
            let id = instance(&client, name).await?;
            let notice = match notice {
                NoticeKind::Full => "full",
                NoticeKind::Silent => "silent",
                NoticeKind::None => "none",
                NoticeKind::Vanish => "vanish",
            };
            let body = request([
                ("instance", json!(id)),
                ("notice", json!(notice)),
                ("lead_s", json!(lead)),
                ("rebalance_first_s", json!(rebalance_first)),
            ]);
            let answer = client.post("interrupt", &body).await.map_err(refused)?;
            output.show(&answer, || match (answer["reclaim_at_ms"].as_u64(), answer["now_ms"].as_u64()) {
                (Some(end), Some(now)) if end > now => {
                    format!("{id} will be taken in {} s of the region", (end - now).div_ceil(1000))
                }
                _ => format!("{id} was taken"),
            })
        }
        RegionCommand::Rebalance { instance, at } => done("rebalance", at, instance, json!({}), output).await,
        RegionCommand::Spare { instance, at } => done("spare", at, instance, json!({}), output).await,
        RegionCommand::Terminate { instance, at } => done("terminate", at, instance, json!({}), output).await,
        RegionCommand::Impair { instance, heal, at } => {
            done("impair", at, instance, json!({ "impaired": !heal }), output).await
        }
        RegionCommand::DetachInterface { interface, at } => {
            posted("detach-interface", at, json!({ "interface": interface }), output).await
        }
        RegionCommand::Capacity { r#type, capacity, zone, market, at } => {
            let capacity = capacity.parse::<u32>().map_or_else(|_| json!(capacity), |number| json!(number));
            let market = match market {
                MarketKind::Spot => "spot",
                MarketKind::OnDemand => "on-demand",
            };
            let body = request([
                ("type", json!(r#type)),
                ("capacity", capacity),
                ("zone", json!(zone)),
                ("market", json!(market)),
            ]);
            posted("capacity", at, body, output).await
        }
        RegionCommand::Faults { command: None, at } => {
            let answer = at.client()?.get("faults").await.map_err(refused)?;
            output.show(&answer, || {
                let rules = answer["faults"].as_array().into_iter().flatten();
                let rows = rules.map(|rule| vec![text(&rule["seen"]), text(&rule["rule"])]);
                table(&["SEEN", "RULE"], &[0], rows)
            })
        }
        RegionCommand::Faults { command: Some(FaultsCommand::Clear), at } => {
            at.client()?.delete("faults").await.map_err(refused)?;
            output.show(&json!({}), || "done".to_owned())
        }
        RegionCommand::Faults { command: Some(add), at } => posted("faults", at, fault(add), output).await,
        RegionCommand::FailLaunch { reason, at } => {
            posted("fail-launch", at, json!({ "reason": reason }), output).await
        }
        RegionCommand::Stick { what, at } => posted("stick", at, json!({ "what": what }), output).await,
        RegionCommand::Clock { advance, speed, at } => {
            let client = at.client()?;
            let answer = match (advance, speed) {
                (None, None) => client.get("clock").await,
                _ => {
                    let body = request([("advance_s", json!(advance)), ("speed", json!(speed))]);
                    client.post("clock", &body).await
                }
            };
            let answer = answer.map_err(refused)?;
            output.show(&answer, || {
                let now = answer["now_ms"].as_u64().unwrap_or_default();
                format!("{}, {} times as fast as real time", words::time(now), answer["speed"])
            })
        }
        RegionCommand::Write { target, what, at } => {
            let client = at.client()?;
            let body = match what.as_slice() {
                [record] => json!({ "volume": target, "record": record }),
                [device, record, ..] => {
                    json!({ "instance": instance(&client, target).await?, "device": device, "record": record })
                }
                [] => return Err(Failure::internal("BUG: a write without a record")),
            };
            let answer = client.post("write", &body).await.map_err(refused)?;
            output.show(&answer, || "written".to_owned())
        }
        RegionCommand::Read { target, device, at } => {
            let client = at.client()?;
            let volume = match device {
                None => target.clone(),
                Some(device) => volume_at(&client, target, device).await?,
            };
            let answer = client.get(&format!("volumes/{volume}")).await.map_err(refused)?;
            output.show(&answer, || {
                let records: Vec<_> = answer["content"].as_array().into_iter().flatten().map(text).collect();
                let skipped = records.len().saturating_sub(RECORDS_SHOWN);
                let mut lines: Vec<_> = records[skipped..].to_vec();
                if skipped > 0 {
                    lines.insert(0, format!("({skipped} older records)"));
                }
                lines.join("\n")
            })
        }
        RegionCommand::Dump { at } => {
            let answer = at.client()?.get("dump").await.map_err(refused)?;
            output.show(&answer, || overview(&answer))
        }
        RegionCommand::Leaks { owner, expected, at } => {
            let answer = at.client()?.leaks(owner, expected).await.map_err(refused)?;
            findings(&answer, "leaks", "nothing beyond what is expected", output)
        }
        RegionCommand::Post { deed, fields, at } => {
            let body = Value::Object(fields.iter().cloned().collect());
            let answer = at.client()?.post(deed, &body).await.map_err(refused)?;
            output.json(&answer)
        }
        RegionCommand::Check { at } => {
            let answer = at.client()?.get("check").await.map_err(refused)?;
            findings(&answer, "violations", "every invariant holds", output)
        }
        RegionCommand::Calls { at } => {
            let answer = at.client()?.get("calls").await.map_err(refused)?;
            output.show(&answer, || {
                let calls = answer["calls"].as_array().into_iter().flatten();
                let rows = calls.map(|call| {
                    let ignored: Vec<_> =
                        call["ignored"].as_array().into_iter().flatten().map(text).collect();
                    let mut said = text(&call["code"]);
                    if !ignored.is_empty() {
                        said.push_str(&format!(" ignored: {}", ignored.join(", ")));
                    }
                    let at_ms = call["at_ms"].as_u64().unwrap_or_default();
                    vec![words::time(at_ms), text(&call["status"]), text(&call["action"]), said]
                });
                table(&["TIME", "STATUS", "ACTION", "CODE"], &[], rows)
            })
        }
    }
}

fn fault(command: &FaultsCommand) -> Value {
    let FaultsCommand::Add { action, fault, code, delay_ms, next, nth, per_mille, always } = command else {
        return Value::Null;
    };
    let fault = match fault {
        FaultKind::Before => "before",
        FaultKind::After => "after",
        FaultKind::LostRequest => "lost_request",
        FaultKind::LostReply => "lost_reply",
        FaultKind::Delay => "delay",
    };
    request([
        ("action", json!(action)),
        ("fault", json!(fault)),
        ("code", json!(code)),
        ("delay_ms", json!(delay_ms)),
        ("next", json!(next)),
        ("nth", json!(nth)),
        ("per_mille", json!(per_mille)),
        ("always", json!(always.then_some(true))),
    ])
}

/// Does something to an instance.
async fn done(deed: &str, at: &At, name: &str, mut body: Value, output: Output) -> Result<(), Failure> {
    let client = at.client()?;
    body["instance"] = json!(instance(&client, name).await?);
    let answer = client.post(deed, &body).await.map_err(refused)?;
    output.show(&answer, || "done".to_owned())
}

async fn posted(deed: &str, at: &At, body: Value, output: Output) -> Result<(), Failure> {
    let answer = at.client()?.post(deed, &body).await.map_err(refused)?;
    output.show(&answer, || "done".to_owned())
}

/// Shows a list that should be empty.
fn findings(answer: &Value, name: &str, none: &str, output: Output) -> Result<(), Failure> {
    let found: Vec<_> = answer[name].as_array().into_iter().flatten().map(text).collect();
    output.show(answer, || if found.is_empty() { none.to_owned() } else { found.join("\n") })?;
    match found.len() {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{name}: {count}"))),
    }
}

/// What is there, in tables.
fn overview(dump: &Value) -> String {
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

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
