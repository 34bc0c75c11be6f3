//! Emulators of EC2 and SQS that we did not write, as child processes of the tests.
//!
//! They are Python programs from the package index. The first use on a machine makes a virtual environment in
//! `<target>/emulators/<name>-<version>` (half a minute, needs `python3` and the index); later ones start in about a
//! second. Several test processes may do so at once: a file lock lets one install while the others wait, and a marker
//! written last says that an environment is whole.
//!
//! An emulator is a process group of its own that holds the read end of a pipe from us. It dies when the [`Emulator`]
//! is dropped, and also when the test process ends in any other way, because then the pipe closes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take: half a second on an idle machine, much more when it compiles at the same time.
const START_MAX: Duration = Duration::from_secs(90);

/// How long one question to a starting emulator may take.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// Between two questions.
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// How often a start is tried: a port that was free may be taken by the time the emulator binds it.
const STARTS_MAX: usize = 3;

/// How much of a log is shown when a start fails.
const TAIL_BYTES: usize = 4096;

const LAUNCHER: &str = include_str!("../emulators/launch.py");

/// Which emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The best independent EC2 (moto), with the quirks listed in the tests that meet them.
    Moto,
    /// The best independent SQS that the package index has (MiniStack).
    MiniStack,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Moto => "moto",
            Self::MiniStack => "ministack",
        }
    }

    /// What pip installs; the first line pins the emulator.
    const fn requirements(self) -> &'static str {
        match self {
            Self::Moto => include_str!("../emulators/moto.txt"),
            Self::MiniStack => include_str!("../emulators/ministack.txt"),
        }
    }

    fn version(self) -> &'static str {
        let pin = self.requirements().lines().next().unwrap_or_default();
        pin.rsplit("==").next().unwrap_or_default()
    }

    fn command(self, environment: &Path, port: u16, state: &Path) -> Command {
        let mut command = Command::new(environment.join("bin/python"));
        command.arg(environment.join("launch.py"));
        match self {
            Self::Moto => command.args(["moto_server", "-H", "127.0.0.1", "-p", &port.to_string()]),
            Self::MiniStack => command
                .arg("ministack")
                .env("BIND_HOST", "127.0.0.1")
                .env("GATEWAY_PORT", port.to_string())
                .env("STATE_DIR", state)
                .env("SFTP_ENABLED", "0"),
        };
        command
    }
}

/// Why there is no emulator.
#[derive(Debug)]
pub enum EmulatorError {
    /// There is no `python3` with `venv`.
    NoPython(String),
    /// The package index did not give the packages.
    Install(String),
    /// The emulator did not come up.
    Start(String),
    /// A file or process of ours.
    Io(io::Error),
}

impl std::fmt::Display for EmulatorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoPython(said) => write!(
                f,
                "the emulators need python3 (3.10 or newer) with venv and pip; on Debian: apt-get install python3 \
                 python3-venv. It said: {said}"
            ),
            Self::Install(said) => write!(f, "pip cannot install the emulator: {said}"),
            Self::Start(said) => write!(f, "the emulator does not start: {said}"),
            Self::Io(_) => f.write_str("the emulator's files cannot be used"),
        }
    }
}

impl std::error::Error for EmulatorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for EmulatorError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A running emulator; dropping it ends it.
#[derive(Debug)]
pub struct Emulator {
    child: Child,
    /// Never written. Its end is the emulator's end.
    lifeline: Option<ChildStdin>,
    address: SocketAddr,
    log: PathBuf,
}

