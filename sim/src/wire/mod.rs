//! The region on the wire: one process that real AWS clients take for a region.
//!
//! ```text
//!  boto3, AWS CLI, aws-sdk-*            a rehearsal                  software inside an instance
//!        │ EC2 query, SQS JSON,              │ JSON                        │ IMDS
//!        │ STS, EventBridge, SSM, ELBv2      │ /_region/…                  │ /imds/<instance>/latest/…
//!        ▼                                   ▼                             ▼
//!   ┌─ http ──────── faults, latency, lost requests and replies ───────────────────────┐
//!   │ ec2 (params, xml)   sqs    events  ssm  elb  control                   imds      │
//!   └───────────────────────────────┬──────────────────────────────────────────────────┘
//!                         region: World · queues · rules · time · journal
//! ```
//!
//! EC2's behaviour is the [`World`](crate::world::World)'s, the same that the in-process simulation has; this module
//! translates. Signatures are **not** checked, every caller is the same account, and whoever reaches the port may do
//! everything: bind it to loopback.
//!
//! # Time
//! The region's clock may run faster than the machine's, stand still, or jump. Queues keep the machine's time.
//!
//! # State
//! With a state directory every call that changes something is appended to a log *before* it takes effect, and is on
//! disk before anything is answered that follows from it. A start reads the last snapshot and makes the calls since
//! again, at their times; the world is deterministic, so that it is the same afterwards. Neither a `kill -9` nor a
//! power failure loses what was answered. The region's time stands still while nobody serves it.
//!
//! What survives: world, queues, rules, the region's time. What does not, because it belongs to the process: the
//! clock's speed, trouble (`faults`), the list of calls.

mod client;
pub mod config;
mod control;
mod ec2;
mod elb;
mod events;
mod http;
mod imds;
mod journal;
mod params;
mod region;
mod sqs;
mod ssm;
mod xml;

pub use client::{ControlError, RegionClient};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::faults::Rule;
use crate::world::settings::{AddressOrder, Guest, Latencies, Quotas, Settings, Span};
pub use events::EventTrouble;
use region::Region;
pub use sqs::model::Trouble as QueueTrouble;

/// How often a message of a queue that exists from the beginning is received before it is given up.
pub const RECEIVES_MAX: u32 = 20;

/// What a region on the wire is like.
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
    /// Queues that exist from the beginning, each with a dead-letter queue `NAME-dead` after [`RECEIVES_MAX`] receives.
    pub queues: Vec<String>,
    /// The queue (made if need be, as the others) that gets every event of the region, as if a rule had put it there.
    pub events_queue: Option<String>,
    /// What queues do to messages of standard queues; `None` leaves it as the state says.
    pub queue_trouble: Option<QueueTrouble>,
    /// What happens to events on their way; `None` leaves it as the state says.
    pub event_trouble: Option<EventTrouble>,
    /// Trouble from the start of the process; the rules' own calls are counted from there.
    pub faults: Vec<Rule>,
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
        }
    }
}

/// The settings a region on the wire has unless told otherwise: true latencies, no request quotas, and the calls
/// themselves answered at once (the network is real here). Three guesses differ from the simulation's, because most
/// clients rely on them: a registered image and an assigned address are there at once, and a guest leaves volumes
/// alone that it was not told to mount.
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

/// A region that listens, and serves when it is told to.
pub struct RegionServer {
    listener: TcpListener,
    address: SocketAddr,
    region: Arc<Region>,
    directory: Option<PathBuf>,
}

impl std::fmt::Debug for RegionServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegionServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl RegionServer {
    /// Makes the region, with its state if there is some, and listens.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(options: Options) -> Result<Self, StartError> {
        let address = options.listen;
        let listen_error = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let directory = options.state.clone();
        // A long log is long to make again.
        let opened = tokio::task::spawn_blocking(move || Region::open(&options)).await;
        let region = opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let region = Arc::new(region);
        Ok(Self { listener, address, region, directory })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients are given as their endpoint, such as `http://127.0.0.1:4566`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until `stop` is over. Connections that are open then are dropped.
    ///
    /// # Errors
    /// [`StartError::State`] when the state can no longer be written. Nothing is answered from then on.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let pump = Arc::clone(&self.region);
        let state = Arc::clone(&self.region);
        tokio::select! {
            () = http::serve(self.listener, self.address, self.region) => Ok(()),
            () = pump.run() => Ok(()),
            why = state.breaks() => Err(StartError::State { directory: self.directory.unwrap_or_default(), why }),
            () = stop => Ok(()),
        }
    }
}

/// Runs a region until `stop` is over; tells its endpoint as soon as it listens.
///
/// # Errors
/// [`StartError`].
pub async fn run(
    options: Options,
    ready: impl FnOnce(&str),
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let server = RegionServer::bind(options).await?;
    ready(&server.endpoint());
    server.serve(stop).await
}
