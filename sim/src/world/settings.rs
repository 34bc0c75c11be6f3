//! The settings of a region: its latencies, quotas, and the switches for unconfirmed behaviour.
//!
//! Each default names its evidence (`ec2-semantics` §6): *measured* and published, *documented* by AWS,
//! or a *guess*.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The zones of a region.
const ZONES: [char; 3] = ['a', 'b', 'c'];

/// A length of time between two bounds, drawn evenly and seeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The shortest, in milliseconds.
    pub min_ms: u64,
    /// The longest, in milliseconds.
    pub max_ms: u64,
}

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self { min_ms: 0, max_ms: 0 };

    /// Between two lengths.
    #[must_use]
    pub const fn ms(min_ms: u64, max_ms: u64) -> Self {
        Self { min_ms, max_ms }
    }

    /// Always the same.
    #[must_use]
    pub const fn exactly(length: Duration) -> Self {
        let ms = length.as_millis() as u64;
        Self { min_ms: ms, max_ms: ms }
    }

    pub(crate) fn draw(self, rng: &mut fastrand::Rng) -> u64 {
        if self.max_ms <= self.min_ms { self.min_ms } else { rng.u64(self.min_ms..=self.max_ms) }
    }
}

/// How long things take in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latencies {
    /// A describe call, to and fro.
    pub look: Span,
    /// A mutating call, to and fro.
    pub act: Span,
    /// RunInstances, to and fro.
    pub launch: Span,
    /// `pending` to `running`.
    pub start: Span,
    /// `shutting-down` to `terminated`: the operating system's own shutdown.
    pub shutdown: Span,
    /// From `terminated` until volumes and interfaces are free.
    pub release: Span,
    /// How long a terminated instance stays visible.
    pub memory: Span,
    /// From `running` until the status checks say `ok`.
    pub checks: Span,
    /// CreateVolume to `available`.
    pub create_volume: Span,
    /// AttachVolume to `attached`.
    pub attach: Span,
    /// DetachVolume of an unmounted volume to `available`.
    pub detach: Span,
    /// DeleteVolume until it is gone.
    pub delete_volume: Span,
    /// CreateSnapshot to `completed`.
    pub snapshot: Span,
    /// RegisterImage to `available`.
    pub image: Span,
    /// CreateReplaceRootVolumeTask to its end, with the reboot.
    pub replace_root: Span,
    /// AssignPrivateIpAddresses until the new holder shows the address.
    pub move_address: Span,
    /// ModifyVolume until the new size is there.
    pub modify_volume: Span,
    /// From there until it is `completed`.
    pub optimize_volume: Span,
    /// RegisterTargets until the first health check is over.
    pub target_check: Span,
    /// SendCommand until GetCommandInvocation knows of it.
    pub command_visible: Span,
    /// SendCommand until the agent begins.
    pub command_deliver: Span,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            look: Span::ms(40, 160),                    // guess
            act: Span::ms(120, 500),                    // guess
            launch: Span::ms(1_500, 2_500),             // measured 2021: 1.5 s; 2026: 2.5 s and more
            start: Span::ms(4_000, 7_000),              // measured 2021 with fine polling: 4.9 s
            shutdown: Span::ms(20_000, 60_000), // reported: 1 min on virtual types; GPU and metal: minutes
            release: Span::ms(0, 2_000),        // guess; the order is not documented
            memory: Span::ms(3_600_000, 3_600_000), // documented: about an hour
            checks: Span::ms(60_000, 60_000),   // guess; seen to take minutes
            create_volume: Span::ms(1_000, 4_000), // EBS CSI driver: median 1.5 s, p99 4 s
            attach: Span::ms(1_000, 4_000),     // EBS CSI driver: most within 1 to 4 s
            detach: Span::ms(1_000, 4_000),     // the same
            delete_volume: Span::ms(500, 3_000), // guess
            snapshot: Span::ms(30_000, 180_000), // reported: minutes for small increments
            image: Span::ms(10_000, 60_000),    // guess; not published
            replace_root: Span::ms(18_000, 25_000), // documentation's example: 20 s
            move_address: Span::ms(500, 3_000), // guess; asynchronous by documentation
            modify_volume: Span::ms(2_000, 10_000), // documented: seconds, size changes rarely longer
            optimize_volume: Span::ms(60_000, 600_000), // documented: minutes to hours
            target_check: Span::ms(5_000, 35_000), // guess; one interval of 30 s and the registration
            command_visible: Span::ms(0, 1_000), // guess; InvocationDoesNotExist right after is commonly met
            command_deliver: Span::ms(300, 2_000), // guess; the agent polls
        }
    }
}

