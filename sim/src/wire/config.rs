//! The file a region is described in (`examples/region.toml`), and the parts of it that the control surface
//! takes as JSON too.
//!
//! Pure: text in, [`Options`] out. Absent keys stay as they were, so that defaults go before the file and
//! command-line flags after it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use perennial_workflows::model::aws::Market;
use serde::Deserialize;

use super::options::{Options, wire_settings};
use super::rules::EventTrouble;
use super::sqs::model::Trouble as QueueTrouble;
use crate::faults::{Fault, Rule, Target, When};
use crate::world::Shape;
use crate::world::settings::{
    Capacity, CountQuotas, Guest, Latencies, Pool, Quotas, RequestQuotas, RootAdoption, Settings, Span,
};

/// The fastest clock: a day of the region in a second of the machine.
pub(crate) const SPEED_MAX: f64 = 100_000.0;
/// The longest any length of time in a file may be: ten years.
const LENGTH_MAX_MS: u64 = 315_360_000_000;
/// Quotas that an account can have, in percent of the published ones.
const QUOTA_PERCENT_MAX: u32 = 10_000;
/// The same of one action, in calls.
const QUOTA_MAX: u64 = 1_000_000;
/// The longest a call is held up on purpose: clients give up long before.
const DELAY_MAX_MS: u64 = 600_000;
/// Rules of trouble at once.
pub(crate) const RULES_MAX: usize = 1_000;
/// Pools with a capacity of their own: every listed type in every zone on both markets, many times over.
const POOLS_MAX: usize = 1_000;
/// Queues that are made at the start.
const QUEUES_MAX: usize = 1_000;

/// Why a file does not describe a region.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no TOML, or has a key that is not known, or a value of another type. The text shows the place.
    #[error("the region's file cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A value is not possible.
    #[error("{key}: {why}")]
    Value {
        /// Where in the file, such as `capacity[0].zone`.
        key: String,
        /// Why.
        why: String,
    },
}

fn refused(key: impl Into<String>, why: impl Into<String>) -> ConfigError {
    ConfigError::Value { key: key.into(), why: why.into() }
}

/// Reads a region's file over `base`.
///
/// `realistic` replaces the settings of `base` as a whole (`true`: [`Settings::realistic`], `false`:
/// [`wire_settings`]); every other key changes only what it names. A relative `state` stays relative.
///
/// # Errors
/// [`ConfigError`], which names the key.
pub fn options(text: &str, base: Options) -> Result<Options, ConfigError> {
    let file: File = toml::from_str(text)?;
    let mut options = base;
    let seed = file.seed.unwrap_or(options.settings.seed);
    match file.realistic {
        Some(true) => options.settings = Settings::realistic(seed),
        Some(false) => options.settings = wire_settings(seed),
        None => options.settings.seed = seed,
    }
    if let Some(speed) = file.speed {
        options.speed = checked_speed(speed).map_err(|why| refused("speed", why))?;
    }
    options.listen = file.listen_at(options.listen)?;
    options.state = file.state.or(options.state);
    options.events_queue = file.events_queue.or(options.events_queue);
    options.queues.extend(file.queues.unwrap_or_default());
    if options.queues.len() > QUEUES_MAX {
        return Err(refused("queues", format!("more than {QUEUES_MAX}")));
    }
    let settings = &mut options.settings;
    if let Some(region) = file.region {
        if !is_region(&region) {
            return Err(refused("region", format!("{region} is no region's name; such as us-east-1")));
        }
        settings.region = region;
    }
    if let Some(word) = file.quotas {
        settings.quotas = word.into();
    }
    if let Some(word) = file.snapshot_quotas {
        settings.snapshot_quotas = word.into();
    }
    if let Some(quotas) = file.request_quotas {
        settings.request_quotas = checked_quotas(quotas).map_err(|why| refused("request_quotas", why))?;
    }
    if let Some(quotas) = file.count_quotas {
        settings.count_quotas = quotas;
    }
    settings.spot_limit = file.spot_limit.or(settings.spot_limit);
    settings.on_demand_limit = file.on_demand_limit.or(settings.on_demand_limit);
    if let Some(value) = &file.unknown_for_ms {
        settings.unknown_for = span("unknown_for_ms", value)?;
    }
    if let Some(value) = &file.stale_for_ms {
        settings.stale_for = span("stale_for_ms", value)?;
    }
    if let Some(word) = file.guest {
        settings.guest = match word {
            GuestWord::Mounts => Guest::Mounts,
            GuestWord::Ignores => Guest::Ignores,
        };
    }
    if let Some(word) = file.root_adoption {
        settings.root_adoption = word.into();
    }
    file.latencies_ms.unwrap_or_default().over(&mut settings.latencies)?;
    if let Some(trouble) = file.queue_trouble {
        options.queue_trouble = Some(trouble.checked().map_err(|why| refused("queue_trouble", why))?);
    }
    if let Some(trouble) = file.event_trouble {
        options.event_trouble = Some(trouble.checked().map_err(|why| refused("event_trouble", why))?);
    }
    let zones = settings.zones();
    for (n, spec) in file.capacity.unwrap_or_default().into_iter().enumerate() {
        let pools = spec.pools(&zones).map_err(|(key, why)| refused(format!("capacity[{n}].{key}"), why))?;
        settings.capacity.extend(pools);
        if settings.capacity.len() > POOLS_MAX {
            return Err(refused("capacity", format!("more than {POOLS_MAX} pools")));
        }
    }
    for (n, spec) in file.faults.unwrap_or_default().into_iter().enumerate() {
        let rule = spec.rule().map_err(|(key, why)| refused(format!("faults[{n}].{key}"), why))?;
        options.faults.push(rule);
        if options.faults.len() > RULES_MAX {
            return Err(refused("faults", format!("more than {RULES_MAX}")));
        }
    }
    Ok(options)
}

