//! `perennial node plan`: what a replacement would do.

use perennial_workflows::node::Node;
use perennial_workflows::spec::{NodeName, NodeSpec};

use crate::failure::Failure;
use crate::output::Output;

/// Of a registered node.
pub(crate) fn of_node(_name: &NodeName, _node: &Node, _output: Output) -> Result<(), Failure> {
    Err(Failure::internal("plans are not in this build yet"))
}

/// Of a node file.
pub(crate) fn of_spec(_spec: &NodeSpec, _output: Output) -> Result<(), Failure> {
    Err(Failure::internal("plans are not in this build yet"))
}
