//! Events in words, one line each.

use jiff::Timestamp;
use perennial_workflows::operation::OperationEvent;
use perennial_workflows::steps::Evidence;

/// A moment, to the second.
pub(crate) fn time(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{at_ms} ms"), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A length of time.
pub(crate) fn length(ms: u64) -> String {
    let seconds = ms as f64 / 1_000.0;
    if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7_200.0 {
        format!("{:.1} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3_600.0)
    }
}

/// What a step observed.
pub(crate) fn evidence(evidence: &Evidence) -> String {
    match evidence {
        Evidence::Resolved(placement) => format!("zone {}, {}", placement.zone, placement.image.architecture),
        Evidence::VolumeCreated { volume } => format!("{volume} available"),
        Evidence::InterfaceCreated { interface, private_ip } => format!("{interface} with {private_ip}"),
        Evidence::Preserved => "survives termination".to_owned(),
        Evidence::Fenced { found, terminated_by_us: true } => format!("was {found}; terminated, seen twice"),
        Evidence::Fenced { found, terminated_by_us: false } => {
            format!("was {found} already; gone, seen twice")
        }
        Evidence::Released => "free, seen twice".to_owned(),
        Evidence::StillBusy { because } => format!("still busy: {because}"),
        Evidence::SnapshotCompleted { snapshot } => format!("{snapshot} complete"),
        Evidence::ImageAvailable { image } => format!("{image} available"),
        Evidence::Launched { instance, .. } => format!("{instance} accepted"),
        Evidence::NoCapacity { code, .. } => format!("no capacity: {code}"),
        Evidence::Started { private_ip, .. } => format!("running at {private_ip}"),
        Evidence::Adopted { .. } => "the node's own root is in place".to_owned(),
        Evidence::AdoptRefused { code, message } => format!("refused: {code}: {message}"),
        Evidence::Attached => "attached".to_owned(),
        Evidence::Moved { address } => format!("{address} is here"),
        Evidence::Verified => "all in place".to_owned(),
        Evidence::Deleted => "gone".to_owned(),
        Evidence::InstanceGone { instance, state, reason } => {
            let state = state.map_or_else(|| "not known any more".to_owned(), |state| state.to_string());
            let reason = reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
            format!("{instance} is {state}{reason}")
        }
        Evidence::Lost { what } => format!("lost: {what}"),
        Evidence::Refused { code, message } => format!("refused: {code}: {message}"),
        Evidence::OutOfTime { because } => format!("out of time: {because}"),
    }
}

/// An event of an operation that a person who watches wants to see: a name and what about it.
pub(crate) fn news(event: &OperationEvent) -> Option<(String, String)> {
    Some(match event {
        OperationEvent::Started(order) => (format!("{} began", order.kind), order.cause.to_string()),
        OperationEvent::StepIntended { .. } => return None,
        OperationEvent::StepSettled { step, evidence: seen, .. } => (step.clone(), evidence(seen)),
        OperationEvent::RungChosen { from, to, because, .. } => {
            (format!("root: {to}"), format!("instead of {from}: {because}"))
        }
        OperationEvent::CandidateLost { instance, because } => {
            ("candidate lost".to_owned(), format!("{instance}: {because}"))
        }
        OperationEvent::SignalReceived { signal } => ("heard".to_owned(), signal.to_string()),
        OperationEvent::Stuck { step, because, needs } => {
            ("STUCK".to_owned(), format!("{step}: {because}; needs: {needs}"))
        }
        OperationEvent::Resumed { requested_by, .. } => ("resumed".to_owned(), format!("by {requested_by}")),
        OperationEvent::Finished { .. } => ("finished".to_owned(), "everything is in place".to_owned()),
    })
}

/// One line of progress, at most as wide as a terminal where ids allow it.
pub(crate) fn progress(at_ms: u64, event: &OperationEvent) -> Option<String> {
    let (name, what) = news(event)?;
    let at = length(at_ms);
    Some(wrapped(&format!("  +{at:>8}  {name:<27}"), &what))
}

/// A head and a text, broken at spaces so that no line is wider than a terminal.
pub(crate) fn wrapped(head: &str, text: &str) -> String {
    const WIDTH: usize = crate::output::WIDTH as usize;
    let mut lines = vec![head.to_owned()];
    let mut fresh = true;
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap_or_else(|| unreachable!("BUG: there is always a line"));
        let needed = line.chars().count() + 1 + word.chars().count();
        if needed > WIDTH && !fresh {
            lines.push(format!("{:indent$}{word}", "", indent = 14));
        } else {
            line.push(' ');
            line.push_str(word);
        }
        fresh = false;
    }
    lines.join("\n")
}
