//! Perennial as a person runs it: the binary `perennial`, a configuration file, a data directory.
//!
//! The binary is the one that cargo has built into the profile's directory beside the running test. Cargo gives no
//! package the binary of another one, so it must be built before: `cargo test --workspace` does that. [`BINARY_VARIABLE`]
//! names another one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use perennial_engine::domain::Domain as _;
use perennial_engine::engine::load_stream;
use perennial_engine::ids::{Position, StreamId};
use perennial_engine::journal::{Journal as _, RecordedEvent};
use perennial_store::JournalReader;
use perennial_workflows::aggregate::inbox::{Disposition, InboxEvent};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::node_stream;
use serde_json::Value;
use tempfile::TempDir;

/// What builds everything that these tests need.
const BUILD: &str = "cargo build -p perennial";

/// Names another binary to test, such as an installed one.
pub const BINARY_VARIABLE: &str = "PERENNIAL_TEST_BINARY";

/// How long anything may take that a test waits for. A replacement takes 15 s on an idle machine, eighteen at once on a region with
/// quotas 30 s; a machine that compiles at the same time has made that more than three times as long.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at the journal or at a cloud.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How much of the server's log is shown when a test fails.
const TAIL_BYTES: usize = 8 * 1024;

/// How much of the journal is shown then.
const TAIL_EVENTS: usize = 16;

/// And of each operation that has not ended.
const OPEN_TAIL_EVENTS: usize = 6;
const TAIL_BODY_CHARACTERS: usize = 300;

/// How many events one read takes.
const PAGE: usize = 1_000;

/// A configuration and a data directory of their own, with or without a server.
#[derive(Debug)]
pub struct Installation {
    directory: TempDir,
    environment: Vec<(String, String)>,
    server: Option<Child>,
}

impl Installation {
    /// A new one, with this `perennial.toml`; every process of it gets exactly this environment.
    ///
    /// # Panics
    /// When the binary is missing or the directory cannot be made.
    #[must_use]
    pub fn new(config: &str, environment: Vec<(String, String)>) -> Self {
        let binary = binary();
        assert!(binary.is_file(), "{} is missing; build it first: {BUILD}", binary.display());
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        let new = Self { directory, environment, server: None };
        new.write("perennial.toml", config);
        new
    }

    /// Writes a file into its directory.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Starts `perennial serve` and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready, with what it said.
    pub async fn start(&mut self) {
        assert!(self.server.is_none(), "a server runs already");
        let log = File::options().create(true).append(true).open(self.log()).expect("the log can be written");
        let ready = self.directory.path().join("ready");
        let output = File::create(&ready).expect("the directory can be written");
        // With the end of this thread the server gets a SIGKILL: none outlives its test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary()).arg("serve");
        self.surround(&mut command);
        let child = command.stdin(Stdio::null()).stdout(output).stderr(log).spawn();
        self.server = Some(child.unwrap_or_else(|error| panic!("setpriv (util-linux): {error}")));
        self.until("serve is ready", async |this| {
            if let Some(status) = this.server.as_mut().and_then(|server| server.try_wait().ok()).flatten() {
                panic!("serve has ended: {status}\n{}\n(a build without aws? {BUILD})", this.log_tail());
            }
            fs::read_to_string(&ready).is_ok_and(|said| said.starts_with("ready:")).then_some(())
        })
        .await;
    }

