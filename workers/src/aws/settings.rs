//! The settings that both kinds of client get.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

/// The most one call may take, from resolving credentials to the last byte of the answer.
///
/// EC2's slow calls (RunInstances, a page of a thousand instances) take a few seconds; the 20 s leave room
/// for a bad day. An interruption notice gives 120 s, so a call whose answer is lost can still be repeated
/// several times.
pub const CALL_MAX: Duration = Duration::from_secs(20);

/// The most that connecting may take; a peer that does not answer this fast is not there.
pub const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What a long poll may take beyond its wait: connecting and an answer of ten large messages.
pub const POLL_MARGIN: Duration = Duration::from_secs(10);

/// Reads region, credentials and endpoint by AWS's conventions. Makes no call to EC2 or SQS.
pub async fn load_config() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest()).load().await
}

/// Both kinds of client get exactly these: see the documentation of the parent module.
pub(super) fn no_retries() -> RetryConfig {
    RetryConfig::disabled()
}

pub(super) fn no_stall_guard() -> StalledStreamProtectionConfig {
    StalledStreamProtectionConfig::disabled()
}

pub(super) fn bounded_by(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_MAX).operation_attempt_timeout(attempt).build()
}
