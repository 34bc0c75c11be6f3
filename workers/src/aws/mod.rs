//! The adapters over the AWS SDK: [`Ec2`] behind the port `Cloud`, [`SqsQueue`] behind the port `Queue`.
//!
//! Nothing outside this module names the SDK. Region, credentials and endpoint follow AWS's own conventions
//! (`AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_EC2`, …), so any compatible endpoint
//! works.
//!
//! Three settings are ours and hold whatever the configuration says, because the port promises them:
//! - **No retries.** The SDK would repeat `InsufficientInstanceCapacity` (an HTTP 500) against the same pool,
//!   and the callers' budgets would not see it. Retries are the workers', in one place.
//! - **Every attempt is bounded** by [`CALL_MAX`] (a long poll by its wait and [`POLL_MARGIN`]).
//! - **No stalled-stream protection.** It guards long transfers; our answers are read whole, inside the bound
//!   above.

mod ec2;
mod ec2_market;
mod ec2_status;
mod ec2_types;
mod ec2_views;
mod settings;
mod sqs;

pub use ec2::Ec2;
pub use settings::{CALL_MAX, CONNECT_MAX, POLL_MARGIN, load_config};
pub use sqs::{EnsureQueue, SqsQueue, ensure_queue, sqs_client};
