//! The loop that lets time pass and delivers the region's events.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::super::rules::Delivery;
use super::super::sqs::model::Outgoing;
use super::Region;
use super::journal::Operation;
use super::lock::lock;

/// The longest sleep of the pump: a machine that was suspended is noticed after it.
const NAP_MAX: Duration = Duration::from_secs(3600);
/// With a state directory, how much of the machine's time may pass unlogged: so much the region's clock may
/// go back at a crash.
const UNLOGGED_MAX: Duration = Duration::from_secs(5);

impl Region {
    /// Lets time pass in the region and delivers its events. Never ends.
    pub(crate) async fn run(&self) {
        let mut logged = Instant::now();
        loop {
            if self.log.is_kept() && self.speed() > 0.0 && logged.elapsed() >= UNLOGGED_MAX {
                logged = Instant::now();
                self.look(|_, now_ms| self.log(now_ms, Operation::Tick));
                _ = self.settled().await;
            }
            let (event, due_ms, now_ms) = {
                let mut world = lock(&self.state.world);
                let now_ms = self.now_ms().max(world.now_ms());
                self.catch_up(&mut world, now_ms);
                (world.next_event().cloned(), world.next_due_ms(), now_ms)
            };
            if let Some(event) = event {
                self.tell(&event);
                // After the delivery: at a crash between the two the event is delivered again, as EventBridge
                // may do.
                let id = event["id"].as_str().unwrap_or_default().to_owned();
                let mut world = lock(&self.state.world);
                world.event_was_told(&id);
                self.log(now_ms, Operation::Told { id });
                continue;
            }
            let speed = self.speed();
            let longest = if self.log.is_kept() { UNLOGGED_MAX } else { NAP_MAX };
            let nap = match due_ms {
                Some(due_ms) if speed > 0.0 => {
                    Duration::from_millis(due_ms.saturating_sub(now_ms) + 1).div_f64(speed).min(longest)
                }
                _ => longest,
            };
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Delivers an event to the targets of every rule that matches it, and to the queue of all events.
    pub(crate) fn tell(&self, event: &Json) {
        let mut targets = self.rules().targets_of(event);
        if let (Some(name), Some("aws.ec2")) = (&self.events_queue, event["source"].as_str()) {
            targets.push(Delivery { queue: name.clone(), body: event.to_string(), group: None });
        }
        let trouble = self.rules().trouble;
        let late = |_: &_| trouble.deliveries(&mut lock(&self.rng));
        let deliveries = targets.iter().map(late).collect::<Vec<_>>();
        let each = targets.into_iter().zip(deliveries);
        for (target, late_s) in
            each.flat_map(|(target, all)| all.into_iter().map(move |s| (target.clone(), s)))
        {
            let fifo = target.group.as_ref().map(|_| self.fresh_id());
            let message = Outgoing {
                body: target.body.clone(),
                group: target.group.clone(),
                deduplication: fifo.clone(),
                delay_s: Some(late_s).filter(|late_s| *late_s > 0 && fifo.is_none()),
                ..Outgoing::default()
            };
            let mut request = json!({ "QueueUrl": target.queue, "MessageBody": target.body });
            if late_s > 0 && fifo.is_none() {
                request["DelaySeconds"] = json!(late_s);
            }
            if let (Some(group), Some(fifo)) = (&target.group, &fifo) {
                request["MessageGroupId"] = json!(group);
                request["MessageDeduplicationId"] = json!(fifo);
            }
            let sent = self.change_queues("SendMessage", &request, |queues, now_ms| {
                queues.send(&target.queue, message, now_ms)
            });
            if let Err(refusal) = sent {
                tracing::warn!(queue = target.queue, code = refusal.code, "an event could not be delivered");
            }
        }
    }
}
