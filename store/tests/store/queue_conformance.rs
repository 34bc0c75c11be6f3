//! The queue's suite on every adapter of this workspace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::memory::{MemoryQueue, MemoryQueueSettings};
use perennial_engine::queue::Queue;
use perennial_store::conformance::queue::{self as suite, Needs, Traits};
use perennial_store::{Durability, EmbeddedQueue, QueueSettings};

#[tokio::test(start_paused = true)]
async fn the_queue_in_memory_keeps_every_promise() {
    // As coarse as SQS: virtual seconds cost nothing.
    let traits = Traits { min_visibility: Duration::from_secs(1), patience: Duration::from_secs(20) };
    suite::all(traits, async |needs: Needs| {
        let settings = MemoryQueueSettings { visibility: needs.visibility, max_receives: needs.max_receives };
        Arc::new(MemoryQueue::new(settings, Clock::scaled(1_000, 1.0))) as Arc<dyn Queue>
    })
    .await;
}

async fn embedded(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    let traits = Traits { min_visibility: Duration::from_millis(50), patience: Duration::from_secs(20) };
    suite::all(traits, async |needs: Needs| {
        // One file for all of them: queues of one file do not see each other's messages.
        let name = format!("queue-{}", count.fetch_add(1, Ordering::Relaxed));
        let Needs { visibility, max_receives } = needs;
        let settings = QueueSettings { visibility, max_receives, durability, ..QueueSettings::default() };
        Arc::new(EmbeddedQueue::open(dir.path(), &name, settings, Clock::system()).unwrap()) as Arc<dyn Queue>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_queue_keeps_every_promise() {
    embedded(Durability::Durable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_queue_keeps_every_promise_for_doorbells() {
    embedded(Durability::Hint).await;
}
