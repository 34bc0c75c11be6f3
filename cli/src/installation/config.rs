//! The configuration: `perennial.toml`, overridden by `PERENNIAL_…` variables, overridden by flags.
//!
//! ```toml
//! owner = "default"            # in every tag: one installation sees only its own
//! data_dir = "./.perennial"    # the journal and the embedded queues
//! cloud = "ec2"                # for rehearsals "region": `perennial region` at AWS_ENDPOINT_URL, with its
//!                              # clock; or "sim": a region inside the process, which ends with it
//! sweep_every_s = 20           # between two looks for instances that were lost without an event
//! reserve_percent = 0          # of each of the account's request quotas, left to its other users
//! log = "info"                 # of `serve`, in tracing's syntax
//!
//! [queues]
//! kind = "sqs"                                  # "embedded" is the default: a file in the data directory
//! submissions = "perennial-submissions"         # a name; of SQS also a URL
//! interruptions = "https://sqs.eu-west-1.amazonaws.com/111122223333/spot-events"
//! steps = "embedded:steps"                      # a prefix gives one queue another kind
//!
//! [heads]                      # of the journal, noted outside of it
//! file = "/mnt/other/heads.jsonl"               # in the data directory by default
//! queue = "sqs:perennial-heads"                 # none by default
//! every_s = 3600
//!
//! [sim]                        # with cloud = "sim"
//! seed = 1
//! speed = 1.0                  # how many times as fast as real time
//! ```
//!
//! Each key has a variable: `PERENNIAL_OWNER`, `PERENNIAL_QUEUES_STEPS`, `PERENNIAL_SIM_SPEED`, … AWS's
//! region, credentials and endpoint follow AWS's own conventions and have no key here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_workers::cloud::planner::{RESERVE_MAX_PERCENT, Reserve};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::installation::journal_file;

/// Where the configuration is looked for unless it is named.
const DEFAULT_FILE: &str = "perennial.toml";
/// A tag's value has at most 256 characters (EC2 User Guide).
const OWNER_MAX: usize = 128;
/// More often than each second a sweep finds nothing new; less often than each hour it is no safety net.
const SWEEP_EVERY_S: std::ops::RangeInclusive<u64> = 1..=3_600;
/// A head a second is a test's; one a day leaves a day unproven.
const HEADS_EVERY_S: std::ops::RangeInclusive<u64> = 1..=86_400;
/// Beyond it the machine's own latencies look like minutes.
const SPEED_MAX: f64 = 10_000.0;

/// The content of the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    owner: Option<String>,
    data_dir: Option<PathBuf>,
    cloud: Option<CloudKind>,
    sweep_every_s: Option<u64>,
    reserve_percent: Option<u8>,
    log: Option<String>,
    #[serde(default)]
    queues: QueuesSection,
    #[serde(default)]
    heads: HeadsSection,
    #[serde(default)]
    sim: SimSection,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadsSection {
    file: Option<PathBuf>,
    queue: Option<String>,
    every_s: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueuesSection {
    kind: Option<QueueKind>,
    submissions: Option<String>,
    interruptions: Option<String>,
    steps: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SimSection {
    seed: Option<u64>,
    speed: Option<f64>,
}

/// Which cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CloudKind {
    /// AWS, or whatever answers at `AWS_ENDPOINT_URL`.
    Ec2,
    /// `perennial region` at `AWS_ENDPOINT_URL`: EC2's adapters, and the region's clock instead of the
    /// machine's.
    Region,
    /// A simulated region inside the process.
    Sim,
}

/// Which kind of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum QueueKind {
    /// A SQLite file in the data directory.
    Embedded,
    /// Amazon SQS.
    Sqs,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct QueueAddress {
    /// Its kind.
    pub(crate) kind: QueueKind,
    /// Its name; of SQS also a URL.
    pub(crate) name: String,
}

impl QueueAddress {
    /// Reads `embedded:NAME`, `sqs:NAME`, `sqs:URL`, a URL, or a name of the kind `default`.
    pub(crate) fn parse(text: &str, default: QueueKind) -> Result<Self, String> {
        let (kind, name) = match text.split_once(':') {
            Some(("embedded", name)) => (QueueKind::Embedded, name),
            Some(("sqs", name)) => (QueueKind::Sqs, name),
            Some(("http" | "https", _)) => (QueueKind::Sqs, text),
            Some((other, _)) => {
                return Err(format!("{other:?} is no kind of queue; use embedded:NAME, sqs:NAME or a URL"));
            }
            None => (default, text),
        };
        if name.is_empty() || name.len() > 1_000 || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("{:?} is no queue's name", name.chars().take(80).collect::<String>()));
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

impl QueueAddress {
    /// Its name without what stands before it in a URL.
    pub(crate) fn base_name(&self) -> &str {
        let name = self.name.split(['?', '#']).next().unwrap_or_default();
        match self.kind {
            QueueKind::Embedded => &self.name,
            QueueKind::Sqs => name.trim_end_matches('/').rsplit('/').next().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for QueueAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            QueueKind::Embedded => write!(f, "embedded:{}", self.name),
            QueueKind::Sqs => write!(f, "sqs:{}", self.name),
        }
    }
}

/// The three queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Queues {
    /// What is asked for.
    pub(crate) submissions: QueueAddress,
    /// AWS's events.
    pub(crate) interruptions: QueueAddress,
    /// Doorbells.
    pub(crate) steps: QueueAddress,
}

/// Where heads of the journal are noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Heads {
    /// The file.
    pub(crate) file: PathBuf,
    /// The queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<QueueAddress>,
    /// Between two of them.
    pub(crate) every_s: u64,
}