impl Latencies {
    /// Everything at once; for tests of refusals. Terminated instances still stay visible for an hour.
    #[must_use]
    pub fn none() -> Self {
        let zero = Span::ZERO;
        Self {
            look: zero,
            act: zero,
            launch: zero,
            start: zero,
            shutdown: zero,
            release: zero,
            memory: Self::default().memory,
            checks: zero,
            create_volume: zero,
            attach: zero,
            detach: zero,
            delete_volume: zero,
            snapshot: zero,
            image: zero,
            replace_root: zero,
            move_address: zero,
            modify_volume: zero,
            optimize_volume: zero,
            target_check: zero,
            command_visible: zero,
            command_deliver: zero,
        }
    }
}

/// Whether the account's request quotas are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quotas {
    /// Every call is admitted.
    Off,
    /// The published token buckets, one per action (EC2 Developer Guide, request throttling).
    Published,
}

/// How the account's request quotas differ from those that are published. They count while
/// [`Quotas::Published`] is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RequestQuotas {
    /// So many percent of each published bucket, burst and refill.
    pub percent: u32,
    /// Whether all mutating calls are also charged to one bucket (as the EBS CSI driver's source says of new
    /// accounts; the guide says otherwise).
    pub shared: bool,
    /// The calls of actions that have another bucket.
    pub custom: Vec<RequestQuota>,
}

impl Default for RequestQuotas {
    fn default() -> Self {
        Self { percent: 100, shared: false, custom: Vec::new() }
    }
}

/// The bucket of one action's calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestQuota {
    /// Such as `RunInstances`.
    pub action: String,
    /// How many at once.
    pub burst: u64,
    /// How many a minute after that.
    pub per_minute: u64,
}

/// How much may exist at once; `None`: any number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CountQuotas {
    /// Network interfaces; beyond it NetworkInterfaceLimitExceeded.
    pub interfaces: Option<u32>,
    /// GiB of each volume type; beyond it VolumeLimitExceeded, of a launch as the reason of its end.
    pub volumes_gib: Option<u64>,
    /// vCPUs of spot instances; beyond it MaxSpotInstanceCountExceeded.
    pub spot_vcpus: Option<u32>,
    /// vCPUs of on-demand instances; beyond it VcpuLimitExceeded.
    pub on_demand_vcpus: Option<u32>,
}

impl CountQuotas {
    /// What a new account has: 5,000 interfaces (L-DF5E4CA3) and 50 TiB of a volume type (Service Quotas).
    /// Its vCPUs are few, and the first that are raised: they stay without a limit here.
    #[must_use]
    pub const fn published() -> Self {
        Self {
            interfaces: Some(5_000),
            volumes_gib: Some(50 * 1024),
            spot_vcpus: None,
            on_demand_vcpus: None,
        }
    }
}

/// The result of CreateReplaceRootVolumeTask with an existing volume. No source outside AWS says whether it
/// works on spot instances, so every result must be survivable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAdoption {
    /// It works.
    Supported,
    /// The call is refused with this code.
    Unsupported(String),
    /// Each task ends `failed`: the old root is still in place.
    FailsEachTime,
    /// Each task ends `failed-detached`: the instance has no root.
    FailedDetached,
    /// Each task with this volume ends `failed`; others work.
    FailsFor(String),
}

/// DeleteOnTermination of a root that a replacement put in place. Documented (inherit) only for snapshots and
/// images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootFlag {
    /// As the replaced root's.
    Inherit,
    /// Always `true`.
    Delete,
    /// Always `false`.
    Keep,
}

/// How a guest treats a volume that is attached to its running instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guest {
    /// Mounts it, so that a detach goes `busy` until [`unmount`](super::World::unmount).
    Mounts,
    /// Leaves it alone.
    Ignores,
}

