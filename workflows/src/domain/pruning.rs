//! What is retained is to be deleted: because somebody asks, or because the file says for how long it is kept.

use crate::domain::{Appends, Rejection, Sight, View, Wanted};
use crate::letter::Fate;
use crate::node::{Node, OperationKind, node_stream};
use crate::prune;
use crate::signal::Cause;
use crate::spec::NodeSpec;
use crate::submission::PruneParams;

impl View<'_> {
    /// Somebody asks for it, while nothing holds the node.
    pub(super) fn prune(
        &self,
        sight: &Sight,
        node: &Node,
        spec: &NodeSpec,
        (wish, cause): (&PruneParams, Cause),
    ) -> Result<(Fate, Appends), Rejection> {
        let condemned = match prune::select(node, wish, self.now_ms) {
            Ok(condemned) => condemned,
            Err(because) => return Ok((Fate::Rejected { because }, Vec::new())),
        };
        if condemned.is_empty() {
            let because = "nothing that is retained is to be deleted by that; `perennial node prune --dry-run` says why";
            return Ok((Fate::Noted { because: because.to_owned() }, Vec::new()));
        }
        let before = node.resources.clone();
        let wanted = Wanted::new(OperationKind::Prune, spec.clone(), before, node.generation, cause);
        let begun = self.start(sight, Wanted { prune: condemned, ..wanted })?;
        let appends = vec![(node_stream(&sight.node), begun.told_to_node), begun.append];
        Ok((Fate::Started { operation: begun.id }, appends))
    }

    /// The file says so.
    pub(super) fn prune_what_is_due(&self, sight: &Sight) -> Result<Appends, Rejection> {
        let node = self.seen(sight)?;
        let condemned = prune::due(node, &sight.node, self.now_ms);
        let days = node.spec.as_ref().and_then(|spec| spec.persist.retain_days);
        let (Some(spec), Some(retain_days), false) = (&node.spec, days, condemned.is_empty()) else {
            let why = "nothing has been retained for too long".to_owned();
            return Err(Rejection::NotNow { node: sight.node.clone(), why });
        };
        let (before, cause) = (node.resources.clone(), Cause::RetainedLonger { retain_days });
        let wanted = Wanted::new(OperationKind::Prune, spec.clone(), before, node.generation, cause);
        let begun = self.start(sight, Wanted { prune: condemned, ..wanted })?;
        Ok(vec![(node_stream(&sight.node), begun.told_to_node), begun.append])
    }

    /// Why a file cannot be applied now: it names a volume that is being deleted.
    pub(super) fn names_condemned(&self, sight: &Sight, spec: &NodeSpec) -> Option<String> {
        let open = sight.open.as_ref().and_then(|open| self.operation(open))?;
        let named = spec.data_volumes.iter().enumerate();
        let mut named = named.filter_map(|(i, wanted)| Some((i, wanted.volume.as_ref()?)));
        let (i, volume) = named
            .find(|(_, volume)| open.order.prune.iter().any(|condemned| condemned.volume == **volume))?;
        let open = &open.id;
        Some(format!(
            "spec.data_volumes[{i}].volume: workflow {open} deletes {volume}; cancel it with `perennial workflow cancel {open}`, and see \
             whether the volume is still there"
        ))
    }
}