/// The settings of a command, complete.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Config {
    /// The file they came from, if there was one.
    pub(crate) file: Option<PathBuf>,
    /// Whose installation this is.
    pub(crate) owner: String,
    /// Whether the owner was chosen: real resources must not be anybody's by default.
    #[serde(skip)]
    pub(crate) owner_is_given: bool,
    /// Where journal and embedded queues are.
    pub(crate) data_dir: PathBuf,
    /// Which cloud.
    pub(crate) cloud: CloudKind,
    /// Between two sweeps.
    pub(crate) sweep_every_s: u64,
    /// Of each request quota, for the account's other users.
    pub(crate) reserve_percent: u8,
    /// What `serve` logs.
    pub(crate) log: String,
    /// The queues.
    pub(crate) queues: Queues,
    /// Where heads of the journal are noted.
    pub(crate) heads: Heads,
    /// Of the simulated region.
    pub(crate) sim_seed: u64,
    /// Of the simulated region.
    pub(crate) sim_speed: f64,
}

/// What flags say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// `--data`.
    pub(crate) data: Option<PathBuf>,
}

/// The section `[heads]`.
fn heads(
    env: &dyn Fn(&str) -> Option<String>,
    section: HeadsSection,
    kind: QueueKind,
    data_dir: &Path,
) -> Result<Heads, Failure> {
    let queue = env("PERENNIAL_HEADS_QUEUE").or(section.queue);
    let queue = queue.map(|text| QueueAddress::parse(&text, kind)).transpose();
    Ok(Heads {
        file: env("PERENNIAL_HEADS_FILE")
            .map(PathBuf::from)
            .or(section.file)
            .unwrap_or_else(|| data_dir.join("heads.jsonl")),
        queue: queue.map_err(|why| Failure::configuration(format!("heads.queue: {why}")))?,
        every_s: number("PERENNIAL_HEADS_EVERY_S", env)?.or(section.every_s).unwrap_or(3_600),
    })
}

impl Config {
    /// Reads the file, the environment and the flags.
    pub(crate) fn load(flags: &Overrides) -> Result<Self, Failure> {
        let (file, path) = match &flags.config {
            Some(path) => (Some(read(path)?), Some(path.clone())),
            None if Path::new(DEFAULT_FILE).is_file() => {
                (Some(read(Path::new(DEFAULT_FILE))?), Some(PathBuf::from(DEFAULT_FILE)))
            }
            None => (None, None),
        };
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::resolve(file.as_deref(), path, &env, flags)
    }