/// The order in which a subnet gives its free addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressOrder {
    /// The one after the last.
    Next,
    /// Any, as AWS does; still the same for the same seed and calls.
    Scattered,
}

/// How much capacity a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capacity {
    /// Every launch succeeds; the default of every pool.
    Unlimited,
    /// So many more launches. One comes back when its user terminates an instance; an interruption keeps it.
    Free(u32),
    /// The type does not exist in the zone, or not on that market.
    Unsupported,
}

/// The capacity of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Such as `us-east-1a`.
    pub zone: String,
    /// Spot or on-demand.
    pub market: perennial_workflows::model::aws::Market,
    /// How much.
    pub capacity: Capacity,
}

/// The settings of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The seed of all chance: ids, jitter, events' ids.
    pub seed: u64,
    /// Such as `us-east-1`; its zones are that name with `a`, `b` and `c`.
    pub region: String,
    /// How long things take.
    pub latencies: Latencies,
    /// How long a fresh object stays unknown to every other call (documented: up to minutes; the length is a
    /// guess).
    pub unknown_for: Span,
    /// How long a describe may still show a volume, an instance or an interface as it was before a change
    /// (documented: eventual consistency; the length is a guess). Set at the beginning.
    pub stale_for: Span,
    /// Request quotas.
    pub quotas: Quotas,
    /// How they differ from the published ones.
    #[serde(default)]
    pub request_quotas: RequestQuotas,
    /// How much may exist.
    #[serde(default)]
    pub count_quotas: CountQuotas,
    /// The limits of snapshots per volume: 15 s between two, five pending (documented).
    pub snapshot_quotas: Quotas,
    /// The most spot instances that may live at once; beyond it MaxSpotInstanceCountExceeded.
    pub spot_limit: Option<u32>,
    /// The most on-demand instances that may live at once; beyond it VcpuLimitExceeded.
    pub on_demand_limit: Option<u32>,
    /// Whether events are sent to EventBridge.
    pub events_enabled: bool,
    /// Adoption of an existing volume as root.
    pub root_adoption: RootAdoption,
    /// DeleteOnTermination of an adopted root.
    pub root_flag: RootFlag,
    /// How guests treat new volumes.
    pub guest: Guest,
    /// How long a client token is remembered (measured for CreateVolume by the EBS CSI driver: 12 hours).
    pub token_memory: Duration,
    /// The order in which subnets give their free addresses.
    pub addresses: AddressOrder,
    /// The length of the subnets' prefix (a default VPC has 20).
    pub subnet_prefix: u8,
    /// Pools that are not unlimited at the beginning; of several entries for one pool the last counts.
    pub capacity: Vec<Pool>,
}

impl Settings {
    /// The region's zones.
    #[must_use]
    pub fn zones(&self) -> Vec<String> {
        ZONES.iter().map(|letter| format!("{}{letter}", self.region)).collect()
    }

    /// A region with true latencies, where everything is visible at once and no quota is enforced.
    #[must_use]
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            region: "us-east-1".to_owned(),
            latencies: Latencies::default(),
            unknown_for: Span::ZERO,
            stale_for: Span::ZERO,
            quotas: Quotas::Off,
            request_quotas: RequestQuotas::default(),
            count_quotas: CountQuotas::default(),
            snapshot_quotas: Quotas::Published,
            spot_limit: None,
            on_demand_limit: None,
            events_enabled: true,
            root_adoption: RootAdoption::Supported,
            root_flag: RootFlag::Inherit,
            guest: Guest::Mounts,
            token_memory: Duration::from_secs(12 * 3600),
            addresses: AddressOrder::Next,
            subnet_prefix: 20,
            capacity: Vec::new(),
        }
    }

    /// A calm region in which nothing takes time.
    #[must_use]
    pub fn instant(seed: u64) -> Self {
        Self { latencies: Latencies::none(), ..Self::calm(seed) }
    }

    /// The region as an account with default limits meets it: quotas on, fresh objects unknown and old
    /// versions seen for up to two seconds.
    #[must_use]
    pub fn realistic(seed: u64) -> Self {
        let lag = Span::ms(0, 2_000);
        let (quotas, count_quotas) = (Quotas::Published, CountQuotas::published());
        Self { unknown_for: lag, stale_for: lag, quotas, count_quotas, ..Self::calm(seed) }
    }
}
