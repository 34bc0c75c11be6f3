//! The options of a region on the wire, and the reasons why one does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::rules::EventTrouble;
use super::sqs::model::Trouble as QueueTrouble;
use crate::faults::Rule;
use crate::policy::Policy;
use crate::world::settings::{AddressOrder, Guest, Latencies, Quotas, Settings, Span};

/// How often a message of a queue that exists from the beginning is received before it is given up.
pub const RECEIVES_MAX: u32 = 20;

/// The options of a region on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Where to listen. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// The region. See [`wire_settings`].
    pub settings: Settings,
    /// How many times as fast as the machine's clock the region's runs; 0 stands still until it is advanced.
    pub speed: f64,
    /// The region's time at its beginning, in milliseconds since the Unix epoch.
    pub epoch_ms: u64,
    /// Where the state is kept; `None` forgets it at the end.
    pub state: Option<PathBuf>,
    /// Queues that exist from the beginning, each with a dead-letter queue `NAME-dead` after [`RECEIVES_MAX`]
    /// receives.
    pub queues: Vec<String>,
    /// The queue (made if need be, as the others) that gets every event of the region, as if a rule had put
    /// it there.
    pub events_queue: Option<String>,
    /// Duplicates and disorder in standard queues; `None` leaves them as the state says.
    pub queue_trouble: Option<QueueTrouble>,
    /// Loss, duplicates and delay of events; `None` leaves them as the state says.
    pub event_trouble: Option<EventTrouble>,
    /// Faults from the start of the process; each rule counts its calls from there.
    pub faults: Vec<Rule>,
    /// What every caller of EC2 and SQS may do; `None` allows everything.
    pub policy: Option<Policy>,
}

impl Options {
    /// A region on a free loopback port, at the machine's time and speed.
    #[must_use]
    pub fn new(settings: Settings, epoch_ms: u64) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            settings,
            speed: 1.0,
            epoch_ms,
            state: None,
            queues: Vec::new(),
            events_queue: None,
            queue_trouble: None,
            event_trouble: None,
            faults: Vec::new(),
            policy: None,
        }
    }
}

/// The default settings of a region on the wire: true latencies, no request quotas, and the calls themselves
/// answered at once (the network is real here). Three guesses differ from the simulation's, because most
/// clients rely on them: a registered image and an assigned address are there at once, and a guest does not
/// mount volumes by itself.
#[must_use]
pub fn wire_settings(seed: u64) -> Settings {
    let calm = Settings::calm(seed);
    Settings {
        latencies: Latencies {
            look: Span::ZERO,
            act: Span::ZERO,
            launch: Span::ZERO,
            image: Span::ZERO,
            move_address: Span::ZERO,
            ..calm.latencies.clone()
        },
        snapshot_quotas: Quotas::Off,
        guest: Guest::Ignores,
        addresses: AddressOrder::Scattered,
        ..calm
    }
}

/// Why a region does not start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The state cannot be read or written.
    #[error("the state in {} cannot be used: {why}", directory.display())]
    State {
        /// The directory.
        directory: PathBuf,
        /// Why.
        why: String,
    },
    /// A queue cannot be made.
    #[error("the queue {name} cannot be made: {why}")]
    Queue {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
}
