//! The step `survey`: looks at types, offers, prices and scores, and lets the workflow's own function say
//! what follows ([`resolve`]). Nothing is changed, so a repeat is harmless.
//!
//! Where types must be found, types and offers are needed and their trouble is the step's. Everything else is
//! a hint: what cannot be looked at within [`HINTS`] is noted, and the pools are ranked without it.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_engine::dispatcher::StepResult;
use perennial_workflows::model::survey::{Looked, PATIENCE_MS, Question};
use perennial_workflows::rules::ranking::{candidates, resolve};
use perennial_workflows::step::evidence::Evidence;

use super::pass::{Answer, Pass, not_yet, settled};
use crate::port::TypeQuery;
use crate::port::error::CloudError;

/// How long prices and scores are waited for. A call takes a fifth of a second; two for each of nine subnets
/// take less than four.
const HINTS: Duration = Duration::from_secs(4);

/// Answers a question about capacity.
pub(super) async fn survey(pass: &mut Pass<'_>, question: &Question) -> Answer {
    if question.needed {
        return surveyed(pass, question).await;
    }
    // Whatever hangs, the launch does not wait for longer than the workflow allows.
    let clock = &pass.tools.clock;
    let patience = Duration::from_millis(PATIENCE_MS);
    let left = patience.saturating_sub(pass.looked_for());
    let answer = tokio::select! {
        biased;
        answer = surveyed(pass, question) => answer,
        () = clock.sleep(left) => {
            let late = "the region did not say in time which pools there are";
            let said = pass.memory.trouble.iter().map(|said| format!("; it said before: {said}"));
            not_yet(Duration::ZERO, late.to_owned() + &said.collect::<String>())
        }
    };
    let left = patience.saturating_sub(pass.looked_for());
    match answer {
        Err(error) => Ok(match pass.trouble(&error) {
            StepResult::NotYet { again_in, because } | StepResult::Hindered { again_in, because } => {
                StepResult::NotYet { again_in: again_in.min(left), because }
            }
            other @ (StepResult::Settled(_) | StepResult::Queued(_)) => other,
        }),
        answer => answer,
    }
}

async fn surveyed(pass: &Pass<'_>, question: &Question) -> Answer {
    let mut looked = catalogued(pass, question).await?;
    let (names, _) = candidates(question, looked.types.as_deref());
    let began_ms = pass.tools.clock.now_ms();
    let prices = async {
        let mut prices = BTreeMap::new();
        let mut notes = Vec::new();
        if question.asks_for_prices() && !names.is_empty() {
            for zone in zones(question) {
                match pass.tools.cloud.spot_prices(&names, zone, began_ms).await {
                    Ok(known) => {
                        prices.insert(zone.to_owned(), known);
                    }
                    Err(error) => notes.push(format!("prices in {zone} are not known: {error}")),
                }
            }
        }
        (prices, notes)
    };
    let scores = async {
        let mut scores = BTreeMap::new();
        let mut notes = Vec::new();
        if question.asks_for_scores(names.len()) {
            for zone in zones(question) {
                match pass.tools.cloud.placement_score(&names, zone).await {
                    Ok(score) => scores.extend(score.map(|score| (zone.to_owned(), score))),
                    Err(error) => notes.push(format!("the score of {zone} is not known: {error}")),
                }
            }
        }
        (scores, notes)
    };
    // Each on its own: one that hangs takes nothing from the other.
    let (prices, scores) = tokio::join!(in_time(pass, prices), in_time(pass, scores));
    for (hint, what) in [(prices.is_none(), "prices"), (scores.is_none(), "scores")] {
        if hint {
            looked.notes.push(format!("{what} were not known in time"));
        }
    }
    let (prices, price_notes) = prices.unwrap_or_default();
    let (scores, score_notes) = scores.unwrap_or_default();
    looked.prices = prices;
    looked.scores = scores;
    looked.notes.extend(price_notes.into_iter().chain(score_notes));
    settled(Evidence::Surveyed(resolve(question, &looked)))
}

async fn in_time<T>(pass: &Pass<'_>, hint: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        known = hint => Some(known),
        () = pass.tools.clock.sleep(HINTS) => None,
    }
}

/// Which types there are, and where they are offered.
async fn catalogued(pass: &Pass<'_>, question: &Question) -> Result<Looked, CloudError> {
    let catalogue = &pass.tools.catalogue;
    let mut looked = Looked::default();
    let mut queries = Vec::new();
    if !question.instance_types.is_empty() {
        queries.push(TypeQuery::Named(question.instance_types.clone()));
    }
    if question.requirements.is_some() {
        queries.push(TypeQuery::Of(question.architecture.clone()));
    }
    for query in &queries {
        match catalogue.types(query).await {
            Ok(types) => looked.types.get_or_insert_default().extend(types.iter().cloned()),
            Err(error) if question.requirements.is_some() => return Err(error),
            Err(error) => looked.notes.push(format!("the types could not be looked at: {error}")),
        }
    }
    for zone in zones(question) {
        match catalogue.offered(zone).await {
            Ok(offered) => {
                looked.offered.insert(zone.to_owned(), offered.as_ref().clone());
            }
            Err(error) if question.requirements.is_some() => return Err(error),
            Err(error) => looked.notes.push(format!("what {zone} offers is not known: {error}")),
        }
    }
    Ok(looked)
}

/// The zones of a question, each once.
fn zones(question: &Question) -> Vec<&str> {
    let mut zones: Vec<&str> = Vec::new();
    for place in &question.places {
        if !zones.contains(&place.zone.as_str()) {
            zones.push(&place.zone);
        }
    }
    zones
}