/// Buckets that a meter can count in thousandths.
fn checked_quotas(quotas: RequestQuotas) -> Result<RequestQuotas, String> {
    let largest = quotas.custom.iter().map(|custom| custom.burst.max(custom.per_minute)).max();
    if quotas.percent > QUOTA_PERCENT_MAX {
        Err(format!("percent is more than {QUOTA_PERCENT_MAX}"))
    } else if largest > Some(QUOTA_MAX) {
        Err(format!("a custom bucket has more than {QUOTA_MAX}"))
    } else if quotas.custom.len() > RULES_MAX {
        Err(format!("custom has more than {RULES_MAX} buckets"))
    } else {
        Ok(quotas)
    }
}

/// A speed that a clock can have.
pub(crate) fn checked_speed(speed: f64) -> Result<f64, String> {
    if (0.0..=SPEED_MAX).contains(&speed) {
        Ok(speed)
    } else {
        Err(format!("a speed is between 0 and {SPEED_MAX}"))
    }
}

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    seed: Option<u64>,
    speed: Option<f64>,
    port: Option<u16>,
    listen: Option<String>,
    state: Option<PathBuf>,
    realistic: Option<bool>,
    region: Option<String>,
    queues: Option<Vec<String>>,
    events_queue: Option<String>,
    quotas: Option<QuotaWord>,
    snapshot_quotas: Option<QuotaWord>,
    request_quotas: Option<RequestQuotas>,
    count_quotas: Option<CountQuotas>,
    spot_limit: Option<u32>,
    on_demand_limit: Option<u32>,
    unknown_for_ms: Option<toml::Value>,
    stale_for_ms: Option<toml::Value>,
    guest: Option<GuestWord>,
    root_adoption: Option<AdoptionWord>,
    latencies_ms: Option<LatencyTable>,
    queue_trouble: Option<QueueTrouble>,
    event_trouble: Option<EventTrouble>,
    capacity: Option<Vec<AddressPoolSpec>>,
    faults: Option<Vec<FaultSpec>>,
}

impl File {
    fn listen_at(&self, base: SocketAddr) -> Result<SocketAddr, ConfigError> {
        let listen = match &self.listen {
            None => base,
            Some(_) if self.port.is_some() => {
                return Err(refused("port", "listen has the port too: give one of them"));
            }
            Some(text) => {
                let whole = text.parse::<SocketAddr>();
                let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, base.port()));
                whole
                    .or_else(|_| alone())
                    .map_err(|_| refused("listen", format!("{text} is no address; such as 127.0.0.1:4566")))?
            }
        };
        Ok(SocketAddr::new(listen.ip(), self.port.unwrap_or(listen.port())))
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum QuotaWord {
    Off,
    Published,
}

