//! How tasks are told to stop.

use tokio::sync::watch;

/// Tells tasks to stop.
#[derive(Debug, Clone)]
pub struct Shutdown {
    receiver: watch::Receiver<bool>,
}

/// The other end of [`Shutdown`].
#[derive(Debug)]
pub struct ShutdownTrigger {
    sender: watch::Sender<bool>,
}

impl Shutdown {
    /// A pair.
    #[must_use]
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger { sender }, Self { receiver })
    }

    /// Whether the stop has been asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.receiver.borrow()
    }

    /// Returns when the stop is asked for, or the trigger is gone.
    pub async fn asked(&self) {
        let mut receiver = self.receiver.clone();
        let _ = receiver.wait_for(|asked| *asked).await;
    }
}

impl ShutdownTrigger {
    /// Asks for the stop.
    pub fn ask(&self) {
        self.sender.send_replace(true);
    }
}
