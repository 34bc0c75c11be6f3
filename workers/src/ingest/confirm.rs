//! An event is a reason to look: the end of an instance is believed only when EC2 shows it.
//!
//! Whoever may send to the queue can write an event, an event of another account can be forwarded, and an old
//! one can come again. "It is terminated" would let a workflow skip what protects the data of an instance
//! that still runs. So the reader describes the instance first and passes on the state that EC2 shows.

use perennial_workflows::model::aws::{InstanceId, InstanceState, SpotRequestId};
use perennial_workflows::model::signal::{Certainty, News, Signal};
use tracing::warn;

use super::events::NOTICE;
use crate::cloud::observer::Observer;
use crate::port::error::CloudError;
use crate::port::{Cloud, InstanceView, Select};

/// What a look makes of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// EC2 agrees, perhaps with a later state than the event's: this is what is known.
    Agrees(Signal),
    /// EC2 shows that it is well, which can be a late describe or a false event.
    Contradicts {
        /// The state that EC2 shows.
        state: InstanceState,
    },
    /// The look failed; the event has to wait.
    Failed {
        /// EC2's answer.
        because: String,
    },
}

/// Whether a signal says of an instance what only a look can confirm: that it stops, or is over. A warning is
/// about the future: the instance still runs, and a replacement protects its data first.
pub(super) const fn needs_a_look(signal: &Signal) -> bool {
    match &signal.news {
        News::StateChange { state } => !matches!(state, InstanceState::Pending | InstanceState::Running),
        News::SpotInterruption { .. }
        | News::ReservationInterruption { .. }
        | News::Rebalance
        | News::ScheduledChange { .. }
        | News::Missing { .. }
        | News::Impaired { .. } => false,
    }
}

/// Describes the instance of a signal, together with those of others.
pub(super) async fn look(observer: &Observer, signal: &Signal) -> Look {
    match observer.instance(&signal.instance).await {
        Ok(found) => judge(signal, found.as_ref()),
        Err(error) => Look::Failed { because: error.to_string() },
    }
}

/// What EC2 shows of an instance that a message names without a use of its own: it rings, and a look decides.
/// `None` when the instance is well, or the look fails.
pub(super) async fn seen(cloud: &dyn Cloud, instance: &InstanceId, now_ms: u64) -> Option<News> {
    let found = cloud.instances(&Select::Ids(vec![instance.clone()])).await;
    let found = found.inspect_err(|error| unseen(instance, error)).ok()?;
    let shown = found.first()?;
    let requests: Vec<SpotRequestId> = shown.spot_request.iter().cloned().collect();
    let doomed = match requests.is_empty() {
        true => Vec::new(),
        false => {
            let doomed = cloud.doomed_spot_requests(&requests).await;
            doomed.inspect_err(|error| unseen(instance, error)).ok()?
        }
    };
    seen_news(shown.state, doomed.first().map(|request| &request.status), now_ms)
}

fn unseen(instance: &InstanceId, error: &CloudError) {
    warn!(%instance, %error, "a message names an instance that could not be looked at; the sweep looks again");
}

/// What the state of an instance says, and that of its spot request.
pub(crate) fn seen_news(state: InstanceState, doomed: Option<&String>, now_ms: u64) -> Option<News> {
    match state {
        InstanceState::Pending | InstanceState::Running => doomed.map(|status| News::SpotInterruption {
            action: doom(status),
            deadline_ms: now_ms + u64::try_from(NOTICE.as_millis()).unwrap_or(0),
        }),
        state => Some(News::StateChange { state }),
    }
}

/// What EC2 does to the instance, by its spot request's status.
fn doom(status: &str) -> String {
    let action = if status.contains("stop") { "stop" } else { "terminate" };
    format!("{action} (spot request: {status})")
}

/// When the instance of a signal was launched, if EC2 shows it.
pub(super) async fn launched(cloud: &dyn Cloud, signal: &Signal) -> Option<u64> {
    let found = cloud.instances(&Select::Ids(vec![signal.instance.clone()])).await;
    let found = found.inspect_err(|error| unseen(&signal.instance, error)).ok()?;
    found.first().map(|shown| shown.launched_at_ms)
}

/// What EC2 shows is passed on. An instance that is not shown is not known to be over: EC2 forgets terminated
/// ones after an hour, and a wrong region or account shows none at all.
fn judge(signal: &Signal, shown: Option<&InstanceView>) -> Look {
    let Some(shown) = shown else {
        let because = "an event says that it has ended, and EC2 does not show it".to_owned();
        return Look::Agrees(Signal { news: News::Missing { because }, ..signal.clone() });
    };
    let seen = Signal { news: News::StateChange { state: shown.state }, ..signal.clone() };
    if seen.certainty() < Certainty::Warned {
        return Look::Contradicts { state: shown.state };
    }
    Look::Agrees(seen)
}
