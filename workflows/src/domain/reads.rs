//! Which streams a command is about, named in rounds from what is loaded so far.
//!
//! ```text
//!   signal ──► key instance/ID ──► node ──► its open operation, its next one
//!   submission, periodic command ──► node    └─► its present backup catalog (key backups/NODE)
//!                                                 └─► operations that hold a backup, or have final
//!                                                 snapshots
//! ```
//!
//! A key is a hint: what it leads to is loaded, and the state that is found decides. A node that a key
//! leads to knows whether the instance is its own; a backup catalog says that it is closed, and the next
//! one is named.

use perennial_engine::domain::{Reads, World};
use perennial_engine::ids::StreamId;

use crate::aggregate::address_pool::address_pool_stream;
use crate::aggregate::backup_catalog::BackupCatalog;
use crate::aggregate::engine::engine_stream;
use crate::aggregate::installation::installation_stream;
use crate::aggregate::node::Node;
use crate::domain::backup_schedule::{is_full, to_inherit};
use crate::domain::command::{Command, Content};
use crate::domain::keys::{UNDER_WAY_KEY, instance_key};
use crate::domain::states::State;
use crate::domain::submission::{Submission, Work};
use crate::model::aws::InstanceId;
use crate::model::backup_id::{CatalogId, catalog_key};
use crate::model::name::NodeName;
use crate::model::operation_id::{OperationId, node_stream};
use crate::model::signal::{News, Signal};
use crate::operation::state::Operation;
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;

/// What a command is about, as far as the world so far tells.
pub(super) fn reads(world: &World<State>, command: &Command) -> Reads {
    let mut reader = Reader { world, reads: Reads::default() };
    // An operation that begins takes the installation into its tags and tokens.
    reader.observe(installation_stream());
    match command {
        Command::Message { envelope, content, .. } => {
            reader.write(envelope.stream.clone());
            match content {
                Content::Submission(submission) => reader.submission(submission),
                Content::Signal(signal) => reader.signal(signal),
                Content::Settled(_) | Content::Counted(_) => {}
            }
        }
        Command::Signal { signal, .. } => reader.signal(signal),
        Command::ReconcileBackups { node } => reader.backups(node),
        Command::Bind { .. } | Command::Move { .. } => reader.write(installation_stream()),
        Command::EngineStarted { .. } | Command::EngineStopped {} => reader.write(engine_stream()),
        Command::Adopt { node, .. } => {
            reader.write(installation_stream());
            reader.node(node);
        }
        Command::Prune { node: name } => {
            if let Some(node) = reader.node(name) {
                // It says whose installation this is.
                reader.observe(newest(name, node).stream());
            }
        }
        Command::ReturnToSpot { node, .. }
        | Command::Standing { node, .. }
        | Command::Attachments { node, .. } => {
            reader.node(node);
        }
        Command::Waits { workflow, .. } => reader.write(workflow.clone()),
        Command::Report { workflow, evidence, .. } => reader.report(workflow, evidence),
    }
    reader.reads
}

/// The node that an instance belongs or belonged to, of the streams that its key leads to.
#[must_use]
pub fn node_among(streams: &[StreamId]) -> Option<NodeName> {
    streams.iter().find_map(|stream| match stream.category() {
        "node" => NodeName::parse(stream.name()).ok(),
        _ => OperationId::of_stream(stream).map(|id| id.node().clone()),
    })
}

/// The node that an instance belongs or belonged to.
pub(super) fn node_of(world: &World<State>, instance: &InstanceId) -> Option<NodeName> {
    node_among(world.lookup(&instance_key(instance)))
}

/// The present backup catalog of a node. The key may lead to one that was closed meanwhile; each closed one
/// has a next one.
pub(super) fn present_catalog(world: &World<State>, node: &NodeName) -> CatalogId {
    let found = world.lookup(&catalog_key(node)).iter().filter_map(CatalogId::of_stream);
    let newest = found.max_by_key(CatalogId::number);
    let mut present = newest.unwrap_or_else(|| CatalogId::new(node.clone(), 1));
    while let Some(State::BackupCatalog(catalog)) = world.get(&present.stream())
        && catalog.closed
    {
        present = present.next();
    }
    present
}

/// The newest operation of a node, if it is loaded.
pub(super) fn newest_operation<'w>(
    world: &'w World<State>,
    name: &NodeName,
    node: &Node,
) -> Option<&'w Operation> {
    match world.get(&newest(name, node).stream()) {
        Some(State::Operation(operation)) => operation.as_ref(),
        _ => None,
    }
}

