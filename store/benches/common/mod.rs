//! What both benchmarks share: percentiles, and what the machine can do by itself in the same run.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::{Duration, Instant};

use perennial_engine::journal::EventData;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// A rate and its latencies.
pub struct Numbers {
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// The numbers of so many calls that took so long each and `took` together.
pub fn numbers(mut latencies: Vec<Duration>, took: Duration) -> Numbers {
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    };
    Numbers { rate: latencies.len() as f64 / took.as_secs_f64(), p50_ms: at(0.5), p99_ms: at(0.99) }
}

/// Processor time in seconds: of this process, and of the whole machine (Linux counts hundredths).
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    pub ours: f64,
    pub all: f64,
}

impl Cpu {
    /// Used since the start of the process and of the machine; zero where there is no `/proc`.
    pub fn now() -> Self {
        let own = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Behind the name, which may hold spaces: user and system time are the 12th and 13th fields.
        let own = own.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let all = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        // user, nice, system, (idle, iowait,) irq, softirq
        let fields = all.lines().next().unwrap_or_default().split_whitespace().skip(1).enumerate();
        let busy = fields.filter(|(n, _)| [0, 1, 2, 5, 6].contains(n)).map(|(_, field)| field);
        let sum = |fields: &mut dyn Iterator<Item = &str>| {
            fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>()
        };
        Self { ours: sum(&mut own.into_iter()) / 100.0, all: sum(&mut busy.into_iter()) / 100.0 }
    }

    /// What was used since then.
    pub fn since(then: Self) -> Self {
        let now = Self::now();
        Self { ours: now.ours - then.ours, all: now.all - then.all }
    }
}

/// The `name=` argument of the command line.
pub fn argument<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::args()
        .find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        .unwrap_or(default)
}

/// An event whose body is 300 bytes and incompressible enough.
pub fn data(n: u64) -> EventData {
    let noise = blake3::hash(&n.to_le_bytes()).to_hex();
    let mut body = format!("{{\"n\":{n},\"text\":\"{}", [noise.as_str(); 5].concat());
    body.truncate(298);
    body.push_str("\"}");
    EventData { kind: "bench.happened".into(), version: 1, body }
}

/// Runs `append` in a loop in so many tasks; counts what was acknowledged after the warm-up.
pub async fn drive<F, Fut>(appenders: usize, duration: Duration, append: F) -> Numbers
where
    F: Fn(usize, u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let warm = Instant::now() + Duration::from_millis(500);
    let end = warm + duration;
    let mut tasks = JoinSet::new();
    for appender in 0..appenders {
        let append = append.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(1 << 16);
            for n in 0.. {
                let start = Instant::now();
                if start >= end {
                    break;
                }
                append(appender, n).await;
                if start >= warm {
                    latencies.push(start.elapsed());
                }
            }
            latencies
        });
    }
    let latencies: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    numbers(latencies, duration)
}

struct RawRow {
    stream: String,
    seq: i64,
    data: EventData,
    ack: oneshot::Sender<()>,
}

/// A group-commit loop and nothing else: one table and its unique index, no hash chain, no check of heads, no
/// key, no projections, SQLite's own checkpoints. Every group is fsynced.
pub async fn raw(appenders: usize, duration: Duration) -> Numbers {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open(dir.path().join("raw.sqlite")).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE events (position INTEGER PRIMARY KEY, stream TEXT, seq INTEGER, kind TEXT, version INTEGER,
           body TEXT) STRICT;
         CREATE UNIQUE INDEX by_stream ON events (stream, seq);",
    )
    .unwrap();
    let (sender, mut receiver) = mpsc::channel::<RawRow>(1_024);
    let writer = std::thread::spawn(move || {
        let mut insert = conn
            .prepare("INSERT INTO events (stream, seq, kind, version, body) VALUES (?1, ?2, ?3, ?4, ?5)")
            .unwrap();
        let mut group = Vec::new();
        while receiver.blocking_recv_many(&mut group, 256) > 0 {
            conn.execute_batch("BEGIN IMMEDIATE").unwrap();
            for row in &group {
                let data = &row.data;
                insert.execute(params![row.stream, row.seq, data.kind, data.version, data.body]).unwrap();
            }
            conn.execute_batch("COMMIT").unwrap();
            for row in group.drain(..) {
                let _ = row.ack.send(());
            }
        }
    });
    let numbers = drive(appenders, duration, move |appender, n| {
        let sender = sender.clone();
        async move {
            let (ack, acked) = oneshot::channel();
            let row = RawRow { stream: format!("bench/{appender}"), seq: n as i64 + 1, data: data(n), ack };
            sender.send(row).await.unwrap_or_else(|_| panic!("the writer is gone"));
            acked.await.unwrap();
        }
    })
    .await;
    writer.join().unwrap();
    numbers
}

/// fdatasyncs of 300 bytes written over a preallocated file, one after the other.
pub fn syncs(duration: Duration) -> Numbers {
    const FILE_BYTES: u64 = 8 * 1024 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sync");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
    file.write_all(&vec![1; FILE_BYTES as usize]).unwrap();
    file.sync_all().unwrap();
    let (begin, mut at, mut latencies) = (Instant::now(), 0, Vec::new());
    while begin.elapsed() < duration {
        let start = Instant::now();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[7; 300]).unwrap();
        file.sync_data().unwrap();
        latencies.push(start.elapsed());
        at = (at + 300) % (FILE_BYTES - 300);
    }
    numbers(latencies, begin.elapsed())
}