    /// `kill -9`, between two instructions.
    ///
    /// # Panics
    /// When no server runs.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("a server runs");
        server.kill().expect("our own child can be killed");
        let status = server.wait().expect("our own child can be waited for");
        assert_eq!(status.code(), None, "it had ended by itself: {status}\n{}", self.log_tail());
    }

    /// Runs a command of the CLI to its end.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).stdin(Stdio::null());
        self.surround(&mut command);
        let ended = tokio::task::spawn_blocking(move || command.output()).await;
        ended.expect("the thread has not panicked").unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Runs a command that must succeed, and reads its JSON.
    ///
    /// # Panics
    /// When it fails or prints no JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[&["--output", "json"], arguments].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}\n{complaint}\n{}", self.log_tail());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}"))
    }

    /// Everything in the journal so far.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn events(&self) -> Vec<RecordedEvent> {
        // A server that is just starting makes it.
        let Ok(journal) = JournalReader::open(&self.journal()) else { return Vec::new() };
        let mut all: Vec<RecordedEvent> = Vec::new();
        loop {
            let after = all.last().map_or(Position(0), |event| event.position);
            let page = journal.read_all(after, PAGE).await.expect("the journal can be read");
            let full = page.len() == PAGE;
            all.extend(page);
            if !full {
                return all;
            }
        }
    }

    /// The events of one stream, read.
    ///
    /// # Panics
    /// When one of them cannot be read.
    pub async fn stream(&self, stream: &str) -> Vec<Event> {
        let decode = |event: &RecordedEvent| Perennial::decode(&event.data).expect("it is an event");
        self.events().await.iter().filter(|event| event.stream.as_str() == stream).map(decode).collect()
    }

    /// What became of the inbox entries of a queue, in order.
    pub async fn dispositions(&self, queue: &str) -> Vec<Disposition> {
        let prefix = format!("inbox/{queue}/");
        let mut dispositions = Vec::new();
        for event in self.events().await.iter().filter(|event| event.stream.as_str().starts_with(&prefix)) {
            if let Ok(Event::Inbox(InboxEvent::Answered { disposition })) = Perennial::decode(&event.data) {
                dispositions.push(disposition);
            }
        }
        dispositions
    }

    /// A node now.
    ///
    /// # Panics
    /// When its stream cannot be folded.
    pub async fn node(&self, name: &str) -> Node {
        let Ok(journal) = JournalReader::open(&self.journal()) else { return Node::default() };
        let stream: StreamId = node_stream(&NodeName::parse(name).expect("a good name"));
        match load_stream::<Perennial>(&journal, &stream).await.expect("the stream can be folded").0 {
            State::Node(node) => node,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a look shows something, at most [`PATIENCE`].
    ///
    /// # Panics
    /// When it never does, with the end of the server's log.
    pub async fn until<T>(&mut self, what: &str, look: impl AsyncFnMut(&mut Self) -> Option<T>) -> T {
        self.within(PATIENCE, what, look).await
    }

    /// Waits until a look shows something, at most so long.
    ///
    /// # Panics
    /// When it never does, with the end of the server's log.
    pub async fn within<T>(
        &mut self,
        time: Duration,
        what: &str,
        mut look: impl AsyncFnMut(&mut Self) -> Option<T>,
    ) -> T {
        let started = Instant::now();
        loop {
            if let Some(seen) = look(self).await {
                return seen;
            }
            if started.elapsed() >= time {
                panic!("{what}: not within {time:?}\n{}\n{}", self.journal_tail().await, self.log_tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a node has had so many operations and none is open.
    ///
    /// # Panics
    /// When it never is so, with the end of the server's log.
    pub async fn at_rest(&mut self, name: &str, operations: u64) -> Node {
        self.until(&format!("{name} at rest after operation {operations}"), async |this| {
            let node = this.node(name).await;
            (node.operations >= operations && node.open.is_none()).then_some(node)
        })
        .await
    }

    /// The end of what the servers printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        let start = bytes.len().saturating_sub(TAIL_BYTES);
        format!("serve's log ends with:\n{}", String::from_utf8_lossy(&bytes[start..]))
    }

    /// The newest events, and the newest of each operation that has not ended.
    async fn journal_tail(&self) -> String {
        let events = self.events().await;
        let mut text = "the journal ends with:".to_owned();
        for event in &events[events.len().saturating_sub(TAIL_EVENTS)..] {
            text.push_str(&line(event));
        }
        let mut open: BTreeMap<&str, Vec<&RecordedEvent>> = BTreeMap::new();
        for event in events.iter().filter(|event| event.stream.as_str().starts_with("workflow/")) {
            open.entry(event.stream.as_str()).or_default().push(event);
        }
        open.retain(|_, events| events.last().is_some_and(|event| event.data.kind != "operation.finished"));
        for (stream, events) in open {
            text.push_str(&format!("\n{stream} has not ended:"));
            for event in &events[events.len().saturating_sub(OPEN_TAIL_EVENTS)..] {
                text.push_str(&line(event));
            }
        }
        text
    }

    fn surround(&self, command: &mut Command) {
        command.current_dir(self.directory.path()).env_clear();
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("serve.log")
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join(".perennial/journal.sqlite")
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The binary that [`BINARY_VARIABLE`] names, or else the one that cargo puts into the directory above the running test's.
pub(crate) fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        return PathBuf::from(named);
    }
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("which test is this? {error}"));
    let profile = test.parent().and_then(Path::parent);
    profile.unwrap_or_else(|| panic!("{} is in no directory of cargo's", test.display())).join("perennial")
}

/// An event, for somebody who looks for what went wrong.
fn line(event: &RecordedEvent) -> String {
    let body: String = event.data.body.chars().take(TAIL_BODY_CHARACTERS).collect();
    format!("\n{} {} {} {body}", event.recorded_at_ms, event.stream, event.data.kind)
}
