//! A simulated region on the wire:
//! `cargo run -p perennial-sim --example region -- --port 0 --speed 10 --seed 1 [--state DIR] [--events-queue NAME]
//! [--queue NAME]… [--realistic] [--config FILE]`, in this order of precedence: what comes later counts. Prints its endpoint, then serves until it is interrupted.

use std::net::SocketAddr;
use std::process::ExitCode;

use perennial_engine::clock::Clock;
use perennial_sim::wire::{Options, config, run, wire_settings};
use perennial_sim::world::settings::Settings;

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its user")]
async fn main() -> ExitCode {
    let options = match read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let stop = async {
        _ = tokio::signal::ctrl_c().await;
    };
    match run(options, |endpoint| println!("{endpoint}"), stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            eprintln!("{error}{}", source.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::new(wire_settings(1), Clock::system().now_ms());
    while let Some(name) = arguments.next() {
        if name == "--realistic" {
            options.settings = Settings::realistic(options.settings.seed);
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let bad = |error: std::num::ParseIntError| format!("{name}: {error}");
        match name.as_str() {
            "--port" => {
                options.listen = SocketAddr::from(([127, 0, 0, 1], value.parse().map_err(bad)?));
            }
            "--speed" => {
                options.speed = value.parse().map_err(|e: std::num::ParseFloatError| e.to_string())?;
            }
            "--seed" => options.settings.seed = value.parse().map_err(bad)?,
            "--state" => options.state = Some(value.into()),
            "--events-queue" => options.events_queue = Some(value),
            "--queue" => options.queues.push(value),
            "--config" => {
                let text = std::fs::read_to_string(&value).map_err(|error| format!("{value}: {error}"))?;
                options = config::options(&text, options).map_err(|error| format!("{value}: {error}"))?;
            }
            other => return Err(format!("{other} is no option")),
        }
    }
    Ok(options)
}