fn newest(name: &NodeName, node: &Node) -> OperationId {
    OperationId::new(name.clone(), node.operations)
}

/// One round.
struct Reader<'w> {
    world: &'w World<State>,
    reads: Reads,
}

impl<'w> Reader<'w> {
    fn write(&mut self, stream: StreamId) {
        self.reads.written.insert(stream);
    }

    fn observe(&mut self, stream: StreamId) {
        self.reads.observed.insert(stream);
    }

    /// A node, the operation that holds it and the one that may begin.
    fn node(&mut self, name: &NodeName) -> Option<&'w Node> {
        let stream = node_stream(name);
        let state = self.world.get(&stream);
        self.write(stream);
        let Some(State::Node(node)) = state else { return None };
        if let Some((open, _)) = &node.open {
            self.write(open.stream());
        }
        self.write(newest(name, node).next().stream());
        Some(node)
    }

    /// The present backup catalog of a node. Its key is looked up in the round that loads the node.
    fn catalog(&mut self, node: &NodeName) -> Option<&'w BackupCatalog> {
        self.reads.keys.insert(catalog_key(node));
        self.world.get(&node_stream(node))?;
        let stream = present_catalog(self.world, node).stream();
        let state = self.world.get(&stream);
        self.write(stream);
        match state {
            Some(State::BackupCatalog(catalog)) => Some(catalog),
            _ => None,
        }
    }

    fn pools(&mut self, spec: &NodeSpec) {
        for (_, pool) in spec.ip_pools() {
            self.write(address_pool_stream(pool));
        }
    }

    fn signal(&mut self, signal: &Signal) {
        self.reads.keys.insert(instance_key(&signal.instance));
        let Some(name) = node_of(self.world, &signal.instance) else { return };
        self.node(&name);
        // It may ask for a backup at once.
        if matches!(signal.news, News::Rebalance) {
            self.catalog(&name);
        }
    }

    fn submission(&mut self, submission: &Submission) {
        let name = &submission.node;
        if let Work::Pool(pool) = &submission.work {
            return self.write(address_pool_stream(&pool.spec.name));
        }
        let node = self.node(name);
        match &submission.work {
            Work::Apply(apply) => {
                self.pools(&apply.spec);
                node.and_then(|node| node.spec.as_ref()).into_iter().for_each(|spec| self.pools(spec));
                if let Some(from) = &apply.from_backup {
                    self.observe(node_stream(from.node()));
                    self.catalog(from.node());
                }
            }
            Work::Backup(_) | Work::Restore(_) => {
                self.catalog(name);
            }
            Work::Resume(resume) => {
                node.and_then(|node| node.spec.as_ref()).into_iter().for_each(|spec| self.pools(spec));
                if resume.from_backup.is_some() {
                    self.catalog(name);
                }
            }
            Work::Replace(_)
            | Work::Recycle(_)
            | Work::Pause(_)
            | Work::ResumeNode(_)
            | Work::Prune(_)
            | Work::Delete(_)
            | Work::Cancel(_)
            | Work::Pool(_) => {}
        }
    }

    /// What may be due about the backups of a node.
    fn backups(&mut self, name: &NodeName) {
        let (node, catalog) = (self.node(name), self.catalog(name));
        let (Some(node), Some(catalog)) = (node, catalog) else { return };
        for by in catalog.known.holds.keys() {
            self.observe(by.stream());
        }
        if is_full(catalog) {
            self.write(present_catalog(self.world, name).next().stream());
        }
        // What a deletion kept stands in its order; whose installation this is stands in every order.
        if node.deleted || node.catalog_is_behind || catalog.known.schedule.is_none() {
            self.observe(newest(name, node).stream());
        }
        if node.backed_up_every_ms().is_some() && catalog.known.under_way().is_none() {
            self.reads.keys.insert(UNDER_WAY_KEY.to_owned());
        }
        if let Some(from) = to_inherit(node, newest_operation(self.world, name, node), catalog) {
            self.observe(from.stream());
        }
    }

    fn report(&mut self, workflow: &StreamId, evidence: &Evidence) {
        self.write(workflow.clone());
        let Some(id) = OperationId::of_stream(workflow) else { return };
        // With its end the node goes on, and perhaps another operation begins.
        self.write(node_stream(id.node()));
        self.write(id.next().stream());
        if let Evidence::AddressReturned { pool, .. } = evidence {
            self.write(address_pool_stream(pool));
        }
    }
}
