//! Plans for people.

use perennial_views::model::plan::SpecPlans;
use perennial_workflows::model::operation_id::OperationKind;
use perennial_workflows::view::plan::Plan;

use crate::output::history;
use crate::output::words::{length, wrapped};

/// Both plans of a node file.
pub(crate) fn of_spec(plans: &SpecPlans) -> String {
    format!("{}\n\n{}", of_node(&plans.provision), of_node(&plans.replace))
}

/// One plan.
pub(crate) fn of_node(plan: &Plan) -> String {
    let mut lines = vec![format!("{} would take about {}", capital(plan.kind), length(plan.total_ms))];
    lines.extend(plan.order.as_ref().map(|order| format!("  order     {order}")));
    if let Some(outage) = &plan.story.outage {
        let to = outage.to.as_deref().unwrap_or("the end");
        let what = format!("about {}, from {} to {to}", length(outage.length_ms(plan.total_ms)), outage.from);
        lines.push(wrapped("  outage   ", &what, 12));
    }
    let pools: Vec<String> = plan.pools.iter().map(ToString::to_string).collect();
    let pools = if pools.is_empty() { "found at run time".to_owned() } else { pools.join(", then ") };
    lines.push(wrapped("  capacity ", &pools, 12));
    lines.push(String::new());
    lines.push(history::steps(&plan.story));
    lines.push(String::new());
    lines.extend(plan.notes.iter().map(|note| wrapped("  note:", note, 8)));
    lines.join("\n")
}

fn capital(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Provision => "The provision",
        OperationKind::Replace => "A replacement",
        OperationKind::Delete => "The deletion",
        OperationKind::Grow => "The growth",
        OperationKind::Pause => "The pause",
        OperationKind::Resume => "Coming back",
        OperationKind::AdoptVolumes => "Taking volumes",
        OperationKind::Prune => "The prune",
    }
}
