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

/// An error and its causes in words, one after the other, without the Debug form that the SDK's own helper
/// adds. A cause that only repeats the clause before it is left out.
pub(super) fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let clause = error.to_string();
        if !clause.is_empty() && told.last().is_none_or(|last| !last.contains(&clause)) {
            told.push(clause);
        }
        next = error.source();
    }
    told.join(": ")
}

pub(super) fn bounded_by(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_MAX).operation_attempt_timeout(attempt).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{clause}")]
    struct Link {
        clause: &'static str,
        source: Option<Box<Link>>,
    }

    #[test]
    fn an_error_is_told_by_its_chain_of_clauses_and_not_in_debug_form() {
        let link = |clause, source: Option<Link>| Link { clause, source: source.map(Box::new) };
        let refused = link("Connection refused (os error 111)", None);
        let error = link(
            "dispatch failure",
            Some(link("io error", Some(link("io error", Some(link("tcp connect error", Some(refused))))))),
        );
        assert_eq!(
            in_words(&error),
            "dispatch failure: io error: tcp connect error: Connection refused (os error 111)"
        );
    }
}
