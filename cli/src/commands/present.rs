//! The present moment, as the journal counts it.

use perennial_engine::clock::Clock;

use crate::installation::Installation;

/// In milliseconds since the Unix epoch: the machine's time, and in a rehearsal the region's, by which its
/// engine goes. Where the region does not answer, the machine's has to do.
pub(crate) async fn now_ms(installation: &Installation) -> u64 {
    #[cfg(all(feature = "aws", feature = "region"))]
    if installation.config.cloud == crate::installation::config::CloudKind::Region
        && let Ok(clock) = super::region::client::clock().await
    {
        return clock.now_ms();
    }
    #[cfg(not(all(feature = "aws", feature = "region")))]
    let _ = installation;
    Clock::system().now_ms()
}