impl Emulator {
    /// Installs the emulator unless that is done, starts it on a free port and waits until it answers.
    ///
    /// # Errors
    /// [`EmulatorError`], with what Python, pip or the emulator said.
    pub fn start(kind: Kind) -> Result<Self, EmulatorError> {
        let home = crate::target_directory().join("emulators");
        let environment = installed(kind, &home)?;
        let runs = home.join("runs");
        fs::create_dir_all(&runs)?;
        let mut tries = 1;
        loop {
            match Self::start_once(kind, &environment, &runs) {
                Err(EmulatorError::Start(_)) if tries < STARTS_MAX => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// Such as `http://127.0.0.1:40123`: what `AWS_ENDPOINT_URL` wants.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The end of what it printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    fn start_once(kind: Kind, environment: &Path, runs: &Path) -> Result<Self, EmulatorError> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let run = runs.join(format!("{}-{}-{port}", kind.name(), std::process::id()));
        fs::create_dir_all(&run)?;
        let log = run.join("log");
        let output = File::create(&log)?;
        let mut child = kind
            .command(environment, port, &run.join("state"))
            .current_dir(&run)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        let lifeline = child.stdin.take();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut emulator = Self { child, lifeline, address, log };
        emulator.wait_until_it_answers()?;
        Ok(emulator)
    }

    fn wait_until_it_answers(&mut self) -> Result<(), EmulatorError> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(EmulatorError::Start(format!("{status}\n{}", self.log_tail())));
            }
            // Asked after the child was seen alive and before it is looked at again: if somebody else has the port,
            // the child fails to bind it and the next look sees that.
            if answers(self.address) && self.child.try_wait()?.is_none() {
                return Ok(());
            }
            if started.elapsed() > START_MAX {
                let waited = START_MAX.as_secs();
                return Err(EmulatorError::Start(format!(
                    "no answer within {waited} s\n{}",
                    self.log_tail()
                )));
            }
            pause(PROBE_EVERY);
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.lifeline.take()); // the launcher ends the whole group
        let _ = self.child.kill(); // should the launcher itself hang
        let _ = self.child.wait();
        if !std::thread::panicking()
            && let Some(run) = self.log.parent()
        {
            let _ = fs::remove_dir_all(run);
        }
    }
}

/// A Python with what the emulator needs, boto3 among it for moto; installed on first use.
///
/// # Errors
/// [`EmulatorError`], with what Python or pip said.
pub fn python(kind: Kind) -> Result<PathBuf, EmulatorError> {
    Ok(installed(kind, &crate::target_directory().join("emulators"))?.join("bin/python"))
}

/// The environment of this emulator, made on first use.
fn installed(kind: Kind, home: &Path) -> Result<PathBuf, EmulatorError> {
    let name = format!("{}-{}", kind.name(), kind.version());
    let environment = home.join(&name);
    let marker = environment.join("complete");
    let wanted = format!("{}\n{LAUNCHER}", kind.requirements());
    fs::create_dir_all(home)?;
    let lock = File::create(home.join(format!("{name}.lock")))?;
    lock.lock()?; // given back when the file is dropped, also by a crash
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return Ok(environment);
    }
    if environment.exists() {
        fs::remove_dir_all(&environment)?;
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&environment);
    run(&mut venv).map_err(EmulatorError::NoPython)?;
    let requirements = environment.join("requirements.txt");
    fs::write(&requirements, kind.requirements())?;
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements);
    run(&mut pip).map_err(EmulatorError::Install)?;
    fs::write(environment.join("launch.py"), LAUNCHER)?;
    let partial = environment.join("complete.partial");
    fs::write(&partial, &wanted)?;
    fs::rename(&partial, &marker)?;
    Ok(environment)
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output() {
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Whether an HTTP server is there; what it says does not matter.
fn answers(address: SocketAddr) -> bool {
    let probe = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, PROBE_MAX)?;
        stream.set_read_timeout(Some(PROBE_MAX))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    probe().unwrap_or(false)
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let start = bytes.len().saturating_sub(TAIL_BYTES);
    format!("{} ends with:\n{}", log.display(), String::from_utf8_lossy(&bytes[start..]))
}

#[expect(clippy::disallowed_methods, reason = "another process binds its port without telling anybody")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
