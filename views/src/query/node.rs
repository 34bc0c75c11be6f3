//! Nodes, their backups and their history.

use std::collections::BTreeMap;

use perennial_engine::journal::Which;
use perennial_workflows::aggregate::backup_catalog::Carried;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::projection::NodeSummary;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::domain::submission::PruneParams;
use perennial_workflows::model::backup_id::catalog_key;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, node_stream};
use perennial_workflows::spec::node::NodeSpec;
use perennial_workflows::view::history::{Entry, NodeHistory, Story, node_history};
use perennial_workflows::view::plan::{Assumption, Plan, Presence, plan_assuming};

use crate::model::backups::BackupsView;
use crate::model::diff::SpecDiff;
use crate::model::history::{add_backups, begin_with_a_workflow};
use crate::model::node::{Condition, Down, LastMove, NodeLine, NodeView, PausedBy};
use crate::model::progress::Progress;
use crate::model::prune::{NotDeleted, PrunePreview};
use crate::query::workflow::attended;
use crate::query::{QueryError, Subject, Views};

/// Among how many of a node's newest workflows the last move, or pause, is looked for: those between are
/// growths, prunes and tries that were undone.
const NEWEST_LOOKED_AT: u64 = 10;

impl Views {
    /// Every node, in order of name.
    ///
    /// # Errors
    /// [`QueryError::Read`], [`QueryError::Summary`] and [`QueryError::Corrupt`].
    pub async fn nodes(&self, now_ms: u64) -> Result<Vec<NodeLine>, QueryError> {
        let mut lines = Vec::new();
        for (name, summary) in self.summaries::<NodeSummary>("node", Which::All).await? {
            let (operation, down) = match &summary.operation {
                Some((id, _)) => (self.find_operation(id).await?, self.down(id).await?),
                None => (None, None),
            };
            let progress = operation.and_then(|operation| Progress::new(&operation, now_ms));
            lines.push(NodeLine::new(&name, summary, progress.as_ref(), down));
        }
        Ok(lines)
    }

