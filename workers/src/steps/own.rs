//! Whose a thing is that carries a step's tags.
//!
//! A tag is a claim. It stays on a thing when the journal that wrote it is lost, older than the world, or
//! another installation's, and whoever may tag can copy it. This is the only look by tags of a step; what it
//! returns is the step's own:
//!
//! - it was not made before the step was intended, less a minute for two clocks that disagree;
//! - it carries the installation of the step, where the step's tags name one;
//! - an instance shows the client token of the launch;
//! - a snapshot is of a volume that the step takes one of; one of all volumes of an instance may also be of
//!   another volume, which was attached after the step had looked: of the node, on that instance, or taken in
//!   the same moment.
//!
//! A thing whose id the step's own call returned needs no other proof. What carries the tags and is not the
//! step's is neither used nor deleted; the log names it, once for each step and thing.

use std::collections::BTreeSet;
use std::time::Duration;

use perennial_workflows::model::aws::{InstanceId, VolumeId};
use perennial_workflows::model::installation::INSTALLATION_TAG;
use perennial_workflows::model::volume::TagMap;
use tracing::warn;

use super::pass::{CLOCKS_DISAGREE_MAX, Pass};
use super::tags::{carries, own_tags, step_tags};
use crate::cloud::observer::Described;
use crate::port::error::CloudError;
use crate::port::{ImageView, InstanceView, InterfaceView, SnapshotView, Tags, VolumeView};

/// What a step says of the things that it makes.
#[derive(Clone, Copy)]
pub(super) struct Claim<'c> {
    /// The tags it makes them with.
    pub(super) tags: &'c TagMap,
    /// When it was intended, in milliseconds since the Unix epoch, if that is known.
    pub(super) intended_at_ms: Option<u64>,
    /// The client token of its call. Only instances show theirs.
    pub(super) client_token: Option<&'c str>,
    /// The volumes that it takes snapshots of; empty where they are not known.
    pub(super) sources: &'c [VolumeId],
}

impl<'c> Claim<'c> {
    /// Of the step that this pass carries out.
    pub(super) fn of(pass: &Pass<'_>, tags: &'c TagMap) -> Self {
        Self::intended(pass, tags, Some(pass.made_from_ms))
    }

    /// Of a step that the journal intended at this time. One that is later than the intention of this step
    /// is of a clock that has gone back since, and says nothing.
    pub(super) fn intended(pass: &Pass<'_>, tags: &'c TagMap, at_ms: Option<u64>) -> Self {
        let dated = at_ms.filter(|at_ms| *at_ms <= pass.made_from_ms);
        let intended_at_ms = dated.and_then(|at_ms| pass.tools.at_aws_ms(at_ms));
        Self { tags, intended_at_ms, client_token: None, sources: &[] }
    }

    /// With the client token of its call.
    pub(super) fn with_token(self, token: &'c str) -> Self {
        Self { client_token: Some(token), ..self }
    }

    /// Of a step that waits for what an earlier one has begun, at this time of the journal.
    pub(super) fn begun(self, pass: &Pass<'_>, begun_ms: Option<u64>) -> Self {
        let Some(begun_ms) = begun_ms else { return self };
        let begun_ms = pass.tools.at_aws_ms(begun_ms);
        let earliest = self.intended_at_ms.zip(begun_ms).map(|(intended, begun)| intended.min(begun));
        Self { intended_at_ms: earliest, ..self }
    }

    /// Of snapshots of these volumes.
    pub(super) fn of_volumes(self, sources: &'c [VolumeId]) -> Self {
        Self { sources, ..self }
    }

