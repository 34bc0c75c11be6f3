//! A region that listens and serves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::http;
use super::options::{Options, StartError};
use super::region::Region;

/// A region that listens, and serves when it is told to.
pub struct RegionServer {
    listener: TcpListener,
    address: SocketAddr,
    region: Arc<Region>,
    directory: Option<PathBuf>,
}

impl std::fmt::Debug for RegionServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegionServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl RegionServer {
    /// Makes the region, with its state if there is some, and listens.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn bind(options: Options) -> Result<Self, StartError> {
        let address = options.listen;
        let listen_error = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(options.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let directory = options.state.clone();
        // A long log is long to make again.
        let opened = tokio::task::spawn_blocking(move || Region::open(&options)).await;
        let region = opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let region = Arc::new(region);
        Ok(Self { listener, address, region, directory })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint for clients, such as `http://127.0.0.1:4566`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until `stop` is over. Connections that are open then are dropped.
    ///
    /// # Errors
    /// [`StartError::State`] when the state can no longer be written. Nothing is answered from then on.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        let pump = Arc::clone(&self.region);
        let state = Arc::clone(&self.region);
        tokio::select! {
            () = http::serve(self.listener, self.address, self.region) => Ok(()),
            () = pump.run() => Ok(()),
            why = state.breaks() => Err(StartError::State { directory: self.directory.unwrap_or_default(), why }),
            () = stop => Ok(()),
        }
    }
}

/// Runs a region until `stop` is over; calls `ready` with its endpoint as soon as it listens.
///
/// # Errors
/// [`StartError`].
pub async fn run(
    options: Options,
    ready: impl FnOnce(&str),
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let server = RegionServer::bind(options).await?;
    ready(&server.endpoint());
    server.serve(stop).await
}
