//! Address pools.

use perennial_engine::journal::Which;
use perennial_workflows::aggregate::address_pool::{AddressPoolSummary, address_pool_stream};
use perennial_workflows::domain::states::State;
use perennial_workflows::model::name::NodeName;

use crate::model::address_pool::{AddressPoolLine, AddressPoolView};
use crate::query::{QueryError, Subject, Views};

impl Views {
    /// Every address pool, in order of name.
    ///
    /// # Errors
    /// [`QueryError::Read`] and [`QueryError::Summary`].
    pub async fn address_pools(&self) -> Result<Vec<AddressPoolLine>, QueryError> {
        let rows = self.summaries::<AddressPoolSummary>("address_pool", Which::All).await?;
        Ok(rows.into_iter().map(|(name, summary)| AddressPoolLine::new(&name, summary)).collect())
    }

    /// One address pool.
    ///
    /// # Errors
    /// [`QueryError::Missing`], [`QueryError::Read`] and [`QueryError::Corrupt`].
    pub async fn address_pool(&self, name: &NodeName) -> Result<AddressPoolView, QueryError> {
        let view = match self.state(&address_pool_stream(name)).await? {
            State::AddressPool(pool) => AddressPoolView::new(name, &pool),
            _ => None,
        };
        view.ok_or_else(|| QueryError::Missing { subject: Subject::AddressPool, name: name.to_string() })
    }
}