    /// Why a thing is not this step's, though it carries its tags.
    fn refuses(&self, thing: &Thing<'_>) -> Option<String> {
        let ours = self.tags.get(INSTALLATION_TAG);
        if ours.is_some_and(|ours| thing.tags.get(INSTALLATION_TAG) != Some(ours)) {
            return Some(match thing.tags.get(INSTALLATION_TAG) {
                Some(other) => format!("it is of the installation {other}"),
                None => format!("it has no tag {INSTALLATION_TAG}"),
            });
        }
        if let (Some(made), Some(intended)) = (thing.created_at_ms, self.intended_at_ms) {
            let before = Duration::from_millis(intended.saturating_sub(made));
            if before > CLOCKS_DISAGREE_MAX {
                return Some(format!("it was made {} s before the step was intended", before.as_secs()));
            }
        }
        if let (Some(shown), Some(wanted)) = (thing.client_token, self.client_token)
            && shown != Some(wanted)
        {
            return Some("it does not show the client token of the launch".to_owned());
        }
        if let Some(source) = thing.source
            && !self.sources.is_empty()
            && !source.is_some_and(|source| self.sources.contains(source))
        {
            return Some(format!("it is of {}", source.map_or("no volume", VolumeId::as_str)));
        }
        None
    }
}

/// What is known of a thing that carries a step's tags.
pub(super) struct Thing<'v> {
    id: &'v str,
    tags: &'v Tags,
    created_at_ms: Option<u64>,
    /// The token that an instance shows.
    client_token: Option<Option<&'v str>>,
    /// The volume that a snapshot is of.
    source: Option<Option<&'v VolumeId>>,
}

/// A kind of thing that steps make.
pub(super) trait Made: Described {
    /// What is known of one.
    fn thing(&self) -> Thing<'_>;
}

macro_rules! made {
    ($($view:ident: |$it:ident| $created:expr, $token:expr, $source:expr;)*) => {$(
        impl Made for $view {
            fn thing(&self) -> Thing<'_> {
                let $it = self;
                Thing {
                    id: $it.id.as_str(),
                    tags: &$it.tags,
                    created_at_ms: $created,
                    client_token: $token,
                    source: $source,
                }
            }
        }
    )*};
}

made! {
    InstanceView: |it| Some(it.launched_at_ms), Some(it.client_token.as_deref()), None;
    VolumeView: |it| it.created_at_ms, None, None;
    // EC2 does not say when an interface was made.
    InterfaceView: |_it| None, None, None;
    SnapshotView: |it| Some(it.started_at_ms), None, Some(it.volume.as_ref());
    ImageView: |it| it.created_at_ms, None, None;
}

/// What a step has made, by its tags; what only carries them is told.
pub(super) async fn made_by<V: Made>(pass: &mut Pass<'_>, claim: &Claim<'_>) -> Result<Vec<V>, CloudError> {
    let carrying: Vec<V> = pass.tools.observer.tagged(step_tags(claim.tags)).await?;
    Ok(carrying.into_iter().filter(|view| is_own(pass, claim, view)).collect())
}

/// Snapshots of one call begin together: EC2 takes them at one moment (CreateSnapshots, "crash-consistent").
const ONE_CALL_MAX: Duration = Duration::from_secs(2);

/// What a step that takes snapshots of all volumes of an instance has made. `claim` names those it asks for;
/// another one is of the node, was attached between the look and the call, or began with one that was asked
/// for.
pub(super) async fn made_of_instance(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    claim: &Claim<'_>,
) -> Result<Vec<SnapshotView>, CloudError> {
    let made = made_by(pass, &Claim { sources: &[], ..*claim }).await?;
    let others: BTreeSet<VolumeId> =
        made.iter().filter_map(|view: &SnapshotView| view.volume.clone()).collect();
    let others: Vec<_> = others.into_iter().filter(|volume| !claim.sources.contains(volume)).collect();
    let mut whose = own_tags(claim.tags);
    whose.extend(claim.tags.get_key_value(INSTALLATION_TAG).map(|(tag, ours)| (tag.clone(), ours.clone())));
    let mut sources = claim.sources.to_vec();
    let asked = |view: &&SnapshotView| view.volume.as_ref().is_some_and(|of| claim.sources.contains(of));
    let begun: Vec<u64> = made.iter().filter(asked).map(|view| view.started_at_ms).collect();
    let is_beside = |view: &&SnapshotView| {
        begun.iter().any(|at_ms| at_ms.abs_diff(view.started_at_ms) <= ONE_CALL_MAX.as_millis() as u64)
    };
    sources.extend(made.iter().filter(is_beside).filter_map(|view| view.volume.clone()));
    if !others.is_empty() {
        let views = pass.tools.observer.volumes(&others).await?;
        let is_on = |view: &VolumeView| view.attachments.iter().any(|on| on.instance == *instance);
        let of_node = |view: &VolumeView| is_on(view) || carries(&view.tags, &whose);
        sources.extend(views.into_iter().flatten().filter(of_node).map(|view| view.id));
    }
    let claim = claim.of_volumes(&sources);
    Ok(made.into_iter().filter(|view| is_own(pass, &claim, view)).collect())
}