    fn resolve(
        text: Option<&str>,
        path: Option<PathBuf>,
        env: &dyn Fn(&str) -> Option<String>,
        flags: &Overrides,
    ) -> Result<Self, Failure> {
        let shown = path.as_ref().map_or_else(String::new, |path| path.display().to_string());
        let file: File = match text {
            Some(text) => toml::from_str(text).map_err(|error| {
                let (line, column) = place(text, error.span().map_or(0, |span| span.start));
                Failure::configuration(format!("{shown}:{line}:{column}: {}", error.message().trim()))
                    .hint("the keys are listed by `perennial --help` and in docs/cli.md")
            })?,
            None => File::default(),
        };
        let kind = match env("PERENNIAL_QUEUES_KIND") {
            Some(text) => word("PERENNIAL_QUEUES_KIND", &text)?,
            None => file.queues.kind.unwrap_or(QueueKind::Embedded),
        };
        let queue = |name: &str, from_file: Option<String>| {
            let variable = format!("PERENNIAL_QUEUES_{}", name.to_uppercase());
            let text = env(&variable).map(|text| (variable, text));
            let text = text.or(from_file.map(|text| (format!("queues.{name}"), text)));
            match text {
                Some((key, text)) => QueueAddress::parse(&text, kind)
                    .map_err(|why| Failure::configuration(format!("{key}: {why}"))),
                None => Ok(QueueAddress {
                    kind,
                    name: match kind {
                        QueueKind::Embedded => name.to_owned(),
                        QueueKind::Sqs => format!("perennial-{name}"),
                    },
                }),
            }
        };
        let owner = env("PERENNIAL_OWNER").or(file.owner);
        let data_dir = flags
            .data
            .clone()
            .or_else(|| env("PERENNIAL_DATA").or_else(|| env("PERENNIAL_DATA_DIR")).map(PathBuf::from))
            .or(file.data_dir)
            .unwrap_or_else(|| PathBuf::from("./.perennial"));
        let config = Self {
            owner_is_given: owner.is_some(),
            owner: owner.unwrap_or_else(|| "default".to_owned()),
            heads: heads(env, file.heads, kind, &data_dir)?,
            data_dir,
            cloud: match env("PERENNIAL_CLOUD") {
                Some(text) => word("PERENNIAL_CLOUD", &text)?,
                None => file.cloud.unwrap_or(CloudKind::Ec2),
            },
            sweep_every_s: number("PERENNIAL_SWEEP_EVERY_S", env)?.or(file.sweep_every_s).unwrap_or(20),
            reserve_percent: number("PERENNIAL_RESERVE_PERCENT", env)?.or(file.reserve_percent).unwrap_or(0),
            log: env("PERENNIAL_LOG").or(file.log).unwrap_or_else(|| "info".to_owned()),
            queues: Queues {
                submissions: queue("submissions", file.queues.submissions)?,
                interruptions: queue("interruptions", file.queues.interruptions)?,
                steps: queue("steps", file.queues.steps)?,
            },
            sim_seed: number("PERENNIAL_SIM_SEED", env)?.or(file.sim.seed).unwrap_or(1),
            sim_speed: number("PERENNIAL_SIM_SPEED", env)?.or(file.sim.speed).unwrap_or(1.0),
            file: path,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Failure> {
        let wrong = |text: String| Err(Failure::configuration(text));
        if !HEADS_EVERY_S.contains(&self.heads.every_s) {
            return wrong(format!(
                "heads.every_s is {}; use {} to {}",
                self.heads.every_s,
                HEADS_EVERY_S.start(),
                HEADS_EVERY_S.end()
            ));
        }
        if self.owner.is_empty()
            || self.owner.len() > OWNER_MAX
            || !self.owner.bytes().all(|b| b.is_ascii_graphic())
        {
            return wrong(format!("owner: use 1 to {OWNER_MAX} printable ASCII characters without spaces"));
        }
        if !SWEEP_EVERY_S.contains(&self.sweep_every_s) {
            return wrong(format!("sweep_every_s: {} is not between 1 and 3600", self.sweep_every_s));
        }
        if Reserve::percent(self.reserve_percent).is_none() {
            let most = RESERVE_MAX_PERCENT;
            return wrong(format!("reserve_percent: {} is not between 0 and {most}", self.reserve_percent));
        }
        if !(self.sim_speed > 0.0 && self.sim_speed <= SPEED_MAX) {
            return wrong(format!("sim.speed: {} is not between 0 and {SPEED_MAX}", self.sim_speed));
        }
        let queues = &self.queues;
        if queues.submissions == queues.interruptions
            || queues.submissions == queues.steps
            || queues.interruptions == queues.steps
        {
            return wrong(
                "queues: submissions, interruptions and steps must be three different queues".into(),
            );
        }
        let own = [&queues.submissions, &queues.interruptions, &queues.steps];
        if let Some(heads) = self.heads.queue.as_ref().filter(|heads| own.contains(heads)) {
            return wrong(format!(
                "heads.queue: {heads} is one of our own queues, which would read the heads"
            ));
        }
        Ok(())
    }

    /// The journal's file.
    pub(crate) fn journal_path(&self) -> PathBuf {
        journal_file::path_in(&self.data_dir)
    }

    /// What is left of the account's request quotas to its other users.
    pub(crate) fn reserve(&self) -> Reserve {
        Reserve::percent(self.reserve_percent).unwrap_or_default()
    }

    /// Between two sweeps.
    pub(crate) const fn sweep_every(&self) -> Duration {
        Duration::from_secs(self.sweep_every_s)
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::configuration(format!("{}: {error}", path.display())))
}

/// Line and column, from 1, of a byte of a text.
pub(crate) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}

fn word<T: for<'de> Deserialize<'de>>(key: &str, text: &str) -> Result<T, Failure> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|error| Failure::configuration(format!("{key}: {error}")))
}

