//! Launches one instance in one pool.
//!
//! Call: RunInstances with the client token of the intent. Observed on: the answer, which the token
//! repeats. Without capacity, or if Perennial skips the pool, the next one of the ladder is asked
//! (`rules::capacity`). An interface that is lost is created again. An instance that comes when the
//! operation gives up, or when the root goes on as another image, is lost to it: it is fenced.

use std::sync::Arc;

use crate::model::aws::{InstanceId, SpotRequestId};
use crate::model::capacity::NotAsked;
use crate::model::operation_id::OperationKind;
use crate::model::root::RootMethod;
use crate::operation::event::OperationEvent;
use crate::operation::facts::{Candidate, LaunchFailure, Place};
use crate::operation::state::Operation;
use crate::rules::{capacity, launch_refused};
use crate::spec::node::RootMode;
use crate::step::evidence::Evidence;
use crate::step::intent::{Launch, LaunchInterface};
use crate::step::name::{Only, StepName};
use crate::steps::imagined::{Imagined, imaginary};
use crate::steps::settled::{Settled, lost};
use crate::steps::words::in_brackets;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, WhenGone, Withdrawal, words};

impl Step for Launch {
    fn name(&self) -> StepName {
        Only::Launch.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(10 * MINUTE_MS)
    }

    fn begin(&self, op: &mut Operation) {
        op.facts.launches.last_order = Some(Arc::clone(&op.order));
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Self { pool, interface, volumes, .. } = self;
        match seen.evidence {
            // An interface holds no data: it is made anew, with the node's address.
            Evidence::Lost { .. } => {
                if let LaunchInterface::Kept(interface) = interface {
                    op.facts.forget_interface(interface);
                }
            }
            Evidence::Launched { instance, spot_request } => {
                launched(op, self, instance, spot_request.as_ref());
            }
            Evidence::NoCapacity { code, .. } => capacity::climb(op, pool.clone(), code.clone(), seen.at_ms),
            Evidence::NotAsked { because } => capacity::pass_over(op, pool.clone(), because, seen.at_ms),
            Evidence::InstanceGone { reason, .. } => {
                if !volumes.is_empty() {
                    let origin = op.origin(seen.intent);
                    op.facts.suspect_volumes_of(seen.intent, origin, &op.id);
                }
                let code = reason.clone().unwrap_or_else(|| "instance terminated".to_owned());
                let because = code.clone();
                op.facts.launches.failed(LaunchFailure { pool: pool.clone(), instance: None, because });
                capacity::climb(op, pool.clone(), code, seen.at_ms);
            }
            _ => {}
        }
        launch_refused::learn(op, self, seen.evidence, seen.at_ms);
    }

    fn follows_the_file(&self) -> bool {
        true
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        let op = settled.op;
        match settled.evidence {
            Evidence::Launched { instance, .. }
                if op.root_method() == RootMethod::Image
                    && op.facts.root.image.as_ref() != Some(&self.image) =>
            {
                lost(instance, "it was launched before the root went on as an image".to_owned())
            }
            // The interface it was to have is made anew.
            Evidence::Lost { .. } => Vec::new(),
            _ => settled.blocked(),
        }
    }

    fn consequence_when_given_up(&self, settled: &Settled<'_>) -> Option<Vec<OperationEvent>> {
        Some(match settled.evidence {
            Evidence::Launched { instance, .. } => lost(instance, "the workflow is cancelled".to_owned()),
            _ => Vec::new(),
        })
    }

    fn when_instance_gone(&self) -> WhenGone {
        WhenGone::LaunchFailed
    }

    fn withdrawal(&self, _kind: OperationKind, is_asked: bool) -> Withdrawal {
        // Not asked for yet, so surely not made.
        if is_asked { Withdrawal::Settles } else { Withdrawal::Ends }
    }

    fn typical_ms(&self) -> u64 {
        2_500
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        let instance = imaginary(InstanceId::parse(&format!("i-{}", imagined.suffix())));
        Evidence::Launched { instance, spot_request: None }
    }

    fn words(&self, seen: &Evidence) -> String {
        let Self { pool, rank, .. } = self;
        match seen {
            Evidence::Launched { instance, .. } => {
                format!("{instance}, {} {}{}", pool.instance_type, pool.market, in_brackets(rank.as_ref()))
            }
            Evidence::NoCapacity { code, .. } => format!("{pool}: {code}"),
            Evidence::NotAsked { because } => format!("{pool}: {because}"),
            Evidence::ImageGone { image, message } => format!("{image} cannot be launched: {message}"),
            other => words::common(other),
        }
    }

    fn rejection(&self, seen: &Evidence) -> Option<String> {
        let pool = &self.pool;
        match seen {
            Evidence::NoCapacity { code, message } | Evidence::NoAddress { code, message } => {
                Some(format!("{pool}: {code}: {message}"))
            }
            Evidence::NotAsked { because } => {
                let again = match because {
                    NotAsked::Remembered { again_in_s, .. } => {
                        format!("; it is asked again in {again_in_s} s")
                    }
                    NotAsked::OnDemandBudget { .. } => String::new(),
                };
                Some(format!("{pool}: {because}{again}"))
            }
            Evidence::InstanceGone { instance, reason, .. } => {
                let reason = reason.as_deref().unwrap_or("no reason given");
                Some(format!("{pool}: {instance} was gone at once ({reason})"))
            }
            _ => None,
        }
    }
}

fn launched(
    op: &mut Operation,
    launch: &Launch,
    instance: &InstanceId,
    spot_request: Option<&SpotRequestId>,
) {
    let Launch { pool, image, interface, volumes, .. } = launch;
    if let (LaunchInterface::Kept(_), Some(held)) = (interface, &mut op.facts.network.interface) {
        held.place = Place::On(instance.clone());
    }
    let launched_with =
        volumes.iter().map(|volume| (volume.device.clone(), (volume.slot.clone(), volume.snapshot.clone())));
    op.facts.candidate = Some(Candidate {
        instance: instance.clone(),
        pool: pool.clone(),
        image: image.clone(),
        spot_request: spot_request.cloned(),
        running: None,
        protected: op.order.spec.persist.root == RootMode::None,
        adopted: false,
        launched_with: launched_with.collect(),
        address: None,
        preserved: false,
        verified: false,
    });
}
