//! The commands of the domain, and why one is refused.

use perennial_engine::ids::{StreamId, Token};

use crate::aggregate::address_pool::address_pool_stream;
use crate::aggregate::backup_catalog;
use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::Node;
use crate::domain::movement::SpotSeen;
use crate::domain::submission::{Submission, Work};
use crate::machine::decide::Refusal;
use crate::model::aws::{InstanceId, VolumeId};
use crate::model::backup_id::CatalogId;
use crate::model::name::NodeName;
use crate::model::operation_id::{OperationId, node_stream};
use crate::model::signal::Signal;
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;

/// What is known of a node when a command about it is made; the decision is refused when it has moved on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Which node.
    pub node: NodeName,
    /// How many operations it had.
    pub operations: u64,
    /// The open one.
    pub open: Option<OperationId>,
    /// The present backup catalog of its backups, counted from 1.
    pub catalog: u64,
    /// The pools that its addresses come from.
    pub pools: Vec<NodeName>,
    /// The present backup catalog of another node, whose backup it is to be made from.
    pub source: Option<CatalogId>,
}

impl Sight {
    /// What can be seen of a node.
    #[must_use]
    pub fn of(name: &NodeName, node: &Node) -> Self {
        Self {
            node: name.clone(),
            operations: node.operations,
            open: node.open.as_ref().map(|(id, _)| id.clone()),
            catalog: 1,
            pools: node.spec.iter().flat_map(NodeSpec::ip_pools).map(|(_, pool)| pool.clone()).collect(),
            source: None,
        }
    }

    /// With the present backup catalog of another node, whose backup it is to be made from.
    #[must_use]
    pub fn with_source(mut self, source: Option<CatalogId>) -> Self {
        self.source = source;
        self
    }

    /// With the present backup catalog of the node's backups, if it is not the first.
    #[must_use]
    pub const fn with_catalog(mut self, catalog: u64) -> Self {
        self.catalog = catalog;
        self
    }

    pub(crate) fn catalog(&self) -> CatalogId {
        CatalogId::new(self.node.clone(), self.catalog)
    }

    pub(crate) fn next(&self) -> OperationId {
        OperationId::new(self.node.clone(), self.operations + 1)
    }

    pub(crate) fn last(&self) -> Option<OperationId> {
        (self.operations > 0).then(|| OperationId::new(self.node.clone(), self.operations))
    }

    pub(crate) fn streams(&self) -> Vec<StreamId> {
        let mut streams = vec![node_stream(&self.node), self.next().stream(), self.catalog().stream()];
        if let Some(open) = &self.open {
            streams.push(open.stream());
            streams.push(open.next().stream());
        }
        streams.extend(self.pools.iter().map(address_pool_stream));
        streams.extend(self.source.iter().flat_map(|source| [node_stream(source.node()), source.stream()]));
        streams.sort();
        streams.dedup();
        // The node's stream is the command's lock.
        streams.sort_by_key(|stream| *stream != node_stream(&self.node));
        streams
    }
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its stream; see [`inbox_stream`](crate::aggregate::inbox::inbox_stream).
    pub stream: StreamId,
    /// Through which queue.
    pub queue: String,
    /// The queue's id of it.
    pub message_id: String,
    /// When it was sent.
    pub sent_at_ms: u64,
    /// Its size.
    pub bytes: u64,
    /// As much of it as is to be kept.
    pub body: String,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one of it exists at a time")]
pub enum Content {
    /// It asks for something.
    Submission(Submission),
    /// It tells something.
    Signal(Signal),
    /// Its disposition is clear from its form: malformed, oversized, unknown, foreign, too late.
    Settled(Disposition),
}

impl Content {
    /// The pool it is about, or those that the node it describes takes its addresses from.
    pub(crate) fn pools(&self) -> Vec<&NodeName> {
        match self {
            Self::Submission(Submission { work: Work::Pool(pool), .. }) => vec![&pool.spec.name],
            Self::Submission(Submission { work: Work::Apply(apply), .. }) => {
                apply.spec.ip_pools().map(|(_, pool)| pool).collect()
            }
            Self::Submission(_) | Self::Signal(_) | Self::Settled(_) => Vec::new(),
        }
    }
}

/// What may be asked of the domain.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one of it exists at a time")]
pub enum Command {
    /// A message came.
    Message {
        /// As it came.
        envelope: Envelope,
        /// What it says.
        content: Content,
        /// The node it is about, if it is about one.
        sight: Option<Sight>,
        /// Whose installation this is.
        owner: String,
    },
    /// The sweep saw something.
    Signal {
        /// What.
        signal: Signal,
        /// About which node.
        sight: Sight,
        /// Whose installation this is.
        owner: String,
    },
    /// The backups of a node are to be looked after.
    ReconcileBackups {
        /// Of which node.
        sight: Sight,
        /// An operation, of this node or another one, that is over and holds one of them.
        over: Option<OperationId>,
        /// An operation of this node whose final snapshots are to be taken over.
        finals: Option<OperationId>,
        /// Whose installation this is.
        owner: String,
    },
    /// A node on demand may go back to spot.
    ReturnToSpot {
        /// Which node.
        sight: Sight,
        /// What is known of spot where it lives.
        seen: SpotSeen,
        /// Whose installation this is.
        owner: String,
    },
    /// The node file says that what is retained is to be deleted.
    Prune {
        /// Of which node.
        sight: Sight,
        /// Whose installation this is.
        owner: String,
    },
    /// The sweep saw the volumes of the instance that carries a node at rest.
    Attachments {
        /// Which node.
        sight: Sight,
        /// Its instance.
        instance: InstanceId,
        /// Attached volumes that were not known to be the node's.
        others: Vec<VolumeId>,
        /// The node's volumes that were seen to have left it, twice.
        left: Vec<VolumeId>,
        /// Whose installation this is.
        owner: String,
    },
    /// A worker reports.
    Report {
        /// Of which operation, or which backup catalog of backups.
        workflow: StreamId,
        /// Of which step.
        token: Token,
        /// What it observed.
        evidence: Evidence,
    },
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The operation refuses.
    #[error(transparent)]
    Operation(#[from] Refusal),
    /// The backups refuse.
    #[error(transparent)]
    Backup(#[from] backup_catalog::Refusal),
    /// The node has moved on since the command was made: look again and make it anew.
    #[error("node {node} has moved on; look again")]
    Moved {
        /// Which.
        node: NodeName,
    },
    /// The node is not to be moved now.
    #[error("node {node} is not moved now: {why}")]
    NotNow {
        /// Which.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// There is no such operation.
    #[error("there is no workflow {name}")]
    NoSuchOperation {
        /// Its name.
        name: String,
    },
    /// Nothing may be written to a stream of this category by this build.
    #[error("BUG: nothing may be written to {stream}")]
    WrongStream {
        /// Which.
        stream: StreamId,
    },
}