fn number<T: std::str::FromStr>(
    key: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<T>, Failure> {
    env(key)
        .map(|text| {
            text.parse()
                .map_err(|_| Failure::configuration(format!("{key}: {text:?} is not a number that fits")))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::resolve(Some(text), Some("p.toml".into()), &env, &Overrides::default())
            .map_err(|failure| failure.lines().unwrap_or_default())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = resolve("", &[]).unwrap();
        assert_eq!(
            (config.owner.as_str(), config.cloud, config.sweep_every_s),
            ("default", CloudKind::Ec2, 20)
        );
        assert_eq!(config.reserve(), Reserve::default());
        assert_eq!(config.queues.steps.to_string(), "embedded:steps");
    }

    #[test]
    fn a_part_of_the_quotas_can_be_left_to_others_but_not_all_of_them() {
        let config = resolve("reserve_percent = 30", &[]).unwrap();
        assert_eq!(Some(config.reserve()), Reserve::percent(30));
        let error = resolve("", &[("PERENNIAL_RESERVE_PERCENT", "95")]).unwrap_err();
        assert!(error.contains("reserve_percent: 95 is not between 0 and 90"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let error = resolve("owner = \"x\"\n[queues]\nsubmission = \"q\"\n", &[]).unwrap_err();
        assert!(error.contains("p.toml:3:1") && error.contains("`submission`"), "{error}");
    }

    #[test]
    fn each_queue_may_be_of_its_own_kind() {
        let text =
            "[queues]\nkind = \"sqs\"\ninterruptions = \"https://sqs/1/spot\"\nsteps = \"embedded:bells\"\n";
        let queues = resolve(text, &[]).unwrap().queues;
        assert_eq!(queues.submissions.to_string(), "sqs:perennial-submissions");
        assert_eq!(queues.interruptions.to_string(), "sqs:https://sqs/1/spot");
        assert_eq!(queues.steps.to_string(), "embedded:bells");
        assert!(resolve("[queues]\nsteps = \"amqp:x\"", &[]).unwrap_err().contains("queues.steps"));
        assert!(resolve("[queues]\nsteps = \"submissions\"", &[]).unwrap_err().contains("three different"));
    }

    #[test]
    fn a_variable_goes_before_the_file() {
        let env = [
            ("PERENNIAL_OWNER", "me"),
            ("PERENNIAL_QUEUES_SUBMISSIONS", "sqs:s"),
            ("PERENNIAL_CLOUD", "sim"),
        ];
        let config = resolve("owner = \"you\"", &env).unwrap();
        assert_eq!((config.owner.as_str(), config.cloud), ("me", CloudKind::Sim));
        assert_eq!(config.queues.submissions.to_string(), "sqs:s");
        assert!(resolve("", &[("PERENNIAL_CLOUD", "gcp")]).unwrap_err().contains("PERENNIAL_CLOUD"));
        assert!(resolve("", &[("PERENNIAL_SWEEP_EVERY_S", "0")]).unwrap_err().contains("sweep_every_s"));
    }
}
