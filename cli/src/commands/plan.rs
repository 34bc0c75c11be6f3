//! `perennial node plan`: what a replacement would do, without touching anything.

use perennial_workflows::node::{Node, OperationKind};
use perennial_workflows::operation::Refusal;
use perennial_workflows::plan::{Assumption, Plan, Presence, plan, plan_assuming};
use perennial_workflows::spec::NodeSpec;
use serde::Serialize;

use crate::commands::history;
use crate::failure::{Failure, chain};
use crate::output::Output;
use crate::output::words::{length, wrapped};

/// Plans the next operation of a registered node.
pub(crate) fn of_node(node: &Node, assumption: Assumption, output: Output) -> Result<(), Failure> {
    let Some(spec) = &node.spec else { return Err(Failure::internal("BUG: a node without a spec")) };
    if assumption.capacity_here == Presence::Missing && spec.capacity.other_subnets.is_empty() {
        return Err(Failure::user(format!("{} waits for capacity where it is", spec.name))
            .hint("`capacity.other_subnets` in the node file names subnets it may move to"));
    }
    let plan = plan_assuming(spec, Some(node), assumption).map_err(bug)?;
    output.show(&plan, || text(&plan))
}

/// Both plans of a node file.
#[derive(Serialize)]
struct Plans {
    provision: Plan,
    replace: Plan,
}

/// Plans the provision of a node file, and a replacement after it.
pub(crate) fn of_spec(spec: &NodeSpec, output: Output) -> Result<(), Failure> {
    let mut resources = perennial_workflows::plan::imagined_resources(spec).map_err(bug)?;
    // Which types fit is only known when somebody has looked.
    resources.survey = None;
    let node = Node { spec: Some(spec.clone()), generation: 1, operations: 1, resources, ..Node::default() };
    let plans =
        Plans { provision: plan(spec, None).map_err(bug)?, replace: plan(spec, Some(&node)).map_err(bug)? };
    output.show(&plans, || format!("{}\n\n{}", text(&plans.provision), text(&plans.replace)))
}

fn bug(refusal: Refusal) -> Failure {
    Failure::internal(chain(&refusal))
}

fn text(plan: &Plan) -> String {
    let mut lines = vec![format!("{} would take about {}", capital(plan.kind), length(plan.total_ms))];
    lines.extend(plan.order.as_ref().map(|order| format!("  order     {order}")));
    if let Some(outage) = &plan.story.outage {
        let what = format!("about {}, from {} to {}", length(outage.length_ms()), outage.from, outage.to);
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
        OperationKind::Take => "Taking volumes",
        OperationKind::Prune => "The prune",
    }
}
