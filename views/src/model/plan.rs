//! Plans: what a workflow would do, without touching anything.

use perennial_workflows::aggregate::node::Node;
use perennial_workflows::machine::refusal::Refusal;
use perennial_workflows::spec::node::NodeSpec;
use perennial_workflows::view::plan::{Plan, imagined_resources, plan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer of `node plan -f`: both plans of a node file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpecPlans {
    /// The provision of the node.
    pub provision: Plan,
    /// A replacement of its instance after that.
    pub replace: Plan,
}

impl SpecPlans {
    /// Plans the provision of a node file, and a replacement after it.
    ///
    /// # Errors
    /// [`Refusal`], which is a bug: every node file that passed its checks can be planned.
    pub fn new(spec: &NodeSpec) -> Result<Self, Refusal> {
        let mut resources = imagined_resources(spec)?;
        // Which types fit is only known after a survey.
        resources.survey = None;
        let node =
            Node { spec: Some(spec.clone()), generation: 1, operations: 1, resources, ..Node::default() };
        Ok(Self { provision: plan(spec, None)?, replace: plan(spec, Some(&node))? })
    }
}
