//! The state of everything, in a few lines.

use perennial_views::model::node::Condition;
use perennial_views::model::status::StatusView;

use crate::output::{node, words};

/// The counts, the server, and a line for each node in trouble.
pub(crate) fn text(view: &StatusView, now_ms: u64) -> String {
    let server = match &view.server {
        Some(server) if server.running => "server: running".to_owned(),
        Some(server) => {
            let last = server.last_event_ms.map(|last_ms| words::lasting(now_ms.saturating_sub(last_ms)));
            let last = last.map_or_else(String::new, |ago| format!(", last event {ago} ago"));
            format!("server: NOT RUNNING{last}")
        }
        None => "server: unknown".to_owned(),
    };
    let counts: Vec<String> = Condition::ALL
        .into_iter()
        .filter_map(|condition| node::counted(condition, view.count(condition)))
        .collect();
    let counts = if counts.is_empty() { "no nodes".to_owned() } else { counts.join(" · ") };
    let mut lines = vec![format!("{counts} · {server}")];
    if !view.trouble.is_empty() {
        lines.push(String::new());
        lines.push(node::rows(&view.trouble.iter().collect::<Vec<_>>(), node::Columns::Fitting, now_ms));
        lines.push(String::new());
        lines.push("`perennial node show NODE` says what each waits for, and what to do".to_owned());
    }
    lines.join("\n")
}
