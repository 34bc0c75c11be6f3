//! A node file or an address-pool file is applied.

use perennial_engine::domain::Append;

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::{Node, NodeEvent};
use crate::domain::command::{Rejection, Sight};
use crate::domain::states::{Appends, Decider, Event, Wanted};
use crate::domain::volumes;
use crate::model::backup_id::BackupId;
use crate::model::operation_id;
use crate::model::operation_id::{OperationKind, node_stream};
use crate::model::resources::Resources;
use crate::model::signal::Cause;
use crate::spec::node::NodeSpec;

impl Decider<'_> {
    pub(crate) fn apply(
        &self,
        sight: &Sight,
        node: &Node,
        spec: &NodeSpec,
        from: Option<&BackupId>,
        requested_by: &str,
        cause: Cause,
    ) -> Result<(Disposition, Appends), Rejection> {
        let stream = node_stream(&sight.node);
        let keeps_something = !node.resources.volumes.is_empty() || node.resources.interface.is_some();
        if from.is_some() && (node.exists() || keeps_something) {
            let because = format!(
                "spec.name: there is a node {} already, or what its deletion kept; a new node needs another name",
                sight.node
            );
            return Ok((Disposition::Rejected { because }, Vec::new()));
        }
        // A node that has never been carried has no state to lose; only its zone may be taken already.
        let never_carried =
            node.generation == 0 && node.spec.as_ref().is_some_and(|old| old.subnet == spec.subnet);
        if let Some(old) = node.spec.as_ref().filter(|_| node.exists())
            && old.pool() != spec.pool()
        {
            let because = "spec.network.ip_pool: the node has, or waits for, an address of its pool; delete the node first";
            return Ok((Disposition::Rejected { because: because.to_owned() }, Vec::new()));
        }
        if let (Some(old), Some((open, kind))) = (&node.spec, &node.open)
            && !operation_id::is_in_place(*kind)
            && let Some(field) = spec.fixed_by_a_start(old)
        {
            let because = format!(
                "spec.{field}: workflow {open} ({kind}) has begun with another; wait for it with `perennial workflow watch {open}`, or undo it with `perennial workflow cancel {open}`"
            );
            return Ok((Disposition::Rejected { because }, Vec::new()));
        }
        if let Some(old) = &node.spec
            && (node.exists() || keeps_something)
            && !never_carried
            && let Err(error) = spec.check_change_from(old)
        {
            return Ok((Disposition::Rejected { because: format!("spec.{error}") }, Vec::new()));
        }
        if let Err(because) = volumes::check_names(spec, &node.resources) {
            return Ok((Disposition::Rejected { because }, Vec::new()));
        }
        if let Some(because) = self.names_pruned(sight, spec) {
            return Ok((Disposition::Rejected { because }, Vec::new()));
        }
        if node.exists() {
            let is_grown = node.open.is_some() || !node.resources.is_smaller_than(spec);
            if node.spec.as_ref() == Some(spec) && is_grown {
                return Ok((
                    Disposition::Noted { because: "the node is meant to be so already".to_owned() },
                    Vec::new(),
                ));
            }
            let (taken, repooled) = match self.repool(sight, node, spec) {
                Ok(repooled) => repooled,
                Err(because) => return Ok((Disposition::Rejected { because }, Vec::new())),
            };
            let changed = NodeEvent::SpecChanged {
                spec: spec.clone(),
                requested_by: requested_by.to_owned(),
                addresses_elsewhere: taken.clone(),
            };
            let mut node_events = vec![Event::Node(changed)];
            // A node of an older journal does not say how large its volumes are; the old file does.
            let larger = node.resources.carrier.is_some()
                && node.spec.as_ref().is_some_and(|old| spec.is_larger_than(old));
            if node.open.is_none() && (larger || node.resources.is_smaller_than(spec)) {
                let mut before = node.resources.clone();
                if let Some(old) = &node.spec {
                    before.repool(old, spec, &taken);
                }
                let wanted = Wanted::new(OperationKind::Grow, spec.clone(), before, node.generation, cause);
                let begun = self.start(sight, wanted)?;
                node_events.extend(begun.node_events);
                let mut appends = vec![Append::new(stream, node_events), begun.append];
                appends.extend(repooled);
                return Ok((Disposition::Started { operation: begun.id }, appends));
            }
            let mut appends = vec![Append::new(stream, node_events)];
            appends.extend(repooled);
            return Ok((Disposition::Changed, appends));
        }
        let registered = NodeEvent::Registered { spec: spec.clone(), requested_by: requested_by.to_owned() };
        let (granted, taken) = match self.take_for_start(&sight.next(), spec, &node.resources) {
            Ok(taken) => taken,
            Err(because) => return Ok((Disposition::Rejected { because }, Vec::new())),
        };
        let (restore, held) = match from.map(|from| self.hold(sight, spec, from)).transpose()? {
            None => (None, None),
            Some(Ok((restore, held))) => (Some(restore), Some(held)),
            Some(Err(because)) => return Ok((Disposition::Rejected { because }, Vec::new())),
        };
        let begun = self.start(
            sight,
            Wanted {
                restore,
                ..Wanted::new(
                    OperationKind::Provision,
                    spec.clone(),
                    Resources {
                        address: granted.here.or(node.resources.address),
                        addresses_elsewhere: granted.elsewhere,
                        ..node.resources.clone()
                    },
                    node.generation + 1,
                    cause,
                )
            },
        )?;
        let mut node_events = vec![Event::Node(registered)];
        node_events.extend(begun.node_events);
        let mut appends = vec![Append::new(stream, node_events), begun.append];
        appends.extend(taken);
        appends.extend(held);
        Ok((Disposition::Started { operation: begun.id }, appends))
    }
}