/// Whether a thing that carries a step's tags was made by it; told where not.
fn is_own<V: Made>(pass: &mut Pass<'_>, claim: &Claim<'_>, view: &V) -> bool {
    let thing = view.thing();
    if pass.memory.is_answer(thing.id) {
        return true;
    }
    let Some(because) = claim.refuses(&thing) else { return true };
    if pass.memory.tells(thing.id) {
        let step = claim.tags.get("perennial:step").map_or("", String::as_str);
        warn!(
            workflow = %pass.step.0, %step, thing = thing.id, %because,
            "something carries the tags of a step that has not made it: it is neither used nor deleted"
        );
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTENDED_MS: u64 = 1_000_000;

    fn tags(installation: Option<&str>) -> TagMap {
        let step = ("perennial:step".to_owned(), "db-1.2/launch/1".to_owned());
        let installation = installation.map(|id| (INSTALLATION_TAG.to_owned(), id.to_owned()));
        std::iter::once(step).chain(installation).collect()
    }

    fn thing(tags: &Tags) -> Thing<'_> {
        Thing { id: "x", tags, created_at_ms: Some(INTENDED_MS), client_token: None, source: None }
    }

    fn claim(tags: &TagMap) -> Claim<'_> {
        Claim { tags, intended_at_ms: Some(INTENDED_MS), client_token: None, sources: &[] }
    }

    #[test]
    fn what_is_older_than_the_step_by_more_than_a_minute_is_not_its_own() {
        let tags = tags(None);
        for (earlier_ms, own) in [(0, true), (60_000, true), (60_001, false)] {
            let made = Thing { created_at_ms: Some(INTENDED_MS - earlier_ms), ..thing(&tags) };
            assert_eq!(claim(&tags).refuses(&made).is_none(), own, "{earlier_ms} ms earlier");
        }
        let undated = Thing { created_at_ms: None, ..thing(&tags) };
        assert_eq!(claim(&tags).refuses(&undated), None, "an endpoint that says nothing");
    }

    #[test]
    fn another_installation_and_none_at_all_are_refused_by_a_step_that_names_its_own() {
        let (ours, theirs, none) = (tags(Some("a")), tags(Some("b")), tags(None));
        assert_eq!(claim(&ours).refuses(&thing(&ours)), None);
        assert_eq!(claim(&ours).refuses(&thing(&theirs)).as_deref(), Some("it is of the installation b"));
        assert!(claim(&ours).refuses(&thing(&none)).is_some());
        assert_eq!(claim(&none).refuses(&thing(&theirs)), None, "a step of before there were installations");
    }

    #[test]
    fn an_instance_with_another_client_token_or_none_is_refused() {
        let tags = tags(None);
        let wants = claim(&tags).with_token("t-1");
        for (shown, own) in [(Some(Some("t-1")), true), (Some(Some("t-2")), false), (Some(None), false)] {
            assert_eq!(wants.refuses(&Thing { client_token: shown, ..thing(&tags) }).is_none(), own);
        }
    }

    #[test]
    fn a_snapshot_of_another_volume_is_refused() {
        let tags = tags(None);
        let [right, wrong] = ["vol-0a", "vol-0b"].map(|id| VolumeId::parse(id).unwrap());
        let sources = [right.clone()];
        let wants = claim(&tags).of_volumes(&sources);
        for (source, own) in [(Some(&right), true), (Some(&wrong), false), (None, false)] {
            assert_eq!(wants.refuses(&Thing { source: Some(source), ..thing(&tags) }).is_none(), own);
        }
    }
}