    /// One node with all that belongs to it.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn node(&self, name: &NodeName, now_ms: u64) -> Result<NodeView, QueryError> {
        let (node, _) = self.registered(name).await?;
        let (open, down) = match &node.open {
            Some((id, _)) => (Some(self.operation(id).await?), self.down(id).await?),
            None => (None, None),
        };
        let catalog = self.backup_catalog(name).await?;
        let view = NodeView::new(name, &node, (open.as_ref(), down), &catalog, now_ms);
        let last_move = self.newest(name, node.operations, LastMove::new).await?;
        let paused_by = match view.condition {
            Condition::Paused => self.newest(name, node.operations, PausedBy::new).await?,
            _ => None,
        };
        let moved_ms = last_move.as_ref().map_or(0, |last| last.ended_at_ms);
        let adopted = view.adopted.clone().filter(|adopted| adopted.at_ms > moved_ms);
        Ok(NodeView { last_move, paused_by, adopted, ..view })
    }

    /// What is looked for in the newest workflow of a node that has it, among the last ones.
    async fn newest<T>(
        &self,
        name: &NodeName,
        operations: u64,
        find: fn(&Story) -> Option<T>,
    ) -> Result<Option<T>, QueryError> {
        let first = operations.saturating_sub(NEWEST_LOOKED_AT);
        for number in (first + 1..=operations).rev() {
            let story = self.find_story(&OperationId::new(name.clone(), number)).await?;
            if let Some(found) = story.as_ref().and_then(find) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Since when the node of an open workflow is down.
    async fn down(&self, id: &OperationId) -> Result<Option<Down>, QueryError> {
        let outage = self.find_story(id).await?.and_then(|story| story.outage);
        let open = outage.filter(|outage| outage.to_ms.is_none());
        Ok(open.map(|outage| Down { since_ms: outage.from_ms, because: outage.from }))
    }

    /// The file of a node.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn node_spec(&self, name: &NodeName) -> Result<NodeSpec, QueryError> {
        Ok(self.registered(name).await?.1)
    }

    /// What a file would change of its node.
    ///
    /// # Errors
    /// [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn diff(&self, new: &NodeSpec) -> Result<SpecDiff, QueryError> {
        match self.registered(&new.name).await {
            Ok((node, old)) if node.exists() => Ok(SpecDiff::new(Some((&old, node.present())), new)),
            Ok(_) | Err(QueryError::Missing { .. }) => Ok(SpecDiff::new(None, new)),
            Err(error) => Err(error),
        }
    }

    /// The backups of a node.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn backups(&self, name: &NodeName, now_ms: u64) -> Result<BackupsView, QueryError> {
        let (node, _) = self.registered(name).await?;
        Ok(BackupsView::new(name, &node, &self.backup_catalog(name).await?, now_ms))
    }

    /// The history of a node; with `last`, only of its newest workflows.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`], [`QueryError::Corrupt`] and [`QueryError::Event`].
    pub async fn history(&self, name: &NodeName, last: Option<usize>) -> Result<NodeHistory, QueryError> {
        let (node, _) = self.registered(name).await?;
        let first = node.operations.saturating_sub(last.map_or(u64::MAX, |last| last as u64));
        let mut operations = BTreeMap::new();
        for number in first + 1..=node.operations {
            let id = OperationId::new(name.clone(), number);
            operations.insert(id.clone(), self.operation_events(&id).await?);
        }
        let stream = node_stream(name);
        let events = self.events(&stream, |event| match event {
            Event::Node(event) => Some(event),
            Event::Operation(_)
            | Event::Inbox(_)
            | Event::Backup(_)
            | Event::AddressPool(_)
            | Event::Installation(_)
            | Event::Engine(_) => None,
        });
        let mut history = node_history(name, &events.await?, &operations);
        let absences = self.absences().await?;
        for entry in &mut history.entries {
            if let Entry::Operation(story) = entry {
                attended(story, &absences);
            }
        }
        if last.is_some() {
            begin_with_a_workflow(&mut history);
        }
        add_backups(&mut history, &self.backup_catalog(name).await?);
        Ok(history)
    }

    /// What the next workflow of a node would do.
    ///
    /// # Errors
    /// [`QueryError::NoOtherSubnet`] when a move is to be planned and the node file names no subnet for it;
    /// [`QueryError::Missing`], [`QueryError::Plan`], [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn plan(&self, name: &NodeName, assumption: Assumption) -> Result<Plan, QueryError> {
        let (node, spec) = self.registered(name).await?;
        if assumption.capacity_here == Presence::Missing && spec.capacity.other_subnets.is_empty() {
            return Err(QueryError::NoOtherSubnet { node: spec.name });
        }
        Ok(plan_assuming(&spec, Some(&node), assumption)?)
    }

    /// What a prune of a node would delete, and what would stay.
    ///
    /// # Errors
    /// [`QueryError::NotPrunable`] when a volume that is named cannot be deleted; [`QueryError::Missing`],
    /// [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn prune_preview(
        &self,
        name: &NodeName,
        params: &PruneParams,
        now_ms: u64,
    ) -> Result<PrunePreview, QueryError> {
        let (node, _) = self.registered(name).await?;
        PrunePreview::new(name, &node, params, now_ms).map_err(|why| QueryError::NotPrunable { why })
    }

    /// What a prune that has ended could not delete.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn not_deleted(&self, prune: &OperationId) -> Result<Vec<NotDeleted>, QueryError> {
        let items = self.operation(prune).await?.order.prune.clone();
        Ok(NotDeleted::of(&self.registered(prune.node()).await?.0, &items))
    }

    /// A node that was registered at some time, and its file.
    async fn registered(&self, name: &NodeName) -> Result<(Node, NodeSpec), QueryError> {
        if let State::Node(node) = self.state(&node_stream(name)).await?
            && let Some(spec) = node.spec.clone()
        {
            return Ok((node, spec));
        }
        Err(QueryError::Missing { subject: Subject::Node, name: name.to_string() })
    }

    /// What the present segment of a node's backup catalogue knows; nothing, when the node never had a
    /// backup.
    pub(super) async fn backup_catalog(&self, name: &NodeName) -> Result<Carried, QueryError> {
        let streams = self.journal.lookup(&catalog_key(name)).await?;
        let Some(stream) = streams.first() else { return Ok(Carried::default()) };
        match self.state(stream).await? {
            State::BackupCatalog(catalog) => Ok(catalog.known),
            _ => Ok(Carried::default()),
        }
    }
}
