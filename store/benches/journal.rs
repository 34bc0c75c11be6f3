//! The cost of durable appends: through the public API, beside a raw SQLite group-commit loop in the same
//! run.
//!
//! `cargo bench -p perennial-store --bench journal` prints a table. `-- seconds=10` makes each run longer,
//! and `appenders=64` runs only that number of appenders. The raw loop shows what the machine can do with one
//! table and its unique index: no hash chain, no check of heads, no key, no projections, SQLite's own
//! checkpoints. Tokio tasks drive both over a bounded channel, and both fsync every group.

#![expect(clippy::print_stdout, reason = "a benchmark is there to print")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_engine::clock::Clock;
use perennial_engine::ids::{Position, Seq, StreamId};
use perennial_engine::journal::{Batch, Journal, StreamAppend};
use perennial_engine::queue::{Outgoing, Queue};
use perennial_store::verify::verify_events;
use perennial_store::{Durability, EmbeddedQueue, JournalReader, Options, QueueSettings, SqliteJournal};

use common::{Cpu, Numbers, argument, data, drive, raw, syncs};

fn main() {
    let seconds = argument("seconds", 3);
    let duration = Duration::from_secs(seconds);
    let (begun, start) = (Cpu::now(), Instant::now());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let sync = syncs(Duration::from_secs(1));
        println!(
            "fdatasync of 300 bytes: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            sync.rate, sync.p50_ms, sync.p99_ms
        );
        println!("durable appends of one 300-byte event, {seconds} s each, after 0.5 s of warming up");
        println!("| appenders | journal ev/s | p50 ms | p99 ms | raw loop ev/s | p50 ms | p99 ms | ratio |");
        println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
        let only = argument("appenders", 0);
        for appenders in [1, 8, 64, 256].into_iter().filter(|&n| only == 0 || n == only) {
            let ours = journal(appenders, duration).await;
            let raw = raw(appenders, duration).await;
            println!(
                "| {appenders} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | {:.2} |",
                ours.rate,
                ours.p50_ms,
                ours.p99_ms,
                raw.rate,
                raw.p50_ms,
                raw.p99_ms,
                ours.rate / raw.rate
            );
        }
        if only > 0 {
            return;
        }
        reading().await;
        queue(Durability::Hint).await;
        queue(Durability::Durable).await;
    });
    let (cpu, took) = (Cpu::since(begun), start.elapsed().as_secs_f64());
    println!(
        "\nprocessors used by this process {:.2}, by others {:.2}",
        cpu.ours / took,
        (cpu.all - cpu.ours) / took
    );
}

async fn journal(appenders: usize, duration: Duration) -> Numbers {
    let dir = tempfile::tempdir().unwrap();
    let journal = Arc::new(SqliteJournal::open(&dir.path().join("j.sqlite"), Options::default()).unwrap());
    drive(appenders, duration, move |appender, n| {
        let journal = Arc::clone(&journal);
        async move {
            let stream = StreamId::parse(&format!("bench/{appender}")).unwrap();
            let appends = vec![StreamAppend { stream, expected: Seq(n), events: vec![data(n)] }];
            journal.append(Batch { appends, recorded_at_ms: n, ..Batch::default() }).await.unwrap();
        }
    })
    .await
}

/// A stream of 100 000 events: read and folded by pages through the API, and verified from the file.
async fn reading() {
    const EVENTS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j.sqlite");
    let stream = StreamId::parse("bench/long").unwrap();
    {
        let journal = SqliteJournal::open(&path, Options::default()).unwrap();
        for head in (0..EVENTS).step_by(1_000) {
            let events = (head..head + 1_000).map(data).collect();
            let appends = vec![StreamAppend { stream: stream.clone(), expected: Seq(head), events }];
            journal.append(Batch { appends, ..Batch::default() }).await.unwrap();
        }
    }
    println!("\n{EVENTS} events of 300 bytes in one stream");
    println!("| what | ms | events/s |");
    println!("| --- | ---: | ---: |");
    let row = |what: &str, start: Instant| {
        let took = start.elapsed().as_secs_f64();
        println!("| {what} | {:.0} | {:.0} |", took * 1e3, EVENTS as f64 / took);
    };
    let reader = JournalReader::open(&path).unwrap();
    let (start, mut seq, mut bytes) = (Instant::now(), Seq::NONE, 0);
    loop {
        let page = reader.read_stream(&stream, seq, 1_000).await.unwrap();
        let Some(last) = page.last() else { break };
        seq = last.seq;
        bytes += page.iter().map(|event| event.data.body.len()).sum::<usize>();
    }
    assert_eq!((seq, bytes), (Seq(EVENTS), 300 * EVENTS as usize));
    row("read_stream, pages of 1000", start);
    let (start, mut position) = (Instant::now(), Position(0));
    while let Some(last) = reader.read_all(position, 1_000).await.unwrap().last() {
        position = last.position;
    }
    row("read_all, pages of 1000", start);
    let start = Instant::now();
    assert!(tokio::task::block_in_place(|| verify_events(&path)).unwrap().is_sound());
    row("verify: hashes, indexes, quick_check", start);
}

/// One message sent, received and deleted, one after the other, and with 64 at once.
async fn queue(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let settings = QueueSettings { durability, ..QueueSettings::default() };
    let queue = EmbeddedQueue::open(dir.path(), "q", settings, Clock::system()).unwrap();
    println!("\nqueue, {durability:?}: send + receive + delete of one message");
    println!("| in flight | messages/s | p50 ms | p99 ms |");
    println!("| ---: | ---: | ---: | ---: |");
    for tasks in [1, 64] {
        let queue = queue.clone();
        let numbers = drive(tasks, Duration::from_secs(2), move |_, n| {
            let queue = queue.clone();
            async move {
                queue.send(vec![Outgoing::now(format!("{{\"workflow\":\"w/{n}\"}}"))]).await.unwrap();
                let found = queue.receive(1, Duration::from_secs(1)).await.unwrap();
                let receipts: Vec<_> = found.into_iter().map(|delivery| delivery.receipt).collect();
                queue.delete(&receipts).await.unwrap();
            }
        })
        .await;
        println!("| {tasks} | {:.0} | {:.3} | {:.3} |", numbers.rate, numbers.p50_ms, numbers.p99_ms);
    }
}
