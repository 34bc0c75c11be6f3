//! The server of a simulated region.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use perennial_engine::clock::Clock;
use perennial_sim::policy::Policy;
use perennial_sim::wire::config::{ConfigError, options as read_file};
use perennial_sim::wire::{Options, RegionServer, StartError, wire_settings};
use perennial_sim::world::settings::Settings;
use serde_json::json;

use crate::commands::files;
use crate::commands::region::args::speed;
use crate::commands::signals::Signals;
use crate::failure::{Failure, chain};
use crate::installation::config::place;
use crate::output::{Format, Output};

/// Of the region itself. What is not given is the file's (`--config`), or the default.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Listen on this loopback port [default: any free one]
    #[arg(long)]
    port: Option<u16>,
    /// Listen on this address; anyone who reaches it has full access
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<IpAddr>,
    /// How many times as fast as real time; 0 stops time [default: 1]
    #[arg(long, value_parser = speed)]
    speed: Option<f64>,
    /// The seed of all random choices [default: 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the state in this directory, across restarts and kill -9
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Create an SQS queue, and NAME-dead for its dead letters; repeatable
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,
    /// Create an SQS queue that gets every EC2 event of the region
    #[arg(long, value_name = "NAME")]
    events_queue: Option<String>,
    /// Allow only what this IAM policy allows, to every client; repeatable
    #[arg(long = "policy", value_name = "FILE")]
    policies: Vec<PathBuf>,
    /// Use the call quotas, latencies and eventual consistency of AWS
    #[arg(long)]
    realistic: bool,
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
        for path in &self.policies {
            let read = Policy::parse(&files::read(path)?).map_err(|error| {
                Failure::configuration(format!("{}: {error}", path.display()))
                    .hint("docs/region.md lists what of a policy is evaluated")
            })?;
            options.policy = Some(options.policy.take().unwrap_or_default().and(read));
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

/// Serves until it is told to stop.
pub(crate) async fn serve(args: &ServeArgs, config: Option<&PathBuf>, output: Output) -> Result<(), Failure> {
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
        output.say("warning: anyone who reaches this address has full access; signatures are not checked");
    }
    match output.format {
        Format::Table | Format::Wide | Format::Name => output.text(&format!(
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
