//! The JSON Schemas of what the reading commands print.
//!
//! | name | printed by |
//! | --- | --- |
//! | `views/node-list` | `node list` |
//! | `views/node-show` | `node show` |
//! | `views/node-history` | `node history` |
//! | `views/node-backups` | `node backups` |
//! | `views/node-plan` | `node plan NODE` |
//! | `views/node-file-plan` | `node plan -f FILE` |
//! | `views/node-diff` | `node diff`, `node apply --dry-run` |
//! | `views/node-prune` | `node prune --dry-run` |
//! | `views/workflow-list` | `workflow list` |
//! | `views/workflow-show` | `workflow show` |
//! | `views/workflow-watch` | `workflow watch`, one line for each event |
//! | `views/pool-list` | `pool list` |
//! | `views/pool-show` | `pool show` |
//! | `views/submission` | every command that submits something |
//! | `views/journal-head` | `journal head` |
//! | `views/doctor` | `doctor` |
//! | `views/status` | `status` |
//! | `views/audit` | `audit` |
//! | `views/submission-list` | `submission list`; `submission show` prints one of its elements |
//! | `views/server-status` | `serve`, to `status.json` in its data directory |
//!
//! A schema requires every field that is always printed. A program should ignore fields that it does not
//! know: a later version may add some.

use perennial_workflows::view::history::NodeHistory;
use perennial_workflows::view::plan::Plan;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::json;

use crate::model::address_pool::{AddressPoolLine, AddressPoolView};
use crate::model::audit::{Audit, AuditLine};
use crate::model::backups::BackupsView;
use crate::model::diff::SpecDiff;
use crate::model::doctor::DoctorReport;
use crate::model::journal::{EventLine, JournalHead};
use crate::model::node::{NodeLine, NodeView};
use crate::model::plan::SpecPlans;
use crate::model::prune::PrunePreview;
use crate::model::server::ServerStatus;
use crate::model::status::StatusView;
use crate::model::submission::SubmissionView;
use crate::model::workflow::{WorkflowLine, WorkflowView};

/// Every schema with its name.
#[must_use]
pub fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("views/node-list", schema::<Vec<NodeLine>>("Perennial node list")),
        ("views/node-show", schema::<NodeView>("Perennial node")),
        ("views/node-history", schema::<NodeHistory>("Perennial node history")),
        ("views/node-backups", schema::<BackupsView>("Perennial backups of a node")),
        ("views/node-plan", schema::<Plan>("Perennial plan of a node")),
        ("views/node-file-plan", schema::<SpecPlans>("Perennial plans of a node file")),
        ("views/node-diff", schema::<Vec<SpecDiff>>("Perennial difference of node files")),
        ("views/node-prune", schema::<PrunePreview>("Perennial preview of a prune")),
        ("views/workflow-list", schema::<Vec<WorkflowLine>>("Perennial workflow list")),
        ("views/workflow-show", schema::<WorkflowView>("Perennial workflow")),
        ("views/workflow-watch", schema::<EventLine>("Perennial event of a watched workflow")),
        ("views/pool-list", schema::<Vec<AddressPoolLine>>("Perennial address pool list")),
        ("views/pool-show", schema::<AddressPoolView>("Perennial address pool")),
        ("views/submission", schema::<SubmissionView>("Perennial outcome of a submission")),
        ("views/journal-head", schema::<JournalHead>("Perennial end of a journal")),
        ("views/doctor", schema::<DoctorReport>("Perennial doctor's report")),
        ("views/status", schema::<StatusView>("Perennial status of everything")),
        ("views/audit", schema::<Audit>("Perennial audit")),
        ("views/submission-list", schema::<Vec<AuditLine>>("Perennial submissions")),
        ("views/server-status", schema::<ServerStatus>("Perennial status of a server")),
    ]
}

/// The schema of what a type is serialised to.
fn schema<T: JsonSchema>(title: &str) -> Schema {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    schema.insert("title".to_owned(), json!(title));
    schema
}
