//! The present: the moment, as the journal counts it, and whether a server runs.

use perennial_engine::clock::Clock;
use perennial_views::model::server::ServerState;
use perennial_views::query::Subject;
use perennial_views::{QueryError, Views};

use crate::commands::files::nearest;
use crate::failure::Failure;
use crate::installation::config::{CloudKind, Config};
use crate::installation::journal_file::{self, Holder};
use crate::installation::{Installation, status_file};
use crate::output::{Output, words};

/// In milliseconds since the Unix epoch: the machine's time, and in a rehearsal the region's, by which its
/// engine goes. Where the region does not answer, the machine's has to do.
pub(crate) async fn now_ms(installation: &Installation) -> u64 {
    #[cfg(all(feature = "aws", feature = "region"))]
    if installation.config.cloud == CloudKind::Region
        && let Ok(clock) = super::region::client::clock().await
    {
        return clock.now_ms();
    }
    let now_ms = Clock::system().now_ms();
    if installation.config.cloud == CloudKind::Sim {
        return simulated_ms(&installation.config, now_ms).unwrap_or(now_ms);
    }
    now_ms
}

/// The time of a region inside a server, whose clock may run faster: as the server last wrote it down, and
/// what has passed since then while it runs.
fn simulated_ms(config: &Config, now_ms: u64) -> Option<u64> {
    let status = status_file::read(&config.data_dir)?;
    let runs = matches!(journal_file::holder(&config.journal_path()), Holder::Server(_));
    let passed_ms = if runs { now_ms.saturating_sub(status.written_at_ms) } else { 0 };
    Some(status.now_ms + (passed_ms as f64 * config.sim_speed) as u64)
}

/// Whether a server runs on the journal; `None` where the file system does not say.
pub(crate) async fn server(installation: &Installation, views: &Views) -> Option<ServerState> {
    let (running, process) = match journal_file::holder(&installation.config.journal_path()) {
        Holder::Server(process) => (true, Some(process)),
        Holder::Nobody => (false, None),
        Holder::Unknown(_) => return None,
    };
    let last_event_ms = views.last_event_ms().await.ok().flatten();
    Some(ServerState { running, process, last_event_ms })
}

/// The failure of a question; of a node that there is not, with the name that was probably meant.
pub(crate) async fn failure(views: &Views, error: QueryError) -> Failure {
    let QueryError::Missing { subject: Subject::Node, name } = &error else { return error.into() };
    let names: Vec<String> = match views.nodes(0).await {
        Ok(lines) => lines.into_iter().map(|line| line.name).collect(),
        Err(_) => Vec::new(),
    };
    let near = nearest(name, names.iter().map(String::as_str)).map(|near| format!("did you mean {near}?"));
    let failure = Failure::from(error);
    match near {
        Some(near) => failure.hint(near),
        None => failure,
    }
}

/// What the journal answers, after a line that says so if no server runs on it: then nothing in the answer
/// moves.
pub(crate) async fn views(installation: &Installation, output: Output) -> Result<Views, Failure> {
    let views = installation.views()?;
    if let Some(server) = server(installation, &views).await.filter(|server| !server.running) {
        let now_ms = now_ms(installation).await;
        let last = server.last_event_ms.map(|last_ms| words::lasting(now_ms.saturating_sub(last_ms)));
        let last = last.map_or_else(String::new, |ago| format!(" (last event {ago} ago)"));
        output.say(&format!("! no server runs on this journal{last}: nothing below moves"));
    }
    Ok(views)
}