impl From<QuotaWord> for Quotas {
    fn from(word: QuotaWord) -> Self {
        match word {
            QuotaWord::Off => Self::Off,
            QuotaWord::Published => Self::Published,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum GuestWord {
    Mounts,
    Ignores,
}

/// The result of a replacement of a root by a volume.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AdoptionWord {
    Supported,
    Unsupported,
    Fails,
    FailsDetached,
}

impl From<AdoptionWord> for RootAdoption {
    fn from(word: AdoptionWord) -> Self {
        match word {
            AdoptionWord::Supported => Self::Supported,
            AdoptionWord::Unsupported => Self::Unsupported("UnsupportedOperation".to_owned()),
            AdoptionWord::Fails => Self::FailsEachTime,
            AdoptionWord::FailsDetached => Self::FailedDetached,
        }
    }
}

/// A length, or the shortest and the longest.
fn span(key: &str, value: &toml::Value) -> Result<Span, ConfigError> {
    let length = |value: &toml::Value| {
        let ms = value.as_integer().and_then(|ms| u64::try_from(ms).ok());
        ms.filter(|ms| *ms <= LENGTH_MAX_MS)
    };
    let bounds = match value {
        toml::Value::Array(all) if all.len() == 2 => length(&all[0]).zip(length(&all[1])),
        one => length(one).map(|ms| (ms, ms)),
    };
    bounds
        .filter(|(min_ms, max_ms)| min_ms <= max_ms)
        .map(|(min_ms, max_ms)| Span::ms(min_ms, max_ms))
        .ok_or_else(|| {
            refused(key, format!("a number of milliseconds up to {LENGTH_MAX_MS}, or [shortest, longest]"))
        })
}

macro_rules! latency_table {
    ($($name:ident),* $(,)?) => {
        /// The latencies in the file.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct LatencyTable { $($name: Option<toml::Value>,)* }

        impl LatencyTable {
            fn over(&self, latencies: &mut Latencies) -> Result<(), ConfigError> {
                $(if let Some(value) = &self.$name {
                    latencies.$name = span(concat!("latencies_ms.", stringify!($name)), value)?;
                })*
                Ok(())
            }
        }
    };
}

latency_table!(
    look,
    act,
    launch,
    start,
    shutdown,
    release,
    memory,
    checks,
    create_volume,
    attach,
    detach,
    delete_volume,
    snapshot,
    image,
    replace_root,
    move_address,
    modify_volume,
    optimize_volume,
    target_check,
    command_visible,
    command_deliver,
);

/// The field that is wrong, and why.
type Wrong = (&'static str, String);

/// The capacity of a pool, or of one type in every zone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddressPoolSpec {
    r#type: String,
    zone: Option<String>,
    #[serde(default)]
    market: MarketWord,
    capacity: CapacityWord,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MarketWord {
    #[default]
    Spot,
    OnDemand,
}

/// A number of launches, or a word.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "capacity: a number, unlimited or unsupported")]
enum CapacityWord {
    Free(i64),
    Word(String),
}

impl AddressPoolSpec {
    /// The pools that are meant.
    pub(crate) fn pools(self, zones: &[String]) -> Result<Vec<Pool>, Wrong> {
        if Shape::of(&self.r#type).is_none() {
            return Err(("type", format!("{} is no instance type", self.r#type)));
        }
        let capacity = match &self.capacity {
            CapacityWord::Free(free) => u32::try_from(*free).ok().map(Capacity::Free),
            CapacityWord::Word(word) if word == "unlimited" => Some(Capacity::Unlimited),
            CapacityWord::Word(word) if word == "unsupported" => Some(Capacity::Unsupported),
            CapacityWord::Word(_) => None,
        };
        let capacity =
            capacity.ok_or_else(|| ("capacity", "a number, unlimited or unsupported".to_owned()))?;
        let market = match self.market {
            MarketWord::Spot => Market::Spot,
            MarketWord::OnDemand => Market::OnDemand,
        };
        let zones = match self.zone {
            None => zones.to_vec(),
            Some(zone) if zones.contains(&zone) => vec![zone],
            Some(zone) => return Err(("zone", format!("{zone} is none of {}", zones.join(", ")))),
        };
        let pool = |zone| Pool { instance_type: self.r#type.clone(), zone, market, capacity };
        Ok(zones.into_iter().map(pool).collect())
    }
}

/// One kind of trouble.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultSpec {
    fault: FaultWord,
    action: Option<String>,
    next: Option<u64>,
    nth: Option<u64>,
    per_mille: Option<u16>,
    always: Option<bool>,
    code: Option<String>,
    delay_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FaultWord {
    Before,
    After,
    LostRequest,
    LostReply,
    Delay,
}

impl FaultSpec {
    /// The rule that is meant.
    pub(crate) fn rule(self) -> Result<Rule, Wrong> {
        let target = match self.action.as_deref() {
            None | Some("*") => Target::All,
            Some("acts") => Target::Acts,
            Some("looks") => Target::Looks,
            Some(name) => Target::Named(name.to_owned()),
        };
        let when = match (self.next, self.nth, self.per_mille, self.always) {
            (None, None, None, None | Some(false)) => When::Next(1),
            (Some(n), None, None, None | Some(false)) => When::Next(n),
            (None, Some(n), None, None | Some(false)) => When::Nth(n),
            (None, None, Some(n), None | Some(false)) if n <= 1000 => When::PerMille(n),
            (None, None, Some(_), None | Some(false)) => {
                return Err(("per_mille", "at most 1000".to_owned()));
            }
            (None, None, None, Some(true)) => When::Always,
            _ => return Err(("next", "give one of next, nth, per_mille, always".to_owned())),
        };
        let coded = matches!(self.fault, FaultWord::Before | FaultWord::After);
        if self.code.is_some() && !coded {
            return Err(("code", "only before and after answer with a code".to_owned()));
        }
        if self.delay_ms.is_some() && !matches!(self.fault, FaultWord::Delay) {
            return Err(("delay_ms", "only delay has one".to_owned()));
        }
        let code = self.code.unwrap_or_else(|| "InternalError".to_owned());
        if code.len() > 100 || !code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_') {
            return Err(("code", "an error code has up to 100 letters, digits and dots".to_owned()));
        }
        let fault = match self.fault {
            FaultWord::Before => Fault::Before(code),
            FaultWord::After => Fault::After(code),
            FaultWord::LostRequest => Fault::LostRequest,
            FaultWord::LostReply => Fault::LostReply,
            FaultWord::Delay => {
                let ms = self.delay_ms.filter(|ms| *ms <= DELAY_MAX_MS);
                let ms = ms.ok_or_else(|| ("delay_ms", format!("needed, and at most {DELAY_MAX_MS}")))?;
                Fault::Delay(Duration::from_millis(ms))
            }
        };
        Ok(Rule { target, when, fault })
    }
}

/// Such as `us-east-1` or `us-gov-west-1`.
fn is_region(name: &str) -> bool {
    let parts: Vec<_> = name.split('-').collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    let number = |part: &str| part.len() == 1 && part.bytes().all(|b| b.is_ascii_digit());
    name.len() <= 32
        && (3..=5).contains(&parts.len())
        && parts.split_last().is_some_and(|(last, words)| number(last) && words.iter().all(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Options {
        Options::new(wire_settings(1), 0)
    }

    fn error(text: &str) -> String {
        options(text, base()).expect_err(text).to_string()
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        assert_eq!(options("", base()).unwrap(), base());
    }

    #[test]
    fn the_example_says_what_it_means() {
        let text = include_str!("../../../examples/region.toml");
        let read = options(text, base()).unwrap();
        assert_eq!(read.settings.seed, 7);
        assert_eq!(read.speed, 20.0);
        assert_eq!(read.listen, "127.0.0.1:4566".parse().unwrap());
        assert_eq!(read.events_queue.as_deref(), Some("interruptions"));
        assert_eq!(read.queues, ["submissions", "steps"]);
        assert_eq!(read.settings.latencies.start, Span::ms(4_000, 7_000));
        assert_eq!(read.settings.latencies.replace_root, Span::ms(20_000, 20_000));
        // One type in three zones, one pool without capacity, one that does not exist.
        assert_eq!(read.settings.capacity.len(), 5);
        assert_eq!(read.faults.len(), 2);
        assert_eq!(read.queue_trouble.unwrap().duplicate_per_mille, 20);
        assert_eq!(read.event_trouble.unwrap().late_s, 30);
        assert!(read.settings.spot_limit.is_none());
    }

    #[test]
    fn every_commented_line_of_the_example_is_a_key_too() {
        let text = include_str!("../../../examples/region.toml");
        let uncommented: Vec<_> = text
            .lines()
            .filter(|line| line.is_empty() || !line.starts_with("# "))
            .map(|line| line.strip_prefix('#').unwrap_or(line))
            .filter(|line| !line.starts_with("listen"))
            .collect();
        let read = options(&uncommented.join("\n"), base()).unwrap();
        assert_eq!(read.settings.spot_limit, Some(5));
        assert_eq!(read.state.as_deref(), Some(std::path::Path::new("region-state")));
    }

    #[test]
    fn realistic_replaces_the_settings_and_what_is_said_beside_it_stands() {
        let read = options("seed = 9\nrealistic = true\nquotas = \"off\"\n", base()).unwrap();
        let expected = Settings { quotas: Quotas::Off, ..Settings::realistic(9) };
        assert_eq!(read.settings, expected);
        let back = options("realistic = false", read).unwrap();
        assert_eq!(back.settings, wire_settings(9));
    }

    #[test]
    fn an_error_names_the_key() {
        for (text, expected) in [
            ("sped = 1", "sped"),
            ("speed = \"fast\"", "speed"),
            ("speed = -1.0", "speed: a speed is between 0 and 100000"),
            ("speed = nan", "speed: "),
            ("speed = inf", "speed: "),
            ("port = 70000", "port"),
            ("port = 1\nlisten = \"127.0.0.1:2\"", "port: listen has the port too"),
            ("listen = \"here\"", "listen: here is no address"),
            ("seed = -1", "seed"),
            ("region = \"Mars\"", "region: Mars is no region's name"),
            ("quotas = \"some\"", "quotas"),
            ("unknown_for_ms = [2, 1]", "unknown_for_ms: "),
            ("unknown_for_ms = -1", "unknown_for_ms: "),
            ("[latencies_ms]\nstart = 99999999999999", "latencies_ms.start: "),
            ("[latencies_ms]\nstarts = 1", "starts"),
            (
                "[[capacity]]\ntype = \"m5.large\"\ncapacity = 1\nzone = \"eu-west-1a\"",
                "capacity[0].zone: eu-west-1a",
            ),
            ("[[capacity]]\ntype = \"rock\"\ncapacity = 1", "capacity[0].type: rock"),
            ("[[capacity]]\ntype = \"m5.large\"\ncapacity = -1", "capacity[0].capacity: "),
            ("[[capacity]]\ntype = \"m5.large\"\ncapacity = \"much\"", "capacity[0].capacity: "),
            ("[[capacity]]\ntype = \"m5.large\"", "capacity"),
            ("[[faults]]\nfault = \"gremlins\"", "gremlins"),
            ("[[faults]]\nfault = \"delay\"", "faults[0].delay_ms: "),
            ("[[faults]]\nfault = \"delay\"\ndelay_ms = 600001", "faults[0].delay_ms: "),
            ("[[faults]]\nfault = \"lost_reply\"\ncode = \"X\"", "faults[0].code: "),
            ("[[faults]]\nfault = \"before\"\ncode = \"<X>\"", "faults[0].code: "),
            ("[[faults]]\nfault = \"before\"\nnext = 1\nnth = 2", "faults[0].next: "),
            ("[[faults]]\nfault = \"before\"\nper_mille = 1001", "faults[0].per_mille: "),
            ("[queue_trouble]\nduplicate_per_mille = 1001", "queue_trouble: at most 1000"),
            ("[event_trouble]\nlate = 1", "late"),
            ("[event_trouble]\nlate_s = 901", "event_trouble: late_s is at most 900"),
            ("not toml", "line 1"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_alone_keeps_the_region_on_loopback() {
        let read = options("port = 4566", base()).unwrap();
        assert_eq!(read.listen, "127.0.0.1:4566".parse().unwrap());
        let read = options("listen = \"0.0.0.0\"", base()).unwrap();
        assert_eq!(read.listen, "0.0.0.0:0".parse().unwrap());
    }
}
