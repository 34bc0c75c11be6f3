//! Why an operation refuses a command.

use crate::model::operation_id::OperationId;
use crate::model::volume::Slot;
use perennial_engine::ids::Token;
use perennial_engine::machine::Fault;

/// Why an operation refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is not that of an open step: the report is late or doubled.
    #[error("step {token} of {operation} is not open; this report is late or doubled")]
    Fenced {
        /// The operation.
        operation: OperationId,
        /// The token it quoted.
        token: Token,
    },
    /// Only a stuck operation can be resumed.
    #[error(
        "workflow {operation} is not stuck; it goes on by itself, and uses a corrected file (`perennial node apply -f FILE`) at once"
    )]
    NotStuck {
        /// The operation.
        operation: OperationId,
    },
    /// After the point of no return there is only forward.
    #[error(
        "workflow {operation} cannot be cancelled any more, it goes only forward: {because}. If it waits or is stuck, a corrected file (`perennial node apply -f FILE`) makes it go on; `perennial node pause {node}` frees what the node holds, and `perennial node resume {node}` begins anew", node = operation.node()
    )]
    OnlyForward {
        /// The operation.
        operation: OperationId,
        /// Why.
        because: String,
    },
    /// It is being undone already.
    #[error("workflow {operation} is being cancelled already")]
    AlreadyCancelled {
        /// The operation.
        operation: OperationId,
    },
    /// Only an operation that brings the node onto an instance can end without one.
    #[error("workflow {operation} does not bring the node onto an instance; wait for it")]
    NotDiverted {
        /// The operation.
        operation: OperationId,
    },
    /// A loss can be accepted only of what was seen to be lost.
    #[error("volume {slot} was not seen to be lost in {operation}; only what is lost can be given up")]
    NotLost {
        /// The operation.
        operation: OperationId,
        /// The volume.
        slot: Slot,
    },
    /// The operation's own rules refuse what they made: a bug, kept from the journal.
    #[error("BUG: workflow {operation} cannot follow its own decision: {why}")]
    Inconsistent {
        /// The operation.
        operation: OperationId,
        /// What.
        why: String,
    },
}

impl From<Fault<OperationId>> for Refusal {
    fn from(fault: Fault<OperationId>) -> Self {
        match fault {
            Fault::Fenced { id, token, .. } => Self::Fenced { operation: id, token },
            Fault::Inconsistent { id, why, .. } => Self::Inconsistent { operation: id, why },
        }
    }
}
